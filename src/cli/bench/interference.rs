//! What does the radio feel? Missed deadlines and slot times of an emulated RAN, beside inference of several kinds.
//!
//! In each round every method has the same span of the same load on the same cores: nothing, Neap, the same inference at
//! SCHED_IDLE but never stopped, and at nice 0. Their order rotates from round to round, so that what changes with time
//! meets all of them, and medians over the rounds are compared.

mod findings;
mod judge;
mod stage;

use std::time::Duration;

use super::Common;
use super::latency::Latencies;
use super::machine::Machine;
use super::progress::Progress;
use crate::cli::failure::{Class, Failure};
use crate::cli::out::Out;
use crate::cli::ransim::{kind_parser, micros};
use crate::sim::ran::curve::Curve;
use crate::sim::ran::work::Kind;
use crate::sim::ran::{Ran, Settings};
use crate::sys::signal::Interrupt;
use crate::sys::{memory, sched, signal};
use crate::units::{Utilization, WORKERS_MAX};
use findings::{Findings, Prepared};
use judge::{Method, Rounds};
use stage::{Scene, Stage};

/// Rounds of a run that is long enough.
const ROUNDS: u32 = 7;
/// Rounds of a short one: with fewer nothing can be told from noise.
const ROUNDS_MIN: u32 = 3;
/// Shortest span of a method that is worth a round of its own.
const SPAN_WORTH: Duration = Duration::from_secs(2);
/// Methods in a round.
const METHODS: u32 = 4;
/// Mean length of the quiet spans of the load, unless the span of a method is short; busy ones have two thirds.
const QUIET_MAX: Duration = Duration::from_millis(600);

/// Buffer of the RAN's streaming work: larger than the caches of any base station.
const STREAM_BYTES: usize = 64 << 20;

/// Arguments of `neap bench interference`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  neap bench interference                                     about 2.5 minutes, on the last core
  neap bench interference --work bandwidth --report ran.html
  neap bench interference --fifo 30 --cores 2,3               as a DU that has SCHED_FIFO
  neap bench interference --seconds 600 --json > ran.json     more rounds' worth of slots

Missed slots, percentiles and inferences are medians over rounds; \"total\" in the JSON has the sums.")]
pub(super) struct Args {
    #[command(flatten)]
    common: Common,
    /// Time that is measured, in seconds, all methods and rounds together
    #[arg(long, value_name = "N", default_value_t = 140, value_parser = clap::value_parser!(u64).range(6..=36_000))]
    seconds: u64,
    /// Cores, each with a thread of the RAN and a worker [default: the last one]
    #[arg(long, value_name = "CORE,…", value_delimiter = ',')]
    cores: Vec<usize>,
    /// What the RAN does in a slot
    #[arg(long, value_name = "KIND", default_value = "cache", value_parser = kind_parser())]
    work: Kind,
    /// Length of a slot, and its deadline
    #[arg(long, value_name = "TIME", default_value = "1ms", value_parser = micros)]
    slot: Duration,
    /// Share of a slot that a load of 100 % takes on the quiet core
    #[arg(long, value_name = "PERCENT", default_value_t = 70, value_parser = clap::value_parser!(u8).range(1..=95))]
    peak: u8,
    /// Ask for SCHED_FIFO of this priority for the RAN, and of one less for the sentinel
    #[arg(long, value_name = "PRIORITY", value_parser = clap::value_parser!(u8).range(2..=99))]
    fifo: Option<u8>,
    /// Keep missed deadlines from the sentinel, which yields at each
    #[arg(long)]
    no_late: bool,
    /// The same seed gives the same load
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

pub(super) fn run(args: &Args) -> Result<(), Failure> {
    args.common.check_report()?;
    let model = args.common.find_model()?;
    let settings = args.settings()?;
    // For all methods alike: the sentinel wants both, and the RAN must not be another one beside it. Where they are
    // refused, stops are confirmed by timer, and pages may be missing.
    let _blocked = signal::block_child_signal();
    let interrupt = super::keep_interrupt()?;
    let _locked = memory::lock_all();
    let machine = Machine::begin();
    let ran = Ran::prepare(settings)?;
    let prepared = Prepared { settings: ran.settings().clone(), is_fifo: ran.is_fifo(), units: ran.unit_ns() };
    let mut stage = Stage::new(ran, &model)?;
    let plan = plan(Duration::from_secs(args.seconds));
    let (rounds, times) = play(args, plan, &mut stage, &interrupt)?;
    let facts = machine.end(findings::facts(&prepared, plan, &model, &stage.yields));
    let findings = Findings { rounds, times, facts };
    args.common.write_report(&findings.report(&prepared))?;
    let out = Out::stdout();
    if args.common.json { out.json(&findings.json()) } else { findings.print(&out) }
}

impl Args {
    fn settings(&self) -> Result<Settings, Failure> {
        let last = || sched::cores().last().copied().into_iter().collect();
        let cores: Vec<usize> = if self.cores.is_empty() { last() } else { self.cores.clone() };
        if cores.len() > WORKERS_MAX {
            let text = format!("--cores has {} cores, but at most {WORKERS_MAX} workers are possible", cores.len());
            return Err(Failure::new(Class::Usage, text));
        }
        let peak = Utilization::from_percent(self.peak);
        let peak = peak.ok_or_else(|| Failure::new(Class::Usage, format!("--peak {}: give 1 to 95", self.peak)))?;
        Ok(Settings {
            cores,
            slot: self.slot,
            deadline: self.slot,
            peak,
            work: self.work,
            cache_bytes: None,
            stream_bytes: STREAM_BYTES,
            priority: self.fifo,
        })
    }
}

/// How often, and for how long each method has its turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Rota {
    rounds: u32,
    span: Duration,
}

