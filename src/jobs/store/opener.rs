//! What if the disk refuses? Opening a store again and again, and undoing what was refused and written all the same.

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::backend::Doubt;
use super::medium::{self, Folder};
use super::recovery::{self, Trouble};
use super::tally::{Plan, Tally};
use super::{Batch, Opened, Quota, Store};
use crate::fault::Fault;
use crate::units::JobId;

/// Opens the store of one state directory, as often as it takes. It remembers a sync that failed: the file is copied
/// then before anything in it is trusted.
#[derive(Debug)]
pub struct Opener {
    folder: PathBuf,
    quota: Quota,
    doubt: Arc<Doubt>,
}

impl Opener {
    /// An opener for that directory, which need not exist.
    pub fn new(folder: &Path, quota: Quota) -> Self {
        Self { folder: folder.to_owned(), quota, doubt: Arc::default() }
    }

    /// Opens it for a run of the agent. The store that was opened before must have been dropped.
    ///
    /// # Errors
    /// As [`Store::open`].
    pub fn open(&self) -> Result<Opened, Fault> {
        let taken = Folder::take(&self.folder, Arc::clone(&self.doubt));
        let medium = taken.map_err(|trouble| trouble.fault(&self.folder.join(medium::FILE)))?;
        Store::open_on(Box::new(medium), self.quota)
    }
}

/// A group that was refused while nobody could tell whether it is in the file.
#[derive(Debug)]
pub(super) struct Unsettled {
    /// The counter of commits, if it is in the file.
    commits: u64,
    /// Jobs that it would have brought, and the messages that tell of them: their sender was told that they were
    /// refused, so they must not come to life.
    jobs: Vec<(JobId, Range<u64>)>,
}

impl Unsettled {
    pub(super) fn new(plan: &Plan, batches: &[&Batch]) -> Self {
        let brings = |(batch, seqs): (&&Batch, &Range<u64>)| {
            batch.payloads.iter().map(|(id, _)| (id.clone(), seqs.clone())).collect::<Vec<_>>()
        };
        Self { commits: plan.meta.commits, jobs: batches.iter().zip(&plan.seqs).flat_map(brings).collect() }
    }

    /// Whether the file holds it after all.
    pub(super) fn is_in(&self, tally: &Tally) -> bool {
        tally.meta.commits == self.commits
    }

    fn undo(self) -> Batch {
        let delivered = self.jobs.iter().flat_map(|(_, seqs)| seqs.clone()).collect();
        Batch { forget: self.jobs.into_iter().map(|(id, _)| id).collect(), delivered, ..Batch::default() }
    }
}

impl Store {
    /// Takes refused jobs out of the file again, if they are in it.
    pub(super) fn settle(&mut self) -> Result<(), Fault> {
        let Some(unsettled) = self.unsettled.take() else { return Ok(()) };
        if !unsettled.is_in(&self.tally) || unsettled.jobs.is_empty() {
            return Ok(());
        }
        let jobs = unsettled.jobs.clone();
        let undo = unsettled.undo();
        let plan = Plan::new(&self.tally, &self.quota, &[&undo]);
        let commits = self.tally.meta.commits;
        self.write(&plan, &[&undo]).inspect_err(|_| {
            // The undoing itself is in the file, or the jobs still are.
            self.unsettled = Some(Unsettled { commits, jobs });
        })
    }

    /// Writes a little, to see whether the disk takes anything, and whether it has room for so many bytes.
    ///
    /// # Errors
    /// `state.io` and `state.corrupt`, as a commit.
    pub fn probe(&mut self, bytes: u64) -> Result<(), Fault> {
        self.ensure_open()?;
        if bytes > 0 {
            self.medium.room(bytes).map_err(|err| Trouble::from(err).fault(self.medium.path()))?;
        }
        let plan = Plan::new(&self.tally, &self.quota, &[]);
        self.write(&plan, &[])
    }

    /// Closes the file and opens it again with all checks: after a read that failed nothing else is to be believed.
    ///
    /// # Errors
    /// `state.io` and `state.corrupt`, as a commit.
    pub fn check(&mut self) -> Result<(), Fault> {
        if let Some(live) = self.live.take() {
            recovery::close(live);
        }
        self.ensure_open()
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        // Dropping a database writes to it, and over a bad file that may panic.
        if let Some(live) = self.live.take() {
            recovery::close(live);
        }
    }
}
