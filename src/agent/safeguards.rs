//! What does the agent do about a clock that cannot be right, and about its own crashes? Says so, and holds back.

use super::core::Core;
use super::desk::Now;
use super::reports::Impairment;
use super::wall::News;
use crate::fault::{Code, Fault};
use crate::jobs::store::Batch;

impl Core {
    /// The judge of the clock has news; `why` the time is in doubt, if it is now.
    pub(super) fn hear_clock(&mut self, now: Now, news: News, why: Option<String>) {
        if let News::Adopted { from, to } = news {
            let text = format!("the time was {from} and is now {to}, as the wall clock has said for long enough");
            tracing::warn!(%from, %to, "the wall clock is believed again");
            let alarm = self.desk.reports.alarm("", &Fault::new(Code::ClockDoubt, text), now.wall);
            // Lower than the mark or not: this is what the next start begins from.
            let batch = Batch { at: Some(to), at_replaces: true, droppable: vec![alarm], ..Batch::default() };
            self.desk.report(batch, None);
        }
        self.impair(now, Impairment::Clock, why);
    }

    /// The agent crashed too often to be trusted with work, for this reason; `None`: not any more.
    pub(super) fn set_safe_mode(&mut self, now: Now, why: Option<String>) {
        self.impair(now, Impairment::SafeMode, why);
    }

    /// How the node is, in one line for the service manager.
    pub(super) fn status_line(&self) -> String {
        let (running, queued) = self.desk.counts();
        let reports = &self.desk.reports;
        let link = if self.is_connected() { "connected" } else { "not connected" };
        let why = reports.closed().unwrap_or_else(|| "trough".to_owned());
        let mut line = format!("{why}; {running} running, {queued} queued; {link}");
        for what in Impairment::ALL.into_iter().filter(|what| !what.closes()) {
            if let Some(why) = reports.impaired(what) {
                line.push_str("; degraded (");
                line.push_str(what.as_str());
                line.push_str("): ");
                line.push_str(why);
            }
        }
        line
    }

    /// Whether nothing runs because the agent crashed too often.
    pub(super) fn is_safe_mode(&self) -> bool {
        self.desk.reports.impaired(Impairment::SafeMode).is_some()
    }
}
