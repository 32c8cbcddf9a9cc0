//! What does the node tell of the hours to come? Feeds the forecast, paces what is published, and keeps what was learned.
//!
//! The forecast only serves whoever admits or delays work. While the wall clock is in doubt nothing is learned and
//! nothing is said: the time of day is all that it goes by.

mod file;
mod folder;
mod pm;
mod reported;

pub(super) use self::file::Keepsake;
pub(super) use self::pm::PmFiles;

use std::time::Duration;

use self::reported::Reported;
use super::core::Core;
use super::desk::Now;
use super::reports::Reports;
use crate::governor::Policy;
use crate::governor::forecast::{BadSnapshot, Forecast, Score};
use crate::link::Publish;
use crate::link::messages::{Capacity, ForecastError};
use crate::load::fusion::{Fused, FusedLoad};
use crate::units::outlook::{Outlook, Quantile};
use crate::units::{Instant, Utilization, WallTime};

/// An outlook is made so often.
const LOOK_EVERY: Duration = Duration::from_secs(60);
/// It is published so often, and sooner when it changes notably.
const TELL_EVERY: Duration = Duration::from_secs(300);
/// It changes notably when this share of the next hour's core time comes or goes: one in so many.
const NOTABLE: u32 = 4;
const HOUR: Duration = Duration::from_secs(3600);
/// Nobody should refuse work on what fewer days have taught.
const DAYS_MIN: usize = 3;

/// The forecast of a node, and what is told of it.
#[derive(Debug, Default)]
pub(super) struct Outlooks {
    /// `None` when the operator wants none.
    forecast: Option<Forecast>,
    /// The last outlook, and when it was made.
    current: Option<(Instant, Outlook)>,
    /// It is of another policy, or of less than is known now.
    outdated: bool,
    /// What a controller has reported of a step that is not over.
    reported: Reported,
    /// The last one told.
    told: Option<(Instant, Outlook)>,
}

impl Outlooks {
    /// Outlooks from that forecast.
    pub(super) fn new(forecast: Forecast) -> Self {
        Self { forecast: Some(forecast), ..Self::default() }
    }

    /// Takes in the load that decides.
    pub(super) fn hear(&mut self, now: Now, fused: &Fused) {
        let Some(forecast) = self.forecast.as_mut().filter(|_| now.is_sure()) else { return };
        match fused.load {
            FusedLoad::Level(_, level) => forecast.on_load(now.wall, level),
            FusedLoad::Late(_) | FusedLoad::Malformed(_) | FusedLoad::Stale(_) | FusedLoad::Unheard => {
                forecast.on_silence(now.wall);
            }
        }
    }

    /// Takes in what somebody else has counted for a past time. Tells whether that is news: then an outlook is due.
    fn learn(&mut self, now: Now, from: WallTime, span: Duration, level: Utilization) -> bool {
        let Some(forecast) = self.forecast.as_mut().filter(|_| now.is_sure()) else { return false };
        let is_new = forecast.on_history(now.wall, from, span, level);
        self.outdated |= is_new;
        is_new
    }

    /// The policy was changed by a reload or a command.
    pub(super) fn set_policy(&mut self, policy: &Policy) {
        // A policy that the governor takes is one that the forecast takes.
        if let Some(Err(error)) = self.forecast.as_mut().map(|forecast| forecast.set_policy(policy)) {
            tracing::error!(%error, "the forecast keeps the old policy");
        }
        self.outdated = true;
    }

    /// Makes an outlook when it is time. Tells whether it is another one now, or there is none any more.
    fn look(&mut self, now: Now) -> bool {
        let before = self.current.as_ref().map(|(made, _)| *made);
        self.learn_reported(now);
        if !now.is_sure() {
            self.current = None;
        } else if self.outdated || self.current.as_ref().is_none_or(|(at, _)| now.mono.since(*at) >= LOOK_EVERY) {
            self.outdated = false;
            self.current = self.forecast.as_ref().map(|forecast| (now.mono, forecast.outlook(now.wall)));
        }
        self.current.as_ref().map(|(made, _)| *made) != before
    }

