//! How is a reading taken from memory that its writer may be changing at this moment? A sequence lock of one writer.
//!
//! The writer makes the sequence odd, writes the words, and makes it even again; a reader that meets an odd sequence, or
//! another one after the words than before them, has read nothing. In the words of C11 (Boehm, "Can seqlocks get along
//! with programming language memory models?", 2012):
//!
//! ```text
//! writer                              reader
//! store relaxed  sequence := odd      load acquire   sequence, must be even
//! fence release                       load relaxed   words
//! store relaxed  words                fence acquire
//! store release  sequence := even     load relaxed   sequence, must be the same
//! ```
//!
//! The code is generic over the memory that it works on, so that `tests.rs` runs this very code on a model of C11's memory
//! and looks at every reading that is possible there.

use std::sync::atomic::Ordering;

/// Memory as an array of atomic 32-bit words.
pub(super) trait Words {
    /// Loads a word.
    fn load(&self, word: usize, order: Ordering) -> u32;
    /// Stores a word.
    fn store(&self, word: usize, value: u32, order: Ordering);
    /// Orders what comes before against what comes after.
    fn fence(&self, order: Ordering);
}

/// Where sequence and words are.
#[derive(Clone, Copy, Debug)]
pub(super) struct Seqlock<const N: usize> {
    /// Index of the sequence.
    pub(super) sequence: usize,
    /// Index of the first of the `N` words.
    pub(super) first: usize,
}

/// The words, and the sequence under which they were read: another sequence, another reading.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Snapshot<const N: usize> {
    /// Even.
    pub(super) sequence: u32,
    /// All written in one go.
    pub(super) words: [u32; N],
}

impl<const N: usize> Seqlock<N> {
    /// Writes the words. There must be one writer at a time. One that comes after a writer which died half way through
    /// repairs what that one has left.
    pub(super) fn write(self, memory: &impl Words, words: [u32; N]) {
        let odd = memory.load(self.sequence, Ordering::Relaxed) | 1;
        memory.store(self.sequence, odd, Ordering::Relaxed);
        memory.fence(Ordering::Release);
        for (offset, word) in words.into_iter().enumerate() {
            memory.store(self.first + offset, word, Ordering::Relaxed);
        }
        memory.store(self.sequence, odd.wrapping_add(1), Ordering::Release);
    }

    /// Reads the words; `None` when none of `attempts` met a moment at which nobody wrote.
    pub(super) fn read(self, memory: &impl Words, attempts: u32) -> Option<Snapshot<N>> {
        for _ in 0..attempts {
            let sequence = memory.load(self.sequence, Ordering::Acquire);
            if sequence.is_multiple_of(2) {
                let words = std::array::from_fn(|offset| memory.load(self.first + offset, Ordering::Relaxed));
                memory.fence(Ordering::Acquire);
                if memory.load(self.sequence, Ordering::Relaxed) == sequence {
                    return Some(Snapshot { sequence, words });
                }
            }
            std::hint::spin_loop();
        }
        None
    }
}

#[cfg(test)]
mod tests;
