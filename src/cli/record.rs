//! Records what load sources say, and turns recordings into one another: `neap record`.

use std::fs::{self, OpenOptions};
use std::io::{self, BufWriter, Write};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use tokio::signal::unix::{SignalKind, signal};

use super::failure::{Class, Failure};
use super::recordings::{self, Progress, remark};
use super::span::{self, Span};
use crate::config::Settings;
use crate::load::recording::{FILE_BYTES_MAX, Form, Writer};
use crate::load::{self, Kind, OpenError, Problem, Source, SourceSettings, push};
use crate::sys::clock;
use crate::units::{Instant, Name, SourceId, WallTime};

/// Longest sleep, so that Ctrl-C and the end are heard soon.
const SLEEP_MAX: Duration = Duration::from_millis(100);
/// Time between two times that everything heard is on its way to the file.
const FLUSH_EVERY: Duration = Duration::from_secs(1);
/// How the RAN's own kind of source is believed here: nothing is decided.
const FRESHNESS: Duration = Duration::from_secs(2);
/// Entries between two looks at the clock.
const TELL_EVERY: u64 = 8_192;

/// Arguments of `neap record`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  neap record --config /etc/neap/neap.toml --to du.ndjson              its only source, until Ctrl-C
  neap record --config /etc/neap/neap.toml --source du --to du.csv --seconds 3600
  neap record --config /etc/neap/neap.toml --to load.ndjson            several: load.du.ndjson, load.host.ndjson, ...
  neap record --push /run/neap/load.sock --to du.ndjson                no configuration, no agent
  neap record --udp 127.0.0.1:9700 --to l1.ndjson
  neap record --from du.ndjson --to du.csv                             turns one form into the other

NDJSON says all that a source said: levels in whole percent, counts of late slots, figures of health, cells out of
service. CSV has one level a cell, to a tenth of a percent; what it could not say is told at the end.
Times are seconds since 1970, so that neap replay knows the hour. A recording has at most 2 GiB.
While an agent runs it has the sources: give it record = \"/var/lib/neap/du.ndjson\" in the [[load]] section instead.")]
pub(super) struct Args {
    /// Configuration of the agent whose sources are recorded
    #[arg(short, long, value_name = "FILE", conflicts_with_all = ["push", "udp", "from"])]
    config: Option<PathBuf>,
    /// Only this source of the configuration
    #[arg(long, value_name = "NAME", requires = "config")]
    source: Option<Name>,
    /// A push source at this socket
    #[arg(long, value_name = "SOCKET", conflicts_with_all = ["udp", "from"])]
    push: Option<PathBuf>,
    /// A push_udp source at this loopback address
    #[arg(long, value_name = "ADDRESS", conflicts_with = "from")]
    udp: Option<SocketAddr>,
    /// Turn this recording into another one instead
    #[arg(long, value_name = "FILE", required_unless_present_any = ["config", "push", "udp"])]
    from: Option<PathBuf>,
    /// Where to: FILE.ndjson or FILE.csv, which must not be there yet; - is standard output
    #[arg(long, value_name = "FILE")]
    to: PathBuf,
    /// Form of the recording [default: by the ending of the file; ndjson for -]
    #[arg(long, value_name = "FORM", value_parser = ["csv", "ndjson"])]
    format: Option<String>,
    /// End after this time, e.g. 3600 or 2h
    #[arg(long, value_name = "TIME", value_parser = span::seconds, conflicts_with = "from")]
    seconds: Option<Span>,
    /// Write over a file that is there
    #[arg(long)]
    force: bool,
}

type Sink = Writer<BufWriter<Box<dyn Write>>>;

pub(super) fn run(args: &Args) -> Result<(), Failure> {
    let is_stdout = args.to == Path::new("-");
    let form = recordings::form(&args.to, args.format.as_deref(), is_stdout)?;
    match &args.from {
        Some(from) => convert(args, from, form),
        None => record(args, form),
    }
}

/// Opens where it goes.
fn sink(path: &Path, form: Form, force: bool) -> Result<Sink, Failure> {
    let out: Box<dyn Write> = if path == Path::new("-") {
        Box::new(io::stdout().lock())
    } else {
        let mut options = OpenOptions::new();
        options.write(true).create_new(!force).create(force).truncate(force);
        let file = options.open(path).map_err(|error| {
            if error.kind() != io::ErrorKind::AlreadyExists {
                return failed(path, &error);
            }
            let text = format!("{} is there already: choose another name, or give --force", path.display());
            Failure::new(Class::Usage, text)
        })?;
        Box::new(file)
    };
    Writer::new(BufWriter::with_capacity(64 * 1024, out), form, FILE_BYTES_MAX).map_err(|error| failed(path, &error))
}

fn failed(path: &Path, error: &io::Error) -> Failure {
    Failure::io(&format!("cannot write the recording {}", path.display()), error)
}

fn full(path: &Path) -> Failure {
    let text = format!("{}: the recording has 2 GiB and ends: record in parts, or less often", path.display());
    Failure::new(Class::Data, text)
}

// ---- one recording into another ----

