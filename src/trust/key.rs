//! Whose signature is it? Key pairs, public keys, and the short ids that name them.
//!
//! Controllers sign with Ed25519. Publishers of models may sign with ECDSA on P-256 or P-384 as well, because that is
//! what the tools of others make; such keys only verify. Files are PEM: PKCS#8 for private keys, SPKI for public ones,
//! as `openssl genpkey` and `openssl pkey -pubout` write them.

use std::fmt;
use std::str::FromStr;

use ed25519_dalek::pkcs8::spki::der::pem::LineEnding;
use ed25519_dalek::pkcs8::spki::{ObjectIdentifier, SubjectPublicKeyInfoRef};
use ed25519_dalek::pkcs8::{DecodePrivateKey as _, EncodePrivateKey as _, EncodePublicKey as _, KeypairBytes};
use ed25519_dalek::{Signature, Signer as _, SigningKey, VerifyingKey};
use ring::signature::{ECDSA_P256_SHA256_ASN1, ECDSA_P384_SHA384_ASN1, UnparsedPublicKey};
use sha2::Digest as _;

use crate::fault::{Code, Fault};

/// Largest key file, in bytes.
pub const KEY_FILE_BYTES_MAX: usize = 4096;
/// Bytes of randomness that a private key is made of.
pub const SEED_BYTES: usize = 32;

const ED25519: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.101.112");
const EC: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.10045.2.1");
const P256: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.10045.3.1.7");
const P384: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.132.0.34");

/// What a key may sign.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Role {
    /// Orders to nodes: jobs, and what is done with them.
    Controller,
    /// Models.
    Publisher,
}

impl Role {
    /// Every role.
    pub const ALL: [Self; 2] = [Self::Controller, Self::Publisher];

    /// Its name in key rings and on the command line.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Controller => "controller",
            Self::Publisher => "publisher",
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Role {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let found = Self::ALL.into_iter().find(|role| role.as_str() == text);
        found.ok_or_else(|| format!("{:?} is not a role; use controller or publisher", shown(text)))
    }
}

/// How a key signs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Algorithm {
    /// Ed25519, RFC 8032.
    Ed25519,
    /// ECDSA on P-256 with SHA-256.
    EcdsaP256,
    /// ECDSA on P-384 with SHA-384.
    EcdsaP384,
}

impl Algorithm {
    /// Its name.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Ed25519 => "ed25519",
            Self::EcdsaP256 => "ecdsa-p256",
            Self::EcdsaP384 => "ecdsa-p384",
        }
    }
}

/// Names a key: the first eight bytes of the SHA-256 of its SPKI, as 16 hexadecimal digits.
///
/// A hint for people and for look-up. What decides is the key itself.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KeyId([u8; 8]);

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "KeyId({self})")
    }
}

impl FromStr for KeyId {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let legal = text.len() == 16 && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
        let number = if legal { u64::from_str_radix(text, 16).ok() } else { None };
        let number = number.ok_or_else(|| format!("{:?} is not a key id; it is 16 digits of 0-9 a-f", shown(text)))?;
        Ok(Self(number.to_be_bytes()))
    }
}

// ---- public keys ----

/// A key that verifies.
#[derive(Clone, PartialEq, Eq)]
pub struct PublicKey {
    point: Point,
    spki: Vec<u8>,
}

#[derive(Clone, PartialEq, Eq)]
enum Point {
    Ed25519(VerifyingKey),
    /// Uncompressed points.
    EcdsaP256(Vec<u8>),
    EcdsaP384(Vec<u8>),
}

impl PublicKey {
    /// Reads a PEM file with one `PUBLIC KEY`.
    ///
    /// # Errors
    /// `trust.key` when it is not one, of another algorithm, or so weak that anybody could sign for it.
    pub fn from_pem(text: &str) -> Result<Self, Fault> {
        if text.len() > KEY_FILE_BYTES_MAX {
            return Err(bad(format!("a key file of {} bytes is above {KEY_FILE_BYTES_MAX}", text.len())));
        }
        let document = ed25519_dalek::pkcs8::spki::der::Document::from_pem(armour(text));
        let (label, document) = document.map_err(|error| {
            bad(format!("not a PEM file with one PUBLIC KEY ({error}); neap key show --public writes one"))
        })?;
        match label {
            "PUBLIC KEY" => Self::from_spki(document.as_bytes()),
            other => Err(bad(format!("the file holds a {:?}, not a PUBLIC KEY", shown(other)))),
        }
    }

