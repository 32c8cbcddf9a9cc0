//! What does the RAN's L1 write into shared memory? The fastest way in: a page of 64 bytes and a futex as doorbell.
//!
//! The agent makes the file, in a tmpfs such as `/run`, and leaves it there: the RAN's mapping outlives a restart of the
//! agent. One thread of the RAN writes readings (no system call), and rings when the sentinel should look at once (one
//! system call). The page is looked at without a ring as well, three times within its freshness.
//! Layout: [`PAGE_BYTES`] and what is beside it; in C: `include/neap_load.h`.
//!
//! The page is not trusted: whoever may write it may write anything, truncate it, or die while writing. What cannot be a
//! reading is `Malformed`, so the node is busy, and no look takes longer than a bounded number of tries.

mod page;
mod seqlock;
mod writer;

use std::io;
use std::os::fd::BorrowedFd;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

pub use page::{END, FLAG_GONE, LAYOUT, MAGIC, PAGE_BYTES, VERSION};
pub use writer::Writer;

use self::page::{Look, Page, Raw};
use super::{Malformed, Metric, Observation, Observed, Problem, Reading, Source};
use crate::sys::futex::Woken;
use crate::units::{Instant, SourceId, Utilization};

/// Permission bits of the page unless configured: the RAN's group may write.
pub const MODE_DEFAULT: u32 = 0o660;
/// Looks within the time for which a reading is believed, so that a writer who does not ring is heard.
const LOOKS_PER_FRESHNESS: u32 = 3;
/// Time to the next look while a reading is being written. Its writer may have lost its core to this very look.
const UNSETTLED_GAP: Duration = Duration::from_micros(200);
/// A reading that takes longer to be written is none: its writer has died, or never comes to an end.
const UNSETTLED_MAX: Duration = Duration::from_millis(5);

/// Receives load from a page in shared memory.
#[derive(Debug)]
pub struct Shm {
    id: SourceId,
    page: Arc<Page>,
    /// The last reading's. Another sequence is another reading.
    sequence: Option<u32>,
    /// What is wrong with the page, as told already.
    complaint: Option<&'static str>,
    /// Since when each look has met a writer at work.
    unsettled: Option<Instant>,
    look_every: Duration,
    look_at: Instant,
}

/// The page's doorbell: how its source wakes a thread that waits for nothing else, and how others wake that thread.
#[derive(Clone, Debug)]
pub struct Bell(Arc<Page>);

impl Bell {
    /// How often it was rung, by whomever. Read it before looking at what may have changed.
    pub fn rings(&self) -> u32 {
        self.0.rings()
    }

    /// Sleeps until somebody rings, at the latest until `until`; not at all when it was rung since `rings` was read.
    ///
    /// # Errors
    /// None that a mapped page is known to give.
    pub fn wait(&self, rings: u32, until: Option<Instant>) -> io::Result<Woken> {
        self.0.wait(rings, until)
    }

    /// Rings.
    pub fn ring(&self) {
        self.0.ring();
    }
}

/// Checks the settings.
pub(super) fn check(path: &Path, mode: u32) -> Result<(), Problem> {
    if !path.is_absolute() || path.file_name().is_none() {
        return Err(Problem::setting("path", path.display(), "an absolute path of a file on a tmpfs, such as /run"));
    }
    if mode & !0o777 != 0 || mode & 0o600 != 0o600 {
        let limit = "permission bits that let at least the owner read and write, such as 0660";
        return Err(Problem::setting("mode", format_args!("{mode:#05o}"), limit));
    }
    Ok(())
}

impl Shm {
    /// Maps the page, or makes it if there is none. `freshness` is the age at which a reading is no longer believed.
    pub fn open(id: SourceId, path: &Path, mode: u32, freshness: Duration, now: Instant) -> Result<Self, Problem> {
        check(path, mode)?;
        Ok(Self {
            id,
            page: Arc::new(Page::open_or_make(path, mode)?),
            sequence: None,
            complaint: None,
            unsettled: None,
            look_every: (freshness / LOOKS_PER_FRESHNESS).max(Duration::from_millis(1)),
            look_at: now,
        })
    }

    /// What there is to tell at this look; nothing when nothing has changed.
    fn look(&mut self, now: Instant) -> Option<Observation> {
        self.look_at = now.after(self.look_every);
        let look = self.page.look();
        if look != Look::Unsettled {
            self.unsettled = None;
        }
        match look {
            Look::NoPage => self.complain("the page is truncated or overwritten"),
            Look::Unsettled => {
                let since = *self.unsettled.get_or_insert(now);
                if now.since(since) >= UNSETTLED_MAX {
                    return self.complain("a reading that is never written to its end");
                }
                self.look_at = now.after(UNSETTLED_GAP);
                None
            }
            // Nobody has written yet.
            Look::Settled(0, _) if self.sequence.is_none() => None,
            Look::Settled(sequence, _) if self.sequence == Some(sequence) && self.complaint.is_none() => None,
            Look::Settled(sequence, raw) => {
                self.sequence = Some(sequence);
                match reading(self.id, raw) {
                    Ok(reading) => {
                        self.complaint = None;
                        Some(Ok(reading))
                    }
                    Err(why) => self.complain(why),
                }
            }
        }
    }

    /// Tells what is wrong, once.
    fn complain(&mut self, why: &'static str) -> Option<Observation> {
        let known = self.complaint.replace(why) == Some(why);
        (!known).then_some(Err(Malformed { source: self.id, why }))
    }
}

impl Source for Shm {
    fn fd(&self) -> Option<BorrowedFd<'_>> {
        None
    }

    fn next_poll(&self) -> Option<Instant> {
        Some(self.look_at)
    }

    fn bell(&self) -> Option<Bell> {
        Some(Bell(Arc::clone(&self.page)))
    }

    fn read(&mut self, now: Instant, sink: &mut dyn FnMut(Observation)) {
        if let Some(observation) = self.look(now) {
            sink(observation);
        }
    }
}

/// Checks what the page says.
fn reading(source: SourceId, raw: Raw) -> Result<Reading, &'static str> {
    let level = |permille: u32| u16::try_from(permille).ok().and_then(Utilization::from_permille);
    let (Some(dl), Some(ul)) = (level(raw.dl_permille), level(raw.ul_permille)) else {
        return Err("a level above 1000 permille");
    };
    let observed = match raw.flags {
        0 => {
            let (metric, level) = if ul > dl { (Metric::PrbTotUl, ul) } else { (Metric::PrbTotDl, dl) };
            Observed::Level { metric, level, late: Some(raw.late) }
        }
        FLAG_GONE => Observed::Gone,
        _ => return Err("a flag that is not known"),
    };
    Ok(Reading { source, cell: raw.cell, stamped: Some(raw.stamp), observed })
}

#[cfg(test)]
mod tests;
