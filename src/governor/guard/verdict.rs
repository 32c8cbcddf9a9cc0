//! What did the guard find, and how is it said?

use std::fmt;

use crate::units::{Health, Instant, Utilization};

/// A figure by which the RAN is seen to fare worse.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Figure {
    /// Moments in which late or missed slots were reported.
    Late,
    /// A figure of health.
    Health(Health),
}

impl Figure {
    /// Every figure.
    pub const ALL: [Self; 5] = [
        Self::Late,
        Self::Health(Health::EnqueueDelay),
        Self::Health(Health::SlotLatency),
        Self::Health(Health::RunQueueDelay),
        Self::Health(Health::Pressure),
    ];

    /// As it is written in messages and metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Late => "late",
            Self::Health(figure) => figure.as_str(),
        }
    }

    /// As a person reads it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Late => "late slots",
            Self::Health(Health::EnqueueDelay) => "enqueue",
            Self::Health(Health::SlotLatency) => "slot",
            Self::Health(Health::RunQueueDelay) => "run queue",
            Self::Health(Health::Pressure) => "pressure",
        }
    }
}

/// Largest change that is told, in permille: a hundredfold.
pub const CHANGE_PERMILLE_MAX: i32 = 100_000;

/// One figure while inference ran and while it did not, at like load.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Comparison {
    /// Which figure.
    pub figure: Figure,
    /// When it was made.
    pub at: Instant,
    /// Both sides had a load of at least this.
    pub load_from: Utilization,
    /// And below this; full: up to full.
    pub load_below: Utilization,
    /// Workers with a job running in the windows compared.
    pub workers: u8,
    /// Which quantile of the windows is compared: the highest that both sides have enough windows for.
    pub quantile_permille: u16,
    /// That quantile of the windows in which inference ran, in the unit of the figure; late slots: times an hour.
    pub running: u32,
    /// The same of those in which it did not.
    pub stopped: u32,
    /// Windows in which inference ran; late slots: seconds.
    pub running_windows: u32,
    /// Windows in which it did not; late slots: seconds.
    pub stopped_windows: u32,
}

impl Comparison {
    /// How much higher the figure was while inference ran, in permille; negative when it was lower. At most
    /// [`CHANGE_PERMILLE_MAX`].
    pub fn change_permille(&self) -> i32 {
        let (running, stopped) = (i64::from(self.running), i64::from(self.stopped));
        let change = (running - stopped) * 1000 / stopped.max(1);
        i32::try_from(change).unwrap_or(CHANGE_PERMILLE_MAX).min(CHANGE_PERMILLE_MAX)
    }
}

/// `enqueue p99 +38 % while running`.
impl fmt::Display for Comparison {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.figure.name())?;
        match self.figure {
            Figure::Late => {}
            Figure::Health(_) => match (self.quantile_permille / 10, self.quantile_permille % 10) {
                (whole, 0) => write!(f, " p{whole}")?,
                (whole, tenth) => write!(f, " p{whole}.{tenth}")?,
            },
        }
        write!(f, " {:+} % while running", self.change_permille() / 10)
    }
}

/// What the guard has come to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Ruling {
    /// Inference harms the RAN: fewer workers may run.
    Harm,
    /// It has been calm: one more worker may run.
    Calm,
    /// A figure is worse while inference runs than it was before: inference is stopped now and then, to compare.
    Suspected,
    /// The figure is as bad without inference, or it could not be shown that it is not.
    Cleared,
    /// No figure of health was ever heard: the guard sees late slots only.
    Unheard,
    /// Figures that had been heard do not come any more: the budget is not raised.
    Silent,
    /// Figures come, for the first time or again.
    Heard,
}

impl Ruling {
    /// Every ruling.
    pub const ALL: [Self; 7] =
        [Self::Harm, Self::Calm, Self::Suspected, Self::Cleared, Self::Unheard, Self::Silent, Self::Heard];

    /// As it is written in messages and metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Harm => "harm",
            Self::Calm => "calm",
            Self::Suspected => "suspected",
            Self::Cleared => "cleared",
            Self::Unheard => "unheard",
            Self::Silent => "silent",
            Self::Heard => "heard",
        }
    }
}

/// A ruling of the guard, with what it rests on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// When.
    pub at: Instant,
    /// What it came to.
    pub ruling: Ruling,
    /// Most workers that might run before.
    pub from: u8,
    /// Most workers that may run from now on.
    pub to: u8,
    /// What it rests on; for [`Ruling::Calm`] what the budget had been lowered for, where there is something.
    pub comparison: Option<Comparison>,
}

/// `budget 2 → 1, enqueue p99 +38 % while running`.
impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { from, to, .. } = *self;
        match (self.ruling, self.comparison) {
            (Ruling::Harm, Some(comparison)) => write!(f, "budget {from} → {to}, {comparison}"),
            (Ruling::Harm, None) => write!(f, "budget {from} → {to}"),
            (Ruling::Calm, _) => write!(f, "budget {from} → {to}, calm again"),
            (Ruling::Suspected, Some(comparison)) => write!(f, "{comparison}, stopping now and then to compare"),
            (Ruling::Suspected, None) => f.write_str("stopping now and then to compare"),
            (Ruling::Cleared, Some(comparison)) => {
                write!(f, "{} is not shown to come from inference", comparison.figure.name())
            }
            (Ruling::Cleared, None) => f.write_str("not shown to come from inference"),
            (Ruling::Unheard, _) => f.write_str("no health figures, only late slots are watched"),
            (Ruling::Silent, _) => write!(f, "no health figures any more, the budget is not raised above {to}"),
            (Ruling::Heard, _) => f.write_str("health figures are heard"),
        }
    }
}

/// Something that the guard has to tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum News {
    /// A ruling.
    Verdict(Verdict),
    /// How a figure compares at the moment; told now and then, whatever follows from it.
    Compared(Comparison),
}

#[cfg(test)]
mod tests {
    use super::*;

    fn comparison(running: u32, stopped: u32) -> Comparison {
        Comparison {
            figure: Figure::Health(Health::EnqueueDelay),
            at: Instant::default(),
            load_from: Utilization::IDLE,
            load_below: Utilization::FULL,
            workers: 2,
            quantile_permille: 990,
            running,
            stopped,
            running_windows: 100,
            stopped_windows: 100,
        }
    }

    #[test]
    fn a_verdict_reads_as_promised() {
        let verdict = Verdict {
            at: Instant::default(),
            ruling: Ruling::Harm,
            from: 2,
            to: 1,
            comparison: Some(comparison(138, 100)),
        };
        assert_eq!(verdict.to_string(), "budget 2 → 1, enqueue p99 +38 % while running");
    }

    #[test]
    fn no_change_is_out_of_range_whatever_the_values() {
        for (running, stopped, change) in
            [(0, 0, 0), (5, 0, 5000), (u32::MAX, 0, CHANGE_PERMILLE_MAX), (0, u32::MAX, -1000), (150, 200, -250)]
        {
            assert_eq!(comparison(running, stopped).change_permille(), change);
        }
    }
}
