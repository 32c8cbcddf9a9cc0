//! What must survive a crash, and how is it kept? Jobs, their inputs and outputs, and the messages not yet delivered.
//!
//! # Layout, schema 2
//!
//! One redb file (format 3), `jobs.redb` in the state directory (0700; the file 0600), beside it `jobs.lock`, locked as
//! long as an agent runs. Tables:
//!
//! | table | key | value |
//! |---|---|---|
//! | `meta` | text | u64: `schema`, `boots` (runs of the agent), `commits` (transactions), `next_seq`, `wall_high` (ms since 1970; absent before the first), `crc`, and `mark/…` (the caller's numbers, which only rise) |
//! | `jobs` | job id | JSON: [`Job`], durations in ns, moments in ms since 1970; then the seal |
//! | `payloads` | job id | frame: content type and header length, then the submit's body; then the seal |
//! | `items` | (job id, index u32) | output of one finished item, as the caller encoded it; then the seal |
//! | `results` | job id | body of the result, as it was published; then the seal |
//! | `outbox` | sequence number u64 | frame: topic, expiry, properties, droppable, then the message's body; then the seal |
//!
//! A frame is a JSON head behind its length (four bytes, little-endian), then the body byte for byte. Heads and jobs are
//! JSON because an operator can read them, a field can be added without a migration (older versions skip it), and the
//! time goes to the sync, not to the encoding.
//!
//! A seal is a CRC-32 (IEEE 802.3, as in zlib) in four bytes, little-endian, over: the table's name, a zero byte, the
//! key as redb stores it (text: UTF-8; numbers: little-endian; an item's: length of the id as one byte, the id, the index
//! in four bytes), the value before the seal. An id of 254 bytes or more would have a longer length; ids are shorter.
//! The row `crc` of `meta` is the same checksum over all its other rows in the order of their keys: key, a zero byte,
//! the number in eight bytes. Besides, redb keeps checksums of its own: XXH3 with 128 bits over every page, from the root
//! down.
//!
//! Schema 1 is the same without the seals and without `crc`. A store of it is brought up to date when it is opened, in
//! one transaction. A change that an older reader would misread raises `schema`.
//!
//! # Transactions
//!
//! A [`Batch`] is written whole or not at all: a state, the outputs that led to it and the messages that tell of it
//! never disagree. [`Store::commit_many`] writes several batches in one transaction, with one `fdatasync`. Sequence
//! numbers of messages are given in the transaction, rise for ever and are never used twice.
//!
//! redb commits in one phase: of a commit that was cut short nothing is seen after the next open, because its pages do
//! not match their checksums. The price is that damage to the pages of the very last commit, after an unclean end,
//! cannot be told from a commit cut short: it is undone.
//!
//! # Recovery
//!
//! Opening checks all pages and reads all records once. Until that went well nothing is written to the file. A store with
//! damage (`state.corrupt`) or of a newer schema (`state.version`) gets a second name, `jobs.redb.corrupt-N` or
//! `jobs.redb.newer-N`, at most 8 of each; a new one takes its place when it is whole. So there is always a store, and an
//! empty or cut file is damage, never a fresh start. [`Opened::quarantined`] tells.
//!
//! Of a damaged store whatever is still good is carried over ([`salvage`] says what that is, [`pages`] how the file is
//! read). What is left is made to agree with itself: payloads, items and results of a job that is lost go, a job that lost
//! items computes them again under a higher version, and one that lost its input is in [`Opened::without_input`]. If the
//! page that lists the tables is lost, so is everything: an older list would bring back what was deleted.
//!
//! After an error in a commit the file is closed and opened again with all checks; the counter `commits` then tells
//! whether the transaction is in it, and the caller gets that answer. If it was the sync that failed, the file is copied
//! to a new one first, because the kernel may believe that pages are written which are not.

mod backend;
mod lock;
mod medium;
mod meta;
mod migrate;
mod opener;
mod pages;
mod records;
mod recovery;
mod salvage;
mod seal;
mod tally;
mod transaction;

use std::fmt;
use std::path::Path;

use redb::{ReadTransaction, ReadableDatabase};

use self::medium::Medium;
pub use self::opener::Opener;
use self::opener::Unsettled;
use self::records::{ITEMS, OUTBOX, PAYLOADS, RESULTS, decode_message, decode_payload};
use self::recovery::{Contents, Live, Started, Trouble, contained};
pub use self::recovery::{Quarantined, panic_is_contained};
use self::seal::unsealed;
use self::tally::{Plan, Taken, Tally};
use super::job::Job;
use crate::fault::Fault;
use crate::units::{JobId, WallTime};

/// Most names of [`Batch::marks`].
pub const MARKS_MAX: usize = 48;

