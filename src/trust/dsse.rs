//! What exactly was signed? Envelopes of DSSE (Dead Simple Signing Envelope, version 1).
//!
//! An envelope carries the payload byte for byte, so nobody has to agree on a canonical JSON. What is signed is
//! `PAE(type, payload)` = `DSSEv1 <length> <type> <length> <payload>`: a payload cannot be passed off as one of another
//! type. Nothing of the payload is looked at before a signature over it was verified.

use std::borrow::Cow;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE};
use serde::{Deserialize, Serialize};

use super::key::{PrivateKey, PublicKey};
use crate::fault::{Code, Fault};

/// Longest payload type, in bytes.
const PAYLOAD_TYPE_BYTES_MAX: usize = 128;
/// Longest key id that is told in a sentence, in characters.
const KEY_ID_CHARS_SHOWN: usize = 80;

/// What an envelope may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Largest envelope as text, in bytes.
    pub bytes: usize,
    /// Most signatures.
    pub signatures: usize,
}

/// One signature, not verified.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Signature {
    /// Hint at the key; may be empty, and nothing vouches for it.
    pub key_id: String,
    /// The signature's bytes.
    pub bytes: Vec<u8>,
}

impl Signature {
    /// The hint as it may be told.
    pub fn shown_key_id(&self) -> String {
        self.key_id.chars().take(KEY_ID_CHARS_SHOWN).collect()
    }
}

/// An envelope, not verified: nothing in it is to be believed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Envelope {
    payload_type: String,
    payload: Vec<u8>,
    signatures: Vec<Signature>,
}

#[derive(Serialize, Deserialize)]
struct EnvelopeWire<'a> {
    #[serde(rename = "payloadType", borrow)]
    payload_type: Cow<'a, str>,
    #[serde(borrow)]
    payload: Cow<'a, str>,
    #[serde(borrow)]
    signatures: Vec<SignatureWire<'a>>,
}

#[derive(Serialize, Deserialize)]
struct SignatureWire<'a> {
    #[serde(borrow, default)]
    keyid: Cow<'a, str>,
    #[serde(borrow)]
    sig: Cow<'a, str>,
}

impl Envelope {
    /// Reads an envelope. Fields that DSSE does not have are passed over, as it demands; they mean nothing.
    ///
    /// # Errors
    /// `trust.too_large`, `trust.envelope`, `trust.no_signature`, `trust.too_many_signatures`.
    pub fn parse(text: &[u8], limits: &Limits) -> Result<Self, Fault> {
        if text.len() > limits.bytes {
            let text = format!("an envelope of {} bytes is above {}: sign less at once", text.len(), limits.bytes);
            return Err(Fault::new(Code::TrustTooLarge, text));
        }
        let bad = |why: String| Fault::new(Code::TrustEnvelope, format!("not a DSSE envelope: {why}"));
        if text.first() != Some(&b'{') {
            return Err(bad("it does not begin with {; send the JSON that neap sign writes".to_owned()));
        }
        let wire: EnvelopeWire<'_> = serde_json::from_slice(text).map_err(|error| bad(error.to_string()))?;
        if wire.payload_type.is_empty() || wire.payload_type.len() > PAYLOAD_TYPE_BYTES_MAX {
            let bytes = wire.payload_type.len();
            return Err(bad(format!("payloadType of {bytes} bytes, 1 to {PAYLOAD_TYPE_BYTES_MAX} are allowed")));
        }
        match wire.signatures.len() {
            0 => {
                return Err(Fault::new(
                    Code::TrustNoSignature,
                    "the envelope has no signature; sign it with neap sign",
                ));
            }
            given if given > limits.signatures => {
                let text = format!("the envelope has {given} signatures, at most {} are looked at", limits.signatures);
                return Err(Fault::new(Code::TrustTooManySignatures, text));
            }
            _ => {}
        }
        let payload = decode(&wire.payload).map_err(|error| bad(format!("payload: {error}")))?;
        let signature = |(at, signature): (usize, &SignatureWire<'_>)| {
            let bytes = decode(&signature.sig).map_err(|error| bad(format!("signatures[{at}].sig: {error}")))?;
            Ok(Signature { key_id: signature.keyid.clone().into_owned(), bytes })
        };
        let signatures = wire.signatures.iter().enumerate().map(signature).collect::<Result<_, Fault>>()?;
        Ok(Self { payload_type: wire.payload_type.into_owned(), payload, signatures })
    }

    /// Signs a payload.
    pub fn sign(payload_type: &str, payload: Vec<u8>, key: &PrivateKey) -> Self {
        let bytes = key.sign(&pae(payload_type, &payload)).to_vec();
        let signature = Signature { key_id: key.public().id().to_string(), bytes };
        Self { payload_type: payload_type.to_owned(), payload, signatures: vec![signature] }
    }

    /// The envelope as text: one line of JSON.
    pub fn render(&self) -> String {
        let signature = |signature: &Signature| SignatureWire {
            keyid: Cow::Owned(signature.key_id.clone()),
            sig: Cow::Owned(STANDARD.encode(&signature.bytes)),
        };
        let wire = EnvelopeWire {
            payload_type: Cow::Borrowed(&self.payload_type),
            payload: Cow::Owned(STANDARD.encode(&self.payload)),
            signatures: self.signatures.iter().map(signature).collect(),
        };
        serde_json::to_string(&wire).expect("strings and lists of strings are always JSON")
    }

