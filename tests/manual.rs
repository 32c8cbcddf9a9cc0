//! Does every command have a manual page, and do the pages say what the commands say, without a mistake in their form?
//!
//! The form needs groff (package groff) or mandoc; without either that test says so.

#[path = "../packaging/manual.rs"]
mod manual;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Command;

use tempfile::TempDir;

/// Every file below a folder, by its path within.
fn files(folder: &Path) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    for below in ["man", "completions"] {
        for entry in fs::read_dir(folder.join(below)).expect("the folder is there") {
            let path = entry.expect("a folder can be listed").path();
            let name = path.strip_prefix(folder).expect("it was found below").display().to_string();
            found.insert(name, fs::read_to_string(&path).expect("it is text"));
        }
    }
    found
}

fn written(without: &[String]) -> (TempDir, BTreeMap<String, String>) {
    let folder = tempfile::tempdir().expect("a folder can be made");
    manual::write_all(folder.path(), without).expect("pages can be written");
    let found = files(folder.path());
    (folder, found)
}

/// The names of a command's page and of the pages below it.
fn pages_of(command: &clap::Command, name: &str, found: &mut Vec<String>) {
    found.push(format!("man/{name}.1"));
    for below in command.get_subcommands().filter(|below| !below.is_hide_set() && below.get_name() != "help") {
        pages_of(below, &format!("{name}-{}", below.get_name()), found);
    }
}

#[test]
fn every_command_has_a_page_and_no_page_is_without_a_command() {
    let mut wanted = vec!["man/neap.toml.5".to_owned()];
    pages_of(&neap::cli::command(), "neap", &mut wanted);
    wanted.sort();
    let (_folder, found) = written(&[]);
    let pages: Vec<String> = found.into_keys().filter(|name| name.starts_with("man/")).collect();
    assert_eq!(pages, wanted);
    assert!(wanted.len() > 20 && wanted.contains(&"man/neap-models-appraise.1".to_owned()), "{wanted:?}");
}

#[test]
fn the_same_commands_give_the_same_bytes_and_none_of_them_is_a_date() {
    let (_first, found) = written(&[]);
    let (_second, again) = written(&[]);
    assert!(found == again, "two runs differ");
    for (name, page) in found.iter().filter(|(name, _)| name.starts_with("man/")) {
        let title = page.lines().find(|line| line.starts_with(".TH ")).unwrap_or_default();
        assert!(title.contains(" \"\" "), "{name} has a date: {title}");
    }
}

#[test]
fn a_command_that_a_build_lacks_is_nowhere() {
    let (_folder, found) = written(&["demo".to_owned()]);
    assert!(!found.contains_key("man/neap-demo.1"));
    for (name, text) in &found {
        for trace in ["neap demo", "neap\\-demo", "neap-demo", "neap__demo"] {
            assert!(!text.contains(trace), "{name} names {trace}");
        }
    }
    assert!(found["man/neap.1"].contains("neap run"), "the other examples are there");
}

#[test]
fn completions_know_every_command_and_none_that_is_hidden() {
    let (_folder, found) = written(&[]);
    for file in ["completions/neap.bash", "completions/_neap", "completions/neap.fish"] {
        for command in neap::cli::command().get_subcommands().filter(|command| !command.is_hide_set()) {
            assert!(found[file].contains(command.get_name()), "{file} lacks {}", command.get_name());
        }
        assert!(!found[file].contains("bench-worker"), "{file} offers what only a bench starts");
    }
}

#[test]
fn the_page_of_the_configuration_has_every_section_and_key() {
    let (_folder, found) = written(&[]);
    let page = &found["man/neap.toml.5"];
    let configuration = include_str!("../config/neap.toml");
    let mut keys = 0;
    for line in configuration.lines().map(|line| line.trim_start_matches('#')) {
        if line.starts_with('[') && line.ends_with(']') {
            assert!(page.contains(&format!(".SS \"{line}\"")), "the page lacks {line}");
        } else if let Some((key, _)) = line.split_once(" = ").filter(|(key, _)| !key.contains(' ') && !key.is_empty()) {
            assert!(page.contains(&format!("\\fB{key} = ")), "the page lacks {key}");
            keys += 1;
        }
    }
    assert!(keys > 80, "only {keys} keys were looked for");
}

/// Runs a program over a page; `None` where it is not installed.
fn complaints(program: &[&str], page: &Path) -> Option<String> {
    let output = Command::new(program[0]).args(&program[1..]).arg(page).output().ok()?;
    let said = [output.stdout, output.stderr].concat();
    Some(String::from_utf8_lossy(&said).into_owned())
}

#[test]
fn neither_groff_nor_mandoc_finds_a_mistake_in_a_page() {
    let (folder, found) = written(&[]);
    let groff = ["groff", "-man", "-ww", "-z", "-Tutf8"];
    // A page has no date on purpose; space that counts twice is clap's way to part its paragraphs.
    let mandoc = ["mandoc", "-Tlint", "-Wwarning"];
    let meant = ["missing date", "skipping paragraph macro"];
    for (program, meant) in [(&groff[..], &[][..]), (&mandoc[..], &meant[..])] {
        let mut looked = 0;
        for name in found.keys().filter(|name| name.starts_with("man/")) {
            let Some(said) = complaints(program, &folder.path().join(name)) else { continue };
            let told: Vec<&str> = said.lines().filter(|line| !meant.iter().any(|words| line.contains(words))).collect();
            assert!(told.is_empty(), "{} about {name}: {}", program[0], told.join("\n"));
            looked += 1;
        }
        if looked == 0 {
            eprintln!("\n!!! SKIPPED: {0} is missing: apt-get install {0} !!!\n", program[0]);
        }
    }
    let broken = folder.path().join("broken.1");
    fs::write(&broken, ".TH BROKEN 1\n.SH NAME\n.XY nothing\n").expect("a file can be written");
    for program in [&groff[..], &mandoc[..]] {
        assert!(complaints(program, &broken).is_none_or(|said| !said.is_empty()), "{} finds a planted one", program[0]);
    }
}
