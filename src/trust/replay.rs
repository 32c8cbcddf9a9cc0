//! Was this order carried out before? What a node remembers of the orders it believed.
//!
//! A *job* carries its id in what is signed, and a known id never runs twice. Ids are forgotten some time after their
//! jobs have ended; from then on no order counts that was signed before such a job came ([`Memory::forgot`]). So jobs may
//! arrive in any order, and none runs twice, however long its signature holds.
//!
//! A *cancel* and an *ack* name their job in the same way. They end something for good, so a second time changes nothing.
//!
//! Other *commands* change the node, and their order matters. Each issuer's must rise in `seq`: one that does not is
//! refused, the last one again is answered and not carried out ([`Step::Again`]).
//!
//! A node whose memory was lost believes no job and no command that was signed before its memory began
//! ([`Memory::begin`]). All of it is a few numbers, made durable together with what the order changed: [`Mark`]s, which
//! only rise.

use std::collections::BTreeMap;

use super::keyring::ISSUERS_MAX;
use super::order::{Authority, SKEW_MAX};
use crate::fault::{Code, Fault};
use crate::units::{Digest, Name, WallTime};

/// A number to be made durable. Of several under one name the highest counts.
pub type Mark = (String, u64);

const BEGAN: &str = "trust/began";
const FORGOTTEN: &str = "trust/forgotten";
const RING: &str = "trust/ring";
const SEQ: &str = "trust/seq/";

/// Most marks there can be.
pub const MARKS_MAX: usize = 3 + 2 * ISSUERS_MAX;

/// Who the command is for: they are counted apart, because a hold of the site is kept by the broker and comes again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Lane {
    /// This node.
    Node,
    /// All nodes of the site.
    Site,
}

/// What a command is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Never heard before: to be carried out.
    New,
    /// The last one once more.
    Again,
}

/// What a node remembers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Memory {
    began: Option<WallTime>,
    forgotten: Option<WallTime>,
    ring: u64,
    /// The last command of each issuer; its digest is not known after a restart.
    last: BTreeMap<(Lane, String), (u64, Option<Digest>)>,
}

impl Memory {
    /// Takes in what was made durable before; more than once when a store comes late.
    pub fn recall(&mut self, marks: &[Mark]) {
        let time = |millis: u64| i64::try_from(millis).ok().map(WallTime::from_millis);
        for (name, number) in marks {
            match name.as_str() {
                BEGAN => self.began = self.began.max(time(*number)),
                FORGOTTEN => self.forgotten = self.forgotten.max(time(*number)),
                RING => self.ring = self.ring.max(*number),
                other => {
                    let Some((lane, issuer)) = other.strip_prefix(SEQ).and_then(lane_of) else { continue };
                    let last = self.last.entry((lane, issuer.to_owned())).or_default();
                    if *number > last.0 {
                        *last = (*number, None);
                    }
                }
            }
        }
    }

    /// The memory begins now, unless it did before.
    pub fn begin(&mut self, now: WallTime) -> Option<Mark> {
        if self.began.is_some() {
            return None;
        }
        self.began = Some(now);
        Some((BEGAN.to_owned(), millis(now)))
    }

    /// Jobs that came until then are forgotten.
    pub fn forgot(&mut self, received: WallTime) -> Option<Mark> {
        if self.forgotten >= Some(received) {
            return None;
        }
        self.forgotten = Some(received);
        Some((FORGOTTEN.to_owned(), millis(received)))
    }

    /// The newest key ring that was ever used.
    pub fn ring(&self) -> u64 {
        self.ring
    }

    /// A ring is used from now on.
    pub fn uses_ring(&mut self, seq: u64) -> Option<Mark> {
        if seq <= self.ring {
            return None;
        }
        self.ring = seq;
        Some((RING.to_owned(), seq))
    }

