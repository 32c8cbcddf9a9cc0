//! Do the claims of the fuzz targets hold for every input that was ever worth keeping, and for its neighbours?
//!
//! Each corpus below `fuzz/corpus` is replayed through its target, then mutated from a seed: so many times in all in the
//! usual run, for a minute a target with `NEAP_CHAOS=full`. No coverage guides it: that is what `fuzz/` is for, where
//! the targets and their claims live. A failing input is kept below the build folder; its path is told.
//!
//! The test is alone in its binary, because the targets count what the process allocates.

#![allow(missing_docs)]
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "common/random.rs"]
#[allow(dead_code, unreachable_pub)]
mod random;
#[path = "../fuzz/targets/mod.rs"]
mod targets;

use std::collections::BTreeSet;
use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use neap::sys::clock;
use random::{Random, full};
use targets::{ALL, Target};

/// Mutations of one target in the usual run, spread over its corpus.
const MUTATIONS: usize = 5_000;
/// How long each target is mutated in the full run.
const MINUTE: Duration = Duration::from_secs(60);
/// CPU time that no input may need; it is thousands of times what the slowest takes.
const CPU_MAX: Duration = Duration::from_secs(2);
/// An input that takes so long hangs.
const HANG: Duration = Duration::from_secs(60);
/// Longest mutated input, in bytes.
const BYTES_MAX: usize = 64 * 1024;
/// All corpora together are small enough to be kept with the source, in bytes.
const CORPORA_BYTES_MAX: u64 = 300 * 1024;
/// Shortest and longest run of bytes that is inserted at random.
const RUN_MAX: u64 = 24;
/// What parsers like least, beside what other inputs of the corpus have.
const TOKENS: [&[u8]; 24] = [
    b"-1",
    b"0",
    b"18446744073709551616",
    b"9223372036854775807",
    b"4294967296",
    b"1e999",
    b"-0.0",
    b"NaN",
    b"null",
    b"\"\"",
    b"{}",
    b"[]",
    b"[[[[[[[[[[[[[[[[[[",
    b"\\u0000",
    b"\x1b[2J",
    b"\xff",
    b"\xc3",
    b"\0",
    b"\0\0\0\0",
    b"\xff\xff\xff\xff",
    b"\xff\xff\xff\x7f",
    b"..",
    b"/",
    b"\n",
];

/// The input at work, for the watchdog: what it is, and how many came before it.
static AT_WORK: Mutex<(String, Vec<u8>)> = Mutex::new((String::new(), Vec::new()));
static COUNT: AtomicU64 = AtomicU64::new(0);

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz")
}

/// The inputs of a corpus with their names, in order.
fn corpus(name: &str) -> Vec<(String, Vec<u8>)> {
    let folder = folder().join("corpus").join(name);
    let entries = fs::read_dir(&folder).unwrap_or_else(|error| panic!("no corpus at {}: {error}", folder.display()));
    let mut files: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    files.sort();
    let read = |path: PathBuf| (path.file_name().unwrap().to_string_lossy().into_owned(), fs::read(&path).unwrap());
    files.into_iter().map(read).collect()
}

/// Keeps an input, and says where.
fn keep(what: &str, bytes: &[u8]) -> String {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("fuzz-failures");
    let path = folder.join(what.replace(|sign: char| !sign.is_ascii_alphanumeric(), "-"));
    match fs::create_dir_all(&folder).and_then(|()| fs::write(&path, bytes)) {
        Ok(()) => format!("the input is kept at {}", path.display()),
        Err(error) => format!("the input of {} bytes could not be kept: {error}", bytes.len()),
    }
}

/// Ends the process when an input hangs: it cannot be stopped in any other way.
fn watch() {
    let mut last = (0, clock::now());
    loop {
        std::thread::sleep(Duration::from_secs(1));
        let count = COUNT.load(Ordering::Relaxed);
        if count != last.0 {
            last = (count, clock::now());
        } else if clock::now().since(last.1) > HANG {
            let (what, bytes) = AT_WORK.lock().unwrap().clone();
            eprintln!("{what} hangs; {}", keep(&what, &bytes));
            std::process::abort();
        }
    }
}

