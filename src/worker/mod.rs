//! Who computes? Worker processes: the same binary re-executed, one core each, stoppable at any instruction.
//!
//! Both sides: [`protocol`], the frames between them, and [`sealed`], how a model's file comes along.
//! Agent side: [`handle`] is what the agent uses, `supervisor` the task that keeps one worker alive, [`child`] one
//! process of it, [`cgroup`] what the kernel holds it with, [`verdict`] why it ended (`oom`: whether for memory),
//! [`gate`] what stops and continues it (driven by the sentinel only), [`appraisal`] what finds out what a model costs.
//! Worker side: [`serve`] is the process's main loop, [`jail`] what it gives up first, [`channel`] its socket, [`plans`]
//! what it keeps loaded, [`engine`] what computes and [`infer`] the one that does (the only file that names tract),
//! [`preflight`] what is said of a model's file before that, [`survey`] what measures a network, [`guard`] what catches
//! panics, [`prepare`] and [`interpret`] what surrounds a network.

// In reading order: both sides, the agent's, the worker's.
pub mod protocol;
pub mod sealed;

pub mod appraisal;
pub mod cgroup;
pub mod child;
pub mod gate;
pub mod handle;
mod handover;
mod oom;
mod supervisor;
pub mod verdict;

pub mod channel;
pub mod engine;
pub mod guard;
pub mod infer;
pub mod interpret;
pub mod jail;
pub mod plans;
pub mod preflight;
pub mod prepare;
pub mod serve;
pub mod survey;