/// How much the store may hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quota {
    /// Records of payloads, items, results and messages, in bytes. Above it payloads are refused; what belongs to jobs
    /// already accepted is always taken.
    pub bytes: u64,
    /// Messages in the outbox. Above it the oldest droppable ones give way. The others are always kept; when they alone
    /// are so many, payloads are refused, so that no new work adds to them.
    pub messages: usize,
}

/// Input of a job, as it was submitted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Payload {
    /// Body of the submit.
    pub body: Vec<u8>,
    /// Its MQTT content type.
    pub content_type: Option<String>,
    /// `inference-header-content-length`: bytes of JSON before the binary tensors.
    pub header_bytes: Option<usize>,
}

/// A message on its way to the controller.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// Full topic.
    pub topic: String,
    /// Body.
    pub body: Vec<u8>,
    /// Broker forgets it after this many seconds.
    pub expiry_s: Option<u32>,
    /// MQTT 5 user properties.
    pub properties: Vec<(String, String)>,
    /// When it was put into the outbox.
    pub queued: WallTime,
}

/// Changes that belong together. Removals are applied before additions.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Batch {
    /// Wall time that the sender trusts. The highest ever given is kept ([`Opened::wall_high`]); it rises with whatever
    /// else the batch changes, and alone too.
    pub at: Option<WallTime>,
    /// `at` takes the place of the highest ever given even when it is lower: that one has turned out to be wrong.
    pub at_replaces: bool,
    /// Jobs to be written, new or changed.
    pub jobs: Vec<Job>,
    /// Inputs of new jobs; the only part that the quota can refuse.
    pub payloads: Vec<(JobId, Payload)>,
    /// Outputs of finished items.
    pub items: Vec<(JobId, u32, Vec<u8>)>,
    /// Results.
    pub results: Vec<(JobId, Vec<u8>)>,
    /// Messages that must arrive.
    pub messages: Vec<Message>,
    /// Messages that may be lost when the outbox is full, oldest first.
    pub droppable: Vec<Message>,
    /// Messages that arrived, by sequence number; unknown numbers are passed over.
    pub delivered: Vec<u64>,
    /// Jobs to be forgotten, with payload, items and result.
    pub forget: Vec<JobId>,
    /// Payloads no longer needed.
    pub drop_payloads: Vec<JobId>,
    /// Jobs whose item outputs are no longer needed.
    pub drop_items: Vec<JobId>,
    /// Jobs of which a controller has the result: their records say so from now on, whatever else is in them.
    pub acknowledged: Vec<JobId>,
    /// Results no longer needed.
    pub drop_results: Vec<JobId>,
    /// Numbers to be remembered by their names, at most [`MARKS_MAX`]: of several under one name the highest counts.
    pub marks: Vec<(String, u64)>,
}

impl Batch {
    /// Whether it changes nothing.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Its messages, in the order of the sequence numbers that they are given.
    pub fn all_messages(&self) -> impl Iterator<Item = &Message> {
        self.messages.iter().chain(&self.droppable)
    }

    /// Takes its messages out, in that order.
    pub fn take_messages(&mut self) -> impl Iterator<Item = Message> {
        std::mem::take(&mut self.messages).into_iter().chain(std::mem::take(&mut self.droppable))
    }

    /// Whether it brings messages and changes nothing else.
    pub fn only_tells(&self) -> bool {
        let Self { jobs, payloads, items, results, .. } = self;
        let Self { delivered, forget, drop_payloads, drop_items, acknowledged, drop_results, marks, .. } = self;
        jobs.is_empty()
            && marks.is_empty()
            && payloads.is_empty()
            && items.is_empty()
            && results.is_empty()
            && delivered.is_empty()
            && [forget, drop_payloads, drop_items, acknowledged, drop_results].iter().all(|ids| ids.is_empty())
    }

    fn payload_bytes(&self) -> u64 {
        self.payloads.iter().map(|(_, payload)| payload.body.len() as u64).sum()
    }
}

/// What opening a store gives.
#[derive(Debug)]
pub struct Opened {
    /// The store.
    pub store: Store,
    /// Every job in it, in order of id. Those under way belong to a run that ended: apply `Restart` to them.
    pub jobs: Vec<Job>,
    /// Those of them that have not ended and whose input is not in the store: nothing but damage takes it away, and they
    /// can only fail.
    pub without_input: Vec<JobId>,
    /// Which run of the agent on this store this is, from 1.
    pub boot: u64,
    /// The highest wall time that any run trusted ([`Batch::at`]): the clock cannot truly be before it.
    pub wall_high: Option<WallTime>,
    /// Every number that was remembered ([`Batch::marks`]).
    pub marks: Vec<(String, u64)>,
    /// The store that could not be used, when there was one.
    pub quarantined: Option<Quarantined>,
}

