//! Does `neap bench load` measure what it says? The real sentinel and sockets, with few events.
//!
//! No speed is judged here: the machine of a test is never quiet.

#[path = "support/benches.rs"]
mod benches;

use benches::{json, run};

#[test]
fn few_events_give_every_figure_of_every_source_in_the_promised_form() {
    let (code, stdout, stderr) = run("load", &["--events", "20", "--parse-ms", "20", "--json"]);
    assert_eq!(code, Some(0), "{stdout}{stderr}");
    let json = json(&stdout, &stderr);
    let ways = json["ways"].as_object().expect("ways by name");
    let mut names: Vec<&str> = ways.keys().map(String::as_str).collect();
    names.sort_unstable();
    assert_eq!(names, ["ocudu", "push-udp", "push-unix", "shm"]);
    for (name, way) in ways {
        assert_eq!((&way["events"], &way["bare_reads"]), (&20.into(), &20.into()), "{name}: {json}");
        let figure =
            |of: &str, key: &str| way[of][key].as_f64().unwrap_or_else(|| panic!("{name}: {of}.{key}: {json}"));
        for of in ["bare", "decision"] {
            assert!(figure(of, "p50_us") > 0.0 && figure(of, "p50_us") <= figure(of, "p99_us"), "{name}: {json}");
            assert!(figure(of, "p99_us") <= figure(of, "p999_us"), "{name}: {json}");
        }
        for key in ["p50_us", "p99_us", "p999_us"] {
            let difference = figure("decision", key) - figure("bare", key);
            assert!((figure("added", key) - difference).abs() < 0.1, "{name}: {key} in {json}");
        }
        assert!(way["reached"].is_boolean(), "{name}: {json}");
    }
    let parser = &json["parser"];
    assert!(parser["mb_per_s"].as_f64().is_some_and(|rate| rate > 0.0), "{json}");
    assert!(parser["samples_per_s"].as_f64().is_some_and(|rate| rate > 0.0), "{json}");
    assert_eq!(parser["allocated_bytes"], 0, "a sample costs no allocation: {json}");
    assert!(json["yield_class"].is_string() && json["memory_locked"].is_boolean(), "{json}");
    assert!(stderr.contains("neap bench: 0 %"), "progress is told: {stderr}");
}

#[test]
fn one_source_can_be_chosen_and_an_unknown_one_is_refused_with_the_names() {
    let (code, stdout, stderr) = run("load", &["--only", "shm", "--events", "2", "--parse-ms", "10"]);
    assert_eq!(code, Some(0), "{stdout}{stderr}");
    assert!(stdout.contains("shared page") && !stdout.contains("UDP") && stdout.contains("MB/s"), "{stdout}");
    let (code, _, stderr) = run("load", &["--only", "carrier-pigeon"]);
    assert!(code == Some(64) && stderr.contains("push-unix"), "{code:?}: {stderr}");
}
