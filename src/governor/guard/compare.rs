//! Are these values really worse than those, or is it noise?
//!
//! A rank test (Mann and Whitney's U): of all pairs of a running and a stopped window, in how many is the running one
//! worse than the stopped one may become by what is tolerated? Half of them would be, were it at the edge of what is
//! tolerated. It asks for order only: neither the shape of the distribution nor a single absurd value matters.
//! Each value is already the worst of its window, so a shift of the values is a shift of the tail of what they are
//! taken from.

/// Values of the windows on each side, in ascending order.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sides<'a> {
    pub(super) running: &'a [u32],
    pub(super) stopped: &'a [u32],
}

/// How much worse may a figure become?
#[derive(Clone, Copy, Debug)]
pub(super) struct Tolerance {
    /// By this part of itself, in permille.
    pub(super) permille: u32,
    /// And at least by this, in its unit.
    pub(super) least: u32,
}

impl Tolerance {
    /// The worst that the value may become; never falls when the value rises.
    pub(super) fn of(self, value: u32) -> u64 {
        let value = u64::from(value);
        value + (value * u64::from(self.permille) / 1000).max(u64::from(self.least))
    }
}

impl Sides<'_> {
    /// How sure it is that running is worse than tolerated: the square of the number of standard deviations, times
    /// 100. Negative when running is rather within what is tolerated.
    pub(super) fn score(self, tolerance: Tolerance) -> i64 {
        let (mut below, mut equal_or_below) = (0, 0);
        let (mut worse, mut equal) = (0_i64, 0_i64);
        let limit = |place: usize| self.stopped.get(place).map(|value| tolerance.of(*value));
        for value in self.running.iter().map(|value| u64::from(*value)) {
            while limit(below).is_some_and(|limit| limit < value) {
                below += 1;
            }
            equal_or_below = equal_or_below.max(below);
            while limit(equal_or_below).is_some_and(|limit| limit <= value) {
                equal_or_below += 1;
            }
            worse += count(below);
            equal += count(equal_or_below - below);
        }
        let (running, stopped) = (count(self.running.len()), count(self.stopped.len()));
        // Twice the distance of U from its mean; its variance is rs(r + s + 1) / 12 without ties, and less with them.
        let twice = 2 * worse + equal - running * stopped;
        let scale = (running * stopped * (running + stopped + 1)).max(1);
        300 * twice.abs() * twice / scale
    }

    /// The highest quantile that both sides have enough windows for, in permille, and its values.
    pub(super) fn quantile(self) -> (u16, u32, u32) {
        let permille = match self.running.len().min(self.stopped.len()) {
            100.. => 990,
            20.. => 900,
            _ => 750,
        };
        (permille, at(self.running, permille), at(self.stopped, permille))
    }
}

fn count(length: usize) -> i64 {
    i64::try_from(length).unwrap_or(i64::MAX)
}

/// The value that so many permille do not exceed.
fn at(ascending: &[u32], permille: u16) -> u32 {
    let rank = (ascending.len() * usize::from(permille)).div_ceil(1000).max(1);
    ascending.get(rank - 1).copied().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TOLERANCE: Tolerance = Tolerance { permille: 200, least: 10 };

    fn score(running: &[u32], stopped: &[u32]) -> i64 {
        Sides { running, stopped }.score(TOLERANCE)
    }

    /// The definition, pair by pair.
    fn slow(running: &[u32], stopped: &[u32]) -> i64 {
        let mut twice = 0_i64;
        for value in running {
            for other in stopped {
                twice += match u64::from(*value).cmp(&TOLERANCE.of(*other)) {
                    std::cmp::Ordering::Greater => 1,
                    std::cmp::Ordering::Equal => 0,
                    std::cmp::Ordering::Less => -1,
                };
            }
        }
        let (r, s) = (count(running.len()), count(stopped.len()));
        300 * twice.abs() * twice / (r * s * (r + s + 1)).max(1)
    }

    #[test]
    fn complete_separation_is_as_sure_as_the_counts_allow() {
        // z = (64 - 32) / sqrt(64 x 21 / 12) = 3.02
        assert_eq!(score(&[200; 16], &[100; 4]), 914);
        assert_eq!(score(&[120; 16], &[100; 4]), 0, "at the edge of what is tolerated");
        assert_eq!(score(&[119; 16], &[100; 4]), -914);
        assert_eq!((score(&[], &[100]), score(&[100], &[])), (0, 0));
    }

    #[test]
    fn absurd_values_count_as_much_as_any_other() {
        let mut running = [100; 16];
        running[15] = u32::MAX;
        assert!(score(&running, &[100; 8]) < 0);
        assert!(score(&[u32::MAX; 16], &[u32::MAX; 8]) < 0, "nothing overflows");
    }

    proptest::proptest! {
        #[test]
        fn the_score_is_that_of_the_definition(
            mut running in proptest::collection::vec(0..60_u32, 0..40),
            mut stopped in proptest::collection::vec(0..60_u32, 0..40),
        ) {
            running.sort_unstable();
            stopped.sort_unstable();
            proptest::prop_assert_eq!(score(&running, &stopped), slow(&running, &stopped));
        }
    }

    #[test]
    fn the_quantile_is_the_highest_that_the_windows_support() {
        let values: Vec<u32> = (1..=128).collect();
        let quantile = |r: usize, s: usize| Sides { running: &values[..r], stopped: &values[..s] }.quantile();
        assert_eq!(quantile(128, 100), (990, 127, 99));
        assert_eq!(quantile(128, 20), (900, 116, 18));
        assert_eq!(quantile(6, 4), (750, 5, 3));
        assert_eq!(quantile(0, 4), (750, 0, 3));
    }
}
