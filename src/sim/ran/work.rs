//! What does a slot do? Real work of four kinds, in units small enough to be counted out.
//!
//! The result of every unit is handed to `black_box`, so no compiler may leave it out.

use std::hint::black_box;

use crate::sim::day::Random;

/// Bytes of a cache line, on every machine that matters here.
const LINE_BYTES: usize = 64;
/// 32-bit words of a cache line.
const LINE_WORDS: usize = LINE_BYTES / size_of::<u32>();
/// Multiply-adds of one unit of arithmetic.
const SUMS: usize = 512;
/// Steps of one unit of the walk.
const STEPS: usize = 256;
/// Words of 64 bits that one unit streams through.
const STREAMED: usize = 2048;

/// What kind of work it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Arithmetic in registers: what the other work on the core does to caches does not touch it.
    Compute,
    /// A random walk through a working set that fits a cache, each step dependent on the one before. Suffers when other
    /// work on the core has put something else into the cache.
    Cache,
    /// Reads and writes straight through a buffer that fits no cache. Suffers when other cores use the memory bus.
    Bandwidth,
    /// A unit of each in turn.
    Mixed,
}

impl Kind {
    /// All kinds.
    pub const ALL: [Self; 4] = [Self::Compute, Self::Cache, Self::Bandwidth, Self::Mixed];

    /// Its name on the command line and in JSON.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Compute => "compute",
            Self::Cache => "cache",
            Self::Bandwidth => "bandwidth",
            Self::Mixed => "mixed",
        }
    }

    /// Units after which it repeats: times are compared over multiples of it.
    pub const fn cycle(self) -> u64 {
        match self {
            Self::Compute | Self::Cache | Self::Bandwidth => 1,
            Self::Mixed => 3,
        }
    }
}

/// Work of one thread, with its memory: all of it is touched when it is made.
#[derive(Debug)]
pub struct Work {
    kind: Kind,
    sums: Sums,
    walk: Walk,
    stream: Stream,
    units: u64,
}

impl Work {
    /// Work of that kind, walking through `cache_bytes` and streaming through `stream_bytes`. Kinds that do neither take
    /// no memory for it.
    pub fn new(kind: Kind, cache_bytes: usize, stream_bytes: usize) -> Self {
        let (walks, streams) = match kind {
            Kind::Compute => (false, false),
            Kind::Cache => (true, false),
            Kind::Bandwidth => (false, true),
            Kind::Mixed => (true, true),
        };
        Self {
            kind,
            sums: Sums([0.5, 0.25, 0.125, 0.75]),
            walk: Walk::new(if walks { cache_bytes } else { 0 }),
            stream: Stream::new(if streams { stream_bytes } else { 0 }),
            units: 0,
        }
    }

    /// The kind.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// Units after which everything that fits a cache has been touched once.
    pub fn round(&self) -> u64 {
        let walked = (self.walk.words.len() / LINE_WORDS).div_ceil(STEPS) as u64;
        walked * self.kind.cycle()
    }

    /// Does one unit, about a microsecond of an optimised build.
    pub fn unit(&mut self) {
        match self.kind {
            Kind::Compute => self.sums.unit(),
            Kind::Cache => self.walk.unit(),
            Kind::Bandwidth => self.stream.unit(),
            Kind::Mixed => match self.units % 3 {
                0 => self.sums.unit(),
                1 => self.walk.unit(),
                _ => self.stream.unit(),
            },
        }
        self.units = self.units.wrapping_add(1);
    }
}

/// Four sums that do not wait for one another.
#[derive(Debug)]
struct Sums([f32; 4]);

impl Sums {
    fn unit(&mut self) {
        let [mut a, mut b, mut c, mut d] = black_box(self.0);
        for _ in 0..SUMS / 4 {
            // Towards a fixed point, so no step meets an infinity or a denormal number.
            a = a * 0.75 + 0.25;
            b = b * 0.5 + 0.5;
            c = c * 0.875 + 0.125;
            d = d * 0.625 + 0.375;
        }
        self.0 = black_box([a, b, c, d]);
    }
}

/// A ring through all cache lines of a buffer in random order.
#[derive(Debug)]
struct Walk {
    /// The first word of each line names the next line.
    words: Vec<u32>,
    line: u32,
}

impl Walk {
    fn new(bytes: usize) -> Self {
        let lines = u32::try_from(bytes / LINE_BYTES).unwrap_or(u32::MAX).max(1);
        let mut words = vec![0; lines as usize * LINE_WORDS];
        for (place, next) in words.iter_mut().step_by(LINE_WORDS).zip(ring(lines)) {
            *place = next;
        }
        Self { words, line: 0 }
    }

    fn unit(&mut self) {
        let mut line = self.line;
        for _ in 0..STEPS {
            line = self.words.get(line as usize * LINE_WORDS).copied().unwrap_or(0);
        }
        self.line = black_box(line);
    }
}

/// For each of `count` places the next one, so that all lie on one ring (Sattolo's shuffle).
fn ring(count: u32) -> Vec<u32> {
    let mut random = Random::new(u64::from(count));
    let mut next: Vec<u32> = (0..count).collect();
    for last in (1..next.len()).rev() {
        let other = usize::try_from(random.below(last as u64)).unwrap_or(0);
        next.swap(last, other);
    }
    next
}

/// A buffer that is read and written from end to end, again and again.
#[derive(Debug)]
struct Stream {
    words: Vec<u64>,
    at: usize,
}

impl Stream {
    fn new(bytes: usize) -> Self {
        // Not zero: pages of zeros would be handed out only when they are first written.
        Self { words: vec![1; (bytes / size_of::<u64>()).max(STREAMED)], at: 0 }
    }

    fn unit(&mut self) {
        let end = (self.at + STREAMED).min(self.words.len());
        for word in &mut self.words[self.at..end] {
            *word = word.wrapping_mul(3);
        }
        self.at = if end == self.words.len() { 0 } else { end };
        black_box(&mut self.words);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_walk_visits_every_line_before_it_repeats() {
        for count in [1, 2, 3, 1000] {
            let next = ring(count);
            let mut seen = vec![false; count as usize];
            let mut at = 0;
            for _ in 0..count {
                assert!(!seen[at as usize], "{count} lines: line {at} comes twice");
                seen[at as usize] = true;
                at = next[at as usize];
            }
            assert_eq!(at, 0, "{count} lines");
        }
    }

    #[test]
    fn a_stream_touches_its_whole_buffer() {
        let mut stream = Stream::new(3 * STREAMED * size_of::<u64>() + 800);
        for _ in 0..4 {
            stream.unit();
        }
        assert!(stream.words.iter().all(|word| *word == 3) && stream.at == 0);
    }

    #[test]
    fn arithmetic_stays_with_ordinary_numbers() {
        let mut sums = Sums([0.5, 0.25, 0.125, 0.75]);
        for _ in 0..10_000 {
            sums.unit();
        }
        assert!(sums.0.iter().all(|sum| sum.is_normal() && *sum <= 1.0), "{sums:?}");
    }

    #[test]
    fn every_kind_works_and_moves_on() {
        for kind in Kind::ALL {
            let mut work = Work::new(kind, 1 << 16, 1 << 20);
            let before = (work.walk.line, work.stream.at);
            for _ in 0..kind.cycle() {
                work.unit();
            }
            let moved = (work.walk.line != before.0, work.stream.at != before.1);
            let expected = match kind {
                Kind::Compute => (false, false),
                Kind::Cache => (true, false),
                Kind::Bandwidth => (false, true),
                Kind::Mixed => (true, true),
            };
            assert_eq!(moved, expected, "{kind:?}");
        }
    }
}
