//! Where is what in the page, and whose file is it?
//!
//! Sixteen 32-bit words in the host's byte order; a 64-bit value is two of them, low half first, so that no machine needs
//! 64-bit atomics. `include/neap_load.h` has the same layout in C, and a test compares the two.
//!
//! | word | | written by |
//! |---|---|---|
//! | 0 | magic, the bytes `NEAP` on a little-endian host | agent, once |
//! | 1 | version, 1 | agent, once |
//! | 2 | sequence: odd while a reading is being written, 0 before the first | RAN |
//! | 3 | doorbell: raised by one, then woken as a futex | RAN, agent |
//! | 4, 5 | cell | RAN |
//! | 6, 7 | `RRU.PrbTotDl`, `RRU.PrbTotUl` in permille, 0 to 1000 | RAN |
//! | 8, 9 | running count of late or missed slots | RAN |
//! | 10, 11 | when it was measured, ns of `CLOCK_MONOTONIC` | RAN |
//! | 12 | flags: bit 0 = the cell was taken out of service; the others 0 | RAN |
//! | 13, 14 | 0 | nobody |
//! | 15 | end mark: a file that was cut short has none | agent, once |

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::AsFd as _;
use std::os::unix::fs::{FileExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{Ordering, fence};

use super::super::Problem;
use super::seqlock::{Seqlock, Snapshot, Words};
use crate::sys::futex::{self, Woken};
use crate::sys::guarded::GuardedPage;
use crate::units::{CellId, Instant};

/// Length of the file.
pub const PAGE_BYTES: usize = 64;
/// First word.
pub const MAGIC: u32 = u32::from_le_bytes(*b"NEAP");
/// Second word.
pub const VERSION: u32 = 1;
/// Last word.
pub const END: u32 = u32::from_le_bytes(*b"PAEN");
/// Flag: the cell was taken out of service.
pub const FLAG_GONE: u32 = 1;

const WORDS: usize = PAGE_BYTES / size_of::<u32>();
const WORD_MAGIC: usize = 0;
const WORD_VERSION: usize = 1;
const WORD_DOORBELL: usize = 3;
const WORD_END: usize = WORDS - 1;
const LOAD: Seqlock<9> = Seqlock { sequence: 2, first: 4 };

/// Where each field begins, in bytes, by its name in `include/neap_load.h`.
pub const LAYOUT: [(&str, usize); 12] = [
    ("magic", 0),
    ("version", 4),
    ("sequence", 4 * LOAD.sequence),
    ("doorbell", 4 * WORD_DOORBELL),
    ("cell_low", 4 * LOAD.first),
    ("dl_permille", 24),
    ("ul_permille", 28),
    ("late_low", 32),
    ("stamp_ns_low", 40),
    ("flags", 48),
    ("reserved", 52),
    ("end", 4 * WORD_END),
];

const _: () = assert!(LOAD.first + 9 <= WORD_END, "the load lies before the end mark");

/// Tries of one reading: microseconds, so that a writer who never comes to an end holds up nothing.
const ATTEMPTS: u32 = 64;

/// A mapped page.
#[derive(Debug)]
pub(super) struct Page(GuardedPage);

/// What the page says, unchecked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Raw {
    pub(super) cell: CellId,
    pub(super) dl_permille: u32,
    pub(super) ul_permille: u32,
    pub(super) late: u64,
    pub(super) stamp: Instant,
    pub(super) flags: u32,
}

/// What a look at the page gave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Look {
    /// Marks are missing: truncated, overwritten, or another version.
    NoPage,
    /// Somebody is writing, or died while writing.
    Unsettled,
    /// A reading, and its sequence.
    Settled(u32, Raw),
}

impl Words for Page {
    fn load(&self, word: usize, order: Ordering) -> u32 {
        self.0.u32(word).load(order)
    }

    fn store(&self, word: usize, value: u32, order: Ordering) {
        self.0.u32(word).store(value, order);
    }

    fn fence(&self, order: Ordering) {
        fence(order);
    }
}

impl Page {
    /// Maps a page that is there; its maker is the agent.
    pub(super) fn open(path: &Path) -> Result<Self, Problem> {
        let remedy = "the agent makes it: is one running with a [[load]] of kind \"shm\" and that path, and may this \
                      user read and write it?";
        let file = open(path).map_err(|error| Problem::io("open the load page", path, error, remedy))?;
        Self::map(path, &file)
    }

