//! What does the store's thread do? Commits, reads, and tries a disk that refuses until it takes again.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc::Sender;

use super::waiting::{Change, Next};
use super::{Answer, Fetched, Found, Request, Shared, refused};
use crate::fault::{Code, Fault};
use crate::jobs::store::{Batch, Opener, Store};
use crate::sys::clock;
use crate::telemetry::LogLimit;
use crate::units::{Instant, JobId};

/// After so long a disk that refuses is tried again; twice as long each time when it takes and refuses by turns.
const RETRY_FIRST: Duration = Duration::from_secs(1);
const RETRY_MAX: Duration = Duration::from_secs(30);
/// Most bytes of a group's messages that are handed over; more are read from the store when it is their turn.
const HANDED_OVER_BYTES_MAX: usize = 256 * 1024;
/// A disk that took for so long is trusted again.
const TRUSTED_AFTER: Duration = Duration::from_secs(60);
/// A question whose answer is damaged that often, over a file whose checks pass, will not be answered.
const READS_MAX: u32 = 3;

/// The thread.
pub(super) struct Service {
    opener: Opener,
    /// `None`: not opened yet, or not to be trusted any more.
    store: Option<Store>,
    answers: Sender<Answer>,
    shared: Arc<Shared>,
    /// When the disk is tried again; `None` while it takes.
    retry_at: Option<Instant>,
    retry_after: Duration,
    /// When it took again.
    took_again: Option<Instant>,
    /// A read failed: the file is closed and checked before the next one.
    check: bool,
    bad_reads: u32,
    /// Bytes of the largest job that was refused: the disk takes again when it has room for as much.
    needs_bytes: u64,
    /// Messages that gave way in stores that were closed since.
    dropped_before: u64,
    dropped_told: u64,
    /// Told to end.
    ending: bool,
}

/// What to do next.
enum Turn {
    Do(Next),
    /// A question that need not wait for the disk to take.
    Free(Request),
    Retry,
    End,
}

impl Service {
    /// A service over a store, or over none yet for that reason.
    pub(super) fn new(
        opener: Opener,
        store: Result<Store, Fault>,
        answers: Sender<Answer>,
        shared: Arc<Shared>,
    ) -> Self {
        let retry_at = store.is_err().then(clock::now);
        Self {
            opener,
            store: store.ok(),
            answers,
            shared,
            retry_at: retry_at.map(|now| now.after(RETRY_FIRST)),
            retry_after: RETRY_FIRST,
            took_again: None,
            check: false,
            bad_reads: 0,
            needs_bytes: 0,
            dropped_before: 0,
            dropped_told: 0,
            ending: false,
        }
    }

    /// Serves until the agent ends.
    pub(super) fn serve(mut self) {
        loop {
            match self.next() {
                Turn::Do(Next::Group(group)) => self.commit(group),
                Turn::Do(Next::Read(request)) => self.read(request),
                Turn::Free(request) => self.read_free(request),
                Turn::Retry => self.retry(),
                Turn::End => break,
            }
            self.tell_dropped();
        }
        // Before anybody is told that this thread has ended: another agent may open the store then.
        self.store = None;
        self.shared.end();
    }

    fn next(&mut self) -> Turn {
        let mut state = self.shared.lock();
        state.busy_since = None;
        loop {
            let now = clock::now();
            let turn = match self.retry_at {
                None => match state.waiting.take() {
                    Some(next) => Some(Turn::Do(next)),
                    None => state.closing.then_some(Turn::End),
                },
                Some(_) if state.closing && self.ending => Some(Turn::End),
                // One more try for what waits; the next start finds the rest as it was.
                Some(_) if state.closing => {
                    self.ending = true;
                    Some(Turn::Retry)
                }
                Some(at) if at <= now => Some(Turn::Retry),
                Some(_) if !self.check && self.store.as_ref().is_some_and(Store::is_open) => {
                    state.waiting.take_free().map(Turn::Free)
                }
                Some(_) => None,
            };
            if let Some(turn) = turn {
                state.busy_since = (!matches!(turn, Turn::End)).then_some(now);
                return turn;
            }
            state = self.shared.wait(state, self.retry_at.map(|at| at.since(now)));
        }
    }

    // ---- writing ----

