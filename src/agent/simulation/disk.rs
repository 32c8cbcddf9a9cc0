//! What does the store's thread answer, and when? What is durable survives every crash; what was only asked does not.
//!
//! Keeps the rules of `agent/keeper.rs` and `keeper/service.rs`, around the real queue of what waits: answers in order,
//! group commit, what became durable handed over unless it is too large. While the disk refuses new jobs are refused,
//! changes of others are taken though they wait, and only the outbox and results are read. An agent that starts then has
//! no store until the disk takes.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use super::scenario::{MS, Mutation, S, between, chance};
use crate::agent::desk::Damage;
use crate::agent::keeper::waiting::{Change, Next, Waiting};
use crate::agent::keeper::{Answer, Fetched, Found, Request, STALLED_AFTER, refused};
use crate::fault::{Code, Fault};
use crate::jobs::job::Job;
use crate::jobs::store::{Batch, Message, Payload};
use crate::sim::day::Random;
use crate::units::{Instant, JobId};

/// Most bytes of a group's messages that are handed over: less than in the real one, where messages are larger.
const HANDED_OVER_BYTES_MAX: usize = 1500;
/// After so long a disk that refuses is tried again; twice as long each time when it takes and refuses by turns.
const RETRY_FIRST: Duration = S;
const RETRY_MAX: Duration = Duration::from_secs(30);
/// A disk that took for so long is trusted again.
const TRUSTED_AFTER: Duration = Duration::from_secs(60);
/// The thread's last writes may take so long when the agent ends.
const END_MAX: Duration = Duration::from_millis(500);

/// What is durable.
#[derive(Clone, Debug, Default)]
pub(super) struct Shelf {
    pub(super) jobs: BTreeMap<JobId, Job>,
    pub(super) payloads: BTreeMap<JobId, Payload>,
    pub(super) items: BTreeMap<JobId, Vec<Vec<u8>>>,
    pub(super) results: BTreeMap<JobId, Vec<u8>>,
    /// Messages by sequence number, and whether they may be dropped.
    pub(super) outbox: BTreeMap<u64, (Message, bool)>,
    next_seq: u64,
}

impl Shelf {
    /// The batch as its documentation words it.
    /// Gives the sequence numbers of its messages.
    fn apply(&mut self, batch: &Batch, messages_max: usize) -> Result<Vec<u64>, String> {
        for id in &batch.forget {
            self.jobs.remove(id);
        }
        for id in batch.forget.iter().chain(&batch.drop_payloads) {
            self.payloads.remove(id);
        }
        for id in batch.forget.iter().chain(&batch.drop_items) {
            self.items.remove(id);
        }
        for id in batch.forget.iter().chain(&batch.drop_results) {
            self.results.remove(id);
        }
        for id in &batch.acknowledged {
            if let Some(job) = self.jobs.get_mut(id) {
                job.acknowledged = true;
            }
        }
        self.jobs.extend(batch.jobs.iter().map(|job| (job.id.clone(), job.clone())));
        self.payloads.extend(batch.payloads.iter().cloned());
        self.results.extend(batch.results.iter().cloned());
        for (id, index, body) in &batch.items {
            let items = self.items.entry(id.clone()).or_default();
            if items.len() != *index as usize {
                return Err(format!("item {index} of {id} is journalled when {} are there", items.len()));
            }
            items.push(body.clone());
        }
        let first = self.next_seq + 1;
        let kept = batch.messages.iter().map(|message| (message, false));
        for (message, droppable) in kept.chain(batch.droppable.iter().map(|message| (message, true))) {
            self.next_seq += 1;
            self.outbox.insert(self.next_seq, (message.clone(), droppable));
        }
        for seq in &batch.delivered {
            self.outbox.remove(seq);
        }
        let excess = self.outbox.len().saturating_sub(messages_max);
        let droppable = self.outbox.iter().filter(|(_, (_, droppable))| *droppable);
        let dropped: Vec<u64> = droppable.map(|(seq, _)| *seq).take(excess).collect();
        dropped.iter().for_each(|seq| _ = self.outbox.remove(seq));
        Ok((first..=self.next_seq).collect())
    }

    fn bytes(&self) -> usize {
        let payloads: usize = self.payloads.values().map(|payload| payload.body.len()).sum();
        let items: usize = self.items.values().flatten().map(Vec::len).sum();
        let results: usize = self.results.values().map(Vec::len).sum();
        payloads + items + results
    }
}

/// Who waits for a change, and its messages unless it was refused.
type Outcome = (Vec<u64>, Result<Vec<(u64, Message)>, Fault>);

