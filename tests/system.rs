//! Does a whole machine give what Neap promises? Kernels of Debian, PREEMPT_RT included, boot under qemu-system with
//! nothing but our binary, a broker and a shell: real cgroups with all controllers, Landlock, seccomp and SCHED_FIFO.
//!
//! Minutes of emulation, so only where somebody asks for it; "cargo test" alone says that it was left out:
//!
//! ```text
//! apt-get install --no-install-recommends qemu-system-x86 qemu-system-arm cpio
//! NEAP_SYSTEM_TESTS=1 cargo test --test system amd64
//! tests/arm/cargo build --target aarch64-unknown-linux-gnu --no-default-features
//! NEAP_SYSTEM_TESTS=1 NEAP_SYSTEM_BINARY_AARCH64=$PWD/target/aarch64-unknown-linux-gnu/debug/neap cargo test --test system arm64
//! ```
//!
//! Of the other architecture come the binary from `NEAP_SYSTEM_BINARY_AARCH64` (or `_X86_64`), and the test executables
//! from the folder `debug` in `NEAP_SYSTEM_TESTS_AARCH64` (`cargo test --no-run`); an armv7 binary for the 64-bit kernel
//! from `NEAP_SYSTEM_BINARY_ARMV7`. `NEAP_SYSTEM_SUITE=trixie` takes the kernels of another release. Everything that a
//! machine wrote is kept in `target/tmp/system`. Nothing here says how fast anything is.
//!
//! `machine` boots, `archive` packs, `executables` finds the test executables, `story` judges.

#[path = "system/archive.rs"]
mod archive;
#[path = "system/executables.rs"]
mod executables;
#[path = "system/machine.rs"]
mod machine;
#[path = "system/story.rs"]
mod story;

use std::path::{Path, PathBuf};

use archive::Archive;
use executables::{Executable, stripped};
use machine::{AMD64, ARM64, Flavour, RT_AMD64, RT_ARM64, Report};
use serde_json::Value;

/// The tests that ask the kernel for what a build machine mostly refuses; by the file, with the parts that are run.
const TESTS: [(&str, &str, &[&str]); 6] = [
    ("unit", "src/lib.rs", &UNITS),
    ("cgroups", "tests/cgroups.rs", &[]),
    ("sandbox", "tests/sandbox.rs", &[]),
    ("strength", "tests/sandbox_strength.rs", &[]),
    ("memory", "tests/memory_pressure.rs", &[]),
    ("procfs", "tests/procfs_host.rs", &[]),
];
/// Of the unit tests those of what the kernel gives. The others need no other kernel, and some of them real time.
const UNITS: [&str; 10] = [
    "worker::cgroup",
    "worker::jail",
    "sys::join",
    "sys::process",
    "sys::sched",
    "sys::seccomp",
    "sys::shared",
    "sys::usage",
    "sentinel::tests::frozen",
    "sentinel::tests::slow",
];

/// Whether somebody asked for it; says loudly when not.
fn is_wanted() -> bool {
    let is_wanted = std::env::var("NEAP_SYSTEM_TESTS").as_deref() == Ok("1");
    if !is_wanted {
        eprintln!("\n!!! SKIPPED: whole machines take minutes: NEAP_SYSTEM_TESTS=1 cargo test --test system !!!\n");
    }
    is_wanted
}

fn named(variable: &str, architecture: &str) -> Option<PathBuf> {
    std::env::var_os(format!("{variable}_{}", architecture.to_uppercase())).map(PathBuf::from)
}

/// The binary for that architecture.
fn binary(architecture: &str) -> PathBuf {
    let own = || (architecture == std::env::consts::ARCH).then(|| PathBuf::from(env!("CARGO_BIN_EXE_neap")));
    named("NEAP_SYSTEM_BINARY", architecture).or_else(own).unwrap_or_else(|| {
        panic!("no binary for {architecture}: name one in NEAP_SYSTEM_BINARY_{}", architecture.to_uppercase())
    })
}

