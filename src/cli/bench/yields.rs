//! How soon is inference gone when the load rises? `neap bench yield`.
//!
//! Workers run a real model; load comes at random phases; the time from the moment right before it is handed over to the
//! last instruction that any worker executed is measured (see [`super::page`] for how that is known). Neap is measured
//! in the same run, in turns, with the least that any program can do (the bare floor) and with what people use today.

mod bare;
mod method;
pub(super) mod sentinels;
mod show;
mod stage;
mod tally;
mod today;
mod witness;

use super::Common;
use super::crew::{Class, Crew, Model, Plan};
use super::machine::Machine;
use super::progress::Progress;
use crate::cli::failure::{Class as FailureClass, Failure};
use crate::cli::out::Out;
use crate::cli::stage::node::Folder;
use crate::sys::signal::Interrupt;
use crate::sys::{clock, memory, signal};
use crate::units::WORKERS_MAX;
use bare::{Floor, Freezer};
use method::Method;
use sentinels::Watched;
use show::Outcome;
use stage::Stage;
use tally::Tally;
use witness::Witness;

/// Name of the sentinel's thread.
const SENTINEL: &str = "neap-sentinel";

/// Arguments of `neap bench yield`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  neap bench yield --report yield.html
  neap bench yield --events 2000                     about a minute
  neap bench yield --json --workers 2 > yield.json

Each figure is the time from the moment right before the load is handed over to the last instruction that any worker
executed. In turns, in the same run:
  floor          a thread of the sentinel's class that does nothing but futex-wait and tgkill
  shm push udp   the real sentinel, told through shared memory, a Unix datagram, UDP
  cgroup_freeze  a thread that writes 1 to cgroup.freeze and does nothing else (a quarter of the events)
  poll_stop      a script that reads /proc/stat once a second and sends kill -STOP (3 to 20 events)
  nice19         nobody stops: a normal thread is busy on the core of a nice 19 worker for one second; the last
                 instruction that the worker executed within that second (3 to 20 events)

Events that met a computing worker, whose last instruction cannot be known, are repeated and counted as unseen.
It needs two cores: workers run on the last allowed ones, the load comes from the first.")]
pub(super) struct Args {
    #[command(flatten)]
    common: Common,
    /// Load events of each quick method
    #[arg(long, value_name = "COUNT", default_value_t = 20_000)]
    #[arg(value_parser = clap::value_parser!(u64).range(1..=10_000_000))]
    events: u64,
    /// Workers that run at once, each on a core of its own
    #[arg(long, value_name = "COUNT", default_value_t = 1)]
    #[arg(value_parser = clap::value_parser!(u8).range(1..=WORKERS_MAX as i64))]
    workers: u8,
    /// SCHED_FIFO priority of the thread that stops, as in the agent's configuration; 0: an ordinary thread.
    /// Without the right to it, it is an ordinary thread as well, and the report says so
    #[arg(long, value_name = "PRIORITY", default_value_t = 20)]
    #[arg(value_parser = clap::value_parser!(u8).range(0..=98))]
    priority: u8,
}

pub(super) fn run(args: &Args) -> Result<(), Failure> {
    let machine = Machine::begin();
    let model = args.common.find_model()?;
    args.common.check_report()?;
    // Before any other thread is there, as in the agent: the sentinel hears of stops by this signal.
    signal::block_child_signal().map_err(|error| Failure::io("cannot block SIGCHLD", &error))?;
    let interrupt = super::keep_interrupt()?;
    let outcome = Bench::prepare(args, &machine, &model)?.measure(&interrupt)?;
    let facts = machine.end(outcome.facts());
    if args.common.report.is_some() {
        args.common.write_report(&outcome.report(&facts))?;
    }
    let out = Out::stdout();
    if args.common.json {
        return out.json(&outcome.json(&facts));
    }
    outcome.print(&out, &facts)?;
    args.common.report.as_ref().map_or(Ok(()), |path| out.line(&format!("\nreport: {}", path.display())))
}

/// Everything that runs.
struct Bench {
    stage: Stage,
    /// Workers that are only nice; stopped except in their own turn.
    nice: Crew,
    priority: Option<u8>,
    folder: Folder,
    outcome: Outcome,
}

