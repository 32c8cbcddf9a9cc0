//! How much slower is inference inside the sandbox? Two workers on one core, in turn, one inside and one outside.
//!
//! Each half of a round one of them stands still. What counts is CPU time for one inference, the median of a half: it
//! is not moved by whoever else wants the core, and the halves lie so close together that clock frequency and caches
//! are the same for both.

use std::time::Duration;

use crate::cli::bench::crew::{Class, Crew, Member, Model, Plan};
use crate::cli::failure::{Class as FailureClass, Failure};
use crate::sys::{clock, signal};

/// Time between two looks at a page.
const LOOK: Duration = Duration::from_millis(1);
/// A half of a round goes on until it has seen so many inferences, but not for longer than [`HALF_MAX`].
const SEEN_MIN: usize = 5;
/// Longest half of a round.
const HALF_MAX: Duration = Duration::from_secs(120);

/// CPU time for one inference, in ns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Round {
    /// Inside the sandbox.
    pub(super) inside_ns: u64,
    /// Outside.
    pub(super) outside_ns: u64,
}

impl Round {
    /// Throughput inside over that outside.
    #[expect(clippy::cast_precision_loss, reason = "a ratio of times far below 2^53 ns")]
    pub(super) fn ratio(&self) -> f64 {
        if self.inside_ns == 0 { 0.0 } else { self.outside_ns as f64 / self.inside_ns as f64 }
    }
}

/// The two workers; both stand still between rounds.
pub(super) struct Pair {
    inside: Crew,
    outside: Crew,
}

impl Pair {
    /// Starts both on that core.
    ///
    /// # Errors
    /// When one does not come up.
    pub(super) fn start(model: &Model, core: usize) -> Result<Self, Failure> {
        let start = |class| Crew::start(&Plan { model, class, cores: &[core], stamps: false });
        let stopped = |crew: Crew| crew.members.iter().try_for_each(stop).map(|()| crew);
        // One after the other: each runs its model once before it counts as started.
        let inside = stopped(start(Class::Idle)?)?;
        Ok(Self { inside, outside: stopped(start(Class::Unconfined)?)? })
    }

    /// One round, in another order each time. Nothing when one was not given the core at all.
    ///
    /// # Errors
    /// When a worker has ended.
    pub(super) fn round(&mut self, number: u32, half: Duration) -> Result<Option<Round>, Failure> {
        let (inside_ns, outside_ns) = if number.is_multiple_of(2) {
            let inside = measure(&mut self.inside, half)?;
            (inside, measure(&mut self.outside, half)?)
        } else {
            let outside = measure(&mut self.outside, half)?;
            (measure(&mut self.inside, half)?, outside)
        };
        Ok(inside_ns.zip(outside_ns).map(|(inside_ns, outside_ns)| Round { inside_ns, outside_ns }))
    }
}

/// Lets a worker run for that long, and gives the median CPU time of the inferences that it ended meanwhile.
fn measure(crew: &mut Crew, half: Duration) -> Result<Option<u64>, Failure> {
    crew.check()?;
    let Some(member) = crew.members.first() else { return Ok(None) };
    signal::continue_process(member.pid).map_err(|error| Failure::io("cannot continue a worker", &error))?;
    let (begun, mut times) = (clock::now(), Vec::new());
    let mut last = member.page.inferences();
    let first = last;
    loop {
        let passed = clock::now().since(begun);
        if passed >= HALF_MAX || (passed >= half && times.len() >= SEEN_MIN) {
            break;
        }
        std::thread::sleep(LOOK);
        let now = member.page.inferences();
        // The first one was begun in an earlier round, with the caches of then.
        if now != last && now > first + 1 {
            times.push(member.page.inference_ns());
        }
        last = now;
    }
    stop(member)?;
    times.sort_unstable();
    Ok(times.get(times.len() / 2).copied())
}

/// Stops a worker and waits until it stands still.
fn stop(member: &Member) -> Result<(), Failure> {
    let failed = |error: std::io::Error| Failure::io("cannot stop a worker", &error);
    signal::stop_process(member.pid).map_err(failed)?;
    let until = clock::now().after(HALF_MAX);
    while signal::poll_stopped(member.pid).map_err(failed)? != signal::Seen::Stopped {
        if clock::now() >= until {
            let text = format!("the worker on core {} does not stand still; is the machine overloaded?", member.core);
            return Err(Failure::new(FailureClass::TemporaryFailure, text));
        }
        std::thread::sleep(LOOK);
    }
    Ok(())
}
