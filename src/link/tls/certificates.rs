//! What is known of the certificates that the link goes by? Told by the link, read by whoever keeps a clone.

use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::Notify;
use x509_parser::prelude::{FromDer as _, X509Certificate};

use super::expiry::{Step, left, step};
use crate::units::WallTime;

/// Longest name of a certificate that is kept, in characters.
const NAME_CHARS_MAX: usize = 100;
/// No judged time is known yet.
const UNKNOWN: i64 = i64::MIN;

/// Whose certificate it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Whose {
    /// Ours, which the broker asks for.
    Node,
    /// An authority's that we trust.
    Authority,
    /// The broker's, as it was shown last.
    Broker,
}

impl Whose {
    /// As it is written in messages and metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Node => "node",
            Self::Authority => "authority",
            Self::Broker => "broker",
        }
    }

    /// For people.
    const fn told(self) -> &'static str {
        match self {
            Self::Node => "the node's own certificate",
            Self::Authority => "the certificate of the authority (ca_file)",
            Self::Broker => "the broker's certificate",
        }
    }
}

/// One certificate, as far as it is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Certificate {
    /// Whose.
    pub whose: Whose,
    /// Its subject; the common name where there is one.
    pub name: String,
    /// Who signed it.
    pub issuer: String,
    /// Valid from.
    pub not_before: WallTime,
    /// Valid until.
    pub not_after: WallTime,
}

impl Certificate {
    /// Reads one from its DER; `None` when it is none.
    pub(super) fn read(whose: Whose, der: &[u8]) -> Option<Self> {
        let (_, parsed) = X509Certificate::from_der(der).ok()?;
        let name = |name: &x509_parser::x509::X509Name<'_>| {
            let common = name.iter_common_name().next().and_then(|common| common.as_str().ok()).map(str::to_owned);
            let text = common.unwrap_or_else(|| name.to_string());
            text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(NAME_CHARS_MAX).collect::<String>()
        };
        let moment = |seconds: i64| WallTime::from_millis(seconds.saturating_mul(1000));
        let validity = parsed.validity();
        Some(Self {
            whose,
            name: name(parsed.subject()),
            issuer: name(parsed.issuer()),
            not_before: moment(validity.not_before.timestamp()),
            not_after: moment(validity.not_after.timestamp()),
        })
    }

    /// How near its end is.
    pub fn step(&self, now: WallTime) -> Step {
        step(now, self.not_after)
    }

    /// That it ends soon, or has ended, and what to do; `None` while there is time.
    pub fn warning(&self, now: WallTime) -> Option<String> {
        let verb = match self.step(now) {
            Step::Fine => return None,
            Step::Month | Step::Week | Step::Day => "expires",
            Step::Over => "has expired:",
        };
        let Self { whose, name, not_after, .. } = self;
        let remedy = match whose {
            Whose::Node => "put a new certificate into cert_file; it is taken without a restart",
            Whose::Authority => "put the new authority into ca_file beside the old one; it is taken without a restart",
            Whose::Broker => "renew it on the broker",
        };
        let (whose, left) = (whose.told(), left(now, *not_after));
        Some(format!("{whose} ({name}) {verb} {left}, at {not_after}; {remedy}"))
    }
}

/// What the link knows of its certificates.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Known {
    /// All that count: ours, the authorities', the broker's once it was seen.
    pub certificates: Vec<Certificate>,
    /// Why the files as they are now are not taken; what was read before stays in force.
    pub refused: Option<String>,
    /// The version that the last connection speaks, such as `tls1.3`.
    pub version: Option<&'static str>,
}

impl Known {
    /// The certificate that ends first.
    pub fn first_to_end(&self) -> Option<&Certificate> {
        self.certificates.iter().min_by_key(|certificate| certificate.not_after)
    }
}

/// What the link and its owner share about certificates; clones share one state.
///
/// The link tells what it knows. The owner tells the time that it believes, which the checks of the certificates go
/// by, and when the files are to be looked at.
#[derive(Clone, Default)]
pub struct Certificates(Arc<Shared>);

struct Shared {
    known: Mutex<Known>,
    changes: AtomicU64,
    wall: AtomicI64,
    sure: AtomicBool,
    look: Notify,
}

impl Default for Shared {
    fn default() -> Self {
        Self {
            known: Mutex::default(),
            changes: AtomicU64::new(0),
            wall: AtomicI64::new(UNKNOWN),
            sure: AtomicBool::new(true),
            look: Notify::new(),
        }
    }
}

impl Certificates {
    /// What is known.
    pub fn known(&self) -> Known {
        self.0.known.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Counts changes of what is known.
    pub fn changes(&self) -> u64 {
        self.0.changes.load(Relaxed)
    }

    /// The time that the owner believes, and whether it is beyond doubt. Without it the machine's clock counts.
    pub fn set_wall(&self, wall: WallTime, sure: bool) {
        self.0.wall.store(wall.as_millis(), Relaxed);
        self.0.sure.store(sure, Relaxed);
    }

    /// Has the link look at the files now.
    pub fn look_again(&self) {
        self.0.look.notify_one();
    }

    /// The time that the owner believes, if it has told one.
    pub(super) fn wall(&self) -> Option<WallTime> {
        let wall = self.0.wall.load(Relaxed);
        (wall != UNKNOWN).then_some(WallTime::from_millis(wall))
    }

    /// Whether that time is beyond doubt.
    pub(super) fn is_sure(&self) -> bool {
        self.0.sure.load(Relaxed)
    }

    /// Waits for [`Certificates::look_again`].
    pub(super) async fn asked(&self) {
        self.0.look.notified().await;
    }

    /// Changes what is known.
    pub(super) fn tell(&self, change: impl FnOnce(&mut Known)) {
        let mut known = self.0.known.lock().unwrap_or_else(PoisonError::into_inner);
        let before = known.clone();
        change(&mut known);
        if *known != before {
            self.0.changes.fetch_add(1, Relaxed);
        }
    }
}

impl fmt::Debug for Certificates {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Certificates").field(&self.known()).finish()
    }
}

/// It sets nothing: settings are alike whatever was told with them.
impl PartialEq for Certificates {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_certificate_that_ends_soon_says_when_whose_and_what_to_do() {
        let not_after = WallTime::from_millis(1_800_000_000_000);
        let moment = |days: i64| WallTime::from_millis(not_after.as_millis() - days * 86_400_000);
        let certificate = Certificate {
            whose: Whose::Node,
            name: "node-1".to_owned(),
            issuer: "operator".to_owned(),
            not_before: WallTime::from_millis(0),
            not_after,
        };
        assert_eq!(certificate.warning(moment(31)), None);
        let text = certificate.warning(moment(6)).unwrap();
        for words in ["the node's own certificate (node-1) expires in 6 days", "2027-01-15T08:00:00", "cert_file"] {
            assert!(text.contains(words), "{text}");
        }
        assert!(certificate.warning(moment(-3)).unwrap().contains("has expired: 3 days ago"));
    }

    #[test]
    fn garbage_is_no_certificate() {
        for garbage in [&b""[..], b"0", &[0x30, 0x84, 0xff, 0xff, 0xff, 0xff], &[0xff; 1000]] {
            assert_eq!(Certificate::read(Whose::Broker, garbage), None);
        }
    }

    #[test]
    fn what_is_told_again_is_no_change() {
        let shared = Certificates::default();
        shared.tell(|known| known.version = Some("tls1.3"));
        shared.tell(|known| known.version = Some("tls1.3"));
        assert_eq!((shared.changes(), shared.known().version), (1, Some("tls1.3")));
    }
}
