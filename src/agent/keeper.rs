//! Who writes the store? One thread, so that a slow disk never holds up the event loop.
//!
//! Requests are answered in the order they came. Commits that wait together become one transaction (group commit):
//! one sync for all of them.
//!
//! A disk that refuses does not end the agent. [`Answer::Disk`] tells when that begins and ends. Meanwhile new jobs are
//! refused at once; changes of accepted jobs wait ([`waiting`]), are tried again ([`service`]), and nobody is made to
//! wait for them: what the broker gave is acknowledged, because nothing of it is lost that was promised. A disk that
//! does not answer at all is told the same way. A store that could not be opened is opened when it can be, and
//! [`Answer::Opened`] brings its jobs.

mod service;
pub(super) mod waiting;

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::sync::mpsc::{self, Receiver as Answers};

use self::service::Service;
use self::waiting::{Change, Waiting};
use super::desk::Damage;
use crate::fault::{Code, Fault};
use crate::jobs::job::Job;
use crate::jobs::store::{Batch, Message, Opened, Opener, Payload, Store};
use crate::sys::clock;
use crate::trust::replay::Mark;
use crate::units::{Instant, JobId, WallTime};

/// Most answers that wait for the agent; the thread pauses when nobody takes them.
const ANSWERS_MAX: usize = 1024;
/// A disk that has not answered for so long refuses, as far as others are concerned.
pub(super) const STALLED_AFTER: Duration = Duration::from_secs(10);
/// The thread's last writes may take so long when the agent ends.
const END_MAX: Duration = Duration::from_millis(500);

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
    /// The batch of that ticket is durable, or was refused whole. One that brings no job may be said to be taken while
    /// it waits for a disk that refuses.
    Committed { ticket: u64, outcome: Result<(), Fault> },
    /// Messages that have just become durable, in their order: all those of so many commits, which are told of next.
    Stored { commits: usize, messages: Vec<(u64, Message)> },
    /// Messages have just become durable that are too large to be handed over: they are to be read.
    Kept,
    /// Input and journal of a job.
    Fetched { id: JobId, slot: usize, outcome: Result<Fetched, Fault> },
    /// Undelivered messages, oldest first.
    Outbox { messages: Vec<(u64, Message)> },
    /// A stored result, if there is one.
    Result { reply: u64, body: Option<Vec<u8>> },
    /// A stored result cannot be read.
    Unread { reply: u64, fault: Fault },
    /// The disk refuses for this reason, or (`None`) takes again.
    Disk(Option<String>),
    /// So many messages that may be lost have given way to others since the start.
    Dropped { total: u64 },
    /// A store was opened while the agent runs: later than at its start, or again after damage. The clocks must have
    /// been given [`Found::wall_high`] before the core hears it.
    Opened(Box<Found>),
    /// Another agent has the store: this one must end.
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

/// What a store held that was opened: at the start of the agent or later, the same has to be done with it.
#[derive(Debug, Default)]
pub(super) struct Found {
    /// Its jobs.
    pub jobs: Vec<Job>,
    /// The highest wall time that it was given.
    pub wall_high: Option<WallTime>,
    /// What it remembers of signed orders.
    pub marks: Vec<Mark>,
    /// What was wanting.
    pub damage: Damage,
}

impl Found {
    /// Says what was opened, and parts it.
    pub(super) fn part(opened: Opened) -> (Store, Self) {
        let Opened { store, jobs, without_input, boot, wall_high, marks, quarantined } = opened;
        tracing::info!(boot, jobs = jobs.len(), "state opened");
        if let Some(old) = &quarantined {
            tracing::error!(path = %old.path.display(), fault = %old.fault, "old state set aside");
        }
        let damage = Damage { set_aside: quarantined.map(|old| old.fault), without_input };
        (store, Self { jobs, wall_high, marks, damage })
    }
}

