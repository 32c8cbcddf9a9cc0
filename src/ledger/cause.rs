//! What delayed a slow yield? Told from the parts of its record and from what the kernel counted meanwhile.
//!
//! Pure. A cause has two amounts: `least` is what it certainly cost, `most` what it can have cost. Only the kernel's
//! exact clocks (run-queue delay and CPU time, in ns, and the moments of the record) give a `least`. Counts tell that
//! something happened, not for how long: a page fault, or steal in ticks of 10 ms over all cores, has `least` zero.
//! What no `least` covers is told as [`Kind::Unexplained`], however plausible a count may be.

use std::time::Duration;

/// A yield longer than this is slow: its causes are looked for.
pub const SLOW: Duration = Duration::from_micros(500);
/// What the wake-up of a sleeping core takes in any yield; a sample is late only beyond it.
const WAKE_ORDINARY: Duration = Duration::from_micros(100);
/// CPU time of the sentinel in any yield, its bookkeeping included.
const RUN_ORDINARY: Duration = Duration::from_micros(200);
/// A cause that cannot have cost as much as this is not worth a word.
const WORTH_TELLING: Duration = Duration::from_micros(20);
/// A slow yield counts as explained when at least this share of it is.
const EXPLAINED_PERMILLE: u16 = 800;
/// Most causes that one yield has: one of each kind.
pub const CAUSES_MAX: usize = Kind::ALL.len();

/// What can delay a yield.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The sentinel was runnable but got no core.
    WaitedForCore,
    /// The sample was old when it arrived, and the sentinel did not keep it waiting: the sender or the host did.
    SampleLate,
    /// The sentinel itself ran for longer than it does: interrupts, page faults, or stolen time that the kernel booked
    /// to it.
    SentinelRan,
    /// A worker had its stop pending, but got no core to take it on.
    WorkerWaitedForCore,
    /// A worker got no core any more, and was confirmed by its clock that stood still.
    Displaced,
    /// A page of the sentinel had to be read from disk.
    MajorFault,
    /// The hypervisor ran something else.
    Steal,
    /// Cores were busy with interrupts.
    Irq,
    /// What none of the others certainly cost.
    Unexplained,
}

impl Kind {
    /// Every kind, in the order in which they are told.
    pub const ALL: [Self; 9] = [
        Self::WaitedForCore,
        Self::SampleLate,
        Self::SentinelRan,
        Self::WorkerWaitedForCore,
        Self::Displaced,
        Self::MajorFault,
        Self::Steal,
        Self::Irq,
        Self::Unexplained,
    ];

    /// Its name in messages and metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::WaitedForCore => "waited_for_core",
            Self::SampleLate => "sample_late",
            Self::SentinelRan => "sentinel_ran",
            Self::WorkerWaitedForCore => "worker_waited_for_core",
            Self::Displaced => "displaced",
            Self::MajorFault => "major_fault",
            Self::Steal => "steal",
            Self::Irq => "irq",
            Self::Unexplained => "unexplained",
        }
    }

    /// What it means, for people.
    pub const fn words(self) -> &'static str {
        match self {
            Self::WaitedForCore => "the sentinel waited for a core",
            Self::SampleLate => "the sample was old when it arrived",
            Self::SentinelRan => "the sentinel ran longer than usual (interrupts or stolen time booked to it)",
            Self::WorkerWaitedForCore => "a worker waited for a core to take its stop",
            Self::Displaced => "a worker was kept off its core, which needs no stop",
            Self::MajorFault => "a page of the sentinel was read from disk",
            Self::Steal => "the hypervisor took cores away",
            Self::Irq => "cores served interrupts",
            Self::Unexplained => "not explained by anything that was counted",
        }
    }
}

/// One cause and what it cost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cause {
    /// Which.
    pub kind: Kind,
    /// What it certainly cost.
    pub least: Duration,
    /// What it can have cost.
    pub most: Duration,
}

/// The parts of a yield's record that causes are looked for in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Parts {
    /// Sample's stamp to receipt.
    pub detect: Duration,
    /// Last signal to confirmed stop.
    pub stopping: Duration,
    /// All of it.
    pub total: Duration,
    /// CPU time of all workers between decision and confirmed stop; an upper bound.
    pub cpu_after: Duration,
    /// Workers that were kept off their core.
    pub displaced: u8,
}

