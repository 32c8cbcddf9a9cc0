//! Does inference harm the RAN? The harm guard: fewer workers while it does, one more after each calm.
//!
//! Pure, and of fixed memory: nothing allocates after [`Guard::new`]. It can only lower the budget.
//!
//! * What the RAN says of its health is held apart by what inference did at the time: windows of about a second in which
//!   it ran with so many workers, or stood, at like load. A window that mixes both says nothing, and neither does the
//!   first after a change: what is reported then is still about the time before.
//! * Suspicion: the latest running windows are worse than the stopped ones that are known, more than is tolerated and
//!   beyond chance. That alone proves nothing: the RAN may have been restarted, or got a carrier more.
//! * So under suspicion running and stopped windows are made to alternate: inference stops for a moment now and then,
//!   at most once in `control_every`; and a time or two when nothing is known of the last half hour, or up to six when
//!   a single bad window is all that speaks against a suspicion. Only windows from after the suspicion count, from three
//!   stops at least.
//! * Harm: the ceiling is halved, from the number of workers that was seen to harm. At none it is tried again after a
//!   pause, whose length doubles each time. Calm: one more worker after each `calm`.
//! * Cleared: the figure is as bad without inference, or nothing could be shown for long. What was known from before
//!   the suspicion is forgotten.
//! * Late slots need no suspicion: each stops inference, so they alternate by themselves.
//! * Figures that stop coming raise nothing. A source that lies can at worst stop inference.

mod compare;
mod court;
mod evidence;
mod late;
mod outbox;
mod settings;
#[cfg(test)]
mod tests;
mod verdict;
mod window;

use std::time::Duration;

pub use settings::{BadSettings, CONTROL_EVERY_WINDOWS_MIN, CONTROL_WINDOWS, Settings, WINDOW};
pub use verdict::{CHANGE_PERMILLE_MAX, Comparison, Figure, News, Ruling, Verdict};

use crate::units::{Health, Instant, Utilization};
use court::Suspicion;
use evidence::{Band, Entry, Evidence, Side};
use late::Late;
use outbox::Outbox;
use window::Window;

/// A window that lasted for more than so many windows says nothing: nobody was awake to look.
const WINDOW_STRETCH_MAX: u32 = 4;
/// Figures that were not heard for so many windows, and for this at least, are silent.
const SILENT_WINDOWS: u32 = 10;
const SILENT_MIN: Duration = Duration::from_secs(10);
/// Inference that has run for so long without any figure of health is told.
const UNHEARD_AFTER: Duration = Duration::from_secs(60);
/// What is known of the figures' coming.
#[derive(Clone, Copy, Debug, Default)]
struct Ears {
    heard: [Option<Instant>; Health::ALL.len()],
    /// Inference has run for so long without any.
    unheard: Duration,
    /// What was told last.
    told: Option<Ruling>,
}

/// See the module.
#[derive(Clone, Debug)]
pub struct Guard {
    settings: Settings,
    /// Most workers by the policy.
    workers: u8,
    /// Workers with a job running now.
    busy: u8,
    level: Option<Utilization>,
    /// Until when `window` and `late` are up to date; `None` before the first input.
    noted: Option<Instant>,
    window: Window,
    /// What inference did in the window before.
    before: Option<(Side, u8)>,
    /// Number of the present row of windows of one kind.
    span: u32,
    evidence: Evidence,
    late: Late,
    late_is_new: bool,
    suspicion: Option<Suspicion>,
    /// Inference is stopped until then, to compare.
    control: Option<Instant>,
    /// When that may happen again.
    control_at: Instant,
    ceiling: u8,
    /// When one more worker may run at the earliest.
    raise_at: Instant,
    /// How long the next pause will be, and since when any worker may run.
    pause: Duration,
    opened: Instant,
    /// What the ceiling was lowered for.
    blamed: Option<Comparison>,
    ears: Ears,
    compared_at: Instant,
    outbox: Outbox,
}

impl Guard {
    /// A guard that has heard nothing and restricts nothing. It allocates all that it will ever need.
    ///
    /// # Errors
    /// Settings that cannot work.
    pub fn new(settings: Settings, workers: u8) -> Result<Self, BadSettings> {
        settings.check()?;
        let origin = Instant::default();
        Ok(Self {
            workers,
            busy: 0,
            level: None,
            noted: None,
            window: Window::new(origin, None),
            before: None,
            span: 0,
            evidence: Evidence::new(),
            late: Late::default(),
            late_is_new: false,
            suspicion: None,
            control: None,
            control_at: origin,
            ceiling: workers,
            raise_at: origin,
            pause: settings.calm,
            opened: origin,
            blamed: None,
            ears: Ears::default(),
            compared_at: origin,
            outbox: Outbox::default(),
            settings,
        })
    }