/// The store's thread.
#[derive(Debug)]
pub(super) struct Keeper {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

impl Keeper {
    /// Starts the thread over a store, or over none yet because the disk refuses; answers arrive on the returned channel.
    ///
    /// # Errors
    /// When the thread cannot be made.
    pub(super) fn start(opener: Opener, store: Result<Store, Fault>) -> std::io::Result<(Self, Answers<Answer>)> {
        let (answers, answered) = mpsc::channel(ANSWERS_MAX);
        let trouble = store.as_ref().err().map(|fault| fault.message.clone());
        let shared =
            Arc::new(Shared { state: Mutex::new(State { trouble, ..State::default() }), bell: Condvar::new() });
        let service = Service::new(opener, store, answers, Arc::clone(&shared));
        let thread = std::thread::Builder::new().name("neap-store".into()).spawn(move || service.serve())?;
        Ok((Self { shared, thread: Some(thread) }, answered))
    }

    /// Hands over a request. Returns the answer of one that need not wait: the disk refuses.
    pub(super) fn ask(&self, request: Request) -> Option<Answer> {
        let mut state = self.shared.lock();
        let answer = match request {
            Request::Commit { ticket, batch } => {
                let mut change = Change { tickets: vec![ticket], batch: *batch };
                let answer = state.trouble.as_ref().map(|why| {
                    let outcome = if change.is_submit() { Err(refused(why)) } else { Ok(()) };
                    Answer::Committed { ticket, outcome }
                });
                if answer.is_some() {
                    change.tickets.clear();
                }
                if answer.is_none() || !change.is_submit() {
                    state.waiting.push(change);
                }
                answer
            }
            read @ (Request::Fetch { .. } | Request::Outbox { .. } | Request::Result { .. }) => {
                state.waiting.ask(read);
                None
            }
        };
        drop(state);
        self.shared.bell.notify_all();
        answer
    }

    /// Looks whether the disk answers at all; to be called every second or so.
    pub(super) fn look(&self, now: Instant) -> Vec<Answer> {
        let mut state = self.shared.lock();
        let stalled = state.busy_since.is_some_and(|since| now.since(since) >= STALLED_AFTER);
        if !stalled || state.trouble.is_some() {
            return Vec::new();
        }
        let why = format!("the disk under the state directory has not answered for {} s", STALLED_AFTER.as_secs());
        state.trouble = Some(why.clone());
        let (refusals, settled) = state.waiting.give_up();
        let refusals = refusals.into_iter().map(|ticket| Answer::Committed { ticket, outcome: Err(refused(&why)) });
        let settled = settled.into_iter().map(|ticket| Answer::Committed { ticket, outcome: Ok(()) });
        let mut answers: Vec<Answer> = refusals.chain(settled).collect();
        answers.insert(0, Answer::Disk(Some(why)));
        answers
    }

    /// Finishes what was asked and ends the thread, unless the disk does not answer. The answers' receiver must be gone,
    /// or be read meanwhile.
    pub(super) fn stop(&mut self) {
        let mut state = self.shared.lock();
        state.closing = true;
        self.shared.bell.notify_all();
        let until = clock::now().after(END_MAX);
        while !state.ended && clock::now() < until {
            state = self.shared.wait(state, Some(until.since(clock::now())));
        }
        let ended = state.ended;
        drop(state);
        if let Some(thread) = self.thread.take().filter(|_| ended) {
            // A panic in the thread has already aborted the process (panic hook).
            let _ = thread.join();
        } else {
            tracing::error!("the disk does not answer; what waits for it is lost with this process");
        }
    }
}

/// What a submit is told while the disk refuses for that reason.
pub(super) fn refused(why: &str) -> Fault {
    let text = format!("the disk under the state directory refuses to be written; send the job later ({why})");
    Fault::new(Code::StateIo, text)
}

/// What the agent and the thread share.
#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    bell: Condvar,
}

#[derive(Debug, Default)]
struct State {
    waiting: Waiting,
    /// Why the disk refuses, as the agent knows or is about to hear.
    trouble: Option<String>,
    /// Since when the thread has been at work.
    busy_since: Option<Instant>,
    closing: bool,
    ended: bool,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for the bell, or for so long.
    fn wait<'s>(&self, state: MutexGuard<'s, State>, span: Option<Duration>) -> MutexGuard<'s, State> {
        match span {
            Some(span) => self.bell.wait_timeout(state, span).unwrap_or_else(PoisonError::into_inner).0,
            None => self.bell.wait(state).unwrap_or_else(PoisonError::into_inner),
        }
    }

    fn end(&self) {
        self.lock().ended = true;
        self.bell.notify_all();
    }
}

#[cfg(test)]
mod tests;
