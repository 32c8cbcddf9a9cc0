//! What was the last instruction that a worker executed? The page that it shares with the bench, and what it proves.
//!
//! The worker has one thread. It alternates between two phases: in `model` it runs inferences, in `stamp` it does
//! nothing but write the time into the page, one loop after the other (about 30 ns each). The thread cannot stamp while
//! it computes, and a second thread that did would compete with the first for the core and so disturb what is measured.
//! So each event is judged by what the page shows once the worker is known to stand still:
//!
//! | phase at the stop | last stamp | what it proves |
//! |---|---|---|
//! | `stamp` | at or after the event | that stamp is the last instruction, to within one loop: exact |
//! | `model` | at or after the event | the worker went from stamping to computing before it stopped. Nobody saw its last instruction; the moment at which it was seen stopped is an upper bound, and that is what counts |
//! | `model` | before the event | it computed at the event and still when it stopped: unseen. Not counted, the event is repeated, the number of such events is reported |
//! | `stamp` | before the event | it did not get its core between event and stop, because somebody else had it: there was nothing to stop. Counting that as zero would flatter, so it is not counted but repeated and reported |
//!
//! A phase is entered in the order that keeps this true: into `stamp` with a stamp first and the phase second, into
//! `model` with the phase after the last stamp. What is left is the one loop between reading the clock and storing it:
//! a worker that loses its core just there, gets it back and is stopped within the same loop leaves a stamp that is too
//! old by the time it was away.
//!
//! Whether a worker that computes stops as soon as one that stamps is not assumed: the moment at which the stop was
//! seen from outside is recorded for both, and both are reported.

use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};

use crate::sys::shared::SharedPage;
use crate::units::Instant;

/// Places in the page, each on a cache line of its own.
const PHASE: usize = 0;
const STAMP: usize = 8;
const INFERENCES: usize = 16;
const INFERENCE_NS: usize = 24;

/// What a worker does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::cli) enum Phase {
    /// It has not run its model yet.
    Starting,
    /// It runs its model.
    Model,
    /// It writes the time into the page.
    Stamp,
}

/// What the page of a worker that stands still shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::cli) struct Snapshot {
    /// What it was doing.
    pub(in crate::cli) phase: Phase,
    /// The last stamp; the clock's origin when there is none.
    pub(in crate::cli) stamp: Instant,
}

/// What is known of a worker's last instruction after an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::cli) enum LastInstruction {
    /// At that moment.
    At(Instant),
    /// Not later than that moment.
    NotAfter(Instant),
    /// Nothing: it computed all the while.
    Unseen,
    /// It was executed before the event: somebody else had the core.
    Before,
}

/// Judges an event. `at_rest` was read after the worker was seen stopped, which was at `stopped`.
pub(in crate::cli) fn judge(event: Instant, at_rest: Snapshot, stopped: Instant) -> LastInstruction {
    match (at_rest.phase, at_rest.stamp >= event) {
        (Phase::Stamp, true) => LastInstruction::At(at_rest.stamp),
        (Phase::Model, true) => LastInstruction::NotAfter(stopped),
        (Phase::Model | Phase::Starting, false) | (Phase::Starting, true) => LastInstruction::Unseen,
        (Phase::Stamp, false) => LastInstruction::Before,
    }
}

/// Joins what is known of two workers: the last instruction of either.
pub(in crate::cli) fn latest(one: LastInstruction, other: LastInstruction) -> LastInstruction {
    use LastInstruction::{At, Before, NotAfter, Unseen};
    match (one, other) {
        (Unseen, _) | (_, Unseen) => Unseen,
        (Before, known) | (known, Before) => known,
        (At(one), At(other)) => At(one.max(other)),
        (At(one) | NotAfter(one), NotAfter(other)) | (NotAfter(one), At(other)) => NotAfter(one.max(other)),
    }
}

/// The page of one worker.
#[derive(Debug)]
pub(in crate::cli) struct Page(SharedPage);

impl Page {
    /// A new page, and a descriptor of it for the worker.
    ///
    /// # Errors
    /// `EMFILE` and its like.
    pub(in crate::cli) fn create() -> std::io::Result<(Self, OwnedFd)> {
        let (page, fd) = SharedPage::create("neap-bench")?;
        Ok((Self(page), fd))
    }

    /// The page behind a descriptor, for the worker.
    ///
    /// # Errors
    /// When it cannot be mapped.
    pub(in crate::cli) fn map(fd: BorrowedFd<'_>) -> std::io::Result<Self> {
        Ok(Self(SharedPage::map(fd)?))
    }

