//! How many bytes of push lines are read in a second, and what does that allocate?

use std::hint::black_box;
use std::time::Duration;

use crate::load::push;
use crate::sys::{alloc, clock};
use crate::units::{CellId, Health, Instant, SourceId};

/// Datagrams between two looks at the clock.
const BLOCK: usize = 64;

/// What one round gave.
#[derive(Clone, Copy, Debug)]
pub(super) struct Parsed {
    /// Bytes that were read.
    pub(super) bytes: u64,
    /// Observations that came of them.
    pub(super) samples: u64,
    /// How long it took.
    pub(super) took: Duration,
    /// Bytes of heap that it used at once besides what was used before.
    pub(super) allocated: u64,
}

/// Reads the same datagrams for that long. No other thread may allocate meanwhile.
pub(super) fn round(length: Duration) -> Parsed {
    let datagrams = datagrams();
    let (mut bytes, mut samples) = (0_u64, 0_u64);
    alloc::reset_peak();
    let used = alloc::used();
    let began = clock::now();
    let mut took = Duration::ZERO;
    while took < length {
        for datagram in datagrams.iter().cycle().take(BLOCK) {
            let said = push::datagram(SourceId(0), black_box(datagram), &mut |observation| _ = black_box(observation));
            bytes += datagram.len() as u64;
            samples += said as u64;
        }
        took = clock::now().since(began);
    }
    Parsed { bytes, samples, took, allocated: alloc::peak().saturating_sub(used) }
}

/// What a RAN sends: a line a cell, as many as a datagram holds; in every fourth datagram with figures of health.
fn datagrams() -> Vec<Vec<u8>> {
    let datagram = |index: u64| {
        let mut text = String::new();
        for cell in 0.. {
            let percent = |factor: u64| u8::try_from((index * 7 + cell * factor) % 101).ok();
            let stamped = Some(Instant::from_nanos(47_000_000_000_000 + index * 1_000_003 + cell));
            let mut line = push::Line {
                cell: CellId(1 + cell),
                dl: percent(13),
                ul: percent(5),
                late: Some(index / 3),
                stamped,
                ..push::Line::default()
            };
            if index.is_multiple_of(4) {
                line.health = [Some(412), Some(631), None, None];
            }
            let line = line.encode();
            if text.len() + line.len() > push::DATAGRAM_BYTES_MAX {
                return text.into_bytes();
            }
            text.push_str(&line);
        }
        text.into_bytes()
    };
    const { assert!(Health::ALL.len() == 4, "the lines carry two figures of health and leave the others out") };
    (0..16).map(datagram).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_datagram_is_full_and_every_line_of_it_is_good() {
        for datagram in datagrams() {
            assert!((3_900..=push::DATAGRAM_BYTES_MAX).contains(&datagram.len()), "{}", datagram.len());
            let (mut good, mut bad) = (0, 0);
            push::datagram(SourceId(0), &datagram, &mut |said| if said.is_ok() { good += 1 } else { bad += 1 });
            assert!(good >= 25 && bad == 0, "{good} good, {bad} bad");
        }
    }
}