    /// What kind of payload it says it is.
    pub fn payload_type(&self) -> &str {
        &self.payload_type
    }

    /// The signatures it brings, at least one.
    pub fn signatures(&self) -> &[Signature] {
        &self.signatures
    }

    /// The payload, which nobody vouches for: only to find out whose signature to look for.
    pub(super) fn unverified_payload(&self) -> &[u8] {
        &self.payload
    }

    /// The payload, once this key's signature over it and its type was verified.
    ///
    /// # Errors
    /// `trust.bad_signature`, `trust.weak_signature`.
    pub fn open(&self, signature: &Signature, key: &PublicKey) -> Result<&[u8], Fault> {
        key.verify(&pae(&self.payload_type, &self.payload), &signature.bytes)?;
        Ok(&self.payload)
    }
}

/// The bytes that are signed: pre-authentication encoding.
pub fn pae(payload_type: &str, payload: &[u8]) -> Vec<u8> {
    let head = format!("DSSEv1 {} {payload_type} {} ", payload_type.len(), payload.len());
    [head.as_bytes(), payload].concat()
}

/// Base64 in either alphabet, padded: DSSE allows both.
fn decode(text: &str) -> Result<Vec<u8>, String> {
    let engine = if text.contains(['-', '_']) { URL_SAFE } else { STANDARD };
    engine.decode(text).map_err(|error| format!("not base64: {error}"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::trust::key::SEED_BYTES;

    const LIMITS: Limits = Limits { bytes: 8192, signatures: 2 };

    fn key() -> PrivateKey {
        PrivateKey::from_seed(&[3; SEED_BYTES])
    }

    fn opened(text: &str) -> Result<Vec<u8>, Fault> {
        let envelope = Envelope::parse(text.as_bytes(), &LIMITS)?;
        envelope.open(&envelope.signatures()[0], &key().public()).map(<[u8]>::to_vec)
    }

    #[test]
    fn the_encoding_is_that_of_the_standard() {
        assert_eq!(
            pae("http://example.com/HelloWorld", b"hello world"),
            b"DSSEv1 29 http://example.com/HelloWorld 11 hello world"
        );
    }

    #[test]
    fn a_signed_payload_survives() {
        let envelope = Envelope::sign("application/x", b"{}".to_vec(), &key());
        assert_eq!(Envelope::parse(envelope.render().as_bytes(), &LIMITS).unwrap(), envelope);
        assert_eq!(opened(&envelope.render()).unwrap(), b"{}");
    }

    #[test]
    fn nothing_in_it_can_be_exchanged() {
        let text = Envelope::sign("application/x", b"hello".to_vec(), &key()).render();
        let type_changed = text.replace("application/x", "application/y");
        let payload_changed = text.replace(&STANDARD.encode("hello"), &STANDARD.encode("hallo"));
        for changed in [type_changed, payload_changed] {
            assert_ne!(changed, text);
            assert_eq!(opened(&changed).unwrap_err().code, Code::TrustBadSignature);
        }
    }

    #[test]
    fn what_is_no_envelope_is_refused() {
        let sig = r#"{"keyid":"k","sig":"AAAA"}"#;
        let envelope = |payload: &str, signatures: &str| {
            format!(r#"{{"payloadType":"t","payload":"{payload}","signatures":[{signatures}]}}"#)
        };
        for (text, code) in [
            (String::new(), Code::TrustEnvelope),
            ("[]".to_owned(), Code::TrustEnvelope),
            ("{}".to_owned(), Code::TrustEnvelope),
            (envelope("****", sig), Code::TrustEnvelope),
            (envelope("AAA", sig), Code::TrustEnvelope),
            (envelope("AAAA", r#"{"sig":"!"}"#), Code::TrustEnvelope),
            (envelope("AAAA", ""), Code::TrustNoSignature),
            (envelope("AAAA", &[sig; 3].join(",")), Code::TrustTooManySignatures),
            (envelope("AAAA", sig).replace("\"t\"", "\"\""), Code::TrustEnvelope),
            (envelope("AAAA", sig).replace("\"payload\"", "\"payloadType\""), Code::TrustEnvelope),
            (envelope(&"A".repeat(8192), sig), Code::TrustTooLarge),
        ] {
            assert_eq!(Envelope::parse(text.as_bytes(), &LIMITS).unwrap_err().code, code, "{text}");
        }
        assert!(Envelope::parse(envelope("AAAA", sig).as_bytes(), &LIMITS).is_ok());
    }

    proptest! {
        #[test]
        fn no_bytes_break_it(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
            let _ = Envelope::parse(&bytes, &LIMITS);
        }

        #[test]
        fn every_payload_survives(payload in prop::collection::vec(any::<u8>(), 0..600), kind in "[a-z/+.]{1,40}") {
            let envelope = Envelope::sign(&kind, payload.clone(), &key());
            let read = Envelope::parse(envelope.render().as_bytes(), &LIMITS).unwrap();
            prop_assert_eq!(read.open(&read.signatures()[0], &key().public()).unwrap(), payload);
        }
    }
}
