//! How is something shown? Lines for people, JSON for machines; colour only where it is wanted.

use std::env;
use std::io::{self, IsTerminal as _, Write as _};

use serde_json::Value;

use super::failure::Failure;
use crate::units::{escape_steering, is_steering};

/// Standard output. A reader that goes away ends the command quietly.
#[derive(Debug)]
pub(super) struct Out {
    colour: bool,
}

/// What a colour means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Tone {
    /// As wanted.
    Good,
    /// Worth a look.
    Warn,
    /// Went wrong.
    Bad,
    /// Less important.
    Dim,
    /// More important.
    Strong,
}

impl Out {
    /// Standard output; coloured only on a terminal, and not when `NO_COLOR` is set or the terminal is dumb.
    pub(super) fn stdout() -> Self {
        let no_color = env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        let dumb = env::var_os("TERM").is_some_and(|term| term == "dumb");
        Self { colour: io::stdout().is_terminal() && !no_color && !dumb }
    }

    /// Writes one line.
    ///
    /// # Errors
    /// When standard output is closed or full.
    pub(super) fn line(&self, line: &str) -> Result<(), Failure> {
        let mut stdout = io::stdout().lock();
        let written = stdout.write_all(line.as_bytes()).and_then(|()| stdout.write_all(b"\n"));
        written.and_then(|()| stdout.flush()).map_err(|error| Failure::io("cannot write to standard output", &error))
    }

    /// Writes one JSON value on one line.
    ///
    /// # Errors
    /// When standard output is closed or full.
    pub(super) fn json(&self, value: &Value) -> Result<(), Failure> {
        // JSON escapes the lower control characters only.
        self.line(&escape_steering(&value.to_string(), &[]))
    }

    /// Writes a table; the first row is its head. Nothing for an empty table.
    ///
    /// # Errors
    /// When standard output is closed or full.
    pub(super) fn table(&self, head: &[&str], rows: &[Vec<String>]) -> Result<(), Failure> {
        for (index, line) in table(head, rows).iter().enumerate() {
            self.line(&if index == 0 { self.paint(Tone::Dim, line) } else { line.clone() })?;
        }
        Ok(())
    }

    /// The text in the colour of its tone, where colours are wanted.
    pub(super) fn paint(&self, tone: Tone, text: &str) -> String {
        if !self.colour {
            return text.to_owned();
        }
        let code = match tone {
            Tone::Good => 32,
            Tone::Warn => 33,
            Tone::Bad => 31,
            Tone::Dim => 2,
            Tone::Strong => 1,
        };
        format!("\x1b[{code}m{text}\x1b[0m")
    }
}

/// Columns as wide as their widest cell, two spaces between them.
fn table(head: &[&str], rows: &[Vec<String>]) -> Vec<String> {
    let head: Vec<String> = head.iter().map(|title| (*title).to_owned()).collect();
    let all: Vec<&Vec<String>> = std::iter::once(&head).chain(rows).collect();
    let width = |column: usize| all.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max();
    let widths: Vec<usize> = (0..head.len()).map(|column| width(column).unwrap_or(0)).collect();
    let line = |row: &Vec<String>| {
        let cells: Vec<String> = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
        cells.join("  ").trim_end().to_owned()
    };
    all.into_iter().map(line).collect()
}

/// Text of others made safe for a terminal: control characters become spaces, at most `chars_max` characters.
pub(super) fn clean(text: &str, chars_max: usize) -> String {
    let safe = |c: char| if is_steering(c) { ' ' } else { c };
    let mut short: String = text.chars().take(chars_max).map(safe).collect();
    if text.chars().count() > chars_max {
        short.push('…');
    }
    short
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up_and_lines_have_no_trailing_space() {
        let rows = vec![vec!["a".to_owned(), "1".to_owned()], vec!["long".to_owned(), "22".to_owned()]];
        assert_eq!(table(&["id", "n"], &rows), ["id    n", "a     1", "long  22"]);
    }

    #[test]
    fn foreign_text_cannot_steer_the_terminal() {
        assert_eq!(clean("a\x1b[2Jb\nc", 20), "a [2Jb c");
        assert_eq!(clean("abcdef", 3), "abc…");
        assert_eq!(clean("\u{9b}31m\u{202e}gpj", 20), " 31m gpj");
    }

    #[test]
    fn no_colour_means_no_escape() {
        let out = Out { colour: false };
        assert_eq!(out.paint(Tone::Bad, "x"), "x");
    }
}
