//! Does every promise of `docs/SPECIFICATION.md` say which test holds it, and is that test there? And those that
//! `docs/SECURITY.md` names?
//!
//! A promise without a test must say so in bold; a test that was renamed or removed must not leave a promise that only
//! looks held.

use std::fs;
use std::path::Path;

/// What a row says in place of a test.
const NO_TEST: &str = "**no test yet**";
/// Promises that the table must have, by number.
const PROMISES: std::ops::RangeInclusive<u32> = 1..=22;

struct Row {
    number: String,
    held_by: String,
    measured: String,
}

/// The rows of all tables whose first cell is a promise's number, such as `R7`, `Y1` or `A1`.
fn rows(text: &str) -> Vec<Row> {
    let cells = |line: &str| -> Option<Row> {
        let inner = line.trim().strip_prefix('|')?.strip_suffix('|')?;
        let cells: Vec<&str> = inner.split('|').map(str::trim).collect();
        let number = cells.first()?.strip_prefix(['A', 'R', 'Y'])?;
        number.chars().all(|c| c.is_ascii_digit()).then(|| {
            assert_eq!(cells.len(), 5, "a row of five cells: {line}");
            Row { number: cells[0].to_owned(), held_by: cells[3].to_owned(), measured: cells[4].to_owned() }
        })
    };
    text.lines().filter_map(cells).collect()
}

/// What stands between backticks.
fn quoted(text: &str) -> impl Iterator<Item = &str> {
    text.split('`').skip(1).step_by(2)
}

/// What is wrong with a row, if anything.
fn fault(row: &Row, root: &Path) -> Option<String> {
    let mut tests = 0;
    for item in quoted(&row.held_by) {
        let Some((file, name)) = item.split_once("::") else { continue };
        let Ok(code) = fs::read_to_string(root.join(file)) else {
            return Some(format!("{}: there is no file {file}", row.number));
        };
        if !code.contains(&format!("fn {name}(")) {
            return Some(format!("{}: {file} has no test {name}", row.number));
        }
        tests += 1;
    }
    if tests == 0 && !row.held_by.contains(NO_TEST) {
        return Some(format!("{}: neither a test as `file::name` nor {NO_TEST}: {}", row.number, row.held_by));
    }
    row.measured.is_empty().then(|| format!("{}: nothing under \"last measured\", not even a dash", row.number))
}

#[test]
fn every_promise_names_a_test_that_exists_or_says_that_there_is_none() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let text = fs::read_to_string(root.join("docs/SPECIFICATION.md")).unwrap();
    let rows = rows(&text);
    let faults: Vec<String> = rows.iter().filter_map(|row| fault(row, root)).collect();
    assert!(faults.is_empty(), "{}", faults.join("\n"));
    for number in PROMISES {
        let wanted = format!("R{number}");
        let count = rows.iter().filter(|row| row.number == wanted).count();
        assert!(count >= 1, "promise {wanted} has no row");
    }
}

/// What is wrong with the tests that a page names as `file.rs::name`, anywhere in its text.
fn faults_of_page(text: &str, root: &Path) -> (usize, Vec<String>) {
    let named: Vec<&str> = quoted(text).filter(|item| item.contains(".rs::")).collect();
    let row = |item: &&str| Row { number: "page".to_owned(), held_by: format!("`{item}`"), measured: "–".to_owned() };
    let faults = named.iter().filter_map(|item| fault(&row(item), root)).collect();
    (named.len(), faults)
}

#[test]
fn every_test_that_the_security_page_names_exists() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let text = fs::read_to_string(root.join("docs/SECURITY.md")).unwrap();
    let (named, faults) = faults_of_page(&text, root);
    assert!(faults.is_empty(), "{}", faults.join("\n"));
    assert!(named >= 20, "only {named} tests are named: the page is not read rightly");
    for provision in (1..=13).map(|number| format!("| 5.{number} |")).chain(["| 6 |".to_owned()]) {
        assert!(text.contains(&provision), "EN 303 645 provision {provision} has no row");
    }
    assert_eq!(faults_of_page("as `tests/specification.rs::no_such_test` holds", root).1.len(), 1);
}

#[test]
fn a_row_that_only_looks_held_is_found() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let row = |held_by: &str, measured: &str| Row {
        number: "R1".to_owned(),
        held_by: held_by.to_owned(),
        measured: measured.to_owned(),
    };
    let here = "`tests/specification.rs::a_row_that_only_looks_held_is_found`";
    assert_eq!(fault(&row(here, "–"), root), None);
    assert_eq!(fault(&row("**no test yet**: it needs hardware", "–"), root), None);
    for (held_by, measured, words) in [
        ("`tests/specification.rs::no_such_test`", "–", "has no test"),
        ("`tests/nowhere.rs::a`", "–", "no file"),
        ("`neap bench yield`", "–", "neither"),
        ("", "–", "neither"),
        (here, "", "last measured"),
    ] {
        let found = fault(&row(held_by, measured), root).unwrap_or_default();
        assert!(found.contains(words), "{held_by:?}: {found:?}");
    }
}
