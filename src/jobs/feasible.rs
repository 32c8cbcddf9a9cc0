//! Can a job be done by its deadline, and is now a good moment to begin it? Pure, over needs and expected free core time.
//!
//! [`check`] plays the queue through as the workers would: each free worker takes the next job in order, and a job ends
//! when it is done or its deadline passes. Every figure is taken in favour of the job that asks, because a wrong refusal
//! is worse than a miss: needs are low ones, free time is what one case in ten exceeds, and what nobody knows is free.
//! [`Supply::delay`] judges the other way round, by what is usual: work that needs a long stretch waits for a span in
//! which one is expected, as long as its deadline and a limit allow.

use std::fmt;
use std::time::Duration;

use crate::fault::{Code, Fault};
use crate::units::WallTime;
use crate::units::outlook::{Free, Outlook, Quantile};

#[cfg(test)]
mod tests;

/// Share of the stretch that work needs which is enough to begin it at once: a moment that was waited for is good even if
/// it is met a little late.
const GOOD_ENOUGH: f64 = 0.9;

/// Core time that can be had: some workers, and maybe an outlook on how much of their time will be free.
#[derive(Clone, Debug)]
pub struct Supply {
    workers: u32,
    /// Of one worker. P90 is the most that one of them can get, if it is always the first to run; P50 what each gets if
    /// all run at the same times.
    lane: Option<Outlook>,
    /// Of all workers.
    whole: Option<Outlook>,
    /// For each span the time for which a worker that begins with it is expected to run on.
    stretches: Vec<Duration>,
}

/// A job that goes before another one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Claim {
    /// Core time that it still takes, at the least; zero when nobody knows.
    pub need: Duration,
    /// After this it takes nothing more.
    pub deadline: Option<WallTime>,
}

/// What a job asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Demand {
    /// Core time that it takes at the least.
    pub need: Duration,
    /// It does not begin before.
    pub start: WallTime,
    /// After this it is worth nothing.
    pub deadline: WallTime,
}

/// Why a job cannot be done in time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Infeasible {
    /// What it asks for.
    pub demand: Demand,
    /// Core time that is expected to be free for it until its deadline, if nothing goes before it.
    pub expected: Duration,
    /// The same, as it is exceeded in one case of ten.
    pub most: Duration,
    /// What goes to jobs before it.
    pub before: Duration,
    /// How many jobs that are.
    pub jobs: usize,
    /// Whether an outlook was asked, or only the clock.
    pub is_forecast: bool,
}

impl Infeasible {
    /// The refusal.
    pub fn fault(&self) -> Fault {
        Fault::new(Code::JobInfeasible, self.to_string())
    }
}

impl fmt::Display for Infeasible {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Demand { need, start: _, deadline } = self.demand;
        write!(f, "needs {} of core time before {deadline}, of which ", Span(need))?;
        if self.is_forecast {
            let (expected, most) = (Span(self.expected), Span(self.most));
            write!(f, "{expected} are expected free (at most {most} in nine of ten cases)")?;
        } else {
            write!(f, "one worker has {} even if the node is always free", Span(self.most))?;
        }
        if self.jobs > 0 {
            let jobs = if self.jobs == 1 { "job" } else { "jobs" };
            write!(f, "; {} go to {} {jobs} before it", Span(self.before), self.jobs)?;
        }
        write!(f, ": give it a later deadline, fewer items, or another node")
    }
}

/// Work that could begin now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Work {
    /// Core time that it takes in one piece: a worker that is given up loses that much.
    pub stretch: Duration,
    /// Core time that all of it takes.
    pub need: Duration,
    /// Since when it could have begun.
    pub since: WallTime,
    /// After this it is worth nothing.
    pub deadline: Option<WallTime>,
}

/// When work waits for a better moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DelayTerms {
    /// Work that takes no longer in one piece never waits.
    pub stretch_above: Duration,
    /// It waits no longer than this after it could have begun; zero: never.
    pub wait_max: Duration,
}

/// Work waits for a better moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Delay {
    /// Until then, or until the outlook changes.
    pub until: WallTime,
    /// What it needs in one piece.
    pub stretch: Duration,
    /// What is expected in one piece from now on.
    pub now: Duration,
}

impl fmt::Display for Delay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (stretch, now) = (Span(self.stretch), Span(self.now));
        write!(
            f,
            "waits for the trough expected at {}: needs {stretch} at a stretch, {now} are expected now",
            self.until
        )
    }
}

impl Supply {
    /// That of so many workers.
    pub fn new(workers: usize, outlook: Option<Outlook>) -> Self {
        let workers = u32::try_from(workers).unwrap_or(u32::MAX).max(1);
        let lane = outlook.as_ref().map(|outlook| {
            let span = outlook.span();
            let lane = |free: &Free| Free {
                p10: (free.p10 / workers).min(span),
                p50: (free.p50 / workers).min(span),
                p90: free.p90.min(span),
            };
            Outlook::new(outlook.from(), span, outlook.spans().iter().map(lane).collect())
        });
        let stretches = lane.as_ref().map(stretches).unwrap_or_default();
        Self { workers, lane, whole: outlook, stretches }
    }

    /// Whether there is an outlook at all.
    pub fn is_forecast(&self) -> bool {
        self.whole.is_some()
    }

    /// The most core time that one worker can get between the two moments.
    fn lane_most(&self, from: WallTime, until: WallTime) -> Duration {
        within(self.lane.as_ref(), 1, from, until, Quantile::P90)
    }

