//! What can be read of a damaged file, trusting nothing in it? The pages of redb's file format 3, one at a time.
//!
//! redb opens a file whole or not at all. This reader walks its trees from the root, checks each page against the
//! checksum that its parent holds, and goes on beside what is broken. It allocates no more than one page and a list of
//! places, whatever the file says of itself, and it cannot write.
//!
//! The format, as far as it is needed: a header of 4096 bytes, then pages of 4096 bytes times a power of two. The header
//! has flags in byte 9 and two commit slots of 128 bytes at 64 and 192, used in turn: version, flag of the root, its
//! place, checksum and length (8), transaction (104), checksum of the slot (112). A branch has its number of keys at 2,
//! checksums of its children at 8, then their places. A leaf has its number of pairs at 2, then where each key ends, where
//! each value ends, keys, values; ends of a fixed width are left out. Checksums are XXH3 with 128 bits over the used part.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::io;

use redb::StorageBackend;
use twox_hash::XxHash3_128;

const PAGE_BYTES: u64 = 4096;
/// Largest page: what holds the largest record, with room to spare. Order 14.
const PAGE_BYTES_MAX: u64 = 64 * 1024 * 1024;
const HEADER_BYTES: usize = 320;
const SLOT_OFFSETS: [usize; 2] = [64, 192];
const SLOT_BYTES: usize = 128;
const VERSION: u8 = 3;
const FLAGS_OFFSET: usize = 9;
const RECOVERY_REQUIRED: u8 = 2;
const LEAF: u8 = 1;
const BRANCH: u8 = 2;
/// Most bytes hashed in search of flipped bits, some tenths of a second: a page has 32,768 bits to try.
const MENDING_BYTES_MAX: u64 = 2 * 1024 * 1024 * 1024;
/// A stored checksum that differs from the true one by so few of 128 bits was itself hit; one of another page differs by
/// half of them.
const CHECKSUM_BITS_HIT_MAX: u32 = 12;

/// Where a page lies and what it must hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Pointer {
    number: u64,
    checksum: u128,
}

/// A tree, as its owner describes it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Tree {
    /// `None` when it is empty.
    pub(super) root: Option<Pointer>,
    /// Number of records in it.
    pub(super) length: u64,
    /// Whether the description itself is vouched for by a checksum.
    pub(super) vouched: bool,
    /// Width of its keys, where it is fixed.
    pub(super) key_bytes: Option<usize>,
    /// Width of its values, where it is fixed.
    pub(super) value_bytes: Option<usize>,
}

/// A commit that the header tells of.
#[derive(Clone, Copy, Debug)]
pub(super) struct Slot {
    /// The tree of tables.
    pub(super) root: Tree,
    transaction: u64,
}

/// One pair of a leaf: key and value.
pub(super) type Pair<'p> = (&'p [u8], &'p [u8]);

/// One leaf.
#[derive(Debug)]
pub(super) struct Leaf<'p> {
    /// In the order of their keys; `None` where one cannot be told from its neighbours.
    pub(super) pairs: Vec<Option<Pair<'p>>>,
    /// Whether the page is as it was written. If not, nothing vouches for a pair but itself.
    pub(super) sound: bool,
}

/// Which broken pages may hold something older than the commit they are read for. Nothing of those may be used: their
/// records are whole, but long gone.
#[derive(Clone, Debug, Default)]
pub(super) enum Suspects {
    /// No page.
    #[default]
    None,
    /// Pages at these places.
    Some(BTreeSet<Pointer>),
    /// Every broken page.
    All,
}

impl Suspects {
    fn covers(&self, pointer: &Pointer) -> bool {
        match self {
            Self::None => false,
            Self::Some(pointers) => pointers.contains(pointer),
            Self::All => true,
        }
    }
}

