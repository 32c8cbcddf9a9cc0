//! How is the agent told something new, and how does it stop? SIGHUP and SIGTERM.

use std::time::Duration;

use super::models::open_library;
use super::parts::job_settings;
use super::{Agent, Mouths, room};
use crate::link;

/// For the workers' processes to be gone.
const WORKERS_END_MAX: Duration = Duration::from_millis(300);
/// From there to the last words: time for the outbox to be delivered.
const FLUSH_MAX: Duration = Duration::from_millis(600);
/// From the last words to the end of the link.
const GOODBYE_MAX: Duration = Duration::from_millis(800);

/// How the wait for the outbox ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Flushed {
    /// There is nothing more to wait for.
    Done,
    /// A second SIGTERM came.
    Hurry,
}

impl Agent {
    /// Brings into force what can be brought into force, and names the rest.
    pub(super) fn read_settings_again(&mut self) {
        self.service.reloading(self.clocks.now().mono);
        self.bring_into_force();
        // Even where the configuration has a mistake: certificates are files of their own.
        self.privacy.look_again();
        self.service.ready();
    }

    fn bring_into_force(&mut self) {
        let fresh = match (self.reload)() {
            Ok(fresh) => fresh,
            Err(error) => {
                tracing::error!(%error, "configuration not reloaded, the old one stays in force");
                return;
            }
        };
        if let Err(fault) = self.core.desk.trust.reload() {
            tracing::error!(%fault, "key ring not reloaded, the old one stays in force");
        }
        let now = self.clocks.now().wall;
        match open_library(&fresh, &self.core.desk.trust, &self.settings.jobs.state_dir, now) {
            Ok(library) => {
                self.core.desk.reports.set_library(&library, fresh.worst_node_max);
                self.core.desk.set_library(library);
                self.settings.models_dir.clone_from(&fresh.models_dir);
                self.settings.worst_node_max = fresh.worst_node_max;
            }
            Err(error) => tracing::error!(%error, "models not reloaded"),
        }
        // The number of workers is part of the policy, but processes are made at the start only.
        let mut policy = fresh.policy.clone();
        policy.workers = self.settings.policy.workers;
        match self.sentinel.set_policy(policy.clone()) {
            Ok(()) => {
                self.core.desk.reports.set_policy(&policy);
                self.settings.policy = policy;
            }
            Err(error) => tracing::error!(%error, "policy not reloaded"),
        }
        match self.sentinel.set_guard(fresh.guard.clone()) {
            Ok(()) => self.settings.guard = fresh.guard.clone(),
            Err(error) => tracing::error!(%error, "guard not reloaded"),
        }
        let kept = self.settings.needs_restart(&fresh);
        if !kept.is_empty() {
            tracing::warn!(sections = kept.join(", "), "changed, but only a restart brings it into force");
        }
        let evict_after = self.settings.workers.evict_after;
        let mut jobs = job_settings(&fresh);
        jobs.evict_after = evict_after;
        self.core.desk.set_settings(jobs);
        let (state_dir, spool_bytes) = (self.settings.jobs.state_dir.clone(), self.settings.jobs.spool_bytes);
        self.settings.jobs = fresh.jobs;
        self.settings.jobs.state_dir = state_dir;
        self.settings.jobs.spool_bytes = spool_bytes;
        tracing::info!("configuration reloaded: governor, guard, limits of jobs, models, keys");
        if self.core.is_connected() {
            let now = self.clocks.now();
            self.core.courier.publish(self.core.desk.reports.info(now.wall));
        }
    }

    /// Refuse jobs, stop workers, give running jobs back, flush, last words: all within two seconds.
    /// `orderly` unless it could not go on: then the next start finds a crash.
    pub(super) async fn end(mut self, mut mouths: Mouths, orderly: bool) {
        let began = self.clocks.now();
        tracing::info!("stopping");
        self.service.stopping();
        self.core.wind_down(began);
        if let Err(error) = self.perform() {
            tracing::error!(%error, "while stopping");
        }
        // All are killed at once. One that the RAN keeps off its core dies when it gets there, with no instruction of
        // its own in between; it is not waited for.
        let ends: Vec<_> = self.handles.drain(..).map(|handle| tokio::spawn(handle.stop())).collect();
        let gone = tokio::time::timeout(WORKERS_END_MAX, async {
            for end in ends {
                let _ended = end.await;
            }
        });
        // A second SIGTERM skips every wait that is left.
        let mut hurry = false;
        tokio::select! {
            gone = gone => if gone.is_err() {
                tracing::warn!("workers that were killed have not had a core to die on yet");
            },
            _ = mouths.terminate.recv() => hurry = true,
        }
        let patience = if hurry { Duration::ZERO } else { FLUSH_MAX };
        let flushed = tokio::time::timeout(patience, self.flush(&mut mouths)).await;
        hurry |= flushed == Ok(Flushed::Hurry);
        if flushed.is_err() && self.core.is_connected() {
            tracing::warn!("messages left in the outbox; they are sent after the next start");
        }
        self.core.last_words(self.clocks.now());
        let patience = if hurry { Duration::ZERO } else { GOODBYE_MAX };
        let closed = tokio::time::timeout(patience, async {
            loop {
                tokio::select! {
                    event = mouths.link.recv() => if matches!(event, None | Some(link::Event::Closed)) { return },
                    () = room(&self.link, self.core.courier.is_waiting()) => self.core.courier.flush(),
                    _ = mouths.terminate.recv() => return,
                }
            }
        });
        if closed.await.is_err() {
            tracing::warn!("the broker did not take the goodbye in time");
        }
        drop(mouths);
        self.keeper.stop();
        self.sentinel.stop();
        self.gate.cgroups().close();
        if orderly {
            self.history.end();
        }
        tracing::info!(ms = self.clocks.now().mono.since(began.mono).as_millis(), "stopped");
    }

    /// Everything committed, and, while connected, everything delivered. A second SIGTERM cuts it short.
    async fn flush(&mut self, mouths: &mut Mouths) -> Flushed {
        while !self.core.is_flushed() {
            self.core.settle();
            if self.perform().is_err() {
                return Flushed::Done;
            }
            tokio::select! {
                Some(answer) = mouths.store.recv() => if self.hear_store(answer).is_err() {
                    return Flushed::Done;
                },
                Some(event) = mouths.link.recv() => self.core.hear_link(self.clocks.now(), event),
                () = room(&self.link, self.core.courier.is_waiting()) => self.core.courier.flush(),
                _ = mouths.terminate.recv() => return Flushed::Hurry,
            }
        }
        Flushed::Done
    }
}
