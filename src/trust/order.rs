//! May this order be carried out? What a controller signs, and every reason not to believe it.
//!
//! The signature travels beside the message, in its user property [`PROPERTY`]: a DSSE envelope around *claims*, which
//! bind everything that changes what the message means: where it goes (site, node), what it is (order, job id), its body
//! (digest and length), how the body is read (content type, header length), where the reply goes, and when it counts.
//! So the body stays what the protocol says, JSON or binary, and one scheme signs every order.
//!
//! # Order of the checks
//!
//! Size → envelope → key known, not revoked, of a controller, in its time and scope → signature → claims → issuer →
//! site, node, order, id → times → body → form of the body → reply topic. Of the message itself nothing is parsed before
//! all of that. Whether the order was carried out before is asked last, and elsewhere ([`replay`](super::replay)).

use std::time::Duration;

use serde::{Deserialize, Serialize};
use sha2::Digest as _;

use super::dsse::{Envelope, Limits};
use super::key::{KeyId, PrivateKey, Role};
use super::keyring::{Entry, KeyRing};
use super::scope;
use crate::fault::{Code, Fault};
use crate::units::{Digest, Name, WallTime};

/// The user property that carries the envelope.
pub const PROPERTY: &str = "neap-authorization";
/// What the envelope is around.
pub const PAYLOAD_TYPE: &str = "application/vnd.neap.order.v1+json";
/// Largest envelope, in bytes.
pub const ENVELOPE_BYTES_MAX: usize = 8 * 1024;
/// Most signatures: the old and the new key's while keys are exchanged.
pub const SIGNATURES_MAX: usize = 2;
/// Longest life of a signed job.
pub const JOB_LIFE_MAX: Duration = Duration::from_secs(7 * 24 * 3600);
/// Longest life of every other signed order: as long as a broker keeps one.
pub const ORDER_LIFE_MAX: Duration = Duration::from_secs(3600);
/// How far the clocks of controller and node may differ.
pub const SKEW_MAX: Duration = Duration::from_secs(60);
/// In place of a node's name, in orders to a whole site.
pub const ALL_NODES: &str = "*";
/// The order that sends a job.
pub const SUBMIT: &str = "submit";
/// The order that takes a job back.
pub const CANCEL: &str = "cancel";
/// The order that lets a result be deleted.
pub const ACK: &str = "ack";
/// The order that holds a whole site; its end too.
pub const FLEET_HOLD: &str = "fleet-hold";

const LIMITS: Limits = Limits { bytes: ENVELOPE_BYTES_MAX, signatures: SIGNATURES_MAX };

/// A message as it arrived, or is to be sent.
#[derive(Clone, Copy, Debug)]
pub struct Message<'a> {
    /// Site of its topic.
    pub site: &'a str,
    /// Node of its topic, [`ALL_NODES`] in orders to the site.
    pub node: &'a str,
    /// What it is: [`SUBMIT`], [`CANCEL`], [`ACK`], [`FLEET_HOLD`] or the name of a command.
    pub order: &'a str,
    /// The job's id; empty for orders that are about no job.
    pub id: &'a str,
    /// Its body.
    pub body: &'a [u8],
    /// Its content type.
    pub content_type: Option<&'a str>,
    /// Its header length, as the user property has it.
    pub header: Option<&'a str>,
    /// Its response topic.
    pub reply: Option<&'a str>,
}

/// Who says so, and when.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Signing {
    /// Whose key it is, as the ring calls its owner.
    pub issuer: Name,
    /// Rises with every order of this issuer.
    pub seq: u64,
    /// When it is signed.
    pub issued: WallTime,
    /// It does not count before.
    pub not_before: Option<WallTime>,
    /// It does not count after.
    pub expires: WallTime,
}

/// An order that is to be believed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Authority {
    /// Who signed.
    pub issuer: Name,
    /// With which key.
    pub key: KeyId,
    /// The order's number.
    pub seq: u64,
    /// When it was signed.
    pub issued: WallTime,
    /// Digest of what was signed: the same order again has the same.
    pub digest: Digest,
    models: Vec<String>,
}

