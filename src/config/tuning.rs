//! What should thresholds and settle times bring, and how far may they be moved? The keys of `[tuning]`.

use std::time::Duration;

use super::read::Section;
use crate::governor::Policy;
use crate::governor::tuning::{Mode, Terms};
use crate::units::Utilization;

const SECOND: Duration = Duration::from_secs(1);
const DAY: Duration = Duration::from_secs(24 * 3600);
/// Longest settle time unless the file names one.
const SETTLE_MAX: Duration = Duration::from_secs(1800);

/// Reads the section. The bounds are half of what is configured unless it says otherwise.
pub(super) fn terms(mut section: Section<'_, '_>, policy: &Policy) -> Terms {
    let modes = Mode::ALL.map(|mode| (mode.as_str(), mode));
    let half = |limit: Utilization| u8::try_from(limit.permille() / 20).unwrap_or(50).max(1);
    let mode = section.one_of("mode", &modes).unwrap_or_default();
    let evictions = section.integer("max_evictions_per_day", 5, 0..=10_000, "evictions a day");
    let increase = section.optional_integer("max_slot_p99_increase", 1..=1_000, "percent");
    let busy_above_min = section.percent("busy_above_min", half(policy.busy_above));
    let idle_below_min = section.percent("idle_below_min", half(policy.idle_below));
    let settle_max = section.seconds("settle_s_max", SETTLE_MAX.max(policy.settle), SECOND..=DAY);
    for (key, least, limit) in
        [("busy_above_min", busy_above_min, policy.busy_above), ("idle_below_min", idle_below_min, policy.idle_below)]
    {
        if least > limit && section.has(key) {
            let name = key.trim_end_matches("_min");
            section
                .complain(key, &format!("must not be above governor.{name} ({limit}): limits are only ever lowered"));
        }
    }
    if settle_max < policy.settle {
        let settle = policy.settle.as_secs_f64();
        section
            .complain("settle_s_max", &format!("must be at least governor.settle_s ({settle} s): it only ever grows"));
    }
    section.finish();
    Terms {
        mode,
        evictions_max: u32::try_from(evictions).ok(),
        increase_max_permille: increase.and_then(|percent| u32::try_from(percent * 10).ok()),
        busy_above_min,
        idle_below_min,
        settle_max,
    }
}
