//! How much of the troughs becomes inference? CPU time that the workers get, over what a process gets that nobody
//! manages.
//!
//! A base station's day is played 600 times as fast to the real agent, in its shipped proportions: the governor's
//! limits are those of `config/neap.toml` and its waits a 600th of them, so `settle_s = 30` is 50 ms of played time. What
//! a start or a resume costs is not shortened, so it weighs 600 times what it weighs on a node. Rounds alternate: in one
//! the agent has all the work it can take, in the other its workers stand still (it is told that the radio is busy) and a
//! process of class SCHED_IDLE computes on each of the same cores without pause, whatever the load. Both rounds of a
//! pair play the same part of the day.
//!
//! Only troughs count: from the moment the load falls below `idle_below` until it is not below it any more. The clocks
//! of the processes are read at both moments, before the agent can know of them; settling costs harvest. The agent's own
//! CPU time in the second round is given to the process that nobody manages: without an agent it would have had it.

mod figures;
mod grant;
mod rounds;
mod stand;

use std::time::Duration;

use super::machine::Machine;
use super::progress::Progress;
use crate::cli::failure::{Class, Failure};
use crate::cli::out::Out;
use crate::sim::day::{Compressed, Day};
use crate::units::WORKERS_MAX;

use figures::Figures;
use rounds::{Kind, Pair};
use stand::{Stand, Wanted};

/// How many times as fast the day passes: the shipped settle time becomes the shortest that the configuration takes.
const SPEED: u32 = 600;
/// The played day.
const DAY: Compressed = Compressed { length: Duration::from_secs(24 * 3600 / SPEED as u64) };
/// Where the first part begins: three o'clock, so that even the shortest run meets a trough.
const FIRST_HOUR: u32 = 3;
/// Longest part: longer runs have more parts, so that they see more of the day and alternate as often.
const PART_MAX: Duration = Duration::from_secs(24);

/// Arguments of `neap bench harvest`.
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = "\
Examples:
  neap bench harvest
  neap bench harvest --seconds 288 --report harvest.html     a whole day of played load
  neap bench harvest --json --model faces --workers 2
  neap bench harvest --broker 127.0.0.1:1883                 with a broker of yours on this machine

harvest_ratio is 1 when the workers get all CPU time in troughs that an unmanaged process of class SCHED_IDLE gets.
agent_cpu_ratio and sentinel_cpu_ratio are CPU seconds for each second of the rounds with work, as shares of one core.
agent_rss_bytes is the resident memory of the agent that is online and has no job; agent_rss_bytes_at_work is read after
the last round, with a batch as large as a message allows in its hands.")]
pub(in crate::cli) struct Args {
    #[command(flatten)]
    common: super::Common,
    /// Seconds of played load, both kinds of rounds together
    #[arg(long, value_name = "N", default_value_t = 120, value_parser = clap::value_parser!(u32).range(8..=86_400))]
    seconds: u32,
    /// Which day is played: the same seed gives the same day
    #[arg(long, value_name = "S", default_value_t = 1)]
    seed: u64,
    /// Worker processes, each pinned to a core of its own [default: all cores but one]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u8).range(1..=WORKERS_MAX as i64))]
    workers: Option<u8>,
    /// Broker on this machine to use [default: one of its own]
    #[arg(long, value_name = "HOST:PORT")]
    broker: Option<String>,
}

/// Where everything runs.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Places {
    /// One worker on each.
    harvest: Vec<usize>,
    /// Broker, controller and player: not on the measured cores, when there is another.
    rig: Option<usize>,
}

pub(in crate::cli) fn run(args: &Args) -> Result<(), Failure> {
    args.common.check_report()?;
    let model = args.common.find_model()?;
    let machine = Machine::begin();
    let places = places(&machine.cores, args.workers)?;
    let parts = parts(Duration::from_secs(args.seconds.into()));
    let mut progress = Progress::begin(u64::try_from(parts.len()).unwrap_or(u64::MAX) * 2 + 1);
    progress.at(0, "starting agent and workers");
    let mut stand = Stand::start(&Wanted {
        model: &model,
        places: &places,
        seed: args.seed,
        broker: args.broker.as_deref(),
        speed: SPEED,
    })?;
    let day = Day::new(args.seed);
    let mut figures = Figures { workers: places.harvest.len(), ..Figures::default() };
    figures.rss_idle = stand.agent_rss_at_rest();
    stand.warm_up()?;
    for (index, part) in (0..).zip(&parts) {
        let mut pair = Pair::new(part.clone(), grant::of_part(&day, DAY, part, stand.policy()));
        // Turned round each time, so that what drifts meets both kinds.
        let order = if index % 2 == 0 { [Kind::Neap, Kind::Unmanaged] } else { [Kind::Unmanaged, Kind::Neap] };
        for (done, kind) in (index * 2 + 1..).zip(order) {
            progress.at(done, kind.doing());
            rounds::play(&mut pair, kind, &mut stand, &day, &model, &places)?;
        }
        figures.pairs.push(pair);
    }
    figures.rss_at_work = stand.agent_rss();
    progress.end();
    let tally = stand.end()?;
    (figures.items_done, figures.jobs_done) = (tally.items_done, tally.succeeded);
    tell(args, &figures, &machine, &places)
}

