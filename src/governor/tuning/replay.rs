//! What would the governor have done with other figures? It is asked again, over the load of the past.

use std::time::Duration;

use super::super::{BadPolicy, Decision, Governor, Load, Policy, Reason, Sample};
use super::history::{History, SLOT};
use crate::units::{Instant, SourceId};

/// Timeouts of the governor within one slot: raises and the end of settling. More than any policy makes.
const TIMEOUTS_MAX: u32 = 64;

/// What a policy brings.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// Troughs that ended because the load rose.
    pub evictions: u64,
    /// Time in troughs.
    pub harvest: Duration,
    /// Time of which the load is known.
    pub known: Duration,
}

impl Outcome {
    /// Evictions a day, in thousandths.
    pub fn evictions_a_day_permille(&self) -> u64 {
        let known_s = self.known.as_secs();
        (self.evictions * 86_400_000).checked_div(known_s).unwrap_or(0)
    }

    /// Share of the known time that is spent in troughs, in permille.
    pub fn harvest_permille(&self) -> u32 {
        let share = (self.harvest.as_millis() * 1000).checked_div(self.known.as_millis()).unwrap_or(0);
        u32::try_from(share).unwrap_or(1000).min(1000)
    }
}

/// Asks a governor with that policy about every slot of the past. Nothing is known of a gap: no trough goes on over it,
/// and its end counts as no eviction.
///
/// # Errors
/// A policy that cannot work.
pub fn replay(policy: &Policy, history: &History) -> Result<Outcome, BadPolicy> {
    let mut governor = Governor::new(policy.clone())?;
    let mut outcome = Outcome::default();
    let mut trough: Option<Instant> = None;
    let mut now = Instant::default();
    for level in history.levels() {
        let end = now.after(SLOT);
        let load = level.map_or(Load::Stale(SourceId(0)), |level| Load::Level(SourceId(0), level));
        outcome.known += level.map_or(Duration::ZERO, |_| SLOT);
        let mut decision = governor.on_sample(now, Sample { load, fresh_until: end.after(SLOT) });
        let mut at = now;
        for _ in 0..TIMEOUTS_MAX {
            count(&mut outcome, &mut trough, at, decision);
            let Some(next) = governor.next_timeout().filter(|next| *next > at && *next < end) else { break };
            (at, decision) = (next, governor.on_timeout(next));
        }
        now = end;
    }
    outcome.harvest += trough.map_or(Duration::ZERO, |since| now.since(since));
    Ok(outcome)
}

fn count(outcome: &mut Outcome, trough: &mut Option<Instant>, at: Instant, decision: Option<Decision>) {
    let Some(decision) = decision else { return };
    match (*trough, decision.budget) {
        (None, budget) if budget > 0 => *trough = Some(at),
        (Some(since), 0) => {
            outcome.harvest += at.since(since);
            outcome.evictions += u64::from(matches!(decision.reason, Reason::Above { .. }));
            *trough = None;
        }
        (None | Some(_), _) => {}
    }
}