fn convert(args: &Args, from: &Path, form: Form) -> Result<(), Failure> {
    if fs::canonicalize(from).ok().is_some_and(|from| fs::canonicalize(&args.to).is_ok_and(|to| to == from)) {
        let text = format!("{} cannot be turned into itself: give --to another name", from.display());
        return Err(Failure::new(Class::Usage, text));
    }
    let (mut reader, bytes) = recordings::open(from)?;
    let mut writer = sink(&args.to, form, args.force)?;
    let mut progress = Progress::begin();
    let mut entries = 0_u64;
    while let Some(entry) = reader.next() {
        let entry = entry.map_err(|problem| recordings::failure(&problem))?;
        if !writer.entry(&entry).map_err(|error| failed(&args.to, &error))? {
            return Err(full(&args.to));
        }
        entries += 1;
        if entries.is_multiple_of(TELL_EVERY) {
            progress.at(|| format!("{} % of {}", reader.bytes() * 100 / bytes.max(1), from.display()));
        }
    }
    progress.end();
    close(writer, &args.to)
}

/// Writes what is left, and says what could not be said.
fn close(mut writer: Sink, path: &Path) -> Result<(), Failure> {
    writer.flush().map_err(|error| failed(path, &error))?;
    let lost = writer.lost().words();
    let lines = writer.written();
    let plural = if lines == 1 { "line" } else { "lines" };
    let lost = if lost.is_empty() { String::new() } else { format!("; lost: {}", lost.join(", ")) };
    remark(&format!("{}: {lines} {plural}{lost}", path.display()));
    Ok(())
}

// ---- live sources ----

/// A source that is recorded.
struct Live {
    name: String,
    path: PathBuf,
    source: Box<dyn Source>,
    writer: Sink,
    bad: u64,
}

fn record(args: &Args, form: Form) -> Result<(), Failure> {
    let settings = sources(args)?;
    // Heard from before the first source is open, so that Ctrl-C always ends it with whole files.
    let ended = interrupted()?;
    let (began, wall) = (clock::now(), clock::wall());
    let mut lives = Vec::new();
    for (index, settings) in (0..).zip(&settings) {
        let path = if settings.goes_to(&args.to) { args.to.clone() } else { named(&args.to, &settings.source.name) };
        let source = load::open(&settings.source, SourceId(index), began, Arc::new(|_| 0)).map_err(cannot_open)?;
        let writer = sink(&path, form, args.force)?;
        lives.push(Live { name: settings.source.name.clone(), path, source, writer, bad: 0 });
    }
    let end = args.seconds.map(|Span(span)| began.after(span));
    let mut progress = Progress::begin();
    let mut flushed = began;
    loop {
        let now = clock::now();
        for live in &mut lives {
            listen(live, now, wall.after(now.since(began)))?;
        }
        if ended.load(SeqCst) || end.is_some_and(|end| now >= end) {
            break;
        }
        if now.since(flushed) >= FLUSH_EVERY {
            flushed = now;
            for live in &mut lives {
                live.writer.flush().map_err(|error| failed(&live.path, &error))?;
            }
        }
        progress.at(|| told(&lives, now.since(began)));
        sleep(&lives, now, end)?;
    }
    progress.end();
    lives.into_iter().try_for_each(|live| {
        if live.bad > 0 {
            remark(&format!(
                "{}: {} messages made no sense; in a replay they are silence, which is busy",
                live.name, live.bad
            ));
        }
        close(live.writer, &live.path)
    })
}

/// A source to record, and whether it is the only one.
struct Wanted {
    source: SourceSettings,
    is_only: bool,
}

impl Wanted {
    /// Whether it goes to the file that was named, and not to one beside it.
    fn goes_to(&self, to: &Path) -> bool {
        self.is_only || to == Path::new("-")
    }
}

fn sources(args: &Args) -> Result<Vec<Wanted>, Failure> {
    let flagged =
        |kind| SourceSettings { name: "load".to_owned(), freshness: FRESHNESS, required: true, kind, record: None };
    let mut sources = if let Some(socket) = &args.push {
        let socket = std::path::absolute(socket).unwrap_or_else(|_| socket.clone());
        vec![flagged(Kind::Push { socket, mode: push::SOCKET_MODE_DEFAULT })]
    } else if let Some(listen) = args.udp {
        vec![flagged(Kind::PushUdp { listen })]
    } else if let Some(config) = &args.config {
        Settings::read(config)?.load.sources
    } else {
        Vec::new()
    };
    let names: Vec<String> = sources.iter().map(|source| source.name.clone()).collect();
    if let Some(wanted) = &args.source {
        sources.retain(|source| source.name == wanted.as_str());
    }
    if sources.is_empty() {
        let wanted = args.source.as_ref().map_or("any source", Name::as_str);
        let known = if names.is_empty() { "none".to_owned() } else { names.join(", ") };
        let text = format!("the configuration does not have {wanted}: its [[load]] sections are {known}");
        return Err(Failure::new(Class::Usage, text));
    }
    let is_only = sources.len() == 1;
    // The agent's own recordings stay as they are.
    let wanted = |source| Wanted { source: SourceSettings { record: None, ..source }, is_only };
    Ok(sources.into_iter().map(wanted).collect())
}

