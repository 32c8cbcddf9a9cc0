//! The agent: `neap run`.

use std::io::IsTerminal as _;
use std::path::PathBuf;

use super::failure::{Class, Failure};
use super::{check, out::Out};
use crate::config::Settings;
use crate::fault::Code;
use crate::sentinel;
use crate::{agent, sys, telemetry};

/// Arguments of `neap run`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  neap run --config /etc/neap/neap.toml
  neap run --config /etc/neap/neap.toml --check      check the configuration and stop

Signals: SIGTERM or SIGINT ends the agent within two seconds, SIGHUP reloads what can be reloaded.")]
pub(super) struct Args {
    /// Configuration file
    #[arg(short, long, value_name = "FILE", default_value = "/etc/neap/neap.toml")]
    config: PathBuf,
    /// Only check the configuration
    #[arg(long)]
    check: bool,
}

pub(super) fn run(args: &Args) -> Result<(), Failure> {
    if args.check {
        let found = check::check(&Out::stdout(), &args.config, false)?;
        return found.map_or(Ok(()), |class| Err(Failure::told(class)));
    }
    // Before any thread exists: threads inherit the mask, and a worker's end must reach the agent alone.
    sys::signal::block_child_signal()
        .and_then(|()| sys::signal::block_file_size_signal())
        .map_err(|error| Failure::new(Class::Software, format!("cannot block SIGCHLD and SIGXFSZ: {error}")))?;
    let settings = Settings::read(&args.config)?;
    // Before any thread exists, too: threads and workers inherit the cores.
    agent::floor::keep_off_reserved_cores(&settings).map_err(failed)?;
    let colour = std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    telemetry::init(&settings.log.level, settings.log.format, colour)
        .map_err(|error| Failure::new(Class::Software, error.to_string()))?;
    for note in settings.surroundings() {
        tracing::warn!("{note}");
    }
    let path = args.config.clone();
    let reload = Box::new(move || Settings::read(&path));
    agent::run(settings, reload).map_err(failed)
}

/// The exit code says whether starting the agent again can help: 78 needs an operator, 74 and 75 may pass.
fn failed(error: agent::Error) -> Failure {
    let class = match &error {
        // Another agent that may be about to end holds the state or a socket.
        agent::Error::Store(fault) if fault.code == Code::StateLocked => Class::TemporaryFailure,
        agent::Error::Sentinel(sentinel::Error::Load(_)) => Class::TemporaryFailure,
        agent::Error::Store(_) => Class::Io,
        agent::Error::Models { .. } | agent::Error::Link(_) | agent::Error::Password(_) => Class::Config,
        agent::Error::Cgroup(_) | agent::Error::Cores { .. } => Class::Config,
        agent::Error::Sentinel(sentinel::Error::Policy(_) | sentinel::Error::TooManySources(_)) => Class::Config,
        agent::Error::Sentinel(sentinel::Error::System { .. }) | agent::Error::System { .. } => Class::Software,
    };
    Failure::new(class, error.to_string())
}