/// What the kernel counted for the sentinel's thread and the workers around a yield, between a baseline before the
/// sentinel slept and a reading after the confirmed stop.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Deltas {
    /// Time between baseline and reading in which the sentinel can have been awake outside this yield: up to so much
    /// of each amount may belong to something else.
    pub beside: Duration,
    /// The sentinel was runnable without a core.
    pub waited: Duration,
    /// The sentinel's CPU time.
    pub ran: Duration,
    /// Its pages that were read from disk.
    pub major_faults: u32,
    /// Its pages that were mapped without reading.
    pub minor_faults: u32,
    /// How often it lost its core to somebody else.
    pub preempted: u32,
    /// The longest that a stopped worker was runnable without a core since its own baseline, which may be older.
    pub worker_waited: Duration,
}

/// What the kernel counted for the whole host around a yield: coarse.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HostDeltas {
    /// From the baseline to the reading.
    pub span: Duration,
    /// Length of a tick, the unit of both counts.
    pub tick: Duration,
    /// Ticks that the hypervisor ran something else, all cores together.
    pub steal_ticks: u64,
    /// Ticks of interrupt handlers, soft ones included, all cores together.
    pub irq_ticks: u64,
}

/// How well a slow yield is explained.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Exact clocks cover nearly all of it.
    Explained,
    /// They do not, but something was counted that can have cost the rest.
    Possible,
    /// Nothing that was counted can have cost the rest.
    Unexplained,
}

impl Verdict {
    /// Its name in messages and metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Explained => "explained",
            Self::Possible => "possible",
            Self::Unexplained => "unexplained",
        }
    }
}

/// The causes of one slow yield.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Causes {
    total: Duration,
    rest: Duration,
    list: [Option<Cause>; CAUSES_MAX],
}

impl Causes {
    /// In the order of [`Kind::ALL`]; the last is what is not explained, if anything.
    pub fn iter(&self) -> impl Iterator<Item = Cause> {
        self.list.iter().copied().flatten()
    }

    /// What no cause certainly cost.
    pub const fn unexplained(&self) -> Duration {
        self.rest
    }

    /// Which share certainly has a cause, in permille.
    pub fn explained_permille(&self) -> u16 {
        let explained = self.total.saturating_sub(self.rest).as_nanos() * 1000;
        explained.checked_div(self.total.as_nanos()).and_then(|share| u16::try_from(share).ok()).unwrap_or(1000)
    }

    /// How well it is explained as a whole.
    pub fn verdict(&self) -> Verdict {
        if self.explained_permille() >= EXPLAINED_PERMILLE {
            return Verdict::Explained;
        }
        let known = self.iter().filter(|cause| cause.kind != Kind::Unexplained);
        let possible: Duration = known.map(|cause| cause.most.saturating_sub(cause.least)).sum();
        if possible >= self.rest { Verdict::Possible } else { Verdict::Unexplained }
    }

    /// Notes a cause. What is certain comes off the rest, so nothing is explained twice.
    fn note(&mut self, kind: Kind, least: Duration, most: Duration) {
        let least = least.min(self.rest);
        let most = most.min(self.total).max(least);
        if most < WORTH_TELLING {
            return;
        }
        // The rest stays what it is when it is told.
        if kind != Kind::Unexplained {
            self.rest = self.rest.saturating_sub(least);
        }
        if let Some(place) = self.list.iter_mut().find(|place| place.is_none()) {
            *place = Some(Cause { kind, least, most });
        }
    }
}

