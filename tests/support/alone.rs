//! The hostile broker on a thread of its own, for tests that are not asynchronous themselves.

#![allow(dead_code, missing_docs, unreachable_pub)]

use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;

use tokio::sync::oneshot;

use super::Hostile;
use super::manners::Manners;

/// A hostile broker on a thread of its own.
pub struct Broker {
    pub hostile: Arc<Hostile>,
    leave: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Broker {
    pub fn start(manners: Vec<Manners>) -> Self {
        let (sender, started) = mpsc::sync_channel(1);
        let (leave, left) = oneshot::channel();
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            runtime.block_on(async {
                sender.send(Arc::new(Hostile::start(manners))).expect("somebody waits for it");
                // Gone without a word is as good.
                let _ = left.await;
            });
        });
        let hostile = started.recv().expect("the broker starts");
        Self { hostile, leave: Some(leave), thread: Some(thread) }
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        drop(self.leave.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
