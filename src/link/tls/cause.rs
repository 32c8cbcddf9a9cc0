//! Why is there no private way to the broker? What the TLS library says, in words that name the remedy.

use std::io;

use rustls::{AlertDescription as Alert, CertificateError, Error, InvalidMessage, PeerIncompatible};

use super::certificates::Certificate;
use super::{Least, Settings};
use crate::fault::{Code, Fault};
use crate::link::connection::Failure;
use crate::units::WallTime;

/// Most names of a certificate that are told.
const NAMES_MAX: usize = 8;

/// What is known when something goes wrong.
#[derive(Debug)]
pub(super) struct Scene<'a> {
    /// `host:port`.
    pub(super) broker: &'a str,
    /// The name that its certificate must have.
    pub(super) wanted: String,
    /// Which files.
    pub(super) settings: &'a Settings,
    /// The certificate that was shown.
    pub(super) shown: Option<&'a Certificate>,
    /// Our own.
    pub(super) own: Option<&'a Certificate>,
    /// Whether the broker has asked for ours.
    pub(super) asked: bool,
    /// Whether the handshake was over.
    pub(super) established: bool,
    /// The time that the certificates were checked by.
    pub(super) now: WallTime,
    /// Whether that time is beyond doubt.
    pub(super) sure: bool,
}

