//! Is the configuration right? `neap check`.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::failure::{Class, Failure};
use super::out::{Out, Tone};
use crate::agent::{floor, trust};
use crate::config::{Error, Settings};
use crate::link::settings::Transport;
use crate::trust::keyring::KeyRing;
use crate::worker::cgroup::{Had, Item};
use crate::worker::jail::achieved::Given;
use crate::worker::jail::{Policy, selftest};

/// A worker is this very program.
const WORKER: &str = "/proc/self/exe";

/// Arguments of `neap check`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  neap check /etc/neap/neap.toml
  neap check config/*.toml
  neap check --json --config /etc/neap/neap.toml

Every mistake is reported as file:line:column with what is allowed; the exit code is then 78.
Notes say what is legal but missing on this machine, such as a folder; they do not change it.
The sandbox line says how strong the one that workers are locked in is on this machine.
The transport line says who can read along on the way to the broker; certificates and keys are read and verified too.
Floor lines say what the kernel would hold the workers with, were the agent started from here: for each item yes,
nearly or no, and what to do. A group is made and removed to see; an agent that runs is not disturbed.")]
pub(super) struct Args {
    /// Files to check
    #[arg(value_name = "FILE", required_unless_present = "config")]
    files: Vec<PathBuf>,
    /// One more file, spelled as for `neap run`
    #[arg(short, long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// One JSON object a file
    #[arg(long)]
    json: bool,
}

/// Checks all files, even after a bad one.
pub(super) fn run(args: &Args) -> Result<(), Failure> {
    let out = Out::stdout();
    let mut class = None;
    for path in args.files.iter().chain(&args.config) {
        let found = check(&out, path, args.json)?;
        class = class.or(found);
    }
    class.map_or(Ok(()), |class| Err(Failure::told(class)))
}

/// Checks one file and tells what was found; the failure's class when it is not right.
pub(super) fn check(out: &Out, path: &Path, as_json: bool) -> Result<Option<Class>, Failure> {
    let read = Settings::read(path);
    if as_json {
        out.json(&report(path, &read))?;
        return Ok(read.err().map(|error| Failure::from(error).class));
    }
    match read {
        Ok(settings) => {
            for note in settings.surroundings() {
                out.line(&format!("{}: {} {note}", path.display(), out.paint(Tone::Warn, "note:")))?;
            }
            let mqtt = &settings.mqtt;
            let (what, tone) = match mqtt.transport() {
                Transport::Tls => ("tls: private, to a broker of the authority in ca_file", Tone::Good),
                Transport::PlainLocal => ("plain-local: in clear text, on this machine only", Tone::Good),
                Transport::PlainInsecure => ("plain-insecure: everybody on the way can read and change it", Tone::Warn),
            };
            let host = &mqtt.host;
            out.line(&format!("{}: {} {what} ({host}:{})", path.display(), out.paint(tone, "transport:"), mqtt.port))?;
            if let Some(keys) = &settings.trust.keys {
                let found = trust::read(keys).and_then(|text| KeyRing::parse(&text));
                let (tone, said) = match &found {
                    Ok(ring) => (
                        Tone::Good,
                        format!("{}, {} keys, seq {}", settings.trust.mode, ring.keys().count(), ring.seq()),
                    ),
                    Err(fault) => (Tone::Warn, fault.to_string()),
                };
                out.line(&format!("{}: {} {said}", path.display(), out.paint(tone, "trust:")))?;
            }
            let (tone, said) = sandbox_line(settings.sandbox);
            out.line(&format!("{}: {} {said}", path.display(), out.paint(tone, "sandbox:")))?;
            for item in floor::look(&settings).items() {
                let tone = match item.had {
                    Had::Yes => Tone::Good,
                    Had::Nearly | Had::No => Tone::Warn,
                };
                out.line(&format!("{}: {} {item}", path.display(), out.paint(tone, "floor:")))?;
            }
            out.line(&format!("{}: {}", path.display(), out.paint(Tone::Good, "right")))?;
            Ok(None)
        }
        Err(error) => {
            let failure = Failure::from(error);
            // A report of mistakes is what was asked for, but scripts that hide standard output must see it too.
            let class = failure.class;
            failure.report();
            Ok(Some(class))
        }
    }
}

/// How strong the sandbox of a worker is on this machine, and what is missing of it.
fn sandbox_line(policy: Policy) -> (Tone, String) {
    let found = match selftest::probe(Path::new(WORKER), policy) {
        Ok(found) => found,
        Err(why) => return (Tone::Warn, why),
    };
    let (level, strength) = (policy.level.as_str(), found.strength().as_str());
    if let Some(why) = found.unavailable() {
        return (Tone::Warn, format!("{strength}, {level} is asked for: {why}"));
    }
    let missing: Vec<String> =
        found.items().iter().filter(|item| item.given != Given::Yes).map(ToString::to_string).collect();
    if missing.is_empty() {
        return (Tone::Good, format!("{strength}, {level} is asked for"));
    }
    (Tone::Warn, format!("{strength}, {level} is asked for; {}", missing.join("; ")))
}

fn report(path: &Path, read: &Result<Settings, Error>) -> Value {
    let problems = match read {
        Ok(_) => Vec::new(),
        Err(Error::Invalid { problems }) => problems
            .iter()
            .map(|problem| json!({"line": problem.line, "column": problem.column, "text": problem.text}))
            .collect(),
        Err(error @ (Error::Unreadable { .. } | Error::TooLarge { .. })) => vec![json!({"text": error.to_string()})],
    };
    let item = |item: &Item| json!({"item": item.name, "had": item.had.as_str(), "text": item.text});
    let floor = read.as_ref().map(|settings| floor::look(settings).items().iter().map(item).collect::<Vec<_>>());
    let floor = floor.unwrap_or_default();
    let trust = read.as_ref().ok().map(|settings| settings.trust.mode.as_str());
    let notes = read.as_ref().map(Settings::surroundings).unwrap_or_default();
    let transport = read.as_ref().ok().map(|settings| settings.mqtt.transport().as_str());
    let probed =
        read.as_ref().ok().map(|settings| (settings.sandbox, selftest::probe(Path::new(WORKER), settings.sandbox)));
    let sandbox = probed.map(|(policy, found)| match found {
        Ok(found) => json!({
            "level": policy.level.as_str(),
            "strength": found.strength().as_str(),
            "landlock_abi": found.landlock_abi,
            "items": found.items().iter().map(ToString::to_string).collect::<Vec<_>>(),
        }),
        Err(why) => json!({"level": policy.level.as_str(), "unknown": why}),
    });
    json!({
        "file": path.display().to_string(),
        "valid": read.is_ok(),
        "problems": problems,
        "notes": notes,
        "transport": transport,
        "trust": trust,
        "sandbox": sandbox,
        "floor": floor,
    })
}
