//! Can a broker panic, stall or fill the link by sending nearly the right bytes?
//!
//! Each link is played many sessions of a good broker whose every packet may be mutated on its way, and in the end one
//! good session. 2,000 sessions, with `NEAP_CHAOS=full` 100,000. The test is alone in its binary, because it measures
//! the memory of the process.

#![allow(missing_docs)]
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "support/hostile.rs"]
mod hostile;
#[path = "support/owner.rs"]
mod owner;
#[path = "common/random.rs"]
#[allow(dead_code, unreachable_pub)]
mod random;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Mutex;
use std::time::Duration;

use hostile::Hostile;
use hostile::manners::Manners;
use hostile::mutation::corpus;
use neap::link::mqtt::{self, Backoff, Settings};
use neap::sys::{alloc, memory};
use owner::{DOWN, Owner, UP, message, settings};
use random::{Random, full};
use tokio::task::JoinSet;

/// Links that are played to at the same time.
const LINKS: usize = 100;
const LINKS_FULL: usize = 400;
/// Bad sessions of each.
const SESSIONS: usize = 20;
/// No session may hold a link for longer, and the good one must come through within it.
const HANG: Duration = Duration::from_secs(60);
/// What the process may grow by.
const GROWTH_BYTES_MAX: u64 = 8 * 1024 * 1024;

/// Panics so far, whether they were caught in the link or not.
static PANICS: Mutex<Vec<String>> = Mutex::new(Vec::new());

/// A session with some packets that nobody asked for, of which every packet may be mutated.
fn mutated(random: &mut Random, corpus: &[Vec<u8>]) -> Manners {
    let mut some = |often: u64| {
        let count = if random.below(often) == 0 { random.below(3) } else { 0 };
        let picks = (0..count).map(|_| &corpus[usize::try_from(random.below(corpus.len() as u64)).unwrap()]);
        picks.flatten().copied().collect::<Vec<u8>>()
    };
    let (after_connack, after_suback, after_publish) = (some(6), some(3), some(2));
    // One session in a hundred leaves it to the link to end it.
    let stays = random.below(100) == 0;
    let linger = Duration::from_millis(100 + random.below(300));
    Manners {
        after_connack,
        after_suback,
        after_publish,
        trickles: random.below(20) == 0,
        leaves_after: (!stays).then_some(linger),
        mutates: Some(random.number()),
        ..Manners::good()
    }
}

/// All sessions of one link: how many, and how they ended; or what went wrong.
async fn play(seed: u64, sessions: usize) -> Result<(usize, BTreeSet<String>), String> {
    let mut random = Random::new(seed);
    let corpus = corpus();
    let broker = Hostile::start((0..sessions).map(|_| mutated(&mut random, &corpus)).collect());
    let outbox: BTreeMap<u64, _> =
        (0..30).map(|token| (token, message(UP, format!("m{token}").into_bytes()))).collect();
    (0..5).for_each(|number| broker.send(&format!("{DOWN}/{number}"), b"order"));
    let brisk = Duration::from_millis(100);
    let settings = Settings {
        backoff: Backoff { first: brisk, max: brisk, auth_first: brisk, taken_over: brisk },
        ..settings(broker.port())
    };
    let mut owner = Owner::start(settings, outbox.clone());
    let outcome = async {
        // Every further connection must come in time.
        loop {
            let seen = broker.world().connections;
            if seen > sessions {
                break;
            }
            // A mutated answer may settle what it does not belong to: there is always something to deliver.
            if owner.outbox.is_empty() {
                owner.outbox.clone_from(&outbox);
            }
            owner.until(HANG, |_| broker.world().connections > seen).await?;
        }
        owner.until(HANG, |owner| owner.is_up && owner.outbox.is_empty() && broker.world().inbound.is_empty()).await?;
        owner.shut_down().await
    };
    let outcome = outcome.await;
    let connections = broker.world().connections;
    // Without their numbers, reasons are kinds.
    let kind = |why: &str| why.chars().filter(|sign| !sign.is_ascii_digit()).collect();
    let ends = owner.downs.iter().map(|(_, why)| kind(why)).collect();
    outcome.map(|()| (connections, ends)).map_err(|error| format!("link of seed {seed}: {error}"))
}

/// So many links at the same time; sessions played.
async fn round(random: &mut Random, links: usize, sessions: usize, ends: &mut BTreeSet<String>) -> usize {
    let mut playing = JoinSet::new();
    (0..links).for_each(|_| drop(playing.spawn(play(random.number(), sessions))));
    let (played, failed): (Vec<_>, Vec<_>) = playing.join_all().await.into_iter().partition(Result::is_ok);
    let failed: Vec<String> = failed.into_iter().filter_map(Result::err).collect();
    assert!(failed.is_empty(), "{} of {links} links:\n{}", failed.len(), failed.join("\n"));
    let mut count = 0;
    for (connections, kinds) in played.into_iter().flatten() {
        count += connections;
        ends.extend(kinds);
    }
    count
}

fn resident() -> u64 {
    alloc::trim();
    memory::resident_bytes(std::process::id()).expect("the kernel tells what is resident")
}

#[test]
fn mutated_sessions_neither_panic_nor_stall_nor_fill_memory() {
    let report = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        let caught = if mqtt::panic_is_contained() { "caught in the link" } else { "not caught" };
        PANICS.lock().unwrap_or_else(std::sync::PoisonError::into_inner).push(format!("{caught}: {panic}"));
        report(panic);
    }));
    alloc::be_thrifty();
    let mut random = Random::of_run();
    let (links, rounds) = if full() { (LINKS_FULL, 13) } else { (LINKS, 1) };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let (mut sessions, mut before, mut after, mut ends) = (0, 0, 0, BTreeSet::new());
    runtime.block_on(async {
        // As many links as ever live at once, so that what stays is growth and not the first use.
        round(&mut random, links, 2, &mut BTreeSet::new()).await;
        before = resident();
        for _ in 0..rounds {
            sessions += round(&mut random, links, SESSIONS, &mut ends).await;
        }
        after = resident();
    });
    let mib = |bytes: u64| bytes / 1024 / 1024;
    eprintln!(
        "{sessions} sessions, {} kinds of end; resident before {} MiB, after {} MiB",
        ends.len(),
        mib(before),
        mib(after)
    );
    let panics = PANICS.lock().unwrap_or_else(std::sync::PoisonError::into_inner).clone();
    assert!(panics.is_empty(), "{} panics: {panics:#?}", panics.len());
    assert!(sessions >= links * SESSIONS * rounds, "{sessions}");
    // Otherwise the mutations would not come far.
    assert!(ends.len() >= 12, "only so many kinds of end: {ends:#?}");
    assert!(after <= before + GROWTH_BYTES_MAX, "grew from {before} to {after} bytes");
}