impl Authority {
    /// Whether the key may have this model run.
    ///
    /// # Errors
    /// `trust.model_not_allowed`.
    pub fn check_model(&self, model: &Name) -> Result<(), Fault> {
        if self.models.iter().any(|pattern| scope::covers(pattern, model.as_str())) {
            return Ok(());
        }
        let allowed = self.models.join(", ");
        let text = format!("key {} of {} is for the models {allowed}, not for {model}", self.key, self.issuer);
        Err(Fault::new(Code::TrustModelNotAllowed, text))
    }
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct ClaimsWire {
    v: u32,
    iss: String,
    site: String,
    node: String,
    order: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    id: String,
    seq: u64,
    iat: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    nbf: Option<String>,
    exp: String,
    body_sha256: String,
    body_bytes: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    content_type: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    header_bytes: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    reply: Option<String>,
}

/// Read first: a later version may have other fields.
#[derive(Deserialize)]
struct VersionWire {
    v: u32,
}

/// Signs a message: the value of its user property [`PROPERTY`].
pub fn sign(message: &Message<'_>, signing: &Signing, key: &PrivateKey) -> String {
    let claims = ClaimsWire {
        v: 1,
        iss: signing.issuer.to_string(),
        site: message.site.to_owned(),
        node: message.node.to_owned(),
        order: message.order.to_owned(),
        id: message.id.to_owned(),
        seq: signing.seq,
        iat: signing.issued.to_string(),
        nbf: signing.not_before.map(|at| at.to_string()),
        exp: signing.expires.to_string(),
        body_sha256: hex(&digest(message.body)),
        body_bytes: message.body.len() as u64,
        content_type: message.content_type.map(str::to_owned),
        header_bytes: message.header.map(str::to_owned),
        reply: message.reply.map(str::to_owned),
    };
    let payload = serde_json::to_vec(&claims).expect("strings and numbers are always JSON");
    Envelope::sign(PAYLOAD_TYPE, payload, key).render()
}

/// Judges an order by its envelope. `now` is `None` while the node does not know the time.
///
/// # Errors
/// A `trust.*` code for the first check that fails, in the order of the module.
pub fn verify(
    envelope: &[u8],
    ring: &KeyRing,
    message: &Message<'_>,
    now: Option<WallTime>,
) -> Result<Authority, Fault> {
    let envelope = Envelope::parse(envelope, &LIMITS)?;
    if envelope.payload_type() != PAYLOAD_TYPE {
        let shown: String = envelope.payload_type().chars().take(80).collect();
        let text = format!("the envelope is around {shown:?}, orders are {PAYLOAD_TYPE}");
        return Err(Fault::new(Code::TrustPayloadType, text));
    }
    // The first key that is known decides: a stranger's signature beside it neither helps nor harms.
    let is_known = |id: &str| id.parse().is_ok_and(|id| ring.get(id).is_some() || ring.revoked(id).is_some());
    let signatures = envelope.signatures();
    let first = signatures.iter().find(|signature| is_known(&signature.key_id)).or_else(|| signatures.first());
    let Some(signature) = first else {
        return Err(Fault::new(Code::TrustNoSignature, "the envelope has no signature; sign it with neap sign"));
    };
    let entry = ring.counting(&signature.key_id, Role::Controller, now)?;
    check_scope(entry, message)?;
    let payload = envelope.open(signature, &entry.key)?;
    let claims = read(payload)?;
    check_address(&claims, entry, message)?;
    let (issued, digest) = (check_times(&claims, message, now)?, digest(payload));
    check_body(&claims, message)?;
    Ok(Authority {
        issuer: entry.owner.clone(),
        key: entry.key.id(),
        seq: claims.seq,
        issued,
        digest,
        models: entry.models.clone(),
    })
}

fn check_scope(entry: &Entry, message: &Message<'_>) -> Result<(), Fault> {
    let covered = entry.nodes.iter().any(|pattern| match message.node {
        // What a key may not tell one node, it may not tell all of them: nodes judge for themselves by their own ring.
        ALL_NODES => scope::covers_node(pattern, message.site, ""),
        node => scope::covers_node(pattern, message.site, node),
    });
    if covered {
        return Ok(());
    }
    let (id, scope) = (entry.key.id(), entry.nodes.join(", "));
    let text = format!("key {id} counts at {scope}, not at {}/{}; sign with another", message.site, message.node);
    Err(Fault::new(Code::TrustKeyScope, text))
}

fn read(payload: &[u8]) -> Result<ClaimsWire, Fault> {
    let bad = |why: String| Fault::new(Code::TrustPayload, format!("what was signed cannot be read: {why}"));
    if payload.first() != Some(&b'{') {
        return Err(bad("it is no JSON object; sign with neap sign".to_owned()));
    }
    let VersionWire { v } = serde_json::from_slice(payload).map_err(|error| bad(error.to_string()))?;
    if v != 1 {
        let text = format!("the order is of version {v}, this node reads version 1; sign with an older neap");
        return Err(Fault::new(Code::TrustVersion, text));
    }
    serde_json::from_slice(payload).map_err(|error| bad(error.to_string()))
}

fn check_address(claims: &ClaimsWire, entry: &Entry, message: &Message<'_>) -> Result<(), Fault> {
    let shown = |text: &str| text.chars().take(80).collect::<String>();
    for (code, what, signed, given) in [
        (Code::TrustIssuer, "in the name of", &claims.iss, entry.owner.as_str()),
        (Code::TrustWrongSite, "for the site", &claims.site, message.site),
        (Code::TrustWrongNode, "for the node", &claims.node, message.node),
        (Code::TrustWrongOrder, "as the order", &claims.order, message.order),
        (Code::TrustWrongId, "for the job", &claims.id, message.id),
    ] {
        if signed != given {
            let text =
                format!("signed {what} {:?}, and here it would be {:?}; sign it anew", shown(signed), shown(given));
            return Err(Fault::new(code, text));
        }
    }
    Ok(())
}

/// When it was signed, if its time is now.
fn check_times(claims: &ClaimsWire, message: &Message<'_>, now: Option<WallTime>) -> Result<WallTime, Fault> {
    let moment = |what: &str, text: &str| {
        WallTime::parse(text).map_err(|why| Fault::new(Code::TrustPayload, format!("what was signed: {what}: {why}")))
    };
    let (issued, expires) = (moment("iat", &claims.iat)?, moment("exp", &claims.exp)?);
    let not_before = claims.nbf.as_deref().map(|nbf| moment("nbf", nbf)).transpose()?;
    let life_max = if message.order == SUBMIT { JOB_LIFE_MAX } else { ORDER_LIFE_MAX };
    if expires <= issued || expires.since(issued) > life_max {
        let text = format!(
            "signed at {issued} and valid until {expires}: more than nothing and at most {} h are allowed for {}",
            life_max.as_secs() / 3600,
            message.order
        );
        return Err(Fault::new(Code::TrustLifetime, text));
    }
    let Some(now) = now else {
        let text = "the node does not know the time well enough to tell whether the order still counts; send it again \
                    when its clock is set";
        return Err(Fault::new(Code::TrustClockDoubt, text));
    };
    if now > expires {
        let text = format!("valid until {expires}, and it is {now}; sign it anew");
        return Err(Fault::new(Code::TrustExpired, text));
    }
    let soon = now.after(SKEW_MAX);
    if issued > soon {
        let text = format!("signed at {issued}, and it is {now}: set the controller's clock, or the node's");
        return Err(Fault::new(Code::TrustFromFuture, text));
    }
    if let Some(from) = not_before.filter(|from| *from > soon) {
        let text = format!("valid from {from}, and it is {now}; send it then, or use not_before in the job");
        return Err(Fault::new(Code::TrustNotYetValid, text));
    }
    Ok(issued)
}

fn check_body(claims: &ClaimsWire, message: &Message<'_>) -> Result<(), Fault> {
    let given = digest(message.body);
    if claims.body_bytes != message.body.len() as u64 || claims.body_sha256 != hex(&given) {
        let text = format!(
            "the body of {} bytes is not the one of {} bytes that was signed: it was changed on the way",
            message.body.len(),
            claims.body_bytes
        );
        return Err(Fault::new(Code::TrustBodyMismatch, text));
    }
    if claims.content_type.as_deref() != message.content_type || claims.header_bytes.as_deref() != message.header {
        let text = "content type or header length are not what was signed: the body would be read another way; sign \
                    with --content-type and --header-bytes as they are sent";
        return Err(Fault::new(Code::TrustFormMismatch, text));
    }
    if claims.reply.as_deref() != message.reply {
        let text = "the reply would go to another topic than was signed; sign with --reply as it is sent";
        return Err(Fault::new(Code::TrustReplyMismatch, text));
    }
    Ok(())
}

fn digest(bytes: &[u8]) -> Digest {
    Digest(sha2::Sha256::digest(bytes).into())
}

fn hex(digest: &Digest) -> String {
    digest.to_string().trim_start_matches("sha256:").to_owned()
}

#[cfg(test)]
mod tests;
