//! What a DPDK application replies: one reply after the other, whatever was asked.

use neap::load::dpdk::{self, Lcores, Usage};
use neap::units::{Instant, Utilization};

use super::load::split;
use super::{bounded, is_plain};

/// Longest sentence about a reply.
const SENTENCE_BYTES_MAX: usize = 256;
/// Memory for each byte of a reply: two bytes of JSON are a number of eight, in a list that doubles as it grows.
const HELD_PER_BYTE: u64 = 24;
/// What stands between two replies.
const BETWEEN: &[u8] = b"\n--\n";
/// Time between two looks, in nanoseconds.
const LOOK_NS: u64 = 100_000_000;
/// Most looks.
const LOOKS_MAX: usize = 64;

/// Every reply is read as each kind; those about lcores are compared one with the next.
pub fn load_dpdk(bytes: &[u8]) {
    let mut lcores = Lcores::new(&[], false);
    let mut before: Option<Usage> = None;
    for (look, reply) in split(bytes, BETWEEN).take(LOOKS_MAX).enumerate() {
        if let Err(why) = bounded(reply.len(), HELD_PER_BYTE, || dpdk::info(reply)) {
            is_plain(why, SENTENCE_BYTES_MAX);
        }
        if let Err(why) = bounded(reply.len(), HELD_PER_BYTE, || dpdk::ports(reply)) {
            is_plain(why, SENTENCE_BYTES_MAX);
        }
        if let Err(why) = bounded(reply.len(), HELD_PER_BYTE, || dpdk::missed(reply)) {
            is_plain(why, SENTENCE_BYTES_MAX);
        }
        let usage = match bounded(reply.len(), HELD_PER_BYTE, || dpdk::usage(reply)) {
            Ok(usage) => usage,
            Err(why) => {
                is_plain(why, SENTENCE_BYTES_MAX);
                // As the source does when it hears such a thing.
                lcores.forget();
                before = None;
                continue;
            }
        };
        assert!(usage.lcores().next().is_some(), "a reply that was read tells of an lcore");
        let asked = Instant::from_nanos((look as u64 + 1) * LOOK_NS);
        let answered = Instant::from_nanos(asked.as_nanos() + 1_000);
        match lcores.level(asked, answered, &usage) {
            Ok(None) => assert!(before.is_none(), "the second reply is compared with the first"),
            Ok(Some(level)) => is_deserved(level, before.as_ref().expect("a level needs two replies"), &usage),
            Err(why) => is_plain(why, SENTENCE_BYTES_MAX),
        }
        before = Some(usage);
    }
}

/// No lcore was busier than the level says, and none counted backwards or not at all.
fn is_deserved(level: Utilization, before: &Usage, now: &Usage) {
    assert!(before.lcores().map(|(id, ..)| id).eq(now.lcores().map(|(id, ..)| id)));
    for ((_, base_total, base_busy), (_, total, busy)) in before.lcores().zip(now.lcores()) {
        assert!(total > base_total && busy >= base_busy);
        let (total, busy) = (u128::from(total - base_total), u128::from(busy - base_busy));
        assert!(u128::from(level.permille()) * total >= (busy * 1000).min(total * 1000));
    }
}
