//! Whose orders count here? The node's key ring, and what it remembers of the orders it believed.
//!
//! Everything that comes from a controller passes here before anything of its body is parsed. Without a ring everything
//! counts. With one a signature that is wrong is always refused, and a missing one as the mode says.

use std::io::Read as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use super::desk::Now;
use crate::config;
use crate::fault::{Code, Fault};
use crate::link::Publish;
use crate::link::messages::HEADER_LENGTH;
use crate::link::topics::Topics;
use crate::telemetry::LogLimit;
use crate::trust::Mode;
use crate::trust::keyring::{KeyRing, RING_BYTES_MAX};
use crate::trust::order::{self, Authority, Message, PROPERTY};
use crate::trust::replay::{Lane, Mark, Memory, Step};
use crate::units::{Name, WallTime};

/// What an order may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum May {
    /// It counts, and was not carried out before.
    Act,
    /// It is the last one once more: answered, not carried out.
    Repeat,
}

/// Judges orders.
#[derive(Debug, Default)]
pub(super) struct Trust {
    mode: Mode,
    file: Option<PathBuf>,
    site: String,
    node: String,
    ring: KeyRing,
    memory: Memory,
    /// What is to be made durable with the next commit.
    marks: Vec<Mark>,
    unsigned: u64,
}

impl Trust {
    /// Reads the key ring that the configuration names.
    ///
    /// # Errors
    /// `trust.ring` when it cannot be read or others may write it, `trust.ring_rollback` when it is older than one that
    /// was used before.
    pub(super) fn open(settings: &config::Trust, topics: &Topics, marks: &[Mark]) -> Result<Self, Fault> {
        let mut trust = Self {
            mode: settings.mode,
            file: settings.keys.clone(),
            site: topics.site().to_string(),
            node: topics.node().to_string(),
            ..Self::default()
        };
        trust.memory.recall(marks);
        let Some(file) = &settings.keys else {
            tracing::info!(mode = trust.mode.as_str(), "orders need no signature: [trust] keys names no key ring");
            return Ok(trust);
        };
        let ring = KeyRing::parse(&read(file)?)?;
        ring.check_not_older(trust.memory.ring())?;
        trust.use_ring(ring);
        Ok(trust)
    }

    /// Reads the key ring again.
    ///
    /// # Errors
    /// As [`Trust::open`], and when no root of the ring in use has signed it though there are some. The ring in use stays.
    pub(super) fn reload(&mut self) -> Result<(), Fault> {
        let Some(file) = &self.file else { return Ok(()) };
        let ring = self.ring.succeeded_by(&read(file)?)?;
        self.use_ring(ring);
        Ok(())
    }

    fn use_ring(&mut self, ring: KeyRing) {
        let (keys, seq, mode) = (ring.keys().count(), ring.seq(), self.mode.as_str());
        tracing::info!(mode, keys, seq, "orders are judged by the key ring");
        let mark = self.memory.uses_ring(seq);
        self.keep(mark);
        self.ring = ring;
    }

    /// What a store that was opened later remembers.
    pub(super) fn recall(&mut self, marks: &[Mark]) {
        self.memory.recall(marks);
        if self.mode != Mode::None
            && let Err(fault) = self.ring.check_not_older(self.memory.ring())
        {
            tracing::error!(%fault, "no order counts until a newer ring is installed and read (SIGHUP)");
            self.ring = KeyRing::default();
        }
    }

    /// The time is beyond doubt and the store is there: what is to be remembered is from now on.
    pub(super) fn begin(&mut self, now: WallTime) {
        if self.mode != Mode::None {
            let mark = self.memory.begin(now);
            self.keep(mark);
        }
    }

    /// Jobs that ended until then are about to be forgotten.
    pub(super) fn forget(&mut self, ended: Option<WallTime>) {
        if let Some(ended) = ended.filter(|_| self.mode != Mode::None) {
            let mark = self.memory.forgot(ended);
            self.keep(mark);
        }
    }

    /// One for each name: while the disk refuses they wait here.
    fn keep(&mut self, mark: Option<Mark>) {
        if let Some((name, number)) = mark {
            self.marks.retain(|(known, _)| *known != name);
            self.marks.push((name, number));
        }
    }

    /// Whose models count, and whether all others are refused; `None` without a key ring.
    pub(super) fn publishers(&self) -> Option<(&KeyRing, bool)> {
        match self.mode {
            Mode::None => None,
            Mode::Warn => Some((&self.ring, false)),
            Mode::Require => Some((&self.ring, true)),
        }
    }

    /// What is to be made durable.
    pub(super) fn take_marks(&mut self) -> Vec<Mark> {
        std::mem::take(&mut self.marks)
    }

    /// Whether something is to be made durable.
    pub(super) fn has_marks(&self) -> bool {
        !self.marks.is_empty()
    }

