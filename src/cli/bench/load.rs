//! How soon does a reading become a decision, and how fast are readings read?
//!
//! Event to decision: the bench stamps an event and hands it to a source; the real sentinel (source, fusion, governor)
//! decides and notes when. In turn with that a thread of the same scheduling class does nothing but read the same kind
//! of socket: what is between the two is Neap's. Throughput: the parser of the push format over realistic datagrams, on
//! one thread, without a socket. The bytes that it allocates are counted.

mod bare;
mod figures;
mod gnb;
mod heard;
mod parser;
mod ways;

use std::time::Duration;

use super::machine::Machine;
use super::progress::Progress;
use super::{go_on, keep_interrupt};
use crate::cli::failure::Failure;
use crate::cli::out::Out;
use crate::cli::stage::node::Folder;
use crate::sim::day::Random;
use crate::sys::{clock, memory, sched, signal};

use figures::Figures;
use ways::{WAYS, Way};

/// Events of one way in one round.
const ROUND_EVENTS: u32 = 50;
/// Shortest rest before an event, in µs.
const REST_MIN_US: u64 = 300;
/// Span of chance above it: the phase of an event is random.
const REST_SPAN_US: u64 = 1_400;
/// Datagrams are parsed in this many rounds, of which the fastest counts: what else runs can only slow it down.
const PARSER_ROUNDS: u32 = 5;

/// Arguments of `neap bench load`.
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = "\
Examples:
  neap bench load
  neap bench load --events 20000
  neap bench load --json > load.json
  neap bench load --only push-unix --only shm

decision is the time from the moment right before an event is handed over to the moment at which the governor had
decided, by the real sentinel with that source; bare is the time to the moment at which a thread of the same scheduling
class has read the same kind of socket, in rounds that take turns with the others. added is the difference. A process that
does nothing is what is stopped. Run it as the agent runs, with the same user and rights.")]
pub(in crate::cli) struct Args {
    /// Print one JSON object
    #[arg(long)]
    json: bool,
    /// Events of each way in, and as many bare reads
    #[arg(long, value_name = "COUNT", default_value_t = 2_000)]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    events: u32,
    /// Only this way in; may be repeated [default: all]
    #[arg(long, value_name = "WAY", value_parser = ways::names())]
    only: Vec<String>,
    /// SCHED_FIFO priority of the thread that decides, as in the agent's configuration; 0: an ordinary thread.
    /// Without the right to it, it is an ordinary thread as well, and the output says so
    #[arg(long, value_name = "PRIORITY", default_value_t = 20)]
    #[arg(value_parser = clap::value_parser!(u8).range(0..=98))]
    priority: u8,
    /// Length of each of the five rounds of the parser, in milliseconds
    #[arg(long, value_name = "MS", default_value_t = 400, value_parser = clap::value_parser!(u32).range(10..=60_000))]
    parse_ms: u32,
}

pub(super) fn run(args: &Args) -> Result<(), Failure> {
    // Before any other thread is there, as in the agent: the sentinel hears of stops by this signal.
    signal::block_child_signal().map_err(|error| Failure::io("cannot block SIGCHLD", &error))?;
    let interrupt = keep_interrupt()?;
    let machine = Machine::begin();
    let mut figures = Figures::default();
    // No other thread is there yet: what is allocated now is the parser's.
    for _ in 0..PARSER_ROUNDS {
        go_on(&interrupt)?;
        figures.parsed(parser::round(Duration::from_millis(args.parse_ms.into())));
    }
    figures.memory_locked = memory::lock_all().is_ok();
    let folder = Folder::in_memory("bench").map_err(|error| Failure::io("cannot make a folder for sockets", &error))?;
    let ways: Vec<&Way> =
        WAYS.iter().filter(|way| args.only.is_empty() || args.only.iter().any(|w| w == way.key)).collect();
    let priority = (args.priority > 0).then_some(args.priority);
    let rounds = args.events.div_ceil(ROUND_EVENTS);
    let mut random = Random::new(clock::now().as_nanos());
    let mut progress = Progress::begin(u64::from(rounds) * ways.len() as u64);
    let mut done = 0;
    for round in 0..rounds {
        let due = |round| u64::from(args.events) * u64::from(round) / u64::from(rounds);
        for way in &ways {
            go_on(&interrupt)?;
            progress.at(done, way.name);
            let (before, until) = (due(round), due(round + 1));
            let turn = Turn { way, folder: folder.path(), priority, events: until - before, cores: &machine.cores };
            // Another one begins in each round, so that none is always the first.
            if round % 2 == 0 {
                turn.bare(&mut figures, &mut random)?;
                turn.heard(&mut figures, &mut random)?;
            } else {
                turn.heard(&mut figures, &mut random)?;
                turn.bare(&mut figures, &mut random)?;
            }
            done += 1;
        }
    }
    progress.end();
    let facts = machine.end(vec![("yield class", super::class_words(figures.class))]);
    let out = Out::stdout();
    if args.json { out.json(&figures.json(&facts)) } else { figures.tell(&out) }
}

/// One way's events of one round.
struct Turn<'a> {
    way: &'a Way,
    folder: &'a std::path::Path,
    priority: Option<u8>,
    events: u64,
    cores: &'a [usize],
}

impl Turn<'_> {
    /// The bare read.
    fn bare(&self, figures: &mut Figures, random: &mut Random) -> Result<(), Failure> {
        if self.events == 0 {
            return Ok(());
        }
        let mut reader = bare::Reader::start(self.way, self.folder, self.priority)?;
        self.bound(|| {
            for _ in 0..self.events {
                rest(random);
                figures.bare(self.way.key, reader.event()?);
            }
            Ok(())
        })
    }

    /// The real sentinel.
    fn heard(&self, figures: &mut Figures, random: &mut Random) -> Result<(), Failure> {
        if self.events == 0 {
            return Ok(());
        }
        let mut heard = heard::Heard::start(self.way, self.folder, self.priority)?;
        figures.class = heard.class();
        self.bound(|| {
            for _ in 0..self.events {
                heard.calm()?;
                rest(random);
                figures.decided(self.way.key, heard.event()?);
            }
            Ok(())
        })
    }

    /// Binds this thread, which hands the events over, to the first core while it does the work: threads that are
    /// started otherwise would inherit the bond.
    fn bound(&self, work: impl FnOnce() -> Result<(), Failure>) -> Result<(), Failure> {
        let failed = |error| Failure::io("cannot bind the bench's thread to a core", &error);
        sched::pin_self(self.cores.first().copied().unwrap_or(0)).map_err(failed)?;
        let done = work();
        sched::confine_self(self.cores).map_err(failed)?;
        done
    }
}

fn rest(random: &mut Random) {
    std::thread::sleep(Duration::from_micros(REST_MIN_US + random.below(REST_SPAN_US)));
}
