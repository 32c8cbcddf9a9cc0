use proptest::prelude::*;

use super::*;
use crate::trust::key::SEED_BYTES;

const NOW: WallTime = WallTime::from_millis(1_764_000_000_000);

fn key(seed: u8) -> PrivateKey {
    PrivateKey::from_seed(&[seed; SEED_BYTES])
}

fn after(seconds: u64) -> WallTime {
    NOW.after(Duration::from_secs(seconds))
}

fn entry(seed: u8, owner: &str) -> Entry {
    Entry {
        key: key(seed).public(),
        role: Role::Controller,
        owner: owner.parse().unwrap(),
        not_before: None,
        not_after: None,
        nodes: vec!["north/*".to_owned()],
        models: vec!["objects".to_owned(), "prb-*".to_owned()],
    }
}

fn ring() -> KeyRing {
    let mut ring = KeyRing::default();
    ring.add(entry(1, "ctl-a")).unwrap();
    ring.add(entry(2, "ctl-b")).unwrap();
    ring
}

fn signing() -> Signing {
    Signing { issuer: "ctl-a".parse().unwrap(), seq: 42, issued: NOW, not_before: None, expires: after(600) }
}

const MESSAGE: Message<'static> = Message {
    site: "north",
    node: "cell-17",
    order: SUBMIT,
    id: "j1",
    body: b"{\"model\":\"objects\"}",
    content_type: Some("application/json"),
    header: None,
    reply: None,
};

fn judge(envelope: &str, message: &Message<'_>, now: Option<WallTime>) -> Result<Authority, Code> {
    verify(envelope.as_bytes(), &ring(), message, now).map_err(|fault| fault.code)
}

#[test]
fn what_was_signed_is_believed() {
    let authority = judge(&sign(&MESSAGE, &signing(), &key(1)), &MESSAGE, Some(after(5))).unwrap();
    assert_eq!((authority.issuer.as_str(), authority.seq, authority.key), ("ctl-a", 42, key(1).public().id()));
    assert!(authority.check_model(&"prb-forecast".parse().unwrap()).is_ok());
    let refused = authority.check_model(&"faces".parse().unwrap()).unwrap_err();
    assert_eq!(refused.code, Code::TrustModelNotAllowed);
    assert!(refused.message.contains("objects, prb-*"), "{refused}");
}

#[test]
fn everything_that_changes_the_meaning_is_bound() {
    let envelope = sign(&MESSAGE, &signing(), &key(1));
    for (message, code) in [
        (Message { node: "cell-18", ..MESSAGE }, Code::TrustWrongNode),
        (Message { order: CANCEL, ..MESSAGE }, Code::TrustWrongOrder),
        (Message { id: "j2", ..MESSAGE }, Code::TrustWrongId),
        (Message { body: b"{}", ..MESSAGE }, Code::TrustBodyMismatch),
        (Message { content_type: None, ..MESSAGE }, Code::TrustFormMismatch),
        (Message { header: Some("3"), ..MESSAGE }, Code::TrustFormMismatch),
        (Message { reply: Some("neap/v1/x"), ..MESSAGE }, Code::TrustReplyMismatch),
        (Message { site: "south", ..MESSAGE }, Code::TrustKeyScope),
    ] {
        assert_eq!(judge(&envelope, &message, Some(NOW)).unwrap_err(), code);
    }
    let mut wide = KeyRing::default();
    wide.add(Entry { nodes: vec!["*".to_owned()], ..entry(1, "ctl-a") }).unwrap();
    let elsewhere = verify(envelope.as_bytes(), &wide, &Message { site: "south", ..MESSAGE }, Some(NOW));
    assert_eq!(elsewhere.unwrap_err().code, Code::TrustWrongSite);
}

