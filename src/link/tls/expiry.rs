//! How soon does a certificate end, and how loudly is that to be said? Pure.

use std::time::Duration;

use crate::units::WallTime;

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// How near the end is; each step is told once.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Step {
    /// More than thirty days.
    #[default]
    Fine,
    /// Thirty days or less.
    Month,
    /// Seven days or less.
    Week,
    /// One day or less.
    Day,
    /// It has ended.
    Over,
}

/// The step at `now` of a certificate that ends at `not_after`.
pub fn step(now: WallTime, not_after: WallTime) -> Step {
    if now >= not_after {
        return Step::Over;
    }
    let left = not_after.since(now);
    if left <= DAY {
        Step::Day
    } else if left <= 7 * DAY {
        Step::Week
    } else if left <= 30 * DAY {
        Step::Month
    } else {
        Step::Fine
    }
}

/// What is left, in whole days, or how long ago it ended, for people.
pub fn left(now: WallTime, not_after: WallTime) -> String {
    let (span, is_over) = if now >= not_after { (now.since(not_after), true) } else { (not_after.since(now), false) };
    let amount = match span.as_secs() {
        0..7_200 => format!("{} min", span.as_secs() / 60),
        7_200..172_800 => format!("{} h", span.as_secs() / 3_600),
        seconds => format!("{} days", seconds / DAY.as_secs()),
    };
    if is_over { format!("{amount} ago") } else { format!("in {amount}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    const END: WallTime = WallTime::from_millis(1_800_000_000_000);

    fn before(seconds: i64) -> WallTime {
        WallTime::from_millis(END.as_millis() - seconds * 1000)
    }

    #[test]
    fn each_step_begins_thirty_seven_and_one_days_before_the_end() {
        const DAY_S: i64 = 24 * 3600;
        for (seconds, wanted) in [
            (31 * DAY_S, Step::Fine),
            (30 * DAY_S + 1, Step::Fine),
            (30 * DAY_S, Step::Month),
            (7 * DAY_S + 1, Step::Month),
            (7 * DAY_S, Step::Week),
            (DAY_S + 1, Step::Week),
            (DAY_S, Step::Day),
            (1, Step::Day),
            (0, Step::Over),
            (-DAY_S, Step::Over),
        ] {
            assert_eq!(step(before(seconds), END), wanted, "{seconds} s before");
        }
        assert_eq!(step(WallTime::from_millis(i64::MIN), END), Step::Fine);
        assert_eq!(step(WallTime::from_millis(i64::MAX), END), Step::Over);
    }

    #[test]
    fn what_is_left_is_told_in_units_of_which_there_are_at_least_two() {
        for (seconds, wanted) in [
            (90, "in 1 min"),
            (3 * 3600, "in 3 h"),
            (47 * 3600, "in 47 h"),
            (6 * 86_400 + 5, "in 6 days"),
            (-5, "0 min ago"),
            (-90_000, "25 h ago"),
            (-3 * 86_400, "3 days ago"),
        ] {
            assert_eq!(left(before(seconds), END), wanted);
        }
    }
}
