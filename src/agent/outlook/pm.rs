//! How does the forecast learn from the measurement files of the base station? By a thread that reads them.
//!
//! Files may be large and disks slow, so only what they say comes to the control loop: in parts so small that taking one
//! in costs no time worth the name, one each turn, through a queue that makes the thread wait when it is full. While the
//! wall clock is in doubt nothing is taken from it.

use std::io;
use std::path::Path;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::Duration;

use super::folder::{Folder, Found, Period};
use super::{Now, Outlooks};

/// The folder is looked at so often.
const LOOK_EVERY: Duration = Duration::from_secs(300);
/// Most periods that are taken in at once.
const PERIODS_A_TURN_MAX: usize = 128;
/// Parts that may wait.
const WAITING_MAX: usize = 4;

/// A part of what a look has found.
#[derive(Debug, PartialEq, Eq)]
struct Part {
    periods: Vec<Period>,
    /// The last part tells of how many files the look was.
    files: Option<usize>,
}

/// The control loop's end of the thread.
#[derive(Debug)]
pub(in crate::agent) struct PmFiles {
    parts: Receiver<Part>,
    /// Periods of this look that were new.
    new: usize,
}

impl PmFiles {
    /// Starts the thread that reads the files of that folder; it ends with this value, at its next word.
    ///
    /// # Errors
    /// When there is no thread to be had.
    pub(in crate::agent) fn start(folder: &Path) -> io::Result<Self> {
        let (told, parts) = sync_channel(WAITING_MAX);
        let folder = Folder::new(folder);
        std::thread::Builder::new().name("pm".to_owned()).spawn(move || read(folder, &told))?;
        Ok(Self { parts, new: 0 })
    }

    /// Takes in what waits, a part of it.
    pub(in crate::agent) fn look(&mut self, now: Now, outlooks: &mut Outlooks) {
        // What waits is not lost: the clock will be set.
        if !now.is_sure() {
            return;
        }
        let Ok(part) = self.parts.try_recv() else { return };
        let is_new = |period: &&Period| outlooks.learn(now, period.from, period.span, period.level);
        self.new += part.periods.iter().filter(is_new).count();
        if let Some(files) = part.files {
            let periods = std::mem::take(&mut self.new);
            tracing::info!(periods, files, "the forecast has learned new periods from PM files");
        }
    }
}

fn read(mut folder: Folder, told: &SyncSender<Part>) {
    loop {
        if parts(&folder.look()).into_iter().any(|part| told.send(part).is_err()) {
            return;
        }
        std::thread::sleep(LOOK_EVERY);
    }
}

/// A look in parts; none when there was no new file.
fn parts(found: &Found) -> Vec<Part> {
    if found.files == 0 {
        return Vec::new();
    }
    let part = |periods: &[Period]| Part { periods: periods.to_vec(), files: None };
    let mut parts: Vec<Part> = found.periods().chunks(PERIODS_A_TURN_MAX).map(part).collect();
    match parts.last_mut() {
        Some(last) => last.files = Some(found.files),
        None => parts.push(Part { periods: Vec::new(), files: Some(found.files) }),
    }
    parts
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::super::folder::tests::xml;
    use super::super::tests::outlooks;
    use super::*;
    use crate::sys;
    use crate::units::{Instant, WallTime};

    const DAY: Duration = Duration::from_secs(86_400);

    fn midnight() -> WallTime {
        WallTime::from_millis(1_767_571_200_000)
    }

    fn now(days: u32) -> Now {
        Now::sure(Instant::default().after(DAY * days), midnight().after(DAY * days))
    }

    /// Quiet in the first half of four days, busy in the other; two cells, each with a file a day.
    fn four_days(folder: &Path) {
        for day in 0..4 {
            let from = midnight().after(DAY * day);
            let busy: Vec<u8> = (0..96).map(|quarter| if quarter < 48 { 5 } else { 80 }).collect();
            fs::write(folder.join(format!("{day}-1.xml")), xml(1, from, &busy)).unwrap();
            fs::write(folder.join(format!("{day}-2.xml")), xml(2, from, &[3; 96])).unwrap();
        }
    }

    #[test]
    fn a_folder_of_files_teaches_the_usual_day_to_a_node_that_has_just_been_started() {
        let dir = tempfile::tempdir().unwrap();
        four_days(dir.path());
        let mut outlooks = outlooks();
        outlooks.look(now(4));
        assert_eq!(outlooks.to_plan_with(), None);
        let mut files = PmFiles::start(dir.path()).unwrap();
        std::thread::sleep(Duration::from_millis(200));
        let doubtful = Now { due: WallTime::from_millis(i64::MIN), ..now(4) };
        for _ in 0..10 {
            files.look(doubtful, &mut outlooks);
        }
        assert_eq!(outlooks.snapshot(), None, "a doubtful clock teaches nothing");
        let until = sys::clock::now().after(Duration::from_secs(60));
        while outlooks.forecast.as_ref().unwrap().days_known() < 4 {
            assert!(sys::clock::now() < until, "the files were not read");
            files.look(now(4), &mut outlooks);
            std::thread::sleep(Duration::from_millis(5));
        }
        outlooks.look(now(4));
        let outlook = outlooks.to_plan_with().unwrap();
        assert_eq!(outlooks.forecast.as_ref().unwrap().days_known(), 4);
        let spans = outlook.spans();
        assert!(spans[4..40].iter().all(|free| free.p50 == outlook.span()), "the quiet half is free: {spans:?}");
        assert!(outlooks.due(now(4), "s").is_some_and(|capacity| capacity.days == 4));
    }

    #[test]
    fn what_was_measured_here_stands_and_what_is_told_again_is_no_news() {
        let dir = tempfile::tempdir().unwrap();
        four_days(dir.path());
        let found = Folder::new(dir.path()).look();
        let mut outlooks = outlooks();
        let mut learn = || {
            let mut news = |period: &Period| outlooks.learn(now(4), period.from, period.span, period.level);
            found.periods().iter().filter(|period| news(period)).count()
        };
        assert_eq!((learn(), learn()), (384, 0));
        let lower = found.periods()[60];
        assert_eq!(lower.level.permille(), 800);
        let level = crate::units::Utilization::from_percent(3).unwrap();
        assert!(!outlooks.learn(now(4), lower.from, lower.span, level), "another cell that is lower hides nothing");
    }

    #[test]
    fn a_look_comes_in_parts_and_only_the_last_tells_of_the_files() {
        let dir = tempfile::tempdir().unwrap();
        four_days(dir.path());
        let mut folder = Folder::new(dir.path());
        let told = parts(&folder.look());
        let sizes: Vec<_> = told.iter().map(|part| (part.periods.len(), part.files)).collect();
        assert_eq!(sizes, [(128, None), (128, None), (128, Some(8))]);
        assert_eq!(parts(&folder.look()), []);
        fs::write(dir.path().join("other.xml"), xml(1, midnight(), &[])).unwrap();
        assert_eq!(parts(&folder.look()), [Part { periods: Vec::new(), files: Some(1) }]);
    }
}
