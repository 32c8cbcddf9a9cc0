//! Is every configuration mistake found, at its place, with what is allowed? Are the files we ship right?

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;

use neap::config::{self, Error, Problem, Settings};

const REQUIRED: &str = "[node]\nsite = \"north\"\nname = \"cell-17\"\n[mqtt]\nhost = \"127.0.0.1\"\n";

fn shipped(name: &str) -> String {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("config").join(name);
    fs::read_to_string(&path).expect("a shipped file can be read")
}

fn problems(text: &str) -> Vec<Problem> {
    match Settings::parse("bad.toml", text) {
        Err(Error::Invalid { problems }) => problems,
        Err(other) => panic!("{other}"),
        Ok(_) => Vec::new(),
    }
}

// ---- the status socket ----

#[test]
fn a_status_port_that_others_can_reach_is_refused() {
    for open in ["0.0.0.0:9464", "192.0.2.1:9464", "[::]:9464"] {
        let found = problems(&format!("{REQUIRED}[status]\nlisten = \"{open}\"\n"));
        assert!(found.len() == 1 && found[0].text.contains("loopback"), "{open}: {found:?}");
    }
    for right in ["127.0.0.1:9464", "[::1]:9464"] {
        assert_eq!(problems(&format!("{REQUIRED}[status]\nlisten = \"{right}\"\n")), [], "{right}");
    }
    let long = format!("/run/{}", "x".repeat(120));
    assert!(problems(&format!("{REQUIRED}[status]\nsocket = \"{long}\"\n"))[0].text.contains("107"));
    assert!(problems(&format!("{REQUIRED}[status]\nmode = 0o066\n"))[0].text.contains("owner"));
}

// ---- what we ship ----

#[test]
fn every_shipped_toml_file_passes_the_check() {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("config");
    let mut checked = 0;
    for entry in fs::read_dir(folder).expect("config/ is there") {
        let path = entry.expect("config/ can be listed").path();
        if path.extension().is_some_and(|extension| extension == "toml") {
            Settings::read(&path).unwrap_or_else(|error| panic!("{error}"));
            checked += 1;
        }
    }
    assert!(checked >= 2, "only {checked} files were found");
}

#[test]
fn neap_toml_shows_the_defaults_that_the_code_has() {
    let load = "[[load]]\nname = \"du\"\nkind = \"push\"\n";
    let bare = Settings::parse("bare.toml", &format!("{REQUIRED}{load}")).expect("the required keys are enough");
    let shown = Settings::parse("neap.toml", &shipped("neap.toml")).expect("the shipped file is right");
    assert_eq!(shown, bare);
}

#[test]
fn neap_toml_shows_every_key() {
    let text = shipped("neap.toml");
    let mut section = String::new();
    let mut shown = BTreeSet::new();
    for line in text.lines().map(|line| line.strip_prefix('#').unwrap_or(line)) {
        if let Some(name) = line.strip_prefix('[') {
            section = name.trim_start_matches('[').trim_end_matches(']').to_owned();
            shown.insert(section.clone());
        } else if let Some((key, _)) = line.split_once(" = ")
            && !key.contains(' ')
        {
            shown.insert(format!("{section}.{key}"));
        }
    }
    assert_eq!(shown, config::keys());
}

#[test]
fn the_optional_lines_of_neap_toml_are_right_as_they_stand() {
    // One of cgroup, unit, process and pids at a time: the later ones stay comments, and what needs them.
    let keep = |line: &&str| !["#unit", "#process", "#pids", "#hottest"].iter().any(|key| line.starts_with(key));
    let is_key = |line: &str| line.starts_with("#[") || line.split(' ').nth(1) == Some("=");
    let text: String = shipped("neap.toml")
        .lines()
        .filter(keep)
        .map(|line| if is_key(line) { line.trim_start_matches('#') } else { line })
        .fold(String::new(), |text, line| text + line + "\n");
    // More kinds are shown than there may be sources.
    let without = |name: &str| {
        let (before, rest) = text.split_once(&format!("[[load]]\nname = \"{name}\"")).expect("it is shown");
        let next = rest.find("\n[").expect("another section follows");
        let settings = Settings::parse("neap.toml", &format!("{before}{}", &rest[next..]));
        settings.unwrap_or_else(|error| panic!("{error}"))
    };
    let settings = without("replay");
    assert_eq!([settings.load.sources.len(), without("planned").load.sources.len()], [8, 8]);
    assert_eq!(settings.sentinel.priority, Some(20));
    assert_eq!(settings.workers.cores, [3]);
    assert_eq!(settings.workers.reserved, [0]);
}

