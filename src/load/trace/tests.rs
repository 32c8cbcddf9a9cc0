use std::io::Write as _;
use std::path::PathBuf;

use proptest::prelude::*;

use super::*;
use crate::load::fusion::{FusedLoad, Fusion, Trust};
use crate::load::{Metric, Observed};
use crate::units::{CellId, Utilization};

const A: SourceId = SourceId(1);

fn at(ms: u64) -> Instant {
    Instant::from_nanos(1_000_000_000 + ms * 1_000_000)
}

fn level_of(percent: u8) -> Observed {
    Observed::Level { metric: Metric::PrbTotDl, level: Utilization::from_percent(percent).unwrap(), late: None }
}

fn recording(text: &str) -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("day.csv");
    File::create(&path).unwrap().write_all(text.as_bytes()).unwrap();
    (folder, path)
}

fn open(text: &str, speed: f64, repeat: bool) -> Result<Trace, String> {
    let (_folder, path) = recording(text);
    let name = path.display().to_string();
    Trace::open(A, &path, speed, repeat, at(0)).map_err(|problem| problem.to_string().replace(&name, "day.csv"))
}

fn played(trace: &mut Trace, now: Instant) -> Vec<Reading> {
    let mut all = Vec::new();
    trace.read(now, &mut |observation| all.push(observation.unwrap()));
    all
}

#[test]
fn lines_play_at_their_distance_from_the_first_and_carry_that_stamp() {
    let mut trace = open("seconds,percent,cell\n100,10,7\n102.5, 20 ,8\n\n102.5,30,7\n", 1.0, false).unwrap();
    assert_eq!(trace.next_poll(), Some(at(0)));
    let reading = |cell, ms, percent| Reading {
        source: A,
        cell: CellId(cell),
        stamped: Some(at(ms)),
        observed: level_of(percent),
    };
    assert_eq!(played(&mut trace, at(0)), [reading(7, 0, 10)]);
    assert_eq!(trace.next_poll(), Some(at(2500)));
    assert_eq!(played(&mut trace, at(2499)), []);
    assert_eq!(played(&mut trace, at(2510)), [reading(8, 2500, 20), reading(7, 2500, 30)]);
}

#[test]
fn speed_divides_the_distances() {
    let mut trace = open("seconds,percent\n0,10\n120,20\n", 240.0, false).unwrap();
    assert_eq!(played(&mut trace, at(499)).len(), 1);
    assert_eq!(played(&mut trace, at(500)).len(), 1);
}

#[test]
fn a_recording_that_ended_is_silent_and_so_goes_stale() {
    let mut trace = open("seconds,percent\n0,10\n1,10\n", 1.0, false).unwrap();
    let mut fusion = Fusion::new(&[Trust { freshness: Duration::from_secs(2), required: true, planning: false }]);
    for reading in played(&mut trace, at(1000)) {
        fusion.on_observation(at(1000), Ok(Reading { source: SourceId(0), ..reading }));
    }
    assert_eq!(trace.next_poll(), None);
    assert!(matches!(fusion.current(at(2999)).load, FusedLoad::Level(..)));
    assert!(matches!(fusion.current(at(3000)).load, FusedLoad::Stale(_)));
    assert_eq!(played(&mut trace, at(3000)), []);
}

#[test]
fn a_repeated_recording_starts_again_after_its_last_line_has_lasted() {
    let mut trace = open("seconds,percent\n0,10\n2,20\n3,30\n", 1.0, true).unwrap();
    let stamps: Vec<_> = played(&mut trace, at(8000)).into_iter().map(|reading| reading.stamped.unwrap()).collect();
    assert_eq!(stamps, [0, 2000, 3000, 4000, 6000, 7000, 8000].map(at));
}

#[test]
fn a_repeated_recording_of_one_line_does_not_spin() {
    let mut trace = open("seconds,percent\n0,10\n", 1.0, true).unwrap();
    assert_eq!(played(&mut trace, at(0)).len(), 1);
    assert_eq!(trace.next_poll(), Some(at(100)));
}

#[test]
fn one_call_plays_no_more_than_its_limit() {
    let mut text = "seconds,percent\n".to_owned();
    (0..100).for_each(|line| text.push_str(&format!("{line},1\n")));
    let mut trace = open(&text, 1.0, false).unwrap();
    assert_eq!(played(&mut trace, at(1_000_000)).len(), READ_MAX);
    assert!(trace.next_poll().is_some_and(|due| due <= at(1_000_000)));
    assert_eq!(played(&mut trace, at(1_000_000)).len(), 100 - READ_MAX);
}