impl Bench {
    fn prepare(args: &Args, machine: &Machine, model: &Model) -> Result<Self, Failure> {
        let cores = machine.cores.clone();
        let workers = usize::from(args.workers);
        if cores.len() < 2 || workers > cores.len() {
            let text = format!(
                "{workers} worker(s) and the load need {} cores, this process may use {}: allow more (taskset, cpuset) or \
                 lower --workers",
                workers.max(2),
                cores.len()
            );
            return Err(Failure::new(FailureClass::Unavailable, text));
        }
        let its: Vec<usize> = cores.iter().rev().take(workers).copied().collect();
        let start = |class, cores| Crew::start(&Plan { model, class, cores, stamps: true });
        let nice = start(Class::Nice19, &its[..1])?;
        pause(&nice)?;
        let crew = start(Class::Idle, &its)?;
        pause(&crew)?;
        // As the agent does. Without the right to it, pages may be missing, in every method alike.
        let memory_locked = memory::lock_all().is_ok();
        let began = clock::now();
        let mut outcome = Outcome::new(args.events, model, its, cores.first().copied().unwrap_or(0), memory_locked);
        outcome.inference_ns = crew.members.first().map_or(0, |member| member.page.inference_ns());
        let stage = Stage::new(crew, cores, began, began.as_nanos());
        let folder =
            Folder::in_memory("bench").map_err(|error| Failure::io("cannot make a folder for the sockets", &error))?;
        let priority = (args.priority > 0).then_some(args.priority);
        Ok(Self { stage, nice, priority, folder, outcome })
    }

    fn measure(mut self, interrupt: &Interrupt) -> Result<Outcome, Failure> {
        let rounds = method::rounds(self.outcome.events);
        let methods = Method::ALL.len() as u64;
        let mut progress = Progress::begin(rounds * methods);
        for round in 0..rounds {
            for turn in 0..methods {
                // Another one begins in each round, so that none is always the first.
                let index = usize::try_from((round + turn) % methods).unwrap_or(0);
                let method = Method::ALL[index];
                super::go_on(interrupt)?;
                progress.at(round * methods + turn, method.name());
                let mut tally = std::mem::take(self.outcome.tally_mut(method));
                let due = |round| method::due(method.events(self.outcome.events), round, rounds);
                let before = round.checked_sub(1).map_or(0, due);
                let due = due(round);
                let done = if due > before { self.turn(method, &mut tally, due) } else { Ok(()) };
                *self.outcome.tally_mut(method) = tally;
                done?;
            }
        }
        progress.end();
        Ok(self.outcome)
    }

    /// One method's turn in a round: until `due` events are counted. Workers are stopped before and after.
    fn turn(&mut self, method: Method, tally: &mut Tally, due: u64) -> Result<(), Failure> {
        let Self { stage, nice, priority, folder, outcome } = self;
        match method {
            Method::Floor => {
                let mut floor = Floor::start(*priority, &stage.crew)?;
                outcome.floor_class = Some(floor.class());
                let witness = |_: &Stage| Witness::of(witness::thread_named(bare::THREAD));
                play(stage, &mut floor, witness, tally, due)?;
            }
            // A way in that never worked is told, and costs no more than its first turn.
            Method::Shm | Method::Push | Method::Udp if tally.missing.is_some() => {}
            Method::Shm | Method::Push | Method::Udp => {
                let mut watched = Watched::start(method, folder.path(), *priority, &stage.crew)?;
                outcome.class = watched.class();
                let witness = |_: &Stage| Witness::of(witness::thread_named(SENTINEL));
                match play(stage, &mut watched, witness, tally, due) {
                    Err(failure) if failure.class == FailureClass::TemporaryFailure && tally.times.count() == 0 => {
                        tally.missing = Some(failure.text);
                    }
                    played => played?,
                }
            }
            Method::CgroupFreeze => match Freezer::start(*priority, &stage.crew) {
                Ok(mut freezer) => {
                    let witness = |_: &Stage| Witness::of(witness::thread_named(bare::THREAD));
                    play(stage, &mut freezer, witness, tally, due)?;
                }
                Err(why) => tally.missing = Some(why),
            },
            Method::PollStop => today::poll_stop(stage, tally)?,
            Method::Nice19 => today::nice19(stage, nice, tally, &mut outcome.beside)?,
        }
        // Thawed or continued by whoever had them last.
        pause(&stage.crew)
    }
}

fn play(
    stage: &mut Stage,
    stopper: &mut impl stage::Stopper,
    witness: impl FnOnce(&Stage) -> Witness,
    tally: &mut Tally,
    due: u64,
) -> Result<(), Failure> {
    stage.bound(|stage| {
        // Opened by the bound thread, whose own waiting it counts too.
        let witness = witness(stage);
        stage.round(stopper, &witness, tally, due)
    })
}

/// Stops a crew and waits for it.
fn pause(crew: &Crew) -> Result<(), Failure> {
    for member in &crew.members {
        signal::stop_process(member.pid).map_err(|error| Failure::io("cannot stop a worker", &error))?;
    }
    let until = clock::now().after(stage::WAIT_MAX);
    for member in &crew.members {
        while !stage::is_stopped(member)? {
            if clock::now() >= until {
                return Err(stage::out_of_time("stopped", stage::WAIT_MAX));
            }
            std::thread::sleep(stage::SETTLE);
        }
    }
    Ok(())
}