/// What the thread is at.
#[derive(Debug)]
enum Work {
    Idle,
    /// A transaction, or the opening of the store, since and until then.
    Commit {
        since: Instant,
        until: Instant,
        group: Vec<Change>,
    },
}

/// The thread and its disk.
#[derive(Debug)]
pub(super) struct Disk {
    random: Random,
    quota: (u64, usize),
    mutation: Option<Mutation>,
    pub(super) shelf: Shelf,
    /// Before the last commit.
    earlier: Option<BTreeMap<JobId, Job>>,
    pub(super) refuses_until: Instant,
    pub(super) stalls_until: Instant,
    /// Batches that became durable and were not looked at yet.
    pub(super) fresh: Vec<Batch>,
    /// Tickets of changes that are taken though they wait, and were not looked at yet.
    pub(super) waived: Vec<u64>,
    commits: u64,

    // ---- of this life of the agent ----
    is_open: bool,
    waiting: Waiting,
    /// Something may have to be done.
    is_rung: bool,
    work: Work,
    answers: VecDeque<(Instant, Answer)>,
    /// Why the disk refuses, as the agent knows or is about to hear.
    trouble: Option<String>,
    retry_at: Option<Instant>,
    retry_after: Duration,
    took_again: Option<Instant>,
}

impl Disk {
    pub(super) fn new(random: Random, quota: (u64, usize), mutation: Option<Mutation>) -> Self {
        Self {
            random,
            quota,
            mutation,
            shelf: Shelf::default(),
            earlier: None,
            refuses_until: Instant::default(),
            stalls_until: Instant::default(),
            fresh: Vec::new(),
            waived: Vec::new(),
            commits: 0,
            is_open: false,
            waiting: Waiting::default(),
            is_rung: false,
            work: Work::Idle,
            answers: VecDeque::new(),
            trouble: None,
            retry_at: None,
            retry_after: RETRY_FIRST,
            took_again: None,
        }
    }

    // ---- lives ----

    /// The agent starts: its jobs, or why the store cannot be opened yet.
    pub(super) fn open(&mut self, now: Instant) -> Result<Vec<Job>, String> {
        self.forget();
        self.is_open = now >= self.refuses_until;
        if self.is_open {
            return Ok(self.shelf.jobs.values().cloned().collect());
        }
        let why = "refused at the start, as the seed says".to_owned();
        self.trouble = Some(why.clone());
        self.retry_at = Some(now.after(RETRY_FIRST));
        Err(why)
    }

    /// The agent was killed: a transaction is whole or was never begun, and the rest is gone.
    pub(super) fn crash(&mut self) -> Result<(), String> {
        if let Work::Commit { group, .. } = std::mem::replace(&mut self.work, Work::Idle)
            && self.is_open
            && self.random.below(2) == 0
        {
            self.write(group)?;
        }
        self.forget();
        if self.mutation == Some(Mutation::StaleRestart)
            && let Some(earlier) = self.earlier.take()
        {
            self.shelf.jobs = earlier;
        }
        Ok(())
    }

    /// The agent ends orderly: what was asked is done, unless the disk does not answer in time or refuses once more.
    /// Gives whether all was done.
    pub(super) fn finish(&mut self, now: Instant) -> Result<bool, String> {
        let mut tried = false;
        while let Some(at) = self.works_at(now).filter(|at| *at <= now.after(END_MAX) || self.retry_at.is_some()) {
            match (&self.work, self.retry_at) {
                (Work::Commit { until, .. }, _) if *until > now.after(END_MAX) => break,
                (Work::Idle, Some(_)) if tried => break,
                (Work::Idle, Some(_)) => {
                    tried = true;
                    self.retry_at = Some(at.min(now));
                }
                (Work::Commit { .. }, _) | (Work::Idle, None) => {}
            }
            self.work(at.max(now))?;
        }
        let is_done = matches!(self.work, Work::Idle) && !self.is_rung && self.retry_at.is_none();
        self.crash().map(|()| is_done)
    }

    fn forget(&mut self) {
        self.is_open = false;
        self.waiting = Waiting::default();
        self.is_rung = false;
        self.work = Work::Idle;
        self.answers.clear();
        self.trouble = None;
        self.retry_at = None;
        self.retry_after = RETRY_FIRST;
        self.took_again = None;
    }

    // ---- the agent's side ----

