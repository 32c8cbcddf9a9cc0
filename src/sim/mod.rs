//! What would the world do? A simulated base station, broker and controller, for `neap demo` and for tests.
//!
//! [`day`] and [`emit`] are pure: load curves from a seed. [`broker`] is an MQTT broker inside the process, and [`controller`] the
//! other end of the link: it submits jobs and holds the node to its promises. [`ran`] stands in for a DU: threads with
//! real work in every slot, and a deadline for it. [`replay`] plays recordings to the real governor and queue. [`world`] plays whole days with the real governor in virtual time and
//! holds it to a reference.

#[cfg(feature = "demo")]
pub mod broker;
pub mod controller;
pub mod day;
pub mod emit;
pub mod ran;
pub mod replay;
pub mod world;
