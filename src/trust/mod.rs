//! Who may say what? Keys and what they may do, signed envelopes, and whether a signature is to be believed.
//!
//! Pure: bytes, keys and the time come in, verdicts come out. Files are read by [`cli`](crate::cli) and
//! [`agent`](crate::agent).

pub mod key;

pub mod dsse;

pub mod keyring;

pub mod order;

pub mod replay;

pub mod time;

pub mod publisher;

pub mod bundle;

mod scope;
