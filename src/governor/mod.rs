//! May inference run now, and on how many cores?
//!
//! Pure: imports `units` and nothing else, reads no clock; every input carries `now`.
//! Missing, late or malformed load means busy; a stop is immediate, a start is earned:
//!
//! * Load at or above `busy_above`, a late slot, a senseless or missing reading: budget 0 in the same call.
//! * Budget rises only after the load was below `idle_below`, known and fresh, for the whole settle time.
//! * Between the two limits a trough goes on, and a settling starts over.
//! * The settle time doubles when a trough ended soon after it began, and halves when troughs last.
//! * Time that runs backwards counts as time that stands still: it grants nothing.
//! * What harms the RAN although its load is low is held down by the [`guard`].

pub mod forecast;
pub mod guard;
mod policy;
#[cfg(test)]
mod tests;

pub use policy::{BadPolicy, Policy, SETTLE_MIN};

use crate::units::{Health, Instant, SourceId, Utilization};
use guard::{BadSettings, Figure, Guard, News};
use policy::Settle;

/// The load of the node at one moment, already fused over all sources.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sample {
    /// What is known.
    pub load: Load,
    /// Until when it may be believed; after that the load is unknown.
    pub fresh_until: Instant,
}

/// What is known about the load.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Load {
    /// A trustworthy level, and the source that gave the highest.
    Level(SourceId, Utilization),
    /// The RAN missed a slot: busy whatever the level says.
    Late(SourceId),
    /// A source said something that makes no sense.
    Malformed(SourceId),
    /// A required source has gone silent. Others may be fresh until the sample's `fresh_until`; once that has passed,
    /// none is.
    Stale(SourceId),
    /// No source has ever been heard.
    Unheard,
}

/// What an operator or controller asks of the governor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// Run nothing until released.
    Hold,
    /// End of hold.
    Release,
    /// Run nothing any more: the agent is going away or being emptied.
    Drain,
    /// End of drain.
    Resume,
}

/// Mode of the node, as published.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// No sample yet.
    Starting,
    /// Load is too high, or not to be trusted.
    Busy,
    /// Load is low, not yet for long enough.
    Settling,
    /// Inference may run.
    Trough,
    /// Held by order.
    Held,
    /// No trustworthy source.
    Blind,
    /// Going away.
    Draining,
}

impl Mode {
    /// Every mode.
    pub const ALL: [Self; 7] =
        [Self::Starting, Self::Busy, Self::Settling, Self::Trough, Self::Held, Self::Blind, Self::Draining];

    /// The mode as it is written in messages.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Busy => "busy",
            Self::Settling => "settling",
            Self::Trough => "trough",
            Self::Held => "held",
            Self::Blind => "blind",
            Self::Draining => "draining",
        }
    }
}

/// Why the mode is what it is: the material of the published `reason`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// No sample yet.
    NoSampleYet,
    /// No source was ever heard, or none is left.
    NoSource,
    /// A source is silent beyond its freshness.
    Stale(SourceId),
    /// A source's message made no sense.
    Malformed(SourceId),
    /// The RAN reported late slots.
    Late(SourceId),
    /// Load at or above `busy_above`.
    Above {
        /// The source with the highest level.
        source: SourceId,
        /// Its level.
        level: Utilization,
        /// `busy_above`.
        limit: Utilization,
    },
    /// Load between the two limits, and no trough to go on with.
    NotBelow {
        /// The source with the highest level.
        source: SourceId,
        /// Its level.
        level: Utilization,
        /// `idle_below`.
        limit: Utilization,
    },
    /// Low, waiting until this moment.
    Settling {
        /// When inference may start if nothing happens.
        until: Instant,
    },
    /// Low for long enough.
    Low {
        /// The source with the highest level.
        source: SourceId,
        /// Its level.
        level: Utilization,
        /// The limit that it is below: `idle_below`, or `busy_above` once the trough has begun.
        limit: Utilization,
    },
    /// The RAN fares worse while inference runs, by this figure.
    Guarded(Option<Figure>),
    /// Inference stands for a moment, to see how the RAN fares without it.
    Comparing(Option<Figure>),
    /// By order.
    Held,
    /// By order.
    Draining,
}

/// What the shell has to do: let `budget` workers run and stop the others, now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Decision {
    /// The first `budget` workers run.
    pub budget: u8,
    /// Mode to publish.
    pub mode: Mode,
    /// Why.
    pub reason: Reason,
}

/// Decides whether inference may run, and on how many cores. See the module for the rules.
#[derive(Clone, Debug)]
pub struct Governor {
    policy: Policy,
    settle: Settle,
    /// Latest moment seen.
    clock: Instant,
    latest: Option<Sample>,
    phase: Phase,
    held: bool,
    draining: bool,
    decision: Decision,
    guard: Guard,
}

/// Where the load stands, orders aside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// Not low, or not known.
    High,
    /// Low without interruption since then.
    Low { since: Instant },
    /// Running since then.
    Trough { since: Instant },
}