impl Scene<'_> {
    /// What an error of the handshake, or of the first bytes after it, means.
    pub(super) fn failure(&self, error: &io::Error) -> Failure {
        if let Some(error) = error.get_ref().and_then(|inner| inner.downcast_ref::<Error>()) {
            return self.of_tls(error);
        }
        let broker = self.broker;
        let closed = matches!(
            error.kind(),
            io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe
        );
        if closed && !self.established && !self.was_heard() {
            // A broker that is just stopping does so too: it is tried again as soon as any other.
            let text = format!(
                "broker {broker} closed the connection at the first word of TLS: the port is one for plain MQTT \
                 (usually 1883; with TLS 8883), or the broker is stopping"
            );
            return lost(Code::TlsNotTls, text);
        }
        if closed && !self.established {
            let text = format!("broker {broker} closed the connection in the middle of the TLS handshake: see its log");
            return lost(Code::TlsProtocol, text);
        }
        Failure::lost(format!("connection to broker {broker}: {error}"))
    }

    /// The broker did not finish the handshake in time.
    pub(super) fn timed_out(&self, seconds: u64) -> Failure {
        let (broker, what) = (self.broker, if self.was_heard() { "did not finish" } else { "did not answer" });
        let text = format!(
            "broker {broker} {what} the TLS handshake within {seconds} s: is it overloaded, or is something else \
             listening there?"
        );
        lost(Code::TlsHandshakeTimeout, text)
    }

    fn of_tls(&self, error: &Error) -> Failure {
        let broker = self.broker;
        #[expect(clippy::wildcard_enum_match_arm, reason = "not our enum, and it grows")]
        match error {
            Error::InvalidCertificate(error) => self.of_certificate(error),
            Error::AlertReceived(alert) => self.of_alert(*alert),
            Error::InvalidMessage(InvalidMessage::InvalidContentType) if !self.was_heard() => {
                let text = format!(
                    "whoever answers at {broker} does not speak TLS: the port is one for plain MQTT (usually 1883; with \
                     TLS 8883), or of another service"
                );
                auth(Code::TlsNotTls, text)
            }
            Error::PeerIncompatible(
                PeerIncompatible::ServerDoesNotSupportTls12Or13
                | PeerIncompatible::ServerTlsVersionIsDisabledByOurConfig
                | PeerIncompatible::Tls12NotOffered
                | PeerIncompatible::Tls12NotOfferedOrEnabled
                | PeerIncompatible::SupportedVersionsExtensionRequired,
            ) => self.version(),
            Error::PeerIncompatible(_) => {
                auth(Code::TlsVersion, format!("broker {broker} and this node have no way of TLS in common: {error}"))
            }
            _ => lost(Code::TlsProtocol, format!("broker {broker} breaks the protocol of TLS: {error}")),
        }
    }

    /// Whether the broker came as far as its certificate.
    fn was_heard(&self) -> bool {
        self.shown.is_some() || self.asked
    }

    fn version(&self) -> Failure {
        let broker = self.broker;
        let remedy = match self.settings.least {
            Least::Tls13 => "have it speak TLS 1.3, or allow 1.2 with tls_min = \"1.2\"",
            Least::Tls12 => "older versions are not safe: have it speak TLS 1.2 or 1.3",
        };
        let least = self.settings.least.as_str();
        auth(Code::TlsVersion, format!("broker {broker} does not speak TLS {least}, the least allowed here; {remedy}"))
    }

    fn of_certificate(&self, error: &CertificateError) -> Failure {
        let Self { broker, wanted, now, .. } = self;
        let ca = self.settings.ca_file.display();
        let (name, issuer) = self.shown.map_or(("?", "?"), |shown| (shown.name.as_str(), shown.issuer.as_str()));
        let clock = if self.sure { "" } else { ", and this node's clock is in doubt" };
        #[expect(clippy::wildcard_enum_match_arm, reason = "not our enum, and it grows")]
        match error {
            // A certificate that names the right authority and does not bear its signature is not from it.
            CertificateError::UnknownIssuer | CertificateError::BadSignature => auth(
                Code::TlsUnknownCa,
                format!(
                    "the certificate of broker {broker} ({name}) is signed by {issuer:?}, which is not in ca_file {ca}: \
                     is it the right broker, and ca_file that of its authority?"
                ),
            ),
            CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
                let since = self.shown.map_or_else(|| "?".to_owned(), |shown| shown.not_after.to_string());
                auth(
                    Code::TlsCertExpired,
                    format!(
                        "the certificate of broker {broker} ({name}), or of its authority, has expired: it was valid \
                         until {since}, and it is {now}{clock}; renew it on the broker"
                    ),
                )
            }
            CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
                let from = self.shown.map_or_else(|| "?".to_owned(), |shown| shown.not_before.to_string());
                auth(
                    Code::TlsCertNotYetValid,
                    format!(
                        "the certificate of broker {broker} ({name}) is valid from {from} only, and it is {now}{clock}: \
                         is this node's clock right?"
                    ),
                )
            }
            CertificateError::NotValidForNameContext { presented, .. } => {
                let names: Vec<String> = presented.iter().take(NAMES_MAX).map(|name| plain(name)).collect();
                let names = if names.is_empty() { "no name at all".to_owned() } else { names.join(", ") };
                auth(
                    Code::TlsWrongName,
                    format!(
                        "the certificate of broker {broker} is for {names}, not for {wanted:?}: connect to a name in it, \
                         or set server_name to one of them"
                    ),
                )
            }
            CertificateError::NotValidForName => auth(
                Code::TlsWrongName,
                format!(
                    "the certificate of broker {broker} ({name}) is not for {wanted:?}: set server_name to a name in it"
                ),
            ),
            _ => {
                auth(Code::TlsCertInvalid, format!("the certificate of broker {broker} ({name}) is not valid: {error}"))
            }
        }
    }

    fn of_alert(&self, alert: Alert) -> Failure {
        let broker = self.broker;
        // Until TLS 1.2 there is no alert of its own for a certificate that is missing.
        let missing = self.asked && self.own.is_none();
        #[expect(clippy::wildcard_enum_match_arm, reason = "not our enum, and it grows")]
        let (code, text) = match alert {
            Alert::ProtocolVersion => return self.version(),
            Alert::CertificateRequired | Alert::NoCertificate => return self.missing(),
            Alert::HandshakeFailure | Alert::BadCertificate | Alert::AccessDenied if missing => return self.missing(),
            Alert::CertificateExpired => (Code::TlsClientCertRefused, self.refused("it has expired; renew it")),
            Alert::UnknownCA => {
                let issuer = self.own.map_or("?", |own| own.issuer.as_str());
                let why = format!("it does not know who signed it ({issuer}); use one of the broker's authority");
                (Code::TlsClientCertRefused, self.refused(&why))
            }
            Alert::CertificateRevoked => (Code::TlsClientCertRefused, self.refused("it is revoked; use a new one")),
            Alert::BadCertificate
            | Alert::UnsupportedCertificate
            | Alert::CertificateUnknown
            | Alert::AccessDenied
            | Alert::DecryptError => {
                (Code::TlsClientCertRefused, self.refused(&format!("{alert:?}; see the broker's log")))
            }
            Alert::UnrecognisedName => {
                let wanted = &self.wanted;
                (Code::TlsWrongName, format!("broker {broker} does not know the name {wanted:?}: set server_name"))
            }
            Alert::HandshakeFailure | Alert::InsufficientSecurity => {
                let text = format!("broker {broker} and this node have no way of TLS in common ({alert:?})");
                (Code::TlsVersion, text)
            }
            _ => {
                let text = format!("broker {broker} ended TLS with the alert {alert:?}: see its log");
                return lost(Code::TlsProtocol, text);
            }
        };
        auth(code, text)
    }

    fn missing(&self) -> Failure {
        let broker = self.broker;
        let text = match self.own {
            None => format!("broker {broker} requires a certificate of its clients: set cert_file and key_file"),
            Some(own) => format!("broker {broker} requires a certificate and could not use ours ({})", own.name),
        };
        auth(Code::TlsClientCertRequired, text)
    }

    fn refused(&self, why: &str) -> String {
        let own =
            self.own.map_or_else(|| "none".to_owned(), |own| format!("{}, valid until {}", own.name, own.not_after));
        let file = self.settings.identity.as_ref().map(|files| format!(" in {}", files.cert_file.display()));
        format!("broker {} refuses our certificate ({own}){}: {why}", self.broker, file.unwrap_or_default())
    }
}

