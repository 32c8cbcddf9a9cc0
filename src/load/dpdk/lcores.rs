//! How busy is the busiest lcore between two looks? Pure.

use crate::units::{Instant, Utilization};

use super::replies::Usage;

/// No clock counts more cycles in a nanosecond.
const CYCLES_PER_NS_MAX: u64 = 20;

const BACKWARDS: &str = "cycles that went backwards: the application or its statistics began anew";
const STILL: &str = "an lcore whose cycles stand still: it is stuck, or parked (then see parked_idle)";

/// Compares the cycles of each look with those of the one before.
#[derive(Clone, Debug)]
pub struct Lcores {
    /// Empty: all that are reported.
    wanted: Vec<u32>,
    parked_idle: bool,
    base: Option<(Instant, Usage)>,
}

impl Lcores {
    /// Judges these lcores; all when there are none.
    pub fn new(wanted: &[u32], parked_idle: bool) -> Self {
        Self { wanted: wanted.to_vec(), parked_idle, base: None }
    }

    /// The next look is the first.
    pub fn forget(&mut self) {
        self.base = None;
    }

    /// The share of busy cycles of the busiest lcore since the last look, rounded up; `None` at the first. It was asked
    /// at `asked` and answered at `answered`.
    ///
    /// # Errors
    /// Why the two looks cannot be compared. The next one is compared with this one.
    pub fn level(
        &mut self,
        asked: Instant,
        answered: Instant,
        usage: &Usage,
    ) -> Result<Option<Utilization>, &'static str> {
        let base = self.base.replace((asked, usage.clone()));
        let reported = |id: &u32| usage.lcores().any(|(found, ..)| found == *id);
        if !self.wanted.iter().all(reported) {
            return Err("an lcore of the configuration is not reported");
        }
        let Some((before, base)) = base else { return Ok(None) };
        if !base.lcores().map(|(id, ..)| id).eq(usage.lcores().map(|(id, ..)| id)) {
            return Err("other lcores than before: the application began anew");
        }
        // Longer than what passed between the two counts, since it is not known when in the exchange they were taken.
        let span_ns = u64::try_from(answered.since(before).as_nanos()).unwrap_or(u64::MAX);
        let mut highest = Utilization::IDLE;
        for ((id, total, busy), (_, base_total, base_busy)) in usage.lcores().zip(base.lcores()) {
            if self.wanted.is_empty() || self.wanted.contains(&id) {
                let total = total.checked_sub(base_total).ok_or(BACKWARDS)?;
                let busy = busy.checked_sub(base_busy).ok_or(BACKWARDS)?;
                highest = highest.max(self.share(total, busy, span_ns)?);
            }
        }
        Ok(Some(highest))
    }

    fn share(&self, total: u64, busy: u64, span_ns: u64) -> Result<Utilization, &'static str> {
        if total > span_ns.saturating_mul(CYCLES_PER_NS_MAX) {
            return Err("more cycles than any clock counts in that time");
        }
        if total == 0 {
            return if busy == 0 && self.parked_idle { Ok(Utilization::IDLE) } else { Err(STILL) };
        }
        let permille = (u128::from(busy) * 1000).div_ceil(u128::from(total));
        // The two counts are not taken at one moment, so a full lcore may have a little more.
        Ok(u16::try_from(permille).ok().and_then(Utilization::from_permille).unwrap_or(Utilization::FULL))
    }
}
