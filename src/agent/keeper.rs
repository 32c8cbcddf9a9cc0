//! Who writes the store? One thread, so that a slow disk never holds up the event loop.
//!
//! Requests are answered in the order they came. Commits that wait together become one transaction (group commit):
//! one sync for all of them.

use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;

use tokio::sync::mpsc::{self, Receiver as Answers, Sender};

use crate::fault::{Code, Fault};
use crate::jobs::store::{Batch, Message, Payload, Store};
use crate::units::JobId;

/// Most requests that wait for the store.
const REQUESTS_MAX: usize = 1024;
/// Most answers that wait for the agent; the thread pauses when nobody takes them.
const ANSWERS_MAX: usize = 1024;
/// Most commits joined into one transaction.
const GROUP_MAX: usize = 64;

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
    /// Input and journal of a job.
    Fetched { id: JobId, slot: usize, outcome: Result<Fetched, Fault> },
    /// Undelivered messages, oldest first.
    Outbox { messages: Vec<(u64, Message)> },
    /// A stored result, if there is one.
    Result { reply: u64, body: Option<Vec<u8>> },
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
        let thread =
            std::thread::Builder::new().name("neap-store".into()).spawn(move || serve(store, &waiting, &answers))?;
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

fn serve(mut store: Store, waiting: &Receiver<Request>, answers: &Sender<Answer>) {
    let (mut tickets, mut group) = (Vec::new(), Vec::new());
    while let Ok(first) = waiting.recv() {
        let mut next = Some(first);
        while let Some(request) = next.take() {
            let answer = match request {
                Request::Commit { ticket, batch } => {
                    tickets.push(ticket);
                    group.push(*batch);
                    next = (group.len() < GROUP_MAX).then(|| waiting.try_recv().ok()).flatten();
                    if next.is_none() {
                        commit(&mut store, &mut tickets, &mut group, answers);
                    }
                    continue;
                }
                Request::Fetch { id, slot } => {
                    commit(&mut store, &mut tickets, &mut group, answers);
                    let outcome = fetch(&store, &id);
                    Answer::Fetched { id, slot, outcome }
                }
                Request::Outbox { after, max } => {
                    commit(&mut store, &mut tickets, &mut group, answers);
                    store.outbox(after, max).map_or_else(Answer::Broken, |messages| Answer::Outbox { messages })
                }
                Request::Result { id, reply } => {
                    commit(&mut store, &mut tickets, &mut group, answers);
                    store.result(&id).map_or_else(Answer::Broken, |body| Answer::Result { reply, body })
                }
            };
            // The loop that listens ends before this thread does only when the process ends.
            let _ = answers.blocking_send(answer);
        }
    }
}

/// Commits the group that has gathered, so that whatever follows sees it.
fn commit(store: &mut Store, tickets: &mut Vec<u64>, group: &mut Vec<Batch>, answers: &Sender<Answer>) {
    if group.is_empty() {
        return;
    }
    let outcomes = store.commit_many(group);
    group.clear();
    for (ticket, outcome) in tickets.drain(..).zip(outcomes) {
        let _ = answers.blocking_send(Answer::Committed { ticket, outcome: outcome.map(drop) });
    }
}

fn fetch(store: &Store, id: &JobId) -> Result<Fetched, Fault> {
    let payload = store
        .payload(id)?
        .ok_or_else(|| Fault::new(Code::StateCorrupt, format!("the input of job {id} is not in the store")))?;
    Ok(Fetched { payload, items: store.items(id)? })
}