    /// When a worker that begins at `from` has had `need`, at the earliest.
    fn lane_done(&self, from: WallTime, need: Duration) -> WallTime {
        let Some(lane) = &self.lane else { return from.after(need) };
        // Before the outlook everything is free, and after it.
        let early = lane.from().since(from).min(need);
        let (from, left) = (from.after(early), need.saturating_sub(early));
        let Some(done) = lane.moment_of(from, left, Quantile::P90) else {
            let inside = lane.core_time(from, lane.end(), Quantile::P90);
            return from.max(lane.end()).after(left.saturating_sub(inside));
        };
        done
    }

    /// Whether `work` should wait, and until when. Only a moment that is clearly better counts: one from which it is
    /// expected to be done in one piece and by its deadline, when that is not so from now on.
    pub fn delay(&self, now: WallTime, work: &Work, terms: &DelayTerms) -> Option<Delay> {
        let lane = self.lane.as_ref().filter(|lane| lane.from() <= now && now < lane.end())?;
        let last = work.since.after(terms.wait_max);
        if work.stretch <= terms.stretch_above || last <= now {
            return None;
        }
        let expected = self.stretch_at(lane, now);
        if expected >= work.stretch.mul_f64(GOOD_ENOUGH) {
            return None;
        }
        let is_in_time = |begin: WallTime| {
            let done = lane.moment_of(begin, work.need, Quantile::P50);
            work.deadline.is_none_or(|deadline| done.is_some_and(|done| done <= deadline))
        };
        let begins = (0_u32..).zip(&self.stretches).map(|(index, stretch)| (begin_of(lane, index), *stretch));
        let better = begins.filter(|(begin, stretch)| *begin > now && *begin <= last && *stretch >= work.stretch);
        let until = better.map(|(begin, _)| begin).find(|begin| is_in_time(*begin))?;
        Some(Delay { until, stretch: work.stretch, now: expected })
    }

    /// For how long a worker that begins at `from` is expected to run on.
    fn stretch_at(&self, lane: &Outlook, from: WallTime) -> Duration {
        let index = from.since(lane.from()).as_nanos() / lane.span().as_nanos().max(1);
        let index = u32::try_from(index).unwrap_or(u32::MAX);
        let end = begin_of(lane, index.saturating_add(1));
        let free = lane.core_time(from, end, Quantile::P50);
        let next = usize::try_from(index).unwrap_or(usize::MAX).saturating_add(1);
        match goes_on(free, end.since(from)) {
            true => free + self.stretches.get(next).copied().unwrap_or_default(),
            false => free,
        }
    }
}

/// Whether a trough that has so much free of a span is expected to outlast it.
fn goes_on(free: Duration, span: Duration) -> bool {
    free * 2 >= span
}

fn stretches(lane: &Outlook) -> Vec<Duration> {
    let mut stretches: Vec<Duration> = lane.spans().iter().map(|free| free.p50).collect();
    for index in (1..stretches.len()).rev() {
        if goes_on(stretches[index - 1], lane.span()) {
            let after = stretches[index];
            stretches[index - 1] += after;
        }
    }
    stretches
}

fn begin_of(outlook: &Outlook, index: u32) -> WallTime {
    outlook.from().after(outlook.span().saturating_mul(index))
}

/// Core time of `workers` between the two moments; what lies outside the outlook is all free.
fn within(outlook: Option<&Outlook>, workers: u32, from: WallTime, until: WallTime, quantile: Quantile) -> Duration {
    let Some(outlook) = outlook else { return until.since(from).saturating_mul(workers) };
    let early = outlook.from().min(until).since(from);
    let late = until.since(outlook.end().max(from));
    outlook.core_time(from, until, quantile) + (early + late).saturating_mul(workers)
}

/// Whether a job can be done by its deadline, with `before` going before it in this order.
///
/// # Errors
/// The figures, when it cannot be done even in a case as good as one in ten.
pub fn check(
    now: WallTime,
    supply: &Supply,
    demand: Demand,
    before: impl IntoIterator<Item = Claim>,
) -> Result<(), Infeasible> {
    let start = demand.start.max(now);
    let alone = supply.lane_most(start, demand.deadline);
    // When each worker is free again.
    let lanes = usize::try_from(supply.workers).unwrap_or(1).min(crate::units::WORKERS_MAX);
    let mut free = vec![now; lanes];
    let mut jobs = 0;
    for claim in before {
        let Some(lane) = free.iter_mut().min() else { break };
        if claim.need.is_zero() || *lane >= demand.deadline || claim.deadline.is_some_and(|deadline| deadline <= *lane)
        {
            continue;
        }
        let done = supply.lane_done(*lane, claim.need);
        *lane = claim.deadline.map_or(done, |deadline| done.min(deadline));
        jobs += 1;
    }
    let begin = free.into_iter().min().unwrap_or(now).max(start);
    let left = supply.lane_most(begin, demand.deadline);
    // Moments are whole milliseconds: nobody is refused for one.
    if left + Duration::from_millis(1) >= demand.need {
        return Ok(());
    }
    let expected = within(supply.lane.as_ref(), 1, start, demand.deadline, Quantile::P50);
    let before = alone.saturating_sub(left);
    let jobs = if before.is_zero() { 0 } else { jobs };
    Err(Infeasible { demand, expected, most: alone, before, jobs, is_forecast: supply.is_forecast() })
}

/// A span as people say it.
struct Span(Duration);

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.0.as_secs_f64();
        if seconds < 10.0 {
            write!(f, "{seconds:.1} s")
        } else if seconds < 600.0 {
            write!(f, "{seconds:.0} s")
        } else if seconds < 36_000.0 {
            write!(f, "{:.0} min", seconds / 60.0)
        } else {
            write!(f, "{:.0} h", seconds / 3600.0)
        }
    }
}
