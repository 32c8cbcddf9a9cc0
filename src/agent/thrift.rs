//! When does the agent let go of memory that it does not use? While no worker lives, soon after its start, and seldom after.
//!
//! What it reads and builds at its start, the connection to its broker and each burst of work leave pages of the program in
//! memory that are not looked at again for hours. The kernel would take them when it is short of memory, but they are
//! locked. So they are let go here, and those that the yield path needs are brought back before anybody can need them.

use std::time::Duration;

use crate::units::Instant;

/// Time from the start until everything is up and the broker has been talked to.
const FIRST: Duration = Duration::from_secs(10);
/// Time between two looks: what is let go comes back with a minor fault a page, which costs more the more often it is done.
const EVERY: Duration = Duration::from_secs(600);

/// Knows when it is time.
#[derive(Clone, Copy, Debug)]
pub(super) struct Thrift {
    due: Instant,
}

impl Thrift {
    /// An agent that starts now.
    pub(super) fn new(now: Instant) -> Self {
        Self { due: now.after(FIRST) }
    }

    /// Whether it is time now; then not again for a while.
    pub(super) fn take_due(&mut self, now: Instant, a_worker_lives: bool) -> bool {
        let is_due = now >= self.due && !a_worker_lives;
        if is_due {
            self.due = now.after(EVERY);
        }
        is_due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_time_soon_after_the_start_then_seldom_and_never_beside_a_worker() {
        let at = |seconds| Instant::from_nanos(0).after(Duration::from_secs(seconds));
        let mut thrift = Thrift::new(at(0));
        assert!(!thrift.take_due(at(9), false), "not yet");
        assert!(!thrift.take_due(at(10), true), "a worker may have to be stopped");
        assert!(thrift.take_due(at(300), false), "as soon as there is none");
        assert!(!thrift.take_due(at(301), false), "once");
        assert!(!thrift.take_due(at(899), false));
        assert!(thrift.take_due(at(900), false));
    }
}
