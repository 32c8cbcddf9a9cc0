//! How is `/proc` read without holding up the sentinel? On a thread of its own.
//!
//! A look at `/proc` takes from ten microseconds to milliseconds, in which a datagram that says *busy* would have to
//! wait. So a [`Probe`] is looked at on the thread of a [`Mailbox`], at its own pace.

use std::time::Duration;

use super::mailbox::Mailbox;
use super::{Observation, Problem};
use crate::sys::clock;
use crate::units::Instant;

/// Something that is looked at once a period.
pub trait Probe: Send + 'static {
    /// Looks; `clock` tells the time. Hands what it saw to `sink`, which may be nothing.
    fn look(&mut self, clock: &dyn Fn() -> Instant, sink: &mut dyn FnMut(Observation));
}

/// Looks once a period on a thread of this name until the mailbox is dropped. `waiting_max` observations wait for the
/// sentinel at most; give it room for those of four looks.
///
/// # Errors
/// When the system has no thread or no descriptor left.
pub fn start(name: &str, mut probe: impl Probe, period: Duration, waiting_max: usize) -> Result<Mailbox, Problem> {
    let looks = move |poster: &super::mailbox::Poster| {
        while !poster.is_over() {
            probe.look(&clock::now, &mut |observation| poster.post(observation));
            poster.rest(period);
        }
    };
    Mailbox::start(name, waiting_max, looks).map_err(|error| Problem::Io {
        attempt: "start the thread",
        place: name.to_owned(),
        error,
        remedy: "raise the limits of open files and of tasks of the agent's service",
    })
}
