//! How is something foreign named in a sentence? Cut and escaped: a model's names may be of any length and content.

use std::fmt::{self, Write as _};

use crate::fault::{Code, Fault};
use crate::units::FAULT_TEXT_BYTES_MAX;

/// Characters of a name that a sentence shows.
const SHOWN_MAX: usize = 80;

/// Shows the beginning of something whose text may be of any length.
pub(in crate::worker) struct Brief(String);

impl Brief {
    /// The beginning of `thing` and of its causes; no more than that is ever made.
    pub(in crate::worker) fn of(thing: &impl fmt::Display) -> Self {
        let mut brief = Self(String::new());
        // An error means that the limit is reached, and then the beginning is there.
        let _ = write!(brief, "{thing:#}");
        brief
    }
}

impl fmt::Write for Brief {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let room = FAULT_TEXT_BYTES_MAX / 2 - self.0.len();
        self.0.push_str(&text[..text.floor_char_boundary(room)]);
        if text.len() > room { Err(fmt::Error) } else { Ok(()) }
    }
}

impl fmt::Display for Brief {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A foreign name in quotes: its beginning, escaped.
pub(super) struct Named<'a>(pub(super) &'a str);

impl fmt::Display for Named<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_char('"')?;
        for c in self.0.chars().take(SHOWN_MAX) {
            write!(f, "{}", c.escape_debug())?;
        }
        let cut = self.0.chars().nth(SHOWN_MAX).is_some();
        f.write_str(if cut { "…\"" } else { "\"" })
    }
}

/// The first of some names.
pub(super) fn listed<'a>(names: impl Iterator<Item = &'a str>) -> String {
    const LISTED_MAX: usize = 8;
    let mut text = String::from("[");
    for (at, name) in names.take(LISTED_MAX + 1).enumerate() {
        text.push_str(if at == 0 { "" } else { ", " });
        if at == LISTED_MAX {
            text.push('…');
        } else {
            text.push_str(&Named(name).to_string());
        }
    }
    text.push(']');
    text
}

/// A refusal.
pub(super) fn refuse<T>(code: Code, text: impl AsRef<str>) -> Result<T, Fault> {
    Err(Fault::new(code, text))
}
