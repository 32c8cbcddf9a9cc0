//! Who signs what a command sends? A private key, in the name of its owner.

use std::fs;
use std::io::Read as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::failure::{Class, Failure};
use crate::link::Publish;
use crate::link::messages::HEADER_LENGTH;
use crate::sys::clock;
use crate::trust::key::{KEY_FILE_BYTES_MAX, PrivateKey, label};
use crate::trust::order::{
    self, ACK, ALL_NODES, CANCEL, FLEET_HOLD, JOB_LIFE_MAX, Message, ORDER_LIFE_MAX, PROPERTY, SUBMIT, Signing,
};
use crate::units::Name;

/// A key, and in whose name it signs.
#[derive(Debug)]
pub(super) struct Signer {
    key: PrivateKey,
    issuer: Name,
    last: AtomicU64,
}

/// What a topic says that a message to it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Address<'t> {
    /// Its site.
    pub(super) site: &'t str,
    /// Its node, `*` for all of the site.
    pub(super) node: &'t str,
    /// Which order.
    pub(super) order: &'t str,
    /// About which job.
    pub(super) id: &'t str,
}

impl<'t> Address<'t> {
    /// Of a topic below `…/v1/{site}/{node}/down/` or `…/v1/{site}/fleet/down/`.
    pub(super) fn of_topic(topic: &'t str) -> Option<Self> {
        let (_, below) = topic.split_once("/v1/")?;
        let parts: Vec<&str> = below.split('/').collect();
        let [site, node, "down", rest @ ..] = parts.as_slice() else { return None };
        let (node, order, id) = match (*node, rest) {
            ("fleet", ["hold"]) => (ALL_NODES, FLEET_HOLD, ""),
            (node, ["job", id]) => (node, SUBMIT, *id),
            (node, ["job", id, "cancel"]) => (node, CANCEL, *id),
            (node, ["job", id, "ack"]) => (node, ACK, *id),
            (node, ["cmd", name]) => (node, *name, ""),
            (_, _) => return None,
        };
        Some(Self { site, node, order, id })
    }

    /// Longest life of such an order.
    pub(super) fn life_max(&self) -> Duration {
        if self.order == SUBMIT { JOB_LIFE_MAX } else { ORDER_LIFE_MAX }
    }
}

impl Signer {
    /// Reads a private key that only its owner may read.
    pub(super) fn open(path: &Path, issuer: Option<&Name>) -> Result<Self, Failure> {
        let text = read_private(path)?;
        let key = PrivateKey::from_pem(&text)
            .map_err(|fault| Failure::new(Class::Data, format!("{}: {fault}", path.display())))?;
        let issuer = match (issuer, label(&text, "owner").map(str::parse)) {
            (Some(issuer), _) => issuer.clone(),
            (None, Some(Ok(owner))) => owner,
            (None, Some(Err(_)) | None) => {
                let text = format!("in whose name? {} does not say; give --issuer NAME", path.display());
                return Err(Failure::new(Class::Usage, text));
            }
        };
        Ok(Self { key, issuer, last: AtomicU64::new(0) })
    }

    /// The message with its signature; one to no node, or with a signature already, as it is.
    ///
    /// It counts as long as the broker keeps it.
    pub(super) fn sign(&self, mut message: Publish) -> Publish {
        let has_one = message.properties.iter().any(|(name, _)| name == PROPERTY);
        let Some(address) = Address::of_topic(&message.topic).filter(|_| !has_one) else { return message };
        let kept = message.expiry_s.map_or(address.life_max(), |seconds| Duration::from_secs(u64::from(seconds)));
        // The node's clock may be ahead, and a job that just arrives in time is to count.
        let life = kept.saturating_add(order::SKEW_MAX).min(address.life_max());
        let header = message.properties.iter().find(|(name, _)| name == HEADER_LENGTH);
        let given = Message {
            site: address.site,
            node: address.node,
            order: address.order,
            id: address.id,
            body: &message.body,
            content_type: message.content_type.as_deref(),
            header: header.map(|(_, value)| value.as_str()),
            reply: message.response_topic.as_deref(),
        };
        let envelope = self.envelope(&given, life);
        message.properties.push((PROPERTY.to_owned(), envelope));
        message
    }

    /// The signature of a message that counts for so long.
    pub(super) fn envelope(&self, message: &Message<'_>, life: Duration) -> String {
        let issued = clock::wall();
        // Microseconds of the wall clock rise from one command to the next; within one, each takes the next number.
        let now = u64::try_from(issued.as_millis()).unwrap_or(0).saturating_mul(1_000);
        let seq = now.max(self.last.load(Ordering::Relaxed).saturating_add(1));
        self.last.store(seq, Ordering::Relaxed);
        let signing =
            Signing { issuer: self.issuer.clone(), seq, issued, not_before: None, expires: issued.after(life) };
        order::sign(message, &signing, &self.key)
    }
}

/// The text of a file that only its owner may read.
pub(super) fn read_private(path: &Path) -> Result<String, Failure> {
    let shown = path.display();
    let io = |error: std::io::Error| Failure::io(&format!("cannot read {shown}"), &error);
    let file = fs::File::open(path).map_err(io)?;
    let mode = file.metadata().map_err(io)?.permissions().mode() & 0o777;
    if mode & 0o077 != 0 {
        let text = format!("{shown} has mode {mode:03o}: others may read the key; run chmod 600 on it");
        return Err(Failure::new(Class::NoPermission, text));
    }
    let mut text = String::new();
    file.take(KEY_FILE_BYTES_MAX as u64 + 1).read_to_string(&mut text).map_err(io)?;
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_topic_says_what_is_signed() {
        for (topic, expected) in [
            ("neap/v1/north/cell-17/down/job/j1", Some(("north", "cell-17", SUBMIT, "j1"))),
            ("neap/v1/north/cell-17/down/job/j1/cancel", Some(("north", "cell-17", CANCEL, "j1"))),
            ("a/b/v1/north/cell-17/down/job/j1/ack", Some(("north", "cell-17", ACK, "j1"))),
            ("neap/v1/north/cell-17/down/cmd/drain", Some(("north", "cell-17", "drain", ""))),
            ("neap/v1/north/fleet/down/hold", Some(("north", "*", FLEET_HOLD, ""))),
            ("neap/v1/north/cell-17/up/state", None),
            ("neap/v1/north/cell-17/down/job/j1/other", None),
            ("", None),
        ] {
            let found = Address::of_topic(topic).map(|found| (found.site, found.node, found.order, found.id));
            assert_eq!(found, expected, "{topic}");
        }
    }
}