    /// Whether a job of an unknown id may be new.
    ///
    /// # Errors
    /// `trust.sequence_too_old` when it may have been forgotten.
    pub fn judge_job(&self, authority: &Authority) -> Result<(), Fault> {
        self.judge_age(authority)?;
        match self.forgotten {
            // The controller's clock may be ahead: a job that came then may say that it was signed a little later.
            Some(forgotten) if authority.issued <= forgotten.after(SKEW_MAX) => {
                let text = format!(
                    "signed at {}, and jobs that came until {forgotten} are forgotten, so it may have run; sign it \
                     anew",
                    authority.issued
                );
                Err(Fault::new(Code::TrustSequenceTooOld, text))
            }
            Some(_) | None => Ok(()),
        }
    }

    fn judge_age(&self, authority: &Authority) -> Result<(), Fault> {
        match self.began {
            Some(began) if authority.issued < began => {
                let text = format!(
                    "signed at {}, and this node's memory begins at {began}, so it may have been carried out; sign it \
                     anew",
                    authority.issued
                );
                Err(Fault::new(Code::TrustSequenceTooOld, text))
            }
            Some(_) | None => Ok(()),
        }
    }

    /// Judges a command that changes the node, and remembers it.
    ///
    /// # Errors
    /// `trust.replayed`, `trust.sequence_too_old` for one from before the memory, `trust.issuers_full`.
    pub fn judge_command(&mut self, lane: Lane, authority: &Authority) -> Result<(Step, Option<Mark>), Fault> {
        let Authority { issuer, seq, digest, .. } = authority;
        let at = (lane, issuer.to_string());
        if let Some((last, known)) = self.last.get(&at) {
            if seq == last && *known == Some(*digest) {
                return Ok((Step::Again, None));
            }
            // After a restart the broker shows again what it keeps for the site. It holds, which harms nothing.
            if seq == last && known.is_none() && lane == Lane::Site {
                self.last.insert(at, (*seq, Some(*digest)));
                return Ok((Step::Again, None));
            }
            if seq <= last {
                let text = format!(
                    "order {seq} of {issuer} came after its order {last}: it was carried out, or is out of date; sign it \
                     anew"
                );
                return Err(Fault::new(Code::TrustReplayed, text));
            }
        }
        self.judge_age(authority)?;
        if !self.last.contains_key(&at) && self.last.keys().filter(|(known, _)| *known == lane).count() >= ISSUERS_MAX {
            let text = format!("{ISSUERS_MAX} issuers are remembered, no more are allowed; sign as one of them");
            return Err(Fault::new(Code::TrustIssuersFull, text));
        }
        self.last.insert(at, (*seq, Some(*digest)));
        Ok((Step::New, Some((format!("{SEQ}{}{issuer}", prefix(lane)), *seq))))
    }

    /// Whose commands are remembered.
    pub fn issuers(&self) -> impl Iterator<Item = (Lane, &str)> {
        self.last.keys().map(|(lane, issuer)| (*lane, issuer.as_str()))
    }
}

const fn prefix(lane: Lane) -> &'static str {
    match lane {
        Lane::Node => "node/",
        Lane::Site => "site/",
    }
}

fn lane_of(text: &str) -> Option<(Lane, &str)> {
    let found = [Lane::Node, Lane::Site].into_iter().find_map(|lane| Some((lane, text.strip_prefix(prefix(lane))?)));
    found.filter(|(_, issuer)| issuer.parse::<Name>().is_ok())
}

