//! A worker process: `neap worker`, started by the agent with a socket as file descriptor 3.

use std::process::ExitCode;

use crate::worker::serve;

/// Arguments of `neap worker`; the worker reads them itself, so that nothing runs before it has given up its rights.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    arguments: Vec<std::ffi::OsString>,
}

pub(super) fn run(args: &Args) -> ExitCode {
    serve::main(args.arguments.clone())
}
