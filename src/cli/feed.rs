//! Pushes load by hand, as a RAN would: `neap feed`.

use std::io::{self, BufRead as _, ErrorKind, Read as _};
use std::net::{SocketAddr, UdpSocket};
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use super::failure::{Class, Failure};
use super::recordings::remark;
use super::span::{self, Span};
use crate::config::Settings;
use crate::load::shm::Writer;
use crate::load::{Kind, push};
use crate::sys::clock;
use crate::units::{CellId, Utilization};

/// Time between two datagrams when only `--for` is given.
const EVERY: Span = Span(Duration::from_millis(100));
/// Longest wait for a receiver whose queue is full.
const SEND_MAX: Duration = Duration::from_secs(2);
/// Longest datagram, in bytes, as the agent reads them.
const DATAGRAM_BYTES_MAX: usize = 4096;

/// Arguments of `neap feed`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  neap feed --prb 80                                   one sample to /run/neap/load.sock
  neap feed --config config/lab.toml --prb 5 --for 60s  keep a trough open for a minute
  neap feed --udp 127.0.0.1:9700 --cell 2 --prb 35 --ul 20
  neap feed --shm /run/neap/load.shm --prb 80          through the page in shared memory, with a ring
  neap feed --late 3                                   three late slots so far: an immediate yield
  neap feed --gone --cell 2                            cell 2 is out of service
  my-ran-exporter | neap feed --stdin                  one JSON object a line, as it is

A single sample is believed for the freshness_ms of its source; after that the node is busy again.
Where samples follow one another (--every, --for, --stdin), those that nobody is there to take are lost, and feeding goes
on: an agent may start later, or again. The exit code is then that of the last sample, 69 when nobody took it.")]
pub(super) struct Args {
    #[command(flatten)]
    to: To,
    /// Downlink PRB usage in percent (RRU.PrbTotDl)
    #[arg(long, allow_negative_numbers = true, value_name = "PERCENT")]
    #[arg(value_parser = clap::value_parser!(u8).range(0..=100))]
    prb: Option<u8>,
    /// Uplink PRB usage in percent (RRU.PrbTotUl)
    #[arg(long, allow_negative_numbers = true, value_name = "PERCENT")]
    #[arg(value_parser = clap::value_parser!(u8).range(0..=100))]
    ul: Option<u8>,
    /// Running count of late slots; a change is an immediate yield
    #[arg(long, value_name = "COUNT")]
    late: Option<u64>,
    /// The cell is out of service and no longer counts
    #[arg(long, conflicts_with_all = ["prb", "ul", "late"])]
    gone: bool,
    /// Cell number (PCI or NCGI)
    #[arg(long, value_name = "CELL", default_value_t = 1)]
    cell: u64,
    /// Repeat after this time, e.g. 100ms
    #[arg(long, value_name = "TIME", value_parser = span::positive)]
    every: Option<Span>,
    /// Repeat for this long, e.g. 60s; without it and with --every: until interrupted
    #[arg(long = "for", value_name = "TIME", value_parser = span::positive)]
    lasting: Option<Span>,
    /// Pass lines from standard input on, one datagram each
    #[arg(long, conflicts_with_all = ["prb", "ul", "late", "gone", "every", "lasting"])]
    stdin: bool,
}

#[derive(Debug, clap::Args)]
#[group(multiple = false)]
struct To {
    /// Unix datagram socket of a push source [default: /run/neap/load.sock]
    #[arg(long, value_name = "PATH")]
    socket: Option<PathBuf>,
    /// Address of a push_udp source
    #[arg(long, value_name = "ADDRESS")]
    udp: Option<SocketAddr>,
    /// Page of a shm source, e.g. /run/neap/load.shm; what is not given is 0, but for the count of late slots, which stays
    #[arg(long, value_name = "PATH")]
    shm: Option<PathBuf>,
    /// Configuration of the agent; its first push, push_udp or shm source is fed
    #[arg(short, long, value_name = "FILE")]
    config: Option<PathBuf>,
}

/// Where samples go.
enum Target {
    Unix(UnixDatagram, PathBuf),
    Udp(UdpSocket, SocketAddr),
    /// Opened for each reading: the agent may have made another since.
    Page(PathBuf),
}

/// Whether somebody is there to take samples, while one follows the other.
#[derive(Default)]
struct Taker {
    /// Why the last sample was not taken.
    missing: Option<Failure>,
}

pub(super) fn run(args: &Args) -> Result<(), Failure> {
    let nothing_to_say = args.prb.is_none() && args.ul.is_none() && args.late.is_none();
    if nothing_to_say && !args.gone && !args.stdin {
        let text = "nothing to feed: give --prb PERCENT, --ul PERCENT, --late COUNT, --gone or --stdin";
        return Err(Failure::new(Class::Usage, text));
    }
    let target = args.to.open()?;
    if args.stdin {
        return pass_on(&target);
    }
    let Some(Span(pause)) = args.every.or(args.lasting.and(Some(EVERY))) else { return sample(&target, args) };
    let end = args.lasting.map(|Span(lasting)| clock::now().after(lasting));
    let mut taker = Taker::default();
    loop {
        taker.hear(sample(&target, args))?;
        if end.is_some_and(|end| clock::now().after(pause) > end) {
            return taker.end();
        }
        thread::sleep(pause);
    }
}

/// Sends one sample, as the arguments say.
fn sample(target: &Target, args: &Args) -> Result<(), Failure> {
    match target {
        Target::Page(path) => write(path, args),
        Target::Unix(..) | Target::Udp(..) => {
            let now = Some(clock::now());
            let line = push::encode(CellId(args.cell), args.prb, args.ul, args.late, now, args.gone);
            target.send(line.as_bytes())
        }
    }
}