/// Looks for what delayed a yield. Without `deltas`, or without `host`, less is explained.
pub fn classify(parts: &Parts, deltas: Option<&Deltas>, host: Option<&HostDeltas>) -> Causes {
    let mut causes = Causes { total: parts.total, rest: parts.total, ..Causes::default() };
    let none = Deltas::default();
    let seen = deltas.unwrap_or(&none);
    let doubt = seen.beside;
    let ran = seen.ran.saturating_sub(RUN_ORDINARY);

    causes.note(Kind::WaitedForCore, seen.waited.saturating_sub(doubt), seen.waited);
    // The sentinel may have kept the sample waiting itself. Without deltas it is not known whether it did.
    let late = parts.detect.saturating_sub(WAKE_ORDINARY);
    let kept_waiting = if deltas.is_some() { seen.waited + ran } else { late };
    causes.note(Kind::SampleLate, late.saturating_sub(kept_waiting), late);
    causes.note(Kind::SentinelRan, ran.saturating_sub(doubt), ran);
    worker_causes(&mut causes, parts, seen);
    if seen.major_faults > 0 {
        causes.note(Kind::MajorFault, Duration::ZERO, causes.rest);
    }
    if let Some(host) = host {
        // A count of n ticks is the end of up to n + 1.
        let most = |ticks: u64| match u32::try_from(ticks) {
            Ok(0) => Duration::ZERO,
            Ok(ticks) => host.tick.saturating_mul(ticks.saturating_add(1)),
            Err(_) => Duration::MAX,
        };
        causes.note(Kind::Steal, Duration::ZERO, most(host.steal_ticks));
        causes.note(Kind::Irq, Duration::ZERO, most(host.irq_ticks));
    }
    causes.note(Kind::Unexplained, causes.rest, causes.rest);
    causes
}

