//! How does the RAN's side write the page? What `include/neap_load.h` does in C, for the tools and tests of this crate.

use std::path::Path;

use super::super::Problem;
use super::page::{FLAG_GONE, Look, Page, Raw};
use crate::units::{CellId, Instant, Utilization};

/// Writes load to the page of an agent. There must be one writer of a page at a time.
#[derive(Debug)]
pub struct Writer(Page);

impl Writer {
    /// Opens the page at `path`, which the agent has made.
    ///
    /// # Errors
    /// When it is missing, is not such a page, or may not be written by this user.
    pub fn open(path: &Path) -> Result<Self, Problem> {
        Page::open(path).map(Self)
    }

    /// Writes a reading: PRB usage down and up, the running count of late slots, and when it was measured.
    /// A system call is not made; the agent sees it when it next looks. See [`Writer::ring`].
    pub fn write(&mut self, cell: CellId, dl: Utilization, ul: Utilization, late: u64, stamp: Instant) {
        let [dl_permille, ul_permille] = [dl, ul].map(|level| u32::from(level.permille()));
        self.0.write(Raw { cell, dl_permille, ul_permille, late, stamp, flags: 0 });
    }

    /// The count of late slots in the page now: what a writer that does not count goes on with. 0 in a new page.
    pub fn late(&self) -> u64 {
        match self.0.look() {
            Look::Settled(_, raw) => raw.late,
            Look::NoPage | Look::Unsettled => 0,
        }
    }

    /// Says that the cell was taken out of service and counts no longer.
    pub fn write_gone(&mut self, cell: CellId, stamp: Instant) {
        self.0.write(Raw { cell, stamp, flags: FLAG_GONE, ..Raw::default() });
    }

    /// Wakes the agent, so that it looks at once: one system call.
    pub fn ring(&self) {
        self.0.ring();
    }
}
