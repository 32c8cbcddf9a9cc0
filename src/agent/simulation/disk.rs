//! What does the store's thread answer, and when? What is durable survives every crash; what was only asked does not.
//!
//! Keeps the rules of `agent/keeper.rs`: answers in order, group commit, refused changes tried again, and of new jobs
//! refused with what the quota says.

use std::collections::{BTreeMap, VecDeque};

use super::scenario::{MS, Mutation, S, between, chance};
use crate::agent::keeper::{Answer, Fetched, Request};
use crate::fault::{Code, Fault};
use crate::jobs::job::Job;
use crate::jobs::store::{Batch, Message, Payload};
use crate::sim::day::Random;
use crate::units::{Instant, JobId};

/// Most requests that wait, as in the real one.
const REQUESTS_MAX: usize = 1024;
/// Most commits in one transaction.
const GROUP_MAX: usize = 64;

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
    fn apply(&mut self, batch: &Batch, messages_max: usize) -> Result<(), String> {
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
        Ok(())
    }

    fn bytes(&self) -> usize {
        let payloads: usize = self.payloads.values().map(|payload| payload.body.len()).sum();
        let items: usize = self.items.values().flatten().map(Vec::len).sum();
        let results: usize = self.results.values().map(Vec::len).sum();
        payloads + items + results
    }
}

/// What the thread is at.
#[derive(Debug)]
enum Work {
    Idle,
    /// A transaction that ends then.
    Commit(Instant, Vec<(u64, Batch)>),
    /// The disk refused these; they are tried again then.
    Refused(Instant, Vec<(u64, Batch)>),
}

/// The thread and its disk.
#[derive(Debug)]
pub(super) struct Disk {
    random: Random,
    quota: (u64, usize),
    mutation: Option<Mutation>,
    pub(super) shelf: Shelf,
    /// The agent knows that the disk refuses.
    is_told: bool,
    /// Before the last commit.
    earlier: Option<BTreeMap<JobId, Job>>,
    requests: VecDeque<Request>,
    work: Work,
    answers: VecDeque<(Instant, Answer)>,
    pub(super) refuses_until: Instant,
    pub(super) stalls_until: Instant,
    /// Batches that became durable and were not looked at yet.
    pub(super) fresh: Vec<Batch>,
    commits: u64,
}

impl Disk {
    pub(super) fn new(random: Random, quota: (u64, usize), mutation: Option<Mutation>) -> Self {
        Self {
            random,
            quota,
            mutation,
            shelf: Shelf::default(),
            is_told: false,
            earlier: None,
            requests: VecDeque::new(),
            work: Work::Idle,
            answers: VecDeque::new(),
            refuses_until: Instant::default(),
            stalls_until: Instant::default(),
            fresh: Vec::new(),
            commits: 0,
        }
    }

    // ---- the agent's side ----

    /// Takes a request; `false` when too many wait.
    pub(super) fn ask(&mut self, request: Request) -> bool {
        if self.requests.len() >= REQUESTS_MAX {
            return false;
        }
        self.requests.push_back(request);
        true
    }

    pub(super) fn answers_at(&self) -> Option<Instant> {
        self.answers.front().map(|(at, _)| *at)
    }

    pub(super) fn answer(&mut self) -> Option<Answer> {
        self.answers.pop_front().map(|(_, answer)| answer)
    }

    pub(super) fn is_idle(&self) -> bool {
        matches!(self.work, Work::Idle) && self.requests.is_empty() && self.answers.is_empty()
    }

    /// The agent was killed: a transaction is whole or was never begun, and the rest is gone.
    pub(super) fn crash(&mut self) -> Result<(), String> {
        let work = std::mem::replace(&mut self.work, Work::Idle);
        if let Work::Commit(_, group) = work
            && self.random.below(2) == 0
        {
            self.write(group)?;
        }
        self.requests.clear();
        self.answers.clear();
        self.is_told = false;
        if self.mutation == Some(Mutation::StaleRestart)
            && let Some(earlier) = self.earlier.take()
        {
            self.shelf.jobs = earlier;
        }
        Ok(())
    }

    /// The agent ends orderly: what was asked is done, unless the disk refuses.
    pub(super) fn finish(&mut self, now: Instant) -> Result<(), String> {
        while let Some(at) = self.works_at(now).filter(|_| !matches!(self.work, Work::Refused(..))) {
            self.work(at.max(now))?;
        }
        self.work = Work::Idle;
        self.requests.clear();
        self.answers.clear();
        Ok(())
    }

    // ---- the thread ----

    pub(super) fn works_at(&self, now: Instant) -> Option<Instant> {
        match &self.work {
            Work::Idle => (!self.requests.is_empty()).then_some(now),
            Work::Commit(at, _) => Some(*at),
            Work::Refused(at, _) => Some(if self.requests.is_empty() { *at } else { now.min(*at) }),
        }
    }

