//! What is signed: orders in their envelopes, key rings, keys.
//!
//! The keys are known here, the signatures are made here, and the input has neither: what it is not given it cannot have
//! signed. So whatever is accepted must say exactly what was signed, however it is written.

use std::sync::LazyLock;
use std::time::Duration;

use neap::trust::dsse::{Envelope, Limits};
use neap::trust::key::{PrivateKey, PublicKey, Role, SEED_BYTES};
use neap::trust::keyring::{Entry, ISSUERS_MAX, KEYS_MAX, KeyRing, ROOTS_MAX};
use neap::trust::order::{ALL_NODES, CANCEL, FLEET_HOLD, Message, SUBMIT, Signing, sign, verify};
use neap::units::{Digest, WallTime};

use super::{bounded, is_plain_fault};

/// Memory for each byte of what is signed: base64 becomes bytes, and a key with its patterns a record.
const HELD_PER_BYTE: u64 = 64;
const NOW: WallTime = WallTime::from_millis(1_795_300_000_000);
const LIMITS: Limits = Limits { bytes: 8192, signatures: 2 };

/// What was signed: as a job, as other orders, with all that an order can have.
const MESSAGES: [Message<'static>; 4] = [
    Message {
        site: "north",
        node: "cell-17",
        order: SUBMIT,
        id: "j1",
        body: b"{\"model\":\"objects\"}",
        content_type: Some("application/json"),
        header: None,
        reply: None,
    },
    Message {
        site: "north",
        node: "cell-17",
        order: SUBMIT,
        id: "j2",
        body: b"{}\0\0",
        content_type: Some("application/octet-stream"),
        header: Some("2"),
        reply: Some("neap/v1/north/ctl/a/reply"),
    },
    Message { order: CANCEL, body: b"", content_type: None, ..PLAIN },
    Message { order: FLEET_HOLD, node: ALL_NODES, id: "", body: b"{\"for_ms\":1000}", ..PLAIN },
];
const PLAIN: Message<'static> = Message {
    site: "north",
    node: "cell-17",
    order: "",
    id: "j1",
    body: b"",
    content_type: None,
    header: None,
    reply: None,
};

fn key(seed: u8) -> PrivateKey {
    PrivateKey::from_seed(&[seed; SEED_BYTES])
}

fn entry(seed: u8, role: Role, owner: &str) -> Entry {
    Entry {
        key: key(seed).public(),
        role,
        owner: owner.parse().expect("a name"),
        not_before: None,
        not_after: None,
        nodes: vec!["*".to_owned()],
        models: vec!["objects".to_owned(), "prb-*".to_owned()],
    }
}

static RING: LazyLock<KeyRing> = LazyLock::new(|| {
    let mut ring = KeyRing::default();
    ring.add(entry(1, Role::Controller, "ctl-a")).expect("a first key");
    ring.add(entry(2, Role::Controller, "ctl-b")).expect("a second key");
    ring.add(entry(3, Role::Publisher, "lab")).expect("a publisher's key");
    ring
});

/// The valid envelope of each message, and the digest by which it is known.
static SIGNED: LazyLock<Vec<(String, Digest)>> = LazyLock::new(|| {
    let signed = |(message, seq): (&Message<'_>, u64)| {
        let issuer = "ctl-a".parse().expect("a name");
        let expires = NOW.after(Duration::from_secs(600));
        let envelope = sign(message, &Signing { issuer, seq, issued: NOW, not_before: None, expires }, &key(1));
        let authority = verify(envelope.as_bytes(), &RING, message, Some(NOW)).expect("it was signed just now");
        (envelope, authority.digest)
    };
    MESSAGES.iter().zip(1..).map(signed).collect()
});

/// A text after some changes, three bytes each: where, and what becomes of the byte that is there.
pub fn edited(text: &str, edits: &[u8]) -> Vec<u8> {
    let mut bytes = text.as_bytes().to_vec();
    for &[low, high, change] in edits.as_chunks().0 {
        let at = usize::from(u16::from_le_bytes([low, high])) % bytes.len().max(1);
        match (change, bytes.get_mut(at)) {
            (0, Some(_)) => drop(bytes.remove(at)),
            (change, Some(byte)) => *byte ^= change,
            (_, None) => {}
        }
    }
    bytes
}

