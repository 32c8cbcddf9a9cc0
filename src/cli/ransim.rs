//! Stands in for a DU where none is at hand: `neap ransim`.

mod emit;

use std::io::{self, IsTerminal as _, Write as _};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::signal::unix::{SignalKind, signal};

use super::block_on;
use super::failure::{Class, Failure};
use super::out::{Out, Tone};
use super::span::{self, Span};
use crate::sim::ran::curve::Curve;
use crate::sim::ran::radio::{self, Target};
use crate::sim::ran::slots::Times;
use crate::sim::ran::work::Kind;
use crate::sim::ran::{Error, Outcome, Play, Ran, Running, Settings};
use crate::sys::{clock, sched};
use crate::units::{CellId, Utilization};

/// How often the progress line is written.
const PROGRESS: Duration = Duration::from_millis(500);

/// Arguments of `neap ransim`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  neap ransim                                          30 s of bursts on the last core
  neap ransim --cores 0,1 --slot 500us --fifo 20       a 30 kHz carrier on two cores, as SCHED_FIFO
  neap ransim --work cache --load 90                   steady 90 % of work that lives in the cache of level 2
  neap ransim --curve daily --day 60s --seed 7         a station's day in a minute
  neap ransim --push /run/neap/load.sock --seconds 600  feed the push source of an agent
  neap ransim --json > slots.json                      the figures, for a machine
  neap ransim --emit week.csv --days 7 --cells 100     synthetic days as a recording, for neap replay
  neap ransim --emit - --days 1 --seed 3 --step 30s    the same to standard output, as NDJSON

