//! How far is the bench? A bar with the time left on a terminal, a line now and then elsewhere; on standard error.

use std::io::{self, IsTerminal as _, Write as _};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::sys::clock;
use crate::units::Instant;

/// Pictures a second. Drawn between rounds only, never while something is measured.
const DRAWS_PER_SECOND: u8 = 4;
/// Time between two lines when standard error is no terminal.
const LINE_EVERY: Duration = Duration::from_secs(10);

/// Tells how far the bench is.
#[derive(Debug)]
pub(in crate::cli) struct Progress {
    /// `None` when standard error is no terminal.
    bar: Option<ProgressBar>,
    steps: u64,
    started: Instant,
    told: Instant,
}

impl Progress {
    /// Begins; there will be about so many steps.
    pub(in crate::cli) fn begin(steps: u64) -> Self {
        let now = clock::now();
        let bar = io::stderr().is_terminal().then(|| {
            let target = ProgressDrawTarget::stderr_with_hz(DRAWS_PER_SECOND);
            let style = ProgressStyle::with_template("{bar:32} {percent:>3} %  {msg}");
            let style = style.unwrap_or_else(|_| ProgressStyle::default_bar()).progress_chars("━╸ ");
            ProgressBar::with_draw_target(Some(steps), target).with_style(style)
        });
        Self { bar, steps, started: now, told: now }
    }

    /// So many steps are done; `doing` says what comes next.
    pub(in crate::cli) fn at(&mut self, done: u64, doing: &str) {
        let now = clock::now();
        let left = left(self.steps, done, now.since(self.started));
        let left = left.map_or_else(String::new, |left| format!(", {} s left", left.as_secs()));
        if let Some(bar) = &self.bar {
            bar.set_position(done.min(self.steps));
            bar.set_message(format!("{doing}{left}"));
        } else if now.since(self.told) >= LINE_EVERY || done == 0 {
            self.told = now;
            let percent = done.saturating_mul(100) / self.steps.max(1);
            // Nobody reads it: not our problem.
            let _closed = writeln!(io::stderr(), "neap bench: {percent} %, {doing}{left}");
        }
    }

    /// Takes the bar away.
    pub(in crate::cli) fn end(self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

/// Time left if it goes on as it went; `None` at the beginning.
fn left(steps: u64, done: u64, passed: Duration) -> Option<Duration> {
    let left = u128::from(steps.saturating_sub(done)) * passed.as_millis();
    let left = left.checked_div(u128::from(done))?;
    Some(Duration::from_millis(u64::try_from(left).unwrap_or(u64::MAX)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_takes_as_long_as_what_is_done() {
        let s = Duration::from_secs;
        assert_eq!(left(100, 25, s(10)), Some(s(30)));
        assert_eq!(left(100, 100, s(10)), Some(s(0)));
        assert_eq!(left(100, 120, s(10)), Some(s(0)));
        assert_eq!(left(100, 0, s(10)), None);
    }
}
