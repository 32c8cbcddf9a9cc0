//! How fast did inference give way, and what delayed it when it was slow? The ledger of yields.
//!
//! Pure: records come in, with the moment for people, and figures go out. [`distribution`] has the latencies, [`cause`]
//! says what delayed a slow one.

pub mod cause;
pub mod distribution;

use std::time::Duration;

use crate::governor::Reason;
use crate::sentinel::YieldRecord;
use crate::units::{SOURCES_MAX, SourceId, WallTime};
use cause::{Causes, HostDeltas, Kind, Verdict};
use distribution::Distribution;

/// Who asked for a yield.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// A load source, by what it said or by its silence.
    Source(SourceId),
    /// An order, or the end of the agent.
    Order,
}

/// Places of the accounts by origin: the sources, then orders.
const ORIGINS: usize = SOURCES_MAX + 1;

impl Origin {
    /// Who asked for that yield.
    pub fn of(record: &YieldRecord) -> Self {
        match Why::of(&record.reason) {
            Why::Above | Why::Late | Why::Malformed | Why::Stale => Self::Source(record.source),
            Why::Held | Why::Draining | Why::Guarded => Self::Order,
        }
    }

    fn place(self) -> usize {
        match self {
            Self::Source(source) => usize::from(source.0).min(SOURCES_MAX - 1),
            Self::Order => SOURCES_MAX,
        }
    }

    fn at(place: usize) -> Self {
        match u8::try_from(place) {
            Ok(source) if place < SOURCES_MAX => Self::Source(SourceId(source)),
            Ok(_) | Err(_) => Self::Order,
        }
    }
}

/// Why inference gave way, in one word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// The load reached the limit, or the budget was lowered.
    Above,
    /// Slots were late.
    Late,
    /// A source sent something that makes no sense.
    Malformed,
    /// A source fell silent.
    Stale,
    /// By order.
    Held,
    /// By order, or at the end.
    Draining,
    /// The RAN fared worse while inference ran, or it was to be seen whether it does.
    Guarded,
}

impl Why {
    /// Every word.
    pub const ALL: [Self; 7] =
        [Self::Above, Self::Late, Self::Malformed, Self::Stale, Self::Held, Self::Draining, Self::Guarded];

    /// The word for a reason.
    pub const fn of(reason: &Reason) -> Self {
        match reason {
            Reason::Above { .. } | Reason::NotBelow { .. } | Reason::Settling { .. } | Reason::Low { .. } => {
                Self::Above
            }
            Reason::Late(_) => Self::Late,
            Reason::Malformed(_) => Self::Malformed,
            Reason::Stale(_) | Reason::NoSource | Reason::NoSampleYet => Self::Stale,
            Reason::Held => Self::Held,
            Reason::Draining => Self::Draining,
            Reason::Guarded(_) | Reason::Comparing(_) => Self::Guarded,
        }
    }

    /// As it is written in messages and metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Above => "above",
            Self::Late => "late",
            Self::Malformed => "malformed",
            Self::Stale => "stale",
            Self::Held => "held",
            Self::Draining => "draining",
            Self::Guarded => "guarded",
        }
    }
}

/// The latencies of one origin, or of all.
#[derive(Clone, Debug, Default)]
pub struct Account {
    /// Sample's stamp to receipt.
    pub detect: Distribution,
    /// Receipt to decision.
    pub decide: Distribution,
    /// Decision to confirmed stop.
    pub stop: Distribution,
    /// All of it.
    pub total: Distribution,
}

impl Account {
    fn record(&mut self, record: &YieldRecord) {
        self.detect.record(record.detect());
        self.decide.record(record.decide());
        self.stop.record(record.stop());
        self.total.record(record.total());
    }
}

/// The slowest yield, with its whole context.
#[derive(Clone, Copy, Debug)]
pub struct Worst {
    /// Everything that the sentinel wrote down.
    pub record: YieldRecord,
    /// What delayed it; nothing when it was not slow.
    pub causes: Option<Causes>,
    /// When it was told.
    pub at: WallTime,
}

/// All yields since the start.
#[derive(Clone, Debug, Default)]
pub struct Ledger {
    all: Account,
    /// Made when an origin first asks.
    origins: [Option<Box<Account>>; ORIGINS],
    reasons: [u64; Why::ALL.len()],
    verdicts: [u64; Verdict::ALL.len()],
    kinds: [u64; Kind::ALL.len()],
    displaced: u64,
    frozen: u64,
    cpu_after: Duration,
    worst: Option<Worst>,
}

impl Ledger {
    /// Enters a yield that was told at that moment; `host` is what was counted for the host around it. Gives the causes
    /// of a slow one.
    pub fn record(&mut self, record: &YieldRecord, at: WallTime, host: Option<&HostDeltas>) -> Option<Causes> {
        let causes = causes(record, host);
        self.all.record(record);
        self.origins[Origin::of(record).place()].get_or_insert_default().record(record);
        count(&mut self.reasons, &Why::ALL, Why::of(&record.reason));
        if let Some(causes) = &causes {
            count(&mut self.verdicts, &Verdict::ALL, causes.verdict());
            causes.iter().for_each(|cause| count(&mut self.kinds, &Kind::ALL, cause.kind));
        }
        self.displaced += u64::from(record.displaced);
        self.frozen += u64::from(record.frozen);
        self.cpu_after = self.cpu_after.saturating_add(record.cpu_after);
        if self.worst.as_ref().is_none_or(|worst| record.total() > worst.record.total()) {
            self.worst = Some(Worst { record: *record, causes, at });
        }
        causes
    }

    /// All together.
    pub const fn all(&self) -> &Account {
        &self.all
    }

