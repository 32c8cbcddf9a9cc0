//! What does the agent do when memory is short, and when workers had to stop themselves? Acts, and tells people.

use std::time::Duration;

use super::core::{Act, Core};
use super::desk::Now;
use super::pressure::{Holds, Shortage, Step};
use crate::fault::{Code, Fault};
use crate::jobs::store::Batch;

impl Core {
    /// Whether the memory is to be looked at: there is nothing to look for while no worker has any.
    pub(super) fn watches_memory(&self) -> bool {
        self.relief.is_short() || self.desk.holds().iter().any(|holds| *holds != Holds::Nothing)
    }

    /// The memory was looked at: it is short for this reason, or it is not.
    pub(super) fn hear_memory(&mut self, now: Now, shortage: Option<Shortage>) {
        let before = self.relief.is_short();
        let step = self.relief.on_look(now.mono, shortage.is_some(), &self.desk.holds());
        if let (Some(shortage), false) = (shortage, before) {
            let calm_s = self.terms.memory_calm.as_secs_f64();
            self.telemetry.state_changed();
            tracing::warn!(reason = %shortage, calm_s, "memory is short: no worker starts until it was not for calm_s");
        }
        if let Some(shortage) = shortage {
            self.desk.set_short(Some(format!("memory is short: {shortage}")));
            self.let_workers_start();
        }
        match step {
            Some(Step::Evict(slots)) => {
                self.desk.relieve(now, &slots);
                let reason = shortage.map(|shortage| shortage.to_string()).unwrap_or_default();
                let text = format!(
                    "memory is short ({reason}): {} gave their memory back; free memory, or lower workers.count or \
                     workers.memory_mib",
                    workers(&slots)
                );
                self.raise_alarm(now, &Fault::new(Code::NodeMemory, text));
            }
            Some(Step::Calm) => {
                tracing::info!("memory is not short any more: workers may start");
                self.desk.set_short(None);
                self.telemetry.state_changed();
                self.let_workers_start();
            }
            None => {}
        }
    }

    /// Says to each handle whether it may start a process.
    pub(super) fn let_workers_start(&mut self) {
        for slot in 0..self.desk.places() {
            let may_start = self.desk.may_start(slot);
            self.acts.push_back(Act::MayStart { slot, may_start });
        }
    }

    /// A worker stopped itself for a while, because the sentinel was silent.
    pub(super) fn hear_parked(&mut self, now: Now, slot: usize, times: u32, time: Duration) {
        self.telemetry.parked(times);
        let limit_ms = self.terms.dead_man.as_millis();
        let text = format!(
            "worker {slot} stopped itself for {} ms because the sentinel was silent for more than {limit_ms} ms \
             (sentinel.dead_man_ms); find what keeps it from its core, and give it a SCHED_FIFO priority",
            time.as_millis()
        );
        self.raise_alarm(now, &Fault::new(Code::SentinelSilent, text));
    }

    /// Something that people should know of, in the log and on `up/event`; at most so often.
    pub(super) fn raise_alarm(&mut self, now: Now, fault: &Fault) {
        let Some(suppressed) = self.alarms.admit(now.mono) else { return };
        tracing::warn!(code = %fault.code, suppressed, "{}", fault.message);
        let alarm = self.desk.reports.alarm("", fault, now.wall);
        self.desk.report(Batch { droppable: vec![alarm], ..Batch::default() }, None);
    }
}

/// `worker 2`, `workers 0, 3`.
fn workers(slots: &[usize]) -> String {
    let list = slots.iter().map(usize::to_string).collect::<Vec<_>>().join(", ");
    if slots.len() == 1 { format!("worker {list}") } else { format!("workers {list}") }
}