    /// Takes a request. Returns the answer of one that need not wait: the disk refuses.
    pub(super) fn ask(&mut self, now: Instant, request: Request) -> Option<Answer> {
        self.is_rung = true;
        let (ticket, batch) = match request {
            Request::Commit { ticket, batch } => (ticket, *batch),
            read @ (Request::Fetch { .. } | Request::Outbox { .. } | Request::Result { .. }) => {
                if self.mutation == Some(Mutation::ReadsAhead) && self.is_open {
                    self.read(now, read);
                } else {
                    self.waiting.ask(read);
                }
                return None;
            }
        };
        let mut change = Change { tickets: vec![ticket], batch };
        let Some(why) = &self.trouble else {
            self.waiting.push(change);
            return None;
        };
        if change.is_submit() {
            return Some(Answer::Committed { ticket, outcome: Err(refused(why)) });
        }
        change.tickets.clear();
        self.waiting.push(change);
        self.waived.push(ticket);
        Some(Answer::Committed { ticket, outcome: Ok(()) })
    }

    /// Looks whether the disk answers at all.
    pub(super) fn look(&mut self, now: Instant) -> Vec<Answer> {
        let is_stalled = match &self.work {
            Work::Commit { since, .. } => now.since(*since) >= STALLED_AFTER,
            Work::Idle => false,
        };
        if !is_stalled || self.trouble.is_some() {
            return Vec::new();
        }
        let why = "it does not answer, as the seed says";
        self.trouble = Some(why.to_owned());
        let mut answers = vec![Answer::Disk(Some(why.to_owned()))];
        answers.extend(self.give_up(why));
        answers
    }

    pub(super) fn answers_at(&self) -> Option<Instant> {
        self.answers.front().map(|(at, _)| *at)
    }

    pub(super) fn answer(&mut self) -> Option<Answer> {
        self.answers.pop_front().map(|(_, answer)| answer)
    }

    pub(super) fn is_idle(&self) -> bool {
        matches!(self.work, Work::Idle) && !self.is_rung && self.retry_at.is_none() && self.answers.is_empty()
    }

    // ---- the thread ----

    pub(super) fn works_at(&self, now: Instant) -> Option<Instant> {
        match (&self.work, self.is_rung) {
            (Work::Commit { until, .. }, _) => Some(*until),
            (Work::Idle, true) => Some(now),
            (Work::Idle, false) => self.retry_at,
        }
    }

    pub(super) fn work(&mut self, now: Instant) -> Result<(), String> {
        if let Work::Commit { group, .. } = std::mem::replace(&mut self.work, Work::Idle) {
            self.is_rung = true;
            return self.commit(now, group);
        }
        match self.retry_at {
            None => match self.waiting.take() {
                Some(Next::Group(group)) => self.begin(now, group),
                Some(Next::Read(request)) => self.read(now, request),
                None => self.is_rung = false,
            },
            Some(at) if at <= now => {
                let group = if self.is_open { self.waiting.take_group() } else { Vec::new() };
                self.begin(now, group);
            }
            Some(_) => match self.is_open.then(|| self.waiting.take_free()).flatten() {
                Some(request) => self.read(now, request),
                None => self.is_rung = false,
            },
        }
        Ok(())
    }

    fn begin(&mut self, now: Instant, group: Vec<Change>) {
        let slow = chance(&mut self.random, 10);
        let takes = between(&mut self.random, MS / 4, if slow { S / 2 } else { 8 * MS });
        self.work = Work::Commit { since: now, until: now.after(takes).max(self.stalls_until), group };
    }

    fn commit(&mut self, now: Instant, group: Vec<Change>) -> Result<(), String> {
        if now < self.refuses_until {
            self.waiting.put_back(group);
            self.refuse(now);
            return Ok(());
        }
        if !self.is_open {
            self.is_open = true;
            let jobs = self.shelf.jobs.values().cloned().collect();
            self.tell(
                now,
                Answer::Opened(Box::new(Found { jobs, wall_high: None, marks: Vec::new(), damage: Damage::default() })),
            );
        }
        let outcomes = self.write(group)?;
        self.hand_over(now, &outcomes);
        for (tickets, outcome) in outcomes {
            for ticket in tickets {
                self.tell(now, Answer::Committed { ticket, outcome: outcome.clone().map(drop) });
            }
        }
        if self.retry_at.take().is_some() {
            self.took_again = Some(now);
        }
        if self.trouble.take().is_some() {
            self.tell(now, Answer::Disk(None));
        }
        Ok(())
    }

    /// The disk refuses. The agent is told so before it hears what was refused.
    fn refuse(&mut self, now: Instant) {
        if self.retry_at.is_none() {
            let soon = self.took_again.is_some_and(|at| now.since(at) < TRUSTED_AFTER);
            self.retry_after = if soon { (self.retry_after * 2).min(RETRY_MAX) } else { RETRY_FIRST };
        }
        self.retry_at = Some(now.after(self.retry_after));
        let why = format!("refused in way {}, as the seed says", self.random.below(2));
        if self.trouble.replace(why.clone()).as_ref() != Some(&why) {
            self.tell(now, Answer::Disk(Some(why.clone())));
        }
        for answer in self.give_up(&why) {
            self.tell(now, answer);
        }
    }

