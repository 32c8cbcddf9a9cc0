//! Does the Debian package bring what a node needs, and does it live and die rightly on a system with systemd?
//!
//! The package's whole life (install, run, reload, upgrade, hang, remove, purge) takes root, Debian's packages from the
//! network once, and two minutes: it is behind `NEAP_PACKAGE_TESTS=1`.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn manifest() -> toml::Table {
    let text = fs::read_to_string(root().join("Cargo.toml")).expect("the manifest is there");
    text.parse().expect("it is TOML")
}

/// What is packed: source (with stars) and destination.
fn assets() -> Vec<(String, String)> {
    let manifest = manifest();
    let assets = manifest["package"]["metadata"]["deb"]["assets"].as_array().expect("a list");
    let word = |value: &toml::Value| value.as_str().expect("a word").to_owned();
    assets.iter().map(|asset| (word(&asset[0]), word(&asset[1]))).collect()
}

/// The files below the project that a pattern with stars stands for.
fn matching(pattern: &str) -> Vec<PathBuf> {
    let mut found = vec![root()];
    for part in pattern.split('/') {
        let fits = |name: &str| match part.split_once('*') {
            Some((head, tail)) => {
                name.len() >= head.len() + tail.len() && name.starts_with(head) && name.ends_with(tail)
            }
            None => name == part,
        };
        let below = |folder: &PathBuf| {
            let entries = fs::read_dir(folder).into_iter().flatten().flatten();
            entries
                .filter(|entry| entry.file_name().to_str().is_some_and(fits))
                .map(|entry| entry.path())
                .collect::<Vec<_>>()
        };
        found = found.iter().flat_map(below).collect();
    }
    found
}

#[test]
fn everything_that_is_to_be_packed_is_there() {
    let assets = assets();
    for (source, _) in assets.iter().filter(|(source, _)| !source.starts_with("target/")) {
        assert!(!matching(source).is_empty(), "Cargo.toml packs {source}, which is not there");
    }
    for place in ["usr/bin/", "etc/neap/", "usr/include/", "usr/share/man/man1/", "usr/share/man/man5/"] {
        assert!(assets.iter().any(|(_, to)| to == place), "nothing is packed for {place}");
    }
    assert!(matching("config/no-such-*").is_empty() && matching("config/*.service").len() == 1);
}

#[test]
fn every_model_is_packed_whole_and_nothing_of_how_it_was_made() {
    let packed: Vec<PathBuf> = assets()
        .iter()
        .filter(|(source, _)| source.starts_with("models/"))
        .flat_map(|(source, _)| matching(source))
        .filter(|path| path.is_file())
        .collect();
    let mut models = 0;
    for folder in matching("models/*").into_iter().filter(|folder| folder.join("model.toml").exists()) {
        models += 1;
        let name = folder.display().to_string();
        let mut open = vec![folder];
        while let Some(folder) = open.pop() {
            for path in fs::read_dir(&folder).expect("a folder can be listed").flatten().map(|entry| entry.path()) {
                if path.is_dir() {
                    open.push(path);
                } else {
                    assert!(packed.contains(&path), "{} of {name} is not packed", path.display());
                }
            }
        }
    }
    assert_eq!(models, 6);
    assert!(packed.iter().all(|path| !path.starts_with(root().join("models/make"))));
}

#[test]
fn a_fresh_install_starts_nothing_and_an_upgrade_does_not_stop_first() {
    let manifest = manifest();
    let units = &manifest["package"]["metadata"]["deb"]["systemd-units"];
    for (key, value) in
        [("enable", false), ("start", false), ("restart-after-upgrade", true), ("stop-on-upgrade", false)]
    {
        assert_eq!(units[key].as_bool(), Some(value), "{key}");
    }
}

#[test]
fn maintainer_scripts_are_plain_shell_and_leave_room_for_what_is_made() {
    for name in ["postinst", "prerm", "postrm"] {
        let script = root().join("packaging/debian").join(name);
        let text = fs::read_to_string(&script).expect("the script is there");
        assert!(text.starts_with("#!/bin/sh\n") && text.contains("\nset -e\n"), "{name}");
        assert!(text.contains("\n#DEBHELPER#\n"), "{name} has no place for the unit's own steps");
        let checked = Command::new("sh").arg("-n").arg(&script).status().expect("sh is there");
        assert!(checked.success(), "{name} is no shell script");
    }
}

/// Whether what needs root, the network and minutes is asked for; says so when it is not.
fn is_asked_for() -> bool {
    let asked = std::env::var_os("NEAP_PACKAGE_TESTS").is_some_and(|value| value == "1");
    if !asked {
        eprintln!("\n!!! SKIPPED: installs a package in a Debian of its own: NEAP_PACKAGE_TESTS=1 as root !!!\n");
    }
    asked
}

/// Runs one of the project's scripts; what it said.
fn script(command: &mut Command) -> String {
    let output = command.current_dir(root()).output().expect("the script can be started");
    let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{command:?} ended with {}: {said}", output.status);
    said
}

/// Packs the program under test, without what a debugger needs.
fn packed(folder: &Path) -> PathBuf {
    let (binary, package) = (folder.join("neap"), folder.join("neap.deb"));
    script(Command::new("strip").arg("-o").arg(&binary).arg(env!("CARGO_BIN_EXE_neap")));
    let mut command = Command::new("packaging/deb");
    command.args(["amd64"]).arg(&binary).arg(&package).env("NEAP_DEB_FAST", "1");
    // `cargo test` has built it beside the program.
    let manual = Path::new(env!("CARGO_BIN_EXE_neap")).with_file_name("examples").join("manual");
    if manual.exists() {
        command.env("NEAP_MANUAL", manual);
    }
    script(&mut command);
    package
}

#[test]
fn the_package_installs_runs_upgrades_heals_and_goes_under_a_real_systemd() {
    if !is_asked_for() {
        return;
    }
    let folder = tempfile::tempdir().expect("a folder can be made");
    let package = packed(folder.path());
    let said = script(Command::new("packaging/life").arg(&package));
    eprintln!("{said}");
    assert!(said.lines().filter(|line| line.starts_with("ok ")).count() >= 50, "{said}");
    assert!(!said.contains("BROKEN"), "{said}");
}