    /// Reads a DER-encoded SubjectPublicKeyInfo.
    ///
    /// # Errors
    /// As [`PublicKey::from_pem`].
    pub fn from_spki(der: &[u8]) -> Result<Self, Fault> {
        let spki = SubjectPublicKeyInfoRef::try_from(der);
        let spki = spki.map_err(|error| bad(format!("not a public key in SPKI form: {error}")))?;
        let bits =
            spki.subject_public_key.as_bytes().ok_or_else(|| bad("the public key has half a byte".to_owned()))?;
        let point = match spki.algorithm.oid {
            ED25519 if spki.algorithm.parameters.is_none() => {
                let bytes =
                    bits.try_into().map_err(|_| bad(format!("an Ed25519 key of {} bytes, not 32", bits.len())))?;
                Point::Ed25519(verifying(bytes)?)
            }
            EC => match spki.algorithm.parameters_oid() {
                Ok(P256) => Point::EcdsaP256(uncompressed(bits, 65)?),
                Ok(P384) => Point::EcdsaP384(uncompressed(bits, 97)?),
                Ok(other) => {
                    return Err(bad(format!("the elliptic curve {other} is not served; use Ed25519, P-256 or P-384")));
                }
                Err(_) => return Err(bad("an elliptic curve without a name; use Ed25519, P-256 or P-384".to_owned())),
            },
            other => return Err(bad(format!("the key algorithm {other} is not served; use Ed25519, P-256 or P-384"))),
        };
        Ok(Self { point, spki: der.to_vec() })
    }

    fn of(key: VerifyingKey) -> Self {
        let spki = key.to_public_key_der().expect("32 bytes of a key always fit SPKI").into_vec();
        Self { point: Point::Ed25519(key), spki }
    }

    /// The PEM file of it.
    pub fn to_pem(&self) -> String {
        use base64::Engine as _;
        let text = base64::engine::general_purpose::STANDARD.encode(&self.spki);
        let mut pem = String::from("-----BEGIN PUBLIC KEY-----\n");
        for line in text.as_bytes().chunks(64) {
            pem.push_str(&String::from_utf8_lossy(line));
            pem.push('\n');
        }
        pem.push_str("-----END PUBLIC KEY-----\n");
        pem
    }

    /// DER-encoded SubjectPublicKeyInfo.
    pub fn spki(&self) -> &[u8] {
        &self.spki
    }

    /// How it signs.
    pub const fn algorithm(&self) -> Algorithm {
        match self.point {
            Point::Ed25519(_) => Algorithm::Ed25519,
            Point::EcdsaP256(_) => Algorithm::EcdsaP256,
            Point::EcdsaP384(_) => Algorithm::EcdsaP384,
        }
    }

    /// Its name.
    pub fn id(&self) -> KeyId {
        let digest: [u8; 32] = sha2::Sha256::digest(&self.spki).into();
        let mut id = [0; 8];
        id.copy_from_slice(&digest[..8]);
        KeyId(id)
    }

    /// Whether `signature` is this key's over exactly these bytes.
    ///
    /// Ed25519 by `verify_strict`: no second signature can be made of a valid one. ECDSA signatures are ASN.1.
    ///
    /// # Errors
    /// `trust.weak_signature` for one of the wrong length or form, `trust.bad_signature` for any other that is not.
    pub fn verify(&self, message: &[u8], signature: &[u8]) -> Result<(), Fault> {
        let not_ours = || {
            let text = format!(
                "the signature is not that of key {} over these bytes: they were changed on the way, or signed with \
                 another key; sign them again",
                self.id()
            );
            Fault::new(Code::TrustBadSignature, text)
        };
        match &self.point {
            Point::Ed25519(key) => {
                let signature = strict(signature)?;
                key.verify_strict(message, &signature).map_err(|_| not_ours())
            }
            Point::EcdsaP256(point) => {
                let key = UnparsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, point);
                key.verify(message, signature).map_err(|_| not_ours())
            }
            Point::EcdsaP384(point) => {
                let key = UnparsedPublicKey::new(&ECDSA_P384_SHA384_ASN1, point);
                key.verify(message, signature).map_err(|_| not_ours())
            }
        }
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PublicKey({} {})", self.algorithm().as_str(), self.id())
    }
}

fn verifying(bytes: &[u8; 32]) -> Result<VerifyingKey, Fault> {
    let key = VerifyingKey::from_bytes(bytes);
    let key = key.map_err(|_| bad("32 bytes that are no point of the Ed25519 curve".to_owned()))?;
    // For a point of small order one signature fits many messages.
    if key.is_weak() {
        return Err(bad("an Ed25519 key of small order: anybody could sign for it; make a new one".to_owned()));
    }
    Ok(key)
}

fn uncompressed(bits: &[u8], length: usize) -> Result<Vec<u8>, Fault> {
    if bits.len() != length || bits.first() != Some(&4) {
        return Err(bad(format!("an elliptic curve point of {} bytes, not {length} uncompressed", bits.len())));
    }
    Ok(bits.to_vec())
}

