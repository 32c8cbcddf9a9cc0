//! What does a worker cost beside its inference? Its start, its sandbox, the look at a model before it is loaded.
//!
//! Starts: a worker is started as the agent starts it and says how long its sandbox took; the time until its first word
//! is measured from outside. Costs: each model is appraised, as an installed one is. Throughput: two workers of this
//! binary run the same model on the same core, in turn, one inside the sandbox and one outside; all else is the same, the
//! scheduling class included. The one outside is a process of the bench that runs the model's own golden inputs: nothing
//! that an agent is told, or finds in its configuration, starts one.

mod figures;
mod inside;
mod starts;

use std::path::Path;

use super::machine::Machine;
use super::progress::Progress;
use super::{Common, go_on, keep_interrupt};
use crate::cli::failure::{Class, Failure};
use crate::cli::out::Out;
use crate::model::library::Library;
use crate::model::verdict::{Limits, Outcome};
use crate::worker::appraisal::{self, Error};

use figures::Figures;

/// Arguments of `neap bench worker`.
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = "\
Examples:
  neap bench worker
  neap bench worker --json > worker.json
  neap bench worker --report worker.html --model speech
  neap bench worker --starts 500 --rounds 40          longer, for a machine that is not quiet

sandbox_us_p50 is what the sandbox adds to the start of a worker, ready_ms_p50 the time from its start to its first
word. preflight_ratio is the time of the look at a model's file over that of loading it, for the model where it is
largest. sandbox_throughput_ratio is the throughput inside the sandbox over that outside, both per CPU time, rounds of the
two in turn on the last core; --model chooses the model for it. Run it as the agent runs, with the same user and rights.")]
pub(in crate::cli) struct Args {
    #[command(flatten)]
    common: Common,
    /// Workers that are started and ended
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u32).range(3..=10_000))]
    starts: u32,
    /// Times that each model is appraised, of which the median counts
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=100))]
    appraisals: u32,
    /// Rounds inside and outside the sandbox
    #[arg(long, value_name = "N", default_value_t = 16, value_parser = clap::value_parser!(u32).range(2..=1_000))]
    rounds: u32,
    /// Length of each half of a round, in milliseconds
    #[arg(long, value_name = "MS", default_value_t = 1_000, value_parser = clap::value_parser!(u32).range(50..=60_000))]
    round_ms: u32,
}

pub(super) fn run(args: &Args) -> Result<(), Failure> {
    args.common.check_report()?;
    let model = args.common.find_model()?;
    let interrupt = keep_interrupt()?;
    let machine = Machine::begin();
    let library = Library::open(&model.folder).map_err(|error| Failure::new(Class::Io, error.to_string()))?;
    let entries: Vec<_> = library.entries().collect();
    let appraisals = u64::from(args.appraisals) * entries.len() as u64;
    // In steps of a start, of which an appraisal takes about a hundred.
    let mut progress = Progress::begin(u64::from(args.starts) + appraisals * 100 + u64::from(args.rounds) * 200);
    let mut figures = Figures::default();
    for start in 0..args.starts {
        go_on(&interrupt)?;
        progress.at(u64::from(start), "starting workers");
        figures.started(starts::one(&Limits::default())?);
    }
    let mut done = u64::from(args.starts);
    for entry in entries {
        for _ in 0..args.appraisals {
            go_on(&interrupt)?;
            progress.at(done, &format!("appraising {}", entry.manifest.name));
            let verdict = appraisal::appraise(Path::new("/proc/self/exe"), &Limits::default(), entry);
            match verdict.map_err(failed)?.outcome {
                Outcome::Accepted(cost) => figures.appraised(entry.manifest.name.as_str(), cost),
                // It costs nothing: it does not run.
                Outcome::Refused(fault) => figures.refused(entry.manifest.name.as_str(), &fault),
            }
            done += 100;
        }
    }
    let mut pair = inside::Pair::start(&model, machine.cores.last().copied().unwrap_or(0))?;
    for round in 0..args.rounds {
        go_on(&interrupt)?;
        progress.at(done, "running inside and outside the sandbox");
        figures.rounds.extend(pair.round(round, std::time::Duration::from_millis(args.round_ms.into()))?);
        done += 200;
    }
    drop(pair);
    progress.end();
    figures.model = model.name.to_string();
    let facts = machine.end(vec![("model for the throughput", figures.model.clone())]);
    args.common.write_report(&figures.report(&facts))?;
    let out = Out::stdout();
    if args.common.json { out.json(&figures.json(&facts)) } else { figures.tell(&out) }
}

fn failed(error: Error) -> Failure {
    let class = match &error {
        Error::File(_) | Error::NoInput { .. } => Class::Data,
        Error::Worker(_) => Class::Software,
        Error::Disturbed { .. } => Class::TemporaryFailure,
    };
    Failure::new(class, error.to_string())
}
