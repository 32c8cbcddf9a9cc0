//! Does the source tree still have the shape that `src/lib.rs` promises?
//!
//! Reads the tree as text, blanks comments and string literals, and looks at what names what. The checker is itself
//! checked: every rule has a small bad sample that it must refuse.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

const LINES_MAX: usize = 500;

/// Section 5 of the design, word for word; `src/lib.rs` must contain it.
const INVARIANTS: [&str; 7] = [
    "1. `governor` imports `units` and nothing else. It reads no clock; every input carries `now`.",
    "2. The folders of the world do not import one another (one exception: `link` turns messages into `jobs` types). \
     They meet only in `agent` and `sentinel`.",
    "3. Nobody imports `config` except `agent` and `cli`; modules own their settings struct, `config` fills it.",
    "4. Domain types are not wire types: serde derives appear only at the edges.",
    "5. `tract` is named only in `worker/infer.rs`, `rumqttc` only in `link/mqtt.rs`, `sysinfo` only in \
     `load/host.rs`, `unsafe` only in `sys/`.",
    "6. Missing, late or malformed load data means busy.",
    "7. Every queue, buffer, file, message, retry and log line rate has a limit.",
];

/// Modules that everybody may import.
const VOCABULARY: [&str; 6] = ["units", "tensor", "fault", "model", "sys", "trust"];

/// Which modules of the crate the files below a path may import, besides their own. The first match counts.
const IMPORTS: [(&str, &[&str]); 14] = [
    ("src/units", &[]),
    ("src/tensor", &["units"]),
    ("src/fault", &["units"]),
    ("src/trust/", &["units", "fault"]),
    ("src/sys/", &["units"]),
    ("src/governor/", &["units"]),
    ("src/model/", &["units", "tensor", "fault", "trust"]),
    ("src/jobs/store", &["units", "tensor", "fault", "model", "sys"]),
    ("src/jobs/", &["units", "tensor", "fault", "model"]),
    ("src/ledger/cause", &["units"]),
    ("src/ledger", &["units", "governor", "load", "sentinel"]),
    ("src/load/", &VOCABULARY),
    ("src/worker/", &VOCABULARY),
    ("src/link/", &["units", "tensor", "fault", "model", "sys", "trust", "jobs"]),
];

/// Modules that only those below the given paths may import.
const IMPORTED_BY: [(&str, &[&str]); 3] = [
    ("config", &["src/config", "src/agent", "src/cli/"]),
    ("agent", &["src/agent", "src/cli/"]),
    ("cli", &["src/cli/", "src/main.rs"]),
];

/// Crates that are named in these files only, with the prefix of their parts.
const NAMED_ONLY_IN: [(&str, &[&str]); 4] = [
    ("tract", &["src/worker/infer.rs"]),
    ("rumqttc", &["src/link/mqtt.rs"]),
    ("sysinfo", &["src/load/host.rs"]),
    ("tungstenite", &["src/load/ocudu/socket.rs", "src/cli/bench/load/gnb.rs"]),
];

/// Files that decide or translate: no clock, no I/O, no async.
#[rustfmt::skip]
const PURE: &[&str] = &[
    "src/sim/emit.rs",
    "src/sim/replay",
    "src/cli/replay/plots.rs",
    "src/cli/doctor/verdicts.rs", "src/governor/", "src/trust/", "src/units.rs", "src/tensor.rs", "src/jobs/job.rs",
    "src/jobs/queue.rs", "src/jobs/cost.rs", "src/jobs/feasible", "src/jobs/table", "src/load/fusion.rs",
    "src/load/ocudu/document", "src/load/ocudu/executors.rs", "src/load/ocudu/report.rs", "src/ledger",
    "src/link/topics.rs", "src/link/messages.rs", "src/link/reconcile.rs", "src/link/tls/expiry.rs",
    "src/worker/protocol.rs", "src/worker/preflight", "src/agent/wall.rs", "src/agent/crashes.rs",
    "src/agent/privacy.rs", "src/agent/pulse.rs", "src/agent/safeguards.rs",
];
const NOT_IN_PURE: [&str; 7] =
    ["tokio", "async", "std::fs", "std::net", "std::thread", "sys::clock", "std::time::SystemTime"];

