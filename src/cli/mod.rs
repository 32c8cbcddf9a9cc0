//! What can a person type? One file per subcommand, each with `Args` and `run`.
//!
//! Exit codes are those of `sysexits.h`, listed in [`failure`]. What a machine may read is behind `--json`; progress
//! and remarks go to standard error, results to standard output.

mod bench;
mod cancel;
mod check;
#[cfg(feature = "demo")]
pub mod demo;
mod doctor;
pub mod failure;
mod feed;
mod follow;
mod jobs;
mod key;
mod models;
mod order;
mod out;
mod outlook;
mod pm;
mod ransim;
mod record;
mod recordings;
mod replay;
mod result;
mod run;
mod session;
mod show;
mod sign;
mod signer;
mod span;
mod stage;
mod submit;
mod target;
mod tuning;
mod watch;
mod worker;
mod yields;

use std::ffi::OsString;
use std::future::Future;
use std::io;
use std::process::ExitCode;

use clap::{CommandFactory as _, Parser, Subcommand};

use failure::{Class, Failure};

/// Runs ONNX inference in the traffic troughs of a base station and yields the instant the RAN wants its cores back.
#[derive(Debug, Parser)]
#[command(name = "neap", version, max_term_width = 110, after_help = examples(cfg!(feature = "demo")))]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

/// What the help ends with, in a build with or without the demo.
fn examples(demo: bool) -> String {
    let demo = if demo { DEMO_EXAMPLE } else { "" };
    format!("Examples:\n{demo}{EXAMPLES}")
}

const DEMO_EXAMPLE: &str = "  neap demo                                   everything at work, nothing to set up\n";

const EXAMPLES: &str = "  neap check --config /etc/neap/neap.toml     is the configuration right?
  neap run --config /etc/neap/neap.toml       the agent of a node
  neap submit --node north/cell-17 --model objects --input picture.jpg --wait

Exit codes: 0 done, 64 wrong usage, 65 wrong data or a job that failed, 69 unreachable,
70 defect of this program, 74 input or output failed, 75 try again later, 77 not allowed,
78 wrong configuration";

#[derive(Debug, Subcommand)]
enum Command {
    /// Shows everything at work: a broker, a base station's day, the agent, real jobs.
    #[cfg(feature = "demo")]
    Demo(demo::Args),
    /// Runs the agent of a node.
    Run(run::Args),
    /// Checks configuration files.
    Check(check::Args),
    /// Tells what this machine gives Neap and what is missing, with the remedy.
    Doctor(doctor::Args),
    /// Sends a job to a node.
    Submit(Box<submit::Args>),
    /// Lists the jobs of a node.
    Jobs(jobs::Args),
    /// Shows what came of a job.
    Result(result::Args),
    /// Takes jobs back.
    Cancel(cancel::Args),
    /// Tells a node to answer, to drain, to hold still, to go on.
    Order(order::Args),
    /// Makes keys, and key rings for nodes.
    Key(key::Args),
    /// Signs an order, for any MQTT client to send.
    Sign(sign::Args),
    /// Shows what happens on the nodes right now.
    Watch(watch::Args),
    /// Shows how much core time a node expects to have free in the next hours.
    Outlook(outlook::Args),
    /// Shows how fast the agent of this machine gave way, and what delayed it.
    Yields(yields::Args),
    /// Shows which thresholds are in force on this machine, which would be better, and why.
    Tuning(tuning::Args),
    /// Pushes load by hand, as a RAN would.
    Feed(feed::Args),
    /// Stands in for a DU: threads with real work and a deadline in every slot.
    Ransim(Box<ransim::Args>),
    /// Records what load sources say, and turns recordings into one another.
    Record(record::Args),
    /// Replays recordings with governor and queue, a day in milliseconds.
    Replay(replay::Args),
    /// Shows what measurement files of a base station say about its load.
    Pm(pm::Args),
    /// Lists, verifies and tests the models of a folder.
    Models(models::Args),
    /// Measures on this machine how well inference gives way.
    Bench(bench::Args),
    /// Runs a model for ever; started by a bench only.
    #[command(hide = true)]
    BenchWorker(bench::seat::Args),
    /// Serves as a worker process; started by the agent only.
    #[command(hide = true)]
    Worker(worker::Args),
}

