//! Is what is shipped as hard to abuse as `packaging/hardening.toml` says?
//!
//! Reads the files themselves. The binary of these tests is always looked at, for what any build of it must have; with
//! `NEAP_ARTIFACTS=FOLDER` every program in that folder (what `packaging/build` made) for everything. That the check
//! refuses is tried with programs that the machine's own C compiler makes badly on purpose.

#[path = "support/elf.rs"]
mod elf;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use elf::Elf;
use serde::Deserialize;

/// The targets that something is shipped for.
const TARGETS: [&str; 4] = [
    "aarch64-unknown-linux-gnu",
    "aarch64-unknown-linux-musl",
    "armv7-unknown-linux-gnueabihf",
    "x86_64-unknown-linux-gnu",
];
const EM_ARM: u64 = 40;
const EM_X86_64: u64 = 62;
const EM_AARCH64: u64 = 183;

/// What a target's binary must be; the file itself says what each line means.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Record {
    pie: bool,
    relro: String,
    nx: bool,
    stack_protector: String,
    interpreter: Option<String>,
    needed: BTreeSet<String>,
    glibc_max: Option<String>,
    text_relocations: bool,
    run_path: bool,
    stripped: bool,
    crates: bool,
    bytes_max: usize,
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn records() -> BTreeMap<String, Record> {
    let text = fs::read_to_string(root().join("packaging/hardening.toml")).expect("the record is there");
    toml::from_str(&text).expect("the record can be read")
}

/// For which target a file was made: by its machine, and whether it asks for a loader.
fn target(elf: &Elf) -> Option<&'static str> {
    match (elf.machine, &elf.interpreter) {
        ((EM_X86_64, true), Some(_)) => Some("x86_64-unknown-linux-gnu"),
        ((EM_AARCH64, true), Some(_)) => Some("aarch64-unknown-linux-gnu"),
        ((EM_AARCH64, true), None) => Some("aarch64-unknown-linux-musl"),
        ((EM_ARM, false), Some(_)) => Some("armv7-unknown-linux-gnueabihf"),
        _ => None,
    }
}

/// What any build must have: each difference from the record in one sentence.
fn faults_of_any_build(elf: &Elf, record: &Record) -> Vec<String> {
    let relro = match (elf.has_relro, elf.binds_now) {
        (true, true) => "full",
        (true, false) => "partial",
        (false, _) => "none",
    };
    let mut faults = Vec::new();
    let mut compare = |what: &str, is: String, wanted: String| {
        if is != wanted {
            faults.push(format!("{what} is {is}, the record says {wanted}"));
        }
    };
    compare("pie", elf.is_pie.to_string(), record.pie.to_string());
    compare("relro", relro.to_owned(), record.relro.clone());
    compare("nx", (elf.has_plain_stack && !elf.has_writable_code).to_string(), record.nx.to_string());
    compare("interpreter", format!("{:?}", elf.interpreter), format!("{:?}", record.interpreter));
    compare("text_relocations", elf.has_text_relocations.to_string(), record.text_relocations.to_string());
    compare("run_path", elf.has_run_path.to_string(), record.run_path.to_string());
    for library in elf.needed.difference(&record.needed) {
        faults.push(format!("needed has {library}, the record only {:?}", record.needed));
    }
    faults
}

/// What a shipped file must have besides.
fn faults_of_a_shipped_file(bytes: &[u8], elf: &Elf, record: &Record) -> Vec<String> {
    let mut faults = faults_of_any_build(elf, record);
    let glibc_max = record.glibc_max.as_deref().and_then(elf::glibc_version);
    if elf.glibc > glibc_max {
        faults.push(format!("glibc_max is {:?}, the record says {glibc_max:?}", elf.glibc));
    }
    if record.stack_protector == "yes" && !elf.names_stack_guard {
        faults.push("stack_protector is not to be seen, the record says yes".to_owned());
    }
    if record.stripped && elf.has_symbols {
        faults.push("stripped is false: there are symbols or debug information".to_owned());
    }
    if record.crates && !elf.has_crates {
        faults.push("crates are not listed: section .dep-v0 is missing, build with cargo auditable".to_owned());
    }
    for folder in [env!("CARGO_MANIFEST_DIR"), "/.cargo/registry/"] {
        if bytes.windows(folder.len()).any(|window| window == folder.as_bytes()) {
            faults.push(format!("it names a folder of the machine that built it: {folder}"));
        }
    }
    if bytes.len() > record.bytes_max {
        faults.push(format!("bytes_max is {}: the file has {}", record.bytes_max, bytes.len()));
    }
    faults
}

