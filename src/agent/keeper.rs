//! Who writes the store? One thread, so that a slow disk never holds up the event loop.
//!
//! Requests are answered in the order they came. Commits that wait together become one transaction (group commit):
//! one sync for all of them. A disk that refuses to be written holds up accepted jobs and refuses new ones; it does not
//! end the agent.

use std::collections::VecDeque;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::sync::mpsc::{self, Receiver as Answers, Sender};

use crate::fault::{Code, Fault};
use crate::jobs::store::{Batch, Message, Payload, Store};
use crate::sys::clock;
use crate::telemetry::LogLimit;
use crate::units::JobId;

/// Most requests that wait for the store.
const REQUESTS_MAX: usize = 1024;
/// Most answers that wait for the agent; the thread pauses when nobody takes them.
const ANSWERS_MAX: usize = 1024;
/// Changes that may wait for a disk that refuses to be written.
const REFUSED_MAX: usize = 4096;
/// After so long the disk is tried again.
const RETRY_EVERY: Duration = Duration::from_secs(1);
/// Most commits joined into one transaction.
const GROUP_MAX: usize = 256;
/// Most bytes of a group's messages that are handed over; more are read from the store when it is their turn.
const HANDED_OVER_BYTES_MAX: usize = 256 * 1024;

/// What the agent asks of the store.
#[derive(Debug)]
pub(super) enum Request {
    /// Make this durable; answered with the ticket.
    Commit { ticket: u64, batch: Box<Batch> },
    /// Read what an attempt needs.
    Fetch { id: JobId, slot: usize },
    /// Read the oldest undelivered messages after this sequence number.
    Outbox { after: u64, max: usize },
    /// Read a stored result for a command reply.
    Result { id: JobId, reply: u64 },
}

/// What the store answers.
#[derive(Debug)]
pub(super) enum Answer {
    /// The batch of that ticket is durable, or was refused whole.
    Committed { ticket: u64, outcome: Result<(), Fault> },
    /// Messages that have just become durable, in their order: all those of so many commits, which are told of next.
    Stored { commits: usize, messages: Vec<(u64, Message)> },
    /// Input and journal of a job.
    Fetched { id: JobId, slot: usize, outcome: Result<Fetched, Fault> },
    /// Undelivered messages, oldest first.
    Outbox { messages: Vec<(u64, Message)> },
    /// A stored result, if there is one.
    Result { reply: u64, body: Option<Vec<u8>> },
    /// The outbox was full, and so many of its droppable messages have given way since the start.
    Dropped { total: u64 },
    /// The store is unusable: nothing may be promised any more.
    Broken(Fault),
}

/// What an attempt needs.
#[derive(Debug)]
pub(super) struct Fetched {
    /// The submit as it came.
    pub payload: Payload,
    /// Finished items, in order.
    pub items: Vec<Vec<u8>>,
}

/// The store's thread.
#[derive(Debug)]
pub(super) struct Keeper {
    requests: Option<SyncSender<Request>>,
    thread: Option<JoinHandle<()>>,
}

impl Keeper {
    /// Starts the thread; answers arrive on the returned channel.
    ///
    /// # Errors
    /// When the thread cannot be made.
    pub(super) fn start(store: Store) -> std::io::Result<(Self, Answers<Answer>)> {
        let (requests, waiting) = sync_channel(REQUESTS_MAX);
        let (answers, answered) = mpsc::channel(ANSWERS_MAX);
        let service = Service { store, waiting, answers, group: Vec::new(), held: VecDeque::new(), dropped: 0 };
        let thread = std::thread::Builder::new().name("neap-store".into()).spawn(move || service.serve())?;
        Ok((Self { requests: Some(requests), thread: Some(thread) }, answered))
    }

    /// Hands over a request; `false` when too many wait already (the disk has stalled) or the thread is gone.
    #[must_use]
    pub(super) fn ask(&self, request: Request) -> bool {
        self.requests.as_ref().is_some_and(|requests| requests.try_send(request).is_ok())
    }

    /// Finishes what was asked and ends the thread. The answers' receiver must be gone, or be read meanwhile.
    pub(super) fn stop(&mut self) {
        self.requests = None;
        if let Some(thread) = self.thread.take() {
            // A panic in the thread has already aborted the process (panic hook).
            let _ = thread.join();
        }
    }
}

/// The thread itself.
struct Service {
    store: Store,
    waiting: Receiver<Request>,
    answers: Sender<Answer>,
    /// Commits that have gathered, or that the disk has refused so far.
    group: Vec<(u64, Batch)>,
    /// Requests that came while the disk refused: they must see what was committed before them.
    held: VecDeque<Request>,
    /// Messages that had given way when the agent was last told.
    dropped: u64,
}