    /// New jobs may be refused. What belongs to jobs already accepted may not: it is tried again, for as long as the
    /// agent lives, and nobody waits for it.
    fn commit(&mut self, group: Vec<Change>) {
        let Some(store) = &mut self.store else {
            self.shared.lock().waiting.put_back(group);
            return;
        };
        let (tickets, mut batches): (Vec<_>, Vec<_>) =
            group.into_iter().map(|change| (change.tickets, change.batch)).unzip();
        let outcomes = store.commit_many(&batches);
        self.hand_over(&tickets, &mut batches, &outcomes);
        let (mut again, mut trouble) = (Vec::new(), None);
        for ((tickets, batch), outcome) in tickets.into_iter().zip(batches).zip(outcomes) {
            let change = Change { tickets, batch };
            match outcome.map(drop) {
                Err(fault) if is_of_the_disk(&fault) => {
                    trouble = Some(fault);
                    self.needs_bytes = self.needs_bytes.max(change.payload_bytes());
                    again.push(change);
                }
                outcome => self.committed(change.tickets, &outcome),
            }
        }
        match trouble {
            Some(fault) => {
                self.shared.lock().waiting.put_back(again);
                self.trouble(&fault);
            }
            None => self.fine(),
        }
    }

    /// Hands over the messages of the changes that were taken, so that nobody has to read them back.
    fn hand_over(&self, tickets: &[Vec<u64>], batches: &mut [Batch], outcomes: &[Result<Vec<u64>, Fault>]) {
        let taken = || batches.iter().zip(outcomes).filter(|(_, outcome)| outcome.is_ok());
        let bytes: usize = taken().flat_map(|(batch, _)| batch.all_messages()).map(|message| message.body.len()).sum();
        if bytes > HANDED_OVER_BYTES_MAX {
            return;
        }
        let commits = tickets.iter().zip(outcomes).filter(|(_, outcome)| outcome.is_ok()).map(|(of, _)| of.len()).sum();
        let mut messages = Vec::new();
        for (batch, outcome) in batches.iter_mut().zip(outcomes) {
            if let Ok(seqs) = outcome {
                messages.extend(seqs.iter().copied().zip(batch.take_messages()));
            }
        }
        if commits > 0 || !messages.is_empty() {
            self.tell(Answer::Stored { commits, messages });
        }
    }

    fn committed(&self, tickets: Vec<u64>, outcome: &Result<(), Fault>) {
        for ticket in tickets {
            self.tell(Answer::Committed { ticket, outcome: outcome.clone() });
        }
    }

    /// The disk refuses. The agent is told so before it hears what was refused.
    fn trouble(&mut self, fault: &Fault) {
        let now = clock::now();
        log_refusal(fault, now);
        if self.retry_at.is_none() {
            let soon = self.took_again.is_some_and(|at| now.since(at) < TRUSTED_AFTER);
            self.retry_after = if soon { (self.retry_after * 2).min(RETRY_MAX) } else { RETRY_FIRST };
        }
        self.retry_at = Some(now.after(self.retry_after));
        if fault.code == Code::StateCorrupt {
            self.close();
        }
        let why = &fault.message;
        // Nothing is told under the lock: the agent may be waiting for it.
        let (is_news, (refusals, settled)) = {
            let mut state = self.shared.lock();
            let before = state.trouble.replace(why.clone());
            (before.as_ref() != Some(why), state.waiting.give_up())
        };
        if is_news {
            self.tell(Answer::Disk(Some(why.clone())));
        }
        self.committed(refusals, &Err(refused(why)));
        self.committed(settled, &Ok(()));
    }

    /// The disk takes.
    fn fine(&mut self) {
        self.needs_bytes = 0;
        if self.retry_at.take().is_some() {
            self.took_again = Some(clock::now());
            tracing::info!("the disk under the state directory takes again");
        }
        let is_over = self.shared.lock().trouble.take().is_some();
        if is_over {
            self.tell(Answer::Disk(None));
        }
    }

    fn retry(&mut self) {
        if let Err(fault) = self.try_again() {
            if fault.code == Code::StateLocked {
                self.tell(Answer::Broken(fault.clone()));
            }
            self.trouble(&fault);
        }
    }

    fn try_again(&mut self) -> Result<(), Fault> {
        let Some(store) = &mut self.store else {
            let (store, found) = Found::part(self.opener.open()?);
            self.store = Some(store);
            self.check = false;
            self.tell(Answer::Opened(Box::new(found)));
            self.fine();
            return Ok(());
        };
        if self.check {
            store.check()?;
            self.check = false;
        }
        // What waits is the best probe: a small write may find room where that does not.
        let group = self.shared.lock().waiting.take_group();
        if group.is_empty() {
            store.probe(self.needs_bytes)?;
            self.fine();
        } else {
            self.commit(group);
        }
        Ok(())
    }