// ---- what is refused ----

/// Text after the required sections (which end with line 5), then line:column and pieces of the sentence.
const BAD: &[(&str, &str, &[&str])] = &[
    ("[governor]\nbusy_above = 140", "7:14", &["governor.busy_above = 140", "1 to 100 (percent)"]),
    ("[governor]\nbusy_above = \"high\"", "7:14", &["governor.busy_above = \"high\"", "1 to 100 (percent)"]),
    ("[governor]\nbusy_abov = 40", "7:1", &["unknown key `governor.busy_abov`", "did you mean `busy_above`?"]),
    ("[governor]\ncolour = 1", "7:1", &["unknown key `governor.colour`", "known here: busy_above, idle_below"]),
    ("[governer]\nbusy_above = 40", "6:2", &["unknown key `governer`", "did you mean `governor`?"]),
    ("[governor]\nbusy_above = 10\nidle_below = 30", "8:14", &["governor.idle_below = 30", "busy_above (10 %)"]),
    ("[governor]\nbusy_above = 10", "7:14", &["governor.busy_above = 10", "must not be above busy_above"]),
    ("[governor]\nsettle_s = -1", "7:12", &["governor.settle_s = -1", "0.05 to 3600 (seconds)"]),
    ("[governor]\nsettle_s = nan", "7:12", &["governor.settle_s = nan", "0.05 to 3600"]),
    ("[guard]\nworse_by = 0", "7:12", &["guard.worse_by = 0", "1 to 1000 (percent)"]),
    ("[guard]\nwindow_s = 2\ncontrol_every_s = 5", "8:19", &["guard.control_every_s = 5", "6 times window_s (2 s)"]),
    ("[guard]\ncalm_s = 20", "7:10", &["guard.calm_s = 20", "at least control_every_s (30 s)"]),
    ("[guard]\npause_max_s = 100", "7:15", &["guard.pause_max_s = 100", "at least calm_s (120 s)"]),
    ("[governor]\nsettle_s = 700", "7:12", &["at least settle_s (700 s)"]),
    ("[sentinel]\npriority = 99", "7:12", &["sentinel.priority = 99", "1 to 98"]),
    ("[sentinel]\nconfirm_kill_ms = 40", "7:19", &["confirm_kill_ms must be above signal_again_ms"]),
    ("[sentinel]\ndead_man_ms = 0", "7:15", &["sentinel.dead_man_ms = 0", "200 to 60000 (milliseconds)"]),
    ("[memory]\nstall_above = 0", "7:15", &["memory.stall_above = 0", "1 to 100 (percent)"]),
    ("[memory]\nproc = \"proc\"", "7:8", &["memory.proc = \"proc\"", "absolute path"]),
    ("[workers]\ncount = 17", "7:9", &["workers.count = 17", "1 to 16"]),
    ("[workers]\ncount = 2\ncores = [3]", "8:9", &["workers.cores = [3]", "each of the 2 workers"]),
    ("[workers]\ncores = [3, 3]", "7:9", &["different integers"]),
    ("[workers]\ncores = [3]\nreserved = [0, 3]", "8:12", &["workers.reserved = [0, 3]", "must not name core 3"]),
    ("[cgroup]\nmode = \"on\"", "7:8", &["cgroup.mode = \"on\"", "\"auto\", \"required\", \"off\""]),
    ("[cgroup]\npath = \"neap.slice\"", "7:8", &["cgroup.path = \"neap.slice\"", "absolute path"]),
    ("[workers]\ncount = 1.5", "7:9", &["workers.count = 1.5", "1 to 16"]),
    ("[jobs]\nstate_dir = \"state\"", "7:13", &["jobs.state_dir = \"state\"", "absolute path"]),
    ("[jobs]\nstate_dir = \"/var/../etc\"", "7:13", &["without .."]),
    ("[jobs]\nwall_s = 4000", "7:10", &["jobs.wall_s = 4000", "wall_s_max (3600)"]),
    ("[jobs]\nopen_max = 0", "7:12", &["jobs.open_max = 0", "1 to 50000"]),
    ("[log]\nlevel = \"loud\"", "7:9", &["log.level = \"loud\"", "give error, warn, info"]),
    ("[log]\nlevel = \"info\"\nlevel = \"warn\"", "8:1", &["not TOML", "duplicate key"]),
    ("[log\nlevel = \"info\"", "6:5", &["not TOML"]),
    ("[load]\nname = \"du\"", "6:1", &["load must be a list of tables: write [[load]]"]),
    ("[[load]]\nname = \"du\"", "6:1", &["`load[0].kind` is missing", "\"push\""]),
    (
        "[[load]]\nname = \"du\"\nkind = \"pull\"",
        "8:8",
        &["load[0].kind = \"pull\"", "\"push\", \"push_udp\", \"shm\", \"procfs\""],
    ),
    ("[[load]]\nkind = \"push\"\nname = \"D U\"", "8:8", &["load[0].name = \"D U\"", "a-z 0-9 -"]),
    (
        "[[load]]\nkind = \"push_udp\"\nname = \"du\"\nlisten = \"0.0.0.0:9700\"",
        "9:10",
        &["load[0].listen = \"0.0.0.0:9700\"", "a loopback address"],
    ),
    ("[[load]]\nkind = \"push\"\nname = \"du\"\nlisten = \"127.0.0.1:1\"", "9:1", &["unknown key `load[0].listen`"]),
    ("[[load]]\nkind = \"push\"\nname = \"du\"\nmode = 0o666", "9:8", &["load[0].mode = 0o666", "0o660"]),
    ("[[load]]\nkind = \"shm\"\nname = \"du\"\nmode = 0o662", "9:8", &["load[0].mode = 0o662", "0o660"]),
    ("[[load]]\nkind = \"shm\"\nname = \"du\"\npath = \"load.shm\"", "9:8", &["load[0].path", "absolute path"]),
    (
        "[[load]]\nkind = \"log\"\nname = \"gnb\"\npath = \"/var/log/gnb.log\"\nrequired = true",
        "10:12",
        &["load[0].required = true", "false for a log", "gives no level"],
    ),
    ("[[load]]\nkind = \"log\"\nname = \"gnb\"", "6:1", &["`load[0].path` is missing", "named pipe"]),
    ("[[load]]\nkind = \"dpdk\"\nname = \"l1\"\nperiod_ms = 10", "9:13", &["load[0].period_ms", "20 ms to 10 s"]),
    ("[[load]]\nkind = \"dpdk\"\nname = \"l1\"\nlcores = [1, 1]", "9:10", &["load[0].lcores", "different"]),
    (
        "[[load]]\nkind = \"shm\"\nname = \"du\"\n[[load]]\nkind = \"shm\"\nname = \"phy\"\npath = \"/run/b\"",
        "10:8",
        &["load[1].kind = \"shm\"", "a second page", "push source"],
    ),
    ("[[load]]\nkind = \"trace\"\nname = \"du\"", "6:1", &["`load[0].file` is missing"]),
    (
        "[[load]]\nkind = \"procfs\"\nname = \"du\"\ncores = [0]\nprocess = \"gnb\"\npids = [1]",
        "11:8",
        &["only one of cgroup, unit, process and pids"],
    ),
    (
        "[[load]]\nkind = \"procfs\"\nname = \"du\"\ncores = [0]\nunit = \"ocudu\"",
        "10:8",
        &["load[0].unit = \"ocudu\"", "whole name of a systemd unit"],
    ),
    (
        "[[load]]\nkind = \"procfs\"\nname = \"du\"\ncores = [0]\nhottest = true",
        "10:11",
        &["load[0].hottest = true", "needs process or pids"],
    ),
    (
        "[[load]]\nkind = \"procfs\"\nname = \"du\"\ncores = [0]\npressure = \"hots\"",
        "10:12",
        &["load[0].pressure = \"hots\"", "\"cgroup\", \"host\", \"off\""],
    ),
    (
        "[[load]]\nkind = \"procfs\"\nname = \"du\"\ncores = [0]\nfreshness_ms = 100",
        "10:16",
        &["load[0].freshness_ms = 100", "at least twice the period"],
    ),
    (
        "[[load]]\nkind = \"procfs\"\nname = \"du\"\ncores = [0]\nperiod_ms = 5",
        "10:13",
        &["load[0].period_ms = 5", "50 ms to 10 s"],
    ),
    ("[[load]]\nkind = \"procfs\"\nname = \"du\"", "6:1", &["`load[0].cores` is missing"]),
    ("[[load]]\nkind = \"push\"\nname = \"du\"\nrecord = \"du.ndjson\"", "9:10", &["load[0].record", "absolute path"]),
    (
        "[[load]]\nkind = \"push\"\nname = \"du\"\nrecord = \"/r\"\nrecord_max_mib = 17",
        "10:18",
        &["load[0].record_max_mib = 17", "1 to 16 (mebibytes)"],
    ),
    (
        "[[load]]\nkind = \"push\"\nname = \"a\"\nrecord = \"/r\"\n\
         [[load]]\nkind = \"push_udp\"\nname = \"b\"\nlisten = \"127.0.0.1:9700\"\nrecord = \"/r\"",
        "14:10",
        &["load[1].record", "recording of an earlier source"],
    ),
    (
        "[[load]]\nkind = \"push\"\nname = \"du\"\n[[load]]\nkind = \"procfs\"\ncores = [0]\nname = \"du\"",
        "12:8",
        &["load[1].name = \"du\"", "name of an earlier source"],
    ),
];