A load of 100 % is the work that takes --peak of a slot on the quiet core, which is measured at the start.
A slot is missed when its work ends after the deadline, or when it could not begin because an earlier one took too long.
Missed slots go to the agent as its count of late slots, and each is an immediate yield; --no-late keeps them back.
Ctrl-C ends it with the summary.
Synthetic days are an hourly profile times a log-normal AR(1) residual, plus sudden jumps, with the statistics of real
cells at 2-minute samples; a cell keeps its character from day to day, and the same seed gives the same days.")]
pub(super) struct Args {
    #[command(flatten)]
    threads: Threads,
    #[command(flatten)]
    load: Load,
    #[command(flatten)]
    told: Told,
    #[command(flatten)]
    emit: emit::Emit,
    /// How long it runs, in seconds
    #[arg(long, value_name = "N", default_value_t = 30, value_parser = clap::value_parser!(u64).range(1..=604_800))]
    seconds: u64,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// The slot threads.
#[derive(Debug, clap::Args)]
struct Threads {
    /// Cores, one thread on each [default: the last one]
    #[arg(long, value_name = "CORE,…", value_delimiter = ',')]
    cores: Vec<usize>,
    /// Length of a slot, 250us to 10ms
    #[arg(long, value_name = "TIME", default_value = "1ms", value_parser = micros)]
    slot: Duration,
    /// Time from the begin of a slot to its deadline [default: the slot]
    #[arg(long, value_name = "TIME", value_parser = micros)]
    deadline: Option<Duration>,
    /// Share of a slot that a load of 100 % takes on the quiet core
    #[arg(long, value_name = "PERCENT", default_value_t = 70, value_parser = clap::value_parser!(u8).range(1..=95))]
    peak: u8,
    /// What a slot does
    #[arg(long, value_name = "KIND", default_value = "mixed", value_parser = kind_parser())]
    work: Kind,
    /// Working set of the random walk in KiB [default: half of the core's cache of level 2]
    #[arg(long, value_name = "KIB", value_parser = clap::value_parser!(u32).range(4..=1_048_576))]
    cache_kib: Option<u32>,
    /// Buffer that is streamed through, in MiB
    #[arg(long, value_name = "MIB", default_value_t = 64, value_parser = clap::value_parser!(u16).range(1..=1024))]
    stream_mib: u16,
    /// Ask for SCHED_FIFO of this priority; where it is not permitted the threads stay SCHED_OTHER
    #[arg(long, value_name = "PRIORITY", value_parser = clap::value_parser!(u8).range(1..=99))]
    fifo: Option<u8>,
}

/// The load curve.
#[derive(Debug, clap::Args)]
struct Load {
    /// Curve of the load [default: bursty, or steady with --load]
    #[arg(long, value_name = "CURVE", value_parser = ["steady", "daily", "bursty"])]
    curve: Option<String>,
    /// Load of the steady curve in percent
    #[arg(long, value_name = "PERCENT", value_parser = clap::value_parser!(u8).range(0..=100))]
    load: Option<u8>,
    /// The same seed gives the same curve
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Length of the day of the daily curve
    #[arg(long, value_name = "TIME", default_value = "60s", value_parser = span::positive)]
    day: Span,
    /// Mean length of the quiet spans of the bursty curve, with a load of 2 to 25 %
    #[arg(long, value_name = "TIME", default_value = "2s", value_parser = span::positive)]
    quiet: Span,
    /// Mean length of its busy spans, with a load of 50 to 100 %
    #[arg(long, value_name = "TIME", default_value = "1s", value_parser = span::positive)]
    busy: Span,
}

/// To whom the load is told.
#[derive(Debug, clap::Args)]
struct Told {
    /// Tell the load to the push source at this socket
    #[arg(long, value_name = "SOCKET", conflicts_with_all = ["udp", "shm"])]
    push: Option<PathBuf>,
    /// Tell the load to the push_udp source at this address
    #[arg(long, value_name = "ADDRESS", conflicts_with = "shm")]
    udp: Option<SocketAddr>,
    /// Tell the load to the shm source of this page
    #[arg(long, value_name = "PAGE")]
    shm: Option<PathBuf>,
    /// Cell number (PCI or NCGI)
    #[arg(long, value_name = "CELL", default_value_t = 1)]
    cell: u64,
    /// Tell the load again after this time; well within the freshness of the source
    #[arg(long, value_name = "TIME", default_value = "20ms", value_parser = span::positive)]
    repeat: Span,
    /// Do not tell missed deadlines
    #[arg(long)]
    no_late: bool,
}

pub(super) fn run(args: &Args) -> Result<(), Failure> {
    if let Some(path) = &args.emit.emit {
        return emit::run(&args.emit, path, args.load.seed);
    }
    let out = Out::stdout();
    let ran = Ran::prepare(args.threads.settings()?)?;
    if args.threads.fifo.is_some() && !ran.is_fifo() {
        remark(
            "SCHED_FIFO is not permitted (it takes CAP_SYS_NICE or an rtprio limit); the threads run as SCHED_OTHER",
        );
    }
    let units = ran.unit_ns();
    let settings = ran.settings().clone();
    let lasting = Duration::from_secs(args.seconds);
    let play = Play { curve: args.load.curve()?, lasting, radio: args.told.radio() };
    let (ran, outcome) = block_on(play_until_interrupted(ran, play))?.finish();
    let summary = Summary { settings: &settings, is_fifo: ran.is_fifo(), units: &units, outcome: &outcome };
    if args.json { out.json(&summary.json()) } else { summary.print(&out) }
}

/// Starts the run and waits for its end or Ctrl-C; shows how it goes on a terminal.
async fn play_until_interrupted(ran: Ran, play: Play) -> Result<Running, Failure> {
    let cannot = |error| Failure::io("cannot hear signals", &error);
    let mut interrupt = signal(SignalKind::interrupt()).map_err(cannot)?;
    let mut terminate = signal(SignalKind::terminate()).map_err(cannot)?;
    // Only now: an interrupt from the first slot on must end it with the summary.
    let running = ran.start(play)?;
    let shows = io::stderr().is_terminal();
    loop {
        let now = clock::now();
        if now >= running.end() {
            break;
        }
        let pause = running.end().since(now).min(PROGRESS);
        tokio::select! {
            _ = interrupt.recv() => running.stop(),
            _ = terminate.recv() => running.stop(),
            () = tokio::time::sleep(pause) => {
                if shows {
                    let (slots, missed) = running.so_far();
                    let left = running.end().since(clock::now()).as_secs();
                    progress(&format!("load {:>5}, {slots} slots, {missed} missed, {left} s to go", running.load(now).to_string()));
                }
                continue;
            }
        }
        break;
    }
    if shows {
        progress("");
    }
    Ok(running)
}

/// Replaces the line of a terminal.
fn progress(text: &str) {
    // Nothing can be done when stderr is closed.
    let _ = write!(io::stderr(), "\r\x1b[2K{text}");
}

fn remark(text: &str) {
    let _ = writeln!(io::stderr(), "neap: {text}");
}

impl Threads {
    fn settings(&self) -> Result<Settings, Failure> {
        let cores = if self.cores.is_empty() {
            sched::cores().last().copied().into_iter().collect()
        } else {
            self.cores.clone()
        };
        let peak = Utilization::from_percent(self.peak);
        let peak = peak.ok_or_else(|| Failure::new(Class::Usage, format!("--peak {}: give 1 to 95", self.peak)))?;
        Ok(Settings {
            cores,
            slot: self.slot,
            deadline: self.deadline.unwrap_or(self.slot),
            peak,
            work: self.work,
            cache_bytes: self.cache_kib.and_then(|kib| usize::try_from(kib).ok()?.checked_mul(1 << 10)),
            stream_bytes: usize::from(self.stream_mib) << 20,
            priority: self.fifo,
        })
    }
}

impl Load {
    fn curve(&self) -> Result<Curve, Failure> {
        let curve = self.curve.as_deref().unwrap_or(if self.load.is_some() { "steady" } else { "bursty" });
        if curve != "steady" && self.load.is_some() {
            let text = format!("--load is the load of --curve steady, and has no meaning with --curve {curve}");
            return Err(Failure::new(Class::Usage, text));
        }
        Ok(match curve {
            "daily" => Curve::daily(self.seed, self.day.0),
            "bursty" => Curve::bursty(self.seed, self.quiet.0, self.busy.0),
            _ => Curve::steady(Utilization::from_percent(self.load.unwrap_or(50)).unwrap_or(Utilization::FULL)),
        })
    }
}

impl Told {
    fn radio(&self) -> Option<radio::Settings> {
        let [push, shm] = [&self.push, &self.shm].map(Clone::clone);
        let target = push.map(Target::Push).or(self.udp.map(Target::Udp)).or(shm.map(Target::Shm))?;
        Some(radio::Settings { target, cell: CellId(self.cell), repeat: self.repeat.0, tells_late: !self.no_late })
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        let class = match &error {
            Error::Setting { .. } | Error::Core { .. } => Class::Usage,
            Error::Radio { source, .. } if source.kind() == io::ErrorKind::PermissionDenied => Class::NoPermission,
            Error::Radio { .. } => Class::Unavailable,
            Error::Thread(_) => Class::TemporaryFailure,
        };
        Self::new(class, error.to_string())
    }
}

/// What a run came to, in words and in JSON.
struct Summary<'a> {
    settings: &'a Settings,
    is_fifo: bool,
    units: &'a [(usize, f64)],
    outcome: &'a Outcome,
}