/// A signature in its one canonical form: 64 bytes, the second half below the order of the group, the first half not
/// a point of small order.
fn strict(bytes: &[u8]) -> Result<Signature, Fault> {
    let weak = |why: String| Fault::new(Code::TrustWeakSignature, format!("{why}; sign again with neap sign"));
    let signature: [u8; 64] =
        bytes.try_into().map_err(|_| weak(format!("an Ed25519 signature of {} bytes, not 64", bytes.len())))?;
    let (point, scalar) = signature.split_at(32);
    if !below_order(scalar) {
        return Err(weak("an Ed25519 signature that is not in its canonical form".to_owned()));
    }
    let small = point.try_into().ok().and_then(|point| VerifyingKey::from_bytes(point).ok());
    if small.is_some_and(|point| point.is_weak()) {
        return Err(weak("an Ed25519 signature with a point of small order".to_owned()));
    }
    Ok(Signature::from_bytes(&signature))
}

/// Whether 32 bytes, the lowest first, are a number below the order of the group of Ed25519.
fn below_order(scalar: &[u8]) -> bool {
    const ORDER: [u8; 32] = [
        0xed, 0xd3, 0xf5, 0x5c, 0x1a, 0x63, 0x12, 0x58, 0xd6, 0x9c, 0xf7, 0xa2, 0xde, 0xf9, 0xde, 0x14, 0, 0, 0, 0, 0,
        0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x10,
    ];
    scalar.iter().rev().lt(ORDER.iter().rev())
}

// ---- private keys ----

/// A key that signs: Ed25519. Its bytes are wiped when it goes, and are in no debug output.
pub struct PrivateKey(SigningKey);

impl PrivateKey {
    /// The key of these random bytes. They must come from the system's source of randomness, and be used once.
    pub fn from_seed(seed: &[u8; SEED_BYTES]) -> Self {
        Self(SigningKey::from_bytes(seed))
    }

    /// Reads a PEM file with one `PRIVATE KEY` (PKCS#8, Ed25519, not encrypted).
    ///
    /// # Errors
    /// `trust.key` when it is not one. Nothing of the file is in the sentence.
    pub fn from_pem(text: &str) -> Result<Self, Fault> {
        if text.len() > KEY_FILE_BYTES_MAX {
            return Err(bad(format!("a key file of {} bytes is above {KEY_FILE_BYTES_MAX}", text.len())));
        }
        let key = SigningKey::from_pkcs8_pem(armour(text)).map_err(|_| {
            bad("not a PEM file with one Ed25519 PRIVATE KEY (PKCS#8, not encrypted); neap key new makes one"
                .to_owned())
        })?;
        Ok(Self(key))
    }

    /// The PEM file of it, in the form that every tool reads (without the public half).
    pub fn to_pem(&self) -> impl std::ops::Deref<Target = String> + use<> {
        let pair = KeypairBytes { secret_key: self.0.to_bytes(), public_key: None };
        pair.to_pkcs8_pem(LineEnding::LF).expect("32 bytes of a key always fit PKCS#8")
    }

    /// Its public half.
    pub fn public(&self) -> PublicKey {
        PublicKey::of(self.0.verifying_key())
    }

    /// Signs bytes.
    pub fn sign(&self, message: &[u8]) -> [u8; 64] {
        self.0.sign(message).to_bytes()
    }
}

impl fmt::Debug for PrivateKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PrivateKey(of {})", self.public().id())
    }
}

/// Whose key it is and what for, as the lines above a PEM file's first dashes say: `owner: ctl-a`, `role: controller`.
/// Nothing vouches for them; they spare people from saying it again.
pub fn label<'t>(text: &'t str, name: &str) -> Option<&'t str> {
    let head = text.split("-----BEGIN").next()?;
    head.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": ")).map(str::trim)
}

/// The PEM part of a file: text before it is for people.
fn armour(text: &str) -> &str {
    text.find("-----BEGIN").map_or(text, |at| &text[at..]).trim()
}

fn bad(why: String) -> Fault {
    Fault::new(Code::TrustKey, why)
}

