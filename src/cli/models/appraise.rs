//! What do the models of a folder cost on this machine, and do they work at all? `neap models appraise`.

use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::{Value, json};

use crate::agent::appraised;
use crate::cli::failure::{Class, Failure};
use crate::cli::out::{Out, Tone, clean};
use crate::config::Settings;
use crate::model::library::{Entry, Library};
use crate::model::verdict::{Cost, Limits, Outcome, Verdict, files};
use crate::worker::appraisal::{self, Error};

/// Where the agent looks when its configuration says nothing.
const STATE_DIR: &str = "/var/lib/neap";
/// Titles of the columns that [`cells`] fills.
pub(super) const HEAD: [&str; 4] = ["LOAD", "RUN", "WORST NODE", "MEMORY"];

/// Arguments of `neap models appraise`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  neap models appraise --config /etc/neap/neap.toml
  neap models appraise --config /etc/neap/neap.toml objects faces
  neap models appraise --dir models --json

Each model is loaded and run in a worker of its own, in the sandbox and under the limits of the node. The times are CPU
times of one core. With --config the verdicts are kept where the agent reads them at its next start or reload; it refuses
jobs for models that are refused here. Workers run at SCHED_IDLE, but nothing stops them for the RAN: appraise in a quiet
hour, or while the node is drained and its cells are locked. The exit code is 65 when a model is refused or a golden
case does not agree.")]
pub(super) struct Args {
    /// Only these models
    #[arg(value_name = "NAME")]
    names: Vec<String>,
    /// Folder of the models [default: from --config, else /usr/share/neap/models]
    #[arg(long, value_name = "FOLDER")]
    dir: Option<PathBuf>,
    /// Configuration of the agent
    #[arg(short, long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Folder in which the verdicts are kept [default: from --config, else they are not kept]
    #[arg(long, value_name = "FOLDER")]
    verdicts: Option<PathBuf>,
    /// One JSON object a model
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: &Args) -> Result<(), Failure> {
    let settings = args.config.as_deref().map(Settings::read).transpose()?;
    let dir = args.dir.clone().or_else(|| settings.as_ref().map(|settings| settings.models_dir.clone()));
    let dir = dir.unwrap_or_else(|| PathBuf::from("/usr/share/neap/models"));
    let library = Library::open(&dir).map_err(|error| Failure::new(Class::Io, error.to_string()))?;
    let wanted = args.wanted(&library, &dir)?;
    let kept = args.verdicts.clone();
    let kept = kept.or_else(|| settings.as_ref().map(|settings| files::folder_in(&settings.jobs.state_dir)));
    if let Some(folder) = &kept {
        // Before, not after the minutes that it takes.
        std::fs::create_dir_all(folder).map_err(|error| {
            Failure::io(&format!("cannot make the folder of verdicts {}", folder.display()), &error)
        })?;
    }
    let limits = settings.as_ref().map_or_else(Limits::default, appraised::limits);
    let worst_node_max = settings.as_ref().and_then(|settings| settings.worst_node_max);
    let bench = Bench { out: Out::stdout(), json: args.json, limits, kept, worst_node_max };
    bench.appraise(&wanted)
}

impl Args {
    fn wanted(&self, library: &Library, dir: &Path) -> Result<Vec<std::sync::Arc<Entry>>, Failure> {
        let all: Vec<&str> = library.entries().map(|entry| entry.manifest.name.as_str()).collect();
        if all.is_empty() {
            let text = format!("no model in {}: a model is a folder with a model.toml; check --dir", dir.display());
            return Err(Failure::new(Class::Data, text));
        }
        if let Some(name) = self.names.iter().find(|name| !all.contains(&name.as_str())) {
            let text = format!("no model {name:?} in {}: there are {}", dir.display(), all.join(", "));
            return Err(Failure::new(Class::Data, text));
        }
        let wants = |name: &str| self.names.is_empty() || self.names.iter().any(|wanted| wanted == name);
        Ok(library.entries().filter(|entry| wants(entry.manifest.name.as_str())).cloned().collect())
    }
}

struct Bench {
    out: Out,
    json: bool,
    limits: Limits,
    kept: Option<PathBuf>,
    worst_node_max: Option<Duration>,
}

impl Bench {
    fn appraise(&self, wanted: &[std::sync::Arc<Entry>]) -> Result<(), Failure> {
        let mut rows = Vec::new();
        let mut worst: Option<Class> = None;
        for (at, entry) in wanted.iter().enumerate() {
            remark(&format!("appraising {} ({} of {})", entry.manifest.name, at + 1, wanted.len()));
            let outcome = appraisal::appraise(Path::new("/proc/self/exe"), &self.limits, entry);
            if let (Ok(verdict), Some(folder)) = (&outcome, &self.kept) {
                files::write(folder, verdict).map_err(|error| {
                    Failure::io(&format!("cannot keep the verdict in {}", folder.display()), &error)
                })?;
            }
            let class = class(&outcome);
            // What is wrong with a model outweighs what may pass.
            worst = [worst, class].into_iter().flatten().min_by_key(|class| class.code());
            if self.json {
                self.out.json(&object(entry, &outcome))?;
            } else {
                rows.push(self.row(entry, &outcome));
            }
        }
        if !self.json {
            let mut head = vec!["MODEL", "VERSION"];
            head.extend(HEAD);
            head.extend(["GOLDEN", "VERDICT"]);
            self.out.table(&head, &rows)?;
        }
        match &self.kept {
            Some(folder) => {
                remark(&format!("kept in {}; the agent reads them at its next start or reload", folder.display()))
            }
            None => remark("not kept: name a folder with --verdicts, or the agent's configuration with --config"),
        }
        worst.map_or(Ok(()), |class| Err(Failure::told(class)))
    }