/// Prints the figures and writes the report.
fn tell(args: &Args, figures: &Figures, machine: &Machine, places: &Places) -> Result<(), Failure> {
    if figures.unmanaged_cpu().is_zero() {
        let text = format!(
            "there was no trough in the {} s of load that were played; play more with --seconds, or another day with \
             --seed",
            args.seconds
        );
        return Err(Failure::new(Class::TemporaryFailure, text));
    }
    let cores = |cores: &[usize]| cores.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
    let facts = machine.end(vec![
        ("model", args.common.model.to_string()),
        ("harvest cores", cores(&places.harvest)),
        ("core of broker, controller and player", places.rig.map_or("any".to_owned(), |core| core.to_string())),
        ("speed", format!("{SPEED} times real time")),
        ("seed", args.seed.to_string()),
    ]);
    args.common.write_report(&figures.report(&facts))?;
    let out = Out::stdout();
    if args.common.json {
        return out.json(&figures.json(&facts));
    }
    figures.text().iter().try_for_each(|line| out.line(line))
}

/// The last cores are harvested, and the first one that is left is the rig's.
fn places(cores: &[usize], workers: Option<u8>) -> Result<Places, Failure> {
    let count = workers.map_or(cores.len().saturating_sub(1).clamp(1, WORKERS_MAX), usize::from);
    if count > cores.len() {
        let text = format!("{count} workers need {count} cores, this process may use {}; ask for fewer", cores.len());
        return Err(Failure::new(Class::Usage, text));
    }
    let (rest, harvest) = cores.split_at(cores.len() - count);
    Ok(Places { harvest: harvest.to_vec(), rig: rest.first().copied() })
}

/// Parts of the day, in played time since midnight, spread evenly over it; both rounds of a pair play one.
fn parts(all: Duration) -> Vec<std::ops::Range<Duration>> {
    let half = all / 2;
    let pairs = u32::try_from(half.as_nanos().div_ceil(PART_MAX.as_nanos())).unwrap_or(u32::MAX).max(1);
    let begin = |pair| DAY.length * FIRST_HOUR / 24 + DAY.length * (pair % pairs) / pairs;
    (0..pairs).map(|pair| begin(pair)..begin(pair) + half / pairs).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_cores_are_harvested_and_the_rig_keeps_off_them() {
        let of = |cores: &[usize], workers| places(cores, workers).unwrap();
        assert_eq!(of(&[0, 1], None), Places { harvest: vec![1], rig: Some(0) });
        assert_eq!(of(&[0, 1], Some(2)), Places { harvest: vec![0, 1], rig: None });
        assert_eq!(of(&[5], None), Places { harvest: vec![5], rig: None });
        assert_eq!(of(&[2, 3, 6, 7], None), Places { harvest: vec![3, 6, 7], rig: Some(2) });
        assert!(places(&[0, 1], Some(3)).unwrap_err().text.contains("3 workers need 3 cores"));
    }

    #[test]
    fn parts_are_as_long_as_asked_for_together_and_spread_over_the_day() {
        for seconds in [8, 48, 49, 120, 288, 1000] {
            let parts = parts(Duration::from_secs(seconds));
            let played: Duration = parts.iter().map(|part| part.end - part.start).sum();
            let missing = Duration::from_secs(seconds) / 2 - played;
            assert!(missing < Duration::from_micros(1), "{missing:?} of {seconds} s");
            assert!(parts.iter().all(|part| part.end - part.start <= PART_MAX), "{parts:?}");
            let three = DAY.length * FIRST_HOUR / 24;
            assert!(parts[0].start == three && parts.windows(2).all(|two| two[0].start < two[1].start), "{parts:?}");
            assert!(parts.iter().all(|part| part.start < three + DAY.length));
        }
    }
}
