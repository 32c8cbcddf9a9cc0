//! Which keys count, for what, where, and until when? The key ring of a node.
//!
//! One JSON file that an operator installs. It is a list of public keys, each with its role, its owner and its scope,
//! and a list of keys that were revoked. Its `seq` rises with every change: a node never goes back to a ring that is
//! older than one it has seen.
//!
//! A ring with `roots` is an envelope, signed by one of them; its successor must be signed by a root of the ring before.
//! So roots are exchanged like every other key: the new one is added, used, and the old one taken out later.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::dsse::{Envelope, Limits};
use super::key::{KeyId, PrivateKey, PublicKey, Role};
use super::scope;
use crate::fault::{Code, Fault};
use crate::units::{Name, WallTime};

/// Largest key ring, in bytes.
pub const RING_BYTES_MAX: usize = 256 * 1024;
/// Most keys in a ring, and most that were revoked.
pub const KEYS_MAX: usize = 256;
/// Most roots.
pub const ROOTS_MAX: usize = 8;
/// Most owners of controller keys: a node remembers the sequence of each.
pub const ISSUERS_MAX: usize = 16;
/// Most patterns of one key.
const PATTERNS_MAX: usize = 64;
/// What a ring's envelope is around.
const PAYLOAD_TYPE: &str = "application/vnd.neap.keyring.v1+json";
const LIMITS: Limits = Limits { bytes: 2 * RING_BYTES_MAX, signatures: ROOTS_MAX };

/// One key and what it may do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The key.
    pub key: PublicKey,
    /// What it signs.
    pub role: Role,
    /// Whose it is: the issuer of a controller's orders, the name of a publisher.
    pub owner: Name,
    /// It counts from then on.
    pub not_before: Option<WallTime>,
    /// It counts until then.
    pub not_after: Option<WallTime>,
    /// Nodes it counts at, as patterns of `site/node`: `north/cell-17`, `north/*`, `*`.
    pub nodes: Vec<String>,
    /// Models it counts for, as patterns of names: `objects`, `prb-*`, `*`.
    pub models: Vec<String>,
}

impl Entry {
    /// Whether it counts at that node.
    pub fn is_for_node(&self, site: &Name, node: &Name) -> bool {
        self.nodes.iter().any(|pattern| scope::covers_node(pattern, site.as_str(), node.as_str()))
    }

    /// Whether it counts for that model.
    pub fn is_for_model(&self, model: &Name) -> bool {
        self.models.iter().any(|pattern| scope::covers(pattern, model.as_str()))
    }
}

/// A key that no longer counts, whatever it signed and when.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Revoked {
    /// When it was revoked.
    pub at: WallTime,
    /// Why, for people.
    pub why: String,
}

