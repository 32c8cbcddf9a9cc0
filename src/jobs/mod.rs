//! What work is there, and what became of it?
//!
//! [`job`] holds states and legal moves, [`queue`] order and admission, [`store`] the durable file.

pub mod job;
pub mod queue;
pub mod store;
