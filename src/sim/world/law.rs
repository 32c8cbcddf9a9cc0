//! Does the guard keep its own law? Told once more from its verdicts and the promises alone, without a look at how it
//! comes to them.

use std::time::Duration;

use super::script::part;
use crate::governor::guard::{self, Ruling, Verdict};
use crate::governor::{Decision, Reason};
use crate::load::{Observed, Reading};
use crate::sim::day::Random;
use crate::units::{CellId, Health, Instant, SourceId};

/// How the RAN says that it fares, and what a running worker does to it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Neighbour {
    /// Each running worker makes the figure worse by this part of what it is alone.
    pub harm: f64,
    /// Standard deviation of the figure's logarithm.
    pub noise: f64,
    /// How much worse it becomes at noon, whatever anybody does: 1 is twice as bad.
    pub step: f64,
}

/// Time between two readings of health.
const SAID_EVERY: Duration = Duration::from_secs(15);
/// What the figure is alone.
const ALONE: f64 = 400.0;

/// A guard for days whose load is told every two minutes.
pub fn settings() -> guard::Settings {
    guard::Settings {
        window: Duration::from_secs(30),
        control_every: Duration::from_secs(300),
        calm: Duration::from_secs(1800),
        pause_max: Duration::from_secs(4 * 3600),
        ..guard::Settings::default()
    }
}

/// The RAN's voice.
#[derive(Debug)]
pub(super) struct Voice {
    neighbour: Neighbour,
    random: Random,
    noon: Instant,
    pub(super) next_at: Instant,
}

impl Voice {
    pub(super) fn new(now: Instant, neighbour: Neighbour, seed: u64) -> Self {
        Self { neighbour, random: Random::new(seed), noon: now.after(Duration::from_secs(12 * 3600)), next_at: now }
    }

    /// What it says while so many workers execute.
    pub(super) fn say(&mut self, now: Instant, executing: u8) -> Reading {
        self.next_at = now.after(SAID_EVERY * 9 / 10 + part(&mut self.random, SAID_EVERY / 5));
        let Neighbour { harm, noise, step } = self.neighbour;
        let base = if now < self.noon { ALONE } else { ALONE * (1.0 + step) };
        let value = base * (noise * self.random.normal()).exp() * (1.0 + harm * f64::from(executing));
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "clamped to what fits")]
        let value = value.clamp(0.0, 1e9) as u32;
        let observed = Observed::Health { figure: Health::EnqueueDelay, value };
        Reading { source: SourceId(0), cell: CellId(1), stamped: None, observed }
    }
}

/// What the guard may do, by its own verdicts.
#[derive(Clone, Debug)]
pub(super) struct Law {
    settings: guard::Settings,
    /// Most workers that may run, and what the policy says.
    pub(super) ceiling: u8,
    workers: u8,
    /// When the ceiling may be raised again.
    raise_from: Instant,
    suspects: bool,
    comparing: Option<Instant>,
    compared_at: Option<Instant>,
    /// Stops to compare without a suspicion; a guard that knows nothing may look a few times.
    looks: u32,
}

/// Most deliberate stops of a day for want of any knowledge: after them windows without inference are known.
const LOOKS_MAX: u32 = 12;

type Checked = Result<(), String>;

macro_rules! ensure {
    ($holds:expr, $($text:tt)+) => {
        if !$holds {
            return Err(format!($($text)+));
        }
    };
}

impl Law {
    pub(super) fn new(settings: guard::Settings, workers: u8) -> Self {
        Self {
            settings,
            ceiling: workers,
            workers,
            raise_from: Instant::default(),
            suspects: false,
            comparing: None,
            compared_at: None,
            looks: 0,
        }
    }

    /// The policy changed.
    pub(super) fn set_workers(&mut self, workers: u8) {
        self.ceiling = if self.ceiling == self.workers { workers } else { self.ceiling.min(workers) };
        self.workers = workers;
    }

    /// Whether a budget of none is the guard's.
    pub(super) fn explains(reason: Reason) -> bool {
        matches!(reason, Reason::Guarded(_) | Reason::Comparing(_))
    }

    /// The guard has ruled.
    pub(super) fn on_verdict(&mut self, verdict: &Verdict) -> Checked {
        let Verdict { at, ruling, from, to, .. } = *verdict;
        ensure!(from == self.ceiling, "the guard says {verdict:?}, but the ceiling was {}", self.ceiling);
        match ruling {
            Ruling::Harm => {
                ensure!(to <= from / 2, "harm does not halve the ceiling: {verdict:?}");
                self.raise_from = at.after(self.settings.calm);
                self.suspects = false;
            }
            Ruling::Calm => {
                ensure!(to == from + 1 && to <= self.workers, "raised by more than one or beyond all: {verdict:?}");
                ensure!(at >= self.raise_from, "raised {:?} too early", self.raise_from.since(at));
                ensure!(!self.suspects, "raised while there is a suspicion");
                self.raise_from = at.after(self.settings.calm);
            }
            Ruling::Suspected => self.suspects = true,
            Ruling::Cleared => self.suspects = false,
            Ruling::Silent => self.suspects = false,
            Ruling::Heard | Ruling::Unheard => {}
        }
        ensure!(ruling == Ruling::Harm || ruling == Ruling::Calm || to == from, "{verdict:?} changes the ceiling");
        self.ceiling = to;
        Ok(())
    }

    /// How the node stands after a step.
    pub(super) fn after(&mut self, now: Instant, decision: Decision, lag: Duration) -> Checked {
        let Decision { budget, reason, .. } = decision;
        ensure!(budget <= self.ceiling, "the budget is {budget}, but the guard's ceiling is {}", self.ceiling);
        let is_guarded = matches!(reason, Reason::Guarded(_));
        ensure!(!is_guarded || self.ceiling == 0, "guarded with a ceiling of {}", self.ceiling);
        let is_comparing = matches!(reason, Reason::Comparing(_));
        // The load may end a trough while inference stands to compare, and a new one may begin before that is over.
        let lasts = self.settings.window * guard::CONTROL_WINDOWS + lag * 2;
        if is_comparing && self.comparing.is_none() {
            self.comparing = self.compared_at.filter(|at| now.since(*at) <= lasts);
        }
        match (is_comparing, self.comparing) {
            (true, None) => {
                let every = self.settings.control_every;
                ensure!(
                    self.compared_at.is_none_or(|at| now.since(at) + lag >= every),
                    "compares again after {:?}",
                    self.compared_at.map(|at| now.since(at))
                );
                self.looks += u32::from(!self.suspects);
                ensure!(self.looks <= LOOKS_MAX, "compared {} times without a suspicion", self.looks);
                (self.comparing, self.compared_at) = (Some(now), Some(now));
            }
            (true, Some(since)) => {
                ensure!(now.since(since) <= lasts, "stands still to compare for {:?}", now.since(since));
            }
            (false, _) => self.comparing = None,
        }
        Ok(())
    }
}
