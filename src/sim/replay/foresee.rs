//! How far off would the forecast have been? Every two minutes of the recording it is asked, and later compared.
//!
//! What is compared is the mean load of the two minutes that begin so long ahead. Persistence says that it will be as it
//! is at the moment of the question; it is the floor that a forecast has to beat.

use std::collections::VecDeque;
use std::time::Duration;

use super::Clock;
use super::account::Span;
use crate::governor::forecast::{Forecast, HORIZONS, STEP};
use crate::units::outlook::Outlook;
use crate::units::{Instant, Utilization, WallTime};

/// Questions that wait for their answers at a horizon: one for each step of the furthest.
const WAITING_MAX: usize = 256;

/// How far off it was at one horizon, over all nodes.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Errors {
    /// Answers that were compared.
    pub count: u64,
    /// Sum of absolute errors in permille.
    pub forecast: f64,
    /// The same of persistence.
    pub persistence: f64,
}

impl Errors {
    /// Mean absolute error in percent of load; `None` before anything was compared.
    pub fn mean_percent(&self) -> Option<f64> {
        (self.count > 0).then(|| self.forecast / real(self.count) / 10.0)
    }

    /// The same of persistence.
    pub fn persistence_percent(&self) -> Option<f64> {
        (self.count > 0).then(|| self.persistence / real(self.count) / 10.0)
    }

    /// The error for each of persistence; `None` without any.
    pub fn against_persistence(&self) -> Option<f64> {
        (self.persistence > 0.0).then(|| self.forecast / self.persistence)
    }
}

fn real(count: u64) -> f64 {
    Duration::from_nanos(count).as_secs_f64() * 1e9
}

/// The forecast of one node, and what it has said.
#[derive(Debug)]
pub(super) struct Foresight {
    forecast: Forecast,
    waiting: [VecDeque<Said>; HORIZONS.len()],
    /// The step that is under way: its number, the time known and the load in it.
    step: u128,
    known: Duration,
    load: f64,
    /// The last step in which it was asked.
    asked: Option<u128>,
}

/// What was said about a step.
#[derive(Clone, Copy, Debug)]
struct Said {
    target: u128,
    forecast: f64,
    persistence: f64,
}

impl Foresight {
    pub(super) fn new(forecast: Forecast) -> Self {
        let waiting = std::array::from_fn(|_| VecDeque::new());
        Self { forecast, waiting, step: 0, known: Duration::ZERO, load: 0.0, asked: None }
    }

    /// Takes in the load as it is known from `now` on.
    pub(super) fn on_level(&mut self, now: Instant, level: Option<Utilization>, clock: Clock) {
        let at = clock.wall(now);
        match level {
            Some(level) => self.forecast.on_load(at, level),
            None => self.forecast.on_silence(at),
        }
    }

    /// Free core time from `now` on; `None` before there is a day to go by.
    pub(super) fn outlook(&self, now: WallTime) -> Option<Outlook> {
        (self.forecast.days_known() > 1).then(|| self.forecast.outlook(now))
    }

    /// Lets a span pass, after the load at its begin was taken in.
    pub(super) fn pass(&mut self, span: &Span, clock: Clock, into: &mut [Errors; HORIZONS.len()]) {
        let mut from = span.from;
        while from < span.to {
            let step = step_of(from, clock);
            if step != self.step {
                self.close(into);
                (self.step, self.known, self.load) = (step, Duration::ZERO, 0.0);
            }
            if let Some(level) = span.level
                && self.asked != Some(step)
                && from == span.from
            {
                self.ask(step, level);
            }
            let end = Instant::default().after(end_of(step, clock));
            let part = span.to.since(from).min(end.since(from)).max(Duration::from_nanos(1));
            if let Some(level) = span.level {
                self.known += part;
                self.load += f64::from(level.permille()) * part.as_secs_f64();
            }
            from = from.after(part);
        }
    }

    fn ask(&mut self, step: u128, level: Utilization) {
        self.asked = Some(step);
        for (waiting, horizon) in self.waiting.iter_mut().zip(HORIZONS) {
            let Some(said) = self.forecast.predict(horizon) else { continue };
            if waiting.len() < WAITING_MAX {
                let target = step + horizon.as_nanos() / STEP.as_nanos();
                let [forecast, persistence] = [said, level].map(|level| f64::from(level.permille()));
                waiting.push_back(Said { target, forecast, persistence });
            }
        }
    }

    /// The step is over: what was said about it is compared, when at least half of it is known.
    fn close(&mut self, into: &mut [Errors; HORIZONS.len()]) {
        let is_known = self.known * 2 >= STEP;
        let mean = if is_known { self.load / self.known.as_secs_f64() } else { 0.0 };
        for (waiting, errors) in self.waiting.iter_mut().zip(into) {
            while let Some(said) = waiting.pop_front_if(|said| said.target <= self.step) {
                if said.target == self.step && is_known {
                    errors.count += 1;
                    errors.forecast += (said.forecast - mean).abs();
                    errors.persistence += (said.persistence - mean).abs();
                }
            }
        }
    }
}

fn step_of(at: Instant, clock: Clock) -> u128 {
    (clock.zero + at.since(Instant::default())).as_nanos() / STEP.as_nanos()
}

/// End of a step, since the recording's zero.
fn end_of(step: u128, clock: Clock) -> Duration {
    let nanos = u64::try_from((step + 1) * STEP.as_nanos()).unwrap_or(u64::MAX);
    Duration::from_nanos(nanos).saturating_sub(clock.zero)
}
