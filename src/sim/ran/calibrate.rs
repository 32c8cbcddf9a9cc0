//! How long does one unit of work take on this core when it is quiet? Many short tries, of which the fastest counts.
//!
//! The work is timed with its caches filled: right before each try it goes once round what it works in, untimed. Else
//! on a shared machine every try would begin with what others have put there.

use std::time::Duration;

use super::work::Work;
use crate::sys::clock;

/// A try lasts at least so long, to be timed well, and no longer than it must, to fit between two disturbances.
const TRY: Duration = Duration::from_micros(200);
/// Tries, at most; other work on a shared machine comes and goes within milliseconds.
const TRIES: u32 = 80;
/// And at least, however long they take.
const TRIES_MIN: u32 = 5;
/// No try begins later than this after the first, beyond the fewest.
const SPAN: Duration = Duration::from_millis(300);
/// Rest between two tries, so that no core is filled.
const REST: Duration = Duration::from_millis(1);
/// Most units of a try, and most to fill the caches.
const UNITS_MAX: u64 = 1 << 14;

/// Finds the time of one unit, in ns, above zero. Takes 100 to 300 ms.
pub(super) fn unit_ns(work: &mut Work) -> f64 {
    let round = work.round().min(UNITS_MAX);
    time(work, round);
    let mut units = work.kind().cycle();
    while time(work, units).min(time(work, units)) < TRY && units < UNITS_MAX {
        units *= 2;
    }
    let begin = clock::now();
    let mut fastest = Duration::MAX;
    for count in 0..TRIES {
        if count >= TRIES_MIN && clock::now().since(begin) > SPAN {
            break;
        }
        clock::sleep_until(clock::now().after(REST));
        time(work, round);
        fastest = fastest.min(time(work, units));
    }
    #[expect(clippy::cast_precision_loss, reason = "a million units are exact")]
    let units = units as f64;
    fastest.max(Duration::from_nanos(1)).as_secs_f64() * 1e9 / units
}

fn time(work: &mut Work, units: u64) -> Duration {
    let begin = clock::now();
    for _ in 0..units {
        work.unit();
    }
    clock::now().since(begin)
}

#[cfg(test)]
mod tests {
    use super::super::work::Kind;
    use super::*;

    #[test]
    fn every_kind_has_a_time_that_is_neither_nothing_nor_for_ever() {
        for kind in Kind::ALL {
            let ns = unit_ns(&mut Work::new(kind, 1 << 16, 1 << 20));
            assert!(ns > 10.0 && ns < 1e7, "{kind:?}: {ns} ns");
        }
    }
}