    // ---- reading ----

    fn read(&mut self, request: Request) {
        let Some(store) = &self.store else {
            self.shared.lock().waiting.put_back_read(request);
            return;
        };
        match answer(store, &request) {
            Ok(answer) => {
                self.bad_reads = 0;
                self.tell(answer);
            }
            Err(fault) if fault.code == Code::StateCorrupt && self.bad_reads >= READS_MAX => {
                self.bad_reads = 0;
                tracing::error!(?request, %fault, "damaged again and again, given up");
                self.tell(given_up(request, fault));
            }
            Err(fault) => {
                self.bad_reads += u32::from(fault.code == Code::StateCorrupt);
                self.check = true;
                self.shared.lock().waiting.put_back_read(request);
                self.trouble(&fault);
            }
        }
    }

    /// A read while the disk refuses to be written. Messages that were delivered may still be there: they are not offered
    /// again.
    fn read_free(&mut self, request: Request) {
        let Some(store) = &self.store else { return };
        match answer(store, &request) {
            Ok(Answer::Outbox { mut messages }) => {
                let delivered = self.shared.lock().waiting.delivered();
                messages.retain(|(seq, _)| !delivered.contains(seq));
                self.tell(Answer::Outbox { messages });
            }
            Ok(answer) => self.tell(answer),
            Err(fault) => {
                self.check = true;
                match request {
                    Request::Result { reply, .. } => self.tell(Answer::Unread { reply, fault }),
                    other @ (Request::Commit { .. } | Request::Fetch { .. } | Request::Outbox { .. }) => {
                        self.shared.lock().waiting.put_back_read(other);
                    }
                }
            }
        }
    }

    fn tell_dropped(&mut self) {
        let total = self.dropped_before + self.store.as_ref().map_or(0, Store::dropped);
        let total = total + self.shared.lock().waiting.dropped();
        if total != self.dropped_told {
            self.dropped_told = total;
            self.tell(Answer::Dropped { total });
        }
    }

    /// The store is not to be trusted any more.
    fn close(&mut self) {
        if let Some(store) = self.store.take() {
            self.dropped_before += store.dropped();
        }
    }

    fn tell(&self, answer: Answer) {
        // The loop that listens ends before this thread does only when the process ends.
        let _ = self.answers.blocking_send(answer);
    }
}

/// Whether that is the disk's doing, and may pass.
fn is_of_the_disk(fault: &Fault) -> bool {
    matches!(fault.code, Code::StateIo | Code::StateCorrupt)
}

fn log_refusal(fault: &Fault, now: Instant) {
    static REFUSED: LogLimit = LogLimit::new(1, 10);
    if let Some(suppressed) = REFUSED.admit(now) {
        tracing::error!(%fault, suppressed, "not stored, trying again; new jobs are refused meanwhile");
    }
}

fn answer(store: &Store, request: &Request) -> Result<Answer, Fault> {
    Ok(match request {
        // Never asked for here: changes wait apart from questions.
        Request::Commit { ticket, .. } => {
            Answer::Committed { ticket: *ticket, outcome: Err(refused("not a question")) }
        }
        Request::Fetch { id, slot } => Answer::Fetched { id: id.clone(), slot: *slot, outcome: fetch(store, id)? },
        Request::Outbox { after, max } => Answer::Outbox { messages: store.outbox(*after, *max)? },
        Request::Result { id, reply } => Answer::Result { reply: *reply, body: store.result(id)? },
    })
}

fn given_up(request: Request, fault: Fault) -> Answer {
    match request {
        Request::Commit { ticket, .. } => Answer::Committed { ticket, outcome: Err(fault) },
        Request::Fetch { id, slot } => Answer::Fetched { id, slot, outcome: Err(fault) },
        Request::Outbox { .. } => Answer::Outbox { messages: Vec::new() },
        Request::Result { reply, .. } => Answer::Unread { reply, fault },
    }
}

/// An input that is not there is the job's end; one that cannot be read is the disk's trouble.
fn fetch(store: &Store, id: &JobId) -> Result<Result<Fetched, Fault>, Fault> {
    Ok(match store.payload(id)? {
        Some(payload) => Ok(Fetched { payload, items: store.items(id)? }),
        None => Err(Fault::new(Code::StateCorrupt, format!("the input of job {id} is not in the store"))),
    })
}
