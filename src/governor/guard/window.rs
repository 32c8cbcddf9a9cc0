//! What was going on in this window? One span of time, in which inference ran or did not.

use std::time::Duration;

use super::evidence::Side;
use crate::units::{Health, Instant, Utilization};

/// In a window of which inference took at most this part it was stopped, in permille of one worker.
const STOPPED_PERMILLE_MAX: u128 = 20;
/// In a window of which it took less than this it neither ran nor stood.
const RUNNING_PERMILLE_MIN: u128 = 500;

/// A window that is open.
#[derive(Clone, Copy, Debug)]
pub(super) struct Window {
    pub(super) began: Instant,
    /// Time of the workers with a job running, all together, in ns.
    worked_ns: u128,
    /// The highest load in it; `None` once it was unknown.
    level: Option<Utilization>,
    /// The worst value heard of each figure.
    pub(super) worst: [Option<u32>; Health::ALL.len()],
}

/// What a window was, by what inference did in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Class {
    Stopped,
    /// With that many workers, on average and rounded.
    Running(u8),
    /// Some of this and some of that: nothing can be learned.
    Mixed,
}

impl Class {
    /// Which side it is evidence for.
    pub(super) fn side(self) -> Option<(Side, u8)> {
        match self {
            Self::Stopped => Some((Side::Stopped, 0)),
            Self::Running(workers) => Some((Side::Running, workers)),
            Self::Mixed => None,
        }
    }
}

impl Window {
    pub(super) fn new(now: Instant, level: Option<Utilization>) -> Self {
        Self { began: now, worked_ns: 0, level, worst: [None; Health::ALL.len()] }
    }

    /// So many workers ran a job for so long.
    pub(super) fn worked(&mut self, workers: u8, span: Duration) {
        self.worked_ns += u128::from(workers) * span.as_nanos();
    }

    /// The load is this from now on.
    pub(super) fn set_level(&mut self, level: Option<Utilization>) {
        self.level = self.level.zip(level).map(|(known, level)| known.max(level));
    }

    /// A value was heard.
    pub(super) fn heard(&mut self, figure: Health, value: u32) {
        let worst = &mut self.worst[figure as usize];
        *worst = (*worst).max(Some(value));
    }

    /// The highest load, if it was known all the time.
    pub(super) fn level(&self) -> Option<Utilization> {
        self.level
    }

    /// What inference did in it until now.
    pub(super) fn class(&self, now: Instant) -> Class {
        let permille = self.worked_ns.saturating_mul(1000) / now.since(self.began).as_nanos().max(1);
        match permille {
            ..=STOPPED_PERMILLE_MAX => Class::Stopped,
            RUNNING_PERMILLE_MIN.. => Class::Running(u8::try_from((permille + 500) / 1000).unwrap_or(u8::MAX)),
            _ => Class::Mixed,
        }
    }
}