/// An envelope as it is, and as changes of every valid one.
pub fn order_envelope(bytes: &[u8]) {
    judge(bytes);
    for (envelope, _) in SIGNED.iter() {
        judge(&edited(envelope, bytes));
    }
    match bounded(bytes.len(), HELD_PER_BYTE, || Envelope::parse(bytes, &LIMITS)) {
        Ok(envelope) => {
            let again = Envelope::parse(envelope.render().as_bytes(), &Limits { bytes: usize::MAX, ..LIMITS });
            assert_eq!(again, Ok(envelope));
        }
        Err(fault) => is_plain_fault(&fault),
    }
}

/// Whatever is believed was signed, and for this very message.
fn judge(envelope: &[u8]) {
    for (message, (_, digest)) in MESSAGES.iter().zip(SIGNED.iter()) {
        for now in [Some(NOW), None] {
            match verify(envelope, &RING, message, now) {
                Ok(authority) => {
                    assert_eq!(authority.digest, *digest, "{} was never signed", String::from_utf8_lossy(envelope));
                    assert_eq!((authority.issuer.as_str(), authority.key), ("ctl-a", key(1).public().id()));
                    assert!(now.is_some(), "nobody knows the time");
                }
                Err(fault) => is_plain_fault(&fault),
            }
        }
    }
}

/// A ring with a root, and its only successor.
static ROOTED: LazyLock<(KeyRing, String, KeyRing)> = LazyLock::new(|| {
    let mut ring = RING.clone();
    ring.add_root(key(9).public()).expect("a first root");
    let mut next = ring.clone();
    next.revoke(key(2).public().id(), NOW, "lost").expect("a first revocation");
    let text = next.sign(&key(9));
    (ring, text, next)
});

/// A key ring as it is, as changes of a signed one, and as a public key.
pub fn key_ring(bytes: &[u8]) {
    let (ring, signed, next) = &*ROOTED;
    for text in [bytes, &edited(signed, bytes)] {
        match ring.succeeded_by(text) {
            Ok(given) => assert!(given == *next || given == *ring, "a ring that no root has signed: {given:?}"),
            Err(fault) => is_plain_fault(&fault),
        }
    }
    match bounded(bytes.len(), HELD_PER_BYTE, || KeyRing::parse(bytes)) {
        Ok(ring) => {
            assert!(ring.keys().count() <= KEYS_MAX && ring.roots().len() <= ROOTS_MAX);
            let controllers = ring.keys().filter(|(_, entry)| entry.role == Role::Controller);
            let owners: std::collections::BTreeSet<_> = controllers.map(|(_, entry)| entry.owner.as_str()).collect();
            assert!(owners.len() <= ISSUERS_MAX);
            for (id, entry) in ring.keys() {
                assert_eq!(entry.key.id(), id);
            }
            if ring.roots().is_empty() {
                assert_eq!(KeyRing::parse(ring.render().as_bytes()), Ok(ring));
            }
        }
        Err(fault) => is_plain_fault(&fault),
    }
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    match bounded(bytes.len(), HELD_PER_BYTE, || PublicKey::from_pem(text)) {
        Ok(key) => {
            assert!(PublicKey::from_pem(&key.to_pem()) == Ok(key), "a key that does not survive its file");
        }
        Err(fault) => is_plain_fault(&fault),
    }
}

/// Valid inputs, for the corpora.
pub fn examples() -> Vec<(&'static str, String, Vec<u8>)> {
    let (_, signed, next) = &*ROOTED;
    let mut plain = next.clone();
    plain.revoke(key(9).public().id(), NOW, "no roots").expect("a second revocation");
    let envelopes = SIGNED
        .iter()
        .zip(1..)
        .map(|((text, _), number): (_, u32)| ("order_envelope", format!("signed-{number}"), text.clone().into_bytes()));
    let mut examples: Vec<_> = envelopes.collect();
    examples.push(("key_ring", "signed".to_owned(), signed.clone().into_bytes()));
    examples.push(("key_ring", "plain".to_owned(), plain.render().into_bytes()));
    examples.push(("key_ring", "public-key".to_owned(), key(1).public().to_pem().into_bytes()));
    examples
}