/// `load.ndjson` of the source `du` is `load.du.ndjson`.
fn named(path: &Path, source: &str) -> PathBuf {
    match path.extension() {
        Some(ending) => path.with_extension(format!("{source}.{}", ending.to_string_lossy())),
        None => path.with_extension(source),
    }
}

/// Most often the reason is an agent that has the source.
fn cannot_open(error: OpenError) -> Failure {
    let remedy = "an agent that runs has this source; let it record: set record = \"/var/lib/neap/NAME.ndjson\" in the \
                  [[load]] section and restart it, or stop it first";
    let taken = match &error.problem {
        Problem::SocketInUse { .. } => true,
        Problem::Io { error, .. } => error.kind() == io::ErrorKind::AddrInUse,
        Problem::Setting { .. }
        | Problem::NotASocket { .. }
        | Problem::NotALoadPage { .. }
        | Problem::Line { .. }
        | Problem::Recording { .. } => false,
    };
    let failure = recordings::failure(&error.problem);
    match taken {
        true => {
            Failure::new(Class::TemporaryFailure, format!("load source {:?}: {remedy} ({})", error.name, error.problem))
        }
        false => Failure::new(failure.class, error.to_string()),
    }
}

/// Writes what the source has to say.
fn listen(live: &mut Live, now: Instant, wall: WallTime) -> Result<(), Failure> {
    let at = wall.since(WallTime::from_millis(0));
    let Live { source, writer, bad, path, .. } = live;
    let mut written = Ok(true);
    source.read(now, &mut |observation| match observation {
        Ok(reading) => {
            if let Ok(true) = written {
                written = writer.reading(at, &reading);
            }
        }
        Err(_) => *bad += 1,
    });
    match written {
        Ok(true) => Ok(()),
        Ok(false) => Err(full(path)),
        Err(error) => Err(failed(path, &error)),
    }
}

fn told(lives: &[Live], passed: Duration) -> String {
    let counts = lives.iter().map(|live| format!("{}: {} lines", live.name, live.writer.written()));
    format!("{} s, {}", passed.as_secs(), counts.collect::<Vec<_>>().join(", "))
}

/// Waits until a source has something to say, or for a while.
fn sleep(lives: &[Live], now: Instant, end: Option<Instant>) -> Result<(), Failure> {
    let polls = lives.iter().filter_map(|live| live.source.next_poll());
    let until = polls.chain(end).min().map_or(SLEEP_MAX, |at| at.since(now)).min(SLEEP_MAX);
    let mut waiting: Vec<PollFd<'_>> = lives
        .iter()
        .filter_map(|live| live.source.fd())
        .map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN))
        .collect();
    let timeout = Timespec { tv_sec: 0, tv_nsec: i64::from(until.subsec_nanos()) };
    match poll(&mut waiting, Some(&timeout)) {
        Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
        Err(error) => Err(Failure::io("cannot wait for the sources", &error.into())),
    }
}

/// Becomes true with Ctrl-C or SIGTERM.
fn interrupted() -> Result<Arc<AtomicBool>, Failure> {
    let ended = Arc::new(AtomicBool::new(false));
    let theirs = Arc::clone(&ended);
    let cannot = |error| Failure::io("cannot hear signals", &error);
    let (tell, told) = std::sync::mpsc::sync_channel(1);
    let thread = std::thread::Builder::new().name("neap-signals".to_owned());
    let heard = thread.spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let waiting = runtime.and_then(|runtime| {
            let signals = runtime.block_on(async {
                Ok::<_, io::Error>((signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?))
            })?;
            Ok((runtime, signals))
        });
        let (runtime, (mut interrupt, mut terminate)) = match waiting {
            Ok(waiting) => waiting,
            Err(error) => return drop(tell.send(Err(error))),
        };
        drop(tell.send(Ok(())));
        runtime.block_on(async {
            tokio::select! { _ = interrupt.recv() => {}, _ = terminate.recv() => {} }
        });
        theirs.store(true, SeqCst);
    });
    heard.map_err(cannot)?;
    let ready = told.recv().map_err(|_| cannot(io::Error::other("the thread that hears them ended")))?;
    ready.map_err(cannot)?;
    Ok(ended)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn several_sources_have_files_beside_one_another() {
        assert_eq!(named(Path::new("/x/load.ndjson"), "du"), Path::new("/x/load.du.ndjson"));
        assert_eq!(named(Path::new("load"), "du"), Path::new("load.du"));
    }

    #[test]
    fn a_source_that_an_agent_has_is_told_with_the_remedy() {
        let problem = Problem::SocketInUse { path: PathBuf::from("/run/neap/load.sock") };
        let failure = cannot_open(OpenError { name: "du".to_owned(), problem });
        assert_eq!(failure.class, Class::TemporaryFailure);
        assert!(failure.text.contains("record = \"/var/lib/neap/NAME.ndjson\""), "{}", failure.text);
    }
}
