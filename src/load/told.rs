//! May a source say again what troubles it? Pure.
//!
//! A source that fails does so at every look. The log gets the reason when it is new, and then once in a long while.

use std::time::Duration;

use crate::units::Instant;

/// Most lines of one source in a [`SPAN`].
const LINES_MAX: u32 = 6;
/// Span of the limit.
const SPAN: Duration = Duration::from_secs(60);
/// After so long the same reason is worth a line again.
const AGAIN: Duration = Duration::from_secs(600);

/// What was told last, and how much was told lately.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Told {
    last: Option<(&'static str, Instant)>,
    span_began: Instant,
    lines: u32,
}

impl Told {
    /// Whether to write a line with this reason now.
    pub(super) fn admit(&mut self, now: Instant, why: &'static str) -> bool {
        if self.last.is_some_and(|(last, at)| last == why && now.since(at) < AGAIN) {
            return false;
        }
        if now.since(self.span_began) >= SPAN {
            (self.span_began, self.lines) = (now, 0);
        }
        if self.lines >= LINES_MAX {
            return false;
        }
        self.lines += 1;
        self.last = Some((why, now));
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reason_is_told_when_it_is_new_and_a_source_that_flaps_does_not_fill_the_log() {
        let at = |s: u64| Instant::from_nanos((100 + s) * 1_000_000_000);
        let mut told = Told::default();
        assert!(told.admit(at(1), "gone") && !told.admit(at(2), "gone") && told.admit(at(3), "back"));
        let mut flapping = Told::default();
        let lines = (0..3600).filter(|s| flapping.admit(at(*s), if s % 2 == 0 { "gone" } else { "back" })).count();
        assert_eq!(lines, 6 * 60, "in an hour");
        let mut calm = Told::default();
        assert_eq!((0..3600).filter(|s| calm.admit(at(*s), "gone")).count(), 6);
    }
}
