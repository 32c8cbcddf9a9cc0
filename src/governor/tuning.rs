//! Which thresholds and settle time would have kept what the operator wants? What the load of past days says of each.
//!
//! Pure: imports `units` and the governor. Every candidate is judged by a replay of the real [`Governor`](super::Governor)
//! over the remembered load, so that a proposal says what it would have brought: evictions a day and share of time in
//! troughs. Three things bound it:
//!
//! * No candidate is looser than the configured policy: limits only go down, the settle time only up, within bounds.
//! * Nothing is proposed before a day of load is known, and at most once a day.
//! * A change needs a reason: the intent is missed, or an earlier change turns out to have been stricter than needed.

mod history;
mod replay;
mod snapshot;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::time::Duration;

pub use self::history::{History, SLOT, SLOTS_MAX};
pub use self::replay::{Outcome, replay};
pub use self::snapshot::{BadSnapshot, SNAPSHOT_BYTES_MAX};
use super::{BadPolicy, Policy};
use crate::units::{Utilization, WallTime};

/// Known load that a proposal needs.
pub const EVIDENCE_MIN: Duration = Duration::from_secs(22 * 3600);
/// Time between two changes at the least.
pub const CHANGE_EVERY: Duration = Duration::from_secs(24 * 3600);
/// Changes that are remembered.
pub const CHANGES_MAX: usize = 16;
/// The load of the past is gone through this often.
const LOOK_EVERY: Duration = Duration::from_secs(3600);
/// Share of time in troughs, in permille, that a change back must gain to be worth it.
const GAIN_MIN_PERMILLE: u32 = 20;
/// A change back must stay below this share of the intent, in permille, so that it does not have to be undone.
const MARGIN_PERMILLE: u64 = 800;
/// Comparisons of a figure before their average is believed: one alone may be chance.
pub const COMPARISONS_MIN: u32 = 10;
/// Figures of health that are looked at.
const FIGURES_MAX: usize = 8;
/// Settle times that are tried, in seconds, besides the configured one and the bound.
const SETTLE_STEPS_S: [u64; 9] = [30, 60, 120, 300, 600, 900, 1200, 1800, 3600];
/// Limits that are tried, in permille of the configured ones, besides the bounds.
const LIMIT_STEPS_PERMILLE: [u32; 4] = [1000, 850, 700, 500];

/// What tuning may do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    /// Nothing.
    Off,
    /// Say what it would change.
    #[default]
    Suggest,
    /// Change it.
    Auto,
}

impl Mode {
    /// Every mode.
    pub const ALL: [Self; 3] = [Self::Off, Self::Suggest, Self::Auto];

    /// As it is configured.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::Suggest => "suggest",
            Self::Auto => "auto",
        }
    }
}

/// What the operator wants, and how far tuning may go for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Terms {
    /// What it may do.
    pub mode: Mode,
    /// Troughs a day that may end because the load rose; `None`: any number.
    pub evictions_max: Option<u32>,
    /// How much worse, in permille, the RAN's figures of health may be while inference runs; `None`: not looked at.
    pub increase_max_permille: Option<u32>,
    /// `busy_above` does not go below this.
    pub busy_above_min: Utilization,
    /// `idle_below` does not go below this.
    pub idle_below_min: Utilization,
    /// `settle` does not go above this.
    pub settle_max: Duration,
}

/// The figures that tuning sets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Setting {
    /// See [`Policy::busy_above`].
    pub busy_above: Utilization,
    /// See [`Policy::idle_below`].
    pub idle_below: Utilization,
    /// See [`Policy::settle`].
    pub settle: Duration,
}

impl Setting {
    /// Those of a policy.
    pub fn of(policy: &Policy) -> Self {
        Self { busy_above: policy.busy_above, idle_below: policy.idle_below, settle: policy.settle }
    }

    /// The policy with these figures in place of its own. Its longest settle time grows with the settle time.
    pub fn in_policy(&self, policy: &Policy) -> Policy {
        let Self { busy_above, idle_below, settle } = *self;
        Policy { busy_above, idle_below, settle, settle_max: policy.settle_max.max(settle), ..policy.clone() }
    }

    /// Whether it starts no earlier and stops no later than `other`.
    pub fn is_within(&self, other: &Self) -> bool {
        self.busy_above <= other.busy_above && self.idle_below <= other.idle_below && self.settle >= other.settle
    }
}

/// One change of the figures, made or suggested.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// When.
    pub at: WallTime,
    /// Before.
    pub from: Setting,
    /// After.
    pub to: Setting,
    /// Why, with the figures.
    pub why: String,
}