/// A file to be read.
#[derive(Debug)]
pub(super) struct Pages {
    backend: Box<dyn StorageBackend>,
    length: u64,
    /// Bytes that may still be hashed in search of a flipped bit.
    mending_bytes: Cell<u64>,
    /// Pages in which a flipped bit was searched for, and where it was.
    tried: RefCell<BTreeMap<Pointer, Option<usize>>>,
}

impl Pages {
    pub(super) fn new(backend: Box<dyn StorageBackend>) -> io::Result<Self> {
        let length = backend.len()?;
        let mending_bytes = Cell::new(MENDING_BYTES_MAX);
        Ok(Self { backend, length, mending_bytes, tried: RefCell::default() })
    }

    /// The commits whose slots are sound, newest first, and whether the last run ended in order.
    ///
    /// # Errors
    /// When the file cannot be read; a file that is too short has no slots.
    pub(super) fn slots(&self) -> io::Result<(Vec<Slot>, bool)> {
        if self.length < HEADER_BYTES as u64 {
            return Ok((Vec::new(), false));
        }
        let mut header = [0; HEADER_BYTES];
        self.backend.read(0, &mut header)?;
        let mut slots: Vec<Slot> = SLOT_OFFSETS.iter().filter_map(|at| slot(&header[*at..at + SLOT_BYTES])).collect();
        slots.sort_by_key(|slot| std::cmp::Reverse(slot.transaction));
        Ok((slots, header[FLAGS_OFFSET] & RECOVERY_REQUIRED == 0))
    }

