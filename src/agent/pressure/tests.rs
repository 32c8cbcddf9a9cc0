//! The decision as a table, and the files as a fake tree and as the kernel has them.

use std::fs;

use super::*;

const S: Duration = Duration::from_secs(1);

fn at(seconds: u64) -> Instant {
    Instant::from_nanos(1_000_000_000_000 + seconds * 1_000_000_000)
}

fn percent(value: u8) -> Utilization {
    Utilization::from_percent(value).unwrap()
}

// ---- the decision ----

#[test]
fn the_cheapest_workers_give_their_memory_back_first() {
    use Holds::{Models, Nothing, Running, Stopped};
    let table: [(&[Holds], Option<&[usize]>); 8] = [
        (&[], None),
        (&[Nothing, Nothing], None),
        (&[Running, Models, Stopped, Models], Some(&[1, 3])),
        (&[Running, Nothing, Stopped, Stopped], Some(&[2, 3])),
        (&[Running, Running, Nothing, Running], Some(&[3])),
        (&[Running, Nothing], Some(&[0])),
        (&[Stopped], Some(&[0])),
        (&[Models, Running], Some(&[0])),
    ];
    for (places, slots) in table {
        let step = Relief::new(30 * S).on_look(at(0), true, places);
        assert_eq!(step, slots.map(|slots| Step::Evict(slots.to_vec())), "{places:?}");
    }
}

#[test]
fn there_is_time_between_two_steps() {
    let mut relief = Relief::new(30 * S);
    let places = [Holds::Running, Holds::Running];
    assert_eq!(relief.on_look(at(0), true, &places), Some(Step::Evict(vec![1])));
    assert_eq!(relief.on_look(at(1), true, &places), None);
    let places = [Holds::Running, Holds::Nothing];
    assert_eq!(relief.on_look(at(2), true, &places), Some(Step::Evict(vec![0])));
    assert_eq!(relief.on_look(at(4), true, &[Holds::Nothing; 2]), None);
}

#[test]
fn nothing_starts_until_memory_was_not_short_for_the_calm_time() {
    let mut relief = Relief::new(30 * S);
    assert!(!relief.is_short());
    assert_eq!(relief.on_look(at(0), false, &[]), None, "it was never short");
    relief.on_look(at(1), true, &[]);
    assert_eq!(relief.on_look(at(20), false, &[]), None);
    relief.on_look(at(25), true, &[]);
    assert_eq!(relief.on_look(at(54), false, &[]), None, "29 s since it was short last");
    assert!(relief.is_short());
    assert_eq!(relief.on_look(at(55), false, &[]), Some(Step::Calm));
    assert!(!relief.is_short());
    assert_eq!(relief.on_look(at(56), false, &[]), None, "said once");
}

// ---- the files ----

fn fake(waited_us: u64, available_kb: u64) -> (tempfile::TempDir, Settings) {
    let folder = tempfile::tempdir().unwrap();
    fs::create_dir(folder.path().join("pressure")).unwrap();
    write(folder.path(), waited_us, available_kb);
    let (proc, available_min_bytes) = (folder.path().to_owned(), 64 * 1024 * 1024);
    let settings = Settings { proc, stall_above: percent(10), available_min_bytes, calm: S };
    (folder, settings)
}

fn write(folder: &Path, waited_us: u64, available_kb: u64) {
    let psi = format!(
        "some avg10=0.00 avg60=0.00 avg300=0.10 total={waited_us}\nfull avg10=0.00 avg60=0.00 avg300=0.07 total=7\n"
    );
    fs::write(folder.join("pressure/memory"), psi).unwrap();
    let meminfo = format!("MemTotal:       24683700 kB\nMemFree: 9 kB\nMemAvailable:   {available_kb} kB\n");
    fs::write(folder.join("meminfo"), meminfo).unwrap();
}

#[tokio::test]
async fn memory_is_short_when_tasks_waited_for_the_limit_or_little_is_available() {
    let (folder, settings) = fake(5_000_000, 1_000_000);
    let mut watcher = Watcher::new(settings);
    assert!(watcher.trigger.is_none(), "an ordinary file tells nothing by itself");
    assert!(watcher.is_due(at(0)));
    assert_eq!(watcher.look(at(0)), None, "what was before nobody knows");
    assert!(!watcher.is_due(at(1)) && watcher.is_due(at(2)));
    write(folder.path(), 5_199_000, 1_000_000);
    assert_eq!(watcher.look(at(2)), None, "9.95 %");
    write(folder.path(), 5_399_000, 1_000_000);
    let shortage = watcher.look(at(4)).unwrap();
    assert_eq!(shortage, Shortage::Stall { share: percent(10), limit: percent(10) });
    assert_eq!(shortage.to_string(), "tasks waited for memory 10 % of the time, memory.stall_above is 10 %");
    write(folder.path(), 5_399_000, 65_535);
    let shortage = watcher.look(at(6)).unwrap();
    assert_eq!(shortage, Shortage::Available { bytes: 65_535 * 1024, min: 65_536 * 1024 });
    assert_eq!(shortage.to_string(), "63 MiB are available, memory.available_min_mib is 64");
    write(folder.path(), 90_000_000, 65_536);
    assert_eq!(watcher.look(at(17)), None, "eleven seconds say nothing about now");
    write(folder.path(), 99_000_000, 65_536);
    assert_eq!(watcher.look(at(18)), Some(Shortage::Stall { share: Utilization::FULL, limit: percent(10) }));
}

#[tokio::test]
async fn what_cannot_be_read_is_no_shortage() {
    let (folder, settings) = fake(0, 0);
    fs::remove_dir_all(folder.path().join("pressure")).unwrap();
    for text in ["", "MemAvailable:\n", "MemAvailable: -3 kB\n", "MemAvailable: 99999999999999999999 kB\n", "\u{0}"] {
        fs::write(folder.path().join("meminfo"), text).unwrap();
        assert_eq!(Watcher::new(settings.clone()).look(at(0)), None, "{text:?}");
    }
    fs::remove_file(folder.path().join("meminfo")).unwrap();
    assert_eq!(Watcher::new(settings).look(at(0)), None);
}

#[test]
fn psi_without_a_count_is_none() {
    for text in ["", "some\n", "some total=x\n", "full total=3\n", "some avg10=1.00\n"] {
        assert_eq!(waited_us(text), None, "{text:?}");
    }
}

#[tokio::test]
async fn the_kernels_own_files_are_understood_and_its_trigger_is_used_where_it_has_one() {
    let proc = PathBuf::from("/proc");
    let text = read(&proc.join("meminfo")).unwrap();
    assert!(available_bytes(&text).is_some_and(|bytes| bytes > 0), "{text}");
    let settings = Settings { proc, stall_above: percent(10), available_min_bytes: 0, calm: S };
    let Ok(text) = read(&settings.psi()) else {
        eprintln!("skipped: this kernel has no pressure/memory (CONFIG_PSI), so there is no trigger to ask for");
        return;
    };
    assert!(waited_us(&text).is_some(), "{text}");
    match trigger(&settings) {
        Ok(_) => {}
        Err(error) => eprintln!("skipped: a trigger for memory pressure is refused here: {error}"),
    }
}
