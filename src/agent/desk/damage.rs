//! What if the store lost something? Jobs that can never run end, and a controller is told.

use super::{Desk, Now};
use crate::fault::{Code, Fault};
use crate::jobs::job::Event;
use crate::jobs::store::Batch;
use crate::units::JobId;

impl Desk {
    /// The store was opened, and an old one was `set_aside` or jobs were found `without_input`. The alarm is kept until
    /// it arrives: it is the only word of what is lost.
    pub(in crate::agent) fn tell_of_damage(&mut self, now: Now, set_aside: Option<&Fault>, without_input: &[JobId]) {
        if let Some(fault) = set_aside {
            let alarm = self.reports.alarm("", fault, now.wall);
            self.commit(Batch { messages: vec![alarm], ..Batch::default() }, None, None);
        }
        for id in without_input {
            let text = format!("the input of job {id} is not in the store any more; submit it again under a new id");
            self.change(now, id, Event::Lose(Fault::new(Code::StateCorrupt, text)));
        }
    }
}
