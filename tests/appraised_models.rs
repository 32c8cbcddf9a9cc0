//! Does the node know what its models cost before their first job, and refuse those that an appraisal has refused?

mod common;
#[path = "support/files.rs"]
mod files;

use std::fs;
use std::path::Path;
use std::process::Command;

use common::node::{Node, Setup};
use common::told::told;
use files::copy;
use serde_json::{Value, json};
use tempfile::TempDir;

/// A folder with two bundled models, one of them with a file that is none, under a digest that is right.
fn models() -> TempDir {
    let folder = TempDir::new().expect("a folder can be made");
    for name in ["kpi-anomaly", "prb-forecast"] {
        let from = Path::new(env!("CARGO_MANIFEST_DIR")).join("models").join(name);
        copy(&from, &folder.path().join(name));
    }
    let broken = folder.path().join("prb-forecast");
    let text = fs::read_to_string(broken.join("model.toml")).expect("a manifest");
    let line = text.lines().find(|line| line.starts_with("digest")).expect("a digest");
    let file = text.lines().find_map(|line| line.strip_prefix("file = \"")?.strip_suffix('"')).expect("a file");
    fs::write(broken.join(file), b"no network at all").expect("a file can be written");
    let digest = neap::units::Digest(<sha2::Sha256 as sha2::Digest>::digest(b"no network at all").into());
    fs::write(broken.join("model.toml"), text.replace(line, &format!("digest = \"{digest}\""))).expect("a manifest");
    folder
}

fn neap(arguments: &[&str]) -> (Option<i32>, String, String) {
    told(Command::new(env!("CARGO_BIN_EXE_neap")).args(arguments))
}

fn objects(text: &str) -> Vec<Value> {
    text.lines().map(|line| serde_json::from_str(line).expect("one JSON object a line")).collect()
}

#[test]
fn a_node_knows_the_costs_of_appraised_models_and_refuses_jobs_for_refused_ones() {
    let models = models();
    let setup = Setup::new().with("models", "dir", models.path().display().to_string()).with(
        "models",
        "worst_node_ms_max",
        60_000,
    );
    let node = Node::start(&setup);
    let controller = node.controller();
    let info = |what: &str, looked: &dyn Fn(&Value) -> bool| {
        controller.wait(what, |messages| {
            let infos = messages.iter().rev().filter(|message| message.topic == "up/info");
            infos.map(|message| message.json["models"].clone()).find(|models| looked(models))
        })
    };
    let before = info("the inventory", &|models| models[0]["name"] == "kpi-anomaly");
    assert_eq!((&before[0]["appraised"], &before[0]["load_ms"]), (&json!(false), &Value::Null));

    let (code, stdout, stderr) = told(&mut node.cli(&["models", "appraise", "--json"]));
    assert_eq!(code, Some(65), "one is refused: {stdout}{stderr}");
    assert!(stderr.contains("appraising kpi-anomaly (1 of 2)") && stderr.contains("kept in"), "{stderr}");
    let verdicts = objects(&stdout);
    assert_eq!((&verdicts[0]["verdict"], &verdicts[1]["verdict"]), (&json!("accepted"), &json!("refused")));
    assert_eq!(verdicts[0]["cost"]["golden"]["passed"], verdicts[0]["cost"]["golden"]["of"], "{stdout}");
    assert_eq!(verdicts[1]["cost"]["refused"]["code"], "model.parse", "{stdout}");

    node.hangup();
    let models = info("an inventory with costs", &|models| models[0]["appraised"] == true);
    for key in ["load_ms", "run_us_p50", "worst_node_us", "memory_bytes"] {
        assert!(models[0][key].as_u64().is_some_and(|value| value > 0), "{key} in {models}");
    }
    assert_eq!(models[0]["remarks"], Value::Null, "{models}");
    assert!(models[1]["refused"].as_str().is_some_and(|why| why.starts_with("model.parse: ")), "{models}");
    assert!(node.log().contains("jobs for it are refused"), "{}", node.log());

    // At once, without a worker.
    let input = json!({"inputs": [{"name": "x", "shape": [1], "datatype": "FP32", "data": [1.0]}]});
    controller.submit("refused", &json!({"model": "prb-forecast", "input": input}));
    controller.wait_for_state("refused", "REJECTED");
    let result = controller.wait_for_result("refused");
    assert_eq!(result["error"]["code"], "model.parse", "{result}");
    assert!(result["error"]["message"].as_str().is_some_and(|text| text.contains("when it was appraised")), "{result}");

    let (code, stdout, stderr) = told(&mut node.cli(&["models", "list", "--json"]));
    assert_eq!(code, Some(0), "{stderr}");
    assert!(objects(&stdout)[0]["cost"]["run_us_p50"].as_u64().is_some(), "{stdout}");
}

#[test]
fn costs_stand_beside_the_models_for_people_and_are_kept_only_where_they_are_wanted() {
    let models = models();
    let dir = models.path().display().to_string();
    let (code, stdout, stderr) = neap(&["models", "appraise", "--dir", &dir, "kpi-anomaly"]);
    assert_eq!(code, Some(0), "{stdout}{stderr}");
    for word in ["LOAD", "WORST NODE", "kpi-anomaly", "accepted", "2/2"] {
        assert!(stdout.contains(word), "{word} in {stdout}");
    }
    assert!(stderr.contains("not kept: name a folder with --verdicts"), "{stderr}");
    let kept = models.path().join(".verdicts");
    let folder = kept.display().to_string();
    let (code, _, stderr) = neap(&["models", "appraise", "--dir", &dir, "--verdicts", &folder]);
    assert_eq!(code, Some(65), "{stderr}");
    assert_eq!(fs::read_dir(&kept).expect("the folder was made").count(), 2);
    let (code, _, stderr) = neap(&["models", "appraise", "--dir", &dir, "no-such-model"]);
    assert!(code == Some(65) && stderr.contains("there are kpi-anomaly, prb-forecast"), "{stderr}");
    let (code, _, stderr) = neap(&["models", "appraise", "--dir", &dir, "--verdicts", "/proc/no/such"]);
    assert!(code != Some(0) && stderr.contains("/proc/no/such"), "{code:?} {stderr}");
}