/// What every machine has.
fn node(binary: &Path) -> Archive {
    let tree = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut archive = Archive::default();
    archive.program("usr/bin/neap", stripped(binary));
    for model in std::fs::read_dir(tree.join("models")).expect("there are models").flatten() {
        if model.path().join("model.toml").is_file() {
            archive.folder(Path::new("models").join(model.file_name()), &model.path());
        }
    }
    archive.file("etc/neap/neap.toml", include_bytes!("system/neap.toml"));
    archive
}

/// The doctor's and the sandbox's word, and the life of an agent of each of these users.
fn story(users: &[&str]) -> Vec<(&'static str, String)> {
    let mut steps = vec![
        ("doctor", "echo \"NEAP-SEE doctor $(neap doctor --json)\"".to_owned()),
        ("sandbox", "echo \"NEAP-SEE sandbox $(neap worker --selftest-sandbox --json)\"".to_owned()),
    ];
    let agent = |user: &&str| format!("WHO={user}\n{}", include_str!("system/agent"));
    let names = users.iter().map(|user| if *user == "root" { "the-agent" } else { "the-agent-without-root" });
    steps.extend(names.zip(users.iter().map(agent)));
    steps
}

/// Boots a machine in which an agent lives.
fn a_machine_runs_yields_and_resumes(flavour: Flavour, users: &[&str]) -> Report {
    let steps = story(users);
    let report = machine::run(flavour, flavour.name, &node(&binary(flavour.architecture)), &steps);
    story::every_layer_is_there(&report, flavour.is_realtime);
    for user in users {
        let (name, is_root) = if *user == "root" { ("the-agent", true) } else { ("the-agent-without-root", false) };
        story::the_agent_ran_gave_way_and_went_on(report.step(name), flavour.is_realtime, is_root);
    }
    report
}

/// Boots a machine in which the tests run that a build machine skips; there a skip is a failure.
fn the_tests_pass_in_a_machine(flavour: Flavour) {
    let own = || Path::new(env!("CARGO_BIN_EXE_neap")).parent().map(Path::to_owned);
    let folder = named("NEAP_SYSTEM_TESTS", flavour.architecture)
        .or_else(|| own().filter(|_| flavour.architecture == std::env::consts::ARCH));
    let folder = folder.unwrap_or_else(|| {
        panic!("no test executables: name their folder in NEAP_SYSTEM_TESTS_{}", flavour.architecture.to_uppercase())
    });
    let mut archive = node(&binary(flavour.architecture));
    let mut steps = Vec::new();
    for (name, source, filters) in TESTS {
        let executable = Executable::find(&folder, source);
        executable.put(name, &mut archive);
        steps.push((name, executable.script(name, filters)));
    }
    let report = machine::run(flavour, &format!("{}-tests", flavour.name), &archive, &steps);
    for (name, _) in steps {
        let output = &report.step(name).output;
        assert!(!output.contains("SKIPPED"), "{name}: nothing may be skipped on a whole machine:\n{output}");
        let ran = output.lines().find_map(|line| line.strip_prefix("test result: ok. ")).unwrap_or_default();
        assert!(!ran.is_empty() && !ran.starts_with("0 passed"), "{name}: no test was run:\n{output}");
    }
}

#[test]
fn an_amd64_machine_runs_yields_and_resumes() {
    if is_wanted() {
        a_machine_runs_yields_and_resumes(AMD64, &["root", "neap"]);
    }
}

#[test]
fn an_amd64_preempt_rt_machine_runs_yields_and_resumes() {
    if is_wanted() {
        a_machine_runs_yields_and_resumes(RT_AMD64, &["root"]);
    }
}

#[test]
fn an_arm64_machine_runs_yields_and_resumes() {
    if is_wanted() {
        a_machine_runs_yields_and_resumes(ARM64, &["root", "neap"]);
    }
}

#[test]
fn an_arm64_preempt_rt_machine_runs_yields_and_resumes() {
    if is_wanted() {
        a_machine_runs_yields_and_resumes(RT_ARM64, &["neap"]);
    }
}

