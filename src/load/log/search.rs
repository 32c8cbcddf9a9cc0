//! Which lines of a stream have the pattern? Pure, and with the same little memory for lines of any length.
//!
//! Knuth, Morris and Pratt: what was read of a line is remembered as how much of the pattern its end matches, so the
//! stream may be cut into pieces anywhere.

/// Counts lines with the pattern, each as soon as the pattern is whole.
#[derive(Clone, Debug)]
pub struct Search {
    pattern: Vec<u8>,
    /// For each length of a matched beginning: the longest shorter one that is also its end.
    shorter: Vec<usize>,
    matched: usize,
    /// The rest of this line has been counted already.
    counted: bool,
}

impl Search {
    /// Looks for these bytes, which have no line break; none are never found.
    pub fn new(pattern: &[u8]) -> Self {
        let mut shorter = vec![0; pattern.len() + 1];
        let mut matched = 0;
        for at in 1..pattern.len() {
            while matched > 0 && pattern[at] != pattern[matched] {
                matched = shorter[matched];
            }
            matched += usize::from(pattern[at] == pattern[matched]);
            shorter[at + 1] = matched;
        }
        Self { pattern: pattern.to_owned(), shorter, matched: 0, counted: false }
    }

    /// Goes on with the next piece of the stream; says in how many lines the pattern became whole.
    pub fn feed(&mut self, piece: &[u8]) -> u64 {
        let Some(first) = self.pattern.first().copied() else { return 0 };
        let mut found = 0;
        for byte in piece {
            if *byte == b'\n' {
                (self.matched, self.counted) = (0, false);
                continue;
            }
            if self.counted || (self.matched == 0 && *byte != first) {
                continue;
            }
            while self.matched > 0 && self.pattern[self.matched] != *byte {
                self.matched = self.shorter[self.matched];
            }
            self.matched += usize::from(self.pattern[self.matched] == *byte);
            if self.matched == self.pattern.len() {
                (self.matched, self.counted) = (0, true);
                found += 1;
            }
        }
        found
    }

    /// What comes next does not continue what came before.
    pub fn begin_anew(&mut self) {
        (self.matched, self.counted) = (0, false);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn lines_with(pattern: &[u8], stream: &[u8]) -> u64 {
        let has = |line: &&[u8]| line.windows(pattern.len()).any(|window| window == pattern);
        stream.split(|byte| *byte == b'\n').filter(has).count() as u64
    }

    proptest! {
        #[test]
        fn pieces_of_any_size_give_the_lines_that_have_the_pattern(
            pattern in "[ab]{1,6}",
            stream in "[ab\n]{0,200}",
            cuts in proptest::collection::vec(1..9_usize, 1..50),
        ) {
            let (pattern, stream) = (pattern.as_bytes(), stream.as_bytes());
            let mut search = Search::new(pattern);
            let (mut found, mut rest) = (0, stream);
            for cut in cuts.iter().cycle() {
                let (piece, after) = rest.split_at((*cut).min(rest.len()));
                found += search.feed(piece);
                rest = after;
                if rest.is_empty() {
                    break;
                }
            }
            prop_assert_eq!(found, lines_with(pattern, stream));
        }
    }

    #[test]
    fn a_line_counts_before_it_ends_and_once() {
        let mut search = Search::new(b"failure");
        assert_eq!((search.feed(b"a fail"), search.feed(b"ure"), search.feed(b" failure")), (0, 1, 0));
        assert_eq!((search.feed(b" failure\nfailure"), search.feed(b"\n")), (1, 0));
        search.feed(b"fail");
        search.begin_anew();
        assert_eq!(search.feed(b"ure"), 0);
    }
}
