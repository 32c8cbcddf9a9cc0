//! How does a model's file get to a worker without holding the agent up? It is copied and hashed on another thread.
//!
//! One copy at a time for each worker, kept only until it is sent.

use std::fs::File;
use std::sync::Arc;

use tokio::task::JoinHandle;

use super::sealed;
use crate::fault::{Code, Fault};
use crate::model::library::Entry;

/// The sealed copy that a worker is to get next.
#[derive(Debug, Default)]
pub(super) struct Handover(Option<(Arc<Entry>, State)>);

#[derive(Debug)]
enum State {
    Copying(JoinHandle<Result<File, Fault>>),
    Ready(Result<File, Fault>),
}

impl Handover {
    /// The copy of that model, once it is ready; until then it is made, and [`Handover::ready`] tells.
    pub(super) fn take(&mut self, model: &Arc<Entry>) -> Option<Result<File, Fault>> {
        match self.0.take() {
            Some((copied, State::Ready(copy))) if Arc::ptr_eq(&copied, model) => Some(copy),
            // Whatever it is of: it is waited for, so that there is never more than one.
            Some((copied, State::Copying(task))) => {
                self.0 = Some((copied, State::Copying(task)));
                None
            }
            Some((_, State::Ready(_))) | None => {
                let entry = Arc::clone(model);
                let task = tokio::task::spawn_blocking(move || sealed::copy(&entry));
                self.0 = Some((Arc::clone(model), State::Copying(task)));
                None
            }
        }
    }

    /// Waits until a copy is ready; for ever when none is being made. Dropping the wait loses nothing.
    pub(super) async fn ready(&mut self) {
        match &mut self.0 {
            Some((_, state @ State::Copying(_))) => {
                let State::Copying(task) = state else { return };
                let copied = task.await.unwrap_or_else(|error| {
                    Err(Fault::new(Code::WorkerMemory, format!("the copy of the model for a worker failed: {error}")))
                });
                *state = State::Ready(copied);
            }
            Some((_, State::Ready(_))) | None => std::future::pending().await,
        }
    }

    /// Gives the memory of a copy back that nobody asks for any more.
    pub(super) fn clear(&mut self) {
        if let Some((_, State::Ready(_))) = self.0 {
            self.0 = None;
        }
    }
}
