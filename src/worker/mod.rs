//! Who computes? Worker processes: the same binary re-executed, one core each, stoppable at any instruction.
//!
//! Agent side: [`handle`] owns one worker's life and its frames, [`gate`] stops and continues it (driven by the
//! sentinel only). Worker side: [`serve`] is the process's main loop, [`jail`] what it gives up first, [`infer`] the
//! engine (the only file that names tract), [`prepare`] and [`interpret`] what surrounds a network.
//! Both sides: [`protocol`], the frames between them.

pub mod gate;
pub mod handle;
pub mod infer;
pub mod interpret;
pub mod jail;
pub mod prepare;
pub mod protocol;
pub mod serve;
