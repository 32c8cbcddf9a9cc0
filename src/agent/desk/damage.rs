//! What if the store lost something? Jobs that can never run end, and a controller is told.

use super::{Desk, Now};
use crate::fault::{Code, Fault};
use crate::jobs::job::Event;
use crate::jobs::store::Batch;
use crate::units::JobId;

/// What opening the store found wanting.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(in crate::agent) struct Damage {
    /// Why an old store was set aside, if one was.
    pub set_aside: Option<Fault>,
    /// Jobs that have not ended and whose input is gone.
    pub without_input: Vec<JobId>,
}

impl Desk {
    /// Ends what can never run. The alarm is kept until it arrives: it is the only word of what is lost.
    ///
    /// Of a store that was opened late some jobs may be known better here: one at work has its input, and one that has
    /// ended, or that the store has yet to accept, needs none.
    pub(in crate::agent) fn tell_of_damage(&mut self, now: Now, damage: &Damage) {
        if let Some(fault) = &damage.set_aside {
            let alarm = self.reports.alarm("", fault, now.wall);
            self.commit(Batch { messages: vec![alarm], ..Batch::default() }, None, None);
        }
        for id in &damage.without_input {
            if self.needs_input(id) {
                self.lose(now, id);
            }
        }
    }

    /// Whether the job cannot go on without what the store has of it. One at work has read it, or is about to be told
    /// that it is not there.
    pub(super) fn needs_input(&self, id: &JobId) -> bool {
        let is_accepted = self.jobs.get_open(id).is_some() && !self.jobs.is_undecided(id);
        is_accepted && self.bench.slot_of(id).is_none()
    }

    /// Ends a job whose input is gone.
    pub(super) fn lose(&mut self, now: Now, id: &JobId) {
        let text = format!("the input of job {id} is not in the store any more; submit it again under a new id");
        self.change(now, id, Event::Lose(Fault::new(Code::StateCorrupt, text)));
    }
}
