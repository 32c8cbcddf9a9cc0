//! What did the broker forget, and what must a controller do about it? Pure.
//!
//! A broker's acknowledgement is not delivery: one that is killed has forgotten what it acknowledged, in both
//! directions, and messages expire. The node forgets nothing. So a controller asks it: after each connect, at each birth
//! of the node, and every so often besides ([`Rounds`]). What follows from the answer is [`step`]; every step may be
//! taken twice without harm, because a job that is known under its id is not run again.

use std::time::Duration;

use super::backoff::fraction;
use super::messages::JobSummary;
use crate::units::Instant;

/// How often a controller asks when nothing else makes it ask.
pub const ROUND_EVERY: Duration = Duration::from_secs(10);
/// Shortest and longest time between two rounds that makes sense.
pub const ROUND_EVERY_BOUNDS: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(3600));

/// What a controller has of a job that it has submitted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Known {
    /// A terminal status.
    pub has_ended: bool,
    /// Its result, or the error in its place.
    pub has_result: bool,
}

/// What the node says of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// It does not know the job: the submit never arrived, was refused, or was forgotten long after its end.
    Unknown,
    /// It has not ended.
    Open,
    /// It has.
    Ended {
        /// Whether its result can be asked for; an older node does not say.
        result_kept: Option<bool>,
    },
}

/// What a controller does then.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Nothing is missing.
    Done,
    /// The node works on it.
    Wait,
    /// Ask for the result.
    Fetch,
    /// Submit the same body again under the same id.
    Submit,
    /// It has ended, and its result is nowhere any more: somebody else acknowledged it, or its retention is over.
    Lost,
}

impl Standing {
    /// Of a job that the node knows.
    pub const fn of(job: &JobSummary) -> Self {
        match job.status.status.is_terminal() {
            true => Self::Ended { result_kept: job.result_kept },
            false => Self::Open,
        }
    }
}

/// What follows from what the node says.
pub const fn step(known: Known, standing: Standing) -> Step {
    match (standing, known) {
        (Standing::Unknown | Standing::Ended { .. }, Known { has_ended: true, has_result: true }) => Step::Done,
        (Standing::Unknown, Known { has_ended: false, has_result: false }) => Step::Submit,
        // A result without its status, and the job forgotten since: its own submit tells the status no more.
        (Standing::Unknown, Known { has_ended: false, has_result: true }) => Step::Done,
        (Standing::Unknown, Known { has_ended: true, has_result: false }) => Step::Lost,
        (Standing::Open, _) => Step::Wait,
        (Standing::Ended { .. }, Known { has_ended: false, has_result: true }) => Step::Done,
        (Standing::Ended { result_kept: Some(true) | None }, Known { has_result: false, .. }) => Step::Fetch,
        (Standing::Ended { result_kept: Some(false) }, Known { has_result: false, .. }) => Step::Lost,
    }
}

/// When to ask next. Spread at random, so that the controllers of a broker that comes back do not ask in step.
#[derive(Clone, Debug)]
pub struct Rounds {
    every: Duration,
    due: Instant,
}

impl Rounds {
    /// Rounds of that length, kept within [`ROUND_EVERY_BOUNDS`]; the first is due after one of them. `random` is any
    /// number, evenly spread.
    pub fn new(every: Duration, now: Instant, random: u64) -> Self {
        let mut rounds = Self { every: every.clamp(ROUND_EVERY_BOUNDS.0, ROUND_EVERY_BOUNDS.1), due: now };
        rounds.begin(now, random);
        rounds
    }

    /// When the next one is due.
    pub const fn due(&self) -> Instant {
        self.due
    }

    /// A round begins: the next one follows after three to five quarters of the time between two.
    pub fn begin(&mut self, now: Instant, random: u64) {
        self.due = now.after(self.every * 3 / 4 + fraction(self.every / 2, random));
    }

    /// A connection is new, or the node is: the next round is due within a tenth of the time between two.
    pub fn soon(&mut self, now: Instant, random: u64) {
        self.within(now, fraction(self.every / 10, random));
    }

    /// The next round is due after that time at the latest.
    pub fn within(&mut self, now: Instant, span: Duration) {
        self.due = self.due.min(now.after(span));
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const ENDED: [Standing; 3] = [
        Standing::Ended { result_kept: Some(true) },
        Standing::Ended { result_kept: Some(false) },
        Standing::Ended { result_kept: None },
    ];

    fn known(has_ended: bool, has_result: bool) -> Known {
        Known { has_ended, has_result }
    }

    #[test]
    fn a_job_the_node_does_not_know_is_submitted_again_unless_it_is_known_to_have_ended() {
        assert_eq!(step(known(false, false), Standing::Unknown), Step::Submit);
        assert_eq!(step(known(true, false), Standing::Unknown), Step::Lost);
        assert_eq!(step(known(true, true), Standing::Unknown), Step::Done);
        assert_eq!(step(known(false, true), Standing::Unknown), Step::Done);
    }

    #[test]
    fn a_result_is_fetched_as_long_as_it_may_be_there() {
        let steps = |known| ENDED.map(|standing| step(known, standing));
        for has_ended in [false, true] {
            assert_eq!(steps(known(has_ended, false)), [Step::Fetch, Step::Lost, Step::Fetch]);
            assert_eq!(steps(known(has_ended, true)), [Step::Done; 3]);
        }
    }

    #[test]
    fn a_job_that_has_a_result_or_is_open_is_never_submitted_again() {
        for has_ended in [false, true] {
            for standing in ENDED.into_iter().chain([Standing::Open, Standing::Unknown]) {
                assert_ne!(step(known(has_ended, true), standing), Step::Submit);
            }
            assert_eq!(step(known(has_ended, false), Standing::Open), Step::Wait);
        }
    }

    proptest! {
        #[test]
        fn rounds_come_within_their_bounds(every_ms in 0_u64..10_000_000, random: u64, now: u32) {
            let now = Instant::from_nanos(now.into());
            let mut rounds = Rounds::new(Duration::from_millis(every_ms), now, random);
            let every = Duration::from_millis(every_ms).clamp(ROUND_EVERY_BOUNDS.0, ROUND_EVERY_BOUNDS.1);
            let wait = rounds.due().since(now);
            prop_assert!(wait >= every * 3 / 4 && wait <= every * 5 / 4, "{wait:?}");
            rounds.soon(now, random);
            prop_assert!(rounds.due().since(now) <= every / 10);
            rounds.within(now, Duration::ZERO);
            prop_assert_eq!(rounds.due(), now);
            rounds.begin(now, random);
            rounds.within(now, Duration::from_secs(1_000_000));
            prop_assert_eq!(rounds.due().since(now), wait, "never later than it was");
        }
    }
}