impl Governor {
    /// A governor that has heard nothing and lets nothing run, without a harm guard.
    ///
    /// # Errors
    /// A policy that cannot work.
    pub fn new(policy: Policy) -> Result<Self, BadPolicy> {
        Self::guarded(policy, guard::Settings::off())
    }

    /// The same with a harm guard.
    ///
    /// # Errors
    /// A policy that cannot work, or settings of the guard that cannot.
    pub fn guarded(policy: Policy, guard: guard::Settings) -> Result<Self, BadPolicy> {
        policy.check()?;
        Ok(Self {
            guard: Guard::new(guard, policy.workers)?,
            settle: Settle::new(&policy),
            policy,
            clock: Instant::default(),
            latest: None,
            phase: Phase::High,
            held: false,
            draining: false,
            decision: Decision { budget: 0, mode: Mode::Starting, reason: Reason::NoSampleYet },
        })
    }

    /// Takes in the load. Returns the decision when its budget or mode has changed.
    pub fn on_sample(&mut self, now: Instant, sample: Sample) -> Option<Decision> {
        let now = self.advance(now);
        // A gap that nobody called a timeout for is a gap all the same.
        if self.low_level(now).is_err() {
            self.leave(now);
        }
        self.tell_guard(now, sample);
        self.latest = Some(sample);
        self.update(now)
    }

    /// Takes in how the RAN fares. What follows from it is found by the next [`Governor::on_work`].
    pub fn on_health(&mut self, now: Instant, figure: Health, value: u32) {
        let now = self.advance(now);
        self.guard.on_health(now, figure, value);
    }

    /// Takes in how many workers have a job running; the guard draws its conclusions. To be called often. Returns the
    /// decision when its budget or mode has changed.
    pub fn on_work(&mut self, now: Instant, busy: u8) -> Option<Decision> {
        let now = self.advance(now);
        self.guard.on_work(now, busy);
        self.pass_guard(now).then(|| self.update(now)).flatten()
    }

    /// What the guard has to tell; to be taken until it is empty.
    pub fn take_news(&mut self) -> Option<News> {
        self.guard.take_news()
    }

    /// Takes in an order. Returns the decision when its budget or mode has changed.
    pub fn on_order(&mut self, now: Instant, order: Order) -> Option<Decision> {
        match order {
            Order::Hold => self.held = true,
            Order::Release => self.held = false,
            Order::Drain => self.draining = true,
            Order::Resume => self.draining = false,
        }
        let now = self.advance(now);
        self.update(now)
    }

    /// Takes in that time has passed: freshness ran out, the settle time is over. May be called at any time.
    /// Returns the decision when its budget or mode has changed.
    pub fn on_timeout(&mut self, now: Instant) -> Option<Decision> {
        let now = self.advance(now);
        self.pass_guard(now);
        self.update(now)
    }

    /// Replaces the policy, without forgetting what was learned about the load. Returns the decision when its budget
    /// or mode has changed.
    ///
    /// # Errors
    /// A policy that cannot work; the old one stays.
    pub fn set_policy(&mut self, now: Instant, policy: Policy) -> Result<Option<Decision>, BadPolicy> {
        policy.check()?;
        self.guard.set_workers(policy.workers);
        self.policy = policy;
        self.settle.limit(&self.policy);
        let now = self.advance(now);
        Ok(self.update(now))
    }

    /// Replaces the settings of the guard. Returns the decision when its budget or mode has changed.
    ///
    /// # Errors
    /// Settings that cannot work; the old ones stay.
    pub fn set_guard(&mut self, now: Instant, settings: guard::Settings) -> Result<Option<Decision>, BadSettings> {
        self.guard.set_settings(settings)?;
        let now = self.advance(now);
        Ok(self.update(now))
    }

    /// When to call [`Governor::on_timeout`] next at the latest.
    pub fn next_timeout(&self) -> Option<Instant> {
        let expiry = self.latest.map(|sample| sample.fresh_until).filter(|until| *until > self.clock);
        let step = match self.phase {
            Phase::High => None,
            Phase::Low { since } => (!self.forbidden()).then(|| since.after(self.settle.current())),
            Phase::Trough { since } => {
                let raised = self.raised(self.clock.since(since));
                (raised < self.policy.workers && !self.forbidden())
                    .then(|| since.after(self.policy.raise_every.saturating_mul(u32::from(raised))))
            }
        };
        expiry.into_iter().chain(step).chain(self.guard.next_moment()).min()
    }

    /// The decision in force.
    pub const fn decision(&self) -> Decision {
        self.decision
    }

    /// The policy in force.
    pub const fn policy(&self) -> &Policy {
        &self.policy
    }

    fn advance(&mut self, now: Instant) -> Instant {
        self.clock = self.clock.max(now);
        self.clock
    }

    /// Whether the guard allows another number of workers than before.
    fn pass_guard(&mut self, now: Instant) -> bool {
        let before = (self.guard.ceiling(), self.guard.is_comparing());
        self.guard.pass(now);
        before != (self.guard.ceiling(), self.guard.is_comparing())
    }

