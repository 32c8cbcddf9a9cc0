//! How long does a worker take until it is ready? From the start of its process to its first word.

use std::path::Path;
use std::time::Duration;

use crate::cli::failure::{Class, Failure};
use crate::model::verdict::Limits;
use crate::sys::clock;
use crate::worker::child::{Child, Start, Step};
use crate::worker::jail;
use crate::worker::jail::achieved::Level;
use crate::worker::protocol::FromWorker;

/// Longest wait for the first word of a worker.
const READY_MAX: Duration = Duration::from_secs(60);

/// One start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Started {
    /// From the start to the first word.
    pub(super) ready: Duration,
    /// What the sandbox took of it, as the worker tells.
    pub(super) sandbox: Duration,
}

/// Starts a worker, hears its first word, and ends it.
///
/// # Errors
/// When it does not come up.
pub(super) fn one(limits: &Limits) -> Result<Started, Failure> {
    crate::cli::block_on(async {
        let wait = tokio::time::timeout(READY_MAX, greet(limits)).await;
        wait.unwrap_or_else(|_| Err(not_up(&format!("it said nothing for {} s", READY_MAX.as_secs()))))
    })
}

async fn greet(limits: &Limits) -> Result<Started, Failure> {
    let address_bytes = limits.plan_bytes.saturating_add(limits.item_bytes).saturating_mul(2);
    let plan_bytes = limits.plan_bytes;
    let exe = Path::new("/proc/self/exe");
    let sandbox = jail::Policy { level: Level::BestEffort, ..jail::Policy::default() };
    let start = Start { exe, slot: 0, core: None, plan_bytes, address_bytes, sandbox, dead_man: None };
    let before = clock::now();
    let mut child = Child::spawn(&start, None).map_err(|error| not_up(&error.to_string()))?;
    let hello = loop {
        match child.step().await.map_err(|error| not_up(&error.to_string()))? {
            Step::Message(message) => {
                let FromWorker::Hello(hello) = *message else { return Err(not_up("its first word was no greeting")) };
                break hello;
            }
            Step::Quiet => {}
            Step::Gone => return Err(not_up("it ended; its reason stands above")),
        }
    };
    let ready = clock::now().since(before);
    child.kill();
    child.end().await.map_err(|error| not_up(&error.to_string()))?;
    Ok(Started { ready, sandbox: hello.sandbox.set_up })
}

fn not_up(why: &str) -> Failure {
    Failure::new(Class::Software, format!("a worker did not come up: {why}"))
}
