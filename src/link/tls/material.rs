//! Are the files of certificates and keys good for anything? Reads them, and tells everything that is wrong at once.

use std::fmt;
use std::fs::{self, File};
use std::io::{self, Read as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::sync::Arc;

use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::sign::CertifiedKey;
use rustls::{InconsistentKeys, RootCertStore};
use zeroize::{Zeroize as _, Zeroizing};

use super::certificates::{Certificate, Whose};
use super::{IdentityFiles, Least, Settings};
use crate::fault::{Code, Fault};
use crate::sys::credential;
use crate::units::WallTime;

/// Largest file of certificates or keys, in bytes.
const FILE_BYTES_MAX: u64 = 256 * 1024;
/// Most certificates in one file.
const CERTIFICATES_MAX: usize = 64;

/// What the files hold, checked.
pub struct Material {
    pub(super) roots: Arc<RootCertStore>,
    pub(super) identity: Option<Arc<CertifiedKey>>,
    pub(super) server_name: ServerName<'static>,
    pub(super) least: Least,
    /// The settings that it was read by, for sentences.
    pub(super) settings: Settings,
    certificates: Vec<Certificate>,
}

/// Without anything of the key.
impl fmt::Debug for Material {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Material").field("certificates", &self.certificates).finish_non_exhaustive()
    }
}

impl Material {
    /// Reads and checks what the settings name; `host` is the broker's, whose name is expected unless another is set.
    /// Whether the certificates are valid now is another question: see [`Material::dates`].
    ///
    /// # Errors
    /// Everything that is wrong with the files, one sentence each.
    pub fn read(settings: &Settings, host: &str) -> Result<Self, Vec<Fault>> {
        let mut faults = Vec::new();
        let authorities = authorities(&settings.ca_file).map_err(|fault| faults.push(fault)).ok();
        let identity = settings.identity.as_ref().map(identity).transpose().map_err(|all| faults.extend(all));
        let wanted = settings.server_name.as_deref().unwrap_or(host);
        let server_name = ServerName::try_from(wanted.to_owned()).map_err(|_| {
            let remedy = "set server_name to a name in the broker's certificate";
            faults.push(Fault::new(Code::TlsFile, format!("{wanted:?} is no name of a host and no address: {remedy}")));
        });
        let (Some((roots, mut certificates)), Ok(identity), Ok(server_name)) = (authorities, identity, server_name)
        else {
            return Err(faults);
        };
        let own = identity.as_ref().and_then(|identity| Certificate::read(Whose::Node, identity.cert.first()?));
        certificates.extend(own);
        Ok(Self {
            roots: Arc::new(roots),
            identity: identity.map(Arc::new),
            server_name,
            least: settings.least,
            settings: settings.clone(),
            certificates,
        })
    }

    /// Ours and the authorities' certificates.
    pub fn certificates(&self) -> &[Certificate] {
        &self.certificates
    }

    /// What is wrong, or soon will be, with the dates of these certificates.
    pub fn dates(&self, now: WallTime) -> Vec<String> {
        let early = |certificate: &Certificate| {
            let Certificate { name, not_before, .. } = certificate;
            (now < *not_before).then(|| {
                format!("the certificate of {name} is valid from {not_before} only; it is {now}: is this node's clock right?")
            })
        };
        self.certificates.iter().flat_map(|one| early(one).or_else(|| one.warning(now))).collect()
    }

    /// Whether the very same certificates are in both.
    pub(super) fn is_same_as(&self, other: &Self) -> bool {
        let chain = |material: &Self| material.identity.as_ref().map(|identity| identity.cert.clone());
        self.roots.roots == other.roots.roots && chain(self) == chain(other)
    }

    /// The name that our certificate gives us: the common name.
    pub fn own_name(&self) -> Option<&str> {
        self.certificates.iter().find(|one| one.whose == Whose::Node).map(|one| one.name.as_str())
    }
}

fn bad(path: &Path, why: impl fmt::Display) -> Fault {
    Fault::new(Code::TlsFile, format!("{}: {why}", path.display()))
}

/// The certificates that may sign for the broker.
fn authorities(path: &Path) -> Result<(RootCertStore, Vec<Certificate>), Fault> {
    let mut roots = RootCertStore::empty();
    let mut told = Vec::new();
    for der in chain(path)? {
        told.extend(Certificate::read(Whose::Authority, &der));
        roots.add(der).map_err(|error| bad(path, format!("a certificate in it cannot be used: {error}")))?;
    }
    Ok((roots, told))
}