#[test]
fn the_tests_of_sandbox_and_cgroups_pass_in_an_amd64_machine() {
    if is_wanted() {
        the_tests_pass_in_a_machine(AMD64);
    }
}

#[test]
fn the_tests_of_sandbox_and_cgroups_pass_in_an_arm64_machine() {
    if is_wanted() {
        the_tests_pass_in_a_machine(ARM64);
    }
}

/// Boots a machine in which a node that does nothing is looked at.
///
/// Sizes and counts are real under emulation; times are not, so `start_to_ready_ms` is not looked at.
fn an_idle_node_is_lean_in_a_machine(flavour: Flavour, name: &str, archive: &Archive) {
    const LOOK: &str = "mount -t tracefs none /sys/kernel/tracing\n\
        neap bench footprint --json --dir /tmp --models /models >/tmp/footprint 2>/tmp/words || { cat /tmp/words; exit 1; }\n\
        echo \"NEAP-SEE footprint $(cat /tmp/footprint)\"";
    let steps = [("footprint", LOOK.to_owned())];
    let report = machine::run(flavour, &format!("{name}-footprint"), archive, &steps);
    let figures: Value = serde_json::from_str(report.step("footprint").saw("footprint")[0]).expect("JSON");
    eprintln!("{figures:#}");
    let agent = &figures["agent"];
    assert!(agent["idle"]["system_calls_per_s"].as_f64().is_some_and(|calls| calls < 100.0), "{figures:#}");
    let workers = figures["workers"].as_object().expect("workers");
    assert!(workers.len() >= 5 && workers.values().all(|memory| !memory.is_null()), "{figures:#}");
    // What a development build weighs says nothing of what is shipped; what a file may weigh is for tests/hardening.rs.
    if figures["reached"]["executable"].is_boolean() {
        assert_eq!(figures["reached"]["agent_memory"], true, "{figures:#}");
    }
}

#[test]
fn an_idle_node_is_lean_in_an_amd64_machine() {
    if is_wanted() {
        an_idle_node_is_lean_in_a_machine(AMD64, AMD64.name, &node(&binary("x86_64")));
    }
}

#[test]
fn an_idle_node_is_lean_in_an_arm64_machine() {
    if is_wanted() {
        an_idle_node_is_lean_in_a_machine(ARM64, ARM64.name, &node(&binary("aarch64")));
    }
}

/// What a machine with a 64-bit ARM kernel and 32-bit programs has, where there is such a binary.
fn node_of_32_bit() -> Option<Archive> {
    let Some(binary) = named("NEAP_SYSTEM_BINARY", "armv7") else {
        eprintln!("\n!!! SKIPPED: no armv7 binary: name one in NEAP_SYSTEM_BINARY_ARMV7 !!!\n");
        return None;
    };
    let mut archive = node(&binary);
    archive.also.push("armhf");
    Some(archive)
}

#[test]
fn an_idle_node_of_32_bit_is_lean_in_an_arm64_machine() {
    if let Some(archive) = is_wanted().then(node_of_32_bit).flatten() {
        an_idle_node_is_lean_in_a_machine(ARM64, "armv7", &archive);
    }
}

#[test]
fn a_32_bit_binary_is_locked_in_by_a_64_bit_arm_kernel() {
    let Some(archive) = is_wanted().then(node_of_32_bit).flatten() else { return };
    let report = machine::run(ARM64, "armv7-on-arm64", &archive, &story(&[]));
    let saw = |step: &str| -> Value { serde_json::from_str(report.step(step).saw(step)[0]).expect("JSON") };
    let (doctor, selftest) = (saw("doctor"), saw("sandbox"));
    assert_eq!(doctor["missing"], 0, "{doctor}");
    let attempts = selftest["attempts"].as_array().expect("attempts");
    assert!(attempts.len() >= 40 && attempts.iter().all(|attempt| attempt["denied"] == true), "{selftest}");
}