#[test]
fn each_mistake_is_reported_at_its_place_with_what_is_allowed() {
    for (text, place, pieces) in BAD {
        let found = problems(&format!("{REQUIRED}{text}\n"));
        let all = found.iter().map(|problem| format!("{problem}\n")).collect::<String>();
        assert_eq!(found.len(), 1, "expected one problem in:\n{text}\nfound:\n{all}");
        let expected = format!("config.invalid: bad.toml:{place}: ");
        assert!(all.starts_with(&expected), "expected {expected} in:\n{text}\nfound:\n{all}");
        for piece in *pieces {
            assert!(all.contains(piece), "expected {piece:?} in:\n{all}");
        }
    }
}

#[test]
fn plaintext_to_another_machine_needs_to_be_asked_for() {
    let text = |more: &str| REQUIRED.replace("\"127.0.0.1\"", &format!("\"broker.example\"{more}"));
    let found = problems(&text(""));
    assert_eq!((found.len(), found[0].line, found[0].column), (1, 5, 8));
    assert!(found[0].text.contains("allow_insecure = true"), "{}", found[0]);
    assert_eq!(problems(&text("\nallow_insecure = true")), []);
    assert_eq!(problems(&REQUIRED.replace("127.0.0.1", "::1")), []);
}

#[test]
fn a_root_that_cannot_start_a_topic_is_refused() {
    let found = problems(&REQUIRED.replace("\n[mqtt]", "\nroot = \"a//b\"\n[mqtt]"));
    assert_eq!((found.len(), found[0].line, found[0].column), (1, 4, 8));
    assert!(
        found[0].text.contains("node.root = \"a//b\"") && found[0].text.contains("letters, digits"),
        "{}",
        found[0]
    );
}

