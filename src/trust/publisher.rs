//! How does a publisher sign? With ECDSA on P-256 or P-384, as the `model-signing` tool does, which has no Ed25519.
//!
//! A bundle names its key by a *hint*: the SHA-256 of the public key's PEM text.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ring::rand::SecureRandom;
use ring::signature::{ECDSA_P256_SHA256_ASN1_SIGNING, ECDSA_P384_SHA384_ASN1_SIGNING, EcdsaKeyPair, KeyPair as _};
use sha2::{Digest as _, Sha256};

use super::key::{KEY_FILE_BYTES_MAX, PublicKey, Role};
use super::keyring::KeyRing;
use super::scope;
use crate::fault::{Code, Fault};
use crate::units::{Digest, Name, WallTime};

/// What stands before the point in a SubjectPublicKeyInfo: that it is an elliptic curve, and which.
const P256_HEAD: [u8; 26] = [
    0x30, 0x59, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a, 0x86, 0x48, 0xce,
    0x3d, 0x03, 0x01, 0x07, 0x03, 0x42, 0x00,
];
const P384_HEAD: [u8; 23] = [
    0x30, 0x76, 0x30, 0x10, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x05, 0x2b, 0x81, 0x04, 0x00,
    0x22, 0x03, 0x62, 0x00,
];
const LABEL: &str = "PRIVATE KEY";
/// PEM breaks its lines here.
const PEM_COLUMNS: usize = 64;

/// By which bundles name a key.
pub fn hint(key: &PublicKey) -> Digest {
    Digest(Sha256::digest(key.to_pem()).into())
}

/// A publisher as the operator knows him.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Publisher {
    /// What the operator calls him, or the id of his key.
    pub name: String,
    /// His key.
    pub key: PublicKey,
    /// Patterns of the models' names that it counts for.
    pub models: Vec<String>,
}

impl Publisher {
    /// Whether his word counts for that model.
    ///
    /// # Errors
    /// `model.key_scope`.
    pub fn check_model(&self, model: &Name) -> Result<(), Fault> {
        if self.models.iter().any(|pattern| scope::covers(pattern, model.as_str())) {
            return Ok(());
        }
        let (name, models) = (&self.name, self.models.join(", "));
        let text = format!("the key of {name} counts for {models}, not for model {model}: have its publisher sign it");
        Err(Fault::new(Code::ModelKeyScope, text))
    }
}

/// Who is known to publish models.
pub trait Publishers {
    /// The publisher whose key a bundle names.
    ///
    /// # Errors
    /// `model.unknown_key`, `model.key_revoked`, or `model.key_expired`.
    fn publisher(&self, hint: &Digest, now: WallTime) -> Result<Publisher, Fault>;
}

impl Publishers for KeyRing {
    fn publisher(&self, wanted: &Digest, now: WallTime) -> Result<Publisher, Fault> {
        let publishers = || self.keys().filter(|(_, entry)| entry.role == Role::Publisher);
        let Some((id, entry)) = publishers().find(|(_, entry)| hint(&entry.key) == *wanted) else {
            let known: Vec<String> = publishers().map(|(id, entry)| format!("{} {id}", entry.owner)).take(8).collect();
            let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
            let text = format!(
                "signed with the key of hint {wanted}, which is no publisher's on this node (known: {known}): add his \
                 public key to the key ring if you trust him"
            );
            return Err(Fault::new(Code::ModelUnknownKey, text));
        };
        let entry = self.counting(&id.to_string(), Role::Publisher, Some(now)).map(|_| entry).map_err(|fault| {
            let code = if fault.code == Code::TrustKeyRevoked {
                Code::ModelKeyRevoked
            } else if matches!(fault.code, Code::TrustKeyExpired | Code::TrustKeyNotYetValid) {
                Code::ModelKeyExpired
            } else {
                Code::ModelUnknownKey
            };
            Fault::new(code, format!("key {id} of {}: {}", entry.owner, fault.message))
        })?;
        Ok(Publisher { name: entry.owner.to_string(), key: entry.key.clone(), models: entry.models.clone() })
    }
}

/// The private key of a publisher. Shows nothing of itself.
pub struct SigningKey {
    pair: EcdsaKeyPair,
    public: PublicKey,
}

impl SigningKey {
    /// Reads a `PRIVATE KEY` block (PKCS #8, not encrypted).
    ///
    /// # Errors
    /// `trust.key` when there is none, or another kind of key in it. Nothing of the file is in the sentence.
    pub fn from_pem(text: &str, random: &dyn SecureRandom) -> Result<Self, Fault> {
        if text.len() > KEY_FILE_BYTES_MAX {
            return Err(bad(format!("a key file of {} bytes is above {KEY_FILE_BYTES_MAX}", text.len())));
        }
        let inside = || {
            let (_, after) = text.split_once(&format!("-----BEGIN {LABEL}-----"))?;
            let (body, _) = after.split_once(&format!("-----END {LABEL}-----"))?;
            let packed: String = body.split_ascii_whitespace().collect();
            STANDARD.decode(packed).ok()
        };
        let der = inside().ok_or_else(|| {
            bad("not a PEM file with one PRIVATE KEY (PKCS #8, not encrypted); to convert one: openssl pkcs8 -topk8 -nocrypt -in KEY")
        })?;
        Self::from_pkcs8(&der, random)
    }