/// `tuning: settle 30 s → 120 s: 9.0 evictions a day, intent 5; …`.
impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (from, to) = (&self.from, &self.to);
        let mut parts = Vec::new();
        if from.busy_above != to.busy_above {
            parts.push(format!("busy_above {} → {}", from.busy_above, to.busy_above));
        }
        if from.idle_below != to.idle_below {
            parts.push(format!("idle_below {} → {}", from.idle_below, to.idle_below));
        }
        if from.settle != to.settle {
            parts.push(format!("settle {} s → {} s", from.settle.as_secs_f64(), to.settle.as_secs_f64()));
        }
        write!(f, "tuning: {}: {}", parts.join(", "), self.why)
    }
}

/// What has come of a look.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum News {
    /// This would be better.
    Suggested(Change),
    /// This is in force from now on: the shell has to make it so.
    Changed(Change),
}

/// The candidates of one look, as far as they were gone through.
#[derive(Clone, Debug)]
struct Search {
    left: VecDeque<Setting>,
    judged: Vec<(Setting, Outcome)>,
}

/// By how much one figure was higher while inference ran, on average of the last comparisons.
#[derive(Clone, Copy, Debug, Default)]
struct Harm {
    mean_permille: i32,
    comparisons: u32,
}

impl Harm {
    fn take(&mut self, change_permille: i32) {
        self.comparisons = self.comparisons.saturating_add(1);
        // The first ones count alike, the later ones for an eighth each.
        let weight = i32::try_from(self.comparisons.min(8)).unwrap_or(8);
        self.mean_permille += change_permille.saturating_sub(self.mean_permille) / weight;
    }
}

/// Remembers the load and looks for better figures.
#[derive(Clone, Debug)]
pub struct Tuner {
    terms: Terms,
    configured: Policy,
    in_force: Setting,
    history: History,
    changes: VecDeque<Change>,
    /// The last suggestion, so that it is not made every hour.
    suggested: Option<Change>,
    /// No change before.
    rests_until: WallTime,
    looks_at: Option<WallTime>,
    search: Option<Search>,
    /// By how much each figure of health was higher while inference ran.
    harm: BTreeMap<&'static str, Harm>,
    /// What the figures in force would have brought, by the last look.
    found: Option<Outcome>,
}

impl Tuner {
    /// One that has learned nothing and leaves the policy as it is configured.
    ///
    /// # Errors
    /// A policy that cannot work.
    pub fn new(terms: Terms, configured: Policy) -> Result<Self, BadPolicy> {
        configured.check()?;
        Ok(Self {
            in_force: Setting::of(&configured),
            terms,
            configured,
            history: History::default(),
            changes: VecDeque::new(),
            suggested: None,
            rests_until: WallTime::from_millis(i64::MIN),
            looks_at: None,
            search: None,
            harm: BTreeMap::new(),
            found: None,
        })
    }

    /// The policy that should be in force.
    pub fn policy(&self) -> Policy {
        self.in_force.in_policy(&self.configured)
    }

    /// The figures that should be in force.
    pub const fn in_force(&self) -> Setting {
        self.in_force
    }

    /// The policy as it is configured.
    pub const fn configured(&self) -> &Policy {
        &self.configured
    }

    /// What the operator wants.
    pub const fn terms(&self) -> &Terms {
        &self.terms
    }

    /// The last changes, the newest last.
    pub fn changes(&self) -> impl ExactSizeIterator<Item = &Change> {
        self.changes.iter()
    }

    /// The last suggestion that nothing has been made of.
    pub const fn suggested(&self) -> Option<&Change> {
        self.suggested.as_ref()
    }

    /// What the figures in force would have brought over the load of the past, by the last look.
    pub const fn found(&self) -> Option<Outcome> {
        self.found
    }

    /// The load that is remembered.
    pub const fn history(&self) -> &History {
        &self.history
    }

    /// Takes in the load that decides; `None`: nobody knows it, or nobody should believe it.
    pub fn on_load(&mut self, now: WallTime, level: Option<Utilization>) {
        if self.terms.mode != Mode::Off {
            self.history.enter(now, level);
        }
    }

    /// Takes in by how much, in permille, a figure of health was higher while inference ran.
    pub fn on_comparison(&mut self, figure: &'static str, change_permille: i32) {
        if self.harm.len() < FIGURES_MAX || self.harm.contains_key(figure) {
            self.harm.entry(figure).or_default().take(change_permille);
        }
    }