#[test]
fn ndjson_lines_are_lines_of_the_push_format_with_a_time() {
    let text =
        "{\"t_s\":5,\"cell\":4,\"RRU.PrbTotUl\":3,\"late\":9,\"mono_ns\":1}\n{\"t_s\":6.0,\"cell\":4,\"gone\":true}";
    let mut trace = open(text, 1.0, false).unwrap();
    let level = Utilization::from_percent(3).unwrap();
    let first = Observed::Level { metric: Metric::PrbTotUl, level, late: Some(9) };
    let reading = |ms, observed| Reading { source: A, cell: CellId(4), stamped: Some(at(ms)), observed };
    assert_eq!(played(&mut trace, at(1000)), [reading(0, first), reading(1000, Observed::Gone)]);
}

#[test]
fn a_bad_line_is_named_with_its_number_value_and_rule() {
    let cases = [
        ("time,load\n0,1\n", "day.csv:1: \"time,load\" is neither the header \"seconds,percent\""),
        ("seconds,percent\n0,1\n1,101\n", "day.csv:3: percent 101 is not 0 to 100"),
        ("seconds,percent\n0,1\n\nx,1\n", "day.csv:4: seconds \"x\" is not a number"),
        ("seconds,percent\n0,NaN\n", "day.csv:2: percent NaN is not 0 to 100"),
        ("seconds,percent\nNaN,1\n", "day.csv:2: time NaN s is not 0 to 1e10"),
        ("seconds,percent\n-1,1\n", "day.csv:2: time -1 s is not 0 to 1e10"),
        ("seconds,percent\n0,1,2\n", "day.csv:2: 3 fields where the header has 2"),
        ("seconds,percent,cell\n0,1,-2\n", "day.csv:2: cell \"-2\" is not a whole number"),
        ("seconds,percent\n5,1\n4,1\n", "day.csv:3: 4 s is before the line above: times must not go down"),
        ("{\"t_s\":1,\"RRU.PrbTotDl\":101}\n", "day.csv:1: a percentage above 100"),
        ("{\"RRU.PrbTotDl\":1}\n", "day.csv:1: no time \"t_s\" in seconds"),
        ("{\"t_s\":1,\"late\":1}\n1,2\n", "day.csv:2: no time \"t_s\" in seconds"),
        ("", "day.csv: is empty"),
        ("seconds,percent\n", "day.csv: has a header and no lines"),
    ];
    for (text, expected) in cases {
        let error = open(text, 1.0, false).expect_err(text);
        assert!(error.starts_with(expected), "{text:?} gave {error:?}, expected {expected:?}");
    }
}

#[test]
fn a_recording_above_the_limits_is_refused() {
    let long = format!("seconds,percent\n{}", "0,1\n".repeat(LINES_MAX + 1));
    assert!(open(&long, 1.0, false).unwrap_err().contains("more than 200000 readings"));
    let large = " ".repeat(usize::try_from(BYTES_MAX).unwrap() + 1);
    assert!(open(&large, 1.0, false).unwrap_err().contains("larger than 16 MiB"));
}

#[test]
fn a_speed_that_makes_no_sense_is_refused() {
    for speed in [0.0, -1.0, f64::NAN, f64::INFINITY, 1e6] {
        assert!(open("seconds,percent\n0,1\n", speed, false).unwrap_err().contains("0.001 to 100000"), "{speed}");
    }
}

#[test]
fn a_recording_that_is_not_there_is_named() {
    let error = Trace::open(A, Path::new("/nonexistent/day.csv"), 1.0, false, at(0)).unwrap_err().to_string();
    assert!(error.contains("/nonexistent/day.csv"), "{error}");
}

proptest! {
    #[test]
    fn arbitrary_text_never_panics(text in "(seconds,percent(,cell)?\n)?([0-9a-z{}\":,.\n\\-]{0,200})") {
        let _ = parse(A, &text);
    }

    #[test]
    fn every_line_is_played_once_in_order_whatever_the_pauses(
        gaps in proptest::collection::vec(0..5000_u64, 1..50), pauses in proptest::collection::vec(0..3000_u64, 0..50),
    ) {
        let mut text = "seconds,percent,cell\n".to_owned();
        let mut ms = 0;
        for (cell, gap) in gaps.iter().enumerate() {
            ms += gap;
            text.push_str(&format!("{}.{:03},5,{cell}\n", ms / 1000, ms % 1000));
        }
        let mut trace = open(&text, 1.0, false).unwrap();
        let (mut now, mut cells) = (0, Vec::new());
        for pause in pauses.into_iter().chain([1_000_000]) {
            now += pause;
            for reading in played(&mut trace, at(now)) {
                prop_assert!(reading.stamped.unwrap() <= at(now));
                cells.push(reading.cell.0);
            }
        }
        prop_assert_eq!(cells, (0..gaps.len() as u64).collect::<Vec<_>>());
    }
}