    /// Maps the page that is there, or makes it, with these permission bits in either case.
    pub(super) fn open_or_make(path: &Path, mode: u32) -> Result<Self, Problem> {
        let remedy = "make its folder on a tmpfs such as /run, and let the agent's user write there";
        let failed = |error| Problem::io("make the load page", path, error, remedy);
        let file = match open(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                make(path, mode).map_err(failed)?;
                open(path).map_err(failed)?
            }
            opened => opened.map_err(|error| {
                Problem::io("open the load page", path, error, "let the agent's user read and write it, or remove it")
            })?,
        };
        let page = Self::map(path, &file)?;
        let has_mode = |found: fs::Metadata| found.mode() & 0o777 == mode;
        if !file.metadata().is_ok_and(has_mode) {
            let remedy = "remove it, so that the agent makes one of its own";
            let set = file.set_permissions(fs::Permissions::from_mode(mode));
            set.map_err(|error| Problem::io("set the mode of the load page", path, error, remedy))?;
        }
        Ok(page)
    }

    fn map(path: &Path, file: &File) -> Result<Self, Problem> {
        let failed = |error| Problem::io("map the load page", path, error, "free memory or file descriptors");
        let no_page = |why: String| Problem::NotALoadPage { path: path.to_owned(), why };
        let found = file.metadata().map_err(failed)?;
        if !found.is_file() || found.len() != PAGE_BYTES as u64 {
            let what = if found.is_file() { "its length in bytes is" } else { "it is no file; its length is" };
            return Err(no_page(format!("{what} {}, not {PAGE_BYTES}", found.len())));
        }
        let page = Self(GuardedPage::map(file.as_fd()).map_err(failed)?);
        if page.is_whole() {
            return Ok(page);
        }
        let [magic, version] = [WORD_MAGIC, WORD_VERSION].map(|word| page.load(word, Ordering::Relaxed));
        Err(no_page(format!(
            "it begins with {magic:#010x}, version {version}, not with {MAGIC:#010x}, version {VERSION}"
        )))
    }

    fn is_whole(&self) -> bool {
        let marks = [(WORD_MAGIC, MAGIC), (WORD_VERSION, VERSION), (WORD_END, END)];
        marks.into_iter().all(|(word, mark)| self.load(word, Ordering::Relaxed) == mark)
    }

    /// Reads the page; bounded, whatever the writer does.
    pub(super) fn look(&self) -> Look {
        let snapshot = LOAD.read(self, ATTEMPTS);
        // Looked at afterwards: what was cut short during the reading shows here.
        match snapshot {
            _ if !self.is_whole() => Look::NoPage,
            None => Look::Unsettled,
            Some(Snapshot { sequence, words }) => Look::Settled(sequence, Raw::from_words(words)),
        }
    }

    /// Writes a reading. One writer at a time.
    pub(super) fn write(&self, raw: Raw) {
        LOAD.write(self, raw.to_words());
    }

    /// The doorbell's count. What was written before a ring that it contains is seen by a later look.
    pub(super) fn rings(&self) -> u32 {
        self.0.u32(WORD_DOORBELL).load(Ordering::Acquire)
    }

    /// Sleeps until somebody rings, unless they have since `rings` was read.
    pub(super) fn wait(&self, rings: u32, until: Option<Instant>) -> io::Result<Woken> {
        match futex::wait(self.0.u32(WORD_DOORBELL), rings, until) {
            // Truncated in this moment: the next access puts the spare page there.
            Err(error) if error.raw_os_error() == Some(rustix::io::Errno::FAULT.raw_os_error()) => Ok(Woken::Changed),
            result => result,
        }
    }

    /// Rings: wakes the sentinel.
    pub(super) fn ring(&self) {
        let doorbell = self.0.u32(WORD_DOORBELL);
        doorbell.fetch_add(1, Ordering::Release);
        // Everybody who sleeps there: a stranger must not take the one wake.
        futex::wake(doorbell, u32::MAX >> 1);
    }
}

impl Raw {
    fn to_words(self) -> [u32; 9] {
        let [cell, late, stamp] = [self.cell.0, self.late, self.stamp.as_nanos()].map(halves);
        let Self { dl_permille, ul_permille, flags, .. } = self;
        [cell[0], cell[1], dl_permille, ul_permille, late[0], late[1], stamp[0], stamp[1], flags]
    }

    fn from_words(words: [u32; 9]) -> Self {
        let [cell_low, cell_high, dl_permille, ul_permille, late_low, late_high, stamp_low, stamp_high, flags] = words;
        Self {
            cell: CellId(whole(cell_low, cell_high)),
            dl_permille,
            ul_permille,
            late: whole(late_low, late_high),
            stamp: Instant::from_nanos(whole(stamp_low, stamp_high)),
            flags,
        }
    }
}

#[expect(clippy::cast_possible_truncation, reason = "each half is cut out on purpose")]
const fn halves(value: u64) -> [u32; 2] {
    [value as u32, (value >> 32) as u32]
}

const fn whole(low: u32, high: u32) -> u64 {
    (high as u64) << 32 | low as u64
}

fn open(path: &Path) -> io::Result<File> {
    let flags = rustix::fs::OFlags::NOFOLLOW | rustix::fs::OFlags::NONBLOCK;
    let flags = i32::try_from(flags.bits()).unwrap_or(0);
    OpenOptions::new().read(true).write(true).custom_flags(flags).open(path)
}

/// Makes an empty page under another name first: nobody ever sees half of one. Does not replace a file.
fn make(path: &Path, mode: u32) -> io::Result<()> {
    let mut words = [0_u32; WORDS];
    (words[WORD_MAGIC], words[WORD_VERSION], words[WORD_END]) = (MAGIC, VERSION, END);
    let mut bytes = [0; PAGE_BYTES];
    for (place, word) in bytes.as_chunks_mut().0.iter_mut().zip(words) {
        *place = word.to_ne_bytes();
    }
    let mut draft = path.as_os_str().to_owned();
    draft.push(format!(".{}", std::process::id()));
    let draft = PathBuf::from(draft);
    match fs::remove_file(&draft) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        Ok(()) | Err(_) => {}
    }
    let made = fill(&draft, &bytes, mode).and_then(|()| fs::hard_link(&draft, path));
    let removed = fs::remove_file(&draft);
    match made {
        // Another agent was faster: its page is as good.
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => removed,
        made => made.and(removed),
    }
}

fn fill(draft: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(draft)?;
    file.write_all_at(bytes, 0)?;
    file.set_permissions(fs::Permissions::from_mode(mode))
}
