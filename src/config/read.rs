//! How is TOML read so that every mistake is found at once, each with its place and its remedy?
//!
//! A [`Section`] is asked for each key it may have: the asking names type, range, unit and default in one place, and
//! whatever was never asked for is an unknown key. Problems are collected; a bad value reads as its default meanwhile.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::ops::{Range, RangeInclusive};
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use toml::Spanned;
use toml::de::{DeString, DeTable, DeValue};

use crate::fault::plain;
use crate::units::{FAULT_TEXT_BYTES_MAX, Utilization};

/// Longest piece of the file that is repeated in a problem's text, in characters.
const SHOWN_CHARS_MAX: usize = 60;
/// Most mistakes of syntax that are told; the rest usually follow from them.
const SYNTAX_PROBLEMS_MAX: usize = 5;
/// Most problems that are kept; more than a person reads at once.
const PROBLEMS_MAX: usize = 100;

/// One mistake in a configuration file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The file, as it was named.
    pub file: String,
    /// Line, from 1.
    pub line: usize,
    /// Column, from 1, in characters.
    pub column: usize,
    /// Key, value, what is allowed, what to do.
    pub text: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "config.invalid: {}:{}:{}: {}", self.file, self.line, self.column, self.text)
    }
}

/// A configuration text while it is read: where mistakes and known keys are gathered.
#[derive(Debug)]
pub(super) struct Document<'t> {
    file: &'t str,
    text: &'t str,
    problems: RefCell<Vec<Problem>>,
    known: RefCell<BTreeSet<String>>,
}

impl<'t> Document<'t> {
    pub(super) fn new(file: &'t str, text: &'t str) -> Self {
        Self { file, text, problems: RefCell::default(), known: RefCell::default() }
    }

    /// The root table; `None` when the text is not TOML, which has then been noted.
    pub(super) fn parse(&self) -> Option<Spanned<DeTable<'t>>> {
        let (table, errors) = DeTable::parse_recoverable(self.text);
        // One mistake makes the parser stumble on: the first of each line is enough.
        let line = |at: usize| self.text.get(..at).map_or(0, |before| before.matches('\n').count());
        let mut lines: Vec<usize> = Vec::new();
        for error in &errors {
            let at = error.span().unwrap_or(0..0);
            if lines.len() < SYNTAX_PROBLEMS_MAX && !lines.contains(&line(at.start)) {
                lines.push(line(at.start));
                self.note(at, format!("not TOML: {}", error.message()));
            }
        }
        errors.is_empty().then_some(table)
    }

    pub(super) fn note(&self, at: Range<usize>, text: String) {
        let mut problems = self.problems.borrow_mut();
        // Looked at first: to find the line takes a walk through the file.
        if problems.len() >= PROBLEMS_MAX {
            return;
        }
        let before = self.text.get(..at.start).unwrap_or_default();
        let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
        let line = before.matches('\n').count() + 1;
        let column = before[line_start..].chars().count() + 1;
        let text = plain(&text, FAULT_TEXT_BYTES_MAX);
        problems.push(Problem { file: self.file.to_owned(), line, column, text });
    }

    /// What was found, in the order of the file, and every key that was asked for.
    pub(super) fn finish(self) -> (Vec<Problem>, BTreeSet<String>) {
        let mut problems = self.problems.into_inner();
        problems.sort_by_key(|problem| (problem.line, problem.column));
        (problems, self.known.into_inner())
    }

    /// The value as it is written in the file, shortened.
    fn shown(&self, at: &Range<usize>) -> String {
        let written = self.text.get(at.clone()).unwrap_or_default();
        if written.chars().count() <= SHOWN_CHARS_MAX {
            return written.to_owned();
        }
        written.chars().take(SHOWN_CHARS_MAX).chain(['…']).collect()
    }
}

/// One table of the file, being read.
#[derive(Debug)]
pub(super) struct Section<'d, 't> {
    document: &'d Document<'t>,
    table: Option<&'d DeTable<'t>>,
    at: Range<usize>,
    path: String,
    /// The path without positions in lists, for the set of known keys.
    general: String,
    asked: Vec<&'static str>,
}

impl<'d, 't> Section<'d, 't> {
    pub(super) fn root(document: &'d Document<'t>, table: &'d Spanned<DeTable<'t>>) -> Self {
        let (path, general) = (String::new(), String::new());
        Self { document, table: Some(table.get_ref()), at: 0..0, path, general, asked: Vec::new() }
    }

