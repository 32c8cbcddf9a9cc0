//! Has this agent crashed too often to be trusted with work? Counts crashes, and decides on safe mode.
//!
//! A *crash* is a start that was not followed by an orderly end, found by the next start. After so many of them within
//! so short a time something that the agent does kills it (a job, a model, a message), and doing it again would only
//! kill it again: in *safe mode* it connects and reports, and runs nothing, so that a person can look and decide.
//!
//! # The record
//!
//! [`RECORD_BYTES`] bytes in a file of their own, because what is counted may be the doing of the store. Integers are
//! little-endian, moments are nanoseconds of `CLOCK_BOOTTIME`: the wall clock may be what is wrong.
//!
//! | at | bytes | what |
//! |---|---|---|
//! | 0 | 8 | `NEAPRUN1` |
//! | 8 | 16 | boot id of the kernel; moments of another boot mean nothing here, and a power cut is no crash |
//! | 24 | 1 | 1: a run is under way, or was cut off |
//! | 25 | 1 | 1: it is, or was, in safe mode |
//! | 26 | 1 | how many crashes follow |
//! | 27 | 5 | zero |
//! | 32 | 128 | moments of up to 16 crashes, oldest first |
//! | 160 | 4 | CRC-32 of all before |
//!
//! Anything else is no record: the count begins anew. The record is one write of less than a sector and is not synced:
//! what a killed process has written stays, and after a power cut it would not count.

use std::time::Duration;

use crate::units::Instant;

/// Length of the record.
pub(super) const RECORD_BYTES: usize = CRC_AT + 4;
/// Most crashes that are remembered, and most that can be asked for.
pub(super) const CRASHES_KEPT: usize = 16;

const MAGIC: &[u8; 8] = b"NEAPRUN1";
const CRASHES_AT: usize = 32;
const CRC_AT: usize = CRASHES_AT + 8 * CRASHES_KEPT;

/// Names one run of the kernel.
pub(super) type BootId = [u8; 16];

/// When safe mode begins, and when it ends by itself.
#[derive(Clone, Copy, Debug)]
pub(super) struct Terms {
    /// So many crashes begin it; 0: never.
    pub crashes: usize,
    /// Within this time.
    pub window: Duration,
    /// So long without another one ends it.
    pub calm: Duration,
}

/// What is known of earlier runs, and of this one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Record {
    boot: BootId,
    under_way: bool,
    safe: bool,
    /// Oldest first, at most [`CRASHES_KEPT`].
    crashes: Vec<Instant>,
}

impl Record {
    /// The record after this start, from the one before it, if there is one to be read.
    pub(super) fn start(before: Option<&Self>, boot: BootId, now: Instant, terms: Terms) -> Self {
        let here = before.filter(|before| before.boot == boot);
        let mut crashes = here.map(|before| before.crashes.clone()).unwrap_or_default();
        if here.is_some_and(|before| before.under_way) {
            crashes.push(now);
        }
        crashes.drain(..crashes.len().saturating_sub(CRASHES_KEPT));
        let mut record = Self { boot, under_way: true, safe: false, crashes };
        let was_safe = here.is_some_and(|before| before.safe);
        record.safe = terms.crashes > 0 && (was_safe && !record.is_calm(now, terms) || record.is_full(now, terms));
        record
    }

    /// Whether the run is in safe mode.
    pub(super) fn is_safe(&self) -> bool {
        self.safe
    }

    /// Takes the run out of safe mode, at a controller's word or after the calm; the count begins anew.
    pub(super) fn leave(&mut self) {
        self.safe = false;
        self.crashes.clear();
    }

    /// The run ends in order: the next one starts with a clean record.
    pub(super) fn end(&mut self) {
        self.under_way = false;
        self.leave();
    }

    /// Whether nothing has crashed for as long as the calm lasts: safe mode is over.
    pub(super) fn is_calm(&self, now: Instant, terms: Terms) -> bool {
        self.crashes.last().is_none_or(|last| now.since(*last) >= terms.calm)
    }

    fn is_full(&self, now: Instant, terms: Terms) -> bool {
        self.recent(now, terms.window) >= terms.crashes
    }

    fn recent(&self, now: Instant, window: Duration) -> usize {
        self.crashes.iter().filter(|crash| now.since(**crash) <= window).count()
    }

    /// Why nothing runs and what ends that; `None` when it is not so.
    pub(super) fn why(&self, terms: Terms) -> Option<String> {
        let (first, last) = (self.crashes.first()?, self.crashes.last()?);
        let (count, span) = (self.crashes.len(), last.since(*first).as_secs());
        let Terms { crashes, window, calm } = terms;
        self.safe.then(|| {
            format!(
                "the agent crashed {count} times in {span} s (safe_mode: {crashes} in {} s): it reports and runs \
                 nothing; look into its log, then send the resume command or restart it in order; it ends by itself \
                 after {} s without a crash",
                window.as_secs(),
                calm.as_secs()
            )
        })
    }