    // ---- inputs ----

    /// The RAN says how it fares. Cheap: what follows from it is found by [`Guard::pass`].
    pub fn on_health(&mut self, now: Instant, figure: Health, value: u32) {
        if !self.settings.enabled {
            return;
        }
        self.note(now);
        self.window.heard(figure, value);
        self.ears.heard[figure as usize] = Some(now);
    }

    /// Slots were late, however many. Cheap, as above.
    pub fn on_late(&mut self, now: Instant) {
        self.note(now);
        self.late.happened(self.busy);
        self.late_is_new = true;
    }

    /// The load is this from now on; `None`: unknown, or too high to run. Cheap, as above.
    pub fn on_load(&mut self, now: Instant, level: Option<Utilization>) {
        self.note(now);
        self.level = level;
        self.window.set_level(level);
    }

    /// So many workers have a job running from now on. Cheap, as above.
    pub fn on_work(&mut self, now: Instant, busy: u8) {
        self.note(now);
        self.busy = busy;
    }

    /// Draws the conclusions. To be called often, and at [`Guard::next_moment`].
    pub fn pass(&mut self, now: Instant) {
        if !self.settings.enabled {
            return;
        }
        self.note(now);
        if std::mem::take(&mut self.late_is_new) && self.late.is_harm(self.settings.worse_permille) {
            let comparison = self.compare_late(now);
            self.lower(now, comparison);
        }
        let control_ends = self.control.is_some_and(|until| now >= until);
        // Each window of a deliberate stop counts, also the last one that began a little late.
        let least = if control_ends { self.settings.window / 2 } else { self.settings.window };
        if now.since(self.window.began) >= least {
            self.close(now);
        }
        if control_ends {
            self.control = None;
            self.begin_window(now);
        }
        if self.may_raise(now) && now >= self.raise_at {
            self.raise(now);
        }
        self.listen(now);
    }

    /// The policy allows so many workers now.
    pub fn set_workers(&mut self, workers: u8) {
        self.ceiling = if self.ceiling == self.workers { workers } else { self.ceiling.min(workers) };
        self.workers = workers;
    }

    /// Replaces the settings. What was learned stays where the windows are as long as before; without a guard there is
    /// no restriction.
    ///
    /// # Errors
    /// Settings that cannot work; the old ones stay.
    pub fn set_settings(&mut self, settings: Settings) -> Result<(), BadSettings> {
        settings.check()?;
        if settings.enabled != self.settings.enabled || settings.window != self.settings.window {
            self.forget();
        }
        self.pause = self.pause.clamp(settings.calm, settings.pause_max);
        self.settings = settings;
        Ok(())
    }

    /// Begins anew, in the memory that is there.
    fn forget(&mut self) {
        self.evidence.forget();
        (self.before, self.suspicion, self.control, self.blamed) = (None, None, None, None);
        (self.late, self.noted, self.ears) = (Late::default(), None, Ears::default());
        self.ceiling = self.workers;
    }

    // ---- outputs ----

    /// Most workers that may run at the moment, whatever else is decided.
    pub fn ceiling(&self) -> u8 {
        match self.control {
            _ if !self.settings.enabled => u8::MAX,
            Some(_) => 0,
            None => self.ceiling,
        }
    }

    /// The figure that the budget is restricted for, if it is known.
    pub fn figure(&self) -> Option<Figure> {
        let suspected = self.suspicion.filter(|_| self.control.is_some()).map(|found| Figure::Health(found.figure));
        suspected.or_else(|| self.blamed.map(|comparison| comparison.figure))
    }

    /// Whether inference is stopped for a moment, to compare.
    pub fn is_comparing(&self) -> bool {
        self.control.is_some()
    }

    /// When to call [`Guard::pass`] at the latest, by what is known now.
    pub fn next_moment(&self) -> Option<Instant> {
        let raise = self.noted.filter(|now| self.may_raise(*now)).map(|_| self.raise_at);
        // While inference stands there may be nobody else who wakes the thread for the end of a window.
        let window = self.control.map(|until| self.window.began.after(self.settings.window).min(until));
        window.into_iter().chain(raise).min()
    }

    /// What there is to tell; to be taken until it is empty.
    pub fn take_news(&mut self) -> Option<News> {
        self.outbox.take()
    }

    // ---- windows ----

