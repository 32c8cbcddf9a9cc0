//! What must survive a restart, and how is it written? Lines of text, each a word and its figures.
//!
//! ```text
//! neap-tuning 1
//! configured 400 150 30000        busy_above and idle_below in permille, settle in ms
//! in_force 400 150 120000
//! rests 1763859600000             no change before, ms since 1970
//! change 1763773200000 400 150 30000 400 150 120000 why
//! slots 14698800                  number of the newest slot, the oldest level first
//! levels 12 40 - 1000
//! ```

use std::fmt::Write as _;
use std::time::Duration;

use super::history::{History, SLOTS_MAX};
use super::{CHANGE_EVERY, CHANGES_MAX, Change, Mode, Setting, Tuner};
use crate::units::{Utilization, WallTime};

/// Largest snapshot: a week of levels, and the longest sentences.
pub const SNAPSHOT_BYTES_MAX: usize = 64 * 1024;
/// Longest sentence of a change that is kept, in characters.
const WHY_CHARS_MAX: usize = 500;
const HEAD: &str = "neap-tuning 1";

const _: () = assert!(SLOTS_MAX * 5 + CHANGES_MAX * (WHY_CHARS_MAX * 4 + 100) < SNAPSHOT_BYTES_MAX, "it must fit");

/// A snapshot that makes no sense.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line} is not what tuning writes; it begins anew")]
pub struct BadSnapshot {
    /// Which line, from 1.
    pub line: usize,
}

impl Tuner {
    /// Everything that must survive a restart.
    pub fn snapshot(&self) -> String {
        let mut text = String::from(HEAD);
        let figures = |setting: &Setting| {
            let Setting { busy_above, idle_below, settle } = setting;
            format!("{} {} {}", busy_above.permille(), idle_below.permille(), settle.as_millis())
        };
        // Writing to a string cannot fail.
        let _ = write!(text, "\nconfigured {}", figures(&Setting::of(&self.configured)));
        let _ = write!(text, "\nin_force {}", figures(&self.in_force));
        let _ = write!(text, "\nrests {}", self.rests_until.as_millis());
        for change in &self.changes {
            let why: String = change.why.chars().filter(|c| !c.is_control()).take(WHY_CHARS_MAX).collect();
            let (from, to) = (figures(&change.from), figures(&change.to));
            let _ = write!(text, "\nchange {} {from} {to} {why}", change.at.as_millis());
        }
        if let Some(newest) = self.history.newest() {
            let _ = write!(text, "\nslots {newest}\nlevels");
            for level in self.history.levels() {
                let _ = match level {
                    Some(level) => write!(text, " {}", level.permille()),
                    None => write!(text, " -"),
                };
            }
        }
        text.push('\n');
        text
    }

    /// Takes over what an earlier run has kept. Its figures come back into force only in mode `auto`, and only if they
    /// were made of the policy that is configured now and lie within the bounds of now. Tells whether they have.
    ///
    /// # Errors
    /// When it makes no sense; nothing has changed then.
    pub fn restore(&mut self, now: WallTime, text: &str) -> Result<bool, BadSnapshot> {
        let mut kept = Kept::default();
        for (index, line) in text.lines().enumerate() {
            let bad = BadSnapshot { line: index + 1 };
            match (index, line) {
                (0, HEAD) => {}
                (0, _) => return Err(bad),
                (_, line) => kept.take(line).ok_or(bad)?,
            }
        }
        if text.is_empty() {
            return Err(BadSnapshot { line: 1 });
        }
        self.history = kept.history.unwrap_or_default();
        self.changes = kept.changes.into();
        // However the clock was set meanwhile, it rests no longer than a change asks for.
        self.rests_until = kept.rests_until.unwrap_or(now).min(now.after(CHANGE_EVERY));
        let is_same = kept.configured == Some(Setting::of(&self.configured));
        let tuned = kept.in_force.filter(|setting| is_same && self.terms.mode == Mode::Auto && self.allows(setting));
        let is_tuned = tuned.is_some_and(|setting| setting != self.in_force);
        self.in_force = tuned.unwrap_or(self.in_force);
        Ok(is_tuned)
    }

    /// Whether the bounds allow these figures.
    pub fn allows(&self, setting: &Setting) -> bool {
        let configured = Setting::of(&self.configured);
        setting.is_within(&configured)
            && setting.busy_above >= self.terms.busy_above_min.min(configured.busy_above)
            && setting.idle_below >= self.terms.idle_below_min.min(configured.idle_below)
            && setting.settle <= self.terms.settle_max.max(configured.settle)
            && setting.in_policy(&self.configured).check().is_ok()
    }
}

/// What a snapshot holds.
#[derive(Default)]
struct Kept {
    configured: Option<Setting>,
    in_force: Option<Setting>,
    rests_until: Option<WallTime>,
    changes: Vec<Change>,
    newest: Option<i64>,
    history: Option<History>,
}

impl Kept {
    /// Takes in one line; `None` when it makes no sense.
    fn take(&mut self, line: &str) -> Option<()> {
        let (word, rest) = line.split_once(' ').unwrap_or((line, ""));
        let mut words = rest.split(' ');
        match word {
            "configured" => self.configured = Some(setting(&mut words)?),
            "in_force" => self.in_force = Some(setting(&mut words)?),
            "rests" => self.rests_until = Some(WallTime::from_millis(rest.parse().ok()?)),
            "change" if self.changes.len() < CHANGES_MAX => {
                let mut words = rest.splitn(8, ' ');
                let at = WallTime::from_millis(words.next()?.parse().ok()?);
                let (from, to) = (setting(&mut words)?, setting(&mut words)?);
                let why = words.next()?.chars().filter(|c| !c.is_control()).take(WHY_CHARS_MAX).collect();
                self.changes.push(Change { at, from, to, why });
            }
            "slots" => self.newest = Some(rest.parse().ok()?),
            "levels" => {
                let levels: Option<Vec<_>> =
                    words.filter(|word| !word.is_empty()).take(SLOTS_MAX + 1).map(level).collect();
                self.history = Some(History::restored(self.newest?, levels?));
            }
            _ => return None,
        }
        Some(())
    }
}

fn setting<'a>(words: &mut impl Iterator<Item = &'a str>) -> Option<Setting> {
    let mut permille = || Utilization::from_permille(words.next()?.parse().ok()?);
    let (busy_above, idle_below) = (permille()?, permille()?);
    let settle = Duration::from_millis(words.next()?.parse().ok()?);
    Some(Setting { busy_above, idle_below, settle })
}

#[expect(clippy::option_option, reason = "an unknown level is a level")]
fn level(word: &str) -> Option<Option<Utilization>> {
    match word {
        "-" => Some(None),
        word => Some(Some(Utilization::from_permille(word.parse().ok()?)?)),
    }
}
