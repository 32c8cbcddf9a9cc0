//! Who may say what? Keys and what they may do, signed envelopes, and whether a signature is to be believed.
//!
//! Pure: bytes, keys and the time come in, verdicts come out. Files are read by [`cli`](crate::cli) and
//! [`agent`](crate::agent).

use std::fmt;

/// What a node does with orders that nobody signed. A signature that is wrong is refused wherever a ring is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    /// There is no key ring: every order counts, and signatures are not looked at.
    #[default]
    None,
    /// They count, with a warning.
    Warn,
    /// They are refused.
    Require,
}

impl Mode {
    /// Its name in configuration and status.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Warn => "warn",
            Self::Require => "require",
        }
    }
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

pub mod key;

pub mod dsse;

pub mod keyring;

pub mod order;

pub mod replay;

pub mod publisher;

pub mod bundle;

mod scope;
