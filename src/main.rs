//! Entry point.

use std::process::ExitCode;

fn main() -> ExitCode {
    let mut arguments = std::env::args_os().skip(1);
    if arguments.next().is_some_and(|first| first == "worker") {
        return neap::worker::serve::main(arguments);
    }
    ExitCode::SUCCESS
}