/// Writes the page and rings. A page carries a whole reading each time.
fn write(path: &Path, args: &Args) -> Result<(), Failure> {
    let mut writer = Writer::open(path).map_err(|problem| Failure::new(Class::Unavailable, problem.to_string()))?;
    let (cell, now) = (CellId(args.cell), clock::now());
    if args.gone {
        writer.write_gone(cell, now);
    } else if args.prb.is_some() || args.ul.is_some() {
        // At most 100 by the arguments' own rule.
        let [dl, ul] = [args.prb, args.ul].map(|percent| Utilization::from_percent(percent.unwrap_or(0)));
        let [dl, ul] = [dl, ul].map(|level| level.unwrap_or(Utilization::FULL));
        writer.write(cell, dl, ul, args.late.unwrap_or_else(|| writer.late()), now);
    } else {
        let text = "a page carries a level with every count: give --prb PERCENT or --ul PERCENT with --late";
        return Err(Failure::new(Class::Usage, text));
    }
    writer.ring();
    Ok(())
}

/// Sends each line of standard input as it is: the agent judges what it says.
fn pass_on(target: &Target) -> Result<(), Failure> {
    let failed = |error| Failure::io("cannot read standard input", &error);
    let mut stdin = io::stdin().lock();
    let mut line = Vec::new();
    let mut taker = Taker::default();
    for number in 1_u64.. {
        line.clear();
        let limit = DATAGRAM_BYTES_MAX as u64 + 1;
        if io::Read::by_ref(&mut stdin).take(limit).read_until(b'\n', &mut line).map_err(failed)? == 0 {
            break;
        }
        if line.len() > DATAGRAM_BYTES_MAX {
            let text =
                format!("standard input, line {number}: longer than the {DATAGRAM_BYTES_MAX} bytes of a datagram");
            return Err(Failure::new(Class::Data, text));
        }
        if !line.trim_ascii().is_empty() {
            taker.hear(target.send(&line))?;
        }
    }
    taker.end()
}

impl Taker {
    /// Takes in what became of a sample. That nobody was there to take it is told once and is no failure; that somebody is
    /// there again is told as well.
    fn hear(&mut self, sent: Result<(), Failure>) -> Result<(), Failure> {
        match sent {
            Err(failure) if failure.class == Class::Unavailable => {
                if self.missing.is_none() {
                    remark(&format!("nobody takes the load, feeding goes on: {}", failure.text));
                }
                self.missing = Some(failure);
                Ok(())
            }
            Err(failure) => Err(failure),
            Ok(()) => {
                if self.missing.take().is_some() {
                    remark("load is taken now");
                }
                Ok(())
            }
        }
    }

    /// What became of the last sample.
    fn end(self) -> Result<(), Failure> {
        self.missing.map_or(Ok(()), Err)
    }
}

impl To {
    fn open(&self) -> Result<Target, Failure> {
        if let Some(address) = self.udp {
            return udp(address);
        }
        if let Some(path) = &self.shm {
            return Ok(Target::Page(path.clone()));
        }
        let Some(path) = &self.config else {
            return unix(self.socket.as_deref().unwrap_or(Path::new("/run/neap/load.sock")));
        };
        let settings = Settings::read(path)?;
        for source in &settings.load.sources {
            match &source.kind {
                Kind::Push { socket, .. } => return unix(socket),
                Kind::PushUdp { listen } => return udp(*listen),
                Kind::Shm { path, .. } => return Ok(Target::Page(path.clone())),
                Kind::Procfs(_) | Kind::Dpdk(_) | Kind::Log(_) | Kind::Ocudu(_) | Kind::Trace { .. } | Kind::Mqtt => {}
            }
        }
        let text =
            format!("{}: no [[load]] of kind push, push_udp or shm: add one, or name a --socket", path.display());
        Err(Failure::new(Class::Config, text))
    }
}

fn unix(path: &Path) -> Result<Target, Failure> {
    let cannot = |error| Failure::io("cannot make a socket", &error);
    let socket = UnixDatagram::unbound().map_err(cannot)?;
    // A receiver that has stopped reading fills its queue, and a send to it would wait for ever.
    socket.set_write_timeout(Some(SEND_MAX)).map_err(cannot)?;
    Ok(Target::Unix(socket, path.to_owned()))
}

fn udp(address: SocketAddr) -> Result<Target, Failure> {
    let own: SocketAddr =
        if address.is_ipv4() { ([127, 0, 0, 1], 0).into() } else { ([0, 0, 0, 0, 0, 0, 0, 1], 0).into() };
    let socket = UdpSocket::bind(own).map_err(|error| Failure::io("cannot make a UDP socket", &error))?;
    Ok(Target::Udp(socket, address))
}

impl Target {
    fn send(&self, datagram: &[u8]) -> Result<(), Failure> {
        let (sent, place) = match self {
            Self::Unix(socket, path) => (socket.send_to(datagram, path), path.display().to_string()),
            Self::Udp(socket, address) => (socket.send_to(datagram, address), address.to_string()),
            Self::Page(_) => {
                let text = "a page takes readings, no lines: use --socket or --udp with --stdin";
                return Err(Failure::new(Class::Usage, text));
            }
        };
        let Err(error) = sent else { return Ok(()) };
        let what = format!("cannot push load to {place}");
        if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::ConnectionRefused) {
            let text = format!("{what}: {error}; is the agent running, and is that the socket of a [[load]]?");
            return Err(Failure::new(Class::Unavailable, text));
        }
        if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) {
            let text = format!("{what}: its queue has been full for {SEND_MAX:?}; has the agent stopped reading?");
            return Err(Failure::new(Class::TemporaryFailure, text));
        }
        Err(Failure::io(&what, &error))
    }
}