    fn row(&self, entry: &Entry, outcome: &Result<Verdict, Error>) -> Vec<String> {
        let mut row = vec![entry.manifest.name.to_string(), entry.manifest.version.to_string()];
        row.extend(cells(outcome.as_ref().ok()));
        let cost = outcome.as_ref().ok().and_then(Verdict::cost);
        row.push(cost.map_or_else(String::new, |cost| format!("{}/{}", cost.goldens.passed, cost.goldens.of)));
        row.push(match outcome {
            Ok(verdict) => match &verdict.outcome {
                Outcome::Accepted(cost) => self.remarks(cost),
                Outcome::Refused(fault) => {
                    format!("{} {}", self.out.paint(Tone::Bad, "refused"), clean(&fault.to_string(), 300))
                }
            },
            Err(error) => format!("{} {}", self.out.paint(Tone::Bad, "no verdict:"), clean(&error.to_string(), 300)),
        });
        row
    }

    fn remarks(&self, cost: &Cost) -> String {
        if let Some(mismatch) = &cost.goldens.mismatch {
            return format!("{} {}", self.out.paint(Tone::Bad, "wrong results:"), clean(mismatch, 200));
        }
        match cost.slow_node(self.worst_node_max) {
            Some(slow) => format!("accepted, but {}", clean(&slow, 300)),
            None => self.out.paint(Tone::Good, "accepted"),
        }
    }
}

/// The exit code that one outcome calls for.
fn class(outcome: &Result<Verdict, Error>) -> Option<Class> {
    match outcome {
        Ok(verdict) => match &verdict.outcome {
            Outcome::Accepted(cost) if cost.goldens.all_passed() => None,
            Outcome::Accepted(_) | Outcome::Refused(_) => Some(Class::Data),
        },
        Err(Error::File(_) | Error::NoInput { .. }) => Some(Class::Data),
        Err(Error::Worker(_)) => Some(Class::Software),
        Err(Error::Disturbed { .. }) => Some(Class::TemporaryFailure),
    }
}

/// Load, run, worst node and memory for people; empty where nothing is known.
pub(super) fn cells(verdict: Option<&Verdict>) -> [String; 4] {
    let Some(verdict) = verdict else { return Default::default() };
    let Some(cost) = verdict.cost() else { return ["refused".to_owned(), String::new(), String::new(), String::new()] };
    let worst = &cost.worst_node;
    #[expect(clippy::cast_precision_loss, reason = "two digits are shown")]
    let memory = format!("{:.1} MB", cost.plan_bytes as f64 / 1e6);
    [show(cost.load), show(cost.run_p50), format!("{} {}", show(worst.time), clean(&worst.op, 24)), memory]
}

/// What is known of the models, for `neap models list`.
pub(super) fn known(library: Library, settings: Option<&Settings>) -> Library {
    let state_dir = settings.map_or_else(|| PathBuf::from(STATE_DIR), |settings| settings.jobs.state_dir.clone());
    let limits = settings.map_or_else(Limits::default, appraised::limits);
    library.with_verdicts(&files::folder_in(&state_dir), &appraisal::terms(limits))
}

/// The verdict as it is added to the objects of `neap models list --json`; null when there is none.
pub(super) fn cost(verdict: Option<&Verdict>) -> Value {
    let Some(verdict) = verdict else { return Value::Null };
    match &verdict.outcome {
        Outcome::Accepted(cost) => json!({
            "load_ms": millis(cost.load),
            "preflight_us": micros(cost.preflight),
            "run_us_p50": micros(cost.run_p50),
            "run_us_max": micros(cost.run_max),
            "worst_node_us": micros(cost.worst_node.time),
            "worst_node": {"name": cost.worst_node.name, "op": cost.worst_node.op},
            "nodes": cost.nodes,
            "memory_bytes": cost.plan_bytes,
            "rss_bytes": cost.rss_bytes,
            "golden": {"passed": cost.goldens.passed, "of": cost.goldens.of, "mismatch": cost.goldens.mismatch},
        }),
        Outcome::Refused(fault) => json!({"refused": {"code": fault.code.as_str(), "message": fault.message}}),
    }
}

fn object(entry: &Entry, outcome: &Result<Verdict, Error>) -> Value {
    let manifest = &entry.manifest;
    let (verdict, detail) = match outcome {
        Ok(verdict) if verdict.cost().is_some() => ("accepted", None),
        Ok(_) => ("refused", None),
        Err(error) => ("none", Some(error.to_string())),
    };
    json!({
        "name": manifest.name.as_str(), "version": manifest.version, "digest": manifest.digest.to_string(),
        "verdict": verdict, "detail": detail, "cost": cost(outcome.as_ref().ok()),
    })
}

fn remark(text: &str) {
    // Nobody reads it: not our problem.
    let _closed = writeln!(io::stderr(), "neap models: {text}");
}

fn show(span: Duration) -> String {
    let us = span.as_micros();
    if us < 1_000 { format!("{us} µs") } else { format!("{:.1} ms", millis(span)) }
}

fn millis(span: Duration) -> f64 {
    (span.as_secs_f64() * 1e6).round() / 1e3
}

fn micros(span: Duration) -> u64 {
    u64::try_from(span.as_micros()).unwrap_or(u64::MAX)
}
