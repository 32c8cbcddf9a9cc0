use super::*;
use crate::trust::key::SEED_BYTES;

fn key(seed: u8) -> PrivateKey {
    PrivateKey::from_seed(&[seed; SEED_BYTES])
}

fn entry(seed: u8, role: Role) -> Entry {
    Entry {
        key: key(seed).public(),
        role,
        owner: "ctl-a".parse().unwrap(),
        not_before: None,
        not_after: None,
        nodes: everything(),
        models: everything(),
    }
}

fn ring(seeds: &[u8]) -> KeyRing {
    let mut ring = KeyRing::default();
    for seed in seeds {
        ring.add(entry(*seed, Role::Controller)).unwrap();
    }
    ring
}

#[test]
fn a_ring_survives_its_file() {
    let mut ring = ring(&[1, 2]);
    let moment = WallTime::from_millis(1_764_000_000_000);
    let narrow = Entry { not_after: Some(moment), nodes: vec!["north/*".to_owned()], ..entry(3, Role::Publisher) };
    ring.add(narrow).unwrap();
    ring.revoke(key(2).public().id(), moment, "lost\nlaptop").unwrap();
    assert_eq!(ring.seq(), 4);
    assert_eq!(KeyRing::parse(ring.render().as_bytes()).unwrap(), ring);
    assert_eq!(ring.revoked(key(2).public().id()).unwrap().why, "lostlaptop");
}

#[test]
fn a_key_counts_for_its_role_and_its_time() {
    let mut ring = ring(&[1, 2]);
    let at = WallTime::from_millis;
    ring.add(Entry { not_before: Some(at(100)), not_after: Some(at(200)), ..entry(3, Role::Controller) }).unwrap();
    ring.revoke(key(2).public().id(), at(5), "stolen").unwrap();
    let code = |seed, role, now: Option<i64>| {
        let id = key(seed).public().id().to_string();
        ring.counting(&id, role, now.map(at)).map(drop).map_err(|fault| fault.code)
    };
    assert_eq!(code(1, Role::Controller, Some(0)), Ok(()));
    assert_eq!(code(1, Role::Publisher, Some(0)), Err(Code::TrustKeyRole));
    assert_eq!(code(2, Role::Controller, Some(0)), Err(Code::TrustKeyRevoked), "whenever it signed");
    assert_eq!(code(9, Role::Controller, Some(0)), Err(Code::TrustUnknownKey));
    assert_eq!(code(3, Role::Controller, Some(99)), Err(Code::TrustKeyNotYetValid));
    assert_eq!(code(3, Role::Controller, Some(100)), Ok(()));
    assert_eq!(code(3, Role::Controller, Some(201)), Err(Code::TrustKeyExpired));
    assert_eq!(code(3, Role::Controller, None), Ok(()), "nobody knows the time");
    assert_eq!(ring.counting("", Role::Controller, None).unwrap_err().code, Code::TrustUnknownKey);
}

#[test]
fn a_revoked_key_never_comes_back() {
    let mut ring = ring(&[1]);
    ring.revoke(key(1).public().id(), WallTime::from_millis(5), "stolen").unwrap();
    assert!(ring.add(entry(1, Role::Controller)).unwrap_err().message.contains("never counts again"));
}

#[test]
fn an_older_ring_takes_nobodys_place() {
    let old = ring(&[1]);
    let mut new = old.clone();
    new.add(entry(2, Role::Controller)).unwrap();
    assert_eq!(old.succeeded_by(new.render().as_bytes()).unwrap(), new);
    assert_eq!(new.succeeded_by(old.render().as_bytes()).unwrap_err().code, Code::TrustRingRollback);
    assert_eq!(new.succeeded_by(new.render().as_bytes()).unwrap(), new, "the same again is no change");
    let other = ring(&[7, 8]);
    assert_eq!(new.succeeded_by(other.render().as_bytes()).unwrap_err().code, Code::TrustRingRollback, "same seq");
    assert_eq!(old.check_not_older(2).unwrap_err().code, Code::TrustRingRollback);
    assert_eq!(old.check_not_older(1), Ok(()));
}

#[test]
fn roots_hand_over_to_one_another() {
    let mut first = ring(&[1]);
    first.add_root(key(11).public()).unwrap();
    assert!(KeyRing::parse(first.render().as_bytes()).is_err(), "a ring with roots is signed");
    assert!(KeyRing::parse(first.sign(&key(12)).as_bytes()).is_err(), "by one of them");
    let first = KeyRing::parse(first.sign(&key(11)).as_bytes()).unwrap();

    let mut both = first.clone();
    both.add_root(key(12).public()).unwrap();
    let both_signed = both.sign(&key(11));
    let both = first.succeeded_by(both_signed.as_bytes()).unwrap();

    let mut last = both.clone();
    last.revoke(key(11).public().id(), WallTime::from_millis(1), "rotated").unwrap();
    let last = both.succeeded_by(last.sign(&key(12)).as_bytes()).unwrap();
    assert_eq!(last.roots(), [key(12).public()]);

    let mut forged = last.clone();
    forged.add_root(key(66).public()).unwrap();
    assert!(last.succeeded_by(forged.sign(&key(66)).as_bytes()).is_err(), "a root that names itself");
    assert!(last.succeeded_by(forged.sign(&key(11)).as_bytes()).is_err(), "a root that was revoked");
    assert!(last.succeeded_by(ring(&[1, 2, 3, 4, 5, 6]).render().as_bytes()).is_err(), "no signature at all");
}

#[test]
fn what_makes_no_sense_is_refused_with_its_place() {
    let text = ring(&[1]).render();
    for (from, to, word) in [
        ("\"v\": 1", "\"v\": 2", "version 2"),
        ("\"seq\"", "\"sequence\"", "sequence"),
        ("controller", "king", "king"),
        ("ctl-a", "Ctl A", "Ctl A"),
        ("\"nodes\": [\n        \"*\"\n      ]", "\"nodes\": []", "nodes"),
        ("BEGIN PUBLIC", "BEGIN PRIVATE", "keys[0]"),
    ] {
        let changed = text.replace(from, to);
        assert_ne!(changed, text, "{from}");
        let fault = KeyRing::parse(changed.as_bytes()).unwrap_err();
        assert_eq!(fault.code, Code::TrustRing);
        assert!(fault.message.contains(word), "{fault}");
    }
    let id = key(1).public().id().to_string();
    assert!(KeyRing::parse(text.replace(&id, "0123456789abcdef").as_bytes()).unwrap_err().message.contains(&id));
}

#[test]
fn controllers_are_bounded() {
    let mut ring = KeyRing::default();
    for seed in 0..=16_u8 {
        let owner = format!("ctl-{seed}").parse().unwrap();
        let added = ring.add(Entry { owner, ..entry(seed + 1, Role::Controller) });
        assert_eq!(added.is_ok(), usize::from(seed) < ISSUERS_MAX, "{seed}");
    }
}
