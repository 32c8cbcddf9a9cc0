//! Does the shipped unit hold the agent tight, and does it still let the agent do its work?
//!
//! Needs `systemd-analyze` (package systemd) for the figure; without it that test says so, with `CI=true` it fails.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Highest exposure of `systemd-analyze security`, in tenths.
const EXPOSURE_TENTHS_MAX: u32 = 20;

fn unit() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("config/neap.service")
}

/// What the unit sets a key to, line by line.
fn values(key: &str) -> Vec<String> {
    let text = fs::read_to_string(unit()).expect("the unit is there");
    let value = |line: &str| line.strip_prefix(key)?.strip_prefix('=').map(str::to_owned);
    text.lines().filter_map(value).collect()
}

/// Whether a unit stays at or below that exposure; `None`, said loudly, without the tool.
fn is_within(unit: &Path, tenths: u32) -> Option<(bool, String)> {
    let mut command = Command::new("systemd-analyze");
    command.args(["security", "--offline=yes", "--no-pager", &format!("--threshold={tenths}")]).arg(unit);
    match command.output() {
        Ok(output) => Some((output.status.success(), String::from_utf8_lossy(&output.stdout).into_owned())),
        Err(error) => {
            let missing = format!("systemd-analyze cannot be started ({error}): apt-get install systemd");
            assert!(std::env::var("CI").as_deref() != Ok("true"), "{missing}");
            eprintln!("\n!!! SKIPPED: {missing} !!!\n");
            None
        }
    }
}

#[test]
fn the_units_exposure_is_two_at_most() {
    let Some((is_within_limit, table)) = is_within(&unit(), EXPOSURE_TENTHS_MAX) else { return };
    assert!(is_within_limit, "{table}");
    assert!(table.contains("Overall exposure level for neap.service"), "the tool has rated it: {table}");
}

#[test]
fn a_unit_without_the_hardening_is_above_the_limit() {
    let folder = tempfile::tempdir().expect("a folder can be made");
    let bare = folder.path().join("neap.service");
    let text = fs::read_to_string(unit()).expect("the unit is there");
    let kept = |line: &&str| !["Protect", "Restrict", "SystemCall", "Private"].iter().any(|key| line.starts_with(key));
    fs::write(&bare, text.lines().filter(kept).collect::<Vec<_>>().join("\n")).expect("a file can be written");
    let Some((is_within_limit, table)) = is_within(&bare, EXPOSURE_TENTHS_MAX) else { return };
    assert!(!is_within_limit, "{table}");
}

/// What `systemd-analyze verify` says of the unit with one drop-in; `None`, said loudly, without the tool.
fn complaints(drop_in: &str) -> Option<String> {
    let folder = tempfile::tempdir().expect("a folder can be made");
    let copy = folder.path().join("neap.service");
    // The tool wants the program to be there.
    let text = fs::read_to_string(unit()).expect("the unit is there");
    fs::write(&copy, text.replace("/usr/bin/neap", env!("CARGO_BIN_EXE_neap"))).expect("a file can be written");
    fs::create_dir(folder.path().join("neap.service.d")).expect("a folder can be made");
    fs::write(folder.path().join("neap.service.d/try.conf"), drop_in).expect("a file can be written");
    let mut command = Command::new("systemd-analyze");
    command.args(["verify", "--man=no", "--recursive-errors=no"]).arg(&copy);
    let Ok(output) = command.output() else {
        eprintln!("\n!!! SKIPPED: systemd-analyze cannot be started: apt-get install systemd !!!\n");
        return None;
    };
    Some(String::from_utf8_lossy(&output.stderr).into_owned())
}

/// The drop-ins that are shipped: name and text.
fn drop_ins() -> Vec<(String, String)> {
    let folder = fs::read_dir(unit().with_file_name("drop-ins")).expect("the folder is there");
    let read = |path: PathBuf| (path.display().to_string(), fs::read_to_string(&path).expect("it is text"));
    folder.map(|entry| read(entry.expect("a folder can be listed").path())).collect()
}

#[test]
fn systemd_finds_no_mistake_in_the_unit_nor_in_any_drop_in() {
    let mut tried = vec![("none".to_owned(), String::new())];
    tried.extend(drop_ins());
    assert!(tried.len() >= 4, "{tried:?}");
    for (name, text) in tried {
        let Some(said) = complaints(&text) else { return };
        assert!(said.is_empty(), "with {name}: {said}");
    }
    let planted = complaints("[Service]\nCPUSchedulingPolicies=other\n").expect("the tool is there");
    assert!(planted.contains("CPUSchedulingPolicies"), "a planted mistake is found: {planted}");
}

#[test]
fn no_drop_in_idles_the_sentinel_or_gives_a_capability() {
    for (name, text) in drop_ins() {
        let set: Vec<&str> = text.lines().filter(|line| !line.starts_with('#')).collect();
        for policy in ["idle", "batch"] {
            assert!(!set.contains(&format!("CPUSchedulingPolicy={policy}").as_str()), "{name} idles the sentinel");
        }
        assert!(!set.iter().any(|line| line.contains("Capabilit")), "{name} gives a capability");
    }
    assert!(values("CPUSchedulingPolicy").is_empty(), "the unit leaves the sentinel its class");
}

#[test]
fn what_the_load_is_read_from_stays_visible() {
    for hidden in ["ProtectProc", "ProcSubset", "ProtectControlGroups", "RestrictRealtime", "PrivateNetwork"] {
        assert!(values(hidden).is_empty(), "{hidden} would take a source of load, the cgroups or the sentinel's class");
    }
    assert_eq!(values("Delegate"), ["cpu cpuset memory pids"]);
}

#[test]
fn the_agent_and_its_workers_have_no_capability_and_keep_the_yield_path_by_limits() {
    assert_eq!(values("CapabilityBoundingSet"), [""]);
    assert_eq!(values("AmbientCapabilities"), [""]);
    assert_eq!(values("LimitMEMLOCK"), ["infinity"]);
    assert_eq!(values("LimitRTPRIO"), ["98"]);
    assert_eq!(values("NoNewPrivileges"), ["yes"]);
}

#[test]
fn the_workers_may_jail_themselves() {
    let calls: Vec<String> = values("SystemCallFilter")
        .iter()
        .flat_map(|line| line.split(' ').map(str::to_owned).collect::<Vec<_>>())
        .collect();
    let needed =
        ["@system-service", "seccomp", "landlock_create_ruleset", "landlock_add_rule", "landlock_restrict_self"];
    for call in needed {
        assert!(calls.iter().any(|listed| listed == call), "{call} is not in {calls:?}");
    }
    assert!(calls.iter().all(|call| !call.starts_with('~')), "a list of what is allowed: {calls:?}");
}
