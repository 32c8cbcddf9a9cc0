//! Who writes the store? One thread, so that a slow disk never holds up the event loop.
//!
//! Requests are answered in the order they came. Commits that wait together become one transaction (group commit):
//! one `fdatasync` for all of them. When a joined transaction is refused, each part is tried alone, so that one
//! oversized job cannot take another down with it.

use std::thread::JoinHandle;

use tokio::sync::mpsc;

use crate::fault::Fault;
use crate::jobs::store::{Batch, Message, Payload, Store};
use crate::units::JobId;

/// Most requests that wait for the store.
const REQUESTS_MAX: usize = 1024;
/// Most commits joined into one transaction.
const GROUP_MAX: usize = 64;

/// What the agent asks of the store.
#[derive(Debug)]
pub(super) enum Request {
    /// Make this durable; answered with the ticket.
    Commit { ticket: u64, batch: Batch },
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
    requests: Option<std::sync::mpsc::SyncSender<Request>>,
    thread: Option<JoinHandle<()>>,
}

impl Keeper {
    /// Starts the thread; answers arrive on the returned channel.
    ///
    /// # Errors
    /// When the thread cannot be made.
    pub(super) fn start(store: Store) -> std::io::Result<(Self, mpsc::UnboundedReceiver<Answer>)> {
        let (requests, waiting) = std::sync::mpsc::sync_channel(REQUESTS_MAX);
        // Unbounded in type only: there is never more than one answer per waiting request.
        let (answers, answered) = mpsc::unbounded_channel();
        let thread =
            std::thread::Builder::new().name("neap-store".into()).spawn(move || serve(store, &waiting, &answers))?;
        Ok((Self { requests: Some(requests), thread: Some(thread) }, answered))
    }

    /// Hands over a request; `false` when too many wait already (the disk has stalled) or the thread is gone.
    #[must_use]
    pub(super) fn ask(&self, request: Request) -> bool {
        self.requests.as_ref().is_some_and(|requests| requests.try_send(request).is_ok())
    }

    /// Finishes what was asked and ends the thread.
    pub(super) fn stop(&mut self) {
        self.requests = None;
        if let Some(thread) = self.thread.take() {
            // A panic in the thread has already aborted the process (panic hook).
            let _ = thread.join();
        }
    }
}

fn serve(mut store: Store, waiting: &std::sync::mpsc::Receiver<Request>, answers: &mpsc::UnboundedSender<Answer>) {
    let mut held = None;
    loop {
        let request = match held.take() {
            Some(request) => request,
            None => match waiting.recv() {
                Ok(request) => request,
                Err(_) => return,
            },
        };
        match request {
            Request::Commit { ticket, batch } => {
                let mut group = vec![(ticket, batch)];
                while group.len() < GROUP_MAX {
                    match waiting.try_recv() {
                        Ok(Request::Commit { ticket, batch }) => group.push((ticket, batch)),
                        Ok(other) => {
                            held = Some(other);
                            break;
                        }
                        Err(_) => break,
                    }
                }
                commit(&mut store, group, answers);
            }
            other => read(&store, other, answers),
        }
    }
}

fn commit(store: &mut Store, group: Vec<(u64, Batch)>, answers: &mpsc::UnboundedSender<Answer>) {
    let tickets: Vec<u64> = group.iter().map(|(ticket, _)| *ticket).collect();
    if let [ticket] = tickets[..] {
        let outcome = group.into_iter().try_for_each(|(_, batch)| store.commit(batch).map(drop));
        let _ = answers.send(Answer::Committed { ticket, outcome });
        return;
    }
    let whole = group.iter().fold(Batch::default(), |whole, (_, batch)| whole.merge(batch.clone()));
    if store.commit(whole).is_ok() {
        for ticket in tickets {
            let _ = answers.send(Answer::Committed { ticket, outcome: Ok(()) });
        }
        return;
    }
    for (ticket, batch) in group {
        let _ = answers.send(Answer::Committed { ticket, outcome: store.commit(batch).map(drop) });
    }
}

fn read(store: &Store, request: Request, answers: &mpsc::UnboundedSender<Answer>) {
    let answer = match request {
        Request::Fetch { id, slot } => {
            let outcome = fetch(store, &id);
            Answer::Fetched { id, slot, outcome }
        }
        Request::Outbox { after, max } => match store.outbox(after, max) {
            Ok(messages) => Answer::Outbox { messages },
            Err(fault) => Answer::Broken(fault),
        },
        Request::Result { id, reply } => match store.result(&id) {
            Ok(body) => Answer::Result { reply, body },
            Err(fault) => Answer::Broken(fault),
        },
        // Commits never come here: `serve` keeps them for the group.
        Request::Commit { ticket, .. } => Answer::Committed { ticket, outcome: Ok(()) },
    };
    let _ = answers.send(answer);
}

fn fetch(store: &Store, id: &JobId) -> Result<Fetched, Fault> {
    use crate::fault::Code;
    let payload = store
        .payload(id)?
        .ok_or_else(|| Fault::new(Code::StateCorrupt, format!("the input of job {id} is not in the store")))?;
    Ok(Fetched { payload, items: store.items(id)? })
}