    /// Those who have asked at least once.
    pub fn origins(&self) -> impl Iterator<Item = (Origin, &Account)> {
        let places = self.origins.iter().enumerate();
        places.filter_map(|(place, account)| Some((Origin::at(place), account.as_deref()?)))
    }

    /// The slowest yield.
    pub const fn worst(&self) -> Option<&Worst> {
        self.worst.as_ref()
    }

    /// How many yields had each reason.
    pub fn reasons(&self) -> impl Iterator<Item = (Why, u64)> {
        Why::ALL.into_iter().zip(self.reasons)
    }

    /// How well slow yields are explained, and how many each way.
    pub fn verdicts(&self) -> impl Iterator<Item = (Verdict, u64)> {
        Verdict::ALL.into_iter().zip(self.verdicts)
    }

    /// How many slow yields had each cause.
    pub fn kinds(&self) -> impl Iterator<Item = (Kind, u64)> {
        Kind::ALL.into_iter().zip(self.kinds)
    }

    /// How many yields were slow.
    pub fn slow(&self) -> u64 {
        self.verdicts.iter().sum()
    }

    /// Workers that did not have to be stopped, because they got no core any more.
    pub const fn displaced(&self) -> u64 {
        self.displaced
    }

    /// Workers whose cgroup was frozen, because they still ran some time after their signals.
    pub const fn frozen(&self) -> u64 {
        self.frozen
    }

    /// CPU time that workers used between the decision to stop and the confirmed stop.
    pub const fn cpu_after(&self) -> Duration {
        self.cpu_after
    }
}

/// What delayed a yield; nothing when it was not slow.
pub fn causes(record: &YieldRecord, host: Option<&HostDeltas>) -> Option<Causes> {
    (record.total() >= cause::SLOW).then(|| cause::classify(&parts(record), record.around.as_ref(), host))
}

/// The parts of a record that causes are looked for in.
pub fn parts(record: &YieldRecord) -> cause::Parts {
    cause::Parts {
        detect: record.detect(),
        stopping: record.confirmed.since(record.signalled),
        total: record.total(),
        cpu_after: record.cpu_after,
        displaced: record.displaced,
    }
}

fn count<T: PartialEq>(counts: &mut [u64], all: &[T], one: T) {
    let place = all.iter().position(|known| *known == one);
    if let Some(count) = place.and_then(|place| counts.get_mut(place)) {
        *count += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::load::Metric;
    use crate::units::{CellId, Instant, Utilization, WORKERS_MAX};

    /// A yield that took so long, half of it to detect.
    fn record(source: u8, reason: Reason, us: u64) -> YieldRecord {
        let at = |us: u64| Instant::from_nanos(1_000_000_000 + us * 1000);
        YieldRecord {
            source: SourceId(source),
            reason,
            metric: Metric::PrbTotDl,
            cell: CellId(1),
            level: Utilization::FULL,
            threshold: Utilization::FULL,
            stamped: Some(at(0)),
            received: at(us / 2),
            decided: at(us / 2 + 1),
            signalled: at(us / 2 + 2),
            confirmed: at(us),
            workers: 1,
            displaced: 0,
            frozen: 0,
            jobs: [0; WORKERS_MAX],
            cpu_after: Duration::from_micros(3),
            around: None,
        }
    }

    fn above(source: u8) -> Reason {
        Reason::Above { source: SourceId(source), level: Utilization::FULL, limit: Utilization::FULL }
    }

    #[test]
    fn every_origin_has_an_account_of_its_own_and_all_have_one_together() {
        let mut ledger = Ledger::default();
        assert_eq!((ledger.origins().count(), ledger.worst().is_none()), (0, true));
        ledger.record(&record(0, above(0), 40), WallTime::from_millis(1), None);
        ledger.record(&record(7, Reason::Late(SourceId(7)), 90), WallTime::from_millis(2), None);
        ledger.record(&record(3, Reason::Held, 20), WallTime::from_millis(3), None);
        let counts: Vec<_> = ledger.origins().map(|(origin, account)| (origin, account.total.count())).collect();
        assert_eq!(counts, [(Origin::Source(SourceId(0)), 1), (Origin::Source(SourceId(7)), 1), (Origin::Order, 1)]);
        assert_eq!((ledger.all().total.count(), ledger.all().total.figures().max_us), (3, 90));
        assert_eq!((ledger.all().detect.figures().max_us, ledger.all().stop.figures().max_us), (45, 44));
        let reasons: Vec<u64> = ledger.reasons().map(|(_, count)| count).collect();
        assert_eq!(reasons, [1, 1, 0, 0, 1, 0, 0]);
        assert_eq!((ledger.slow(), ledger.cpu_after()), (0, Duration::from_micros(9)));
    }

    #[test]
    fn the_worst_case_keeps_its_context() {
        let mut ledger = Ledger::default();
        for (us, at) in [(40, 1), (700, 2), (699, 3)] {
            ledger.record(&record(1, above(1), us), WallTime::from_millis(at), None);
        }
        let worst = ledger.worst().unwrap();
        assert_eq!((worst.record.total().as_micros(), worst.at), (700, WallTime::from_millis(2)));
        assert_eq!(worst.causes.map(|causes| causes.verdict()), Some(Verdict::Unexplained), "nothing was counted");
        let verdicts: Vec<u64> = ledger.verdicts().map(|(_, count)| count).collect();
        assert_eq!((verdicts, ledger.slow()), (vec![0, 0, 2], 2));
    }

    #[test]
    fn a_source_that_cannot_be_has_a_place_all_the_same() {
        let mut ledger = Ledger::default();
        ledger.record(&record(255, above(255), 1), WallTime::default(), None);
        assert_eq!(ledger.origins().count(), 1);
    }
}