/// While a worker has its stop pending it either runs or waits. Its CPU clock tells how long it can have run.
fn worker_causes(causes: &mut Causes, parts: &Parts, seen: &Deltas) {
    // The sentinel's own wait for a core may have hidden a stop that had long come.
    let not_running = parts.stopping.saturating_sub(parts.cpu_after).saturating_sub(seen.waited);
    if parts.displaced > 0 {
        causes.note(Kind::Displaced, not_running, not_running);
    } else {
        let waited = not_running.min(seen.worker_waited);
        causes.note(Kind::WorkerWaitedForCore, waited, waited);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const fn us(value: u64) -> Duration {
        Duration::from_micros(value)
    }

    fn amounts(causes: &Causes) -> Vec<(&'static str, u128, u128)> {
        causes.iter().map(|cause| (cause.kind.as_str(), cause.least.as_micros(), cause.most.as_micros())).collect()
    }

    /// A yield of one millisecond: short detection, long stop.
    fn parts() -> Parts {
        Parts { detect: us(50), stopping: us(900), total: us(1000), cpu_after: us(900), displaced: 0 }
    }

    fn exact() -> Deltas {
        Deltas { ran: us(60), ..Deltas::default() }
    }

    #[test]
    fn nothing_counted_explains_nothing() {
        let causes = classify(&parts(), Some(&exact()), Some(&HostDeltas::default()));
        assert_eq!(amounts(&causes), [("unexplained", 1000, 1000)]);
        assert_eq!((causes.explained_permille(), causes.verdict()), (0, Verdict::Unexplained));
        assert_eq!(amounts(&classify(&parts(), None, None)), [("unexplained", 1000, 1000)]);
    }

    #[test]
    fn the_sentinels_own_wait_for_a_core_is_exact() {
        let causes = classify(&parts(), Some(&Deltas { waited: us(900), ..exact() }), None);
        assert_eq!(amounts(&causes), [("waited_for_core", 900, 900), ("unexplained", 100, 100)]);
        assert_eq!((causes.explained_permille(), causes.verdict()), (900, Verdict::Explained));
    }

    #[test]
    fn a_wait_that_may_lie_before_the_yield_is_only_possible() {
        let loose = Deltas { beside: us(700), waited: us(900), ..exact() };
        let causes = classify(&parts(), Some(&loose), None);
        assert_eq!(amounts(&causes), [("waited_for_core", 200, 900), ("unexplained", 800, 800)]);
        assert_eq!(causes.verdict(), Verdict::Unexplained, "700 us of possible wait do not cover 800 us");
        let loose = Deltas { beside: us(40_000), waited: us(1_000), ..loose };
        assert_eq!(classify(&parts(), Some(&loose), None).verdict(), Verdict::Possible);
    }

    #[test]
    fn an_old_stamp_is_a_late_sample_unless_the_sentinel_kept_it_waiting() {
        let parts = Parts { detect: us(1100), total: us(1200), stopping: us(90), cpu_after: us(10), displaced: 0 };
        let causes = classify(&parts, Some(&exact()), None);
        assert_eq!(amounts(&causes), [("sample_late", 1000, 1000), ("unexplained", 200, 200)]);
        let causes = classify(&parts, Some(&Deltas { waited: us(1050), ..exact() }), None);
        assert_eq!(amounts(&causes)[0], ("waited_for_core", 1050, 1050));
        assert_eq!(amounts(&causes)[1], ("sample_late", 0, 1000));
        let blindly = classify(&parts, None, None);
        assert_eq!(amounts(&blindly), [("sample_late", 0, 1000), ("unexplained", 1200, 1200)]);
    }

    #[test]
    fn a_worker_waited_no_longer_than_both_its_clocks_allow() {
        let parts = Parts { cpu_after: us(100), ..parts() };
        let waited = |worker_waited| classify(&parts, Some(&Deltas { worker_waited, ..exact() }), None);
        assert_eq!(amounts(&waited(us(300)))[0], ("worker_waited_for_core", 300, 300));
        assert_eq!(amounts(&waited(us(50_000)))[0], ("worker_waited_for_core", 800, 800), "it ran for 100 us");
        let ran_on = Parts { cpu_after: us(900), ..parts };
        let causes = classify(&ran_on, Some(&Deltas { worker_waited: us(50_000), ..exact() }), None);
        assert_eq!(amounts(&causes), [("unexplained", 1000, 1000)]);
        let displaced = classify(&Parts { displaced: 1, ..parts }, Some(&exact()), None);
        assert_eq!(amounts(&displaced)[0], ("displaced", 800, 800));
    }

    #[test]
    fn a_count_makes_a_cause_possible_and_never_certain() {
        let host = HostDeltas { span: us(1_000_000), tick: us(10_000), steal_ticks: 1, irq_ticks: 0 };
        let causes = classify(&parts(), Some(&exact()), Some(&host));
        assert_eq!(amounts(&causes), [("steal", 0, 1000), ("unexplained", 1000, 1000)]);
        assert_eq!((causes.explained_permille(), causes.verdict()), (0, Verdict::Possible));
        let causes = classify(&parts(), Some(&Deltas { major_faults: 1, ..exact() }), None);
        assert_eq!(amounts(&causes), [("major_fault", 0, 1000), ("unexplained", 1000, 1000)]);
        let flood = HostDeltas { steal_ticks: u64::MAX, irq_ticks: u64::from(u32::MAX), ..host };
        assert_eq!(amounts(&classify(&parts(), None, Some(&flood)))[1], ("irq", 0, 1000));
    }

    #[test]
    fn a_sentinel_that_ran_for_long_says_so_beyond_what_it_always_runs() {
        let causes = classify(&parts(), Some(&Deltas { ran: us(1000), ..exact() }), None);
        assert_eq!(amounts(&causes), [("sentinel_ran", 800, 800), ("unexplained", 200, 200)]);
    }

    fn span() -> impl Strategy<Value = Duration> {
        prop_oneof![Just(0), 0_u64..2_000, 0_u64..100_000_000].prop_map(Duration::from_micros)
    }

    proptest! {
        #[test]
        fn certain_amounts_add_up_to_the_whole_and_no_more(
            (detect, decide, stopping, cpu_after) in (span(), span(), span(), span()),
            (beside, waited, ran, worker_waited) in (span(), span(), span(), span()),
            (major_faults, displaced) in (0_u32..3, 0_u8..2),
            (steal_ticks, irq_ticks) in (0_u64..4, any::<u64>()),
        ) {
            let total = detect + decide + stopping;
            let parts = Parts { detect, stopping, total, cpu_after, displaced };
            let deltas = Deltas { beside, waited, ran, major_faults, worker_waited, ..Deltas::default() };
            let host = HostDeltas { span: total, tick: us(10_000), steal_ticks, irq_ticks };
            let causes = classify(&parts, Some(&deltas), Some(&host));
            let certain: Duration = causes.iter().map(|cause| cause.least).sum();
            prop_assert!(certain <= total);
            // What is too small to be told is all that may be missing.
            prop_assert!(total - certain <= WORTH_TELLING);
            for cause in causes.iter() {
                prop_assert!(cause.least <= cause.most && cause.most <= total);
                let counted = matches!(cause.kind, Kind::MajorFault | Kind::Steal | Kind::Irq);
                prop_assert!(!counted || cause.least.is_zero());
            }
            prop_assert!(causes.explained_permille() <= 1000);
            if causes.iter().all(|cause| cause.kind == Kind::Unexplained) && total >= WORTH_TELLING {
                prop_assert_eq!(causes.verdict(), Verdict::Unexplained);
            }
        }
    }
}