/// Text of a stranger's certificate.
fn plain(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(100).collect()
}

/// An operator has to act before another try can help.
fn auth(code: Code, text: impl AsRef<str>) -> Failure {
    Failure::auth(Fault::new(code, text))
}

/// It may pass.
fn lost(code: Code, text: impl AsRef<str>) -> Failure {
    Failure::lost(Fault::new(code, text))
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;
    use crate::link::backoff::Cause;
    use crate::link::tls::certificates::Whose;

    fn certificate(whose: Whose, name: &str) -> Certificate {
        let (not_before, not_after) = (WallTime::from_millis(0), WallTime::from_millis(1_800_000_000_000));
        Certificate { whose, name: name.to_owned(), issuer: "someone".to_owned(), not_before, not_after }
    }

    fn told(error: Error, least: Least, has_own: bool) -> Failure {
        let ca_file = PathBuf::from("/etc/neap/ca.crt");
        let settings = Settings { ca_file, identity: None, server_name: None, least };
        let (shown, own) = (certificate(Whose::Broker, "broker"), certificate(Whose::Node, "node-1"));
        let scene = Scene {
            broker: "broker.example:8883",
            wanted: "broker.example".to_owned(),
            settings: &settings,
            shown: Some(&shown),
            own: has_own.then_some(&own),
            asked: true,
            established: true,
            now: WallTime::from_millis(1_700_000_000_000),
            sure: true,
        };
        scene.failure(&io::Error::new(io::ErrorKind::InvalidData, error))
    }

    #[test]
    fn every_alert_about_our_certificate_has_its_code_and_waits_for_an_operator() {
        for (alert, has_own, code) in [
            (Alert::CertificateRequired, false, Code::TlsClientCertRequired),
            // How TLS 1.2 says the same.
            (Alert::HandshakeFailure, false, Code::TlsClientCertRequired),
            (Alert::HandshakeFailure, true, Code::TlsVersion),
            (Alert::CertificateExpired, true, Code::TlsClientCertRefused),
            (Alert::CertificateRevoked, true, Code::TlsClientCertRefused),
            (Alert::UnknownCA, true, Code::TlsClientCertRefused),
            (Alert::BadCertificate, true, Code::TlsClientCertRefused),
            (Alert::ProtocolVersion, true, Code::TlsVersion),
        ] {
            let failure = told(Error::AlertReceived(alert), Least::Tls13, has_own);
            assert!(failure.why.starts_with(code.as_str()), "{alert:?}: {}", failure.why);
            assert_eq!(failure.cause, Cause::Auth, "{alert:?}");
        }
        let passing = told(Error::AlertReceived(Alert::InternalError), Least::Tls13, true);
        assert_eq!(passing.cause, Cause::Lost, "{}", passing.why);
    }

    #[test]
    fn an_old_broker_is_told_with_what_would_let_it_in() {
        let error = Error::PeerIncompatible(PeerIncompatible::ServerTlsVersionIsDisabledByOurConfig);
        assert!(told(error.clone(), Least::Tls13, true).why.contains("tls_min = \"1.2\""));
        assert!(told(error, Least::Tls12, true).why.contains("not safe"));
    }

    #[test]
    fn names_of_a_strangers_certificate_are_few_and_without_control_characters() {
        let presented = vec!["evil\x1b[2J".to_owned(); 1_000];
        let expected = rustls::pki_types::ServerName::try_from("broker.example").unwrap().to_owned();
        let error = CertificateError::NotValidForNameContext { expected, presented };
        let failure = told(Error::InvalidCertificate(error), Least::Tls13, true);
        assert!(failure.why.len() < 1_000 && !failure.why.contains('\x1b'), "{}", failure.why);
        assert!(failure.why.contains("not for \"broker.example\""), "{}", failure.why);
    }
}
