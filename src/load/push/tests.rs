use std::os::unix::net::UnixDatagram;

use proptest::prelude::*;
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::*;
use crate::load::{Metric, Observed, Reading};
use crate::units::{CellId, Utilization};

const A: SourceId = SourceId(3);
const NOW: Instant = Instant::from_nanos(0);

fn percent(value: u8) -> Utilization {
    Utilization::from_percent(value).unwrap()
}

fn level(cell: u64, metric: Metric, value: u8, late: Option<u64>) -> Observation {
    let observed = Observed::Level { metric, level: percent(value), late };
    Ok(Reading { source: A, cell: CellId(cell), stamped: None, observed })
}

fn why(line: &str) -> &'static str {
    parse(line.as_bytes()).expect_err(line)
}

fn said(datagram_bytes: &[u8]) -> Vec<Observation> {
    let mut all = Vec::new();
    assert_eq!(datagram(A, datagram_bytes, &mut |observation| all.push(observation)), all.len());
    all
}

/// All that waits at the source, after something has.
fn wait_and_read(push: &mut Push) -> Vec<Observation> {
    let fd = push.fd().unwrap();
    let limit = Timespec { tv_sec: 10, tv_nsec: 0 };
    assert_eq!(poll(&mut [PollFd::new(&fd, PollFlags::IN)], Some(&limit)), Ok(1), "nothing arrived");
    let mut all = Vec::new();
    push.read(NOW, &mut |observation| all.push(observation));
    all
}

