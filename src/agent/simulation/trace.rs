//! What happened? A fingerprint of everything, and the last lines of it in words.

use std::collections::VecDeque;

use crate::units::Instant;

/// Lines that a failure tells.
const LINES_MAX: usize = 40;
/// Begin of a fingerprint (FNV-1a, by words).
const FINGERPRINT: u64 = 0xcbf2_9ce4_8422_2325;

/// Whether what happens is put into words, which takes most of the time of a world.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Words {
    /// Only the fingerprint.
    None,
    /// The last lines are kept.
    Last,
    /// Every line is printed.
    All,
}

/// The trace of one world.
#[derive(Debug)]
pub(super) struct Trace {
    words: Words,
    print: u64,
    lines: VecDeque<String>,
}

impl Trace {
    pub(super) fn new(words: Words) -> Self {
        Self { words, print: FINGERPRINT, lines: VecDeque::new() }
    }

    /// Something happened: its numbers, and its words should anybody want them.
    pub(super) fn note(&mut self, now: Instant, numbers: &[u64], text: impl FnOnce() -> String) {
        self.print = numbers.iter().fold(mixed(self.print, now.as_nanos()), |print, number| mixed(print, *number));
        if self.words == Words::None {
            return;
        }
        let line = format!("{:>12.6} s  {}", super::since_begin(now).as_secs_f64(), text());
        if self.words == Words::All {
            eprintln!("{line}");
        }
        if self.lines.len() == LINES_MAX {
            self.lines.pop_front();
        }
        self.lines.push_back(line);
    }

    pub(super) fn fingerprint(&self) -> u64 {
        self.print
    }

    pub(super) fn lines(&self) -> Vec<String> {
        self.lines.iter().cloned().collect()
    }
}

const fn mixed(print: u64, word: u64) -> u64 {
    (print ^ word).wrapping_mul(0x0100_0000_01b3).rotate_left(29)
}

/// A number for some bytes.
pub(super) fn digest(bytes: &[u8]) -> u64 {
    let (words, rest) = bytes.as_chunks();
    let start = mixed(FINGERPRINT, bytes.len() as u64);
    let print = words.iter().fold(start, |print, word| mixed(print, u64::from_le_bytes(*word)));
    rest.iter().fold(print, |print, byte| mixed(print, u64::from(*byte)))
}