    /// A load as the guard takes it: a level that allows to run, or nothing; and a moment in which slots were late,
    /// once.
    fn tell_guard(&mut self, now: Instant, sample: Sample) {
        let level = match sample.load {
            Load::Level(_, level) => Some(level).filter(|level| *level < self.policy.busy_above),
            Load::Late(_) | Load::Malformed(_) | Load::Stale(_) | Load::Unheard => None,
        };
        // The end of the hold moves with each further late slot, and with nothing else.
        let late = matches!(sample.load, Load::Late(_));
        if late && self.latest != Some(sample) {
            self.guard.on_late(now);
        }
        self.guard.on_load(now, level);
    }

    fn forbidden(&self) -> bool {
        self.held || self.draining
    }

    fn update(&mut self, now: Instant) -> Option<Decision> {
        let (budget, mode, reason) = match self.low_level(now) {
            Err((mode, reason)) => {
                self.leave(now);
                (0, mode, reason)
            }
            Ok((source, level)) => {
                self.step(now, level);
                self.judge(now, source, level)
            }
        };
        let decision = if self.draining {
            Decision { budget: 0, mode: Mode::Draining, reason: Reason::Draining }
        } else if self.held {
            Decision { budget: 0, mode: Mode::Held, reason: Reason::Held }
        } else {
            Decision { budget, mode, reason }
        };
        let before = std::mem::replace(&mut self.decision, decision);
        (before.budget != decision.budget || before.mode != decision.mode).then_some(decision)
    }

    /// The level, when it is known, fresh and below `busy_above`; else why nothing may run.
    fn low_level(&self, now: Instant) -> Result<(SourceId, Utilization), (Mode, Reason)> {
        let Some(sample) = self.latest else { return Err((Mode::Starting, Reason::NoSampleYet)) };
        let silent = now >= sample.fresh_until;
        let limit = self.policy.busy_above;
        match sample.load {
            Load::Unheard => Err((Mode::Blind, Reason::NoSource)),
            Load::Level(source, _) | Load::Late(source) | Load::Malformed(source) | Load::Stale(source) if silent => {
                Err((Mode::Blind, Reason::Stale(source)))
            }
            Load::Stale(source) => Err((Mode::Busy, Reason::Stale(source))),
            Load::Malformed(source) => Err((Mode::Busy, Reason::Malformed(source))),
            Load::Late(source) => Err((Mode::Busy, Reason::Late(source))),
            Load::Level(source, level) if level >= limit => Err((Mode::Busy, Reason::Above { source, level, limit })),
            Load::Level(source, level) => Ok((source, level)),
        }
    }

    /// The load has gone up, or out of sight.
    fn leave(&mut self, now: Instant) {
        if let Phase::Trough { since } = self.phase {
            self.settle.on_yield(&self.policy, now.since(since));
        }
        self.phase = Phase::High;
    }

    /// Moves the phase with a level that is below `busy_above`.
    fn step(&mut self, now: Instant, level: Utilization) {
        let low = level < self.policy.idle_below;
        self.phase = match self.phase {
            Phase::Trough { since } if !self.forbidden() => Phase::Trough { since },
            Phase::Low { since } if low && !self.forbidden() && now.since(since) >= self.settle.current() => {
                Phase::Trough { since: now }
            }
            Phase::Low { since } if low => Phase::Low { since },
            Phase::High | Phase::Low { .. } | Phase::Trough { .. } if low => Phase::Low { since: now },
            Phase::High | Phase::Low { .. } | Phase::Trough { .. } => Phase::High,
        };
    }

    /// The decision by phase, with a level that is below `busy_above`.
    fn judge(&self, now: Instant, source: SourceId, level: Utilization) -> (u8, Mode, Reason) {
        let Policy { idle_below, busy_above, .. } = self.policy;
        match self.phase {
            Phase::High => (0, Mode::Busy, Reason::NotBelow { source, level, limit: idle_below }),
            Phase::Low { since } => (0, Mode::Settling, Reason::Settling { until: since.after(self.settle.current()) }),
            Phase::Trough { since } => {
                let budget = self.raised(now.since(since)).min(self.guard.ceiling());
                let figure = self.guard.figure();
                let limit = if level < idle_below { idle_below } else { busy_above };
                match budget {
                    0 if self.guard.is_comparing() => (0, Mode::Busy, Reason::Comparing(figure)),
                    0 => (0, Mode::Busy, Reason::Guarded(figure)),
                    _ => (budget, Mode::Trough, Reason::Low { source, level, limit }),
                }
            }
        }
    }

    /// How many workers may run so long after the begin of a trough, the guard aside.
    fn raised(&self, running: std::time::Duration) -> u8 {
        let raises = running.as_nanos().checked_div(self.policy.raise_every.as_nanos());
        let raised = raises.map_or(u8::MAX, |raises| u8::try_from(raises).unwrap_or(u8::MAX).saturating_add(1));
        raised.min(self.policy.workers)
    }
}
