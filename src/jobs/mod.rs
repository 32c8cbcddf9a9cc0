//! What work is there, and what became of it?
//!
//! [`job`] holds states and legal moves, [`queue`] order and admission, [`table`] all jobs with the indices that answer
//! for the queue, [`store`] the durable file.

pub mod job;
pub mod queue;
pub mod store;
pub mod table;
