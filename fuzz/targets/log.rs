//! The RAN's log: the first line is the pattern, what follows is the log.

use neap::load::log::{PATTERN_BYTES_MAX, Search};

use super::bounded;

/// Pieces that the log is read in, one after the other and over again.
const PIECES: [usize; 6] = [1, 7, 64, 3, 4096, 2];

/// Every line with the pattern is found once, wherever the log is cut.
pub fn load_log(bytes: &[u8]) {
    let end = bytes.iter().position(|byte| *byte == b'\n').unwrap_or(bytes.len());
    let (pattern, log) = bytes.split_at(end);
    let pattern = &pattern[..pattern.len().min(PATTERN_BYTES_MAX)];
    let mut search = Search::new(pattern);
    let (mut found, mut rest) = (0, log);
    bounded(0, 0, || {
        for piece in PIECES.iter().cycle() {
            let (piece, after) = rest.split_at((*piece).min(rest.len()));
            found += search.feed(piece);
            rest = after;
            if rest.is_empty() {
                break;
            }
        }
    });
    let has = |line: &[u8]| !pattern.is_empty() && line.windows(pattern.len()).any(|window| window == pattern);
    assert_eq!(found, log.split(|byte| *byte == b'\n').filter(|line| has(line)).count() as u64);
}
