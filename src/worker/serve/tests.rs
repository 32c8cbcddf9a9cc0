//! What a worker makes of its arguments and of a model's file.

use std::io::Write as _;

use super::*;

fn parse(line: &str) -> Result<Arguments, String> {
    Arguments::parse(line.split_whitespace().map(OsString::from))
}

#[test]
fn arguments_are_read_in_any_order() {
    let parsed = parse("--parent 12 --plan-bytes 1000 --slot 3 --address-bytes 2000").unwrap();
    let jail = jail::Settings { parent: 12, core: None, address_bytes: 2000, policy: jail::Policy::default() };
    assert_eq!(parsed, Arguments { slot: 3, plan_bytes: 1000, jail, dead_man: None });
    let pinned =
        parse("--core 5 --parent 12 --plan-bytes 1000 --slot 3 --address-bytes 2000 --user 7 --sandbox best-effort")
            .unwrap();
    assert_eq!(pinned.jail.core, Some(5));
    assert_eq!(pinned.jail.policy, jail::Policy { level: Level::BestEffort, user: 7, network: true });
    let guarded =
        parse("--dead-man-ms 500 --parent 12 --plan-bytes 1 --slot 3 --address-bytes 2 --dead-man-fd 9").unwrap();
    assert_eq!(guarded.dead_man, Some((9, Duration::from_millis(500))));
}

#[test]
fn wrong_arguments_are_named() {
    let rest = "--plan-bytes 1 --slot 3 --address-bytes 2";
    assert_eq!(parse(rest).unwrap_err(), "--parent is missing");
    assert_eq!(parse(&format!("{rest} --parent")).unwrap_err(), "--parent needs a value");
    assert_eq!(parse(&format!("{rest} --parent x")).unwrap_err(), "--parent \"x\" is not a number in range");
    assert_eq!(parse(&format!("{rest} --parent 1 --colour red")).unwrap_err(), "--colour is unknown");
    assert_eq!(parse(&format!("{rest} --parent 1 --dead-man-fd 9")).unwrap_err(), "--dead-man-ms is missing");
    assert_eq!(parse(&format!("{rest} --parent 1 --dead-man-ms 9")).unwrap_err(), "--dead-man-fd is missing");
}

#[test]
fn a_file_is_read_whole_again_and_again() {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(b"network").unwrap();
    let digest = Digest(Sha256::digest(b"network").into());
    assert_eq!(read(&mut file, digest).unwrap(), b"network");
    assert_eq!(read(&mut file, digest).unwrap(), b"network");
}

#[test]
fn a_file_of_another_digest_is_not_used() {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(b"network").unwrap();
    let fault = read(&mut file, Digest([0; 32])).unwrap_err();
    assert_eq!(fault.code, Code::ModelHashMismatch);
    assert!(fault.message.contains("expected sha256:0000"), "{fault}");
}

#[test]
fn a_file_above_the_limit_is_not_read_into_memory() {
    let file = tempfile::tempfile().unwrap();
    file.set_len(MODEL_BYTES_MAX + 1).unwrap();
    let mut file = file;
    let fault = read(&mut file, Digest([0; 32])).unwrap_err();
    assert_eq!(fault.code, Code::ModelTooLarge);
}