    /// A sub-table; an absent one reads as empty.
    pub(super) fn section(&mut self, key: &'static str) -> Self {
        let found = self.ask(key);
        let table = found.and_then(|value| value.get_ref().as_table());
        if let (Some(value), None) = (found, table) {
            self.document.note(value.span(), format!("{} must be a table: write [{key}]", self.name(key)));
        }
        let at = found.map_or(self.at.clone(), Spanned::span);
        let [path, general] = [&self.path, &self.general].map(|path| format!("{path}{key}."));
        Self { document: self.document, table, at, path, general, asked: Vec::new() }
    }

    /// The tables of a list of tables, `[[key]]`, at most `max`.
    pub(super) fn sections(&mut self, key: &'static str, max: usize) -> Vec<Self> {
        let Some(found) = self.ask(key) else { return Vec::new() };
        let Some(list) = found.get_ref().as_array() else {
            self.document.note(found.span(), format!("{} must be a list of tables: write [[{key}]]", self.name(key)));
            return Vec::new();
        };
        if list.len() > max {
            self.document.note(found.span(), format!("{} has {} entries: at most {max}", self.name(key), list.len()));
        }
        let mut sections = Vec::new();
        for (index, entry) in list.iter().enumerate().take(max) {
            let table = entry.get_ref().as_table();
            if table.is_none() {
                self.document.note(entry.span(), format!("{}[{index}] must be a table", self.name(key)));
            }
            let path = format!("{}{key}[{index}].", self.path);
            let general = format!("{}{key}.", self.general);
            sections.push(Self { document: self.document, table, at: entry.span(), path, general, asked: Vec::new() });
        }
        sections
    }

    /// Notes every key that was never asked for, with the nearest known one.
    pub(super) fn finish(self) {
        let Some(table) = self.table else { return };
        for key in table.keys().filter(|key| !self.asked.contains(&key.get_ref().as_ref())) {
            let remedy = match nearest(key.get_ref(), &self.asked) {
                Some(near) => format!("did you mean `{near}`?"),
                None => format!("known here: {}", self.asked.join(", ")),
            };
            self.document.note(key.span(), format!("unknown key `{}{}`: {remedy}", self.path, key.get_ref()));
        }
    }

    /// Notes a problem at the key's value, or at the section when the key is absent.
    pub(super) fn complain(&self, key: &str, rule: &str) {
        match self.table.and_then(|table| table.get(key)) {
            Some(value) => self.refuse(key, value, rule),
            None => self.document.note(self.at.clone(), format!("{}: {rule}", self.name(key))),
        }
    }

    /// Notes that a required key is absent, unless it is there and already noted as wrong.
    pub(super) fn require<T>(&self, key: &str, found: Option<T>, example: &str) -> Option<T> {
        if found.is_none() && self.table.is_none_or(|table| !table.contains_key(key)) {
            let text = format!("`{}` is missing: add {key} = {example}", self.name(key));
            self.document.note(self.at.clone(), text);
        }
        found
    }

    pub(super) fn has(&self, key: &str) -> bool {
        self.table.is_some_and(|table| table.contains_key(key))
    }

    // ---- values ----

    pub(super) fn integer(&mut self, key: &'static str, default: u64, range: RangeInclusive<u64>, unit: &str) -> u64 {
        self.optional_integer(key, range, unit).unwrap_or(default)
    }

    pub(super) fn optional_integer(
        &mut self,
        key: &'static str,
        range: RangeInclusive<u64>,
        unit: &str,
    ) -> Option<u64> {
        let rule = integer_rule(&range, unit);
        self.read(key, &rule, |value| integer(value).filter(|number| range.contains(number)))
    }

