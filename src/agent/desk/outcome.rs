//! What did the workers answer? Items, failed attempts, finished jobs.

use std::sync::Arc;
use std::time::Duration;

use super::{Desk, Effect, Now, PROGRESS_EVERY, RESULT_BYTES_MAX, Reports, outputs};
use crate::fault::{Code, Fault};
use crate::jobs::job::Event;
use crate::jobs::store::Batch;
use crate::link::messages;
use crate::worker::handle::{Event as WorkerEvent, Output};

impl Desk {
    /// A worker is ready, has finished an item, or is gone.
    pub(in crate::agent) fn worker(&mut self, now: Now, event: WorkerEvent) {
        match event {
            WorkerEvent::Ready { slot, pid, jail, sandbox } => {
                for problem in jail {
                    tracing::warn!(slot, pid, problem, "the worker's jail is not complete");
                }
                let place = &mut self.bench.places[slot];
                (place.ready, place.sandbox) = (true, sandbox.strength());
            }
            // What the run makes of its time is not touched: it was not stopped by the budget.
            WorkerEvent::Parked { .. } => {}
            WorkerEvent::Done { slot, token, item, outcome } => {
                let open = &mut self.bench.places[slot].open;
                if let Some(at) = open.iter().position(|of| *of == token) {
                    open.remove(at);
                }
                self.done(now, slot, token, item, outcome);
                self.feed(slot);
            }
            WorkerEvent::Exited { slot, token, fault, retry_in: _ } => {
                let place = &mut self.bench.places[slot];
                place.ready = false;
                place.open.retain(|of| Some(*of) != token);
                let Some(fault) = fault else { return };
                if fault.code == Code::SandboxUnavailable {
                    return self.unserved(now, slot);
                }
                let ours = self.bench.places[slot].run.as_ref().is_some_and(|run| Some(run.token) == token);
                if ours {
                    self.suspect(slot, fault.code);
                    self.attempt_failed(now, slot, fault);
                }
            }
        }
    }

    fn done(&mut self, now: Now, slot: usize, token: u64, item: u32, outcome: Result<Output, Fault>) {
        let Some(run) = self.bench.places[slot].run.as_mut() else { return };
        let expected = u32::try_from(run.bodies.len()).unwrap_or(u32::MAX);
        if run.token != token || item != expected {
            return;
        }
        let wanted = run.requests.get(run.bodies.len()).and_then(|request| request.outputs.as_deref());
        if let Ok(output) = &outcome {
            let digest = run.model.manifest.digest;
            self.suspects.ran(digest);
            self.admission.ran(digest, output.cpu);
        }
        let picked = outcome.and_then(|output| {
            let cpu = output.cpu + output.load_cpu.unwrap_or_default();
            Ok((messages::render_item(&outputs::pick(wanted, output.tensors)?), cpu))
        });
        let (body, cpu) = match picked {
            Ok(item) => item,
            // In a batch, an item that is at fault itself takes its place with its error; the others go on.
            Err(fault) if run.batch && is_items_own(fault.code) => {
                run.item_errors += 1;
                (messages::render_item_error(&fault), Duration::ZERO)
            }
            Err(fault) => {
                self.suspects.failed(&run.model.manifest, fault.code);
                self.attempt_failed(now, slot, fault);
                return;
            }
        };
        run.body_bytes += body.len();
        if run.body_bytes > RESULT_BYTES_MAX {
            let text = format!(
                "the result is above {RESULT_BYTES_MAX} bytes after item {item} of {}; send fewer items per job",
                run.requests.len()
            );
            self.attempt_failed(now, slot, Fault::new(Code::OutputTooLarge, text));
            return;
        }
        run.bodies.push(body.clone());
        let ran = run.book(now.mono);
        let id = run.job.clone();
        let last = run.bodies.len() == run.requests.len();
        let report = !last && now.mono.since(run.reported) >= PROGRESS_EVERY;
        if report {
            run.reported = now.mono;
        }
        let Some(job) = self.apply(now, &id, Event::ItemDone { cpu, ran }) else { return };
        let mut batch = Batch { items: vec![(id, item, body)], ..Batch::default() };
        if report {
            batch.droppable.push(self.reports.status(&job));
        }
        batch.jobs.push(job);
        self.commit(batch, None, None);
        self.finish_if_complete(now, slot);
    }

    /// Takes the job from its place and lets its state machine decide: back to the queue or the end.
    fn attempt_failed(&mut self, now: Now, slot: usize, fault: Fault) {
        if let Some(id) = self.clear(now, slot) {
            self.change(now, &id, Event::Fault(fault));
        }
    }

    pub(super) fn finish_if_complete(&mut self, now: Now, slot: usize) {
        let Some(run) = self.bench.places[slot].run.as_ref() else { return };
        if run.requests.is_empty() || run.bodies.len() < run.requests.len() {
            return;
        }
        let id = run.job.clone();
        let batch = run.batch;
        let all_failed = batch && run.item_errors == run.requests.len();
        let model = Arc::clone(&run.model);
        let bodies = self.bench.places[slot].run.take().map(|run| run.bodies).unwrap_or_default();
        self.effects.push_back(Effect::Token { slot, token: 0 });
        if all_failed {
            let text = format!("all {} items failed; the first: {}", bodies.len(), first_error(&bodies));
            self.change(now, &id, Event::Fault(Fault::new(Code::ItemsFailed, text)));
            return;
        }
        let Some(job) = self.apply(now, &id, Event::Succeed) else { return };
        let body = Reports::result_body(&job, &model.manifest, &bodies, batch, self.bench.places[slot].sandbox);
        let batch = Batch {
            messages: vec![self.reports.status(&job), self.reports.result(&job, body.clone())],
            jobs: vec![job],
            results: vec![(id.clone(), body)],
            drop_payloads: vec![id.clone()],
            drop_items: vec![id],
            ..Batch::default()
        };
        self.commit(batch, None, None);
    }
}

/// Faults of one item that leave the other items of its batch alone.
fn is_items_own(code: Code) -> bool {
    matches!(
        code,
        Code::InputCount
            | Code::InputName
            | Code::InputDatatype
            | Code::InputShape
            | Code::InputLength
            | Code::InputDecode
            | Code::ModelRun
            | Code::OutputName
            | Code::OutputTooLarge
    )
}

fn first_error(bodies: &[Vec<u8>]) -> String {
    bodies.first().map(|body| String::from_utf8_lossy(body).into_owned()).unwrap_or_default()
}