#[test]
fn all_mistakes_of_a_file_are_reported_at_once_in_its_order() {
    let text = "[mqtt]\nport = 0\nhots = \"x\"\n[governor]\nbusy_above = 0\n";
    let found = problems(text);
    let places: Vec<(usize, usize)> = found.iter().map(|problem| (problem.line, problem.column)).collect();
    // Missing [node] site and name stand at the top, the missing host at its section.
    assert_eq!(places, [(1, 1), (1, 1), (1, 1), (2, 8), (3, 1), (5, 14)]);
    assert!(found[0].text.contains("`node.site` is missing: add site = "), "{}", found[0]);
}

#[test]
fn an_empty_file_names_the_three_required_keys() {
    let all: Vec<String> = problems("").iter().map(|problem| problem.text.clone()).collect();
    assert_eq!(all.len(), 3, "{all:?}");
    for (text, key) in all.iter().zip(["node.site", "node.name", "mqtt.host"]) {
        assert!(text.contains(&format!("`{key}` is missing")), "{text}");
    }
}

#[test]
fn control_characters_of_a_file_never_reach_the_terminal() {
    let found = problems(&format!("{REQUIRED}[log]\n\"a\\u001b[2J\" = 1\n"));
    assert_eq!(found.len(), 1);
    assert!(!found[0].to_string().contains('\u{1b}'), "{:?}", found[0]);
}
