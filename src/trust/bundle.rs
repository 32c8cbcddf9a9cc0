//! Which files did a publisher sign? The bundle that the OpenSSF tool `model-signing` writes beside a model.
//!
//! ```text
//! Sigstore bundle 0.3 (JSON)
//! ├── verificationMaterial.publicKey.hint     SHA-256 of the key's PEM text, in hexadecimal
//! └── dsseEnvelope                            payload (base64), its type, one signature over both
//!     └── in-toto statement 1 (JSON)          predicate https://model_signing/signature/v1.0
//!         ├── subject[0].digest.sha256        SHA-256 of all files' digests, one behind the other
//!         └── predicate.resources[]           name, algorithm and digest of every file
//! ```
//!
//! What the tool can do besides is refused, not ignored: certificates and Sigstore identities, shards, BLAKE3, links.
//! Nothing but the envelope is believed before its signature is verified.

use std::collections::BTreeMap;
use std::path::{Component, Path};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use super::dsse;
use super::key::PublicKey;
use super::publisher::hint;
use crate::fault::{Code, Fault};
use crate::units::Digest;

#[cfg(test)]
mod tests;

/// Largest bundle, in bytes.
pub const BUNDLE_BYTES_MAX: usize = 1024 * 1024;
/// Most files of one model.
pub const RESOURCES_MAX: usize = 2_000;
/// Longest path of a file in a model, in bytes.
pub const PATH_BYTES_MAX: usize = 200;
/// Most folders above a file of a model.
pub const DEPTH_MAX: usize = 8;
/// What the tool leaves out of every signature, beside the signature itself: what belongs to git.
pub const IGNORED: [&str; 4] = [".git", ".gitattributes", ".github", ".gitignore"];

const MEDIA_TYPE: &str = "application/vnd.dev.sigstore.bundle.v0.3+json";
const PAYLOAD_TYPE: &str = "application/vnd.in-toto+json";
const STATEMENT_TYPE: &str = "https://in-toto.io/Statement/v1";
const PREDICATE_TYPE: &str = "https://model_signing/signature/v1.0";
const METHOD: &str = "files";
const ALGORITHM: &str = "sha256";

/// A bundle as it was read: nothing in it is to be believed yet but the name of the key to ask.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bundle {
    hint: Digest,
    payload: Vec<u8>,
    signature: Vec<u8>,
}