/// All that can be typed, for manual pages and completions.
pub fn command() -> clap::Command {
    Cli::command()
}

/// Parses the arguments, carries the command out, and gives the exit code.
pub fn main(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let cli = match Cli::try_parse_from(arguments) {
        Ok(cli) => cli,
        Err(error) => {
            // Help and version come this way as well; a closed pipe is no failure.
            let _ = error.print();
            return if error.use_stderr() { ExitCode::from(Class::Usage.code()) } else { ExitCode::SUCCESS };
        }
    };
    let done = match cli.command {
        #[cfg(feature = "demo")]
        Command::Demo(args) => return demo::run(&args),
        Command::Run(args) => run::run(&args),
        Command::Check(args) => check::run(&args),
        Command::Doctor(args) => doctor::run(&args),
        Command::Submit(args) => submit::run(&args),
        Command::Jobs(args) => jobs::run(&args),
        Command::Result(args) => result::run(&args),
        Command::Cancel(args) => cancel::run(&args),
        Command::Order(args) => order::run(&args),
        Command::Key(args) => key::run(&args),
        Command::Sign(args) => sign::run(&args),
        Command::Watch(args) => watch::run(&args),
        Command::Outlook(args) => outlook::run(&args),
        Command::Yields(args) => yields::run(&args),
        Command::Tuning(args) => tuning::run(&args),
        Command::Feed(args) => feed::run(&args),
        Command::Ransim(args) => ransim::run(&args),
        Command::Record(args) => record::run(&args),
        Command::Replay(args) => replay::run(&args),
        Command::Pm(args) => pm::run(&args),
        Command::Models(args) => models::run(&args),
        Command::Bench(args) => bench::run(&args),
        Command::BenchWorker(args) => return bench::seat::run(&args),
        Command::Worker(args) => return worker::run(&args),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report(),
    }
}

/// Runs a command that waits for the network, on this thread.
fn block_on<T>(work: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let failed = |error: io::Error| Failure::new(Class::Software, format!("cannot start the runtime: {error}"));
    runtime.map_err(failed)?.block_on(work)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The words of a command line up to what is the shell's, or its explanation beside it. Quotes keep spaces.
    fn words(line: &str) -> Vec<String> {
        let (mut words, mut word, mut quote) = (Vec::new(), None::<String>, None);
        let mut characters = line.chars().peekable();
        while let Some(character) = characters.next() {
            match (quote, character) {
                (Some(open), _) if open == character => quote = None,
                (None, '\'' | '"') => {
                    quote = Some(character);
                    word.get_or_insert_default();
                }
                (None, ' ') if characters.peek() == Some(&' ') => break,
                (None, '|' | '>' | '<' | '&' | ';' | '#') => break,
                (None, ' ') => words.extend(word.take()),
                (Some(_) | None, _) => word.get_or_insert_default().push(character),
            }
        }
        words.extend(word);
        words
    }

    /// The command lines in the help of a command and of those below it.
    fn shown(command: &clap::Command) -> Vec<Vec<String>> {
        let help = command.get_after_help().map(ToString::to_string).unwrap_or_default();
        let lines = help.lines().filter_map(|line| line.strip_prefix("  "));
        let begin = |line: &str| if line.starts_with("neap ") { Some(0) } else { Some(line.find("| neap ")? + 2) };
        let own = lines.filter_map(|line| begin(line).map(|at| words(&line[at..])));
        own.chain(command.get_subcommands().flat_map(shown)).collect()
    }

    #[test]
    fn every_example_of_every_help_is_understood_by_this_build() {
        let examples = shown(&command());
        assert!(examples.len() > 60, "only {}", examples.len());
        for example in examples {
            let understood = command().try_get_matches_from(&example);
            assert!(understood.is_ok(), "{example:?}: {}", understood.err().map(|e| e.to_string()).unwrap_or_default());
        }
    }

    #[test]
    fn the_demo_is_shown_only_where_there_is_one() {
        assert!(examples(true).starts_with("Examples:\n  neap demo ") && !examples(false).contains("demo"));
        assert!(examples(false).starts_with("Examples:\n  neap check "), "{}", examples(false));
    }
}
