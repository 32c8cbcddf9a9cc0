//! What is remembered of the windows? The latest of each figure, load band and side; fixed memory.

use crate::units::{Health, Instant, Utilization};

/// Windows remembered of one figure in one band on one side.
pub(super) const WINDOWS_MAX: usize = 128;

/// Upper ends of the load bands, in permille: what a base station at night does hardly differs by halves, later it does.
const BANDS: [u16; 6] = [25, 50, 100, 200, 400, 1000];

/// Like is compared with like: spans of load that are held apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Band(usize);

impl Band {
    pub(super) fn of(level: Utilization) -> Self {
        Self(BANDS.iter().position(|end| level.permille() < *end).unwrap_or(BANDS.len() - 1))
    }

    /// Its lower and its upper end.
    pub(super) fn ends(self) -> (Utilization, Utilization) {
        let end = |place: usize| BANDS.get(place).and_then(|end| Utilization::from_permille(*end));
        let from = self.0.checked_sub(1).and_then(end).unwrap_or(Utilization::IDLE);
        (from, end(self.0).unwrap_or(Utilization::FULL))
    }

    /// This band, then the others by their distance.
    pub(super) fn nearest(self) -> impl Iterator<Item = Self> {
        let near = (1..BANDS.len()).flat_map(move |step| [self.0.checked_add(step), self.0.checked_sub(step)]);
        [Some(self.0)].into_iter().chain(near).flatten().filter(|band| *band < BANDS.len()).map(Self)
    }
}

/// Whether inference ran in a window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Side {
    Running,
    Stopped,
}

/// What one window said of one figure.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Entry {
    /// When it ended.
    pub(super) at: Instant,
    /// The worst value heard in it.
    pub(super) value: u32,
    /// Windows that follow each other on one side have the same number.
    pub(super) span: u32,
    /// Workers with a job running; 0 on the stopped side.
    pub(super) workers: u8,
}

#[derive(Clone, Copy, Debug)]
struct Ring {
    entries: [Entry; WINDOWS_MAX],
    len: usize,
    next: usize,
}

/// The latest windows.
#[derive(Clone, Debug)]
pub(super) struct Evidence(Vec<Ring>);

impl Evidence {
    /// All the memory that is ever needed.
    pub(super) fn new() -> Self {
        let empty = Ring { entries: [Entry::default(); WINDOWS_MAX], len: 0, next: 0 };
        Self(vec![empty; Health::ALL.len() * BANDS.len() * 2])
    }

    /// Forgets everything.
    pub(super) fn forget(&mut self) {
        self.0.iter_mut().for_each(|ring| (ring.len, ring.next) = (0, 0));
    }

    fn place(figure: Health, band: Band, side: Side) -> usize {
        (figure as usize * BANDS.len() + band.0) * 2 + side as usize
    }

    pub(super) fn push(&mut self, figure: Health, band: Band, side: Side, entry: Entry) {
        let Some(ring) = self.0.get_mut(Self::place(figure, band, side)) else { return };
        ring.entries[ring.next] = entry;
        ring.next = (ring.next + 1) % WINDOWS_MAX;
        ring.len = (ring.len + 1).min(WINDOWS_MAX);
    }

    /// Windows of that kind, in no order.
    pub(super) fn each(&self, figure: Health, band: Band, side: Side) -> impl Iterator<Item = &Entry> {
        let ring = self.0.get(Self::place(figure, band, side));
        ring.into_iter().flat_map(|ring| &ring.entries[..ring.len])
    }

    /// Forgets all windows in which inference ran.
    pub(super) fn forget_running(&mut self) {
        self.0.iter_mut().skip(Side::Running as usize).step_by(2).for_each(|ring| (ring.len, ring.next) = (0, 0));
    }

    /// Forgets what was seen of a figure before that moment.
    pub(super) fn forget_before(&mut self, figure: Health, at: Instant) {
        let first = Self::place(figure, Band(0), Side::Running);
        for ring in self.0.iter_mut().skip(first).take(BANDS.len() * 2) {
            let mut kept = 0;
            for place in 0..ring.len {
                if ring.entries[place].at >= at {
                    ring.entries.swap(kept, place);
                    kept += 1;
                }
            }
            (ring.len, ring.next) = (kept, kept % WINDOWS_MAX);
        }
    }
}

/// Some values in ascending order, on the stack.
#[derive(Debug)]
pub(super) struct Sorted {
    values: [u32; WINDOWS_MAX],
    len: usize,
}

impl Sorted {
    pub(super) fn of<'a>(entries: impl Iterator<Item = &'a Entry>) -> Self {
        let mut sorted = Self { values: [0; WINDOWS_MAX], len: 0 };
        for (place, entry) in sorted.values.iter_mut().zip(entries) {
            *place = entry.value;
            sorted.len += 1;
        }
        sorted.values[..sorted.len].sort_unstable();
        sorted
    }

    pub(super) fn values(&self) -> &[u32] {
        &self.values[..self.len]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(nanos: u64) -> Entry {
        Entry { at: Instant::from_nanos(nanos), value: u32::try_from(nanos).unwrap(), span: 0, workers: 0 }
    }

    #[test]
    fn bands_follow_each_other_without_gap_and_the_nearest_come_first() {
        for permille in 0..=1000 {
            let level = Utilization::from_permille(permille).unwrap();
            let (from, below) = Band::of(level).ends();
            assert!(from <= level && (level < below || level == Utilization::FULL), "{permille}: {from} to {below}");
        }
        let order: Vec<usize> = Band(1).nearest().map(|band| band.0).collect();
        assert_eq!(order, [1, 2, 0, 3, 4, 5]);
    }

    #[test]
    fn each_kind_keeps_its_own_latest_windows() {
        let mut evidence = Evidence::new();
        for nanos in 0..300 {
            evidence.push(Health::Pressure, Band(5), Side::Running, entry(nanos));
        }
        evidence.push(Health::Pressure, Band(5), Side::Stopped, entry(7));
        let values =
            |evidence: &Evidence, side| Sorted::of(evidence.each(Health::Pressure, Band(5), side)).values().to_vec();
        assert_eq!(values(&evidence, Side::Running), (172..300).collect::<Vec<_>>());
        assert_eq!(values(&evidence, Side::Stopped), [7]);
        assert_eq!(evidence.each(Health::SlotLatency, Band(5), Side::Running).count(), 0);
        evidence.forget_before(Health::Pressure, Instant::from_nanos(290));
        assert_eq!(values(&evidence, Side::Running), (290..300).collect::<Vec<_>>());
        assert!(values(&evidence, Side::Stopped).is_empty());
        evidence.push(Health::Pressure, Band(5), Side::Running, entry(500));
        assert_eq!(values(&evidence, Side::Running).len(), 11);
        evidence.forget_running();
        assert!(values(&evidence, Side::Running).is_empty());
    }
}
