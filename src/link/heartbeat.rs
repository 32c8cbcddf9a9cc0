//! Does the link's task still turn? A counter that it raises at least once a second, connected or not.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use tokio::time::sleep;

/// The counter is raised at least this often.
const EVERY: Duration = Duration::from_secs(1);

/// Turns of the link's task, counted; clones count together.
#[derive(Clone, Debug, Default)]
pub struct Heartbeat(Arc<AtomicU64>);

impl Heartbeat {
    /// Turns so far. A number that stands for much longer than a second is that of a task that hangs.
    pub fn count(&self) -> u64 {
        self.0.load(Relaxed)
    }

    /// One turn: counts it, and ends after a second. For one arm of the loop that waits.
    pub(super) async fn beat(&self) {
        self.0.fetch_add(1, Relaxed);
        sleep(EVERY).await;
    }
}

/// It sets nothing: settings are alike whatever was counted with them.
impl PartialEq for Heartbeat {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}
