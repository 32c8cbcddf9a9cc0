//! What waits for the store? Bounded, whatever the disk does: changes that belong together are joined, and what may be
//! lost gives way. Pure.

use std::collections::{BTreeSet, VecDeque};

use super::Request;
use crate::jobs::store::Batch;

/// Changes that may wait before they are joined.
const CHANGES_MAX: usize = 1024;
/// Most commits of one transaction.
const GROUP_MAX: usize = 256;

/// A change that waits, and who waits for it.
#[derive(Debug, Default)]
pub(in crate::agent) struct Change {
    pub(in crate::agent) tickets: Vec<u64>,
    pub(in crate::agent) batch: Batch,
}

impl Change {
    /// Whether it brings a job: the one kind that may be refused.
    pub(in crate::agent) fn is_submit(&self) -> bool {
        !self.batch.payloads.is_empty()
    }

    /// Bytes of the jobs it brings.
    pub(in crate::agent) fn payload_bytes(&self) -> u64 {
        self.batch.payloads.iter().map(|(_, payload)| payload.body.len() as u64).sum()
    }
}

#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "nearly all are changes: a box would cost an allocation for each")]
enum Entry {
    Change(Change),
    Read(Request),
}

/// The next thing to do.
#[derive(Debug)]
pub(in crate::agent) enum Next {
    /// Commits that become one transaction.
    Group(Vec<Change>),
    /// A question.
    Read(Request),
}

/// The queue.
#[derive(Debug, Default)]
pub(in crate::agent) struct Waiting {
    entries: VecDeque<Entry>,
    changes: usize,
    dropped: u64,
}

impl Waiting {
    /// A change is to be committed behind all others.
    pub(in crate::agent) fn push(&mut self, change: Change) {
        self.entries.push_back(Entry::Change(change));
        self.changes += 1;
        if self.changes > CHANGES_MAX {
            self.condense();
        }
    }

    /// A question, to be answered when everything before it is committed.
    pub(in crate::agent) fn ask(&mut self, request: Request) {
        self.entries.push_back(Entry::Read(request));
    }

    /// Takes the commits in front, or the question.
    pub(in crate::agent) fn take(&mut self) -> Option<Next> {
        if let Entry::Read(_) = self.entries.front()? {
            return self.pop().map(|entry| match entry {
                Entry::Read(request) => Next::Read(request),
                Entry::Change(change) => Next::Group(vec![change]),
            });
        }
        Some(Next::Group(self.take_group()))
    }

    /// Takes the commits in front, none when a question is there.
    pub(in crate::agent) fn take_group(&mut self) -> Vec<Change> {
        let mut group = Vec::new();
        while group.len() < GROUP_MAX && matches!(self.entries.front(), Some(Entry::Change(_))) {
            if let Some(Entry::Change(change)) = self.pop() {
                group.push(change);
            }
        }
        group
    }

    /// Takes the first question that need not wait for the changes before it.
    pub(in crate::agent) fn take_free(&mut self) -> Option<Request> {
        let is_free = |entry: &Entry| matches!(entry, Entry::Read(Request::Outbox { .. } | Request::Result { .. }));
        match self.entries.remove(self.entries.iter().position(is_free)?) {
            Some(Entry::Read(request)) => Some(request),
            Some(Entry::Change(_)) | None => None,
        }
    }

    /// Puts changes back in front: they are tried again.
    pub(in crate::agent) fn put_back(&mut self, group: Vec<Change>) {
        self.changes += group.len();
        for change in group.into_iter().rev() {
            self.entries.push_front(Entry::Change(change));
        }
    }

    /// Puts a question back in front.
    pub(in crate::agent) fn put_back_read(&mut self, request: Request) {
        self.entries.push_front(Entry::Read(request));
    }

    /// Takes what will not be waited for: jobs that were not accepted yet, and the tickets of everything else.
    pub(in crate::agent) fn give_up(&mut self) -> (Vec<u64>, Vec<u64>) {
        let (mut refused, mut settled) = (Vec::new(), Vec::new());
        self.entries.retain_mut(|entry| match entry {
            Entry::Read(_) => true,
            Entry::Change(change) if change.is_submit() => {
                refused.append(&mut change.tickets);
                self.changes -= 1;
                false
            }
            Entry::Change(change) => {
                settled.append(&mut change.tickets);
                true
            }
        });
        (refused, settled)
    }

