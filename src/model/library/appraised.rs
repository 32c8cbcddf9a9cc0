//! What is known of what the installed models cost, and which of them were refused?

use std::path::Path;

use super::{Entry, Library};
use crate::fault::Fault;
use crate::model::verdict::{Cost, Terms, Verdict, files};

impl Library {
    /// Reads the verdicts about these models out of a folder; those that do not hold any more are left.
    ///
    /// From now on [`Library::find`] refuses what an appraisal has refused.
    #[must_use]
    pub fn with_verdicts(mut self, folder: &Path, now: &Terms) -> Self {
        let verdict = |entry: &Entry| {
            files::read(folder, &entry.manifest.digest).filter(|verdict| verdict.stale(entry, now).is_none())
        };
        self.verdicts = self.entries.iter().filter_map(|entry| verdict(entry)).collect();
        self
    }

    /// The verdict about a model; `None`: it is not appraised.
    pub fn verdict(&self, entry: &Entry) -> Option<&Verdict> {
        self.verdicts.iter().find(|verdict| verdict.is_about(entry))
    }

    /// What a model costs; `None` when it is not appraised, or was refused.
    pub fn cost(&self, entry: &Entry) -> Option<&Cost> {
        self.verdict(entry)?.cost()
    }

    /// Why a model was refused when it was appraised, if it was.
    pub fn refusal(&self, entry: &Entry) -> Option<Fault> {
        let fault = self.verdict(entry)?.refusal()?;
        let (name, why) = (&entry.manifest.name, &fault.message);
        Some(Fault::new(fault.code, format!("model {name} was refused when it was appraised: {why}")))
    }
}