/// Domain types: no serde derive. The store keeps private records of its own.
const NO_SERDE: [&str; 6] =
    ["src/units.rs", "src/tensor.rs", "src/fault.rs", "src/governor/", "src/jobs/", "src/model/mod.rs"];
const PRIVATE_SERDE: &str = "src/jobs/store";

/// Left open, or skipped.
const NOWHERE: [&str; 3] = ["todo!", "unimplemented!", "#[ignore"];
/// Without a limit; tests may.
const UNBOUNDED: [&str; 2] = ["unbounded_channel", "std::sync::mpsc::channel"];

// ---- the tree ----

/// One file: path below the crate's root, text with comments and literals blanked, the same without test modules.
struct Source {
    path: String,
    lines: usize,
    code: String,
    shipped: String,
}

impl Source {
    fn new(path: &str, text: &str) -> Self {
        let code = blank_comments_and_literals(text);
        let is_test = path.ends_with("/tests.rs") || path.contains("/tests/") || path.starts_with("tests/");
        let shipped = if is_test { String::new() } else { without_test_modules(&code) };
        Self { path: path.to_owned(), lines: text.lines().count(), code, shipped }
    }

    fn is_below(&self, prefix: &str) -> bool {
        self.path.starts_with(prefix)
    }
}

fn tree() -> Vec<Source> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut files = Vec::new();
    ["src", "tests", "benches"].iter().for_each(|folder| rust_files(&root.join(folder), &mut files));
    let source = |file: &PathBuf| {
        let text = fs::read_to_string(file).expect("a source file can be read");
        let path = file.strip_prefix(root).expect("it was found below the root").to_string_lossy().into_owned();
        Source::new(&path, &text)
    };
    files.iter().map(source).collect()
}