fn shown(text: &str) -> String {
    text.chars().take(40).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(seed: u8) -> PrivateKey {
        PrivateKey::from_seed(&[seed; SEED_BYTES])
    }

    #[test]
    fn keys_survive_their_files() {
        let private = key(7);
        let read = PrivateKey::from_pem(&private.to_pem()).unwrap();
        assert_eq!(read.public(), private.public());
        let public = private.public();
        assert_eq!(PublicKey::from_pem(&public.to_pem()).unwrap(), public);
        assert_eq!(public.id().to_string().parse(), Ok(public.id()));
        assert_ne!(public.id(), key(8).public().id());
    }

    #[test]
    fn a_signature_holds_for_its_bytes_and_its_key_only() {
        let (private, public) = (key(1), key(1).public());
        let signature = private.sign(b"run it");
        assert_eq!(public.verify(b"run it", &signature), Ok(()));
        assert_eq!(public.verify(b"run it!", &signature).unwrap_err().code, Code::TrustBadSignature);
        assert_eq!(key(2).public().verify(b"run it", &signature).unwrap_err().code, Code::TrustBadSignature);
        for at in 0..64 {
            let mut changed = signature;
            changed[at] ^= 1;
            assert!(public.verify(b"run it", &changed).is_err(), "byte {at}");
        }
    }

    #[test]
    fn a_signature_has_one_form() {
        let public = key(1).public();
        let signature = key(1).sign(b"x");
        assert_eq!(public.verify(b"x", &signature[..63]).unwrap_err().code, Code::TrustWeakSignature);
        // The same number plus the order of the group: valid for a verifier that does not look.
        let order = [
            0xed_u8, 0xd3, 0xf5, 0x5c, 0x1a, 0x63, 0x12, 0x58, 0xd6, 0x9c, 0xf7, 0xa2, 0xde, 0xf9, 0xde, 0x14, 0, 0, 0,
            0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x10,
        ];
        let mut second = signature;
        let mut carry = 0u16;
        for (byte, add) in second[32..].iter_mut().zip(order) {
            let sum = u16::from(*byte) + u16::from(add) + carry;
            (*byte, carry) = (sum.to_le_bytes()[0], sum >> 8);
        }
        assert_eq!(public.verify(b"x", &second).unwrap_err().code, Code::TrustWeakSignature);
        let mut small = signature;
        small[..32].copy_from_slice(&[0; 32]);
        small[0] = 1;
        assert_eq!(public.verify(b"x", &small).unwrap_err().code, Code::TrustWeakSignature);
    }

    #[test]
    fn a_label_above_a_key_is_for_people() {
        let text = format!("owner: ctl-a\nrole: controller\n{}", key(1).public().to_pem());
        assert_eq!(
            (label(&text, "owner"), label(&text, "role"), label(&text, "x")),
            (Some("ctl-a"), Some("controller"), None)
        );
        assert_eq!(PublicKey::from_pem(&text).unwrap(), key(1).public());
        let text = format!("owner: ctl-a\n{}", *key(1).to_pem());
        assert_eq!(PrivateKey::from_pem(&text).unwrap().public(), key(1).public());
    }

    #[test]
    fn a_weak_key_is_none() {
        let mut spki = key(1).public().spki().to_vec();
        let at = spki.len() - 32;
        spki[at..].fill(0);
        spki[at] = 1;
        assert!(PublicKey::from_spki(&spki).unwrap_err().message.contains("small order"));
    }

    #[test]
    fn keys_of_the_elliptic_curves_verify() {
        use ring::signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, KeyPair as _};
        let random = ring::rand::SystemRandom::new();
        let made = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, &random).unwrap();
        let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, made.as_ref(), &random).unwrap();
        let head = [
            0x30, 0x59, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a, 0x86, 0x48,
            0xce, 0x3d, 0x03, 0x01, 0x07, 0x03, 0x42, 0x00,
        ];
        let spki = [&head, pair.public_key().as_ref()].concat();
        let public = PublicKey::from_spki(&spki).unwrap();
        assert_eq!(public.algorithm(), Algorithm::EcdsaP256);
        let signature = pair.sign(&random, b"model").unwrap();
        assert_eq!(public.verify(b"model", signature.as_ref()), Ok(()));
        assert_eq!(public.verify(b"Model", signature.as_ref()).unwrap_err().code, Code::TrustBadSignature);
        assert_eq!(PublicKey::from_pem(&public.to_pem()).unwrap(), public);
    }

    #[test]
    fn a_private_key_never_shows() {
        let private = key(0x5a);
        let shown = format!("{private:?}");
        assert!(!shown.to_lowercase().contains("5a5a"), "{shown}");
        let text = "-----BEGIN PRIVATE KEY-----\nc2VjcmV0\n-----END PRIVATE KEY-----\n";
        let fault = PrivateKey::from_pem(text).unwrap_err();
        assert!(!fault.message.contains("c2Vj"), "{fault}");
    }

    #[test]
    fn what_is_no_key_is_refused_with_the_remedy() {
        for bad in ["", "x", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", &"x".repeat(5000)] {
            assert_eq!(PublicKey::from_pem(bad).unwrap_err().code, Code::TrustKey);
            assert_eq!(PrivateKey::from_pem(bad).unwrap_err().code, Code::TrustKey);
        }
        assert!(PublicKey::from_pem(&key(1).to_pem()).unwrap_err().message.contains("PRIVATE KEY"));
        assert!("0123".parse::<KeyId>().is_err() && "0123456789ABCDEF".parse::<KeyId>().is_err());
    }
}
