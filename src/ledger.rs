//! How fast did inference give way, and what delayed it when it was slow? The ledger of yields.

pub mod cause;
