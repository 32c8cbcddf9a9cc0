//! Plays recordings to governor and queue, a day in milliseconds: `neap replay`.

mod page;
mod plots;
mod table;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::Value;

use super::failure::{Class, Failure};
use super::out::{Out, Tone};
use super::recordings::{self, Progress, remark};
use super::span::{self, Span};
use crate::config;
use crate::load::FRESHNESS_MAX;
use crate::sim::replay::mix::{self, Stream};
use crate::sim::replay::{Outcome, Replay, SETUPS_MAX, Settings, Setup, freshness};
use crate::units::SourceId;

/// Most recordings of one replay.
const TRACES_MAX: usize = 1_000;
/// Entries from which the usual distance between two readings of a cell is taken.
const HEAD: usize = 20_000;
/// Entries between two looks at the clock.
const TELL_EVERY: u64 = 8_192;
/// Largest file of jobs, in bytes.
const JOBS_BYTES_MAX: u64 = 64 * 1024;
/// What a node without a configuration file does.
const DEFAULTS: &str = "[node]\nsite = \"replay\"\nname = \"replay\"\n[mqtt]\nhost = \"127.0.0.1\"\n";

/// Arguments of `neap replay`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  neap ransim --emit week.csv --days 7 --cells 100      make something to replay
  neap replay --trace week.csv                          with the shipped policy
  neap replay --trace week.csv --config a.toml b.toml   two policies side by side
  neap replay --trace cell-17.ndjson --config /etc/neap/neap.toml --html replay.html
  neap replay --trace station.csv --fuse --json         three cells of one station, for a machine
  neap replay --trace week.csv --jobs jobs.ndjson       with jobs of your own, one stream a line:
    {\"model\":\"objects\",\"items\":600,\"item_ms\":49,\"load_ms\":190,\"every_s\":1800,\"deadline_s\":3600}

Each cell of a recording is a node of its own; with --fuse all cells of a recording are one node, and the highest counts.
harvest        core time that was granted, as a share of all core time (workers x time)
yields         times that the budget went to none; evictions: those after which it stayed none beyond evict_after_s
busy overlap   time with a budget while the last reading was busy or stale: none, by construction
unseen         the same if the load went in straight lines between the readings
rival          the plain threshold with the fewest yields among those that harvest as much, or up to 4 points more
Recordings that count from a midnight and those that count since 1970 know the hour; for others give --starts.")]
pub(super) struct Args {
    /// Recordings, CSV or NDJSON
    #[arg(short, long, value_name = "FILE", required = true, num_args = 1..)]
    trace: Vec<PathBuf>,
    /// Configurations to compare [default: the shipped policy]
    #[arg(short, long, value_name = "FILE", num_args = 1..)]
    config: Vec<PathBuf>,
    /// All cells of a recording are one node
    #[arg(long)]
    fuse: bool,
    /// Believe a reading for so long [default: freshness_ms, or 3 times the usual distance between two, if that is longer]
    #[arg(long, value_name = "TIME", value_parser = span::positive)]
    freshness: Option<Span>,
    /// Time of the day (UTC) at second 0 of the recordings
    #[arg(long, value_name = "HH:MM", default_value = "00:00", value_parser = time_of_day)]
    starts: Duration,
    /// Jobs that come to every node, one stream a line [default: a mix of the bundled models]
    #[arg(long, value_name = "FILE", conflicts_with = "no_jobs")]
    jobs: Option<PathBuf>,
    /// No jobs: the governor alone
    #[arg(long)]
    no_jobs: bool,
    /// No forecast: it takes most of the time of a replay
    #[arg(long)]
    no_forecast: bool,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
    /// Write a page with plots
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
}

/// What was replayed, and how.
#[derive(Debug)]
pub(super) struct Run {
    traces: Vec<String>,
    nodes: usize,
    readings: u64,
    fused: bool,
    streams: Vec<Stream>,
    starts: Duration,
    took: Duration,
}

impl Run {
    /// Time of the day at a moment of the first recording.
    fn time_of_day(&self, at: Duration) -> Duration {
        let since = if at.as_secs() >= 100_000_000 { at } else { at + self.starts };
        Duration::from_secs(since.as_secs() % 86_400)
    }
}

pub(super) fn run(args: &Args) -> Result<(), Failure> {
    if args.trace.len() > TRACES_MAX {
        let text = format!("{} recordings, limit {TRACES_MAX}: replay them in parts", args.trace.len());
        return Err(Failure::new(Class::Usage, text));
    }
    let streams = streams(args)?;
    let setups = setups(args)?;
    let settings =
        Settings { setups, fuse: args.fuse, foresee: !args.no_forecast, starts: args.starts, streams: streams.clone() };
    let mut replay = Replay::new(settings).map_err(|bad| Failure::new(Class::Config, bad.to_string()))?;
    let mut progress = Progress::begin();
    for (index, path) in args.trace.iter().enumerate() {
        play(&mut replay, path, (index, args.trace.len()), &mut progress)?;
    }
    progress.end();
    let name = |path: &PathBuf| path.file_name().unwrap_or(path.as_os_str()).to_string_lossy().into_owned();
    let run = Run {
        traces: args.trace.iter().map(name).collect(),
        nodes: replay.nodes(),
        readings: replay.readings(),
        fused: args.fuse,
        streams,
        starts: args.starts,
        took: progress.passed(),
    };
    let outcomes = replay.finish();
    if let Some(path) = &args.html {
        let failed = |error| Failure::io(&format!("cannot write the page {}", path.display()), &error);
        fs::write(path, page::render(&run, &outcomes)).map_err(failed)?;
    }
    tell(args, &run, &outcomes)
}

fn tell(args: &Args, run: &Run, outcomes: &[Outcome]) -> Result<(), Failure> {
    let out = Out::stdout();
    let json = table::json(run, outcomes);
    if args.json {
        return out.json(&json);
    }
    let (head, rows) = table::rows(run, outcomes);
    out.table(&head.iter().map(String::as_str).collect::<Vec<_>>(), &rows)?;
    let figure = |key: &str| json.pointer(key).and_then(Value::as_f64).unwrap_or(0.0);
    let speed = format!(
        "{:.1} days of {} nodes in {:.2} s: {:.2} days of 100 cells a second",
        figure("/node_days"),
        run.nodes,
        run.took.as_secs_f64(),
        figure("/run/days_of_100_cells_per_second"),
    );
    remark(&out.paint(Tone::Dim, &speed));
    Ok(())
}

/// Plays one recording.
fn play(
    replay: &mut Replay,
    path: &Path,
    (index, count): (usize, usize),
    progress: &mut Progress,
) -> Result<(), Failure> {
    let (mut reader, bytes) = recordings::open(path)?;
    let mut entries = 0_u64;
    while let Some(entry) = reader.next() {
        let entry = entry.map_err(|problem| recordings::failure(&problem))?;
        let at = entry.at();
        for reading in entry.readings(SourceId(0)) {
            replay.hear(at, reading).map_err(|too_many| {
                Failure::new(Class::Data, format!("{}:{}: {too_many}", path.display(), reader.line()))
            })?;
        }
        entries += 1;
        if entries.is_multiple_of(TELL_EVERY) {
            let percent = reader.bytes() * 100 / bytes.max(1);
            progress.at(|| format!("recording {} of {count}: {percent} % of {}", index + 1, path.display()));
        }
    }
    replay.end();
    Ok(())
}

/// The configurations, with what a reading of these recordings is believed for.
fn setups(args: &Args) -> Result<Vec<Setup>, Failure> {
    if args.config.len() > SETUPS_MAX {
        let text = format!("{} configurations, limit {SETUPS_MAX}: compare them in parts", args.config.len());
        return Err(Failure::new(Class::Usage, text));
    }
    let mut usual = Duration::ZERO;
    for path in &args.trace {
        usual = usual.max(usual_distance(path)?);
    }
    let mut all = Vec::new();
    for (index, path) in args.config.iter().enumerate() {
        let settings = config::Settings::read(path)?;
        all.push((name(&args.config, index), settings));
    }
    if all.is_empty() {
        all.push(("defaults".to_owned(), config::Settings::parse("defaults", DEFAULTS)?));
    }
    let setup = |(name, settings): (String, config::Settings)| {
        let configured = settings.load.sources.iter().filter(|source| !source.kind.is_planning());
        let configured = configured.map(|source| source.freshness).max();
        let believed = freshness(configured.unwrap_or(Duration::from_secs(2)), usual).min(FRESHNESS_MAX);
        Setup {
            name,
            policy: settings.policy,
            freshness: args.freshness.map_or(believed, |Span(freshness)| freshness),
            evict_after: settings.workers.evict_after,
            open_max: settings.jobs.open_max,
        }
    };
    Ok(all.into_iter().map(setup).collect())
}

/// A configuration is called as its file, or its whole path when another file is called the same.
fn name(paths: &[PathBuf], index: usize) -> String {
    let stem = |path: &PathBuf| path.file_stem().unwrap_or(path.as_os_str()).to_string_lossy().into_owned();
    let own = stem(&paths[index]);
    let is_shared = paths.iter().filter(|path| stem(path) == own).count() > 1;
    if is_shared { paths[index].display().to_string() } else { own }
}

/// The median time between two readings of a cell at the begin of a recording.
fn usual_distance(path: &Path) -> Result<Duration, Failure> {
    if !fs::metadata(path).map_or(true, |found| found.is_file()) {
        let text = format!("{}: is no file, and a recording is read twice: copy it into one", path.display());
        return Err(Failure::new(Class::Usage, text));
    }
    let (reader, _) = recordings::open(path)?;
    let mut latest = BTreeMap::new();
    let mut distances = Vec::new();
    for entry in reader.take(HEAD) {
        let entry = entry.map_err(|problem| recordings::failure(&problem))?;
        let at = entry.at();
        for reading in entry.readings(SourceId(0)) {
            let before = latest.insert(reading.cell, at);
            distances.extend(before.map(|before| at.saturating_sub(before)).filter(|distance| !distance.is_zero()));
        }
    }
    let middle = distances.len() / 2;
    if distances.is_empty() {
        return Ok(Duration::ZERO);
    }
    Ok(*distances.select_nth_unstable(middle).1)
}

fn streams(args: &Args) -> Result<Vec<Stream>, Failure> {
    let Some(path) = &args.jobs else {
        return Ok(if args.no_jobs { Vec::new() } else { mix::built_in() });
    };
    let failed = |error| Failure::io(&format!("cannot read the jobs {}", path.display()), &error);
    if fs::metadata(path).map_err(failed)?.len() > JOBS_BYTES_MAX {
        let text = format!("{}: is larger than 64 KiB: join the streams that are alike", path.display());
        return Err(Failure::new(Class::Data, text));
    }
    let text = fs::read_to_string(path).map_err(failed)?;
    mix::parse(&text).map_err(|(line, why)| Failure::new(Class::Data, format!("{}:{line}: {why}", path.display())))
}

/// `06:30`, for clap.
fn time_of_day(text: &str) -> Result<Duration, String> {
    let rule = || format!("{text:?} is not a time of the day: write it as 06:30");
    let (hours, minutes) = text.split_once(':').ok_or_else(rule)?;
    let part = |part: &str, limit: u64| part.parse::<u64>().ok().filter(|value| *value < limit && part.len() <= 2);
    let (hours, minutes) = (part(hours, 24).ok_or_else(rule)?, part(minutes, 60).ok_or_else(rule)?);
    Ok(Duration::from_secs(hours * 3600 + minutes * 60))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_of_the_day_are_hours_and_minutes() {
        assert_eq!(time_of_day("06:30"), Ok(Duration::from_secs(23_400)));
        for text in ["", "6", "24:00", "06:60", "6:3a", "-1:00", "006:00"] {
            assert!(time_of_day(text).is_err(), "{text}");
        }
    }

    #[test]
    fn configurations_of_one_name_are_told_apart() {
        let paths = ["a/neap.toml", "b/neap.toml", "c/lab.toml"].map(PathBuf::from);
        assert_eq!([0, 1, 2].map(|index| name(&paths, index)), ["a/neap.toml", "b/neap.toml", "lab"]);
    }
}