    /// The record as it is written.
    pub(super) fn encode(&self) -> [u8; RECORD_BYTES] {
        let mut bytes = [0; RECORD_BYTES];
        bytes[..8].copy_from_slice(MAGIC);
        bytes[8..24].copy_from_slice(&self.boot);
        bytes[24] = u8::from(self.under_way);
        bytes[25] = u8::from(self.safe);
        bytes[26] = u8::try_from(self.crashes.len()).unwrap_or(0);
        for (place, crash) in bytes[CRASHES_AT..CRC_AT].as_chunks_mut().0.iter_mut().zip(&self.crashes) {
            *place = crash.as_nanos().to_le_bytes();
        }
        let crc = crc32fast::hash(&bytes[..CRC_AT]);
        bytes[CRC_AT..].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    /// The record in these bytes; `None` when they are not one.
    pub(super) fn decode(bytes: &[u8]) -> Option<Self> {
        let bytes: &[u8; RECORD_BYTES] = bytes.try_into().ok()?;
        let (content, crc) = bytes.split_at(CRC_AT);
        let whole = content.starts_with(MAGIC) && crc == crc32fast::hash(content).to_le_bytes();
        let count = usize::from(content[26]);
        if !whole || count > CRASHES_KEPT {
            return None;
        }
        let moment = |place: &[u8; 8]| Instant::from_nanos(u64::from_le_bytes(*place));
        let crashes = content[CRASHES_AT..].as_chunks().0.iter().take(count).map(moment).collect();
        let boot = content[8..24].try_into().ok()?;
        Some(Self { boot, under_way: content[24] == 1, safe: content[25] == 1, crashes })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const TERMS: Terms = Terms { crashes: 5, window: Duration::from_secs(300), calm: Duration::from_secs(1_800) };
    const BOOT: BootId = [7; 16];

    fn at(seconds: u64) -> Instant {
        Instant::from_nanos(seconds * 1_000_000_000)
    }

    /// Starts at these moments, none of which ends in order.
    fn starts(moments: impl IntoIterator<Item = u64>) -> Record {
        let mut record = None;
        for moment in moments {
            record = Some(Record::start(record.as_ref(), BOOT, at(moment), TERMS));
        }
        record.unwrap()
    }

    #[test]
    fn five_crashes_in_five_minutes_are_safe_mode_and_four_are_not() {
        assert!(!starts([0, 60, 120, 180, 240]).is_safe(), "five starts are four crashes");
        let safe = starts([0, 60, 120, 180, 240, 300]);
        assert!(safe.is_safe());
        let why = safe.why(TERMS).unwrap();
        assert!(["5 times", "240 s", "5 in 300 s", "resume", "1800 s"].iter().all(|word| why.contains(word)), "{why}");
    }

    #[test]
    fn crashes_far_apart_are_not_safe_mode() {
        let record = starts((0..16).map(|start| start * 100));
        assert!(!record.is_safe());
        assert_eq!(record.why(TERMS), None);
    }

    #[test]
    fn a_run_that_lasts_long_before_it_crashes_counts_when_it_crashes() {
        assert!(!starts([0, 86_400, 86_410, 86_420, 86_430]).is_safe());
        assert!(starts([0, 86_400, 86_410, 86_420, 86_430, 86_440]).is_safe());
    }

    #[test]
    fn an_orderly_end_clears_the_count() {
        let mut record = starts([0, 1, 2, 3, 4]);
        record.end();
        let next = Record::start(Some(&record), BOOT, at(5), TERMS);
        assert!(!next.is_safe());
        assert_eq!(next.crashes, []);
    }

    #[test]
    fn safe_mode_lasts_through_another_crash_until_it_was_calm() {
        let safe = starts([0, 1, 2, 3, 4, 5]);
        assert!(!safe.is_calm(at(1_804), TERMS) && safe.is_calm(at(1_805), TERMS));
        let crashed = Record::start(Some(&safe), BOOT, at(1_000), TERMS);
        assert!(crashed.is_safe(), "one crash in the window, but it was safe mode that crashed");
        assert!(!crashed.is_calm(at(2_799), TERMS) && crashed.is_calm(at(2_800), TERMS));
    }

    #[test]
    fn leaving_safe_mode_begins_the_count_anew() {
        let mut record = starts([0, 1, 2, 3, 4, 5]);
        record.leave();
        assert!(!record.is_safe() && record.why(TERMS).is_none());
        assert!(!Record::start(Some(&record), BOOT, at(6), TERMS).is_safe(), "one crash since");
    }

    #[test]
    fn a_boot_in_between_is_no_crash_and_begins_anew() {
        let next = Record::start(Some(&starts([0, 1, 2, 3, 4])), [8; 16], at(5), TERMS);
        assert_eq!((next.is_safe(), next.crashes.len()), (false, 0));
    }

    #[test]
    fn with_a_limit_of_zero_there_is_no_safe_mode() {
        let off = Terms { crashes: 0, ..TERMS };
        let next = Record::start(Some(&starts([0, 1, 2, 3, 4, 5])), BOOT, at(6), off);
        assert!(!next.is_safe());
    }

    proptest! {
        #[test]
        fn a_record_is_read_as_it_was_written(moments in prop::collection::vec(0_u64..10_000, 1..40)) {
            let mut moments = moments;
            moments.sort_unstable();
            let record = starts(moments);
            prop_assert!(record.crashes.len() <= CRASHES_KEPT);
            prop_assert_eq!(Record::decode(&record.encode()), Some(record));
        }

        #[test]
        fn garbage_is_no_record(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
            prop_assert_eq!(Record::decode(&bytes), None);
        }

        #[test]
        fn a_record_with_one_wrong_bit_is_no_record(byte in 0..RECORD_BYTES, bit in 0..8_u32) {
            let mut bytes = starts([0, 1, 2]).encode();
            bytes[byte] ^= 1 << bit;
            prop_assert_eq!(Record::decode(&bytes), None);
        }
    }
}