    /// Messages that arrived, and whose deletion still waits.
    pub(in crate::agent) fn delivered(&self) -> BTreeSet<u64> {
        let changes = self.entries.iter().filter_map(|entry| match entry {
            Entry::Change(change) => Some(change),
            Entry::Read(_) => None,
        });
        changes.flat_map(|change| change.batch.delivered.iter().copied()).collect()
    }

    /// Messages that gave way so far.
    pub(in crate::agent) fn dropped(&self) -> u64 {
        self.dropped
    }

    fn pop(&mut self) -> Option<Entry> {
        let entry = self.entries.pop_front()?;
        self.changes -= usize::from(matches!(entry, Entry::Change(_)));
        Some(entry)
    }

    /// Joins neighbours, except those that bring jobs, and lets go of what may be lost. What is left is bounded by the
    /// jobs that are known, and by the few questions and submits that can be under way.
    fn condense(&mut self) {
        let mut joined: VecDeque<Entry> = VecDeque::new();
        for entry in std::mem::take(&mut self.entries) {
            let mut change = match entry {
                Entry::Change(change) if !change.is_submit() => change,
                Entry::Change(_) | Entry::Read(_) => {
                    joined.push_back(entry);
                    continue;
                }
            };
            self.dropped += change.batch.droppable.len() as u64;
            change.batch.droppable.clear();
            match joined.back_mut() {
                Some(Entry::Change(earlier)) if !earlier.is_submit() => earlier.join(change),
                Some(Entry::Change(_) | Entry::Read(_)) | None => joined.push_back(Entry::Change(change)),
            }
        }
        self.changes = joined.iter().filter(|entry| matches!(entry, Entry::Change(_))).count();
        self.entries = joined;
    }
}

impl Change {
    /// Makes one change of two: what `later` removes of this one's additions is left out, because a batch removes before
    /// it adds.
    fn join(&mut self, mut later: Self) {
        let (batch, next) = (&mut self.batch, &mut later.batch);
        let forgotten: BTreeSet<_> = next.forget.iter().cloned().collect();
        let replaced: BTreeSet<_> = next.jobs.iter().map(|job| job.id.clone()).collect();
        let items: BTreeSet<_> = next.forget.iter().chain(&next.drop_items).cloned().collect();
        let results: BTreeSet<_> = next.forget.iter().chain(&next.drop_results).cloned().collect();
        batch.jobs.retain(|job| !forgotten.contains(&job.id) && !replaced.contains(&job.id));
        batch.items.retain(|(id, _, _)| !items.contains(id));
        batch.results.retain(|(id, _)| !results.contains(id));
        self.tickets.append(&mut later.tickets);
        batch.jobs.append(&mut next.jobs);
        batch.items.append(&mut next.items);
        batch.results.append(&mut next.results);
        batch.messages.append(&mut next.messages);
        unite(&mut batch.delivered, &mut next.delivered);
        unite(&mut batch.forget, &mut next.forget);
        unite(&mut batch.drop_payloads, &mut next.drop_payloads);
        unite(&mut batch.drop_items, &mut next.drop_items);
        unite(&mut batch.acknowledged, &mut next.acknowledged);
        unite(&mut batch.drop_results, &mut next.drop_results);
        highest(&mut batch.marks, &mut next.marks);
        batch.at = batch.at.max(next.at);
    }
}

/// Of each name the highest number.
fn highest(all: &mut Vec<(String, u64)>, more: &mut Vec<(String, u64)>) {
    all.append(more);
    all.sort_unstable_by(|a, b| a.0.cmp(&b.0).then(b.1.cmp(&a.1)));
    all.dedup_by(|a, b| a.0 == b.0);
}

/// Each once: the same is removed again and again.
fn unite<T: Ord>(all: &mut Vec<T>, more: &mut Vec<T>) {
    all.append(more);
    all.sort_unstable();
    all.dedup();
}

#[cfg(test)]
mod tests;
