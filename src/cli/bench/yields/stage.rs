//! How does one event go? Workers run, load comes, workers stand still, the page is read: the same for every way of
//! stopping.
//!
//! The thread that hands the load over is the bench's first; it is bound to the first allowed core, the workers to the
//! last ones. Whoever stops is bound nowhere, as in the agent. After the load is handed over the first thread sleeps, so
//! that its core is free, and looks later whether the workers stand still.

use std::time::Duration;

use super::super::crew::{Crew, Member};
use super::super::page::{self, LastInstruction};
use super::tally::{Event, Tally};
use super::witness::Witness;
use crate::cli::failure::{Class, Failure};
use crate::sentinel::YieldRecord;
use crate::sim::day::Random;
use crate::sys::signal::{self, Seen};
use crate::sys::{clock, sched};
use crate::units::Instant;

/// Time for which workers stand still before they run again: the settle time of the sentinels here.
pub(super) const SETTLE: Duration = Duration::from_millis(1);
/// Shortest time for which they run before an event.
const RUN_MIN_US: u64 = 300;
/// Span of chance above it: the phase of an event is random.
const RUN_SPAN_US: u64 = 1_400;
/// Sleep after the load is handed over.
const FIRST_LOOK: Duration = Duration::from_micros(200);
/// Sleep between two looks.
const LOOK: Duration = Duration::from_micros(100);
/// Longest wait for a stop or a start; then the bench has failed.
pub(super) const WAIT_MAX: Duration = Duration::from_secs(30);
/// Events that are tried at most for each that is to be counted, and some more.
const TRIES: u64 = 5;

/// A way of stopping that is quick enough to be tried thousands of times.
pub(super) trait Stopper {
    /// Keeps the workers stopped for [`SETTLE`] and lets them go on.
    fn resume(&mut self, crew: &Crew) -> Result<(), Failure>;
    /// Hands the load over. Its beginning is the event.
    fn strike(&mut self) -> Result<(), Failure>;
    /// Whether a worker stands still.
    fn is_still(&self, member: &Member) -> Result<bool, Failure>;
    /// What the sentinel recorded of the stop, where one stopped.
    fn record(&mut self) -> Option<YieldRecord>;
}

/// The workers, and where everything runs.
#[derive(Debug)]
pub(super) struct Stage {
    /// The workers.
    pub(super) crew: Crew,
    /// Cores that this process may use.
    pub(super) cores: Vec<usize>,
    /// Since when the bench runs.
    pub(super) began: Instant,
    random: Random,
}

impl Stage {
    /// A stage for this crew, `seed` for the phases of the events.
    pub(super) fn new(crew: Crew, cores: Vec<usize>, began: Instant, seed: u64) -> Self {
        Self { crew, cores, began, random: Random::new(seed) }
    }

    /// The core of the thread that hands the load over.
    pub(super) fn event_core(&self) -> usize {
        self.cores.first().copied().unwrap_or(0)
    }

    /// Binds this thread to the core of the events, does the work, and sets it free again: threads that are started
    /// otherwise would inherit the bond.
    pub(super) fn bound<T>(&mut self, work: impl FnOnce(&mut Self) -> Result<T, Failure>) -> Result<T, Failure> {
        let failed = |error| Failure::io("cannot bind the bench's thread to a core", &error);
        sched::pin_self(self.event_core()).map_err(failed)?;
        let done = work(self);
        sched::confine_self(&self.cores).map_err(failed)?;
        done
    }

    /// A random time of up to `max`.
    pub(super) fn chance(&mut self, max: Duration) -> Duration {
        Duration::from_nanos(self.random.below(u64::try_from(max.as_nanos()).unwrap_or(u64::MAX)))
    }

    /// Makes events until `due` are counted in the tally; gives up after five times as many tries as are missing.
    pub(super) fn round(
        &mut self,
        stopper: &mut impl Stopper,
        witness: &Witness,
        tally: &mut Tally,
        due: u64,
    ) -> Result<(), Failure> {
        let missing = due.saturating_sub(tally.times.count());
        let mut tries = missing * TRIES + 2_000;
        while tally.times.count() < due && tries > 0 {
            let event = self.event(stopper, witness)?;
            tally.take(&event);
            tries -= 1;
        }
        self.crew.check()
    }

    fn event(&mut self, stopper: &mut impl Stopper, witness: &Witness) -> Result<Event, Failure> {
        stopper.resume(&self.crew)?;
        self.wait(stopper, false, LOOK)?;
        std::thread::sleep(Duration::from_micros(RUN_MIN_US) + self.chance(Duration::from_micros(RUN_SPAN_US)));
        let before = witness.look();
        let event = clock::now();
        stopper.strike()?;
        let handed = clock::now();
        std::thread::sleep(FIRST_LOOK);
        let overslept = clock::now().since(handed).saturating_sub(FIRST_LOOK);
        let stopped = self.wait(stopper, true, LOOK)?;
        let same_core = witness.stopper_core().map(|core| self.crew.members.iter().any(|member| member.core == core));
        let evidence = witness.look().since(before, overslept);
        let (last, phase) = self.judge(event, stopped);
        let at = event.since(self.began);
        Ok(Event { at, event, handed, last, phase, same_core, evidence, record: stopper.record() })
    }

    /// What the pages prove; the workers stand still.
    fn judge(&self, event: Instant, stopped: Instant) -> (LastInstruction, page::Phase) {
        let mut phase = page::Phase::Starting;
        let mut all = None;
        for (index, member) in self.crew.members.iter().enumerate() {
            let at_rest = member.page.snapshot();
            if index == 0 {
                phase = at_rest.phase;
            }
            let last = page::judge(event, at_rest, stopped);
            all = Some(all.map_or(last, |all| page::latest(all, last)));
        }
        (all.unwrap_or(LastInstruction::Unseen), phase)
    }

    /// Waits until every worker stands still, or none does; when that was seen.
    fn wait(&self, stopper: &impl Stopper, still: bool, look: Duration) -> Result<Instant, Failure> {
        let until = clock::now().after(WAIT_MAX);
        for member in &self.crew.members {
            while stopper.is_still(member)? != still {
                if clock::now() >= until {
                    return Err(out_of_time(if still { "stopped" } else { "running again" }, WAIT_MAX));
                }
                std::thread::sleep(look);
            }
        }
        Ok(clock::now())
    }
}

/// A worker did not get where it should.
pub(super) fn out_of_time(what: &str, max: Duration) -> Failure {
    let text = format!(
        "a worker was not {what} within {} s; the machine may be too busy, or somebody else stops or continues it",
        max.as_secs()
    );
    Failure::new(Class::TemporaryFailure, text)
}

/// Whether a worker is stopped by signal.
pub(super) fn is_stopped(member: &Member) -> Result<bool, Failure> {
    match signal::poll_stopped(member.pid) {
        Ok(Seen::Stopped) => Ok(true),
        Ok(Seen::Running) => Ok(false),
        Ok(Seen::Exited) => {
            let text = format!("the worker on core {} has ended; its reason stands above", member.core);
            Err(Failure::new(Class::Software, text))
        }
        Err(error) => Err(Failure::io("cannot look at a worker", &error)),
    }
}
