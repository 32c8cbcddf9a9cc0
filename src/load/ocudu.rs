//! How busy is an OCUDU or srsRAN Project gNB, by its own JSON metrics?
//!
//! Two ways in. From release 25.10 on, and in OCUDU, the gNB serves a WebSocket on a loopback port; [`socket`]
//! subscribes there, and never says anything else, for the same port takes commands that end the RAN. Up to 25.04 it
//! sends datagrams, which [`udp`] listens for. Both feed [`report`], which is pure.
//!
//! Reports come once a second: good for finding troughs and for the harm guard, too slow to yield on. Give such a node a
//! fast source as well (`push`, `shm`, `procfs`).

pub mod document;
pub mod executors;
pub mod report;
mod socket;
mod udp;

use std::collections::BTreeMap;
use std::net::{SocketAddr, UdpSocket};
use std::time::Duration;

use super::mailbox::{Mailbox, Poster};
use super::{Observation, Problem, push};
use crate::fault::plain;
use crate::units::{Instant, SourceId};
use report::Reports;

/// Where the gNB's remote-control port is unless it is configured.
pub const ADDRESS_DEFAULT: &str = "127.0.0.1:8001";
/// Where releases up to 25.04 send their metrics unless it is configured.
pub const LISTEN_DEFAULT: &str = "127.0.0.1:55555";
/// Most cores that can be 100 %.
pub const CORES_MAX: u32 = 1024;
/// Most PRBs of a carrier (3GPP TS 38.101-1).
pub const PRBS_MAX: u16 = 275;
/// Highest peak of the bit rate, in Mbit/s.
pub const PEAK_MBPS_MAX: u64 = 1_000_000;

/// Observations that wait for the sentinel: those of two reports of a DU with many cells.
const WAITING_MAX: usize = 512;
/// How long after its begin a stream must have told everything that it will ever tell.
const TOLD_AFTER: Duration = Duration::from_secs(5);
/// How often the same complaint is told.
const COMPLAINT_EVERY: Duration = Duration::from_secs(60);

/// Where the metrics come from, and what 100 % is.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// Which form.
    pub form: Form,
    /// A loopback address: the gNB's port, or where to listen.
    pub address: SocketAddr,
    /// What is full.
    pub scale: Scale,
}

/// In which form the metrics come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// WebSocket, one object a frame.
    Stream,
    /// UDP, up to release 25.04.
    Datagrams,
}

/// What 100 % is.
#[derive(Clone, Debug, PartialEq)]
pub struct Scale {
    /// Cores that the RAN may use: the executors' loads together are a share of them. 1 to [`CORES_MAX`].
    pub cores: u32,
    /// PRBs of a carrier by PCI, for TDD cells. 1 to [`PRBS_MAX`].
    pub prbs: BTreeMap<u64, u16>,
    /// Bits a second that a cell moves at most, both directions together.
    pub peak_bits: Option<f64>,
}

/// Checks what can be checked without opening anything.
pub(super) fn check(settings: &Settings) -> Result<(), Problem> {
    let Settings { form, address, scale } = settings;
    match form {
        Form::Stream if !address.ip().is_loopback() || address.port() == 0 => {
            let limit = "a loopback address and port such as 127.0.0.1:8001 (the port takes commands that end the \
                         RAN: it must not be reachable from outside)";
            return Err(Problem::setting("address", address, limit));
        }
        Form::Datagrams => push::check_listen(*address)?,
        Form::Stream => {}
    }
    if !(1..=CORES_MAX).contains(&scale.cores) {
        return Err(Problem::setting("cores", scale.cores, "1 to 1024, the cores that the RAN may use"));
    }
    if let Some(prbs) = scale.prbs.values().find(|prbs| !(1..=PRBS_MAX).contains(*prbs)) {
        return Err(Problem::setting("prbs", prbs, "1 to 275 for each PCI, such as { 1 = 51 }"));
    }
    match scale.peak_bits {
        Some(peak) if !peak.is_finite() || peak <= 0.0 => {
            Err(Problem::setting("peak_mbps", peak, "above 0, the most that a cell moves in both directions together"))
        }
        None if *form == Form::Datagrams => Err(Problem::setting(
            "peak_mbps",
            "(none)",
            "set: this form has no other figure of the load than bit rates",
        )),
        Some(_) | None => Ok(()),
    }
}

