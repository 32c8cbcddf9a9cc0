//! How is the way to the broker kept private, and how do we know that it is our broker? TLS of our own, under the MQTT
//! client.
//!
//! The client knows nothing of it: it speaks plain MQTT to a Unix socket without a file, whose other end is this
//! process too. A [`bridge`] carries the bytes on, one for each connection: it reaches the broker ([`dial`]), checks who
//! answers, and copies both ways. So the certificates are read again without a restart ([`keeper`]), and whatever goes
//! wrong is told as it is ([`cause`]).
//!
//! Who is trusted is what `ca_file` holds and nobody else: the system's authorities do not count here. TLS 1.3; 1.2
//! only where the operator says so. Nothing of an earlier connection is used again, so that every connection checks
//! the certificates anew.

pub(super) mod bridge;
mod cause;
pub mod certificates;
mod checks;
mod dial;
pub mod expiry;
mod keeper;
pub mod material;

use std::path::PathBuf;

pub(super) use keeper::{Keeper, renewed};

/// What TLS needs to be told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Certificates of the authorities that may sign for the broker, PEM.
    pub ca_file: PathBuf,
    /// Who we are; `None` where the broker asks for no certificate.
    pub identity: Option<IdentityFiles>,
    /// The name in the broker's certificate; `None`: the host that is connected to.
    pub server_name: Option<String>,
    /// The oldest version that is spoken.
    pub least: Least,
}

/// Our certificate and its key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IdentityFiles {
    /// The certificate, and those between it and the authority, PEM.
    pub cert_file: PathBuf,
    /// The private key, PEM, readable by its owner only.
    pub key_file: PathBuf,
}

/// The oldest version of TLS that is spoken.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Least {
    /// TLS 1.3 and nothing else.
    #[default]
    Tls13,
    /// TLS 1.2 too.
    Tls12,
}

impl Least {
    /// As it is written in the configuration.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Tls13 => "1.3",
            Self::Tls12 => "1.2",
        }
    }
}