/// A key ring.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KeyRing {
    seq: u64,
    keys: BTreeMap<KeyId, Entry>,
    revoked: BTreeMap<KeyId, Revoked>,
    roots: Vec<PublicKey>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct RingWire {
    v: u32,
    seq: u64,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    roots: Vec<String>,
    keys: Vec<EntryWire>,
    #[serde(default)]
    revoked: Vec<RevokedWire>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct EntryWire {
    /// For people; checked against the key.
    id: String,
    role: String,
    owner: String,
    public: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    not_before: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    not_after: Option<String>,
    #[serde(default = "everything")]
    nodes: Vec<String>,
    #[serde(default = "everything")]
    models: Vec<String>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct RevokedWire {
    id: String,
    at: String,
    #[serde(default)]
    why: String,
}

fn everything() -> Vec<String> {
    vec!["*".to_owned()]
}

impl KeyRing {
    /// Reads a ring: plain JSON, or, when it has roots, an envelope signed by one of them.
    ///
    /// # Errors
    /// `trust.ring` for what cannot be read, makes no sense or lacks the signature of a root of its own.
    pub fn parse(text: &[u8]) -> Result<Self, Fault> {
        if text.len() > LIMITS.bytes {
            return Err(bad(format!("{} bytes are above {}; take out what is not used", text.len(), LIMITS.bytes)));
        }
        let is_envelope = serde_json::from_slice::<Shape>(text).is_ok_and(|shape| shape.payload_type.is_some());
        if !is_envelope {
            let ring = Self::of_payload(text)?;
            return match ring.roots.len() {
                0 => Ok(ring),
                roots => Err(bad(format!(
                    "it names {roots} roots and is not signed; sign it: neap key ring root|add|revoke --sign-with ROOT"
                ))),
            };
        }
        let envelope = Envelope::parse(text, &LIMITS)?;
        if envelope.payload_type() != PAYLOAD_TYPE {
            return Err(bad(format!("an envelope around something else than {PAYLOAD_TYPE}")));
        }
        // Which roots to believe is in the ring itself: whoever may write the file decides, as for a plain one. What
        // the signature adds is checked by `succeeds`.
        let ring = Self::of_payload(envelope.unverified_payload())?;
        if ring.is_signed_in(&ring.roots, &envelope) { Ok(ring) } else { Err(unsigned()) }
    }

    /// Whether `text` is a ring that may take this one's place, and that ring.
    ///
    /// # Errors
    /// `trust.ring_rollback` for one that is older; `trust.ring` for one without the signature of a root of this ring,
    /// when it has any, and as [`KeyRing::parse`].
    pub fn succeeded_by(&self, text: &[u8]) -> Result<Self, Fault> {
        let next = Self::parse(text)?;
        if next == *self {
            return Ok(next);
        }
        if next.seq <= self.seq {
            return Err(rollback(next.seq, self.seq));
        }
        if self.roots.is_empty() {
            return Ok(next);
        }
        let envelope = Envelope::parse(text, &LIMITS)?;
        if next.is_signed_in(&self.roots, &envelope) { Ok(next) } else { Err(unsigned()) }
    }

    /// Refuses a ring that is older than one seen before.
    ///
    /// # Errors
    /// `trust.ring_rollback`.
    pub fn check_not_older(&self, seen: u64) -> Result<(), Fault> {
        if self.seq < seen { Err(rollback(self.seq, seen)) } else { Ok(()) }
    }

    fn is_signed_in(&self, roots: &[PublicKey], envelope: &Envelope) -> bool {
        let by = |key: &PublicKey| {
            let is_revoked = self.revoked.contains_key(&key.id());
            !is_revoked && envelope.signatures().iter().any(|signature| envelope.open(signature, key).is_ok())
        };
        roots.iter().any(by)
    }

    fn of_payload(text: &[u8]) -> Result<Self, Fault> {
        let wire: RingWire = serde_json::from_slice(text).map_err(|error| bad(error.to_string()))?;
        if wire.v != 1 {
            return Err(bad(format!("version {} is unknown; this program reads version 1", wire.v)));
        }
        for (what, given, max) in [
            ("keys", wire.keys.len(), KEYS_MAX),
            ("revoked", wire.revoked.len(), KEYS_MAX),
            ("roots", wire.roots.len(), ROOTS_MAX),
        ] {
            if given > max {
                return Err(bad(format!("{what}: {given} are above {max}")));
            }
        }
        let mut ring = Self { seq: wire.seq, ..Self::default() };
        for (at, root) in wire.roots.iter().enumerate() {
            ring.roots.push(PublicKey::from_pem(root).map_err(|fault| bad(format!("roots[{at}]: {}", fault.message)))?);
        }
        for (at, entry) in wire.keys.into_iter().enumerate() {
            let place = |why: String| bad(format!("keys[{at}]: {why}"));
            let (named, entry) = (entry.id.clone(), entry.read().map_err(place)?);
            let id = entry.key.id();
            if named != id.to_string() {
                return Err(place(format!("its id is {id}, not {named:?}; neap key ring list shows ids")));
            }
            if ring.keys.insert(id, entry).is_some() {
                return Err(place(format!("key {id} is in the ring twice")));
            }
        }
        for (at, revoked) in wire.revoked.into_iter().enumerate() {
            let place = |why: String| bad(format!("revoked[{at}]: {why}"));
            let id: KeyId = revoked.id.parse().map_err(place)?;
            let revoked = Revoked { at: WallTime::parse(&revoked.at).map_err(place)?, why: short(&revoked.why) };
            ring.revoked.insert(id, revoked);
        }
        ring.check()?;
        Ok(ring)
    }

    fn check(&self) -> Result<(), Fault> {
        let controllers = self.keys.values().filter(|entry| entry.role == Role::Controller);
        let issuers: BTreeSet<&str> = controllers.map(|entry| entry.owner.as_str()).collect();
        if issuers.len() > ISSUERS_MAX {
            return Err(bad(format!("{} controllers are above {ISSUERS_MAX}", issuers.len())));
        }
        Ok(())
    }

    /// Rises with every change.
    pub fn seq(&self) -> u64 {
        self.seq
    }

    /// All keys, revoked ones too, by id.
    pub fn keys(&self) -> impl Iterator<Item = (KeyId, &Entry)> {
        self.keys.iter().map(|(id, entry)| (*id, entry))
    }

    /// A key by its id, whether it still counts or not.
    pub fn get(&self, id: KeyId) -> Option<&Entry> {
        self.keys.get(&id)
    }

    /// When and why a key was revoked.
    pub fn revoked(&self, id: KeyId) -> Option<&Revoked> {
        self.revoked.get(&id)
    }

    /// Who may sign its successor.
    pub fn roots(&self) -> &[PublicKey] {
        &self.roots
    }

    /// The key of that id, if it counts for that role at that time. `now` is `None` while the time is in doubt: then the
    /// key's time is not judged.
    ///
    /// # Errors
    /// `trust.unknown_key`, `trust.key_revoked`, `trust.key_role`, `trust.key_not_yet_valid`, `trust.key_expired`.
    pub fn counting(&self, id: &str, role: Role, now: Option<WallTime>) -> Result<&Entry, Fault> {
        let shown: String = id.chars().take(40).collect();
        let known = id.parse().ok().and_then(|id| Some((id, self.keys.get(&id)?)));
        if let Some(revoked) = id.parse().ok().and_then(|id| self.revoked.get(&id)) {
            let text = format!("key {shown} was revoked at {} ({}); sign with another", revoked.at, revoked.why);
            return Err(Fault::new(Code::TrustKeyRevoked, text));
        }
        let Some((_, entry)) = known else {
            let text = format!(
                "key {shown:?} is not in the node's ring of {} keys; add it with neap key ring add, or sign with \
                 another",
                self.keys.len()
            );
            return Err(Fault::new(Code::TrustUnknownKey, text));
        };
        if entry.role != role {
            let text = format!("key {shown} is a {}'s; this needs one of a {role}", entry.role);
            return Err(Fault::new(Code::TrustKeyRole, text));
        }
        if let (Some(now), Some(from)) = (now, entry.not_before)
            && now < from
        {
            let text = format!("key {shown} counts from {from}, and it is {now}; sign with the one before it");
            return Err(Fault::new(Code::TrustKeyNotYetValid, text));
        }
        if let (Some(now), Some(until)) = (now, entry.not_after)
            && now > until
        {
            let text = format!("key {shown} counted until {until}, and it is {now}; sign with its successor");
            return Err(Fault::new(Code::TrustKeyExpired, text));
        }
        Ok(entry)
    }

    // ---- changes ----

    /// Adds a key.
    ///
    /// # Errors
    /// `trust.ring` when it is there already, was revoked, or is one too many.
    pub fn add(&mut self, entry: Entry) -> Result<KeyId, Fault> {
        let id = entry.key.id();
        if self.revoked.contains_key(&id) {
            return Err(bad(format!("key {id} was revoked and never counts again; make a new one")));
        }
        if self.keys.contains_key(&id) {
            return Err(bad(format!("key {id} is in the ring already")));
        }
        if self.keys.len() >= KEYS_MAX {
            return Err(bad(format!("the ring has {KEYS_MAX} keys, no more are allowed; remove one that has expired")));
        }
        self.keys.insert(id, entry);
        self.check()?;
        self.seq += 1;
        Ok(id)
    }

    /// Adds a root: from now on the ring is signed.
    ///
    /// # Errors
    /// `trust.ring` when it is one too many, or there already.
    pub fn add_root(&mut self, key: PublicKey) -> Result<(), Fault> {
        if self.roots.contains(&key) || self.roots.len() >= ROOTS_MAX {
            return Err(bad(format!("root {} is there already, or more than {ROOTS_MAX}", key.id())));
        }
        self.roots.push(key);
        self.seq += 1;
        Ok(())
    }

    /// Revokes a key, of this ring or any other. A root that is revoked is taken out.
    ///
    /// # Errors
    /// `trust.ring` when too many are revoked.
    pub fn revoke(&mut self, id: KeyId, at: WallTime, why: &str) -> Result<(), Fault> {
        if self.revoked.len() >= KEYS_MAX && !self.revoked.contains_key(&id) {
            return Err(bad(format!("{KEYS_MAX} keys are revoked, no more are allowed; begin a new ring")));
        }
        self.roots.retain(|root| root.id() != id);
        self.revoked.entry(id).or_insert(Revoked { at, why: short(why) });
        self.seq += 1;
        Ok(())
    }

    /// The file of it. One that has roots must be signed.
    pub fn render(&self) -> String {
        let time = |at: Option<WallTime>| at.map(|at| at.to_string());
        let keys = self.keys.iter().map(|(id, entry)| EntryWire {
            id: id.to_string(),
            role: entry.role.as_str().to_owned(),
            owner: entry.owner.to_string(),
            public: entry.key.to_pem(),
            not_before: time(entry.not_before),
            not_after: time(entry.not_after),
            nodes: entry.nodes.clone(),
            models: entry.models.clone(),
        });
        let revoked = self.revoked.iter().map(|(id, revoked)| RevokedWire {
            id: id.to_string(),
            at: revoked.at.to_string(),
            why: revoked.why.clone(),
        });
        let wire = RingWire {
            v: 1,
            seq: self.seq,
            roots: self.roots.iter().map(PublicKey::to_pem).collect(),
            keys: keys.collect(),
            revoked: revoked.collect(),
        };
        serde_json::to_string_pretty(&wire).expect("strings, numbers and lists of them are always JSON") + "\n"
    }

    /// The file of it, signed.
    pub fn sign(&self, root: &PrivateKey) -> String {
        Envelope::sign(PAYLOAD_TYPE, self.render().into_bytes(), root).render() + "\n"
    }
}

/// Tells an envelope from a plain ring.
#[derive(Deserialize)]
struct Shape {
    #[serde(rename = "payloadType")]
    payload_type: Option<String>,
}

impl EntryWire {
    fn read(self) -> Result<Entry, String> {
        let patterns = |what: &str, patterns: Vec<String>| {
            if patterns.is_empty() || patterns.len() > PATTERNS_MAX {
                return Err(format!("{what}: {} patterns; 1 to {PATTERNS_MAX} are allowed", patterns.len()));
            }
            patterns.iter().try_for_each(|pattern| scope::check(pattern).map_err(|why| format!("{what}: {why}")))?;
            Ok(patterns)
        };
        let moment = |at: Option<String>| at.map(|at| WallTime::parse(&at)).transpose();
        Ok(Entry {
            key: PublicKey::from_pem(&self.public).map_err(|fault| fault.message)?,
            role: self.role.parse()?,
            owner: self.owner.parse().map_err(|error| format!("owner: {error}"))?,
            not_before: moment(self.not_before)?,
            not_after: moment(self.not_after)?,
            nodes: patterns("nodes", self.nodes)?,
            models: patterns("models", self.models)?,
        })
    }
}

fn bad(why: String) -> Fault {
    Fault::new(Code::TrustRing, format!("the key ring cannot be used: {why}"))
}

fn unsigned() -> Fault {
    bad("no root that counts has signed it; sign it: neap key ring root|add|revoke --sign-with ROOT".to_owned())
}

fn rollback(given: u64, seen: u64) -> Fault {
    let text = format!("a key ring with seq {given} came after one with seq {seen}; install the newest one");
    Fault::new(Code::TrustRingRollback, text)
}

fn short(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(120).collect()
}

#[cfg(test)]
mod tests;
