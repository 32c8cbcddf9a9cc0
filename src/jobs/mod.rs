//! What work is there, and what became of it?
//!
//! [`job`] holds states and legal moves, [`queue`] order and admission, [`cost`] and [`feasible`] whether there is time for it,
//! [`table`] all jobs with the indices that answer for the queue, [`store`] the durable file.

pub mod cost;
pub mod feasible;
pub mod job;
pub mod queue;
pub mod store;
pub mod table;
