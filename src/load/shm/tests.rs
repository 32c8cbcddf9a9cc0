//! Claims about the page, with real files and mappings.

use std::fs;

use super::*;
use crate::units::CellId;

const FRESHNESS: Duration = Duration::from_millis(300);

fn at(ms: u64) -> Instant {
    Instant::from_nanos(ms * 1_000_000)
}

fn level(permille: u16) -> Utilization {
    Utilization::from_permille(permille).unwrap()
}

struct World {
    folder: tempfile::TempDir,
    source: Shm,
    writer: Writer,
}

fn world() -> World {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("load.shm");
    let source = Shm::open(SourceId(3), &path, 0o640, FRESHNESS, at(0)).unwrap();
    World { source, writer: Writer::open(&path).unwrap(), folder }
}

impl World {
    fn read(&mut self, now: Instant) -> Option<Observation> {
        let mut heard = Vec::new();
        self.source.read(now, &mut |observation| heard.push(observation));
        assert!(heard.len() <= 1, "{heard:?}");
        heard.pop()
    }
}

#[test]
fn what_is_written_is_read_once() {
    let mut world = world();
    assert_eq!(world.read(at(1)), None, "nothing was written yet");
    world.writer.write(CellId(u64::MAX - 1), level(60), level(35), 1 << 40, at(77));
    let observed = Observed::Level { metric: Metric::PrbTotDl, level: level(60), late: Some(1 << 40) };
    let reading = Reading { source: SourceId(3), cell: CellId(u64::MAX - 1), stamped: Some(at(77)), observed };
    assert_eq!(world.read(at(80)), Some(Ok(reading)));
    assert_eq!(world.read(at(81)), None, "the same reading is no news");
}

#[test]
fn the_page_outlives_the_source_and_keeps_its_last_reading() {
    let mut world = world();
    world.writer.write(CellId(1), level(60), level(0), 5, at(77));
    assert!(world.read(at(80)).is_some());
    let path = world.folder.path().join("load.shm");
    let inode = |path| std::os::unix::fs::MetadataExt::ino(&fs::metadata(path).unwrap());
    let before = inode(&path);
    world.source = Shm::open(SourceId(0), &path, 0o640, FRESHNESS, at(90)).unwrap();
    assert_eq!(inode(&path), before);
    let again = world.read(at(90)).unwrap().unwrap();
    assert_eq!(again.stamped, Some(at(77)), "as old as it is");
    world.writer.write(CellId(1), level(70), level(0), 5, at(95));
    assert_eq!(world.read(at(96)).unwrap().unwrap().stamped, Some(at(95)), "the writer's mapping still counts");
}

#[test]
fn the_file_has_the_mode_and_nothing_is_left_beside_it() {
    use std::os::unix::fs::PermissionsExt as _;
    let world = world();
    let path = world.folder.path().join("load.shm");
    let found = fs::metadata(&path).unwrap();
    assert_eq!((found.permissions().mode() & 0o777, found.len()), (0o640, PAGE_BYTES as u64));
    assert_eq!(fs::read_dir(world.folder.path()).unwrap().count(), 1);
    Shm::open(SourceId(0), &path, 0o600, FRESHNESS, at(0)).unwrap();
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600, "the configured mode counts");
}

#[test]
fn a_file_that_is_no_page_is_refused_and_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    let mut bytes = [0_u8; PAGE_BYTES];
    bytes[..4].copy_from_slice(&MAGIC.to_ne_bytes());
    bytes[4] = 9;
    for (name, content, piece) in [
        ("short", &b"precious"[..], "its length in bytes is 8, not 64"),
        ("other", &[b'x'; PAGE_BYTES], "begins with 0x78787878"),
        ("newer", &bytes, "version 9, not with"),
    ] {
        let path = folder.path().join(name);
        fs::write(&path, content).unwrap();
        let refused = Shm::open(SourceId(0), &path, 0o600, FRESHNESS, at(0)).unwrap_err().to_string();
        assert!(refused.contains(piece) && refused.contains("remove it"), "{refused}");
        assert!(Writer::open(&path).is_err());
        assert_eq!(fs::read(&path).unwrap(), content);
    }
    let link = folder.path().join("link");
    std::os::unix::fs::symlink("short", &link).unwrap();
    assert!(Shm::open(SourceId(0), &link, 0o600, FRESHNESS, at(0)).is_err(), "no link is followed");
    let missing = Writer::open(&folder.path().join("nothing")).unwrap_err().to_string();
    assert!(missing.contains("the agent makes it"), "{missing}");
}

#[test]
fn settings_that_make_no_sense_are_refused() {
    for (path, mode) in [("load.shm", 0o660), ("/", 0o660), ("/run/load.shm", 0o060), ("/run/load.shm", 0o7660)] {
        assert!(matches!(check(Path::new(path), mode), Err(Problem::Setting { .. })), "{path} {mode:o}");
    }
    assert!(check(Path::new("/run/load.shm"), MODE_DEFAULT).is_ok());
}

#[test]
fn the_higher_of_both_directions_counts_and_a_cell_can_go() {
    let mut world = world();
    world.writer.write(CellId(1), level(60), level(61), 0, at(1));
    let observed = world.read(at(2)).unwrap().unwrap().observed;
    assert_eq!(observed, Observed::Level { metric: Metric::PrbTotUl, level: level(61), late: Some(0) });
    world.writer.write_gone(CellId(1), at(3));
    let reading = world.read(at(4)).unwrap().unwrap();
    assert_eq!((reading.cell, reading.observed), (CellId(1), Observed::Gone));
}