impl Summary<'_> {
    fn json(&self) -> Value {
        let Self { settings, outcome, .. } = self;
        let account = &outcome.account;
        let cores: Vec<Value> = self.units.iter().map(|(core, ns)| json!({"core": core, "unit_ns": ns})).collect();
        json!({
            "slots": account.slots,
            "missed": account.missed,
            "skipped": account.skipped,
            "given_up": account.given_up,
            "slot_us": times(account.time()),
            "wake_us": times(account.wake()),
            "seconds": outcome.lasted.as_secs_f64(),
            "told": {"sent": outcome.told.sent, "refused": outcome.told.refused},
            "work": settings.work.as_str(),
            "slot_length_us": settings.slot.as_secs_f64() * 1e6,
            "deadline_us": settings.deadline.as_secs_f64() * 1e6,
            "peak_percent": f64::from(settings.peak.permille()) / 10.0,
            "class": self.class(),
            "cores": cores,
        })
    }

    fn print(&self, out: &Out) -> Result<(), Failure> {
        let Self { settings, outcome, .. } = self;
        let account = &outcome.account;
        let tone = if account.missed == 0 { Tone::Good } else { Tone::Warn };
        let missed = format!(
            "{} of {} slots missed their deadline of {:?}{}",
            account.missed,
            account.slots,
            settings.deadline,
            match (account.skipped, account.given_up) {
                (0, 0) => String::new(),
                (skipped, given_up) => format!(", {skipped} of them never begun and {given_up} given up"),
            }
        );
        out.line(&out.paint(tone, &missed))?;
        let row = |name: &str, times: Times| {
            let figures = [times.p50_us, times.p99_us, times.p999_us, times.max_us];
            std::iter::once(name.to_owned()).chain(figures.map(|us| format!("{us:.0}"))).collect::<Vec<_>>()
        };
        let rows = [row("slot time", account.time()), row("wake-up", account.wake())];
        out.table(&["µs", "p50", "p99", "p99.9", "max"], &rows)?;
        let cores: Vec<String> =
            self.units.iter().map(|(core, ns)| format!("core {core} ({ns:.0} ns a unit)")).collect();
        let what = format!(
            "{} work in slots of {:?} for {:.1} s as {}; 100 % load is {} of a slot on {}",
            settings.work.as_str(),
            settings.slot,
            outcome.lasted.as_secs_f64(),
            if self.is_fifo { "SCHED_FIFO" } else { "SCHED_OTHER" },
            settings.peak,
            cores.join(", ")
        );
        out.line(&out.paint(Tone::Dim, &what))?;
        if outcome.told.sent + outcome.told.refused > 0 {
            let told = format!("load told {} times, {} attempts refused", outcome.told.sent, outcome.told.refused);
            out.line(&out.paint(Tone::Dim, &told))?;
        }
        Ok(())
    }

    fn class(&self) -> &'static str {
        if self.is_fifo { "fifo" } else { "other" }
    }
}

