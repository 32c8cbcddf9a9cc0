//! Helpers of the tests in this folder; each test uses some of them.

#![allow(dead_code, missing_docs, unreachable_pub)]

pub mod batch;
pub mod broker;
pub mod clients;
pub mod controller;
pub mod disk;
pub mod dpdk;
#[path = "../support/emulation.rs"]
pub mod emulation;
pub mod folders;
pub mod gnb;
pub mod ledger;
pub mod mosquitto;
pub mod netns;
pub mod node;
pub mod pki;
pub mod random;
#[path = "../support/told.rs"]
pub mod told;

use std::time::Duration;

use neap::sys::clock;

/// Longest wait for anything that the node promises, on the machine itself.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Looks until there is something to see; fails after [`PATIENCE`] (longer under emulation) and says what did not come,
/// and `context`.
pub fn wait_for<T>(what: &str, context: impl Fn() -> String, mut look: impl FnMut() -> Option<T>) -> T {
    let patience = PATIENCE * emulation::slow_by();
    let end = clock::now().after(patience);
    loop {
        if let Some(seen) = look() {
            return seen;
        }
        assert!(clock::now() < end, "within {patience:?} this did not come: {what}\n{}", context());
        std::thread::sleep(Duration::from_millis(5));
    }
}
