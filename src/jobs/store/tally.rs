//! How full is the store, and what does a group of batches do to its outbox? Pure bookkeeping beside the file.

use std::collections::BTreeMap;
use std::ops::Range;

use super::meta::Meta;
use super::{Batch, Quota};
use crate::fault::{Code, Fault};

/// One message of the outbox, without its content.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Queued {
    /// Whether it gives way when the outbox is full.
    pub(super) droppable: bool,
    /// Its record, in bytes.
    pub(super) bytes: u64,
}

/// What the store holds, as of the last commit. Recomputed from the file at every open.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Tally {
    /// Records of payloads, items, results and messages.
    pub(super) bytes: u64,
    /// Messages by sequence number.
    pub(super) outbox: BTreeMap<u64, Queued>,
    /// Its numbers of itself.
    pub(super) meta: Meta,
}

/// What is promised to other batches of the same group.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Taken {
    pub(super) bytes: u64,
    /// Messages that must arrive.
    pub(super) messages: usize,
}

impl Tally {
    /// Whether a job with a payload of that many bytes fits besides what is `taken` by others.
    pub(super) fn admit(&self, quota: &Quota, taken: Taken, payload_bytes: u64) -> Result<(), Fault> {
        self.admit_messages(quota, taken.messages)?;
        let used = self.bytes.saturating_add(taken.bytes);
        if used.saturating_add(payload_bytes) <= quota.bytes {
            return Ok(());
        }
        let text = format!(
            "the store holds {used} bytes, limit {}; the job's {payload_bytes} do not fit: fetch and acknowledge results, \
             submit again later, or raise the limit",
            quota.bytes
        );
        Err(Fault::new(Code::SpoolFull, text))
    }

    /// Every job adds messages that must arrive, and nothing ever drops those: so their number must stop the jobs.
    fn admit_messages(&self, quota: &Quota, taken: usize) -> Result<(), Fault> {
        // The outbox is counted only when it can matter: this is asked for every job.
        if self.outbox.len().saturating_add(taken) < quota.messages {
            return Ok(());
        }
        let kept = self.outbox.values().filter(|queued| !queued.droppable).count().saturating_add(taken);
        if kept < quota.messages {
            return Ok(());
        }
        let text = format!(
            "{kept} messages that must arrive wait for the broker, limit {}: bring the connection back, submit again later",
            quota.messages
        );
        Err(Fault::new(Code::SpoolFull, text))
    }
}

/// What a group of batches does to the outbox; settled before the transaction, so that its outcome is known even when
/// the commit's answer is lost.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Plan {
    /// Sequence numbers of each batch's messages, kept ones first.
    pub(super) seqs: Vec<Range<u64>>,
    /// The store's numbers afterwards.
    pub(super) meta: Meta,
    /// Messages that leave because they were delivered.
    pub(super) delivered: Vec<u64>,
    /// Messages that leave because the outbox is full: the oldest droppable ones.
    pub(super) dropped: Vec<u64>,
}

