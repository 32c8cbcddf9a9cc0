//! How did a command end, and what did it say?
#![allow(dead_code, reason = "every test program uses a part of it")]

use std::process::{Command, Stdio};

use serde_json::Value;

/// Runs a command to its end, without an input; its exit code, standard output and standard error.
pub(crate) fn told(command: &mut Command) -> (Option<i32>, String, String) {
    let output = command.stdin(Stdio::null()).output().expect("the binary of this crate can be started");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code(), text(&output.stdout), text(&output.stderr))
}

/// The one JSON object on standard output.
pub(crate) fn json(stdout: &str, stderr: &str) -> Value {
    serde_json::from_str(stdout)
        .unwrap_or_else(|error| panic!("standard output is not one JSON object ({error}):\n{stdout}\n{stderr}"))
}
