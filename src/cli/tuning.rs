//! Which thresholds are in force, and which would be better? `neap tuning`, from the status socket of the agent.

use std::path::PathBuf;

use serde_json::Value;

use super::failure::{Class, Failure};
use super::out::{Out, clean};
use super::yields::fetch;
use crate::config::{STATUS_SOCKET, Settings};
use crate::link::messages::{TuningChange, TuningFigures, TuningState};

/// Longest sentence that is shown, in characters.
const TEXT_CHARS_MAX: usize = 600;

/// Arguments of `neap tuning`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  neap tuning                                   the agent of this machine
  neap tuning --config config/lab.toml
  neap tuning --json | jq .suggested.text

What is suggested is brought into force by writing it into [governor], or by [tuning] mode = \"auto\".
A reload (systemctl reload neap) takes back what was tuned: the configured figures are in force again,
for a day at least, and with mode = \"suggest\" for good.")]
pub(super) struct Args {
    /// Status socket of the agent [default: /run/neap/status.sock]
    #[arg(long, value_name = "PATH", conflicts_with = "config")]
    socket: Option<PathBuf>,
    /// Configuration of the agent, which names the socket
    #[arg(short, long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// The agent's answer, one JSON object
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: &Args) -> Result<(), Failure> {
    let socket = match &args.config {
        Some(config) => Settings::read(config)?.status.socket,
        None => args.socket.clone().unwrap_or_else(|| PathBuf::from(STATUS_SOCKET)),
    };
    let body = fetch::get(&socket, "/tuning")?;
    let foreign = |why: String| {
        let text = format!("the answer is not that of an agent of this version ({why}): use the neap that runs there");
        Failure::new(Class::Data, text)
    };
    let out = Out::stdout();
    if args.json {
        let value: Value = serde_json::from_slice(&body).map_err(|error| foreign(error.to_string()))?;
        return out.json(&value);
    }
    let state = TuningState::parse(&body).map_err(|error| foreign(error.to_string()))?;
    out.line(&lines(&state).join("\n"))
}

fn lines(state: &TuningState) -> Vec<String> {
    let mut lines = vec![format!("mode        {}", clean(&state.mode, 20))];
    lines.push(format!("configured  {}", figures(&state.configured)));
    let same = if state.in_force == state.configured { "as configured".to_owned() } else { figures(&state.in_force) };
    lines.push(format!("in force    {same}"));
    let intent =
        state.max_evictions_per_day.map_or_else(|| "none".to_owned(), |max| format!("at most {max} evictions a day"));
    lines.push(format!("intent      {intent}"));
    lines.push(match (state.evictions_per_day, state.harvest_ratio) {
        (Some(evictions), Some(harvest)) => {
            let harvest = harvest * 100.0;
            format!(
                "found       {evictions:.1} evictions a day, harvest {harvest:.1} % over {:.1} days of load",
                state.days
            )
        }
        (_, _) => format!("found       nothing yet: {:.1} days of load are known, one is needed", state.days),
    });
    lines.extend(state.suggested.iter().map(|change| format!("suggested   {}", told(change))));
    lines.extend(state.changes.iter().rev().map(|change| format!("changed     {}", told(change))));
    lines
}

fn figures(figures: &TuningFigures) -> String {
    let TuningFigures { busy_above, idle_below, settle_s } = figures;
    format!("busy_above {busy_above} %, idle_below {idle_below} %, settle_s {settle_s}")
}

fn told(change: &TuningChange) -> String {
    format!("{}  {}", change.at, clean(&change.text, TEXT_CHARS_MAX))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::units::WallTime;

    #[test]
    fn it_tells_what_is_in_force_and_why() {
        let configured = TuningFigures { busy_above: 40.0, idle_below: 15.0, settle_s: 30.0 };
        let state = TuningState { mode: "auto".into(), configured, in_force: configured, ..TuningState::default() };
        let text = lines(&state).join("\n");
        assert!(text.contains("in force    as configured") && text.contains("found       nothing yet"), "{text}");
        let change = TuningChange {
            in_force: true,
            text: "tuning: settle 30 s → 120 s: 9.0\u{1b}[2J evictions".into(),
            at: WallTime::from_millis(0),
        };
        let in_force = TuningFigures { settle_s: 120.0, ..configured };
        let found = (Some(4.25), Some(0.513));
        let state = TuningState {
            in_force,
            changes: vec![change],
            evictions_per_day: found.0,
            harvest_ratio: found.1,
            days: 3.0,
            ..state
        };
        let text = lines(&state).join("\n");
        assert!(text.contains("settle_s 120") && text.contains("harvest 51.3 % over 3.0 days"), "{text}");
        assert!(text.contains("changed     1970-01-01T00:00:00.000Z  tuning: settle 30 s"), "{text}");
        assert!(!text.contains('\u{1b}'), "{text:?}");
    }
}
