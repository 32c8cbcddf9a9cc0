//! What do the simple methods say, and what do all of them start from?

use super::numbers::{Step, log_of, real};

/// The smoothed level forgets with this time, in steps: an hour.
const MEMORY: f64 = 30.0;

/// A way to forecast.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Method {
    /// As now. The floor that the others have to beat.
    Persistence,
    /// As yesterday at that time.
    Seasonal,
    /// The recent level, smoothed.
    Ewma,
    /// What is usual at that time of day, and what is left of the present deviation by then.
    Profile,
}

impl Method {
    /// Every method; the floor first.
    pub const ALL: [Self; 4] = [Self::Persistence, Self::Seasonal, Self::Ewma, Self::Profile];

    /// As it is written in messages.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Persistence => "persistence",
            Self::Seasonal => "seasonal",
            Self::Ewma => "ewma",
            Self::Profile => "profile",
        }
    }

    /// Its place in [`Method::ALL`].
    pub const fn index(self) -> usize {
        match self {
            Self::Persistence => 0,
            Self::Seasonal => 1,
            Self::Ewma => 2,
            Self::Profile => 3,
        }
    }
}

/// What a forecast is made from.
#[derive(Clone, Copy, Debug)]
pub(super) struct Origin {
    pub(super) step: Step,
    /// In permille.
    pub(super) level: f64,
    /// Logarithm of the smoothed level.
    pub(super) trend: f64,
    /// How far the logarithm of the level is from what is usual.
    pub(super) deviation: Option<f64>,
}

/// The smoothed level, in logarithms.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Trend(Option<(Step, f64)>);

impl Trend {
    pub(super) fn on_step(&mut self, step: Step, level: f64) {
        self.0 = Some((step, self.as_of(step, level)));
    }

    /// What it is with this level, at or after the last step.
    pub(super) fn as_of(&self, step: Step, level: f64) -> f64 {
        let log = log_of(level);
        match self.0 {
            Some((at, smooth)) => {
                let kept = (-real(step.since(at).max(0)) / MEMORY).exp();
                smooth * kept + log * (1.0 - kept)
            }
            None => log,
        }
    }
}