fn times(times: Times) -> Value {
    json!({"p50": times.p50_us, "p99": times.p99_us, "p999": times.p999_us, "max": times.max_us})
}

/// A time as slots have: `1ms`, `0.5ms`, `500us`.
pub(super) fn micros(text: &str) -> Result<Duration, String> {
    let rule = || format!("{text:?} is not a time: a number and us or ms, e.g. 500us or 0.5ms");
    let (number, unit_us) = match (text.strip_suffix("us"), text.strip_suffix("ms")) {
        (Some(number), _) => (number, 1.0),
        (None, Some(number)) => (number, 1000.0),
        (None, None) => return Err(rule()),
    };
    let is_plain = !number.is_empty() && number.len() <= 12 && number.chars().all(|c| c.is_ascii_digit() || c == '.');
    let number: f64 = if is_plain { number.parse().map_err(|_| rule())? } else { return Err(rule()) };
    Duration::try_from_secs_f64(number * unit_us / 1e6).map_err(|_| rule())
}

/// A kind of work by its name, for clap.
pub(super) fn kind_parser() -> impl clap::builder::TypedValueParser<Value = Kind> {
    use clap::builder::TypedValueParser as _;
    let names = clap::builder::PossibleValuesParser::new(Kind::ALL.map(Kind::as_str));
    // The names are those of the kinds, so one is always found.
    names.map(|name| Kind::ALL.into_iter().find(|kind| kind.as_str() == name).unwrap_or(Kind::Mixed))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_are_told_in_micro_or_milliseconds() {
        for (text, us) in [("500us", 500), ("1ms", 1000), ("0.5ms", 500), ("62.5us", 62)] {
            assert_eq!(micros(text).map(|time| time.as_micros()), Ok(us), "{text}");
        }
        for text in ["", "1", "ms", "us", "-1ms", "1e3us", "1s", "1.2.3ms", "infms", "9999999999999ms"] {
            assert!(micros(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_load_of_its_own_makes_the_curve_steady_and_fits_no_other() {
        let load = |curve: Option<&str>, load| Load {
            curve: curve.map(str::to_owned),
            load,
            seed: 1,
            day: Span(PROGRESS),
            quiet: Span(PROGRESS),
            busy: Span(PROGRESS),
        };
        let steady = |percent| Curve::steady(Utilization::from_percent(percent).unwrap());
        assert_eq!(load(None, Some(80)).curve(), Ok(steady(80)));
        assert_eq!(load(Some("steady"), None).curve(), Ok(steady(50)));
        assert_eq!(load(None, None).curve(), Ok(Curve::bursty(1, PROGRESS, PROGRESS)));
        assert_eq!(load(Some("daily"), None).curve(), Ok(Curve::daily(1, PROGRESS)));
        assert!(load(Some("daily"), Some(3)).curve().unwrap_err().text.contains("--curve daily"));
    }
}