fn millis(at: WallTime) -> u64 {
    u64::try_from(at.as_millis()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::trust::key::{PrivateKey, SEED_BYTES};
    use crate::trust::keyring::{Entry, KeyRing};
    use crate::trust::order::{Message, Signing, sign, verify};
    use std::time::Duration;

    fn at(seconds: i64) -> WallTime {
        WallTime::from_millis(1_764_000_000_000 + seconds * 1000)
    }

    fn authority(issuer: &str, seq: u64, issued: WallTime) -> Authority {
        let key = PrivateKey::from_seed(&[1; SEED_BYTES]);
        let all = vec!["*".to_owned()];
        let entry = Entry {
            key: key.public(),
            role: crate::trust::key::Role::Controller,
            owner: issuer.parse().unwrap(),
            not_before: None,
            not_after: None,
            nodes: all.clone(),
            models: all,
        };
        let mut ring = KeyRing::default();
        ring.add(entry).unwrap();
        let message = Message {
            site: "s",
            node: "n",
            order: "drain",
            id: "",
            body: b"",
            content_type: None,
            header: None,
            reply: None,
        };
        let expires = issued.after(Duration::from_secs(60));
        let signing = Signing { issuer: issuer.parse().unwrap(), seq, issued, not_before: None, expires };
        verify(sign(&message, &signing, &key).as_bytes(), &ring, &message, Some(issued)).unwrap()
    }

    fn command(memory: &mut Memory, issuer: &str, seq: u64) -> Result<Step, Code> {
        let judged = memory.judge_command(Lane::Node, &authority(issuer, seq, at(0)));
        judged.map(|(step, _)| step).map_err(|fault| fault.code)
    }

    #[test]
    fn commands_of_an_issuer_rise() {
        let mut memory = Memory::default();
        assert_eq!(command(&mut memory, "a", 5), Ok(Step::New));
        assert_eq!(command(&mut memory, "a", 5), Ok(Step::Again));
        assert_eq!(command(&mut memory, "a", 4), Err(Code::TrustReplayed));
        assert_eq!(command(&mut memory, "b", 4), Ok(Step::New), "each counts for itself");
        assert_eq!(command(&mut memory, "a", 9), Ok(Step::New));
        assert_eq!(command(&mut memory, "a", 5), Err(Code::TrustReplayed));
    }

    #[test]
    fn what_is_durable_is_remembered_after_a_restart() {
        let mut memory = Memory::default();
        let mut marks = vec![memory.begin(at(-100)).unwrap()];
        marks.extend(memory.judge_command(Lane::Node, &authority("a", 5, at(0))).unwrap().1);
        marks.extend(memory.judge_command(Lane::Site, &authority("a", 3, at(0))).unwrap().1);
        marks.extend(memory.forgot(at(-50)));
        marks.extend(memory.uses_ring(7));
        assert_eq!((memory.begin(at(0)), memory.forgot(at(-60)), memory.uses_ring(7)), (None, None, None));

        let mut again = Memory::default();
        again.recall(&marks);
        assert_eq!(again.ring(), 7);
        assert_eq!(command(&mut again, "a", 5), Err(Code::TrustReplayed));
        assert_eq!(command(&mut again, "a", 6), Ok(Step::New));
        let hold = again.judge_command(Lane::Site, &authority("a", 3, at(0))).unwrap();
        assert_eq!(hold, (Step::Again, None), "the broker keeps the hold of a site, and shows it again");
        assert_eq!(again.begin(at(0)), None);
    }

    #[test]
    fn a_job_that_may_have_been_forgotten_is_not_new() {
        let mut memory = Memory::default();
        assert_eq!(memory.judge_job(&authority("a", 1, at(0))), Ok(()));
        memory.forgot(at(0));
        let code = |seconds| memory.judge_job(&authority("a", 1, at(seconds))).map_err(|fault| fault.code);
        assert_eq!(code(-1000), Err(Code::TrustSequenceTooOld));
        assert_eq!(code(59), Err(Code::TrustSequenceTooOld), "by a clock that is ahead");
        assert_eq!(code(61), Ok(()));
    }

    #[test]
    fn what_was_signed_before_the_memory_began_is_not_believed() {
        let mut memory = Memory::default();
        memory.begin(at(0));
        assert_eq!(memory.judge_job(&authority("a", 1, at(-1))).unwrap_err().code, Code::TrustSequenceTooOld);
        assert_eq!(memory.judge_job(&authority("a", 1, at(1))), Ok(()));
        let command = memory.judge_command(Lane::Node, &authority("a", 1, at(-1)));
        assert_eq!(command.unwrap_err().code, Code::TrustSequenceTooOld);
    }

    #[test]
    fn issuers_are_bounded() {
        let mut memory = Memory::default();
        for number in 0..ISSUERS_MAX {
            assert_eq!(command(&mut memory, &format!("ctl-{number}"), 1), Ok(Step::New));
        }
        assert_eq!(command(&mut memory, "one-more", 1), Err(Code::TrustIssuersFull));
        assert_eq!(command(&mut memory, "ctl-0", 2), Ok(Step::New));
        assert_eq!(memory.issuers().count(), ISSUERS_MAX);
    }
}
