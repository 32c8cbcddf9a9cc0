//! Entry point: hands the arguments to [`neap::cli`] and its exit code to the system.

use std::process::ExitCode;

fn main() -> ExitCode {
    neap::cli::main(std::env::args_os())
}