    /// What may be planned with: `None` while the clock is in doubt, and until three days are remembered.
    fn to_plan_with(&self) -> Option<&Outlook> {
        let known = self.forecast.as_ref().is_some_and(|forecast| forecast.days_known() >= DAYS_MIN);
        self.current.as_ref().map(|(_, outlook)| outlook).filter(|_| known)
    }

    /// A new connection: what is retained may be of another run.
    pub(super) fn born(&mut self) {
        self.told = None;
    }

    /// What is to be told now.
    fn due(&mut self, now: Now, session: &str) -> Option<Capacity> {
        let (forecast, (made, outlook)) = (self.forecast.as_ref()?, self.current.as_ref()?);
        let is_due = self.told.as_ref().is_none_or(|(at, told)| {
            let passed = now.mono.since(*at);
            passed >= TELL_EVERY || (passed >= LOOK_EVERY && made > at && is_notable(now, told, outlook, forecast))
        });
        if !is_due {
            return None;
        }
        self.told = Some((now.mono, outlook.clone()));
        let error = |score: Score| ForecastError {
            horizon: score.horizon,
            method: score.used.as_str().to_owned(),
            error_permille: score.error_permille,
            persistence_ratio: score.against_persistence,
        };
        Some(Capacity {
            session: session.to_owned(),
            workers: u32::from(forecast.settings().policy.workers),
            outlook: outlook.clone(),
            days: u32::try_from(forecast.days_known()).unwrap_or(u32::MAX),
            errors: forecast.scores().map(error).into(),
            at: now.wall,
        })
    }

    /// What was learned, to be kept; `None` when that is nothing.
    pub(super) fn snapshot(&self) -> Option<Vec<u8>> {
        self.forecast.as_ref().filter(|forecast| forecast.days_known() > 0).map(Forecast::snapshot)
    }

    /// Takes over what an earlier run has learned.
    pub(super) fn restore(&mut self, snapshot: &[u8]) -> Result<(), BadSnapshot> {
        self.forecast.as_mut().map_or(Ok(()), |forecast| forecast.restore(snapshot))
    }

    /// Whether anything is learned.
    pub(super) const fn is_enabled(&self) -> bool {
        self.forecast.is_some()
    }
}

/// Whether the next hour looks notably different from what was told of it.
fn is_notable(now: Now, told: &Outlook, outlook: &Outlook, forecast: &Forecast) -> bool {
    let most = HOUR * u32::from(forecast.settings().policy.workers);
    let until = now.wall.after(HOUR);
    [Quantile::P10, Quantile::P50].into_iter().any(|quantile| {
        let [before, after] = [told, outlook].map(|outlook| outlook.core_time(now.wall, until, quantile));
        before.abs_diff(after) * NOTABLE >= most
    })
}

impl Core {
    /// Makes an outlook when it is time: those who admit work plan with it, and it is published. That may be lost: the
    /// next one says it all again.
    pub(super) fn tell_outlook(&mut self, now: Now) {
        if self.outlooks.look(now) {
            self.desk.set_outlook(self.outlooks.to_plan_with().cloned());
        }
        if !self.connected {
            return;
        }
        if let Some(capacity) = self.outlooks.due(now, self.desk.reports.session()) {
            self.courier.publish(self.desk.reports.outlook(&capacity));
        }
    }
}