    /// Judges a job of an unknown id; the authority behind it, if it has one.
    ///
    /// # Errors
    /// A `trust.*` code.
    pub(super) fn judge_job(&mut self, now: Now, id: &str, message: &Publish) -> Result<Option<Authority>, Fault> {
        let authority = self.judge(now, order::SUBMIT, id, message)?;
        authority.iter().try_for_each(|authority| self.memory.judge_job(authority))?;
        Ok(authority)
    }

    /// Judges an order that may be carried out any number of times: it asks, or ends something for good.
    ///
    /// # Errors
    /// A `trust.*` code.
    pub(super) fn judge_harmless(&mut self, now: Now, order: &str, id: &str, message: &Publish) -> Result<May, Fault> {
        self.judge(now, order, id, message).map(|_| May::Act)
    }

    /// Judges an order that changes the node, and remembers it.
    ///
    /// # Errors
    /// A `trust.*` code.
    pub(super) fn judge_command(&mut self, now: Now, order: &str, message: &Publish) -> Result<May, Fault> {
        let Some(authority) = self.judge(now, order, "", message)? else { return Ok(May::Act) };
        let lane = if order == order::FLEET_HOLD { Lane::Site } else { Lane::Node };
        let (step, mark) = self.memory.judge_command(lane, &authority)?;
        self.keep(mark);
        Ok(match step {
            Step::New => May::Act,
            Step::Again => May::Repeat,
        })
    }

    fn judge(&mut self, now: Now, order: &str, id: &str, message: &Publish) -> Result<Option<Authority>, Fault> {
        if self.mode == Mode::None {
            return Ok(None);
        }
        let mut envelopes = message.properties.iter().filter(|(name, _)| name == PROPERTY);
        let Some((_, envelope)) = envelopes.next() else { return self.judge_unsigned(now, order, id) };
        if envelopes.next().is_some() {
            let text = format!("the message has more than one user property {PROPERTY}; send one");
            return Err(Fault::new(Code::TrustAmbiguous, text));
        }
        let header = message.properties.iter().find(|(name, _)| name == HEADER_LENGTH);
        let given = Message {
            site: &self.site,
            node: if order == order::FLEET_HOLD { order::ALL_NODES } else { &self.node },
            order,
            id,
            body: &message.body,
            content_type: message.content_type.as_deref(),
            header: header.map(|(_, value)| value.as_str()),
            reply: message.response_topic.as_deref(),
        };
        let authority = order::verify(envelope.as_bytes(), &self.ring, &given, now.is_sure().then_some(now.wall))?;
        static BELIEVED: LogLimit = LogLimit::new(20, 60);
        if let Some(suppressed) = BELIEVED.admit(now.mono) {
            let Authority { issuer, key, seq, .. } = &authority;
            tracing::info!(%issuer, %key, seq, order, job = id, suppressed, "signed order");
        }
        Ok(Some(authority))
    }

    fn judge_unsigned(&mut self, now: Now, order: &str, id: &str) -> Result<Option<Authority>, Fault> {
        let order: String = order.chars().take(40).collect();
        if self.mode == Mode::Require {
            let text = format!(
                "the order {order} is not signed, and this node wants the user property {PROPERTY}; sign it with neap \
                 sign, or send it with --sign-with"
            );
            return Err(Fault::new(Code::TrustUnsigned, text));
        }
        self.unsigned += 1;
        static UNSIGNED: LogLimit = LogLimit::new(10, 60);
        if let Some(suppressed) = UNSIGNED.admit(now.mono) {
            let total = self.unsigned;
            tracing::warn!(order, job = id, total, suppressed, "carried out unsigned: [trust] mode is warn");
        }
        Ok(None)
    }
}

/// Whether the authority behind a job may have that model run; what nobody signed may have any.
pub(super) fn check_model(authority: Option<&Authority>, model: &Name) -> Result<(), Fault> {
    authority.map_or(Ok(()), |authority| authority.check_model(model))
}

/// Reads a key ring that only its owner, or root, may write.
///
/// # Errors
/// `trust.ring` with path, mode and remedy.
pub fn read(file: &Path) -> Result<Vec<u8>, Fault> {
    let bad = |why: String| Fault::new(Code::TrustRing, format!("key ring {}: {why}", file.display()));
    let opened = std::fs::File::open(file).map_err(|error| bad(error.to_string()))?;
    let found = opened.metadata().map_err(|error| bad(error.to_string()))?;
    let (mode, owner, own) = (found.mode() & 0o777, found.uid(), rustix::process::geteuid().as_raw());
    if mode & 0o022 != 0 {
        let why = format!("mode {mode:03o}: others may write it, and so give orders; run chmod go-w on it");
        return Err(bad(why));
    }
    if owner != 0 && owner != own {
        return Err(bad(format!("it belongs to user {owner}; root or user {own} must own it")));
    }
    let mut text = Vec::new();
    opened.take(2 * RING_BYTES_MAX as u64 + 1).read_to_end(&mut text).map_err(|error| bad(error.to_string()))?;
    Ok(text)
}
