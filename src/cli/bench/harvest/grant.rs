//! How much of the troughs may be used at all? Asks the governor itself, in played time; pure.
//!
//! What settling costs is policy, not loss: this tells the one from the other.

use std::ops::Range;
use std::time::Duration;

use crate::governor::{Governor, Load, Policy, Sample};
use crate::sim::day::{Compressed, Day};
use crate::units::{Instant, SourceId};

/// Time of a played part of a day.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Grant {
    /// With the load below `idle_below`.
    pub(super) trough: Duration,
    /// Share of it in which the governor lets inference run.
    pub(super) granted: Duration,
    /// Troughs, those that the part cuts included.
    pub(super) troughs: u32,
}

/// What the policy grants of a part of a day, `part` being played time since midnight.
pub(super) fn of_part(day: &Day, length: Compressed, part: &Range<Duration>, policy: &Policy) -> Grant {
    let mut grant = Grant::default();
    // A policy that the configuration took is one that the governor takes.
    let Ok(mut governor) = Governor::new(policy.clone()) else { return grant };
    let at = |position: Duration| Instant::from_nanos(0).after(position);
    let end = at(part.end);
    let mut was_idle = false;
    let mut begin = at(part.start);
    for index in length.count(part.start).. {
        if begin >= end {
            break;
        }
        let sample_end = at(length.start(index + 1)).min(end);
        let load = day.load(index);
        let fresh_until = sample_end.after(Duration::from_secs(1));
        governor.on_sample(begin, Sample { load: Load::Level(SourceId(0), load), fresh_until });
        let idle = load < policy.idle_below;
        grant.troughs += u32::from(idle && !was_idle);
        was_idle = idle;
        let mut now = begin;
        while now < sample_end {
            let next = governor.next_timeout().filter(|at| (now..sample_end).contains(at)).unwrap_or(sample_end);
            if idle {
                grant.trough += next.since(now);
                if governor.decision().budget > 0 {
                    grant.granted += next.since(now);
                }
            }
            now = next;
            governor.on_timeout(now);
        }
        begin = sample_end;
    }
    grant
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::units::Utilization;

    /// The shipped policy, 600 times as fast.
    fn policy() -> Policy {
        let percent = |percent| Utilization::from_percent(percent).unwrap();
        Policy {
            workers: 1,
            busy_above: percent(40),
            idle_below: percent(15),
            settle: Duration::from_millis(50),
            settle_max: Duration::from_secs(1),
            flap_window: Duration::from_millis(500),
            raise_every: Duration::ZERO,
        }
    }

    const DAY: Compressed = Compressed { length: Duration::from_secs(144) };

    #[test]
    fn the_shipped_policy_grants_more_than_97_percent_of_a_days_troughs_and_never_all() {
        for seed in 0..20 {
            let grant = of_part(&Day::new(seed), DAY, &(Duration::ZERO..DAY.length), &policy());
            assert!(grant.granted < grant.trough && grant.trough < DAY.length, "seed {seed}: {grant:?}");
            assert!(grant.granted * 100 > grant.trough * 97, "seed {seed}: {grant:?}");
        }
    }

    #[test]
    fn each_trough_of_an_idle_part_costs_one_settling() {
        let day = Day::new(1);
        let quiet = (0..).find(|index| (0..20).all(|ahead| day.load(index + ahead) < policy().idle_below)).unwrap();
        let part = DAY.start(quiet)..DAY.start(quiet + 20);
        let grant = of_part(&day, DAY, &part, &policy());
        let expected =
            Grant { trough: part.end - part.start, granted: part.end - part.start - policy().settle, troughs: 1 };
        assert_eq!(grant, expected);
        let next_day = part.start + DAY.length..part.end + DAY.length;
        assert_eq!(of_part(&day, DAY, &next_day, &policy()), expected, "the day repeats");
    }
}
