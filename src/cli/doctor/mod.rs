//! What does this machine give Neap, and what is missing? `neap doctor`.
//!
//! In reading order: `facts` reads the kernel's files below a root folder, `verdicts` judges them (pure), `live` tries
//! what only a try can tell. `neap check` looks at a configuration; this looks at what is below it.

mod facts;
mod live;
mod verdicts;

#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use self::facts::Facts;
use self::verdicts::{Finding, Verdict};
use super::failure::{Class, Failure};
use super::out::{Out, Tone};
use crate::config::Settings;
use crate::sys::seccomp;

/// Arguments of `neap doctor`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  neap doctor                                          the kernel and the machine
  neap doctor --config /etc/neap/neap.toml             and the node's cores, groups, disk, models
  neap doctor --config /etc/neap/neap.toml --online    and whether its broker can be reached
  neap doctor --json | jq '.items[] | select(.verdict != \"ok\")'

Run it as the user, and with the limits, that the agent has: systemd-run -p User=neap ... neap doctor.
Every item is ok, weaker (Neap works, a promise is smaller) or missing (a part does not work), with what that means and
what to do. Exit code 0 unless something is missing, then 69. It changes nothing: with --config a cgroup is made and
removed, and a small file is written and removed in the state folder.")]
pub(super) struct Args {
    /// Configuration of the node's agent
    #[arg(short, long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Also open a connection to the broker, without speaking to it
    #[arg(long, requires = "config")]
    online: bool,
    /// One JSON object
    #[arg(long)]
    json: bool,
}

/// Looks at everything and tells it.
pub(super) fn run(args: &Args) -> Result<(), Failure> {
    let settings = args.config.as_deref().map(Settings::read).transpose()?;
    let harvest = settings.as_ref().map(|settings| settings.workers.cores.clone()).unwrap_or_default();
    let facts = Facts { seccomp_refused: !seccomp::can_end_processes(), ..Facts::read(Path::new("/")) };
    let mut findings = verdicts::judge(&facts, &harvest);
    findings.extend(live::machine());
    if let Some(settings) = &settings {
        findings.extend(live::node(settings));
        if args.online {
            findings.push(live::broker(&settings.mqtt.host, settings.mqtt.port));
        }
    }
    tell(&Out::stdout(), &findings, args.json)?;
    match findings.iter().any(|finding| finding.verdict == Verdict::Missing) {
        true => Err(Failure::told(Class::Unavailable)),
        false => Ok(()),
    }
}

fn tell(out: &Out, findings: &[Finding], as_json: bool) -> Result<(), Failure> {
    let count = |verdict| findings.iter().filter(|finding| finding.verdict == verdict).count();
    let [ok, weaker, missing] = [Verdict::Ok, Verdict::Weaker, Verdict::Missing].map(count);
    if as_json {
        let items: Vec<Value> = findings.iter().map(machine).collect();
        return out.json(&json!({"ok": ok, "weaker": weaker, "missing": missing, "items": items}));
    }
    for finding in findings {
        let tone = match finding.verdict {
            Verdict::Ok => Tone::Good,
            Verdict::Weaker => Tone::Warn,
            Verdict::Missing => Tone::Bad,
        };
        let word = out.paint(tone, &format!("{:7}", finding.verdict.as_str()));
        out.line(&format!("{word}  {:22}  {}", finding.item, super::out::clean(&finding.found, 400)))?;
        if finding.verdict != Verdict::Ok {
            out.line(&format!("{:33}{}", "", finding.meaning))?;
            out.line(&out.paint(Tone::Dim, &format!("{:33}-> {}", "", finding.remedy)))?;
        }
    }
    out.line(&out.paint(Tone::Strong, &format!("{ok} ok, {weaker} weaker, {missing} missing")))
}

fn machine(finding: &Finding) -> Value {
    json!({
        "item": finding.item, "verdict": finding.verdict.as_str(), "found": finding.found,
        "meaning": finding.meaning, "remedy": finding.remedy,
    })
}
