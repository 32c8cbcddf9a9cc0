//! How much of the troughs may be used at all? Asks the governor itself, in played time; pure.
//!
//! What settling costs is policy, not loss: this tells the one from the other.

use std::time::Duration;

use crate::governor::{Governor, Load, Policy, Sample};
use crate::sim::day::{Compressed, Day, SAMPLES};
use crate::units::{Instant, SourceId};

/// Time of a played day.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Grant {
    /// With the load below `idle_below`.
    pub(super) trough: Duration,
    /// Share of it in which the governor lets inference run.
    pub(super) granted: Duration,
    /// Troughs.
    pub(super) troughs: u32,
}

/// What the policy grants of a day that is played in this length.
pub(super) fn of_day(day: &Day, length: Compressed, policy: &Policy) -> Grant {
    let mut grant = Grant::default();
    // A policy that the configuration took is one that the governor takes.
    let Ok(mut governor) = Governor::new(policy.clone()) else { return grant };
    // Some time after the clock's origin: the governor counts from there.
    let start = Instant::from_nanos(1_000_000_000_000);
    let mut was_idle = false;
    for index in 0..SAMPLES {
        let load = day.load(index);
        let (begin, end) = (start.after(length.start(index)), start.after(length.start(index + 1)));
        let fresh_until = end.after(Duration::from_secs(3600));
        governor.on_sample(begin, Sample { load: Load::Level(SourceId(0), load), fresh_until });
        let idle = load < policy.idle_below;
        grant.troughs += u32::from(idle && !was_idle);
        was_idle = idle;
        let mut now = begin;
        while now < end {
            let next = governor.next_timeout().filter(|at| *at < end).unwrap_or(end).max(now);
            if idle {
                grant.trough += next.since(now);
                if governor.decision().budget > 0 {
                    grant.granted += next.since(now);
                }
            }
            now = next;
            if now < end {
                governor.on_timeout(now);
            }
        }
    }
    grant
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::units::Utilization;

    fn policy() -> Policy {
        let percent = |percent| Utilization::from_percent(percent).unwrap();
        Policy {
            workers: 1,
            busy_above: percent(40),
            idle_below: percent(25),
            settle: Duration::from_millis(250),
            settle_max: Duration::from_millis(500),
            flap_window: Duration::from_millis(500),
            raise_every: Duration::ZERO,
        }
    }

    #[test]
    fn settling_costs_each_trough_its_settle_time_and_no_more_is_granted_than_there_is() {
        let length = Compressed { length: Duration::from_secs(60) };
        for seed in 0..20 {
            let grant = of_day(&Day::new(seed), length, &policy());
            let shipped = Policy { idle_below: Utilization::from_percent(15).unwrap(), settle: Duration::from_millis(50), settle_max: Duration::from_secs(1), flap_window: Duration::from_millis(500), ..policy() };
            let g2 = of_day(&Day::new(seed), Compressed { length: Duration::from_secs(144) }, &shipped);
            eprintln!("shipped {seed} {g2:?} {}", g2.granted.as_secs_f64() / g2.trough.as_secs_f64());
            let g2 = of_day(&Day::new(seed), Compressed { length: Duration::from_secs(144) }, &Policy { idle_below: Utilization::from_percent(25).unwrap(), ..shipped });
            eprintln!("shipped25 {seed} {g2:?} {}", g2.granted.as_secs_f64() / g2.trough.as_secs_f64());
            eprintln!("{seed} {grant:?} {}", grant.granted.as_secs_f64() / grant.trough.as_secs_f64());
            assert!(grant.granted < grant.trough && grant.trough < length.length, "{grant:?}");
        }
    }
}
