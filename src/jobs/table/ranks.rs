//! Who is first, and how many are before this one? An ordered set that also counts.
//!
//! Keys lie in sorted pieces of bounded length. That makes an insertion a short move of memory, and the place of a key a
//! sum over the pieces before it: with ten thousand keys about forty. A tree that counts would be quicker still and
//! three times the code.

/// A piece that would grow beyond this is cut in two.
const PIECE_MAX: usize = 512;

/// An ordered set.
#[derive(Clone, Debug)]
pub(super) struct Ranks<K> {
    /// Each sorted, none empty, all of one before all of the next.
    pieces: Vec<Vec<K>>,
}

impl<K> Default for Ranks<K> {
    fn default() -> Self {
        Self { pieces: Vec::new() }
    }
}

impl<K: Ord> Ranks<K> {
    /// Adds a key; one that is there already stays as it is.
    pub(super) fn insert(&mut self, key: K) {
        let piece = self.piece_of(&key).min(self.pieces.len().saturating_sub(1));
        let Some(keys) = self.pieces.get_mut(piece) else {
            self.pieces.push(vec![key]);
            return;
        };
        if let Err(place) = keys.binary_search(&key) {
            keys.insert(place, key);
        }
        if keys.len() > PIECE_MAX {
            let upper = keys.split_off(PIECE_MAX / 2);
            self.pieces.insert(piece + 1, upper);
        }
    }

    /// Takes a key out, if it is there.
    pub(super) fn remove(&mut self, key: &K) {
        let piece = self.piece_of(key);
        let Some(keys) = self.pieces.get_mut(piece) else { return };
        if let Ok(place) = keys.binary_search(key) {
            keys.remove(place);
        }
        if keys.is_empty() {
            self.pieces.remove(piece);
        }
    }

    /// All keys, the smallest first.
    pub(super) fn iter(&self) -> impl Iterator<Item = &K> {
        self.pieces.iter().flatten()
    }

    /// How many keys are of that kind, which must be the smallest ones: no key behind one that is not may be.
    pub(super) fn count_first(&self, is_first: impl Fn(&K) -> bool) -> usize {
        let whole = self.pieces.partition_point(|keys| keys.last().is_some_and(&is_first));
        let before: usize = self.pieces[..whole].iter().map(Vec::len).sum();
        before + self.pieces.get(whole).map_or(0, |keys| keys.partition_point(is_first))
    }

    /// The piece that holds the key, or would.
    fn piece_of(&self, key: &K) -> usize {
        self.pieces.partition_point(|keys| keys.last().is_some_and(|last| last < key))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn it_holds_and_counts_what_an_ordered_set_holds(
            steps in prop::collection::vec((any::<bool>(), 0_u16..2000), 0..3000),
            asked in 0_u16..2000,
        ) {
            let (mut ranks, mut set) = (Ranks::default(), BTreeSet::new());
            for (add, key) in steps {
                if add {
                    ranks.insert(key);
                    set.insert(key);
                } else {
                    ranks.remove(&key);
                    set.remove(&key);
                }
            }
            prop_assert!(ranks.iter().eq(set.iter()));
            prop_assert_eq!(ranks.count_first(|key| *key < asked), set.range(..asked).count());
            prop_assert!(ranks.pieces.iter().all(|keys| !keys.is_empty() && keys.len() <= PIECE_MAX));
        }
    }

    #[test]
    fn many_keys_in_any_order_make_pieces_of_bounded_length() {
        let mut ranks = Ranks::default();
        (0..10_000_u32).for_each(|key| ranks.insert(key.wrapping_mul(2_654_435_761)));
        assert_eq!(ranks.iter().count(), 10_000);
        assert!(ranks.iter().is_sorted());
        assert!(ranks.pieces.len() < 10_000 / (PIECE_MAX / 4), "{} pieces", ranks.pieces.len());
    }
}