    /// The operator has changed the policy or the terms, or wants the configured figures back. Tuning rests for a day.
    ///
    /// # Errors
    /// A policy that cannot work; nothing has changed then.
    pub fn reset(&mut self, now: WallTime, terms: Terms, configured: Policy) -> Result<(), BadPolicy> {
        configured.check()?;
        let (from, to) = (self.in_force, Setting::of(&configured));
        if from != to {
            let why = "the configuration was read again".to_owned();
            self.remember(Change { at: now, from, to, why });
        }
        (self.terms, self.configured, self.in_force) = (terms, configured, to);
        (self.search, self.suggested, self.found) = (None, None, None);
        self.harm.clear();
        self.rests_until = now.after(CHANGE_EVERY);
        Ok(())
    }

    /// Goes on with a look, or begins one when it is time. Each call judges one candidate, so that it takes no longer than
    /// a replay; [`Tuner::is_looking`] tells whether there is more to do at once.
    pub fn step(&mut self, now: WallTime) -> Option<News> {
        if self.terms.mode == Mode::Off {
            return None;
        }
        self.history.pass(now);
        let Some(search) = &mut self.search else {
            self.begin(now);
            return None;
        };
        if let Some(setting) = search.left.pop_front() {
            if let Ok(outcome) = replay(&setting.in_policy(&self.configured), &self.history) {
                search.judged.push((setting, outcome));
            }
            return None;
        }
        let judged = self.search.take()?.judged;
        let Some((to, why)) = self.choose(&judged) else {
            self.suggested = None;
            return None;
        };
        let change = Change { at: now, from: self.in_force, to, why };
        match self.terms.mode {
            Mode::Auto => {
                self.remember(change.clone());
                self.in_force = to;
                self.harm.clear();
                self.rests_until = now.after(CHANGE_EVERY);
                Some(News::Changed(change))
            }
            Mode::Suggest | Mode::Off => {
                let is_news = self.suggested.as_ref().is_none_or(|last| last.to != to);
                self.suggested = Some(change.clone());
                is_news.then_some(News::Suggested(change))
            }
        }
    }

    /// Whether candidates are left to be judged.
    pub const fn is_looking(&self) -> bool {
        self.search.is_some()
    }

    fn begin(&mut self, now: WallTime) {
        let is_set_back = self.looks_at.is_some_and(|at| at > now.after(2 * LOOK_EVERY));
        if self.looks_at.is_some_and(|at| now < at) && !is_set_back {
            return;
        }
        self.looks_at = Some(now.after(LOOK_EVERY));
        if now >= self.rests_until && self.history.known() >= EVIDENCE_MIN {
            self.search = Some(Search { left: self.candidates(), judged: Vec::new() });
        }
    }

    /// Every combination that the bounds allow, the figures in force first.
    fn candidates(&self) -> VecDeque<Setting> {
        let Terms { busy_above_min, idle_below_min, settle_max, .. } = self.terms;
        let configured = Setting::of(&self.configured);
        let limits = |configured: Utilization, least: Utilization| {
            let tried = LIMIT_STEPS_PERMILLE.map(|share| scaled(configured, share));
            let mut limits: Vec<_> = tried.into_iter().map(|limit| limit.max(least.min(configured))).collect();
            limits.dedup();
            limits
        };
        let steps = SETTLE_STEPS_S.map(Duration::from_secs).into_iter();
        let mut settles: Vec<Duration> = steps.chain([configured.settle, settle_max]).collect();
        settles.retain(|settle| *settle >= configured.settle && *settle <= settle_max.max(configured.settle));
        settles.sort_unstable();
        settles.dedup();
        let mut candidates = VecDeque::from([self.in_force]);
        // A lower limit for stops makes no fewer of them: it is for harm, not for evictions.
        let Setting { busy_above, idle_below: lowered, .. } = self.in_force;
        // What was lowered because of harm stays low: the load of the past knows nothing of harm.
        let highest = if self.terms.increase_max_permille.is_some() { lowered } else { busy_above };
        for idle_below in limits(configured.idle_below, idle_below_min) {
            let idle_below = idle_below.min(highest);
            candidates.extend(settles.iter().map(|settle| Setting { busy_above, idle_below, settle: *settle }));
        }
        if let Some(milder) = self.gentler(busy_above_min, idle_below_min) {
            candidates.push_back(milder);
        }
        candidates
    }

    /// The limits an eighth lower, when the RAN fares too badly while inference runs.
    fn gentler(&self, busy_above_min: Utilization, idle_below_min: Utilization) -> Option<Setting> {
        self.harm_above()?;
        let lower = |limit: Utilization, least: Utilization| scaled(limit, 875).max(least.min(limit));
        let Setting { busy_above, idle_below, settle } = self.in_force;
        // Where the bound of one holds it up, the other may not go below it.
        let idle_below = lower(idle_below, idle_below_min);
        let busy_above = lower(busy_above, busy_above_min).max(idle_below);
        let gentler = Setting { busy_above, idle_below, settle };
        (gentler != self.in_force).then_some(gentler)
    }

