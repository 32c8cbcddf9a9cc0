//! How good is it on this machine? `neap bench`, meant to be run by an operator on the target.
//!
//! One file per bench. They share [`crew`] (worker processes that run a real model for ever and tell through a shared
//! [`page`] what they do), [`latency`] (histograms), [`machine`] (what the figures were taken on), [`progress`] and
//! [`report`] (a self-contained HTML page, its pictures drawn by [`chart`]).

pub(super) mod chart;
pub(super) mod crew;
mod footprint;
mod harvest;
mod inferences;
mod interference;
mod jobs;
mod latency;
mod load;
mod machine;
mod page;
mod progress;
pub(super) mod report;
pub(super) mod seat;
mod worker;
mod yields;

use std::path::PathBuf;

use super::failure::{Class, Failure};
use super::models;
use crate::model::library::{Entry, Library};
use crate::sentinel::YieldClass;
use crate::sys::signal::Interrupt;
use crate::units::Name;

/// Arguments of `neap bench`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  neap bench yield --report yield.html     how soon is inference gone when the load rises?
  neap bench harvest                       how much of the troughs becomes inference?
  neap bench interference                  how many deadlines does a RAN miss beside inference?
  neap bench jobs                          how many jobs a second does a node accept for good?
  neap bench worker                        what does a worker cost beside its inference?
  neap bench load                          how soon does a reading become a decision?
  neap bench inferences --count 100        what does one inference take, counted from outside?
  neap bench footprint                     what does a node cost that does nothing?

Run it as the agent runs: with the same user and rights, on the same cores, beside whatever runs there.")]
pub(super) struct Args {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, clap::Subcommand)]
enum Action {
    /// How soon is inference gone when the load rises?
    Yield(yields::Args),
    /// How much of the troughs becomes inference?
    Harvest(harvest::Args),
    /// What does the radio feel? Missed deadlines and slot times beside inference.
    Interference(interference::Args),
    /// How many jobs a second does a node accept for good?
    Jobs(jobs::Args),
    /// What does a worker cost beside its inference?
    Worker(worker::Args),
    /// How soon does a reading become a decision, and how fast are readings read?
    Load(load::Args),
    /// What does one inference take? For those who count from outside
    Inferences(inferences::Args),
    /// What does a node cost that does nothing? Size, memory, start, system calls.
    Footprint(footprint::Args),
}

/// Goes on with a bench unless somebody wants it to end: what it has made is then cleared away on the way out.
fn go_on(interrupt: &Interrupt) -> Result<(), Failure> {
    if interrupt.came() {
        return Err(Failure::new(Class::TemporaryFailure, "interrupted: there are no figures of half a bench"));
    }
    Ok(())
}

/// The class of a thread that was to be as quick as the sentinel, in the kernel's words; `None`: there was none.
fn class_words(class: Option<YieldClass>) -> String {
    match class {
        Some(YieldClass::Fifo(priority)) => format!("SCHED_FIFO {priority}"),
        Some(YieldClass::ShortSlice) => "SCHED_OTHER, slice of 100 µs".to_owned(),
        Some(YieldClass::Other) => "SCHED_OTHER".to_owned(),
        None => "not started".to_owned(),
    }
}

/// Keeps Ctrl-C until [`go_on`] asks for it. Before any other thread is there.
fn keep_interrupt() -> Result<Interrupt, Failure> {
    Interrupt::keep().map_err(|error| Failure::io("cannot keep SIGINT", &error))
}

/// What every bench can be told.
#[derive(Clone, Debug, clap::Args)]
pub(super) struct Common {
    /// Print one JSON object
    #[arg(long)]
    pub(super) json: bool,
    /// Write a self-contained HTML report to this file
    #[arg(long, value_name = "FILE")]
    pub(super) report: Option<PathBuf>,
    /// Model that the workers run
    #[arg(long, value_name = "NAME", default_value = "objects")]
    pub(super) model: Name,
    /// Folder of the models [default: that of the sources, beside the program, or /usr/share/neap/models]
    #[arg(long, value_name = "FOLDER")]
    pub(super) models: Option<PathBuf>,
}

impl Common {
    /// Finds the model that the workers are to run.
    ///
    /// # Errors
    /// When there is no folder of models, no such model in it, or nothing to feed it with.
    pub(super) fn find_model(&self) -> Result<crew::Model, Failure> {
        let folder = models::folder_of(self.models.as_ref())?;
        let entry = find(&folder, &self.model)?;
        if entry.manifest.goldens.is_empty() {
            let text = format!("model {} has no golden input to run; choose another with --model NAME", self.model);
            return Err(Failure::new(Class::Data, text));
        }
        Ok(crew::Model { folder, name: self.model.clone() })
    }

    /// Fails early when the report could not be written in the end.
    ///
    /// # Errors
    /// When the file cannot be made.
    pub(super) fn check_report(&self) -> Result<(), Failure> {
        let Some(path) = &self.report else { return Ok(()) };
        let made = std::fs::OpenOptions::new().create(true).append(true).open(path);
        made.map(drop).map_err(|error| Failure::io(&format!("cannot write the report {}", path.display()), &error))
    }

    /// Writes the report, when one is wanted.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub(super) fn write_report(&self, report: &report::Report) -> Result<(), Failure> {
        let Some(path) = &self.report else { return Ok(()) };
        let written = std::fs::write(path, report.render());
        written.map_err(|error| Failure::io(&format!("cannot write the report {}", path.display()), &error))
    }
}

/// The model of that name in a folder of models.
fn find(folder: &std::path::Path, name: &Name) -> Result<std::sync::Arc<Entry>, Failure> {
    let library = Library::open(folder).map_err(|error| Failure::new(Class::Io, error.to_string()))?;
    Ok(library.find(name, None, None)?)
}

pub(super) fn run(args: &Args) -> Result<(), Failure> {
    match &args.action {
        Action::Yield(args) => yields::run(args),
        Action::Harvest(args) => harvest::run(args),
        Action::Interference(args) => interference::run(args),
        Action::Jobs(args) => jobs::run(args),
        Action::Worker(args) => worker::run(args),
        Action::Load(args) => load::run(args),
        Action::Inferences(args) => inferences::run(args),
        Action::Footprint(args) => footprint::run(args),
    }
}