/// The durable store. Made for one thread that owns it; every commit waits for the disk.
pub struct Store {
    medium: Box<dyn Medium>,
    /// `None` after an error, until it could be opened again.
    live: Option<Live>,
    /// A group that was refused, and may be in the file all the same.
    unsettled: Option<Unsettled>,
    quota: Quota,
    tally: Tally,
    dropped: u64,
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Store")
            .field("path", &self.medium.path())
            .field("bytes", &self.tally.bytes)
            .finish_non_exhaustive()
    }
}

impl Store {
    /// Opens the store in the state directory `folder`, which is created when it is missing.
    ///
    /// # Errors
    /// `state.locked` when another agent uses the directory, `state.io` when the file system refuses, `state.corrupt` or
    /// `state.version` only when a store that cannot be used cannot be set aside either.
    pub fn open(folder: &Path, quota: Quota) -> Result<Opened, Fault> {
        Opener::new(folder, quota).open()
    }

    fn open_on(medium: Box<dyn Medium>, quota: Quota) -> Result<Opened, Fault> {
        let started = recovery::start(&*medium)?;
        let Started { live, contents, boot, quarantined } = started;
        let Contents { jobs, tally, without_input, marks, .. } = contents;
        let wall_high = tally.meta.wall_high;
        let store = Self { medium, live: Some(live), unsettled: None, quota, tally, dropped: 0 };
        Ok(Opened { store, jobs, without_input, boot, wall_high, marks, quarantined })
    }

    /// Whether a job with a payload of that many bytes can be stored now: to be asked before it is accepted.
    ///
    /// # Errors
    /// `spool.full` with numbers and remedy.
    pub fn admit(&self, payload_bytes: u64) -> Result<(), Fault> {
        self.tally.admit(&self.quota, Taken::default(), payload_bytes)
    }

    /// Makes one batch durable and returns the sequence numbers of its messages: `messages` first, then `droppable`.
    ///
    /// # Errors
    /// As [`Store::commit_many`].
    pub fn commit(&mut self, batch: &Batch) -> Result<Vec<u64>, Fault> {
        let mut answers = self.commit_many(std::slice::from_ref(batch));
        answers.pop().expect("one batch, one answer")
    }

    /// Makes several batches durable in one transaction, applied in their order. Each gets its own answer: one whose
    /// payloads do not fit is refused with `spool.full` and holds up no other.
    ///
    /// # Errors
    /// `spool.full`, `state.io`, `state.corrupt`. A refused batch that brings a job leaves no trace. While
    /// [`Store::is_open`] neither does any other. When not, they are in the file or they are not: repeat them until they
    /// are accepted. That may send messages twice, which receivers must expect anyway.
    pub fn commit_many(&mut self, batches: &[Batch]) -> Vec<Result<Vec<u64>, Fault>> {
        if let Err(fault) = self.ensure_open() {
            return batches.iter().map(|_| Err(fault.clone())).collect();
        }
        let mut taken = Taken::default();
        let mut admit = |batch: &Batch| {
            let bytes = batch.payload_bytes();
            if !batch.payloads.is_empty() {
                self.tally.admit(&self.quota, taken, bytes)?;
            }
            taken.bytes += bytes;
            taken.messages += batch.messages.len();
            Ok(())
        };
        let verdicts: Vec<Result<(), Fault>> = batches.iter().map(&mut admit).collect();
        let accepted: Vec<&Batch> =
            batches.iter().zip(&verdicts).filter(|(_, verdict)| verdict.is_ok()).map(|(batch, _)| batch).collect();
        let plan = Plan::new(&self.tally, &self.quota, &accepted);
        let outcome = if accepted.iter().all(|batch| batch.is_empty()) { Ok(()) } else { self.write(&plan, &accepted) };
        let mut seqs = plan.seqs.into_iter();
        let mut answer = |verdict: Result<(), Fault>| {
            verdict?;
            outcome.clone()?;
            Ok(seqs.next().unwrap_or_default().collect())
        };
        verdicts.into_iter().map(&mut answer).collect()
    }

    fn write(&mut self, plan: &Plan, batches: &[&Batch]) -> Result<(), Fault> {
        let Some(live) = &self.live else { return Err(self.closed()) };
        let trouble = match contained(|| transaction::write(&live.database, plan, batches)) {
            Ok(change) => {
                change.settle(plan, &mut self.tally);
                self.dropped += plan.dropped.len() as u64;
                return Ok(());
            }
            Err(trouble) => trouble,
        };
        let fault = trouble.fault(self.medium.path());
        if let Some(live) = self.live.take() {
            recovery::close(live);
        }
        let unsettled = Unsettled::new(plan, batches);
        match self.reopen() {
            Ok(()) if unsettled.is_in(&self.tally) => {
                self.dropped += plan.dropped.len() as u64;
                return Ok(());
            }
            Ok(()) => {}
            Err(_) => self.unsettled = Some(unsettled),
        }
        Err(fault)
    }