    fn from_pkcs8(der: &[u8], random: &dyn SecureRandom) -> Result<Self, Fault> {
        let curves: [(_, &[u8]); 2] =
            [(&ECDSA_P256_SHA256_ASN1_SIGNING, &P256_HEAD), (&ECDSA_P384_SHA384_ASN1_SIGNING, &P384_HEAD)];
        let pair = |(algorithm, head)| Some((EcdsaKeyPair::from_pkcs8(algorithm, der, random).ok()?, head));
        let (pair, head) = curves.into_iter().find_map(pair).ok_or_else(|| {
            bad("not an ECDSA key on P-256 or P-384, the ones that sign models; neap key new --role publisher makes one")
        })?;
        let public = PublicKey::from_spki(&[head, pair.public_key().as_ref()].concat())?;
        Ok(Self { pair, public })
    }

    /// A new key on P-256, and its PEM file, which is to be kept secret.
    ///
    /// # Errors
    /// `trust.key` when the system gives no random numbers.
    pub fn generate(random: &dyn SecureRandom) -> Result<(Self, String), Fault> {
        let der = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, random).map_err(|_| no_random())?;
        Ok((Self::from_pkcs8(der.as_ref(), random)?, pem(der.as_ref())))
    }

    /// The public half.
    pub fn public(&self) -> &PublicKey {
        &self.public
    }

    /// Signs a message; the signature is ASN.1.
    ///
    /// # Errors
    /// `trust.key` when the system gives no random numbers.
    pub fn sign(&self, message: &[u8], random: &dyn SecureRandom) -> Result<Vec<u8>, Fault> {
        let signature = self.pair.sign(random, message).map_err(|_| no_random())?;
        Ok(signature.as_ref().to_vec())
    }
}

impl std::fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "SigningKey(of {})", self.public.id())
    }
}

fn no_random() -> Fault {
    bad("the system gives no random numbers: try again later")
}

fn bad(why: impl AsRef<str>) -> Fault {
    Fault::new(Code::TrustKey, why)
}

fn pem(der: &[u8]) -> String {
    let packed = STANDARD.encode(der);
    let mut text = format!("-----BEGIN {LABEL}-----\n");
    let mut rest = packed.as_str();
    while !rest.is_empty() {
        let (line, after) = rest.split_at(rest.len().min(PEM_COLUMNS));
        text.push_str(line);
        text.push('\n');
        rest = after;
    }
    text.push_str(&format!("-----END {LABEL}-----\n"));
    text
}

#[cfg(test)]
mod tests {
    use ring::rand::SystemRandom;

    use super::*;

    #[test]
    fn a_new_key_signs_what_its_public_half_verifies_and_nothing_else() {
        let random = SystemRandom::new();
        let (key, pem) = SigningKey::generate(&random).unwrap();
        let signature = key.sign(b"message", &random).unwrap();
        let again = SigningKey::from_pem(&pem, &random).unwrap();
        assert_eq!(again.public(), key.public());
        assert_eq!(key.public().verify(b"message", &signature), Ok(()));
        assert!(key.public().verify(b"massage", &signature).is_err());
        let (other, _) = SigningKey::generate(&random).unwrap();
        assert!(other.public().verify(b"message", &signature).is_err());
        assert_ne!(hint(other.public()), hint(key.public()));
    }

    #[test]
    fn what_is_no_key_for_models_is_refused_with_the_remedy() {
        let random = SystemRandom::new();
        let sec1 = "-----BEGIN EC PRIVATE KEY-----\nc2VjcmV0\n-----END EC PRIVATE KEY-----\n";
        let said = SigningKey::from_pem(sec1, &random).unwrap_err();
        assert!(said.message.contains("openssl pkcs8 -topk8") && !said.message.contains("c2Vj"), "{said}");
        let ed25519 = "-----BEGIN PRIVATE KEY-----\nMC4CAQAwBQYDK2VwBCIEIJ1hsZ3v/VpguoRK9JLsLMREScVpezJpGXA7rAMcrn9g\n-----END PRIVATE KEY-----\n";
        let said = SigningKey::from_pem(ed25519, &random).unwrap_err();
        assert!(said.message.contains("P-256"), "{said}");
        assert!(SigningKey::from_pem(&"x".repeat(9000), &random).is_err());
    }
}