    pub(super) fn work(&mut self, now: Instant) -> Result<(), String> {
        match std::mem::replace(&mut self.work, Work::Idle) {
            Work::Idle => {
                self.take(now);
                Ok(())
            }
            Work::Commit(_, group) => self.commit(now, group),
            Work::Refused(at, group) if at <= now => {
                self.begin(now, group);
                Ok(())
            }
            Work::Refused(at, group) => {
                self.wait(now, at, group);
                Ok(())
            }
        }
    }

    fn take(&mut self, now: Instant) {
        let reads_ahead = self.mutation == Some(Mutation::ReadsAhead);
        let read = self.requests.iter().position(|request| !matches!(request, Request::Commit { .. }));
        if let Some(at) = read.filter(|at| *at == 0 || reads_ahead)
            && let Some(request) = self.requests.remove(at)
        {
            self.read(now, request);
            return;
        }
        let mut group = Vec::new();
        while group.len() < GROUP_MAX
            && let Some(Request::Commit { .. }) = self.requests.front()
            && let Some(Request::Commit { ticket, batch }) = self.requests.pop_front()
        {
            group.push((ticket, *batch));
        }
        self.begin(now, group);
    }

    fn begin(&mut self, now: Instant, group: Vec<(u64, Batch)>) {
        let slow = chance(&mut self.random, 10);
        let takes = between(&mut self.random, MS / 4, if slow { S / 2 } else { 8 * MS });
        self.work = Work::Commit(now.after(takes).max(self.stalls_until), group);
    }

    fn commit(&mut self, now: Instant, group: Vec<(u64, Batch)>) -> Result<(), String> {
        let refuses = now < self.refuses_until;
        if refuses != self.is_told {
            self.is_told = refuses;
            self.tell(now, Answer::Disk(refuses.then(|| "injected".to_owned())));
        }
        if refuses {
            let mut kept = Vec::new();
            for (ticket, batch) in group {
                if batch.payloads.is_empty() {
                    kept.push((ticket, batch));
                } else {
                    self.tell(now, Answer::Committed { ticket, outcome: Err(refusal()) });
                }
            }
            if !kept.is_empty() {
                self.work = Work::Refused(now.after(S), kept);
            }
            return Ok(());
        }
        let tickets: Vec<u64> = group.iter().map(|(ticket, _)| *ticket).collect();
        let refused = self.write(group)?;
        for ticket in tickets {
            let fault = refused.iter().find(|(refused, _)| *refused == ticket).map(|(_, fault)| fault.clone());
            self.tell(now, Answer::Committed { ticket, outcome: fault.map_or(Ok(()), Err) });
        }
        Ok(())
    }

    /// While the disk refuses: new jobs are refused, changes wait, and what is to be read waits behind them.
    fn wait(&mut self, now: Instant, at: Instant, mut group: Vec<(u64, Batch)>) {
        let is_commit = |request: &Request| matches!(request, Request::Commit { .. });
        if let Some(first) = self.requests.iter().position(is_commit)
            && let Some(Request::Commit { ticket, batch }) = self.requests.remove(first)
        {
            if batch.payloads.is_empty() {
                group.push((ticket, *batch));
            } else {
                self.tell(now, Answer::Committed { ticket, outcome: Err(refusal()) });
            }
            self.work = Work::Refused(at, group);
        } else {
            self.begin(now.max(at), group);
        }
    }

    /// Makes a group durable; gives those that the quota refused.
    fn write(&mut self, group: Vec<(u64, Batch)>) -> Result<Vec<(u64, Fault)>, String> {
        self.earlier = (self.mutation == Some(Mutation::StaleRestart)).then(|| self.shelf.jobs.clone());
        let mut refused = Vec::new();
        for (ticket, batch) in group {
            let bytes: usize = batch.payloads.iter().map(|(_, payload)| payload.body.len()).sum();
            let kept = self.shelf.outbox.values().filter(|(_, droppable)| !droppable).count();
            let is_full = (self.shelf.bytes() + bytes) as u64 > self.quota.0 || kept >= self.quota.1;
            if !batch.payloads.is_empty() && is_full {
                refused.push((ticket, Fault::new(Code::SpoolFull, "the store is full; send it later")));
                continue;
            }
            self.commits += 1;
            if self.mutation == Some(Mutation::LostCommit) && self.commits.is_multiple_of(23) {
                continue;
            }
            self.shelf.apply(&batch, self.quota.1)?;
            if self.mutation == Some(Mutation::LostMessage) && self.commits.is_multiple_of(17) {
                self.shelf.outbox.pop_last();
            }
            self.fresh.push(batch);
        }
        Ok(refused)
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
                Answer::Outbox { messages: next.map(|(seq, (message, _))| (*seq, message.clone())).collect() }
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

fn refusal() -> Fault {
    Fault::new(Code::StateIo, "the disk under the state directory refuses to be written; send the job later")
}