fn raw(dl_permille: u32, ul_permille: u32, flags: u32) -> Raw {
    Raw { cell: CellId(1), dl_permille, ul_permille, late: 0, stamp: at(1), flags }
}

#[test]
fn what_cannot_be_is_malformed_once_until_something_good_is_written() {
    let mut world = world();
    for bad in [raw(1001, 0, 0), raw(0, u32::MAX, 0), raw(0x1_0000, 0, 0), raw(10, 10, 2), raw(0, 0, 3)] {
        world.source.page.write(bad);
        assert!(matches!(world.read(at(2)), Some(Err(Malformed { source: SourceId(3), .. }))), "{bad:?}");
        assert_eq!(world.read(at(3)), None, "told once: {bad:?}");
        world.source.page.write(raw(1000, 1000, 0));
        assert!(matches!(world.read(at(4)), Some(Ok(_))), "healed");
    }
}

#[test]
fn a_writer_that_died_half_way_is_malformed_after_a_while_and_its_successor_is_heard() {
    let mut world = world();
    world.writer.write(CellId(1), level(60), level(0), 0, at(1));
    assert!(world.read(at(2)).is_some());
    let odd = seqlock::Words::load(&*world.source.page, 2, std::sync::atomic::Ordering::SeqCst) + 1;
    seqlock::Words::store(&*world.source.page, 2, odd, std::sync::atomic::Ordering::SeqCst);
    assert_eq!(world.read(at(10)), None, "it may be at work");
    assert_eq!(world.source.next_poll(), Some(at(10).after(UNSETTLED_GAP)), "looked at again soon");
    assert_eq!(world.read(at(14)), None);
    assert!(matches!(world.read(at(15)), Some(Err(_))));
    world.writer.write(CellId(1), level(70), level(0), 0, at(16));
    assert!(matches!(world.read(at(17)), Some(Ok(_))));
}

#[test]
fn a_writer_without_end_holds_up_no_look() {
    let mut world = world();
    let stop = std::sync::atomic::AtomicBool::new(false);
    let page = Arc::clone(&world.source.page);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                page.write(raw(500, 500, 0));
            }
        });
        let heard: Vec<_> = (0..1000).filter_map(|look| world.read(at(look * 10))).collect();
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
        assert!(heard.iter().all(|heard| heard.is_err() || heard.unwrap().cell == CellId(1)), "never half of one");
    });
}

/// The figures of one reading are functions of one another, so a mixture shows.
#[test]
fn readings_are_never_mixtures_of_two() {
    let mut world = world();
    let mut writer = world.writer;
    let source = &mut world.source;
    let done = std::sync::atomic::AtomicBool::new(false);
    let (mut seen, mut last) = (0, 0);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for count in 1..=200_000_u64 {
                let same = level(u16::try_from(count % 1001).unwrap());
                writer.write(CellId(count), same, same, count, Instant::from_nanos(count));
            }
            done.store(true, std::sync::atomic::Ordering::Release);
        });
        loop {
            let over = done.load(std::sync::atomic::Ordering::Acquire);
            if let Some(Ok(Reading { cell, stamped, observed, .. })) = source.look(at(1)) {
                let same = level(u16::try_from(cell.0 % 1001).unwrap());
                let whole = Observed::Level { metric: Metric::PrbTotDl, level: same, late: Some(cell.0) };
                assert_eq!((observed, stamped), (whole, Some(Instant::from_nanos(cell.0))));
                assert!(cell.0 >= last, "a later look gave an earlier reading");
                (last, seen) = (cell.0, seen + 1);
            }
            if over {
                break;
            }
        }
    });
    assert_eq!(last, 200_000, "the last reading is seen in the end, {seen} before");
}

#[test]
fn a_page_that_is_cut_short_is_malformed_whatever_is_left_of_it() {
    if crate::emulation::tells_faults_elsewhere() {
        return;
    }
    for length in [0, 1, 4, 12, 24, 48, 60, 63] {
        let mut world = world();
        world.writer.write(CellId(1), level(60), level(0), 0, at(1));
        assert!(world.read(at(2)).is_some());
        let file = fs::OpenOptions::new().write(true).open(world.folder.path().join("load.shm")).unwrap();
        file.set_len(length).unwrap();
        assert!(matches!(world.read(at(3)), Some(Err(_))), "at {length} bytes");
        world.writer.write(CellId(1), level(60), level(0), 0, at(4));
        world.writer.ring();
        let bell = world.source.bell().unwrap();
        assert_eq!(bell.wait(bell.rings(), Some(at(0))).unwrap(), Woken::TimedOut);
        assert_eq!(world.read(at(5)), None, "still the same complaint");
        bell.ring();
    }
}

#[test]
fn a_ring_between_the_count_and_the_wait_is_not_lost() {
    let world = world();
    let bell = world.source.bell().unwrap();
    let rings = bell.rings();
    world.writer.ring();
    assert_eq!(bell.wait(rings, None).unwrap(), Woken::Changed);
    assert_eq!(bell.rings(), rings.wrapping_add(1));
}

#[test]
fn the_page_is_looked_at_three_times_within_the_freshness() {
    let mut world = world();
    assert_eq!((world.source.fd().is_none(), world.source.next_poll()), (true, Some(at(0))));
    assert!(world.read(at(7)).is_none());
    assert_eq!(world.source.next_poll(), Some(at(107)));
}