    /// Nobody waits any more: new jobs are refused, everything else is taken though it waits.
    fn give_up(&mut self, why: &str) -> Vec<Answer> {
        let (refusals, settled) = self.waiting.give_up();
        self.waived.extend(&settled);
        let refusals = refusals.into_iter().map(|ticket| Answer::Committed { ticket, outcome: Err(refused(why)) });
        let settled = settled.into_iter().map(|ticket| Answer::Committed { ticket, outcome: Ok(()) });
        refusals.chain(settled).collect()
    }

    /// Makes a group durable; gives who waits for each change, and its messages or the quota's refusal.
    fn write(&mut self, group: Vec<Change>) -> Result<Vec<Outcome>, String> {
        self.earlier = (self.mutation == Some(Mutation::StaleRestart)).then(|| self.shelf.jobs.clone());
        let mut outcomes = Vec::new();
        for Change { tickets, batch } in group {
            let bytes: usize = batch.payloads.iter().map(|(_, payload)| payload.body.len()).sum();
            let kept = self.shelf.outbox.values().filter(|(_, droppable)| !droppable).count();
            let is_full = (self.shelf.bytes() + bytes) as u64 > self.quota.0 || kept >= self.quota.1;
            if !batch.payloads.is_empty() && is_full {
                outcomes.push((tickets, Err(Fault::new(Code::SpoolFull, "the store is full; send it later"))));
                continue;
            }
            self.commits += 1;
            if self.mutation == Some(Mutation::LostCommit) && self.commits.is_multiple_of(23) {
                outcomes.push((tickets, Ok(Vec::new())));
                continue;
            }
            let seqs = self.shelf.apply(&batch, self.quota.1)?;
            let mut messages: Vec<(u64, Message)> = seqs.into_iter().zip(batch.all_messages().cloned()).collect();
            if self.mutation == Some(Mutation::LostMessage) && self.commits.is_multiple_of(17) {
                self.shelf.outbox.pop_last();
                messages.pop();
            }
            self.fresh.push(batch);
            outcomes.push((tickets, Ok(messages)));
        }
        Ok(outcomes)
    }

    /// Hands over the messages of the changes that were taken, so that nobody has to read them back.
    fn hand_over(&mut self, now: Instant, outcomes: &[Outcome]) {
        let taken = || outcomes.iter().filter_map(|(tickets, outcome)| Some((tickets, outcome.as_ref().ok()?)));
        let messages: Vec<(u64, Message)> = taken().flat_map(|(_, messages)| messages.iter().cloned()).collect();
        if messages.iter().map(|(_, message)| message.body.len()).sum::<usize>() > HANDED_OVER_BYTES_MAX {
            self.tell(now, Answer::Kept);
            return;
        }
        let commits = taken().map(|(tickets, _)| tickets.len()).sum();
        if commits > 0 || !messages.is_empty() {
            self.tell(now, Answer::Stored { commits, messages });
        }
    }

    fn read(&mut self, now: Instant, request: Request) {
        let shelf = &self.shelf;
        let answer = match request {
            Request::Commit { .. } => return,
            Request::Fetch { id, slot } => {
                let outcome = match shelf.payloads.get(&id) {
                    Some(payload) => {
                        let items = shelf.items.get(&id).cloned().unwrap_or_default();
                        Ok(Fetched { payload: payload.clone(), items })
                    }
                    None => Err(Fault::new(Code::StateCorrupt, format!("the input of job {id} is not in the store"))),
                };
                Answer::Fetched { id, slot, outcome }
            }
            Request::Outbox { after, max } => {
                let next = shelf.outbox.range(after + 1..).take(max);
                let mut messages: Vec<(u64, Message)> = next.map(|(seq, (of, _))| (*seq, of.clone())).collect();
                if self.retry_at.is_some() {
                    // Their deletion waits.
                    let delivered = self.waiting.delivered();
                    messages.retain(|(seq, _)| !delivered.contains(seq));
                }
                Answer::Outbox { messages }
            }
            Request::Result { id, reply } => Answer::Result { reply, body: shelf.results.get(&id).cloned() },
        };
        self.tell(now, answer);
    }

    fn tell(&mut self, now: Instant, answer: Answer) {
        let last = self.answers.back().map_or(now, |(at, _)| *at);
        let at = now.after(between(&mut self.random, MS / 100, MS)).max(last);
        self.answers.push_back((at, answer));
    }
}
