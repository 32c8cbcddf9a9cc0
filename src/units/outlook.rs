//! How much core time will be free, and when? What a forecast says and an admission asks.
//!
//! Pure, and shared: the governor's forecast makes an [`Outlook`], the order of jobs is judged by it, the link
//! publishes it. Core time is a [`Duration`]: one core for two seconds and two cores for one second are both 2 s.

use std::time::Duration;

use super::WallTime;

/// Most spans of an outlook: two days of quarter hours.
pub const SPANS_MAX: usize = 192;

/// How sure one wants to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Quantile {
    /// In nine of ten cases there is more.
    P10,
    /// As often more as less.
    P50,
    /// In one of ten cases there is more.
    P90,
}

/// Core time that is free in one span, by quantile.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Free {
    /// At least so much in nine of ten cases.
    pub p10: Duration,
    /// At least so much in half of the cases.
    pub p50: Duration,
    /// At least so much in one of ten cases.
    pub p90: Duration,
}

impl Free {
    /// The core time at this quantile.
    pub const fn at(&self, quantile: Quantile) -> Duration {
        match quantile {
            Quantile::P10 => self.p10,
            Quantile::P50 => self.p50,
            Quantile::P90 => self.p90,
        }
    }
}

/// Free core time of the next hours, in spans of equal length from `from` on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outlook {
    from: WallTime,
    span: Duration,
    free: Vec<Free>,
}

impl Outlook {
    /// Spans of `span` (at least 1 s) each, the first one from `from`; those beyond [`SPANS_MAX`] are left out.
    pub fn new(from: WallTime, span: Duration, mut free: Vec<Free>) -> Self {
        free.truncate(SPANS_MAX);
        Self { from, span: span.max(Duration::from_secs(1)), free }
    }

    /// Begin of the first span.
    pub const fn from(&self) -> WallTime {
        self.from
    }

    /// Length of each span.
    pub const fn span(&self) -> Duration {
        self.span
    }

    /// The spans in order of time.
    pub fn spans(&self) -> &[Free] {
        &self.free
    }

    /// End of the last span: nothing is said about later.
    pub fn end(&self) -> WallTime {
        self.begin_of(self.free.len())
    }

    /// Core time that is free between the two moments, in proportion where a span is cut. What lies outside the
    /// outlook counts as nothing.
    pub fn core_time(&self, from: WallTime, until: WallTime, quantile: Quantile) -> Duration {
        let part = |(index, free): (usize, &Free)| {
            let begin = self.begin_of(index).max(from);
            let end = self.begin_of(index + 1).min(until);
            free.at(quantile).mul_f64(end.since(begin).as_secs_f64() / self.span.as_secs_f64())
        };
        self.free.iter().enumerate().map(part).sum()
    }

    /// The first moment by which `need` of core time has been free since `from`; `None` when the outlook ends before.
    pub fn moment_of(&self, from: WallTime, need: Duration, quantile: Quantile) -> Option<WallTime> {
        let mut left = need;
        if left.is_zero() {
            return Some(from);
        }
        for (index, free) in self.free.iter().enumerate() {
            let (begin, end) = (self.begin_of(index).max(from), self.begin_of(index + 1));
            let usable = end.since(begin);
            let core_time = free.at(quantile).mul_f64(usable.as_secs_f64() / self.span.as_secs_f64());
            if !core_time.is_zero() && core_time >= left {
                return Some(begin.after(usable.mul_f64(left.as_secs_f64() / core_time.as_secs_f64())));
            }
            left = left.saturating_sub(core_time);
        }
        None
    }

    fn begin_of(&self, index: usize) -> WallTime {
        let index = u32::try_from(index).unwrap_or(u32::MAX);
        self.from.after(self.span.saturating_mul(index))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);

    fn at(minutes: i64) -> WallTime {
        WallTime::from_millis(minutes * 60_000)
    }

    /// Spans of ten minutes from minute 100 with so many minutes free in each, half of it at the lower quantile.
    fn outlook(free_minutes: &[u32]) -> Outlook {
        let free =
            |minutes: &u32| Free { p10: MINUTE * *minutes / 2, p50: MINUTE * *minutes, p90: MINUTE * 2 * *minutes };
        Outlook::new(at(100), 10 * MINUTE, free_minutes.iter().map(free).collect())
    }

    #[test]
    fn a_span_that_is_cut_counts_in_proportion() {
        let outlook = outlook(&[10, 0, 6]);
        assert_eq!(outlook.core_time(at(105), at(125), Quantile::P50), MINUTE * 8);
        assert_eq!(outlook.core_time(at(105), at(125), Quantile::P10), MINUTE * 4);
        assert_eq!(outlook.core_time(at(0), at(900), Quantile::P50), MINUTE * 16, "outside there is nothing");
        assert_eq!(outlook.core_time(at(125), at(105), Quantile::P50), Duration::ZERO);
        assert_eq!(outlook.end(), at(130));
    }

    #[test]
    fn the_moment_of_a_need_skips_the_spans_without_anything_free() {
        let outlook = outlook(&[10, 0, 5]);
        assert_eq!(outlook.moment_of(at(100), MINUTE * 5, Quantile::P50), Some(at(105)));
        assert_eq!(outlook.moment_of(at(105), MINUTE * 6, Quantile::P50), Some(at(122)));
        assert_eq!(outlook.moment_of(at(105), MINUTE * 11, Quantile::P50), None);
        assert_eq!(outlook.moment_of(at(105), Duration::ZERO, Quantile::P50), Some(at(105)));
    }
}