/// What a publisher signed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Statement {
    /// Name of the folder that was signed.
    pub name: String,
    /// Digest of every file, by its path below the folder.
    pub files: BTreeMap<String, Digest>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawBundle {
    media_type: String,
    verification_material: RawMaterial,
    dsse_envelope: Option<RawEnvelope>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawMaterial {
    public_key: Option<RawKey>,
}

#[derive(Deserialize)]
struct RawKey {
    hint: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawEnvelope {
    payload: String,
    payload_type: String,
    signatures: Vec<RawSignature>,
}

#[derive(Deserialize)]
struct RawSignature {
    sig: String,
}

#[derive(Deserialize)]
struct RawStatement {
    #[serde(rename = "_type")]
    type_: String,
    subject: Vec<RawSubject>,
    #[serde(rename = "predicateType")]
    predicate_type: String,
    predicate: Value,
}

#[derive(Deserialize)]
struct RawSubject {
    name: String,
    digest: RawDigests,
}

#[derive(Deserialize)]
struct RawDigests {
    sha256: String,
}

#[derive(Deserialize)]
struct RawPredicate {
    serialization: RawSerialization,
    resources: Vec<RawResource>,
}

#[derive(Deserialize)]
struct RawSerialization {
    method: String,
    hash_type: String,
    #[serde(default)]
    allow_symlinks: bool,
}

#[derive(Deserialize, Serialize)]
struct RawResource {
    algorithm: String,
    digest: String,
    name: String,
}

fn bad(text: impl AsRef<str>) -> Fault {
    Fault::new(Code::ModelBadSignature, format!("signature file: {}: sign the model again", text.as_ref()))
}

/// The beginning of a foreign text, quoted.
fn quote(text: &str) -> String {
    format!("{:?}", text.chars().take(80).collect::<String>())
}

impl Bundle {
    /// Reads a bundle. Believes nothing of it.
    ///
    /// # Errors
    /// `model.bad_signature`, with what is wrong: too large, not a bundle, or one of a kind that names no key.
    pub fn parse(bytes: &[u8]) -> Result<Self, Fault> {
        if bytes.len() > BUNDLE_BYTES_MAX {
            return Err(bad(format!("{} bytes are too many, at most {BUNDLE_BYTES_MAX} are read", bytes.len())));
        }
        let raw: RawBundle =
            serde_json::from_slice(bytes).map_err(|error| bad(format!("is no Sigstore bundle ({error})")))?;
        if raw.media_type != MEDIA_TYPE {
            return Err(bad(format!("is a {}, not a {MEDIA_TYPE}", quote(&raw.media_type))));
        }
        let key = raw.verification_material.public_key.ok_or_else(|| {
            bad("was made with a certificate or a Sigstore identity, Neap asks for a key (model_signing sign key)")
        })?;
        let hint = key.hint.ok_or_else(|| bad("does not name its key, as model-signing 1.1 and newer do"))?;
        let hint = hex(&hint).ok_or_else(|| bad(format!("names its key {}, not by a SHA-256", quote(&hint))))?;
        let envelope = raw.dsse_envelope.ok_or_else(|| bad("holds no DSSE envelope"))?;
        if envelope.payload_type != PAYLOAD_TYPE {
            return Err(bad(format!("its payload is {}, not {PAYLOAD_TYPE}", quote(&envelope.payload_type))));
        }
        let [signature] = &envelope.signatures[..] else {
            return Err(bad(format!("has {} signatures, 1 is allowed", envelope.signatures.len())));
        };
        let decode = |what: &str, text: &str| {
            STANDARD.decode(text).map_err(|error| bad(format!("its {what} is not base64 ({error})")))
        };
        Ok(Self {
            hint,
            payload: decode("payload", &envelope.payload)?,
            signature: decode("signature", &signature.sig)?,
        })
    }

    /// Which key it names.
    pub fn hint(&self) -> &Digest {
        &self.hint
    }

    /// What it says was signed. Nobody vouches for it: it tells what might be fetched, nothing else.
    ///
    /// # Errors
    /// `model.bad_signature`: of a form that is not accepted.
    pub fn claims(&self) -> Result<Statement, Fault> {
        Statement::parse(&self.payload)
    }

    /// What was signed, if it was signed with that key.
    ///
    /// # Errors
    /// `model.bad_signature`: by another key, changed since, or of a form that is not accepted.
    pub fn verify(&self, key: &PublicKey) -> Result<Statement, Fault> {
        key.verify(&pae(&self.payload), &self.signature)
            .map_err(|_| bad("does not verify with the key that it names: it was changed, or made with another key"))?;
        Statement::parse(&self.payload)
    }
}

impl Statement {
    /// What is to be signed for these files. The paths must be such as [`Self::parse`] accepts.
    pub fn render(&self) -> Vec<u8> {
        let resource = |(name, digest): (&String, &Digest)| RawResource {
            algorithm: ALGORITHM.to_owned(),
            digest: bare(digest),
            name: name.clone(),
        };
        let resources: Vec<RawResource> = self.files.iter().map(resource).collect();
        let ignored: Vec<&str> = std::iter::once(SIGNATURE_FILE).chain(IGNORED).collect();
        let statement = json!({
            "_type": STATEMENT_TYPE,
            "subject": [{"name": self.name, "digest": {"sha256": bare(&root(self.files.values()))}}],
            "predicateType": PREDICATE_TYPE,
            "predicate": {
                "serialization": {
                    "method": METHOD, "hash_type": ALGORITHM, "allow_symlinks": false, "ignore_paths": ignored,
                },
                "resources": resources,
            },
        });
        statement.to_string().into_bytes()
    }

    fn parse(payload: &[u8]) -> Result<Self, Fault> {
        let raw: RawStatement =
            serde_json::from_slice(payload).map_err(|error| bad(format!("signs no in-toto statement ({error})")))?;
        if raw.type_ != STATEMENT_TYPE {
            return Err(bad(format!("signs a {}, not a {STATEMENT_TYPE}", quote(&raw.type_))));
        }
        if raw.predicate_type != PREDICATE_TYPE {
            return Err(bad(format!("states {}, not {PREDICATE_TYPE}", quote(&raw.predicate_type))));
        }
        let predicate: RawPredicate = serde_json::from_value(raw.predicate)
            .map_err(|error| bad(format!("its list of files cannot be read ({error})")))?;
        let RawSerialization { method, hash_type, allow_symlinks } = predicate.serialization;
        if method != METHOD || hash_type != ALGORITHM || allow_symlinks {
            let how = format!("{}, {}, links {allow_symlinks}", quote(&method), quote(&hash_type));
            return Err(bad(format!("lists {how}; whole files by {ALGORITHM} and without links are accepted")));
        }
        let [subject] = &raw.subject[..] else {
            return Err(bad(format!("has {} subjects, 1 is allowed", raw.subject.len())));
        };
        let count = predicate.resources.len();
        if !(1..=RESOURCES_MAX).contains(&count) {
            return Err(bad(format!("lists {count} files, 1 to {RESOURCES_MAX} are allowed")));
        }
        let mut files = BTreeMap::new();
        let mut hash = Sha256::new();
        for RawResource { algorithm, digest, name } in predicate.resources {
            check_path(&name)?;
            let digest = hex(&digest).filter(|_| algorithm == ALGORITHM).ok_or_else(|| {
                bad(format!("gives {} for {name:?} by {}, not a {ALGORITHM}", quote(&digest), quote(&algorithm)))
            })?;
            hash.update(digest.0);
            if files.insert(name.clone(), digest).is_some() {
                return Err(bad(format!("lists {name:?} twice")));
            }
        }
        if hex(&subject.digest.sha256) != Some(Digest(hash.finalize().into())) {
            return Err(bad("its digest over all files is not that of the files it lists"));
        }
        Ok(Self { name: subject.name.clone(), files })
    }
}

/// The name of the signature file in a model's folder, the tool's own.
pub const SIGNATURE_FILE: &str = "model.sig";

/// The bytes that a signature over a payload covers: DSSE's pre-authentication encoding.
pub fn pae(payload: &[u8]) -> Vec<u8> {
    dsse::pae(PAYLOAD_TYPE, payload)
}

/// A bundle's text for a payload and its signature.
pub fn render(key: &PublicKey, payload: &[u8], signature: &[u8]) -> String {
    let bundle = json!({
        "mediaType": MEDIA_TYPE,
        "verificationMaterial": {"publicKey": {"hint": bare(&hint(key))}, "tlogEntries": []},
        "dsseEnvelope": {
            "payload": STANDARD.encode(payload), "payloadType": PAYLOAD_TYPE,
            "signatures": [{"sig": STANDARD.encode(signature), "keyid": ""}],
        },
    });
    format!("{bundle}\n")
}

/// A path that can only lead into the folder of its model, and that a person can read.
///
/// # Errors
/// `model.bad_signature` with the rule.
pub fn check_path(path: &str) -> Result<(), Fault> {
    // A path with "." or "//" in it would name the same file by another text.
    let plain = path.split('/').all(|part| !matches!(part, "" | "." | ".."));
    let inside = Path::new(path).components().all(|part| matches!(part, Component::Normal(_)));
    let clean = !path.contains('\\') && !path.chars().any(char::is_control);
    let depth = path.split('/').count() - 1;
    if path.len() > PATH_BYTES_MAX || !plain || !inside || !clean || depth > DEPTH_MAX {
        return Err(bad(format!(
            "{} is no path of a file in a model: relative, without . or .. or \\ or control characters, at most \
             {PATH_BYTES_MAX} bytes and {DEPTH_MAX} folders",
            quote(path)
        )));
    }
    Ok(())
}

/// SHA-256 of digests, one behind the other.
fn root<'a>(digests: impl Iterator<Item = &'a Digest>) -> Digest {
    let mut hash = Sha256::new();
    digests.for_each(|digest| hash.update(digest.0));
    Digest(hash.finalize().into())
}

/// Sixty-four hexadecimal digits, without what stands before them elsewhere.
fn bare(digest: &Digest) -> String {
    digest.to_string().trim_start_matches("sha256:").to_owned()
}

fn hex(text: &str) -> Option<Digest> {
    format!("sha256:{text}").parse().ok()
}
