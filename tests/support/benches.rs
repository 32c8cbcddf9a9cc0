//! What do tests of `neap bench` do again and again? Start one, read what it said, and make it a folder of models to take.
#![allow(dead_code, reason = "every test program uses a part of it")]

use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::Value;

/// Runs that bench to its end; its exit code, standard output and standard error.
pub(crate) fn run(bench: &str, arguments: &[&str]) -> (Option<i32>, String, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_neap"));
    command.args(["bench", bench]).args(arguments).stdin(Stdio::null());
    let output = command.output().expect("the binary of this crate can be started");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code(), text(&output.stdout), text(&output.stderr))
}

/// The one JSON object on standard output.
pub(crate) fn json(stdout: &str, stderr: &str) -> Value {
    serde_json::from_str(stdout)
        .unwrap_or_else(|error| panic!("standard output is not one JSON object ({error}):\n{stdout}\n{stderr}"))
}

/// Copies a folder with all that is in it.
pub(crate) fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).expect("a folder can be made");
    for entry in std::fs::read_dir(from).expect("a folder").map(|entry| entry.expect("an entry")) {
        let to = to.join(entry.file_name());
        match entry.path().is_dir() {
            true => copy(&entry.path(), &to),
            false => _ = std::fs::copy(entry.path(), to).expect("a file can be copied"),
        }
    }
}
