use std::io::Read;

use proptest::prelude::*;

use super::*;

const TWO_CELLS: &str = include_str!("../../../tests/data/pm/two_cells.xml");
const LISTS: &str = include_str!("../../../tests/data/pm/lists_and_prefix.xml");
const EVENT: &str = include_str!("../../../tests/data/pm/event.json");

fn read(text: &str) -> Counted {
    parse(text.as_bytes()).unwrap_or_else(|error| panic!("{error}\n{text:.400}"))
}

fn why(text: &str) -> String {
    match parse(text.as_bytes()) {
        Err(error) => error.to_string(),
        Ok(counted) => panic!("{counted:?} of {text:.400}"),
    }
}

/// Object, begin, seconds and permille of each level.
fn told(counted: &Counted) -> Vec<(&str, String, u64, u16)> {
    let told = |level: &Level| {
        (counted.objects[level.object].as_str(), level.from.to_string(), level.span.as_secs(), level.level.permille())
    };
    counted.levels.iter().map(told).collect()
}

/// A file with one value of one cell.
fn xml(inside: &str) -> String {
    format!("<measCollecFile><measData><measInfo>{inside}</measInfo></measData></measCollecFile>")
}

const PERIOD: &str =
    r#"<granPeriod duration="PT900S" endTime="2026-11-22T01:00:00Z"/><measType p="1">RRU.PrbTotDl</measType>"#;

#[test]
fn both_cells_of_both_periods_are_read_and_what_cannot_be_trusted_is_counted() {
    let counted = read(TWO_CELLS);
    let (first, second) = ("2026-11-22T00:00:00.000Z".to_owned(), "2026-11-22T00:15:00.000Z".to_owned());
    assert_eq!(
        told(&counted),
        [
            ("GNBDUFunction=1,NRCellDU=1", first.clone(), 900, 310),
            ("GNBDUFunction=1,NRCellDU=2", first, 900, 60),
            ("GNBDUFunction=1,NRCellDU=1", second, 900, 450),
        ]
    );
    assert_eq!(counted.left_out, LeftOut { suspect: 1, absurd: 1, untimed: 0 });
}

#[test]
fn prefixes_lists_and_pairs_of_used_and_available_prbs_are_understood() {
    let counted = read(LISTS);
    assert_eq!(told(&counted), [("NRCellDU=a & b", "2026-11-22T02:00:00.000Z".to_owned(), 300, 505)]);
    assert_eq!(counted.left_out, LeftOut { suspect: 0, absurd: 1, untimed: 1 });
}

#[test]
fn an_event_in_json_is_read_alone_in_a_list_and_without_its_shell() {
    let alone = read(EVENT);
    let from = "2026-11-22T00:00:00.000Z";
    assert_eq!(
        told(&alone),
        [
            ("GNBDUFunction=1,NRCellDU=1", from.to_owned(), 900, 310),
            ("GNBDUFunction=1,NRCellDU=2", from.to_owned(), 900, 60),
        ]
    );
    assert_eq!(alone.left_out, LeftOut { suspect: 1, absurd: 1, untimed: 0 });
    let twice = read(&format!("\u{feff} [{EVENT},\n{EVENT}]"));
    assert_eq!((twice.levels.len(), twice.objects.len()), (4, 2));
    let inner: serde_json::Value = serde_json::from_str(EVENT).unwrap();
    assert_eq!(read(&inner["event"].to_string()), alone);
    let mut without_period = inner;
    without_period["event"]["perf3gppFields"]["measDataCollection"]["granularityPeriod"] = serde_json::Value::Null;
    assert_eq!(read(&without_period.to_string()), alone, "the stamps tell the time as well");
}

#[test]
fn the_highest_object_of_each_time_counts_and_others_can_be_left_aside() {
    let counted = read(TWO_CELLS);
    let permille = |object| counted.highest(object).iter().map(|(_, _, level)| level.permille()).collect::<Vec<_>>();
    assert_eq!(permille(None), [310, 450]);
    assert_eq!(permille(Some("NRCellDU=2")), [60]);
    assert_eq!(permille(Some("NRCellDU=9")), [0; 0]);
    let (from, span, _) = counted.highest(None)[0];
    assert_eq!((from.to_string().as_str(), span.as_secs()), ("2026-11-22T00:00:00.000Z", 900));
}

#[test]
fn entities_of_a_dtd_are_refused_before_they_mean_anything() {
    let laughs = format!(
        "<!DOCTYPE x [<!ENTITY a \"ha\"><!ENTITY b \"&a;&a;&a;\">]>{}",
        xml(&format!("{PERIOD}<measValue><r p=\"1\">&b;</r></measValue>"))
    );
    assert!(why(&laughs).contains("DTD"));
    let outside = format!("<!DOCTYPE x SYSTEM \"file:///etc/passwd\">{TWO_CELLS}");
    assert!(why(&outside.replace("<?xml version=\"1.0\" encoding=\"UTF-8\"?>", "")).contains("DTD"));
    let undeclared = read(&xml(&format!("{PERIOD}<measValue><r p=\"1\">1&b;2</r></measValue>")));
    assert_eq!((undeclared.levels.len(), undeclared.left_out.absurd), (0, 1), "it is no number");
}