fn rust_files(folder: &Path, files: &mut Vec<PathBuf>) {
    let Ok(entries) = fs::read_dir(folder) else { return };
    for path in entries.map(|entry| entry.expect("a folder can be listed").path()) {
        if path.is_dir() {
            rust_files(&path, files);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
}

// ---- the rules ----

fn violations(sources: &[Source]) -> Vec<String> {
    let mut found = Vec::new();
    for source in sources {
        imports(source, &mut found);
        names(source, &mut found);
        serde_derives(source, &mut found);
        if source.lines > LINES_MAX {
            found.push(format!("{} has {} lines, at most {LINES_MAX}: split it by subject", source.path, source.lines));
        }
    }
    found
}

fn imports(source: &Source, found: &mut Vec<String>) {
    let own = own_module(&source.path);
    for module in imported_modules(source).iter().filter(|module| **module != own) {
        if let Some((_, allowed)) = IMPORTS.iter().find(|(prefix, _)| source.is_below(prefix))
            && !allowed.contains(&module.as_str())
        {
            found.push(format!("{} imports crate::{module}; it may import {allowed:?}", source.path));
        }
        if let Some((_, by)) = IMPORTED_BY.iter().find(|(name, _)| name == module)
            && !by.iter().any(|prefix| source.is_below(prefix))
        {
            found.push(format!("{} imports crate::{module}; only {by:?} may", source.path));
        }
    }
    if source.is_below("src/governor/") {
        let own: Vec<&str> = words_after(&source.shipped, "mod").chain(["std", "crate", "super", "self"]).collect();
        for root in words_after(&source.shipped, "use").filter(|root| !own.contains(root)) {
            found.push(format!("{} imports {root}; the governor imports units and nothing else", source.path));
        }
    }
}

fn names(source: &Source, found: &mut Vec<String>) {
    let mut refuse = |what: &str, rule: &str| found.push(format!("{} names {what}: {rule}", source.path));
    if source.is_below("src/") {
        for (name, homes) in NAMED_ONLY_IN.iter().filter(|(_, homes)| !homes.contains(&source.path.as_str())) {
            let part = format!("{name}_");
            if words(&source.code).any(|word| word == *name || word.starts_with(&part)) {
                refuse(name, &format!("only {homes:?} may"));
            }
        }
        if !source.is_below("src/sys/") && words(&source.code).any(|word| word == "unsafe") {
            refuse("unsafe", "only src/sys/ may");
        }
    }
    if PURE.iter().any(|prefix| source.is_below(prefix)) {
        let named = NOT_IN_PURE.iter().filter(|name| contains_path(&source.shipped, name));
        named.for_each(|name| refuse(name, "this file is pure: no clock, no I/O, no async"));
    }
    let open = NOWHERE.iter().filter(|name| contains_path(&source.code, name));
    open.for_each(|name| refuse(name, "nothing is left open or skipped"));
    let unbounded = UNBOUNDED.iter().filter(|name| contains_path(&source.shipped, name));
    unbounded.for_each(|name| refuse(name, "every queue has a limit"));
}

fn serde_derives(source: &Source, found: &mut Vec<String>) {
    if !NO_SERDE.iter().any(|prefix| source.is_below(prefix)) {
        return;
    }
    for (at, _) in source.shipped.match_indices("#[derive(") {
        let (derives, rest) = source.shipped[at..].split_once(']').unwrap_or_default();
        let is_wire = words(derives).any(|word| matches!(word, "Serialize" | "Deserialize"));
        let item = rest.lines().map(str::trim).find(|line| !line.is_empty() && !line.starts_with("#[")).unwrap_or("");
        if is_wire && (!source.is_below(PRIVATE_SERDE) || item.starts_with("pub")) {
            found.push(format!("{} derives serde for `{item}`: domain types are not wire types", source.path));
        }
    }
}

// ---- reading Rust as text ----

/// First path segment below `src`: `load` for `src/load/push.rs`.
fn own_module(path: &str) -> String {
    let below = path.strip_prefix("src/").unwrap_or(path);
    below.split(['/', '.']).next().unwrap_or_default().to_owned()
}

/// Top-level modules of the crate that the shipped code names, by `crate::` or by climbing with `super::`.
fn imported_modules(source: &Source) -> Vec<String> {
    let text = &source.shipped;
    let mut modules = Vec::new();
    for (at, _) in text.match_indices("crate::").filter(|(at, _)| starts_a_word(text, *at)) {
        modules.extend(heads(&text[at + "crate::".len()..]));
    }
    let climb = "super::".repeat(depth(&source.path));
    for (at, _) in text.match_indices(&climb).filter(|(at, _)| !climb.is_empty() && starts_a_word(text, *at)) {
        modules.extend(heads(&text[at + climb.len()..]));
    }
    modules.sort();
    modules.dedup();
    modules
}

/// How many `super::` lead from that file to the crate's root.
fn depth(path: &str) -> usize {
    let below = path.strip_prefix("src/").unwrap_or(path);
    let folders = below.matches('/').count();
    if below.ends_with("mod.rs") || matches!(below, "lib.rs" | "main.rs") { folders } else { folders + 1 }
}

/// First segments of a use tree: `a` of `a::b`, `a` and `c` of `{a::b, c}`.
fn heads(tree: &str) -> Vec<String> {
    let Some(group) = tree.strip_prefix('{') else {
        return words(tree).next().map(str::to_owned).into_iter().collect();
    };
    let (mut heads, mut level, mut at_head) = (Vec::new(), 1, true);
    for (at, c) in group.char_indices() {
        match c {
            '{' => level += 1,
            '}' => level -= 1,
            ',' if level == 1 => at_head = true,
            c if at_head && is_word(c) => {
                heads.extend(words(&group[at..]).next().map(str::to_owned));
                at_head = false;
            }
            _ => {}
        }
        if level == 0 {
            break;
        }
    }
    heads
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

fn words(text: &str) -> impl Iterator<Item = &str> {
    text.split(|c| !is_word(c)).filter(|word| !word.is_empty())
}

fn words_after<'a>(text: &'a str, keyword: &'a str) -> impl Iterator<Item = &'a str> {
    words(text)
        .scan("", |previous, word| Some((std::mem::replace(previous, word), word)))
        .filter_map(move |(previous, word)| (previous == keyword).then_some(word))
}

fn starts_a_word(text: &str, at: usize) -> bool {
    !text[..at].ends_with(|c: char| is_word(c) || c == ':')
}

/// Whether the text names that path or macro, as whole words.
fn contains_path(text: &str, path: &str) -> bool {
    let ends = |at: usize| !text[at + path.len()..].starts_with(is_word);
    text.match_indices(path).any(|(at, _)| !text[..at].ends_with(is_word) && ends(at))
}

/// Blanks comments, strings and character literals; line breaks stay.
fn blank_comments_and_literals(text: &str) -> String {
    let mut code = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(c) = rest.chars().next() {
        let literal = literal_bytes(rest, code.chars().last());
        let (taken, tail) = rest.split_at(if literal > 0 { literal } else { c.len_utf8() });
        match literal {
            0 => code.push(c),
            _ => taken.chars().for_each(|c| code.push(if c == '\n' { '\n' } else { ' ' })),
        }
        rest = tail;
    }
    code
}

/// Length of the comment or literal that `text` starts with, 0 for code.
fn literal_bytes(text: &str, before: Option<char>) -> usize {
    let until = |found: Option<usize>| found.unwrap_or(text.len());
    if text.starts_with("//") {
        return until(text.find('\n'));
    }
    if text.starts_with("/*") {
        return block_comment_bytes(text);
    }
    let in_word = before.is_some_and(is_word);
    let hashes = text.strip_prefix('r').map(|raw| raw.len() - raw.trim_start_matches('#').len());
    if let Some(hashes) = hashes
        && (!in_word || before == Some('b'))
        && text[1 + hashes..].starts_with('"')
    {
        let end = format!("\"{}", "#".repeat(hashes));
        return until(text[2 + hashes..].find(&end).map(|at| 2 + hashes + at + end.len()));
    }
    let Some(quote @ ('"' | '\'')) = text.chars().next() else { return 0 };
    let is_lifetime = quote == '\'' && !text[1..].starts_with('\\') && text.chars().nth(2) != Some('\'');
    if is_lifetime { 0 } else { until(quoted_bytes(text, quote)) }
}

fn quoted_bytes(text: &str, quote: char) -> Option<usize> {
    let mut escaped = false;
    for (at, c) in text.char_indices().skip(1) {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            c if c == quote => return Some(at + 1),
            _ => {}
        }
    }
    None
}

fn block_comment_bytes(text: &str) -> usize {
    let (mut level, mut at) = (0_usize, 0);
    while at < text.len() {
        let pair = text.as_bytes().get(at..at + 2).unwrap_or_default();
        match pair {
            b"/*" => level += 1,
            b"*/" => level -= 1,
            _ => {}
        }
        at += if matches!(pair, b"/*" | b"*/") { 2 } else { 1 };
        if level == 0 {
            return at;
        }
    }
    text.len()
}

/// Cuts `#[cfg(test)] mod … { … }`: tests may import what the module itself may not.
fn without_test_modules(code: &str) -> String {
    let mut shipped = String::new();
    let mut rest = code;
    while let Some((before, after)) = rest.split_once("#[cfg(test)]") {
        shipped.push_str(before);
        let item = after.find(['{', ';']).unwrap_or(after.len());
        let is_module = words(&after[..item]).any(|word| word == "mod");
        rest = if is_module && after[item..].starts_with('{') {
            &after[item + block_bytes(&after[item..])..]
        } else {
            after
        };
    }
    shipped.push_str(rest);
    shipped
}

/// Length of the block that the text starts with, braces included.
fn block_bytes(text: &str) -> usize {
    let mut level = 0_usize;
    for (at, c) in text.char_indices() {
        match c {
            '{' => level += 1,
            '}' => level = level.saturating_sub(1),
            _ => {}
        }
        if level == 0 {
            return at + 1;
        }
    }
    text.len()
}

// ---- the tree is as promised ----

#[test]
fn the_tree_keeps_its_invariants() {
    let sources = tree();
    assert!(sources.len() > 20, "only {} source files found: the checker looks at the wrong place", sources.len());
    let found = violations(&sources).into_iter().fold(String::new(), |mut all, line| {
        let _ = writeln!(all, "- {line}");
        all
    });
    assert!(found.is_empty(), "invariants of src/lib.rs are broken:\n{found}");
}

#[test]
fn lib_rs_contains_the_invariants_word_for_word() {
    let text = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("src/lib.rs")).expect("lib.rs is there");
    let doc = text.lines().filter_map(|line| line.strip_prefix("//!")).collect::<Vec<_>>().join(" ");
    let doc = doc.split_whitespace().collect::<Vec<_>>().join(" ");
    for invariant in INVARIANTS {
        assert!(doc.contains(invariant), "src/lib.rs does not contain: {invariant}");
    }
}

#[test]
fn every_module_is_on_the_map_of_lib_rs() {
    let text = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("src/lib.rs")).expect("lib.rs is there");
    for module in text.lines().filter_map(|line| line.strip_prefix("pub mod ")?.strip_suffix(';')) {
        let entry = format!("//! * [`{module}`]");
        assert!(text.lines().any(|line| line.starts_with(&entry)), "src/lib.rs has no line `{entry}: …`");
    }
}