    /// A list of different integers, at most `max`.
    pub(super) fn integers(&mut self, key: &'static str, max: usize, range: RangeInclusive<u64>) -> Vec<u64> {
        let rule = format!("must be a list of at most {max} different integers, each {}", between(&range));
        let read = |value: &DeValue<'_>| {
            let numbers: Vec<u64> =
                value.as_array()?.iter().map(|entry| integer(entry.get_ref())).collect::<Option<_>>()?;
            let distinct: BTreeSet<u64> = numbers.iter().copied().collect();
            let fits = numbers.iter().all(|number| range.contains(number));
            (fits && numbers.len() <= max && distinct.len() == numbers.len()).then_some(numbers)
        };
        self.read(key, &rule, read).unwrap_or_default()
    }

    /// A table of integers by integers, such as `{ 1 = 51 }`, at most `max` entries; empty when it is left out.
    pub(super) fn integer_table(
        &mut self,
        key: &'static str,
        max: usize,
        names: RangeInclusive<u64>,
        range: RangeInclusive<u64>,
    ) -> BTreeMap<u64, u64> {
        let rule = format!(
            "must be a table such as {{ 1 = 51 }}, at most {max} keys {}, each {}",
            between(&names),
            between(&range)
        );
        let entry = |(name, value): (&Spanned<DeString<'_>>, &Spanned<DeValue<'_>>)| {
            let name = name.get_ref().parse().ok().filter(|name| names.contains(name))?;
            Some((name, integer(value.get_ref()).filter(|number| range.contains(number))?))
        };
        let read = |value: &DeValue<'_>| {
            let table = value.as_table()?;
            let entries: BTreeMap<u64, u64> = table.iter().map(entry).collect::<Option<_>>()?;
            (table.len() <= max && entries.len() == table.len()).then_some(entries)
        };
        self.read(key, &rule, read).unwrap_or_default()
    }

    pub(super) fn percent(&mut self, key: &'static str, default: u8) -> Utilization {
        let percent = self.integer(key, u64::from(default), 1..=100, "percent");
        u8::try_from(percent).ok().and_then(Utilization::from_percent).unwrap_or(Utilization::FULL)
    }

    /// A duration in seconds, whole or with decimals, to the millisecond.
    pub(super) fn seconds(
        &mut self,
        key: &'static str,
        default: Duration,
        range: RangeInclusive<Duration>,
    ) -> Duration {
        let (least, most) = (range.start().as_secs_f64(), range.end().as_secs_f64());
        let rule = format!("must be {least} to {most} (seconds)");
        self.read(key, &rule, |value| seconds(value).filter(|span| range.contains(span))).unwrap_or(default)
    }

    /// A duration in whole milliseconds.
    pub(super) fn millis(&mut self, key: &'static str, default: u64, range: RangeInclusive<u64>) -> Duration {
        Duration::from_millis(self.integer(key, default, range, "milliseconds"))
    }

    /// A positive number, with or without decimals.
    pub(super) fn number(&mut self, key: &'static str, default: f64, range: RangeInclusive<f64>) -> f64 {
        let rule = format!("must be a number, {} to {}", range.start(), range.end());
        self.read(key, &rule, |value| number(value).filter(|number| range.contains(number))).unwrap_or(default)
    }

    pub(super) fn flag(&mut self, key: &'static str, default: bool) -> bool {
        self.read(key, "must be true or false", |value| value.as_bool()).unwrap_or(default)
    }

    /// A text of 1 to `chars_max` characters without control characters.
    pub(super) fn text(&mut self, key: &'static str, chars_max: usize) -> Option<String> {
        let rule = format!("must be a text of 1 to {chars_max} characters in quotes, without control characters");
        let fits = |text: &&str| (1..=chars_max).contains(&text.chars().count()) && !text.contains(char::is_control);
        self.read(key, &rule, |value| value.as_str().filter(fits).map(str::to_owned))
    }

    /// A text of a type that has rules of its own.
    pub(super) fn parsed<T: FromStr>(&mut self, key: &'static str, rule: &str) -> Option<T> {
        self.read(key, rule, |value| value.as_str()?.parse().ok())
    }

    /// One of a few words.
    pub(super) fn one_of<T: Copy>(&mut self, key: &'static str, words: &[(&str, T)]) -> Option<T> {
        let allowed = words.iter().map(|(word, _)| format!("\"{word}\"")).collect::<Vec<_>>().join(", ");
        let find = |text: &str| words.iter().find(|(word, _)| *word == text).map(|(_, meaning)| *meaning);
        self.read(key, &format!("must be one of {allowed}"), |value| find(value.as_str()?))
    }

    /// An absolute path: what a relative one means depends on where the agent was started.
    pub(super) fn path(&mut self, key: &'static str) -> Option<PathBuf> {
        let rule = "must be an absolute path in quotes, starting with / and without ..";
        let fits =
            |text: &&str| text.starts_with('/') && !text.contains('\0') && text.split('/').all(|part| part != "..");
        self.read(key, rule, |value| value.as_str().filter(fits).map(PathBuf::from))
    }

    fn read<T>(&mut self, key: &'static str, rule: &str, read: impl FnOnce(&DeValue<'_>) -> Option<T>) -> Option<T> {
        let value = self.ask(key)?;
        let result = read(value.get_ref());
        if result.is_none() {
            self.refuse(key, value, rule);
        }
        result
    }

    fn ask(&mut self, key: &'static str) -> Option<&'d Spanned<DeValue<'t>>> {
        self.asked.push(key);
        self.document.known.borrow_mut().insert(format!("{}{key}", self.general));
        self.table?.get(key)
    }

    fn refuse(&self, key: &str, value: &Spanned<DeValue<'_>>, rule: &str) {
        let at = value.span();
        self.document.note(at.clone(), format!("{} = {}: {rule}", self.name(key), self.document.shown(&at)));
    }

    fn name(&self, key: &str) -> String {
        format!("{}{key}", self.path)
    }
}