/// Our certificate with its key, and whether they belong together.
fn identity(files: &IdentityFiles) -> Result<CertifiedKey, Vec<Fault>> {
    let IdentityFiles { cert_file, key_file } = files;
    let (chain, key) = match (chain(cert_file), key(key_file)) {
        (Ok(chain), Ok(key)) => (chain, key),
        (chain, key) => return Err(chain.err().into_iter().chain(key.err()).collect()),
    };
    let identity = CertifiedKey::new(chain, key);
    match identity.keys_match() {
        Ok(()) | Err(rustls::Error::InconsistentKeys(InconsistentKeys::Unknown)) => Ok(identity),
        Err(rustls::Error::InconsistentKeys(_)) => {
            let (cert, key) = (cert_file.display(), key_file.display());
            let text = format!("the private key {key} is not that of the certificate {cert}: put both from one pair");
            Err(vec![Fault::new(Code::TlsKeyMismatch, text)])
        }
        Err(error) => Err(vec![bad(cert_file, format!("its first certificate cannot be used: {error}"))]),
    }
}

fn chain(path: &Path) -> Result<Vec<CertificateDer<'static>>, Fault> {
    let pem = contents(path, &open(path)?)?;
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&pem).take(CERTIFICATES_MAX + 1).collect();
    let found = found.map_err(|error| bad(path, format!("not PEM: {error}")))?;
    if found.is_empty() {
        return Err(bad(path, "no certificate in it: it must hold -----BEGIN CERTIFICATE----- in PEM"));
    }
    if found.len() > CERTIFICATES_MAX {
        return Err(bad(path, format!("more than {CERTIFICATES_MAX} certificates in it")));
    }
    Ok(found)
}

/// The private key. What was read of it is wiped; what remains is the key itself, as long as it is in use.
fn key(path: &Path) -> Result<Arc<dyn rustls::sign::SigningKey>, Fault> {
    let file = open(path)?;
    let found = file.metadata().map_err(|error| bad(path, error))?;
    let (mode, owner, us) = (found.mode() & 0o777, found.uid(), rustix::process::geteuid().as_raw());
    if credential::bits_for_others(path, mode) != 0 {
        let text = format!(
            "{} has mode {mode:03o}: others may read the private key, at most 600 is allowed; run chmod 600 on it",
            path.display()
        );
        return Err(Fault::new(Code::TlsKeyPermissions, text));
    }
    if owner != us && owner != 0 {
        let text = format!(
            "{} belongs to user {owner}: the private key must belong to root or to this user, {us}; run chown {us} on it",
            path.display()
        );
        return Err(Fault::new(Code::TlsKeyPermissions, text));
    }
    let pem = contents(path, &file)?;
    if pem.windows(b"ENCRYPTED".len()).any(|words| words == b"ENCRYPTED") {
        let remedy = "openssl pkey -in OLD -out NEW writes it without";
        return Err(bad(
            path,
            format!("the private key is encrypted, and nobody is here to type the passphrase: {remedy}"),
        ));
    }
    let mut der = PrivateKeyDer::from_pem_slice(&pem)
        .map_err(|_| bad(path, "no private key in it: it must hold -----BEGIN PRIVATE KEY----- in PEM"))?;
    let key = ring::sign::any_supported_type(&der);
    der.zeroize();
    key.map_err(|_| bad(path, "a private key of an unknown kind: ECDSA P-256 or P-384, Ed25519 or RSA can be used"))
}

fn open(path: &Path) -> Result<File, Fault> {
    // A pipe or device would be waited for.
    match fs::metadata(path) {
        Ok(found) if !found.is_file() => return Err(bad(path, "not a file")),
        Ok(_) => {}
        Err(error) => return Err(bad(path, error)),
    }
    File::open(path).map_err(|error| bad(path, error))
}

/// At once and into one buffer, so that no half of it stays behind in a smaller one.
fn contents(path: &Path, file: &File) -> Result<Zeroizing<Vec<u8>>, Fault> {
    let bytes = file.metadata().map_err(|error| bad(path, error))?.len();
    if bytes > FILE_BYTES_MAX {
        return Err(bad(path, format!("{bytes} bytes exceed {FILE_BYTES_MAX}: is it a file of certificates?")));
    }
    let mut text = Zeroizing::new(Vec::with_capacity(usize::try_from(bytes).unwrap_or(0) + 1));
    file.take(FILE_BYTES_MAX).read_to_end(&mut text).map_err(|error: io::Error| bad(path, error))?;
    Ok(text)
}

/// What tells whether a file was replaced, or its owner or mode: device, inode, size, time of change.
pub(super) type Stamp = Option<(u64, u64, u64, i64, i64)>;

/// Of ca_file, cert_file and key_file.
pub(super) type Stamps = [Stamp; 3];

/// The stamps of all files that the settings name; `None` for one that is not there.
pub(super) fn stamps(settings: &Settings) -> Stamps {
    let stamp = |path: &Path| {
        let found = fs::metadata(path).ok()?;
        Some((found.dev(), found.ino(), found.size(), found.ctime(), found.ctime_nsec()))
    };
    let files = settings.identity.as_ref();
    [
        stamp(&settings.ca_file),
        files.and_then(|files| stamp(&files.cert_file)),
        files.and_then(|files| stamp(&files.key_file)),
    ]
}