// ---- the checker finds what it should ----

fn found_in(path: &str, text: &str) -> Vec<String> {
    violations(&[Source::new(path, text)])
}

#[test]
fn the_checker_refuses_every_bad_sample() {
    let long = "\n".repeat(LINES_MAX + 1);
    let samples = [
        ("src/governor/mod.rs", "use crate::load::Reading;"),
        ("src/governor/policy.rs", "use super::super::config;"),
        ("src/governor/mod.rs", "use serde_json::Value;"),
        ("src/governor/mod.rs", "fn now() { std::time::SystemTime::now(); }"),
        ("src/load/push.rs", "use crate::{units::{Instant, CellId}, worker::gate::Gate};"),
        ("src/worker/serve.rs", "fn f() { super::super::link::Qos::AtMostOnce }"),
        ("src/worker/serve.rs", "fn f(job: crate::jobs::job::Job) {}"),
        ("src/link/mqtt.rs", "use crate::load::Metric;"),
        ("src/jobs/queue.rs", "use crate::sys::clock;"),
        ("src/jobs/store.rs", "use crate::link::Publish;"),
        ("src/load/mod.rs", "use crate::config::Settings;"),
        ("src/sentinel.rs", "use crate::agent;"),
        ("src/agent.rs", "use crate::cli::run;"),
        ("src/worker/prepare.rs", "use tract_onnx::prelude::*;"),
        ("src/agent.rs", "type Client = rumqttc::v5::AsyncClient;"),
        ("src/agent.rs", "fn f() { sysinfo::System::new(); }"),
        ("src/agent.rs", "fn f() { unsafe { g() } }"),
        ("src/jobs/job.rs", "#[derive(Clone, serde::Serialize)]\npub struct Job;"),
        ("src/jobs/store.rs", "#[derive(Deserialize)]\n#[serde(default)]\npub struct Record;"),
        ("src/units.rs", "#[derive(Serialize)] struct JobId;"),
        ("src/link/topics.rs", "async fn f() {}"),
        ("src/agent.rs", "fn f() { todo!() }"),
        ("src/agent.rs", "let (a, b) = tokio::sync::mpsc::unbounded_channel();"),
        ("tests/demo.rs", "#[ignore]\nfn f() {}"),
        ("src/agent.rs", long.as_str()),
    ];
    for (path, text) in samples {
        assert!(!found_in(path, text).is_empty(), "not refused in {path}: {}", text.trim());
    }
}