    /// Brings the books up to date with what was the case until now.
    fn note(&mut self, now: Instant) {
        if !self.settings.enabled {
            return;
        }
        let Some(noted) = self.noted.replace(now) else { return self.begin_window(now) };
        let span = now.since(noted);
        self.noted = Some(noted.max(now));
        self.window.worked(self.busy, span);
        if self.busy > 0 || self.level.is_some() {
            self.late.passed(self.busy, span);
        }
        if self.busy > 0 && self.ears.heard.iter().all(Option::is_none) {
            self.ears.unheard += span;
        }
    }

    fn begin_window(&mut self, now: Instant) {
        self.window = Window::new(now, self.level);
    }

    /// A window has ended: it becomes evidence, if it says something, and the evidence is looked at.
    fn close(&mut self, now: Instant) {
        let window = self.window;
        self.begin_window(now);
        let stretched = now.since(window.began) > self.settings.window * WINDOW_STRETCH_MAX;
        let side = window.class(now).side().filter(|_| !stretched);
        // What is heard in the first window of its kind may still be about the time before.
        let is_first = std::mem::replace(&mut self.before, side) != side;
        self.span = self.span.wrapping_add(u32::from(is_first));
        let (Some((side, workers)), Some(level), false) = (side, window.level(), is_first) else { return };
        let band = Band::of(level);
        for figure in Health::ALL {
            if let Some(value) = window.worst[figure as usize] {
                let entry = Entry { at: now, value, span: self.span, workers };
                self.evidence.push(figure, band, side, entry);
            }
        }
        if side == Side::Running {
            self.tell_comparisons(now, band, workers);
            self.look(now, band, workers);
        }
    }

    // ---- the ceiling ----

    /// Half of what was seen to harm.
    fn lower(&mut self, now: Instant, comparison: Comparison) {
        let from = self.ceiling;
        self.ceiling = comparison.workers.min(from) / 2;
        self.raise_at = now.after(self.settings.calm);
        if self.ceiling == 0 && from > 0 {
            // What went well for long is forgiven.
            let mut lasted = now.since(self.opened);
            while self.pause > self.settings.calm && lasted >= self.pause {
                lasted -= self.pause;
                self.pause = (self.pause / 2).max(self.settings.calm);
            }
            self.raise_at = now.after(self.pause);
            self.pause = (self.pause * 2).min(self.settings.pause_max);
        }
        self.blamed = Some(comparison);
        (self.suspicion, self.control) = (None, None);
        self.evidence.forget_running();
        self.late = Late::default();
        self.rule(now, Ruling::Harm, from, Some(comparison));
    }

    fn raise(&mut self, now: Instant) {
        let from = self.ceiling;
        self.ceiling = from.saturating_add(1).min(self.workers);
        self.raise_at = now.after(self.settings.calm);
        if from == 0 {
            self.opened = now;
        }
        self.rule(now, Ruling::Calm, from, self.blamed);
        if self.ceiling == self.workers {
            self.blamed = None;
        }
    }

    /// Whether nothing but time stands against one more worker.
    fn may_raise(&self, now: Instant) -> bool {
        let hears = match self.blamed.map(|comparison| comparison.figure) {
            Some(Figure::Health(figure)) => self.hears(now, figure),
            // The load is not read without them.
            Some(Figure::Late) | None => true,
        };
        self.ceiling < self.workers && self.suspicion.is_none() && hears
    }

    // ---- whether there is anything to go by ----

    fn hears(&self, now: Instant, figure: Health) -> bool {
        let silent = (self.settings.window * SILENT_WINDOWS).max(SILENT_MIN);
        self.ears.heard[figure as usize].is_some_and(|heard| now.since(heard) < silent)
    }

    /// Tells when figures begin to come, or stop.
    fn listen(&mut self, now: Instant) {
        let is_heard = Health::ALL.iter().any(|figure| self.hears(now, *figure));
        let was_heard = self.ears.heard.iter().any(Option::is_some);
        let told = match (is_heard, was_heard) {
            (true, _) => Some(Ruling::Heard),
            (false, true) => Some(Ruling::Silent),
            (false, false) => (self.ears.unheard >= UNHEARD_AFTER).then_some(Ruling::Unheard),
        };
        // What was found so far may be of another time when the figure comes back.
        if self.suspicion.is_some_and(|suspicion| !self.hears(now, suspicion.figure)) {
            self.suspicion = None;
        }
        if let Some(ruling) = told.filter(|_| told != self.ears.told) {
            self.ears.told = told;
            self.rule(now, ruling, self.ceiling, None);
        }
    }

    fn rule(&mut self, at: Instant, ruling: Ruling, from: u8, comparison: Option<Comparison>) {
        self.outbox.rule(Verdict { at, ruling, from, to: self.ceiling, comparison });
    }
}