    /// The figure that is worse than wanted while inference runs, and by how much.
    fn harm_above(&self) -> Option<(&'static str, i32, u32)> {
        let max = self.terms.increase_max_permille?;
        let known = self.harm.iter().filter(|(_, harm)| harm.comparisons >= COMPARISONS_MIN);
        let (figure, harm) = known.max_by_key(|(_, harm)| harm.mean_permille)?;
        let change = harm.mean_permille;
        u32::try_from(change).is_ok_and(|change| change > max).then_some((*figure, change, max))
    }

    /// The best of the candidates, if it is better than what is in force, and why.
    fn choose(&mut self, judged: &[(Setting, Outcome)]) -> Option<(Setting, String)> {
        let (_, current) = judged.iter().copied().find(|(setting, _)| *setting == self.in_force)?;
        self.found = Some(current);
        let last = self.gentler(self.terms.busy_above_min, self.terms.idle_below_min);
        if let Some((gentler, (figure, change, max))) = last.zip(self.harm_above()) {
            let (_, then) = judged.iter().copied().find(|(setting, _)| *setting == gentler)?;
            let why = format!(
                "{figure} was {} % higher while inference ran, intent {} %; lower limits would have cost {}",
                f64::from(change) / 10.0,
                f64::from(max) / 10.0,
                Points(current.harvest_permille(), then.harvest_permille())
            );
            return Some((gentler, why));
        }
        let max = self.terms.evictions_max?;
        let within = |outcome: &Outcome, permille: u64| outcome.evictions_a_day_permille() <= u64::from(max) * permille;
        let by_harvest = |(setting, outcome): &&(Setting, Outcome)| {
            (outcome.harvest_permille(), std::cmp::Reverse(setting.settle), setting.idle_below)
        };
        let missed = !within(&current, 1000);
        let margin = if missed { 1000 } else { MARGIN_PERMILLE };
        let best = judged.iter().filter(|(_, outcome)| within(outcome, margin)).max_by_key(by_harvest);
        let chosen = match best {
            Some(best) if missed => *best,
            Some(best) if best.1.harvest_permille() >= current.harvest_permille() + GAIN_MIN_PERMILLE => *best,
            Some(_) => return None,
            // None keeps the intent: the one that comes nearest without giving up half of the harvest.
            None => {
                let bearable = |outcome: &Outcome| outcome.harvest_permille() * 2 >= current.harvest_permille();
                let nearest = judged.iter().filter(|(_, outcome)| missed && bearable(outcome));
                let nearest = nearest.min_by_key(|(_, outcome)| outcome.evictions_a_day_permille())?;
                let is_notable = nearest.1.evictions * 10 <= current.evictions * 9;
                if !is_notable {
                    return None;
                }
                *nearest
            }
        };
        (chosen.0 != self.in_force).then(|| (chosen.0, self.explain(max, current, chosen)))
    }

    fn explain(&self, max: u32, current: Outcome, (setting, then): (Setting, Outcome)) -> String {
        let days = current.known.as_secs_f64() / 86_400.0;
        let points = Points(current.harvest_permille(), then.harvest_permille());
        let what = if setting.settle == self.in_force.settle {
            format!("idle_below {}", setting.idle_below)
        } else {
            format!("a settle of {} s", setting.settle.as_secs_f64())
        };
        format!(
            "{current} over the last {days:.1} days of load, intent {max}; {what} would have given {} at {points}",
            PerDay(then.evictions_a_day_permille())
        )
    }

    fn remember(&mut self, change: Change) {
        self.changes.push_back(change);
        if self.changes.len() > CHANGES_MAX {
            self.changes.pop_front();
        }
    }
}

/// That share of a level, in permille; at least one permille.
fn scaled(level: Utilization, share_permille: u32) -> Utilization {
    let permille = u32::from(level.permille()) * share_permille / 1000;
    u16::try_from(permille.clamp(1, 1000)).ok().and_then(Utilization::from_permille).unwrap_or(level)
}

/// A number a day, from thousandths.
struct PerDay(u64);

impl fmt::Display for PerDay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.0 / 1000, self.0 % 1000 / 100)
    }
}

/// A harvest before and after, in permille of the time.
struct Points(u32, u32);

impl fmt::Display for Points {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (word, permille) = if self.1 <= self.0 { ("less", self.0 - self.1) } else { ("more", self.1 - self.0) };
        write!(f, "{}.{} points {word} harvest", permille / 10, permille % 10)
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} evictions a day", PerDay(self.evictions_a_day_permille()))
    }
}