    /// Every single page of the smallest size that looks like a leaf, as the root of a tree that nothing vouches for.
    /// For a file whose header is gone.
    pub(super) fn leaves(&self) -> impl Iterator<Item = Tree> + '_ {
        let pages = (self.length / PAGE_BYTES).saturating_sub(1);
        (0..pages).filter_map(|number| {
            let page = self.read(number).ok().flatten().filter(|page| page[0] == LEAF)?;
            let checksum = XxHash3_128::oneshot(&page[..used(&page, None, None)?]);
            let root = Some(Pointer { number, checksum });
            Some(Tree { root, length: 0, vouched: true, key_bytes: None, value_bytes: None })
        })
    }

    /// Visits the leaves of a tree in the order of their keys. Returns the places of pages that are not as they were
    /// written; what can be had of those has been visited too, unless they are `suspects`.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub(super) fn walk(
        &self,
        tree: &Tree,
        suspects: &Suspects,
        visit: &mut dyn FnMut(&Leaf<'_>),
    ) -> io::Result<Vec<Pointer>> {
        let mut broken = Vec::new();
        let mut stack: Vec<(Pointer, bool)> = tree.root.iter().map(|root| (*root, tree.vouched)).collect();
        // More pages than the file has would be a circle.
        let mut left = self.length / PAGE_BYTES + 1;
        while let Some((pointer, vouched)) = stack.pop() {
            let Some(after) = left.checked_sub(1) else { break };
            left = after;
            let found = self.find(pointer, vouched, tree)?;
            let is_sound = found.as_ref().is_some_and(|(_, sound)| *sound);
            if !is_sound {
                broken.push(pointer);
            }
            let Some((page, sound)) = found.filter(|_| is_sound || !suspects.covers(&pointer)) else { continue };
            match page[0] {
                BRANCH => {
                    let children = children(&page);
                    if sound || self.is_hit(&children, tree)? {
                        stack.extend(children.into_iter().rev().map(|child| (child, sound)));
                    }
                }
                LEAF => visit(&Leaf { pairs: pairs(&page, tree), sound }),
                _ => {}
            }
        }
        Ok(broken)
    }

    /// Whether damage shows in the children of a branch that is not as it was written. If it does not, it is another
    /// branch, perhaps from long ago, that was written to the wrong place.
    fn is_hit(&self, children: &[Pointer], tree: &Tree) -> io::Result<bool> {
        for child in children {
            let page = self.read(child.number)?;
            if page.and_then(|page| checksum(&page, tree)) != Some(child.checksum) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// The page, and whether it is as it was written. `None` when it cannot be the one that was meant.
    fn find(&self, pointer: Pointer, vouched: bool, tree: &Tree) -> io::Result<Option<(Vec<u8>, bool)>> {
        let checksum = |page: &[u8]| checksum(page, tree);
        let page = self.read(pointer.number)?;
        let found = page.as_deref().and_then(checksum);
        if found == Some(pointer.checksum) {
            return Ok(page.map(|page| (page, true)));
        }
        if vouched {
            return Ok(page.map(|mut page| {
                let sound = self.mend(&mut page, pointer, |page| checksum(page) == Some(pointer.checksum));
                (page, sound)
            }));
        }
        // Nothing vouches for the pointer: either half of it may have been hit.
        if found.is_some_and(|found| (found ^ pointer.checksum).count_ones() <= CHECKSUM_BITS_HIT_MAX) {
            return Ok(page.map(|page| (page, true)));
        }
        for bit in 0..u64::BITS {
            let page = self.read(pointer.number ^ (1 << bit))?;
            if page.as_deref().and_then(checksum) == Some(pointer.checksum) {
                return Ok(page.map(|page| (page, true)));
            }
        }
        Ok(None)
    }

    /// Puts one flipped bit right, by trying: in a page of the smallest size wherever it is, in a larger one in its type
    /// and its count, without which nothing on it can be found. What came of it is remembered.
    fn mend(&self, page: &mut [u8], pointer: Pointer, is_sound: impl Fn(&[u8]) -> bool) -> bool {
        let mut tried = self.tried.borrow_mut();
        let flip = |page: &mut [u8], bit: usize| page[bit / 8] ^= 1 << (bit % 8);
        let search = |page: &mut [u8]| {
            let bytes = if page.len() as u64 == PAGE_BYTES { page.len() } else { 4 };
            (0..bytes * 8).find(|bit| {
                let left = self.mending_bytes.get().saturating_sub(page.len() as u64);
                self.mending_bytes.set(left);
                flip(page, *bit);
                let sound = left > 0 && is_sound(page);
                flip(page, *bit);
                sound
            })
        };
        let found = *tried.entry(pointer).or_insert_with(|| search(page));
        found.inspect(|bit| flip(page, *bit)).is_some()
    }

    /// The page of that number, if the file has it whole.
    fn read(&self, number: u64) -> io::Result<Option<Vec<u8>>> {
        let order = number >> 59;
        let region = (number >> 20) & 0xF_FFFF;
        let index = number & (0xF_FFFF_u64.checked_shr(u32::try_from(order).unwrap_or(u32::MAX)).unwrap_or(0));
        let Some(bytes) = PAGE_BYTES.checked_shl(u32::try_from(order).unwrap_or(u32::MAX)) else { return Ok(None) };
        let start = index.checked_mul(bytes).and_then(|start| start.checked_add(PAGE_BYTES));
        let end = start.and_then(|start| start.checked_add(bytes));
        let (Some(start), Some(end)) = (start, end) else { return Ok(None) };
        // A second region begins after 4 GiB, far above any quota.
        if region != 0 || bytes > PAGE_BYTES_MAX || end > self.length {
            return Ok(None);
        }
        let mut page = vec![0; usize::try_from(bytes).map_err(io::Error::other)?];
        self.backend.read(start, &mut page)?;
        Ok(Some(page))
    }
}

/// A description of a root: place, checksum, number of records.
pub(super) fn root(bytes: &[u8]) -> Option<(Pointer, u64)> {
    let pointer = Pointer { number: number(bytes, 0)?, checksum: wide(bytes, 8)? };
    Some((pointer, number(bytes, 24)?))
}

fn slot(bytes: &[u8]) -> Option<Slot> {
    let sound = XxHash3_128::oneshot(bytes.get(..SLOT_BYTES - 16)?) == wide(bytes, SLOT_BYTES - 16)?;
    if !sound || bytes[0] != VERSION || bytes[1] == 0 {
        return None;
    }
    let (pointer, length) = root(&bytes[8..])?;
    let root = Tree { root: Some(pointer), length, vouched: true, key_bytes: None, value_bytes: None };
    Some(Slot { root, transaction: number(bytes, 104)? })
}

fn checksum(page: &[u8], tree: &Tree) -> Option<u128> {
    Some(XxHash3_128::oneshot(&page[..used(page, tree.key_bytes, tree.value_bytes)?]))
}

/// Bytes of a page that its checksum covers.
fn used(page: &[u8], key_bytes: Option<usize>, value_bytes: Option<usize>) -> Option<usize> {
    let count = count(page);
    let end = match page[0] {
        BRANCH => {
            let fixed = 8 + 24 * (count + 1);
            match key_bytes {
                Some(width) => fixed + width * count,
                None => end_at(page, fixed + 4 * count.checked_sub(1)?)?,
            }
        }
        LEAF => Ends { page, count, key_bytes, value_bytes }.value(count.checked_sub(1)?)?,
        _ => return None,
    };
    (end <= page.len()).then_some(end)
}

fn children(page: &[u8]) -> Vec<Pointer> {
    let count = count(page) + 1;
    let child =
        |n: usize| Some(Pointer { checksum: wide(page, 8 + 16 * n)?, number: number(page, 8 + 16 * count + 8 * n)? });
    (0..count).map_while(child).collect()
}

fn pairs<'p>(page: &'p [u8], tree: &Tree) -> Vec<Option<Pair<'p>>> {
    let ends = Ends { page, count: count(page), key_bytes: tree.key_bytes, value_bytes: tree.value_bytes };
    let pair = |n| {
        let key = page.get(ends.key_start(n)?..ends.key(n)?)?;
        Some((key, page.get(ends.value_start(n)?..ends.value(n)?)?))
    };
    (0..ends.count).map(pair).collect()
}