/// The programs in a folder and in those directly below it.
fn programs(folder: &Path) -> Vec<PathBuf> {
    let entries = |folder: &Path| -> Vec<PathBuf> {
        let entries = fs::read_dir(folder).expect("NEAP_ARTIFACTS is a folder");
        entries.map(|entry| entry.expect("a folder can be listed").path()).collect()
    };
    let (folders, mut files): (Vec<PathBuf>, Vec<PathBuf>) =
        entries(folder).into_iter().partition(|path| path.is_dir());
    files.extend(folders.iter().flat_map(|folder| entries(folder)));
    let is_program = |path: &PathBuf| {
        let mut magic = [0; 4];
        path.is_file()
            && fs::File::open(path).is_ok_and(|mut file| std::io::Read::read_exact(&mut file, &mut magic).is_ok())
            && magic == *b"\x7fELF"
    };
    let mut programs: Vec<PathBuf> = files.into_iter().filter(is_program).collect();
    programs.sort();
    programs
}

#[test]
fn the_record_has_every_target_and_asks_for_the_same_of_each() {
    let records = records();
    assert_eq!(records.keys().map(String::as_str).collect::<Vec<_>>(), TARGETS);
    for (target, record) in &records {
        let is_hard = record.pie && record.relro == "full" && record.nx && record.stripped && record.crates;
        assert!(is_hard && !record.text_relocations && !record.run_path, "{target}: {record:?}");
        let is_static = target.ends_with("-musl");
        assert_eq!(record.needed.is_empty(), is_static, "{target} is static or not");
        assert_eq!(record.glibc_max.is_none(), is_static, "{target} needs a glibc or not");
        assert_eq!(record.stack_protector, if is_static { "unseen" } else { "yes" }, "{target}");
        let is_arm = !target.starts_with("x86_64");
        // The static file is the one that any node can take; glibc reads the short list of addresses only since 2.36.
        let bytes_wanted = if target.ends_with("-musl") { 20_000_000 } else { 21_500_000 };
        assert!(!is_arm || record.bytes_max <= bytes_wanted, "{target}: at most {bytes_wanted} bytes on ARM");
    }
}

#[test]
fn the_binary_of_these_tests_is_hardened() {
    let bytes = fs::read(env!("CARGO_BIN_EXE_neap")).expect("the binary can be read");
    let elf = elf::read(&bytes).expect("the binary is a program");
    let Some(target) = target(&elf) else {
        eprintln!("\n!!! SKIPPED: the record has no target for machine {:?} !!!\n", elf.machine);
        return;
    };
    let faults = faults_of_any_build(&elf, &records()[target]);
    assert!(faults.is_empty(), "{target}: {faults:#?}");
}

#[test]
fn every_artifact_is_what_the_record_says() {
    let Some(folder) = std::env::var_os("NEAP_ARTIFACTS") else {
        eprintln!(
            "\n!!! SKIPPED: NEAP_ARTIFACTS names no folder of shipped binaries (packaging/build makes one) !!!\n"
        );
        return;
    };
    let programs = programs(Path::new(&folder));
    assert!(!programs.is_empty(), "there is no program in {}", folder.display());
    let records = records();
    let mut faults = Vec::new();
    for path in &programs {
        let bytes = fs::read(path).expect("a file can be read");
        let elf = elf::read(&bytes).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let Some(target) = target(&elf) else { panic!("{}: no target has {:?}", path.display(), elf.machine) };
        eprintln!("{}: {target}, {} bytes, glibc {:?}, {:?}", path.display(), bytes.len(), elf.glibc, elf.needed);
        let found = faults_of_a_shipped_file(&bytes, &elf, &records[target]);
        faults.extend(found.iter().map(|fault| format!("{}: {fault}", path.display())));
    }
    assert!(faults.is_empty(), "{faults:#?}");
}

// ---- does the check refuse? ----

