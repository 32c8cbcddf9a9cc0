//! How does the RAN fare by the kernel's account? Run-queue delay and pressure, once a second.
//!
//! Once a second rather than at every look: a delay is accounted when its thread gets a core, so a share of 100 ms
//! says more about the moment of the look than about the RAN. What cannot be read is left out, and the log tells each
//! reason once; the level does not suffer.

use std::path::Path;
use std::time::Duration;

use super::delay::Delays;
use super::pressure::{Pressure, Total};
use super::{What, group::Group};
use crate::units::{Health, Instant};

/// Time between two readings of health, unless the looks themselves are rarer.
pub const HEALTH_PERIOD: Duration = Duration::from_secs(1);
/// Looks come a little early or late: what is due so soon is taken now.
const EARLY: Duration = Duration::from_millis(10);

/// Makes figures of running totals.
#[derive(Debug)]
pub(super) struct Vitals {
    what: What,
    delays: Option<Delays>,
    total: Option<Total>,
    due: Instant,
    run_queue: Figure,
    pressure: Figure,
}

/// A running total, and what it was last time.
#[derive(Debug, Default)]
struct Figure {
    last: Option<(Instant, u64)>,
    /// Why it could not be read, so far; a handful of sentences exists.
    told: Vec<&'static str>,
}

impl Vitals {
    pub(super) fn new(root: &Path, what: &What, pressure: &Pressure) -> Self {
        let group: Option<&Group> = match what {
            What::Cgroup { group, .. } => Some(group),
            What::Cores(_) | What::Threads { .. } => None,
        };
        let delays = group.map(|group| Delays::new(root, group));
        let total = Total::new(root, pressure, group);
        let (run_queue, pressure) = (Figure::default(), Figure::default());
        let mut vitals = Self { what: what.clone(), delays, total, due: Instant::default(), run_queue, pressure };
        vitals.tell_what_is_never_known();
        vitals
    }

    /// Gives the figures that are due. `watched` is the delay of threads that are watched anyway.
    pub(super) fn look(
        &mut self,
        clock: &dyn Fn() -> Instant,
        watched: Option<Result<u64, &'static str>>,
        sink: &mut dyn FnMut(Instant, Health, u32),
    ) {
        let now = clock();
        if now.after(EARLY) < self.due {
            return;
        }
        self.due = now.after(HEALTH_PERIOD);
        if let Some(total) = watched.or_else(|| self.delays.as_mut().map(Delays::read_ns)) {
            match self.run_queue.share(now, total, 1_000_000) {
                Ok(value) => value.into_iter().for_each(|value| sink(now, Health::RunQueueDelay, value)),
                Err(why) => self.run_queue.tell(&self.what, Health::RunQueueDelay, why),
            }
        }
        let Some(total) = &mut self.total else { return };
        let (now, total) = (clock(), total.read_ns());
        match self.pressure.share(now, total, 1000) {
            // Time that tasks waited cannot exceed the time that passed.
            Ok(value) => value.into_iter().for_each(|value| sink(now, Health::Pressure, value.min(1000))),
            Err(why) => self.pressure.tell(&self.what, Health::Pressure, why),
        }
    }

    fn tell_what_is_never_known(&mut self) {
        if let What::Cores(_) = self.what {
            self.run_queue.tell(&self.what, Health::RunQueueDelay, "no thread of the RAN is named");
            if self.total.is_none() {
                self.pressure.tell(&self.what, Health::Pressure, "no cgroup is named, and pressure is not \"host\"");
            }
        }
    }
}

impl Figure {
    /// What the total grew since last time, in `parts` of the time that passed; `None` the first time.
    fn share(
        &mut self,
        now: Instant,
        total_ns: Result<u64, &'static str>,
        parts: u64,
    ) -> Result<Option<u32>, &'static str> {
        let last = self.last.take();
        let total_ns = total_ns?;
        self.last = Some((now, total_ns));
        let Some((before, base)) = last.filter(|(before, _)| now > *before) else { return Ok(None) };
        let grown = total_ns.checked_sub(base).ok_or("a counter that went backwards")?;
        let share = u128::from(grown) * u128::from(parts) / now.since(before).as_nanos();
        Ok(Some(u32::try_from(share).unwrap_or(u32::MAX)))
    }

    fn tell(&mut self, what: &What, figure: Health, why: &'static str) {
        if !self.told.contains(&why) {
            self.told.push(why);
            tracing::info!(figure = figure.as_str(), why, "{what}: this figure of the RAN's health is not told");
        }
    }
}