/// Where keys and values of a leaf end.
struct Ends<'p> {
    page: &'p [u8],
    count: usize,
    key_bytes: Option<usize>,
    value_bytes: Option<usize>,
}

impl Ends<'_> {
    fn keys_start(&self) -> usize {
        let lists = usize::from(self.key_bytes.is_none()) + usize::from(self.value_bytes.is_none());
        4 + 4 * self.count * lists
    }

    fn key(&self, n: usize) -> Option<usize> {
        match self.key_bytes {
            Some(width) => Some(self.keys_start() + width * (n + 1)),
            None => end_at(self.page, 4 + 4 * n),
        }
    }

    fn key_start(&self, n: usize) -> Option<usize> {
        n.checked_sub(1).map_or(Some(self.keys_start()), |before| self.key(before))
    }

    fn value(&self, n: usize) -> Option<usize> {
        match self.value_bytes {
            Some(width) => Some(self.key(self.count.checked_sub(1)?)? + width * (n + 1)),
            None => end_at(self.page, 4 + 4 * n + if self.key_bytes.is_none() { 4 * self.count } else { 0 }),
        }
    }

    fn value_start(&self, n: usize) -> Option<usize> {
        match n.checked_sub(1) {
            Some(before) => self.value(before),
            None => self.key(self.count.checked_sub(1)?),
        }
    }
}

/// Number of pairs of a leaf, or of keys of a branch.
fn count(page: &[u8]) -> usize {
    usize::from(u16::from_le_bytes([page[2], page[3]]))
}

fn end_at(page: &[u8], at: usize) -> Option<usize> {
    let bytes = page.get(at..)?.first_chunk::<4>()?;
    usize::try_from(u32::from_le_bytes(*bytes)).ok()
}

fn number(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(*bytes.get(at..)?.first_chunk()?))
}

fn wide(bytes: &[u8], at: usize) -> Option<u128> {
    Some(u128::from_le_bytes(*bytes.get(at..)?.first_chunk()?))
}