const PROGRAM: &str = "\
#include <stdio.h>
#include <string.h>
int main(int count, char **words) { char text[64]; strncpy(text, words[0], 63); text[63] = 0; return puts(text) < count; }
";
/// A word in read-only memory that holds an address: the loader must write into code.
const RELOCATED_CODE: &str = "\
int value = 1;
__asm__(\".text\\n.globl place\\nplace: .quad value\\n\");
int main(void) { return value - 1; }
";

const GOOD: [&str; 8] =
    ["-O1", "-fPIE", "-pie", "-fstack-protector-all", "-Wl,-z,relro", "-Wl,-z,now", "-Wl,-z,noexecstack", "-s"];

/// Compiles a program with those flags after the good ones; `None`, said loudly, when there is no compiler.
fn compile(folder: &Path, source: &str, flags: &[&str]) -> Option<Vec<u8>> {
    fs::write(folder.join("program.c"), source).expect("a file can be written");
    let mut command = Command::new("cc");
    command.current_dir(folder).args(["program.c", "-o", "program"]).args(GOOD).args(flags);
    match command.output() {
        Err(error) => {
            let missing = format!("cc cannot be started ({error}): apt-get install gcc libc6-dev");
            assert!(std::env::var("CI").as_deref() != Ok("true"), "{missing}");
            eprintln!("\n!!! SKIPPED: {missing} !!!\n");
            None
        }
        Ok(output) => {
            assert!(output.status.success(), "{flags:?}: {}", String::from_utf8_lossy(&output.stderr));
            Some(fs::read(folder.join("program")).expect("the program was written"))
        }
    }
}

/// The record for programs of this machine's C compiler, which list no crates.
fn record_of(bytes: &[u8]) -> Option<(Elf, Record)> {
    let elf = elf::read(bytes).expect("a program");
    let record = target(&elf).and_then(|target| records().remove(target));
    Some((elf, Record { crates: false, glibc_max: Some("2.999".to_owned()), ..record? }))
}

#[test]
fn a_program_that_lacks_any_of_it_is_refused() {
    let folder = tempfile::tempdir().expect("a folder can be made");
    let Some(good) = compile(folder.path(), PROGRAM, &[]) else { return };
    let Some((elf, record)) = record_of(&good) else {
        eprintln!("\n!!! SKIPPED: the record has no target for programs of this machine's C compiler !!!\n");
        return;
    };
    assert_eq!(faults_of_a_shipped_file(&good, &elf, &record), Vec::<String>::new());
    for (flags, word) in [
        (&["-no-pie", "-fno-pie"][..], "pie"),
        (&["-Wl,-z,execstack"], "nx"),
        (&["-Wl,-z,lazy"], "relro is partial"),
        (&["-Wl,-z,norelro"], "relro is none"),
        (&["-Wl,-rpath,/opt/lib"], "run_path"),
        (&["-Wl,--no-as-needed", "-lresolv"], "needed"),
        (&["-fno-stack-protector"], "stack_protector"),
        (&["-static", "-no-pie", "-fno-pie"], "interpreter"),
    ] {
        let Some(bad) = compile(folder.path(), PROGRAM, flags) else { return };
        let faults = faults_of_a_shipped_file(&bad, &elf::read(&bad).expect("a program"), &record);
        assert!(faults.iter().any(|fault| fault.contains(word)), "{flags:?}: {faults:?}");
    }
    #[cfg(target_pointer_width = "64")]
    {
        let Some(bad) = compile(folder.path(), RELOCATED_CODE, &["-Wl,-z,notext"]) else { return };
        let faults = faults_of_a_shipped_file(&bad, &elf::read(&bad).expect("a program"), &record);
        assert!(faults.iter().any(|fault| fault.contains("text_relocations")), "{faults:?}");
    }
}

#[test]
fn what_a_shipped_file_must_have_besides_is_looked_for() {
    let folder = tempfile::tempdir().expect("a folder can be made");
    let Some(good) = compile(folder.path(), PROGRAM, &[]) else { return };
    let Some((elf, record)) = record_of(&good) else { return };
    let refused = |elf: &Elf, record: Record, word: &str| {
        let faults = faults_of_a_shipped_file(&good, elf, &record);
        assert!(faults.len() == 1 && faults[0].contains(word), "{word}: {faults:?}");
    };
    refused(&elf, Record { crates: true, ..record.clone() }, "crates");
    refused(&elf, Record { bytes_max: good.len() - 1, ..record.clone() }, "bytes_max");
    refused(&elf, Record { glibc_max: Some("2.1".to_owned()), ..record.clone() }, "glibc_max");
    let told = [&good[..], env!("CARGO_MANIFEST_DIR").as_bytes()].concat();
    let faults = faults_of_a_shipped_file(&told, &elf, &record);
    assert!(faults.len() == 1 && faults[0].contains("names a folder"), "{faults:?}");
    refused(&Elf { has_symbols: true, ..elf::read(&good).expect("a program") }, record, "stripped");
}

#[test]
fn a_file_that_was_cut_or_is_no_program_is_an_error() {
    let bytes = fs::read(env!("CARGO_BIN_EXE_neap")).expect("the binary can be read");
    for length in [0, 3, 4, 6, 17, 63, 64, 200, 1000, 4096, bytes.len() / 2] {
        assert!(elf::read(&bytes[..length]).is_err(), "cut to {length} bytes");
    }
    assert!(elf::read(b"#!/bin/sh\nexec neap \"$@\"\n").is_err());
}