/// As many rounds as are worth it in that time.
fn plan(total: Duration) -> Rota {
    let rounds = if total >= SPAN_WORTH * METHODS * ROUNDS { ROUNDS } else { ROUNDS_MIN };
    Rota { rounds, span: total / (rounds * METHODS) }
}

/// The methods in the order of a round; over four rounds each has every place once.
fn order(round: u32) -> impl Iterator<Item = Method> {
    let first = usize::try_from(round).unwrap_or(0) % Method::ALL.len();
    Method::ALL.into_iter().cycle().skip(first).take(Method::ALL.len())
}

/// The load of a round: the same for all its methods.
fn curve(seed: u64, round: u32, span: Duration) -> Curve {
    let quiet = (span / 8).min(QUIET_MAX);
    Curve::bursty(seed.wrapping_mul(0x9e37_79b9).wrapping_add(u64::from(round)), quiet, quiet * 2 / 3)
}

/// Plays all rounds.
fn play(
    args: &Args,
    rota: Rota,
    stage: &mut Stage,
    interrupt: &Interrupt,
) -> Result<(Rounds, [Latencies; 4]), Failure> {
    let mut rounds = Rounds::default();
    let mut times = Method::ALL.map(|_| Latencies::default());
    let mut progress = Progress::begin(u64::from(rota.rounds * METHODS));
    let mut done = 0;
    for round in 0..rota.rounds {
        let scene = Scene {
            curve: curve(args.seed, round, rota.span),
            lasting: rota.span,
            tells_late: !args.no_late,
            // Below the RAN: what yields must not itself be in the way.
            sentinel_priority: args.fifo.map(|priority| priority - 1),
        };
        let mut samples = Vec::new();
        for method in order(round) {
            super::go_on(interrupt)?;
            progress.at(done, &format!("round {} of {}, beside {}", round + 1, rota.rounds, method.title()));
            let place = Method::ALL.into_iter().zip(&mut times).find(|(known, _)| *known == method);
            let (_, place) =
                place.ok_or_else(|| Failure::new(Class::Software, "a method of the bench has no place"))?;
            samples.push((method, stage.play(method, &scene, place)?));
            done += 1;
        }
        rounds.push(&samples);
    }
    progress.end();
    Ok((rounds, times))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_is_shared_out_to_the_last_method() {
        for (seconds, rounds) in [(6, ROUNDS_MIN), (55, ROUNDS_MIN), (56, ROUNDS), (140, ROUNDS), (36_000, ROUNDS)] {
            let total = Duration::from_secs(seconds);
            let rota = plan(total);
            assert_eq!(rota.rounds, rounds, "{seconds} s");
            let played = rota.span * rota.rounds * METHODS;
            assert!(played <= total && total - played < Duration::from_millis(1), "{seconds} s: {played:?}");
        }
    }

    #[test]
    fn each_round_has_every_method_once_and_each_method_leads_in_turn() {
        let orders: Vec<Vec<Method>> = (0..4).map(|round| order(round).collect()).collect();
        for place in 0..4 {
            let mut seen: Vec<&str> = orders.iter().map(|order| order[place].key()).collect();
            seen.sort_unstable();
            assert_eq!(seen, ["neap", "nice0", "none", "sched_idle"], "place {place}");
        }
        assert!(orders.iter().all(|order| order.len() == 4));
    }

    #[test]
    fn every_round_has_another_load_that_is_quiet_first() {
        let span = Duration::from_secs(5);
        assert_ne!(curve(1, 0, span), curve(1, 1, span));
        assert_eq!(curve(1, 3, span), curve(1, 3, span));
        assert!((0..20).all(|round| curve(9, round, span).at(Duration::ZERO).permille() < 300));
    }
}
