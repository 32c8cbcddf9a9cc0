//! What do tests of `neap bench` do again and again? Start one, read what it said, and make it a folder of models to take.
#![allow(dead_code, unused_imports, reason = "every test program uses a part of it")]

use std::process::Command;

#[path = "files.rs"]
mod files;
#[path = "told.rs"]
mod told;

pub(crate) use files::copy;
pub(crate) use told::{json, told};

/// That bench, to be run.
pub(crate) fn command(bench: &str, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_neap"));
    command.args(["bench", bench]).args(arguments);
    command
}

/// Runs that bench to its end; its exit code, standard output and standard error.
pub(crate) fn run(bench: &str, arguments: &[&str]) -> (Option<i32>, String, String) {
    told(&mut command(bench, arguments))
}