impl Reports {
    /// Retained outlook: it ends by itself, because after its last span it says nothing.
    pub(super) fn outlook(&self, capacity: &Capacity) -> Publish {
        let (topic, body) = (self.topics.outlook(), capacity.render());
        let left = capacity.outlook.end().since(capacity.at).as_secs();
        let expiry_s = Some(u32::try_from(left).unwrap_or(u32::MAX).max(1));
        Publish { expiry_s, ..self.retained("neap.node.outlook", topic, body, capacity.at) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::governor::forecast::Settings;
    use crate::load::Metric;
    use crate::units::{CellId, SourceId};

    const STEP: Duration = Duration::from_secs(120);

    fn policy() -> Policy {
        Policy {
            workers: 1,
            busy_above: Utilization::from_percent(40).unwrap(),
            idle_below: Utilization::from_percent(15).unwrap(),
            settle: Duration::from_secs(30),
            settle_max: Duration::from_secs(600),
            flap_window: Duration::from_secs(300),
            raise_every: Duration::from_secs(1),
        }
    }

    pub(super) fn outlooks() -> Outlooks {
        Outlooks::new(Forecast::new(Settings::new(policy())).unwrap())
    }

    fn fused(percent: u8) -> Fused {
        let level = Utilization::from_percent(percent).unwrap();
        let at = Instant::default();
        Fused {
            load: FusedLoad::Level(SourceId(0), level),
            fresh_until: at,
            changes_at: at,
            stamped: None,
            received: at,
            metric: Metric::PrbTotDl,
            cell: CellId(0),
        }
    }

    fn tell(outlooks: &mut Outlooks, now: Now, session: &str) -> Option<Capacity> {
        outlooks.look(now);
        outlooks.due(now, session)
    }

    fn now(step: u32) -> Now {
        let wall = WallTime::from_millis(1_767_571_200_000).after(STEP * step);
        Now::sure(Instant::default().after(STEP * step), wall)
    }

    #[test]
    fn an_outlook_is_told_at_the_birth_and_every_five_minutes() {
        let mut outlooks = outlooks();
        let mut told = Vec::new();
        for step in 0..30 {
            outlooks.hear(now(step), &fused(5));
            if tell(&mut outlooks, now(step), "s").is_some() {
                told.push(step);
            }
        }
        assert_eq!(told[0], 0);
        // Steps of two minutes: after six, or sooner when what was learned changes the next hour.
        assert!(told.windows(2).all(|pair| pair[1] - pair[0] <= 3), "{told:?}");
        assert!((10..=12).contains(&told.len()), "{told:?}");
        outlooks.born();
        assert!(tell(&mut outlooks, now(30), "s").is_some());
        assert!(tell(&mut outlooks, now(30), "s").is_none());
    }

    #[test]
    fn a_change_of_policy_is_told_sooner_when_it_changes_the_next_hour() {
        let mut outlooks = outlooks();
        for step in 0..3 * 720 {
            outlooks.hear(now(step), &fused(10));
        }
        let last = 3 * 720;
        assert!(tell(&mut outlooks, now(last), "s").is_some());
        assert!(tell(&mut outlooks, now(last + 1), "s").is_none());
        outlooks.set_policy(&Policy { idle_below: Utilization::from_percent(5).unwrap(), ..policy() });
        let capacity = tell(&mut outlooks, now(last + 1), "s").unwrap();
        assert!(capacity.outlook.spans().iter().all(|free| free.p50.is_zero()));
        assert_eq!((capacity.days, capacity.workers), (3, 1));
        assert_eq!(outlooks.to_plan_with(), Some(&capacity.outlook));
    }

    #[test]
    fn a_doubtful_clock_teaches_nothing_and_says_nothing() {
        let mut outlooks = outlooks();
        let doubtful = |step| Now { due: WallTime::from_millis(i64::MIN), ..now(step) };
        for step in 0..100 {
            outlooks.hear(doubtful(step), &fused(5));
            assert_eq!(tell(&mut outlooks, doubtful(step), "s"), None);
        }
        assert_eq!((outlooks.snapshot(), outlooks.to_plan_with()), (None, None));
    }

    #[test]
    fn nobody_plans_with_what_fewer_than_three_days_have_taught() {
        let mut outlooks = outlooks();
        for step in 0..720 {
            outlooks.hear(now(step), &fused(5));
        }
        assert!(tell(&mut outlooks, now(720), "s").is_some());
        assert_eq!(outlooks.to_plan_with(), None);
    }

    /// Three quiet days.
    pub(super) fn learned() -> Outlooks {
        let mut outlooks = outlooks();
        for step in 0..3 * 720 + 1 {
            outlooks.hear(now(step), &fused(5));
        }
        outlooks
    }

    #[test]
    fn what_was_learned_is_taken_over() {
        let mut second = outlooks();
        second.restore(&learned().snapshot().unwrap()).unwrap();
        assert_eq!(tell(&mut second, now(2160), "s").unwrap().days, 3);
        assert!(Outlooks::default().snapshot().is_none() && !Outlooks::default().is_enabled());
    }
}