impl Service {
    fn serve(mut self) {
        while let Some(first) = self.held.pop_front().or_else(|| self.waiting.recv().ok()) {
            let mut next = Some(first);
            while let Some(request) = next.take() {
                if let Request::Commit { ticket, batch } = request {
                    self.group.push((ticket, *batch));
                    next = (self.group.len() < GROUP_MAX).then(|| self.waiting.try_recv().ok()).flatten();
                    if next.is_none() {
                        self.commit();
                    }
                } else {
                    self.commit();
                    self.answer(request);
                }
            }
        }
    }

    fn answer(&mut self, request: Request) {
        let answer = match request {
            Request::Commit { .. } => return,
            Request::Fetch { id, slot } => Answer::Fetched { outcome: fetch(&self.store, &id), id, slot },
            Request::Outbox { after, max } => {
                self.store.outbox(after, max).map_or_else(Answer::Broken, |messages| Answer::Outbox { messages })
            }
            Request::Result { id, reply } => {
                self.store.result(&id).map_or_else(Answer::Broken, |body| Answer::Result { reply, body })
            }
        };
        self.tell(answer);
    }

    /// Commits the group that has gathered, so that whatever follows sees it.
    ///
    /// New jobs may be refused. What belongs to jobs already accepted may not: while the disk refuses it (it is full,
    /// or was mounted read-only) it is tried again, for as long as the agent lives.
    fn commit(&mut self) {
        while !self.group.is_empty() {
            let (tickets, mut batches): (Vec<u64>, Vec<Batch>) = self.group.drain(..).unzip();
            let outcomes = self.store.commit_many(&batches);
            self.hand_over(&mut batches, &outcomes);
            for ((ticket, batch), outcome) in tickets.into_iter().zip(batches).zip(outcomes) {
                match outcome {
                    Err(fault) if fault.code == Code::StateIo && batch.payloads.is_empty() => {
                        self.group.push((ticket, batch));
                        log_refusal(&fault);
                    }
                    outcome => self.tell(Answer::Committed { ticket, outcome: outcome.map(drop) }),
                }
            }
            self.tell_dropped();
            if !self.group.is_empty() && !self.wait_for_the_disk() {
                return;
            }
        }
    }

    /// Hands over the messages of the batches that were taken, so that nobody has to read them back.
    fn hand_over(&self, batches: &mut [Batch], outcomes: &[Result<Vec<u64>, Fault>]) {
        let taken =
            || batches.iter().zip(outcomes).filter_map(|(batch, outcome)| Some((batch, outcome.as_ref().ok()?)));
        let bytes: usize = taken().flat_map(|(batch, _)| batch.all_messages()).map(|message| message.body.len()).sum();
        if bytes > HANDED_OVER_BYTES_MAX {
            return;
        }
        let commits = taken().count();
        let mut messages = Vec::new();
        for (batch, outcome) in batches.iter_mut().zip(outcomes) {
            if let Ok(seqs) = outcome {
                messages.extend(seqs.iter().copied().zip(batch.take_messages()));
            }
        }
        self.tell(Answer::Stored { commits, messages });
    }

    /// Waits before the next try, and takes what comes meanwhile; `false` when the agent ends.
    fn wait_for_the_disk(&mut self) -> bool {
        let until = clock::now().after(RETRY_EVERY);
        loop {
            match self.waiting.recv_timeout(until.since(clock::now())) {
                Ok(Request::Commit { ticket, batch }) if !batch.payloads.is_empty() => {
                    let text = "the disk under the state directory refuses to be written; send the job later";
                    self.tell(Answer::Committed { ticket, outcome: Err(Fault::new(Code::StateIo, text)) });
                }
                Ok(Request::Commit { ticket, batch }) => self.group.push((ticket, *batch)),
                Ok(other) => self.held.push_back(other),
                Err(RecvTimeoutError::Timeout) => return true,
                Err(RecvTimeoutError::Disconnected) => return false,
            }
            if self.group.len() + self.held.len() > REFUSED_MAX {
                let text =
                    format!("the disk under the state directory has refused {REFUSED_MAX} changes; make room there");
                self.tell(Answer::Broken(Fault::new(Code::StateIo, text)));
                return false;
            }
        }
    }

    fn tell_dropped(&mut self) {
        let total = self.store.dropped();
        if total != self.dropped {
            self.dropped = total;
            self.tell(Answer::Dropped { total });
        }
    }

    fn tell(&self, answer: Answer) {
        // The loop that listens ends before this thread does only when the process ends.
        let _ = self.answers.blocking_send(answer);
    }
}

fn log_refusal(fault: &Fault) {
    static REFUSED: LogLimit = LogLimit::new(1, 10);
    if let Some(suppressed) = REFUSED.admit(clock::now()) {
        tracing::error!(%fault, suppressed, "not stored, trying again; new jobs are refused meanwhile");
    }
}

fn fetch(store: &Store, id: &JobId) -> Result<Fetched, Fault> {
    let payload = store
        .payload(id)?
        .ok_or_else(|| Fault::new(Code::StateCorrupt, format!("the input of job {id} is not in the store")))?;
    Ok(Fetched { payload, items: store.items(id)? })
}
