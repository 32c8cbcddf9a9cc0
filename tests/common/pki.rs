//! Certificates made for one test: an authority, and what it signs for servers and clients, good and bad.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use neap::sys::clock;
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    KeyUsagePurpose, date_time_ymd,
};

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// From when to when a certificate is valid, in days from now.
#[derive(Clone, Copy, Debug)]
pub struct Valid {
    pub from_days: i64,
    pub until_days: i64,
}

impl Valid {
    /// From yesterday for a year.
    pub const NOW: Self = Self { from_days: -1, until_days: 365 };
    /// Until yesterday.
    pub const EXPIRED: Self = Self { from_days: -30, until_days: -1 };
    /// From tomorrow.
    pub const NOT_YET: Self = Self { from_days: 1, until_days: 365 };

    /// From yesterday, and for so many days from now.
    pub fn days(until_days: i64) -> Self {
        Self { from_days: -1, until_days }
    }

    fn apply(self, params: &mut CertificateParams) {
        let now = Duration::from_millis(clock::wall().as_millis().try_into().expect("it is after 1970"));
        let at = |days: i64| {
            // An hour more, so that whole days are left when the test looks.
            let span = DAY * u32::try_from(days.unsigned_abs()).expect("few days");
            let then = if days < 0 { now - span } else { now + span + Duration::from_secs(3600) };
            date_time_ymd(1970, 1, 1) + Duration::from_secs(then.as_secs())
        };
        (params.not_before, params.not_after) = (at(self.from_days), at(self.until_days));
    }
}

/// A certificate and its key, as PEM files; the key is readable by its owner only.
#[derive(Clone, Debug)]
pub struct Identity {
    pub cert: PathBuf,
    pub key: PathBuf,
}

impl Identity {
    /// The certificate of this one with the key of another.
    pub fn with_key_of(&self, other: &Self) -> Self {
        Self { cert: self.cert.clone(), key: other.key.clone() }
    }

    /// Puts another's certificate and key into the files of this one, each in one step, as an operator's tool does.
    pub fn replace_by(&self, other: &Self) {
        for (old, new) in [(&self.key, &other.key), (&self.cert, &other.cert)] {
            let beside = old.with_extension("new");
            fs::copy(new, &beside).expect("a file can be copied");
            fs::rename(&beside, old).expect("a file can be renamed");
        }
    }
}

/// A certificate authority with a folder for what it signs.
pub struct Pki {
    folder: PathBuf,
    issuer: CertifiedIssuer<'static, KeyPair>,
    name: String,
}

impl Pki {
    /// One of that name; its certificate is in [`Pki::ca_file`]. Authorities of different names share a folder.
    pub fn new(folder: &Path, name: &str) -> Self {
        Self::valid(folder, name, Valid::NOW)
    }

    /// The same, with a certificate of that validity.
    pub fn valid(folder: &Path, name: &str, valid: Valid) -> Self {
        let mut params = params(name, valid);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let key = KeyPair::generate().expect("a key can be made");
        let issuer = CertifiedIssuer::self_signed(params, key).expect("a certificate can be signed");
        let pki = Self { folder: folder.to_owned(), issuer, name: name.to_owned() };
        fs::write(pki.ca_file(), pki.issuer.pem()).expect("the certificate can be written");
        pki
    }

    /// The authority's certificate.
    pub fn ca_file(&self) -> PathBuf {
        self.folder.join(format!("{}-ca.crt", self.name))
    }

    /// A server's certificate for those names and addresses.
    pub fn server(&self, file: &str, names: &[&str], valid: Valid) -> Identity {
        let mut params = params("broker", valid);
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        params.subject_alt_names = CertificateParams::new(names).expect("names are legal").subject_alt_names;
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        self.sign(file, params)
    }

    /// A server's certificate for this machine.
    pub fn localhost(&self) -> Identity {
        self.server("server", &["localhost", "127.0.0.1"], Valid::NOW)
    }

    /// A client's certificate whose common name is `cn`: with `use_identity_as_username` its user name.
    pub fn client(&self, file: &str, cn: &str, valid: Valid) -> Identity {
        let mut params = params(cn, valid);
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        self.sign(file, params)
    }

    fn sign(&self, file: &str, params: CertificateParams) -> Identity {
        let key = KeyPair::generate().expect("a key can be made");
        let cert = params.signed_by(&key, &self.issuer).expect("a certificate can be signed");
        let path = |extension: &str| self.folder.join(format!("{}-{file}.{extension}", self.name));
        let identity = Identity { cert: path("crt"), key: path("key") };
        fs::write(&identity.cert, cert.pem()).expect("the certificate can be written");
        fs::write(&identity.key, key.serialize_pem()).expect("the key can be written");
        fs::set_permissions(&identity.key, Permissions::from_mode(0o600)).expect("its mode can be set");
        identity
    }
}

fn params(cn: &str, valid: Valid) -> CertificateParams {
    let mut params = CertificateParams::new(Vec::new()).expect("no names are legal");
    params.distinguished_name.remove(DnType::CommonName);
    params.distinguished_name.push(DnType::CommonName, cn);
    params.use_authority_key_identifier_extension = true;
    valid.apply(&mut params);
    params
}
