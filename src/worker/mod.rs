//! Who computes? Worker processes: the same binary re-executed, one core each, stoppable at any instruction.
//!
//! Both sides: [`protocol`], the frames between them.
//! Agent side: [`handle`] owns one worker's life and its frames ([`child`] is one process of it, [`verdict`] says why it
//! ended), [`gate`] stops and continues it (driven by the sentinel only).
//! Worker side: [`serve`] is the process's main loop, [`jail`] what it gives up first, [`channel`] its socket, [`plans`]
//! what it keeps loaded, [`infer`] the engine (the only file that names tract), [`guard`] what catches panics,
//! [`prepare`] and [`interpret`] what surrounds a network.

pub mod protocol;

pub mod child;
pub mod gate;
pub mod handle;
pub mod verdict;

pub mod channel;
pub mod guard;
pub mod infer;
pub mod interpret;
pub mod jail;
pub mod plans;
pub mod prepare;
pub mod serve;