fn integer_rule(range: &RangeInclusive<u64>, unit: &str) -> String {
    let unit = if unit.is_empty() { String::new() } else { format!(" ({unit})") };
    format!("must be {}{unit}", between(range))
}

fn between(range: &RangeInclusive<u64>) -> String {
    format!("{} to {}", range.start(), range.end())
}

fn integer(value: &DeValue<'_>) -> Option<u64> {
    let integer = value.as_integer()?;
    u64::from_str_radix(integer.as_str(), integer.radix()).ok()
}

fn number(value: &DeValue<'_>) -> Option<f64> {
    let text = match (value.as_integer(), value.as_float()) {
        (Some(integer), _) if integer.radix() == 10 => integer.as_str(),
        (_, Some(float)) => float.as_str(),
        (_, None) => return None,
    };
    text.parse().ok().filter(|number: &f64| number.is_finite())
}

fn seconds(value: &DeValue<'_>) -> Option<Duration> {
    let span = Duration::try_from_secs_f64(number(value)?).ok()?;
    Some(Duration::from_millis(u64::try_from(span.as_millis()).ok()?))
}

/// The known word that was most likely meant: at most a third of it differs.
fn nearest<'w>(word: &str, known: &[&'w str]) -> Option<&'w str> {
    let distance = |candidate: &&str| edits(word, candidate);
    known.iter().copied().min_by_key(distance).filter(|near| edits(word, near) * 3 <= near.chars().count().max(3))
}

/// Levenshtein distance, in characters.
fn edits(from: &str, to: &str) -> usize {
    let to: Vec<char> = to.chars().collect();
    let mut row: Vec<usize> = (0..=to.len()).collect();
    for (line, a) in from.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = line + 1;
        for (column, b) in to.iter().enumerate() {
            let replaced = diagonal + usize::from(a != *b);
            diagonal = row[column + 1];
            row[column + 1] = replaced.min(diagonal + 1).min(row[column] + 1);
        }
    }
    row.last().copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn edits_counts_single_character_changes() {
        for (from, to, expected) in [("busy", "busy", 0), ("buzy", "busy", 1), ("prt", "port", 1), ("", "abc", 3)] {
            assert_eq!(edits(from, to), expected, "{from} → {to}");
        }
    }

    #[test]
    fn a_typo_finds_its_key_and_a_stranger_finds_none() {
        assert_eq!(nearest("busy_abov", &["busy_above", "idle_below"]), Some("busy_above"));
        assert_eq!(nearest("colour", &["busy_above", "idle_below"]), None);
    }

    #[test]
    fn columns_count_characters_not_bytes() {
        let document = Document::new("f", "é = ü ü");
        document.note(document.text.find('=').map_or(0..0, |at| at..at), "here".to_owned());
        assert_eq!(document.finish().0[0].column, 3);
    }

    #[test]
    fn the_number_of_problems_is_bounded() {
        let document = Document::new("f", "");
        (0..PROBLEMS_MAX * 2).for_each(|_| document.note(0..0, String::new()));
        assert_eq!(document.finish().0.len(), PROBLEMS_MAX);
    }
}
