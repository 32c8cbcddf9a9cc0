//! Numbers that look random, from a seed (SplitMix64).

use std::time::Duration;

/// Whether the long variants of the tests were asked for: `NEAP_CHAOS=full`.
pub fn full() -> bool {
    std::env::var("NEAP_CHAOS").as_deref() == Ok("full")
}

/// A run of numbers.
pub struct Random(u64);

impl Random {
    /// From `NEAP_SEED`, or the usual seed; says which.
    pub fn of_run() -> Self {
        let seed = std::env::var("NEAP_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(20_261_122);
        eprintln!("NEAP_SEED={seed}");
        Self(seed)
    }

    /// From a seed of its own.
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next number.
    pub fn number(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// One from 0 on, below `end`.
    pub fn below(&mut self, end: u64) -> u64 {
        self.number() % end
    }

    /// A span below `end`, by the millisecond.
    pub fn span(&mut self, end: Duration) -> Duration {
        Duration::from_millis(self.below(u64::try_from(end.as_millis()).unwrap_or(u64::MAX)))
    }
}
