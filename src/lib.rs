//! Neap runs AI inference at the low tide of a base station's load.

pub mod agent;
pub mod cli;
pub mod config;
pub mod fault;
pub mod governor;
pub mod jobs;
pub mod link;
pub mod load;
pub mod model;
pub mod sentinel;
pub mod sim;
pub mod sys;
pub mod telemetry;
pub mod tensor;
pub mod units;
pub mod worker;