    // ---- worker side ----

    /// From here on the worker computes.
    pub(super) fn begin_model(&self) {
        self.0.u64(PHASE).store(1, Release);
    }

    /// From here on the worker stamps; `now` is the first stamp.
    pub(super) fn begin_stamps(&self, now: Instant) {
        self.stamp(now);
        self.0.u64(PHASE).store(2, Release);
    }

    /// The worker executes an instruction at `now`.
    pub(super) fn stamp(&self, now: Instant) {
        self.0.u64(STAMP).store(now.as_nanos(), Release);
    }

    /// One more inference is done; it took `ns` of CPU time.
    pub(super) fn count(&self, ns: u64) {
        self.0.u64(INFERENCE_NS).store(ns, Relaxed);
        self.0.u64(INFERENCES).fetch_add(1, Release);
    }

    // ---- bench side ----

    /// Phase and last stamp. They belong together only while the worker stands still.
    pub(in crate::cli) fn snapshot(&self) -> Snapshot {
        let phase = match self.0.u64(PHASE).load(Acquire) {
            0 => Phase::Starting,
            1 => Phase::Model,
            _ => Phase::Stamp,
        };
        Snapshot { phase, stamp: Instant::from_nanos(self.0.u64(STAMP).load(Acquire)) }
    }

    /// Inferences done so far.
    pub(in crate::cli) fn inferences(&self) -> u64 {
        self.0.u64(INFERENCES).load(Acquire)
    }

    /// CPU time of the last inference, in ns; 0 before the first.
    pub(in crate::cli) fn inference_ns(&self) -> u64 {
        self.0.u64(INFERENCE_NS).load(Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd as _;

    use super::LastInstruction::{At, Before, NotAfter, Unseen};
    use super::*;

    const fn at(ns: u64) -> Instant {
        Instant::from_nanos(ns)
    }

    #[test]
    fn only_what_the_page_proves_is_counted() {
        let (event, stopped) = (at(1000), at(1900));
        let cases = [
            (Phase::Stamp, 1400, At(at(1400))),
            (Phase::Stamp, 1000, At(at(1000))),
            (Phase::Stamp, 999, Before),
            (Phase::Model, 1400, NotAfter(stopped)),
            (Phase::Model, 1000, NotAfter(stopped)),
            (Phase::Model, 999, Unseen),
            (Phase::Starting, 0, Unseen),
            (Phase::Starting, 1400, Unseen),
        ];
        for (phase, stamp, expected) in cases {
            let found = judge(event, Snapshot { phase, stamp: at(stamp) }, stopped);
            assert_eq!(found, expected, "{phase:?} with the last stamp at {stamp}");
        }
    }

    #[test]
    fn of_several_workers_the_last_counts_and_one_that_was_not_seen_spoils_the_event() {
        let cases = [
            (At(at(5)), At(at(7)), At(at(7))),
            (At(at(5)), NotAfter(at(7)), NotAfter(at(7))),
            (At(at(9)), NotAfter(at(7)), NotAfter(at(9))),
            (NotAfter(at(9)), NotAfter(at(7)), NotAfter(at(9))),
            (At(at(5)), Before, At(at(5))),
            (NotAfter(at(5)), Before, NotAfter(at(5))),
            (Before, Before, Before),
            (At(at(5)), Unseen, Unseen),
            (Before, Unseen, Unseen),
        ];
        for (one, other, expected) in cases {
            assert_eq!(latest(one, other), expected, "{one:?} {other:?}");
            assert_eq!(latest(other, one), expected, "{other:?} {one:?}");
        }
    }

    #[test]
    fn the_bench_reads_what_the_worker_writes() {
        let (bench, fd) = Page::create().unwrap();
        let worker = Page::map(fd.as_fd()).unwrap();
        assert_eq!(bench.snapshot(), Snapshot { phase: Phase::Starting, stamp: at(0) });
        worker.begin_stamps(at(7));
        worker.stamp(at(9));
        assert_eq!(bench.snapshot(), Snapshot { phase: Phase::Stamp, stamp: at(9) });
        worker.begin_model();
        worker.count(1234);
        assert_eq!(bench.snapshot(), Snapshot { phase: Phase::Model, stamp: at(9) });
        assert_eq!((bench.inferences(), bench.inference_ns()), (1, 1234));
    }
}