#[test]
fn the_higher_direction_decides() {
    let line = br#"{"cell":1,"RRU.PrbTotDl":6,"RRU.PrbTotUl":3,"late":0}"#;
    assert_eq!(said(line), [level(1, Metric::PrbTotDl, 6, Some(0))]);
    assert_eq!(said(br#"{"cell":1,"RRU.PrbTotDl":6,"RRU.PrbTotUl":60}"#), [level(1, Metric::PrbTotUl, 60, None)]);
    assert_eq!(said(br#"{"RRU.PrbTotUl":6,"RRU.PrbTotDl":6}"#), [level(0, Metric::PrbTotDl, 6, None)]);
    assert_eq!(said(br#"{"RRU.PrbTotUl":6,"cpu":61}"#), [level(0, Metric::Cpu, 61, None)]);
}

#[test]
fn unknown_keys_are_skipped_whatever_they_hold() {
    let line = br#" { "note" : "a \"b\" \u00e9", "RRU.PrbTotDl" : 0 , "x":[{"cell":9,"y":[[]]},null,-1.5e-3],"z":{}} "#;
    assert_eq!(said(line), [level(0, Metric::PrbTotDl, 0, None)]);
}

#[test]
fn a_stamp_is_the_sender_s_monotonic_clock() {
    let parsed = parse(br#"{"RRU.PrbTotDl":1,"mono_ns":123}"#).unwrap();
    assert_eq!(parsed.stamped, Some(Instant::from_nanos(123)));
}

#[test]
fn a_counter_or_a_goodbye_may_stand_alone() {
    let alone = |observed| [Ok(Reading { source: A, cell: CellId(2), stamped: None, observed })];
    assert_eq!(said(br#"{"cell":2,"late":18446744073709551615}"#), alone(Observed::Late { count: u64::MAX }));
    assert_eq!(said(br#"{"cell":2,"gone":true}"#), alone(Observed::Gone));
    assert_eq!(said(br#"{"cell":2,"gone":false,"late":1}"#), alone(Observed::Late { count: 1 }));
}

#[test]
fn whole_numbers_may_have_a_decimal_point_and_no_others() {
    assert_eq!(parse(br#"{"RRU.PrbTotDl":100.0}"#).unwrap().dl, Some(100));
    assert_eq!(why(r#"{"RRU.PrbTotDl":6.5}"#), "a number that is not whole");
    assert_eq!(why(r#"{"RRU.PrbTotDl":1e1}"#), "a number with an exponent");
    assert_eq!(why(r#"{"RRU.PrbTotDl":1.0e1}"#), "a number that is not whole");
}

#[test]
fn values_out_of_range_or_of_another_type_are_malformed() {
    for bad in
        ["101", "-1", "-0", "256", "1000", "99999999999999999999999", "100.1", "\"6\"", "true", "null", "[6]", "{}"]
    {
        why(&format!("{{\"RRU.PrbTotDl\":{bad}}}"));
        why(&format!("{{\"RRU.PrbTotUl\":{bad},\"RRU.PrbTotDl\":1}}"));
    }
    for key in ["cell", "late", "mono_ns"] {
        for bad in ["-1", "18446744073709551616", "1.5", "\"1\"", "null"] {
            why(&format!("{{\"RRU.PrbTotDl\":1,\"{key}\":{bad}}}"));
        }
    }
    for bad in ["1", "\"true\"", "null"] {
        why(&format!("{{\"RRU.PrbTotDl\":1,\"gone\":{bad}}}"));
    }
}

#[test]
fn what_is_not_one_json_object_is_malformed() {
    let bad = [
        "",
        "6",
        "[]",
        "null",
        "{",
        "}",
        "{}",
        r#"{"RRU.PrbTotDl":}"#,
        r#"{"RRU.PrbTotDl":1"#,
        r#"{"RRU.PrbTotDl":1,}"#,
        r#"{"RRU.PrbTotDl":NaN}"#,
        r#"{"RRU.PrbTotDl":Infinity}"#,
        r#"{"RRU.PrbTotDl":01}"#,
        r#"{"RRU.PrbTotDl":1.}"#,
        r#"{"RRU.PrbTotDl":.5}"#,
        r#"{"RRU.PrbTotDl":+1}"#,
        r#"{"RRU.PrbTotDl":1}{}"#,
        r#"{"RRU.PrbTotDl":1} x"#,
        r#"{RRU.PrbTotDl:1}"#,
        r#"{'RRU.PrbTotDl':1}"#,
        r#"{"RRU.PrbTotDl" 1}"#,
        "{\"RRU.PrbTotDl\":1,\"a\":\"\u{1}\"}",
        r#"{"RRU.PrbTotDl":1,"a":"\x"}"#,
        r#"{"RRU.PrbTotDl":1,"a":"\u12"}"#,
        r#"{"RRU.PrbTotDl":1,"a":tru}"#,
    ];
    for line in bad {
        why(line);
    }
    assert_eq!(parse(b"{\"RRU.PrbTotDl\":1,\"a\":\"\xff\"}"), Err("not UTF-8"));
    assert_eq!(why(&format!("{{\"RRU.PrbTotDl\":1,\"a\":{}{}}}", "[".repeat(40), "]".repeat(40))), "nested too deeply");
}

#[test]
fn a_line_without_load_or_with_contradictions_is_malformed() {
    assert_eq!(why(r#"{"cell":1,"mono_ns":5,"gone":false}"#), why("{}"));
    assert_eq!(why(r#"{"gone":true,"RRU.PrbTotDl":1}"#), "gone together with a load");
    assert_eq!(why(r#"{"RRU.PrbTotDl":90,"RRU.PrbTotDl":1}"#), "a key that occurs twice");
}

#[test]
fn a_known_key_cannot_hide_behind_an_escape() {
    assert_eq!(why(r#"{"RRU.PrbTot\u0044l":95,"RRU.PrbTotUl":3}"#), "a key with an escape in it");
}

#[test]
fn a_datagram_holds_several_lines_and_each_bad_one_is_told() {
    let all = said(b"{\"cell\":1,\"RRU.PrbTotDl\":1}\n\nnonsense\r\n{\"cell\":2,\"RRU.PrbTotDl\":2}\n");
    assert_eq!(all.len(), 3);
    assert_eq!((all[0], all[2]), (level(1, Metric::PrbTotDl, 1, None), level(2, Metric::PrbTotDl, 2, None)));
    assert_eq!(all[1], Err(Malformed { source: A, why: "not a JSON object" }));
}

#[test]
fn an_empty_datagram_is_malformed() {
    for bytes in [&b""[..], b"\n", b" \r\n\n"] {
        assert_eq!(said(bytes), [Err(Malformed { source: A, why: "an empty datagram" })]);
    }
}

#[test]
fn lines_arrive_over_a_unix_socket_and_its_file_goes_with_it() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("load.sock");
    let mut push = Push::unix(A, &path, SOCKET_MODE_DEFAULT).unwrap();
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o660);
    let feeder = UnixDatagram::unbound().unwrap();
    feeder.send_to(encode(CellId(1), Some(80), Some(3), Some(0), None, false).as_bytes(), &path).unwrap();
    feeder.send_to(b"nonsense", &path).unwrap();
    let all = wait_and_read(&mut push);
    assert_eq!(all[0], level(1, Metric::PrbTotDl, 80, Some(0)));
    assert!(all[1].is_err());
    drop(push);
    assert!(!path.exists());
}

#[test]
fn a_datagram_above_the_limit_is_malformed_and_one_at_the_limit_is_not() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("load.sock");
    let mut push = Push::unix(A, &path, SOCKET_MODE_DEFAULT).unwrap();
    let feeder = UnixDatagram::unbound().unwrap();
    for (length, good) in [(DATAGRAM_BYTES_MAX, true), (DATAGRAM_BYTES_MAX + 1, false)] {
        let mut line = encode(CellId(1), Some(1), None, None, None, false).into_bytes();
        line.resize(length, b' ');
        feeder.send_to(&line, &path).unwrap();
        let all = wait_and_read(&mut push);
        assert_eq!((all.len(), all[0].is_ok()), (1, good));
    }
}

#[test]
fn one_call_stops_at_its_limit_and_the_next_one_goes_on() {
    let mut push = Push::udp(A, "127.0.0.1:0".parse().unwrap()).unwrap();
    let feeder = UdpSocket::bind("127.0.0.1:0").unwrap();
    let to = push.udp_address().unwrap();
    for cell in 0..100 {
        feeder.send_to(encode(CellId(cell), Some(1), None, None, None, false).as_bytes(), to).unwrap();
    }
    let first = wait_and_read(&mut push);
    assert!(first.len() <= READ_MAX);
    let mut cells = first;
    while cells.len() < 100 {
        cells.extend(wait_and_read(&mut push));
    }
    assert_eq!(cells, (0..100).map(|cell| level(cell, Metric::PrbTotDl, 1, None)).collect::<Vec<_>>());
    let mut rest = 0;
    push.read(NOW, &mut |_| rest += 1);
    assert_eq!(rest, 0, "an empty socket must not block");
}

#[test]
fn only_loopback_addresses_may_listen() {
    for address in ["0.0.0.0:7100", "192.0.2.1:7100", "[::]:7100"] {
        let refused = Push::udp(A, address.parse().unwrap()).unwrap_err().to_string();
        assert!(refused.contains(address) && refused.contains("loopback"), "{refused}");
    }
}

#[test]
fn the_socket_of_a_dead_agent_is_replaced() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("load.sock");
    drop(UnixDatagram::bind(&path).unwrap());
    assert!(path.exists());
    let mut push = Push::unix(A, &path, SOCKET_MODE_DEFAULT).unwrap();
    UnixDatagram::unbound().unwrap().send_to(b"{\"late\":1}", &path).unwrap();
    assert_eq!(wait_and_read(&mut push).len(), 1);
}

#[test]
fn the_socket_of_a_dying_agent_is_waited_for() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("load.sock");
    let held = UnixDatagram::bind(&path).unwrap();
    let holder = std::thread::spawn(move || {
        // Long enough for a first look, which then finds somebody.
        std::thread::sleep(std::time::Duration::from_millis(100));
        drop(held);
    });
    Push::unix(A, &path, SOCKET_MODE_DEFAULT).unwrap();
    holder.join().unwrap();
}

#[test]
fn the_socket_of_a_live_agent_is_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("load.sock");
    let mut first = Push::unix(A, &path, SOCKET_MODE_DEFAULT).unwrap();
    assert!(matches!(Push::unix(A, &path, SOCKET_MODE_DEFAULT), Err(Problem::SocketInUse { .. })));
    UnixDatagram::unbound().unwrap().send_to(b"{\"late\":1}", &path).unwrap();
    assert_eq!(wait_and_read(&mut first).len(), 1);
}

#[test]
fn another_file_in_the_socket_s_place_is_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("load.sock");
    fs::write(&path, "precious").unwrap();
    assert!(matches!(Push::unix(A, &path, SOCKET_MODE_DEFAULT), Err(Problem::NotASocket { .. })));
    assert_eq!(fs::read_to_string(&path).unwrap(), "precious");
}

#[test]
fn the_socket_of_a_successor_survives_our_end() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("load.sock");
    let first = Push::unix(A, &path, SOCKET_MODE_DEFAULT).unwrap();
    // Kept under another name, so that its inode is not given to the next one.
    fs::rename(&path, folder.path().join("old.sock")).unwrap();
    let _second = Push::unix(A, &path, SOCKET_MODE_DEFAULT).unwrap();
    drop(first);
    assert!(path.exists());
}

#[test]
fn a_socket_path_or_mode_that_cannot_work_is_refused_with_the_rule() {
    let long = PathBuf::from(format!("/{}", "x".repeat(SOCKET_PATH_BYTES_MAX)));
    for path in [Path::new("load.sock"), &long] {
        let refused = check_socket(path, SOCKET_MODE_DEFAULT).unwrap_err().to_string();
        assert!(refused.contains("absolute path of at most 107 bytes"), "{refused}");
    }
    for mode in [0o2660, 0o060, 0] {
        assert!(check_socket(Path::new("/run/neap/load.sock"), mode).is_err(), "{mode:o}");
    }
    let missing = Push::unix(A, Path::new("/nonexistent-directory/load.sock"), 0o660).unwrap_err().to_string();
    assert!(missing.contains("/nonexistent-directory/load.sock") && missing.contains("directory"), "{missing}");
}

fn json_text() -> impl Strategy<Value = String> {
    use serde_json::{Value, json};
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(|number| json!(number)),
        ".{0,8}".prop_map(Value::from),
    ];
    let value = leaf.prop_recursive(4, 32, 4, |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            proptest::collection::btree_map("[a-z]{0,4}", inner, 0..4).prop_map(|map| json!(map)),
        ]
    });
    (proptest::collection::btree_map("[a-zA-Z. é]{0,6}", value, 0..6), any::<bool>()).prop_map(|(map, pretty)| {
        if pretty { serde_json::to_string_pretty(&map).unwrap() } else { serde_json::to_string(&map).unwrap() }
    })
}

/// Whether the scanner takes it.
fn scanned(text: &str) -> bool {
    json::each_member(text, |_, _| Ok(())).is_ok()
}

/// Whether `serde_json` takes it as an object, with an opinion on syntax only.
fn is_object(text: &str) -> bool {
    serde_json::from_str::<std::collections::BTreeMap<String, serde::de::IgnoredAny>>(text).is_ok()
}

proptest! {
    #[test]
    fn what_a_feeder_encodes_is_what_is_read(
        cell: u64, dl in proptest::option::of(0..=100_u8), ul in proptest::option::of(0..=100_u8),
        late: Option<u64>, stamp: Option<u64>,
    ) {
        let gone = dl.is_none() && ul.is_none() && late.is_none();
        let stamped = stamp.map(Instant::from_nanos);
        let line = encode(CellId(cell), dl, ul, late, stamped, gone);
        prop_assert!(line.ends_with('\n') && line.len() < 200);
        let expected = Line { cell: CellId(cell), dl, ul, late, stamped, gone, ..Line::default() };
        prop_assert_eq!(parse(line.as_bytes()), Ok(expected));
    }

    #[test]
    fn arbitrary_bytes_never_panic_and_always_say_something(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        prop_assert!(!said(&bytes).is_empty());
    }

    #[test]
    fn arbitrary_text_near_the_format_never_panics_and_stays_in_range(text in "[{}\"a-zRU.PrbTotDl:,0-9eE+\\-\\[\\] \\\\\n]{0,120}") {
        for observation in said(text.as_bytes()).into_iter().flatten() {
            if let Observed::Level { level, .. } = observation.observed {
                prop_assert!(level <= Utilization::FULL);
            }
        }
    }

    #[test]
    fn the_scanner_takes_what_serde_json_writes(text in json_text()) {
        prop_assert!(scanned(&text), "{}", text);
    }

    #[test]
    fn the_scanner_takes_nothing_that_serde_json_refuses(
        text in json_text(), at in any::<prop::sample::Index>(), with in "[{}\\[\\]\",:0-9.eE+\\-a-z\\\\ ]?", cut: bool,
    ) {
        let at = (0..=at.index(text.len())).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
        let after = text[at..].chars().next().map_or(at, |c| at + c.len_utf8());
        let damaged = format!("{}{with}{}", &text[..at], &text[if cut { after } else { at }..]);
        prop_assert!(!scanned(&damaged) || is_object(&damaged), "{}", damaged);
    }
}