/// Runs one input, with the claims that are the same for all targets.
fn run(what: &str, target: Target, bytes: &[u8]) {
    {
        let mut at_work = AT_WORK.lock().unwrap();
        what.clone_into(&mut at_work.0);
        bytes.clone_into(&mut at_work.1);
    }
    COUNT.fetch_add(1, Ordering::Relaxed);
    let before = clock::own_cpu();
    let outcome = catch_unwind(AssertUnwindSafe(|| target(bytes)));
    let took = clock::own_cpu().saturating_sub(before);
    assert!(outcome.is_ok(), "{what} breaks a claim (see above); {}", keep(what, bytes));
    assert!(took <= CPU_MAX, "{what} took {took:?} of CPU time, above {CPU_MAX:?}; {}", keep(what, bytes));
}

fn place(random: &mut Random, bytes: &[u8]) -> usize {
    usize::try_from(random.below(bytes.len() as u64 + 1)).unwrap()
}

fn pick<'a, T>(random: &mut Random, list: &'a [T]) -> &'a T {
    &list[usize::try_from(random.below(list.len() as u64)).unwrap()]
}

fn change(random: &mut Random, corpus: &[(String, Vec<u8>)], bytes: &mut Vec<u8>) {
    let (one, other) = (place(random, bytes), place(random, bytes));
    let (from, to) = (one.min(other), one.max(other));
    match random.below(9) {
        0 => bytes.truncate(to),
        1 => drop(bytes.drain(from..to)),
        2 => {
            let again = bytes[from..to].to_vec();
            bytes.splice(from..from, again);
        }
        3 => {
            let run: Vec<u8> = (0..random.below(RUN_MAX)).map(|_| random.number().to_le_bytes()[0]).collect();
            bytes.splice(from..from, run);
        }
        4 => {
            let stranger = &pick(random, corpus).1;
            let (one, other) = (place(random, stranger), place(random, stranger));
            bytes.splice(from..to, stranger[one.min(other)..one.max(other)].iter().copied());
        }
        5 => drop(bytes.splice(from..from, pick(random, &TOKENS).iter().copied())),
        6 => {
            let token = *pick(random, &TOKENS);
            let end = (from + token.len()).min(bytes.len());
            bytes.splice(from..end, token.iter().copied());
        }
        _ => {
            let bit = random.below(8);
            if let Some(byte) = bytes.get_mut(from) {
                *byte ^= 1 << bit;
            }
        }
    }
    bytes.truncate(BYTES_MAX);
}

/// Names of the programs in the manifest of the fuzz targets.
fn programs() -> BTreeSet<String> {
    let manifest: toml::Table = fs::read_to_string(folder().join("Cargo.toml")).unwrap().parse().unwrap();
    let programs = manifest["bin"].as_array().unwrap().iter();
    programs.map(|program| program["name"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn the_claims_of_every_target_hold_for_its_corpus_and_for_mutations_of_it() {
    assert_eq!(programs(), ALL.iter().map(|(name, _)| (*name).to_owned()).collect(), "targets and their programs");
    std::thread::spawn(watch);
    let mut random = Random::of_run();
    let mut bytes_of_all = 0;
    for (name, target) in ALL {
        let corpus = corpus(name);
        assert!(corpus.len() >= 5, "{name}: a corpus of {} inputs", corpus.len());
        bytes_of_all += corpus.iter().map(|(_, bytes)| bytes.len() as u64).sum::<u64>();
        for (input, bytes) in &corpus {
            run(&format!("{name}/{input}"), *target, bytes);
        }
        let (began, mut mutations) = (clock::now(), 0);
        while if full() { clock::now().since(began) < MINUTE } else { mutations < MUTATIONS } {
            let (input, bytes) = &corpus[mutations % corpus.len()];
            let mut bytes = bytes.clone();
            (0..=random.below(4)).for_each(|_| change(&mut random, &corpus, &mut bytes));
            run(&format!("{name}/{input} mutated, number {mutations}"), *target, &bytes);
            mutations += 1;
        }
        eprintln!("{name}: {} inputs, {mutations} mutations in {:.1?}", corpus.len(), clock::now().since(began));
    }
    assert!(bytes_of_all <= CORPORA_BYTES_MAX, "the corpora have {bytes_of_all} bytes, above {CORPORA_BYTES_MAX}");
}