#[test]
fn an_order_counts_in_its_time_only() {
    let sure = |signing: Signing, now| judge(&sign(&MESSAGE, &signing, &key(1)), &MESSAGE, now).map(drop);
    assert_eq!(sure(signing(), Some(after(601))), Err(Code::TrustExpired));
    assert_eq!(sure(signing(), None), Err(Code::TrustClockDoubt));
    let early = WallTime::from_millis(NOW.as_millis() - 61_000);
    assert_eq!(sure(signing(), Some(early)), Err(Code::TrustFromFuture));
    assert_eq!(sure(signing(), Some(WallTime::from_millis(NOW.as_millis() - 59_000))), Ok(()), "clocks may differ");
    let later = Signing { not_before: Some(after(120)), ..signing() };
    assert_eq!(sure(later.clone(), Some(NOW)), Err(Code::TrustNotYetValid));
    assert_eq!(sure(later, Some(after(100))), Ok(()));
    let week = 7 * 24 * 3600;
    assert_eq!(sure(Signing { expires: after(week), ..signing() }, Some(NOW)), Ok(()));
    assert_eq!(sure(Signing { expires: after(week + 1), ..signing() }, Some(NOW)), Err(Code::TrustLifetime));
    assert_eq!(sure(Signing { expires: NOW, ..signing() }, Some(NOW)), Err(Code::TrustLifetime));
    let cancel = Message { order: CANCEL, ..MESSAGE };
    let long = sign(&cancel, &Signing { expires: after(3601), ..signing() }, &key(1));
    assert_eq!(judge(&long, &cancel, Some(NOW)).unwrap_err(), Code::TrustLifetime, "only jobs live so long");
}

#[test]
fn the_key_must_be_the_issuers() {
    assert_eq!(judge(&sign(&MESSAGE, &signing(), &key(2)), &MESSAGE, Some(NOW)).unwrap_err(), Code::TrustIssuer);
    assert_eq!(judge(&sign(&MESSAGE, &signing(), &key(9)), &MESSAGE, Some(NOW)).unwrap_err(), Code::TrustUnknownKey);
    let claimed = sign(&MESSAGE, &signing(), &key(9))
        .replace(&key(9).public().id().to_string(), &key(1).public().id().to_string());
    assert_eq!(judge(&claimed, &MESSAGE, Some(NOW)).unwrap_err(), Code::TrustBadSignature);
}

#[test]
fn a_payload_of_another_kind_is_not_read() {
    let judged = |kind: &str, payload: &str| {
        judge(&Envelope::sign(kind, payload.as_bytes().to_vec(), &key(1)).render(), &MESSAGE, Some(NOW)).unwrap_err()
    };
    assert_eq!(judged("application/vnd.neap.keyring.v1+json", "{}"), Code::TrustPayloadType);
    assert_eq!(judged(PAYLOAD_TYPE, "{}"), Code::TrustPayload);
    assert_eq!(judged(PAYLOAD_TYPE, "[1]"), Code::TrustPayload);
    assert_eq!(judged(PAYLOAD_TYPE, "{\"v\":2,\"new\":1}"), Code::TrustVersion);
    assert_eq!(judged(PAYLOAD_TYPE, "{\"v\":1,\"new\":1}"), Code::TrustPayload);
}

#[test]
fn while_keys_are_exchanged_either_is_enough() {
    let old = Envelope::sign(PAYLOAD_TYPE, claims(), &key(9)).render();
    let new = Envelope::sign(PAYLOAD_TYPE, claims(), &key(1)).render();
    let signature = |text: &str| text[text.find("[{").unwrap() + 1..text.len() - 2].to_owned();
    let both = new.replace(&signature(&new), &format!("{},{}", signature(&old), signature(&new)));
    assert!(judge(&both, &MESSAGE, Some(NOW)).is_ok(), "{both}");
}

fn claims() -> Vec<u8> {
    let text = sign(&MESSAGE, &signing(), &key(1));
    Envelope::parse(text.as_bytes(), &LIMITS).unwrap().unverified_payload().to_vec()
}

proptest! {
    #[test]
    fn no_bytes_break_it(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        prop_assert!(verify(&bytes, &ring(), &MESSAGE, Some(NOW)).is_err());
    }

    #[test]
    fn no_signed_payload_breaks_it(payload in "\\PC{0,200}") {
        let envelope = Envelope::sign(PAYLOAD_TYPE, payload.into_bytes(), &key(1)).render();
        prop_assert!(verify(envelope.as_bytes(), &ring(), &MESSAGE, Some(NOW)).is_err());
    }

    #[test]
    fn no_changed_byte_goes_unnoticed(at in 0_usize..2000, bit in 0_u8..8) {
        let mut envelope = sign(&MESSAGE, &signing(), &key(1)).into_bytes();
        let at = at % envelope.len();
        envelope[at] ^= 1 << bit;
        // A field that DSSE does not know is passed over, so a changed name of a needed one is refused as well.
        prop_assert!(verify(&envelope, &ring(), &MESSAGE, Some(NOW)).is_err(), "byte {}", at);
    }
}