#[test]
fn the_checker_allows_what_only_looks_bad() {
    let samples = [
        (
            "src/governor/mod.rs",
            "// crate::load\nuse crate::units::Instant; const TEXT: &str = \"crate::config unsafe\";",
        ),
        (
            "src/governor/mod.rs",
            "fn f() {}\n#[cfg(test)]\nmod tests { use proptest::prelude::*; use crate::load::Metric; }",
        ),
        ("src/link/messages.rs", "use crate::jobs::job::{Job, State};"),
        ("src/link/mqtt.rs", "use rumqttc::v5::{AsyncClient, EventLoop};"),
        ("src/worker/infer.rs", "use tract_onnx::prelude::*;"),
        ("src/cli/demo.rs", "use rumqttd::Broker; // not rumqttc"),
        ("src/cli/run.rs", "use crate::{agent, config};"),
        ("src/jobs/store.rs", "#[derive(Serialize)]\nstruct Record;"),
        (
            "src/load/push.rs",
            "fn f<'a>(x: &'a str) -> char { '\"' } /* crate::worker /* nested */ */ use super::Reading;",
        ),
        ("src/sys/clock.rs", "fn f() { unsafe { libc::clock_gettime() } }"),
        ("src/lib.rs", "#![deny(unsafe_code)]"),
        ("src/link/tensors.rs", "const RAW: &str = r#\"unsafe \" crate::load\"#;"),
    ];
    for (path, text) in samples {
        assert_eq!(found_in(path, text), Vec::<String>::new(), "refused in {path}: {text}");
    }
}
