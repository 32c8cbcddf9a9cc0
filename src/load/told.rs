//! May a source say again what troubles it? Pure.
//!
//! A source that fails does so at every look. The log gets the reason when it is new, and then once in a long while.

use std::time::Duration;

use crate::units::Instant;

/// Shortest time between two lines of one source.
const BETWEEN: Duration = Duration::from_secs(10);
/// After so long the same reason is worth a line again.
const AGAIN: Duration = Duration::from_secs(600);

/// What was told last, and when.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Told(Option<(&'static str, Instant)>);

impl Told {
    /// Whether to write a line with this reason now.
    pub(super) fn admit(&mut self, now: Instant, why: &'static str) -> bool {
        let admitted = self.0.is_none_or(|(last, at)| now.since(at) >= if last == why { AGAIN } else { BETWEEN });
        if admitted {
            self.0 = Some((why, now));
        }
        admitted
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reason_is_told_when_it_is_new_and_a_source_that_flaps_does_not_fill_the_log() {
        let mut told = Told::default();
        let at = |s: u64| Instant::from_nanos(s * 1_000_000_000);
        assert!(told.admit(at(1), "gone"));
        assert!(!told.admit(at(5), "gone") && !told.admit(at(6), "back"), "too soon for anything");
        assert!(told.admit(at(11), "back"));
        let lines = (12..3612).filter(|s| told.admit(at(*s), if s % 2 == 0 { "gone" } else { "back" })).count();
        assert!((300..=361).contains(&lines), "{lines} lines in an hour");
        let mut calm = Told::default();
        assert_eq!((0..3600).filter(|s| calm.admit(at(*s), "gone")).count(), 6);
    }
}