/// Opens the source: starts the thread that connects, or listens, until the mailbox is dropped.
///
/// A gNB that is not there is no error: it is tried again, and until it speaks the source is silent, which means busy.
///
/// # Errors
/// When a setting is out of range, the address to listen at is taken, or the system has no thread left.
pub fn open(id: SourceId, settings: &Settings) -> Result<Mailbox, Problem> {
    listen(id, settings).map(|(mailbox, _)| mailbox)
}

/// As [`open`]; gives the address as well, which tells the port that was asked for as 0.
///
/// # Errors
/// As [`open`].
pub fn listen(id: SourceId, settings: &Settings) -> Result<(Mailbox, SocketAddr), Problem> {
    check(settings)?;
    let reports = Reports::new(id, settings.form, settings.scale.clone());
    let mut address = settings.address;
    let started = match settings.form {
        Form::Stream => Mailbox::start("neap-ocudu", WAITING_MAX, move |poster| socket::run(poster, address, reports)),
        Form::Datagrams => {
            let failed = |error| Problem::Io {
                attempt: "listen for the metrics of a gNB on UDP",
                place: settings.address.to_string(),
                error,
                remedy: "choose a free port, or stop the process that has it",
            };
            let socket = UdpSocket::bind(settings.address).map_err(failed)?;
            socket.set_nonblocking(true).map_err(failed)?;
            address = socket.local_addr().map_err(failed)?;
            Mailbox::start("neap-ocudu-udp", WAITING_MAX, move |poster| udp::run(poster, &socket, reports))
        }
    };
    let failed = |error| Problem::Io {
        attempt: "start the thread",
        place: "neap-ocudu".to_owned(),
        error,
        remedy: "raise the limits of open files and of tasks of the agent's service",
    };
    Ok((started.map_err(failed)?, address))
}

/// What the thread tells people, at a bounded rate.
#[derive(Debug)]
struct Notes {
    address: SocketAddr,
    /// When the stream began that has not been judged yet.
    began: Option<Instant>,
    /// What was last said to be missing.
    missing: String,
    complaint: Option<(String, Instant)>,
}

impl Notes {
    fn new(address: SocketAddr) -> Self {
        Self { address, began: None, missing: String::new(), complaint: None }
    }

    /// Messages come from now on.
    fn on_begin(&mut self, now: Instant) {
        self.began = Some(now);
    }

    /// Hands a message to `reports` and what comes of it to the sentinel.
    fn on_message(&mut self, now: Instant, message: &[u8], reports: &mut Reports, poster: &Poster) {
        let mut senseless = None;
        let mut post = |observation: Observation| {
            senseless = observation.err().map(|malformed| malformed.why).or(senseless);
            poster.post(observation);
        };
        let refusal = reports.on_message(now, message, &mut post);
        if let Some(why) = senseless {
            self.complain(now, why);
        }
        if let Some(refusal) = refusal {
            self.complain(now, &format!("it says {refusal}; set metrics.enable_json in the gNB's configuration"));
        }
        if self.began.is_some_and(|began| now.since(began) >= TOLD_AFTER) {
            self.began = None;
            self.tell_missing(reports.missing());
        }
    }

    /// Once, and again only when it is something else.
    fn tell_missing(&mut self, missing: String) {
        if missing != self.missing && !missing.is_empty() {
            tracing::info!(gnb = %self.address, "the gNB's metrics lack: {missing}");
        }
        self.missing = missing;
    }

    /// Says what is wrong, the same at most once a minute.
    fn complain(&mut self, now: Instant, what: &str) {
        let what = plain(what, 300);
        let is_known =
            self.complaint.as_ref().is_some_and(|(last, at)| *last == what && now.since(*at) < COMPLAINT_EVERY);
        let is_hasty = self.complaint.as_ref().is_some_and(|(_, at)| now.since(*at) < Duration::from_secs(1));
        if !is_known && !is_hasty {
            tracing::warn!(gnb = %self.address, "the gNB's metrics: {what}; the node counts as busy meanwhile");
            self.complaint = Some((what, now));
        }
    }
}

#[cfg(test)]
mod tests;
