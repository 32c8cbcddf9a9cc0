//! How careful is the guard? The figures an operator may set, and which of them make sense together.

use std::time::Duration;

use super::compare::Tolerance;
use crate::units::Health;

/// Shortest and longest window.
pub const WINDOW: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(60));
/// Windows that a deliberate stop takes: one until everything heard is about the stop, and two that count.
pub const CONTROL_WINDOWS: u32 = 3;
/// Fewest windows from one deliberate stop to the next: it takes at most half of the time.
pub const CONTROL_EVERY_WINDOWS_MIN: u32 = 6;

/// How the guard decides.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Whether it does anything.
    pub enabled: bool,
    /// A figure may be worse by this while inference runs, in permille of what it is without.
    pub worse_permille: u32,
    /// And by this at least, in the unit of the figure; by its position in [`Health::ALL`].
    pub worse_min: [u32; Health::ALL.len()],
    /// Length of the windows that are compared. The figures should come at least as often.
    pub window: Duration,
    /// Under suspicion inference is stopped for [`CONTROL_WINDOWS`] windows at most once in this time.
    pub control_every: Duration,
    /// After so much calm one more worker may run.
    pub calm: Duration,
    /// With no worker left it is tried again after `calm`, and twice as long each further time up to this.
    pub pause_max: Duration,
}

/// Figures that cannot work.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadSettings {
    /// Everything, or nothing, would be harm.
    #[error("worse_permille is {0}, but must be 1 to 10000")]
    Worse(u32),
    /// A window in which nothing is heard, or all is mixed up.
    #[error("window is {} ms, but must be {} to {} ms", .0.as_millis(), WINDOW.0.as_millis(), WINDOW.1.as_millis())]
    Window(Duration),
    /// Comparing would take most of the time.
    #[error(
        "control_every is {} ms, but must be at least {CONTROL_EVERY_WINDOWS_MIN} windows, which are {} ms",
        .control_every.as_millis(),
        (*.window * CONTROL_EVERY_WINDOWS_MIN).as_millis()
    )]
    ControlTooOften {
        /// Time between two deliberate stops.
        control_every: Duration,
        /// Length of a window.
        window: Duration,
    },
    /// Nothing could be seen before the budget rises again.
    #[error("calm is {} ms, but must be at least control_every, which is {} ms", .calm.as_millis(), .control_every.as_millis())]
    CalmTooShort {
        /// Time after which one more worker may run.
        calm: Duration,
        /// Time between two deliberate stops.
        control_every: Duration,
    },
    /// The longest pause is shorter than the first.
    #[error("pause_max is {} ms, but must be at least calm, which is {} ms", .pause_max.as_millis(), .calm.as_millis())]
    PauseCrossed {
        /// First pause.
        calm: Duration,
        /// Longest pause.
        pause_max: Duration,
    },
}

impl Default for Settings {
    /// As the shipped configuration has it.
    fn default() -> Self {
        Self {
            enabled: true,
            worse_permille: 200,
            worse_min: [50, 50, 2000, 10],
            window: Duration::from_secs(1),
            control_every: Duration::from_secs(30),
            calm: Duration::from_secs(120),
            pause_max: Duration::from_secs(3600),
        }
    }
}

impl Settings {
    /// No guard.
    pub fn off() -> Self {
        Self { enabled: false, ..Self::default() }
    }

    /// Checks every figure, and how they go together.
    ///
    /// # Errors
    /// The first figure that cannot work.
    pub fn check(&self) -> Result<(), BadSettings> {
        let Self { worse_permille, window, control_every, calm, pause_max, .. } = *self;
        if worse_permille == 0 || worse_permille > 10_000 {
            return Err(BadSettings::Worse(worse_permille));
        }
        if window < WINDOW.0 || window > WINDOW.1 {
            return Err(BadSettings::Window(window));
        }
        if control_every < window * CONTROL_EVERY_WINDOWS_MIN {
            return Err(BadSettings::ControlTooOften { control_every, window });
        }
        if calm < control_every {
            return Err(BadSettings::CalmTooShort { calm, control_every });
        }
        if pause_max < calm {
            return Err(BadSettings::PauseCrossed { calm, pause_max });
        }
        Ok(())
    }

    /// How much worse that figure may become.
    pub(super) fn tolerance(&self, figure: Health) -> Tolerance {
        Tolerance { permille: self.worse_permille, least: self.worse_min[figure as usize] }
    }
}