impl Plan {
    pub(super) fn new(tally: &Tally, quota: &Quota, batches: &[&Batch]) -> Self {
        let mut next_seq = tally.meta.next_seq;
        let mut droppable: Vec<u64> = Vec::new();
        let mut seqs = Vec::with_capacity(batches.len());
        for batch in batches {
            let kept_end = next_seq + batch.messages.len() as u64;
            let end = kept_end + batch.droppable.len() as u64;
            droppable.extend(kept_end..end);
            seqs.push(next_seq..end);
            next_seq = end;
        }
        let mut delivered: Vec<u64> = batches.iter().flat_map(|batch| batch.delivered.iter().copied()).collect();
        delivered.sort_unstable();
        delivered.dedup();
        delivered.retain(|seq| tally.outbox.contains_key(seq));
        let added = usize::try_from(next_seq - tally.meta.next_seq).unwrap_or(usize::MAX);
        let after = (tally.outbox.len() - delivered.len()).saturating_add(added);
        let excess = after.saturating_sub(quota.messages);
        let old = tally.outbox.iter().filter(|(seq, queued)| queued.droppable && delivered.binary_search(seq).is_err());
        let dropped = old.map(|(seq, _)| *seq).chain(droppable).take(excess).collect();
        let wall_high = batches.iter().fold(tally.meta.wall_high, |high, batch| match batch.at_replaces {
            true => batch.at,
            false => high.max(batch.at),
        });
        let meta = Meta { next_seq, wall_high, commits: tally.meta.commits + 1, ..tally.meta };
        Self { seqs, meta, delivered, dropped }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::jobs::store::tests::message;
    use crate::units::WallTime;

    fn tally(droppable: &[bool]) -> Tally {
        let outbox: BTreeMap<u64, Queued> =
            (1..).zip(droppable.iter().map(|&droppable| Queued { droppable, bytes: 10 })).collect();
        let meta = Meta { next_seq: outbox.len() as u64 + 1, ..Meta::default() };
        Tally { bytes: 10 * outbox.len() as u64, outbox, meta }
    }

    fn batch(messages: usize, droppable: usize, delivered: &[u64]) -> Batch {
        let many = |count| (0..count).map(|_| message("t")).collect();
        Batch {
            messages: many(messages),
            droppable: many(droppable),
            delivered: delivered.to_vec(),
            ..Batch::default()
        }
    }

    const QUOTA: Quota = Quota { bytes: 100, messages: 4 };

    #[test]
    fn numbers_run_on_across_batches() {
        let (first, second) = (batch(2, 1, &[]), batch(1, 0, &[]));
        let plan = Plan::new(&tally(&[true; 6]), &Quota { messages: 99, ..QUOTA }, &[&first, &second]);
        assert_eq!((plan.seqs, plan.meta.next_seq, plan.dropped), (vec![7..10, 10..11], 11, vec![]));
    }

    #[test]
    fn a_full_outbox_drops_the_oldest_droppable_messages_and_no_others() {
        let full = tally(&[false, true, true, false]);
        assert_eq!(Plan::new(&full, &QUOTA, &[&batch(1, 0, &[])]).dropped, [2]);
        assert_eq!(Plan::new(&full, &QUOTA, &[&batch(1, 1, &[])]).dropped, [2, 3]);
        assert_eq!(Plan::new(&full, &QUOTA, &[&batch(3, 1, &[])]).dropped, [2, 3, 8]);
        assert_eq!(Plan::new(&full, &QUOTA, &[&batch(9, 0, &[])]).dropped, [2, 3], "kept messages are never dropped");
        assert_eq!(Plan::new(&tally(&[false; 4]), &QUOTA, &[&batch(0, 2, &[])]).dropped, [5, 6]);
    }

    #[test]
    fn what_was_delivered_makes_room_once_and_unknown_numbers_none() {
        let full = tally(&[false, true, true, false]);
        let plan = Plan::new(&full, &QUOTA, &[&batch(1, 0, &[2, 2, 99]), &batch(0, 0, &[2])]);
        assert_eq!((plan.delivered, plan.dropped), (vec![2], vec![]));
    }

    #[test]
    fn a_full_store_names_numbers_and_remedy() {
        let tally = Tally { bytes: 90, ..Tally::default() };
        assert_eq!(tally.admit(&QUOTA, Taken::default(), 10), Ok(()));
        let fault = tally.admit(&QUOTA, Taken { bytes: 5, messages: 0 }, 10).unwrap_err();
        assert_eq!(fault.code, Code::SpoolFull);
        assert!(fault.message.contains("holds 95 bytes, limit 100; the job's 10 do not fit"), "{fault}");
    }

    #[test]
    fn an_outbox_full_of_messages_that_must_arrive_refuses_new_work() {
        let none = Taken::default();
        assert_eq!(tally(&[false, true, true, true]).admit(&QUOTA, none, 1), Ok(()), "droppable ones make room");
        assert_eq!(tally(&[false; 3]).admit(&QUOTA, none, 1), Ok(()));
        let fault = tally(&[false; 4]).admit(&QUOTA, none, 1).unwrap_err();
        assert_eq!(fault.code, Code::SpoolFull);
        assert!(fault.message.starts_with("4 messages that must arrive wait for the broker, limit 4"), "{fault}");
        let group = Taken { bytes: 0, messages: 1 };
        assert_eq!(tally(&[false; 3]).admit(&QUOTA, group, 1).unwrap_err().code, Code::SpoolFull);
    }

    #[test]
    fn trusted_wall_time_only_rises() {
        let at = |millis| Some(WallTime::from_millis(millis));
        let marked = |millis| Batch { at: at(millis), ..Batch::default() };
        let high = |tally: &Tally, batches: &[&Batch]| Plan::new(tally, &QUOTA, batches).meta.wall_high;
        assert_eq!(high(&Tally::default(), &[&batch(1, 0, &[])]), None);
        assert_eq!(high(&Tally::default(), &[&marked(7), &marked(5)]), at(7));
        let nine = Tally { meta: Meta { wall_high: at(9), ..Meta::default() }, ..Tally::default() };
        assert_eq!(high(&nine, &[&marked(7)]), at(9));
        let wrong = Batch { at_replaces: true, ..marked(7) };
        assert_eq!(high(&nine, &[&marked(8), &wrong]), at(7), "unless the mark itself was wrong");
        assert_eq!(high(&nine, &[&wrong, &marked(8)]), at(8));
    }
}