#[test]
fn what_is_no_pm_file_is_refused_with_the_reason() {
    for (text, reason) in [
        ("", "begins with neither"),
        ("seconds,percent\n0,1\n", "begins with neither"),
        ("<html><body/></html>", "html"),
        ("{}", "measDataCollection"),
        ("[]", "measDataCollection"),
        ("{\"event\":", "JSON"),
        ("<measCollecFile><measData>", "cut off"),
        ("<measCollecFile></measData></measCollecFile>", "no XML"),
        ("<?xml version=\"1.0\"?>", "cut off"),
    ] {
        let why = why(text);
        assert!(why.contains(reason), "{text:?}: {why}");
    }
    let half = &TWO_CELLS[..TWO_CELLS.len() / 2];
    assert!(["cut off", "no XML"].iter().any(|reason| why(half).contains(reason)), "{}", why(half));
    assert!(why("<measCollecFile>\u{1b}[2J</x>").chars().all(|c| !c.is_control()));
    assert!(parse(&b"<measCollecFile a=\"\xff\xfe\"/>"[..]).is_err(), "not UTF-8");
}

#[test]
fn what_is_beyond_a_limit_is_refused() {
    let deep = "<a>".repeat(20);
    assert!(why(&format!("<measCollecFile>{deep}")).contains("nested"));
    let long = "x".repeat(2 << 20);
    assert!(why(&xml(&format!("<measTypes>{long}</measTypes>"))).contains("tag or text"));
    assert!(why(&format!("<measCollecFile a=\"{long}\"/>")).contains("tag or text"));
    assert!(why(&format!("[{}1]", " ".repeat(5 << 20))).contains("split the file"));
    let values = "<measValue measObjLdn=\"c\"><r p=\"1\">1</r></measValue>".repeat(LEVELS_MAX + 1);
    assert!(why(&xml(&format!("{PERIOD}{values}"))).contains("split the file"));
    let endless = std::io::BufReader::new(std::io::repeat(b'>').chain(std::io::empty()));
    let start = &b"<measCollecFile>"[..];
    let error = parse(std::io::BufReader::new(start.chain(endless))).unwrap_err().to_string();
    assert!(error.contains("more than"), "{error}");
}

#[test]
fn times_that_cannot_be_are_no_times() {
    for period in [
        r#"duration="PT900S" endTime="2026-11-22T01:00:00""#,
        r#"duration="PT900S" endTime="1970-01-01T00:15:00Z""#,
        r#"duration="PT900S" endTime="2226-11-22T01:00:00Z""#,
        r#"duration="PT0S" endTime="2026-11-22T01:00:00Z""#,
        r#"duration="P8D" endTime="2026-11-22T01:00:00Z""#,
        r#"duration="P1M" endTime="2026-11-22T01:00:00Z""#,
        r#"endTime="2026-11-22T01:00:00Z""#,
        r#"duration="PT900S""#,
    ] {
        let value = "<measValue measObjLdn=\"c\"><r p=\"1\">1</r></measValue>";
        let counted = read(&xml(&format!("<granPeriod {period}/><measType p=\"1\">RRU.PrbTotDl</measType>{value}")));
        assert_eq!((counted.levels.len(), counted.left_out.untimed), (0, 1), "{period}");
    }
}

#[test]
fn a_measurement_counts_in_its_own_info_only() {
    let other = format!(
        "{PERIOD}</measInfo><measInfo><granPeriod duration=\"PT900S\" endTime=\"2026-11-22T01:00:00Z\"/>\
         <measType p=\"1\">DRB.UEThpDl</measType><measValue measObjLdn=\"c\"><r p=\"1\">7</r></measValue>"
    );
    assert_eq!(read(&xml(&other)), Counted::default());
}

/// Hands out a few bytes at a time, as a slow disk does.
struct Crumbs<'a>(&'a [u8]);

impl Read for Crumbs<'_> {
    fn read(&mut self, into: &mut [u8]) -> std::io::Result<usize> {
        let length = into.len().min(3);
        self.0.read(&mut into[..length])
    }
}

#[test]
fn a_file_that_comes_in_crumbs_says_the_same() {
    for text in [TWO_CELLS, LISTS, EVENT] {
        assert_eq!(parse(std::io::BufReader::new(Crumbs(text.as_bytes()))).unwrap(), read(text));
    }
}

proptest! {
    #[test]
    fn damaged_files_are_read_without_panic_and_their_levels_are_in_range(
        which in 0..3_usize, at in any::<prop::sample::Index>(), with in "[<>/\"=&;a-z0-9 {}\\[\\],.-]{0,6}", cut in 0..20_usize,
    ) {
        let text = [TWO_CELLS, LISTS, EVENT][which];
        let at = at.index(text.len());
        let damaged = format!("{}{with}{}", &text[..at], &text[(at + cut).min(text.len())..]);
        if let Ok(counted) = parse(damaged.as_bytes()) {
            for level in counted.levels {
                prop_assert!(level.level <= Utilization::FULL && level.object < counted.objects.len());
                prop_assert!(level.from >= FIRST && level.span <= SPAN_MAX);
            }
        }
    }
}
