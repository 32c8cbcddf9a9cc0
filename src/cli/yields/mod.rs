//! How fast does a node give way? `neap yields`, from the status socket of the agent on this machine.

mod fetch;
mod guarding;
mod picture;

use std::env;
use std::io::{self, IsTerminal as _};
use std::path::PathBuf;
use std::thread;
use std::time::Duration;

use serde_json::Value;

use super::failure::{Class, Failure};
use super::out::Out;
use crate::config::{STATUS_SOCKET, Settings};
use crate::link::messages::Yields;
use picture::Glyphs;

/// Time between two pictures of `--watch`.
const WATCH_EVERY: Duration = Duration::from_secs(1);

/// Arguments of `neap yields`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  neap yields                                   the agent of this machine
  neap yields --config config/lab.toml --watch  again every second, until interrupted
  neap yields --json | jq .metrics.worst

The latency of a yield is counted from the stamp of the load sample to the moment at which the last
worker is known to have stopped: detect (stamp to receipt), decide (receipt to decision), stop
(decision to confirmed stop). Quantiles are off by a hundredth at most and never too low, the worst
case is exact. Yields above 500 us are looked into: what the kernel's exact clocks show is told as
explained, what was only counted (faults, steal, interrupts) as possible, the rest as unexplained.
With --json the output is the agent's answer, one object a line.")]
pub(super) struct Args {
    /// Status socket of the agent [default: /run/neap/status.sock]
    #[arg(long, value_name = "PATH", conflicts_with = "config")]
    socket: Option<PathBuf>,
    /// Configuration of the agent, which names the socket
    #[arg(short, long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// The agent's answer, one JSON object a line
    #[arg(long)]
    json: bool,
    /// Again every second, until interrupted
    #[arg(long)]
    watch: bool,
    /// No characters beyond ASCII [default: as the locale says]
    #[arg(long)]
    ascii: bool,
}

pub(super) fn run(args: &Args) -> Result<(), Failure> {
    let socket = socket(args)?;
    let out = Out::stdout();
    let glyphs = if args.ascii || !speaks_utf8(|name| env::var(name).ok()) { Glyphs::Ascii } else { Glyphs::Blocks };
    loop {
        let body = fetch::get(&socket, "/yields")?;
        if args.json {
            let value: Value = serde_json::from_slice(&body).map_err(|error| foreign(&error.to_string()))?;
            out.json(&value)?;
        } else {
            let yields = Yields::parse(&body).map_err(|error| foreign(&error.to_string()))?;
            let clear = args.watch && io::stdout().is_terminal();
            let picture = picture::draw(&out, &yields, glyphs).join("\n");
            // In one write, so that a terminal never shows half of it.
            out.line(&if clear { format!("\x1b[H\x1b[J{picture}") } else { picture })?;
        }
        if !args.watch {
            return Ok(());
        }
        thread::sleep(WATCH_EVERY);
    }
}

fn socket(args: &Args) -> Result<PathBuf, Failure> {
    let Some(config) = &args.config else {
        return Ok(args.socket.clone().unwrap_or_else(|| PathBuf::from(STATUS_SOCKET)));
    };
    let status = Settings::read(config)?.status;
    if !status.enabled {
        let text = format!(
            "{}: [status] enabled = false: its agent shows nothing; set it to true and restart the agent",
            config.display()
        );
        return Err(Failure::new(Class::Config, text));
    }
    Ok(status.socket)
}

fn foreign(why: &str) -> Failure {
    let text = format!("the answer is not that of an agent of this version ({why}): use the neap that runs there");
    Failure::new(Class::Data, text)
}

/// Whether the locale's characters are those of UTF-8: the first variable that is set decides.
fn speaks_utf8(variable: impl Fn(&str) -> Option<String>) -> bool {
    let names = ["LC_ALL", "LC_CTYPE", "LANG"];
    let locale = names.into_iter().filter_map(variable).find(|value| !value.is_empty()).unwrap_or_default();
    let locale = locale.to_ascii_lowercase();
    locale.contains("utf-8") || locale.contains("utf8")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_locale_variable_that_is_set_decides() {
        let with = |set: &'static [(&str, &str)]| {
            speaks_utf8(|name| set.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned()))
        };
        assert!(with(&[("LANG", "en_GB.UTF-8")]) && with(&[("LC_ALL", ""), ("LC_CTYPE", "C.utf8")]));
        assert!(!with(&[]) && !with(&[("LC_ALL", "C"), ("LANG", "en_GB.UTF-8")]));
    }
}