    fn ensure_open(&mut self) -> Result<(), Fault> {
        if self.live.is_none() {
            self.reopen().map_err(|trouble| trouble.fault(self.medium.path()))?;
        }
        self.settle()
    }

    fn reopen(&mut self) -> Result<(), Trouble> {
        let (live, contents) = recovery::reopen(&*self.medium)?;
        self.tally = contents.tally;
        self.live = Some(live);
        Ok(())
    }

    /// Input of a job.
    ///
    /// # Errors
    /// `state.io` or `state.corrupt` when it cannot be read.
    pub fn payload(&self, id: &JobId) -> Result<Option<Payload>, Fault> {
        self.read(|transaction| {
            let value = transaction.open_table(PAYLOADS)?.get(id.as_str())?;
            let Some(record) = value else { return Ok(None) };
            Ok(Some(decode_payload(unsealed(PAYLOADS, &id.as_str(), record.value())?)?))
        })
    }

    /// Outputs of the finished items of a job, in their order.
    ///
    /// # Errors
    /// `state.io` or `state.corrupt` when they cannot be read, or when one is missing between others.
    pub fn items(&self, id: &JobId) -> Result<Vec<Vec<u8>>, Fault> {
        self.read(|transaction| {
            let items = transaction.open_table(ITEMS)?;
            let mut outputs = Vec::new();
            for (entry, expected) in items.range((id.as_str(), 0)..=(id.as_str(), u32::MAX))?.zip(0u32..) {
                let (key, output) = entry?;
                if key.value().1 != expected {
                    return Err(Trouble::Corrupt(format!("job {id} has no item {expected}")));
                }
                outputs.push(unsealed(ITEMS, &key.value(), output.value())?.to_vec());
            }
            Ok(outputs)
        })
    }

    /// Result of a job.
    ///
    /// # Errors
    /// `state.io` or `state.corrupt` when it cannot be read.
    pub fn result(&self, id: &JobId) -> Result<Option<Vec<u8>>, Fault> {
        self.read(|transaction| {
            let body = transaction.open_table(RESULTS)?.get(id.as_str())?;
            let body = body.map(|body| Ok::<_, Trouble>(unsealed(RESULTS, &id.as_str(), body.value())?.to_vec()));
            body.transpose()
        })
    }

    /// The next messages after sequence number `after`, at most `max`, in order; 0 begins at the oldest.
    ///
    /// # Errors
    /// `state.io` or `state.corrupt` when they cannot be read.
    pub fn outbox(&self, after: u64, max: usize) -> Result<Vec<(u64, Message)>, Fault> {
        self.read(|transaction| {
            let outbox = transaction.open_table(OUTBOX)?;
            let mut messages = Vec::new();
            for entry in outbox.range(after.saturating_add(1)..)?.take(max) {
                let (seq, record) = entry?;
                let seq = seq.value();
                messages.push((seq, decode_message(unsealed(OUTBOX, &seq, record.value())?)?.0));
            }
            Ok(messages)
        })
    }

    fn read<T>(&self, work: impl FnOnce(&ReadTransaction) -> Result<T, Trouble>) -> Result<T, Fault> {
        let Some(live) = &self.live else { return Err(self.closed()) };
        contained(|| work(&live.database.begin_read()?)).map_err(|trouble| trouble.fault(self.medium.path()))
    }

    fn closed(&self) -> Fault {
        Trouble::Io("closed after an error; the next commit opens it again".to_owned()).fault(self.medium.path())
    }

    /// Messages that are not delivered.
    pub fn outbox_len(&self) -> usize {
        self.tally.outbox.len()
    }

    /// Bytes that count against the quota.
    pub fn bytes(&self) -> u64 {
        self.tally.bytes
    }

    /// Droppable messages that gave way since the store was opened.
    pub fn dropped(&self) -> u64 {
        self.dropped
    }

    /// Whether the file is in use; not after an error, until a commit could open it again.
    pub fn is_open(&self) -> bool {
        self.live.is_some()
    }
}

#[cfg(test)]
mod corruption_tests;
#[cfg(test)]
mod crash_tests;
#[cfg(test)]
mod death_tests;
#[cfg(test)]
mod opening_tests;
#[cfg(test)]
mod salvage_tests;
#[cfg(test)]
mod schema_tests;
#[cfg(test)]
mod test_medium;
#[cfg(test)]
mod tests;
