//! What is recorded, and does it play again as it was?

use proptest::prelude::*;

use super::*;
use crate::load::trace::Trace;
use crate::load::{Metric, Observed, push};
use crate::units::{CellId, Health, SourceId, Utilization};

const BEGAN: Instant = Instant::from_nanos(1_000_000_000);
const S: SourceId = SourceId(2);

/// Says one thing in each read.
struct Says(std::vec::IntoIter<Observation>);

impl Source for Says {
    fn fd(&self) -> Option<BorrowedFd<'_>> {
        None
    }

    fn next_poll(&self) -> Option<Instant> {
        None
    }

    fn read(&mut self, _: Instant, sink: &mut dyn FnMut(Observation)) {
        self.0.next().into_iter().for_each(sink);
    }
}

fn reading(cell: u64, observed: Observed) -> Reading {
    Reading { source: S, cell: CellId(cell), stamped: None, observed }
}

fn level(percent: u8, late: Option<u64>) -> Observed {
    Observed::Level { metric: Metric::PrbTotUl, level: Utilization::from_percent(percent).unwrap(), late }
}

fn ms(value: u64) -> Instant {
    BEGAN.after(Duration::from_millis(value))
}

/// Records what is said, one thing every 250 ms, and gives what came through.
fn record(path: &Path, bytes_max: u64, said: Vec<Observation>) -> Vec<Observation> {
    let count = said.len() as u64;
    let settings = Settings { file: path.to_owned(), bytes_max };
    let mut source = Recorded::start(Box::new(Says(said.into_iter())), &settings, BEGAN).unwrap();
    let mut heard = Vec::new();
    for turn in 0..count {
        source.read(ms(250 * turn), &mut |observation| heard.push(observation));
    }
    heard
}

/// What a recording says, with its moments.
fn replay(path: &Path) -> Vec<(Instant, Reading)> {
    let mut trace = Trace::open(S, path, 1.0, false, BEGAN).unwrap();
    let mut heard = Vec::new();
    while let Some(at) = trace.next_poll() {
        trace.read(at, &mut |observation| heard.push((at, Reading { stamped: None, ..observation.unwrap() })));
    }
    heard
}

#[test]
fn what_is_recorded_plays_again_as_it_was_and_what_was_malformed_is_silence() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("day.ndjson");
    let good = [
        reading(7, level(12, None)),
        reading(8, level(93, Some(4))),
        reading(8, Observed::Late { count: 5 }),
        reading(8, Observed::Health { figure: Health::RunQueueDelay, value: 1_200 }),
        reading(7, Observed::Gone),
    ];
    let malformed = Err(super::super::Malformed { source: S, why: "a test" });
    let said = vec![Ok(good[0]), Ok(good[1]), malformed, Ok(good[2]), Ok(good[3]), Ok(good[4])];
    assert_eq!(record(&path, BYTES_MAX, said.clone()), said, "a recorded source says what it said before");
    let moments = [0, 250, 750, 1000, 1250].map(ms);
    assert_eq!(replay(&path), moments.into_iter().zip(good).collect::<Vec<_>>());
}

#[test]
fn a_recording_that_has_its_full_size_ends_with_a_whole_line_and_the_source_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("day.ndjson");
    let said: Vec<Observation> = (0..50).map(|percent| Ok(reading(1, level(percent, None)))).collect();
    assert_eq!(record(&path, 200, said.clone()), said);
    let bytes = fs::metadata(&path).unwrap().len();
    assert!((100..=200).contains(&bytes), "{bytes} bytes");
    let kept = replay(&path);
    assert!((2..10).contains(&kept.len()), "{kept:?}");
    assert_eq!(kept[1].1, reading(1, level(1, None)));
}

#[test]
fn the_recording_before_is_kept_beside_the_new_one() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("day.ndjson");
    for percent in [10, 20, 30] {
        record(&path, BYTES_MAX, vec![Ok(reading(1, level(percent, None)))]);
    }
    assert_eq!(replay(&path)[0].1, reading(1, level(30, None)));
    assert_eq!(replay(&folder.path().join("day.ndjson.1"))[0].1, reading(1, level(20, None)));
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 2);
}

#[test]
fn a_file_that_cannot_be_made_is_told_at_the_start() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("missing/day.ndjson");
    let settings = Settings { file: path, bytes_max: BYTES_MAX };
    let refused = Recorded::start(Box::new(Says(vec![].into_iter())), &settings, BEGAN).err().unwrap().to_string();
    assert!(refused.contains("make the recording") && refused.contains("missing/day.ndjson"), "{refused}");
}

proptest! {
    #[test]
    fn a_recorded_reading_is_never_lower_when_it_is_read_again(
        permille in 0_u16..=1000, cell: u64, late: Option<u64>, which in 0..3,
    ) {
        let metric = [Metric::PrbTotDl, Metric::PrbTotUl, Metric::Cpu][usize::try_from(which).unwrap()];
        let level = Utilization::from_permille(permille).unwrap();
        let reading = reading(cell, Observed::Level { metric, level, late });
        let mut line = String::new();
        recording::write_line(&mut line, Duration::ZERO, &recording::line_of(&reading));
        let again = push::parse(line.trim().as_bytes()).unwrap().readings(S).next().unwrap();
        let Observed::Level { metric: metric_again, level: level_again, late: late_again } = again.observed else {
            panic!("{again:?} is not a level");
        };
        prop_assert_eq!((metric_again, late_again, again.cell), (metric, late, reading.cell));
        prop_assert!(level_again >= level && level_again.permille() - permille < 10);
    }
}
