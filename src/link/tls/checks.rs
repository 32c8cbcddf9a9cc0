//! What was seen while the certificates were checked? The library's own checks, with a witness beside them.

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{ClientConfig, ResolvesClientCert, Resumption, WebPkiServerVerifier};
use rustls::crypto::ring;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::sign::CertifiedKey;
use rustls::time_provider::TimeProvider;
use rustls::{DigitallySignedStruct, Error, SignatureScheme, version};

use super::Least;
use super::certificates::{Certificate, Certificates, Whose};
use super::material::Material;
use crate::link::settings::WallClock;
use crate::units::WallTime;

/// Largest certificate that is looked at for what it says; the checks take any that the library takes.
const SHOWN_BYTES_MAX: usize = 64 * 1024;

/// What one handshake has shown.
#[derive(Debug, Default)]
pub(super) struct Witness {
    shown: Mutex<Option<Certificate>>,
    asked: AtomicBool,
}

impl Witness {
    /// The broker's certificate, good or bad.
    pub(super) fn shown(&self) -> Option<Certificate> {
        self.shown.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Whether the broker has asked for ours.
    pub(super) fn was_asked(&self) -> bool {
        self.asked.load(Relaxed)
    }
}

/// How one connection checks the broker: against the authorities of `material` and nobody else's, at the time that
/// `shared` believes.
///
/// # Errors
/// When the library cannot be set up so; the material was checked before.
pub(super) fn config(
    material: &Material,
    witness: &Arc<Witness>,
    shared: &Certificates,
    wall: WallClock,
) -> Result<ClientConfig, Error> {
    let provider = Arc::new(ring::default_provider());
    let inner = WebPkiServerVerifier::builder_with_provider(Arc::clone(&material.roots), Arc::clone(&provider))
        .build()
        .map_err(|error| Error::General(error.to_string()))?;
    let versions: &[_] = match material.least {
        Least::Tls13 => &[&version::TLS13],
        Least::Tls12 => &[&version::TLS13, &version::TLS12],
    };
    let mut config = ClientConfig::builder_with_details(provider, Arc::new(Time { shared: shared.clone(), wall }))
        .with_protocol_versions(versions)?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Verifier { inner, witness: Arc::clone(witness) }))
        .with_client_cert_resolver(Arc::new(Resolver {
            identity: material.identity.clone(),
            witness: Arc::clone(witness),
        }));
    config.resumption = Resumption::disabled();
    Ok(config)
}

/// The time that certificates are checked by: the owner's, else the machine's.
pub(super) fn time(shared: &Certificates, wall: WallClock) -> WallTime {
    shared.wall().unwrap_or_else(wall)
}

#[derive(Debug)]
struct Time {
    shared: Certificates,
    wall: WallClock,
}

impl TimeProvider for Time {
    fn current_time(&self) -> Option<UnixTime> {
        let millis = u64::try_from(time(&self.shared, self.wall).as_millis()).ok()?;
        Some(UnixTime::since_unix_epoch(std::time::Duration::from_millis(millis)))
    }
}

/// Decides nothing: the library's verifier does.
#[derive(Debug)]
struct Verifier {
    inner: Arc<WebPkiServerVerifier>,
    witness: Arc<Witness>,
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let shown = (end_entity.len() <= SHOWN_BYTES_MAX).then(|| Certificate::read(Whose::Broker, end_entity));
        *self.witness.shown.lock().unwrap_or_else(PoisonError::into_inner) = shown.flatten();
        self.inner.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.inner.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.inner.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.inner.supported_verify_schemes()
    }
}

/// Shows our certificate, if there is one, to a broker that asks.
#[derive(Debug)]
struct Resolver {
    identity: Option<Arc<CertifiedKey>>,
    witness: Arc<Witness>,
}

impl ResolvesClientCert for Resolver {
    fn resolve(&self, _authorities: &[&[u8]], _schemes: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        self.witness.asked.store(true, Relaxed);
        self.identity.clone()
    }

    fn has_certs(&self) -> bool {
        self.identity.is_some()
    }
}
