//! What does one commit write? A group of batches as one redb transaction, so one sync.

use redb::{Database, Durability, ReadableTable, Table, TableHandle, WriteTransaction};

use super::Batch;
use super::meta::{META, Meta};
use super::records::{ITEMS, JOBS, OUTBOX, PAYLOADS, RESULTS, decode_job, encode_job, encode_message, encode_payload};
use super::recovery::Trouble;
use super::seal::{SEAL_BYTES, seal, unsealed};
use super::tally::{Plan, Queued, Tally};
use crate::jobs::job::Job;
use crate::units::JobId;

pub(super) type Values<'t, K> = Table<'t, K, &'static [u8]>;

/// What a transaction changed besides the plan of the outbox.
#[derive(Debug, Default)]
pub(super) struct Change {
    /// Bytes that came, outbox included.
    added: u64,
    /// Bytes that went, outbox included.
    removed: u64,
    messages: Vec<(u64, Queued)>,
}

impl Change {
    /// Carries a committed change over into the tally.
    pub(super) fn settle(self, plan: &Plan, tally: &mut Tally) {
        tally.bytes = tally.bytes.saturating_add(self.added).saturating_sub(self.removed);
        tally.outbox.extend(self.messages);
        for seq in plan.delivered.iter().chain(&plan.dropped) {
            tally.outbox.remove(seq);
        }
        tally.meta = plan.meta;
    }
}

/// Writes the batches, in order, and makes them durable.
pub(super) fn write(database: &Database, plan: &Plan, batches: &[&Batch]) -> Result<Change, Trouble> {
    let mut transaction = database.begin_write()?;
    transaction.set_durability(Durability::Immediate)?;
    let mut change = Change::default();
    let mut numbers = transaction.open_table(META)?;
    batches.iter().try_for_each(|batch| Meta::raise(&mut numbers, &batch.marks))?;
    plan.meta.write(&mut numbers)?;
    drop(numbers);
    for batch in batches {
        write_jobs(&transaction, batch, &mut change)?;
    }
    write_outbox(&transaction, plan, batches, &mut change)?;
    transaction.commit()?;
    Ok(change)
}

/// Removals first: an id that is forgotten and comes again in one batch is there afterwards.
fn write_jobs(transaction: &WriteTransaction, batch: &Batch, change: &mut Change) -> Result<(), Trouble> {
    // A table that is not touched is not opened: most commits move one job and one message.
    if !(batch.forget.is_empty() && batch.jobs.is_empty() && batch.acknowledged.is_empty()) {
        let mut jobs = transaction.open_table(JOBS)?;
        for id in &batch.forget {
            jobs.remove(id.as_str())?;
        }
        for job in &batch.jobs {
            put(&mut jobs, job.id.as_str(), encode_job(job), None)?;
        }
        for id in &batch.acknowledged {
            mark_acknowledged(&mut jobs, id)?;
        }
    }
    if !(batch.forget.is_empty() && batch.drop_payloads.is_empty() && batch.payloads.is_empty()) {
        let mut payloads = transaction.open_table(PAYLOADS)?;
        for id in batch.forget.iter().chain(&batch.drop_payloads) {
            take_out(&mut payloads, id.as_str(), change)?;
        }
        for (id, payload) in &batch.payloads {
            put(&mut payloads, id.as_str(), encode_payload(payload), Some(change))?;
        }
    }
    if !(batch.forget.is_empty() && batch.drop_items.is_empty() && batch.items.is_empty()) {
        let mut items = transaction.open_table(ITEMS)?;
        for id in batch.forget.iter().chain(&batch.drop_items) {
            take_out_items(&mut items, id, change)?;
        }
        for (id, index, output) in &batch.items {
            put(&mut items, (id.as_str(), *index), output.clone(), Some(change))?;
        }
    }
    if !(batch.forget.is_empty() && batch.drop_results.is_empty() && batch.results.is_empty()) {
        let mut results = transaction.open_table(RESULTS)?;
        for id in batch.forget.iter().chain(&batch.drop_results) {
            take_out(&mut results, id.as_str(), change)?;
        }
        for (id, body) in &batch.results {
            put(&mut results, id.as_str(), body.clone(), Some(change))?;
        }
    }
    Ok(())
}

/// A record that does not read back is left as it is: the next opening finds it and tells.
fn mark_acknowledged(jobs: &mut Values<'_, &'static str>, id: &JobId) -> Result<(), Trouble> {
    let known = jobs.get(id.as_str())?.and_then(|record| {
        let value = unsealed(JOBS, &id.as_str(), record.value()).ok()?;
        decode_job(id.as_str(), value).ok()
    });
    match known {
        Some(job) => put(jobs, id.as_str(), encode_job(&Job { acknowledged: true, ..job }), None),
        None => Ok(()),
    }
}

fn write_outbox(
    transaction: &WriteTransaction,
    plan: &Plan,
    batches: &[&Batch],
    change: &mut Change,
) -> Result<(), Trouble> {
    let mut outbox = transaction.open_table(OUTBOX)?;
    for (batch, seqs) in batches.iter().zip(&plan.seqs) {
        let kept = batch.messages.iter().map(|message| (message, false));
        let droppable = batch.droppable.iter().map(|message| (message, true));
        for (seq, (message, droppable)) in seqs.clone().zip(kept.chain(droppable)) {
            let record = encode_message(message, droppable);
            change.messages.push((seq, Queued { droppable, bytes: (record.len() + SEAL_BYTES) as u64 }));
            put(&mut outbox, seq, record, Some(change))?;
        }
    }
    for seq in plan.delivered.iter().chain(&plan.dropped) {
        take_out(&mut outbox, *seq, change)?;
    }
    Ok(())
}

/// Seals a value and stores it; counted in `change`, unless it is a job, which the quota does not count.
pub(super) fn put<K: redb::Key + 'static>(
    table: &mut Values<'_, K>,
    key: K::SelfType<'_>,
    value: Vec<u8>,
    change: Option<&mut Change>,
) -> Result<(), Trouble> {
    let record = seal(table.name(), K::as_bytes(&key).as_ref(), value);
    let old = table.insert(&key, record.as_slice())?.map_or(0, |old| old.value().len());
    if let Some(change) = change {
        change.added += record.len() as u64;
        change.removed += old as u64;
    }
    Ok(())
}

fn take_out<'k, K: redb::Key + 'static>(
    table: &mut Values<'_, K>,
    key: impl std::borrow::Borrow<K::SelfType<'k>>,
    change: &mut Change,
) -> Result<(), Trouble> {
    let old = table.remove(key)?.map_or(0, |old| old.value().len());
    change.removed += old as u64;
    Ok(())
}

fn take_out_items(items: &mut Values<'_, (&'static str, u32)>, id: &JobId, change: &mut Change) -> Result<(), Trouble> {
    let all = (id.as_str(), 0)..=(id.as_str(), u32::MAX);
    for entry in items.extract_from_if::<(&str, u32), _>(all, |_, _| true)? {
        change.removed += entry?.1.value().len() as u64;
    }
    Ok(())
}
