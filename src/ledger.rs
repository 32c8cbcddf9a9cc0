//! How fast did inference give way, and what delayed it when it was slow? The ledger of yields.
//!
//! Pure: records come in, with the moment for people, and figures go out.

pub mod cause;

use crate::sentinel::YieldRecord;

/// The parts of a record that causes are looked for in.
pub fn parts(record: &YieldRecord) -> cause::Parts {
    cause::Parts {
        detect: record.detect(),
        stopping: record.confirmed.since(record.signalled),
        total: record.total(),
        cpu_after: record.cpu_after,
        displaced: record.displaced,
    }
}
