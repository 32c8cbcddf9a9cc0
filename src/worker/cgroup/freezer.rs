//! Who freezes a worker that signals do not stop? A thread of its own: a write to `cgroup.freeze` waits for a lock that
//! the whole machine shares, for more than 100 ms at times, and the sentinel must never wait.
//!
//! For each slot there is one wish, the latest, so nothing can pile up. Wishing takes no lock and no memory.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::SeqCst};
use std::thread::JoinHandle;
use std::time::Duration;

use super::hierarchy::kill_listed;
use crate::sys::{clock, futex};
use crate::units::WORKERS_MAX;

/// First look whether a group stands after it was told to; each further one takes twice as long. A process of the idle
/// class needs a moment of its core before it stands, and may wait for that as long as the RAN is busy.
const LOOK_FIRST: Duration = Duration::from_millis(1);
const LOOK_LAST: Duration = Duration::from_secs(1);

/// What a slot's group is to be. The low bits of a wish; above them is its number.
const RUN: u64 = 0;
const FREEZE: u64 = 1;
const KILL: u64 = 2;
const WISH_BITS: u64 = 0b11;
const NEXT: u64 = 0b100;

/// What moves one group, opened ahead.
#[derive(Debug, Default)]
pub(super) struct Levers {
    /// `cgroup.freeze` for writing and `cgroup.events` for reading.
    pub(super) freeze: Option<(File, File)>,
    /// `cgroup.kill` for writing.
    pub(super) kill: Option<File>,
    /// Groups whose processes are killed one by one where there is no such file.
    pub(super) listed: Vec<PathBuf>,
}

/// The thread "neap-freezer". Ends, with every group thawed, when it is dropped.
#[derive(Debug)]
pub(super) struct Freezer {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Shared {
    places: [Place; WORKERS_MAX],
    /// Changes with every wish; the thread sleeps on it.
    bell: AtomicU32,
    leave: AtomicBool,
}

#[derive(Debug, Default)]
struct Place {
    /// The latest wish.
    wished: AtomicU64,
    /// The wish that was last carried out, or could not be.
    done: AtomicU64,
    /// Whether the kernel says that all of the group stands.
    frozen: AtomicBool,
    /// Whether the slot's process is in the group. An empty group counts as frozen at once.
    entered: AtomicBool,
}

impl Freezer {
    /// Starts the thread; `levers` by slot.
    ///
    /// # Errors
    /// When threads have run out.
    pub(super) fn start(mut levers: Vec<Levers>) -> io::Result<Self> {
        levers.resize_with(WORKERS_MAX, Levers::default);
        let shared = Arc::new(Shared::default());
        let run = {
            let shared = Arc::clone(&shared);
            move || shared.run(&levers)
        };
        let thread = std::thread::Builder::new().name("neap-freezer".to_owned()).spawn(run)?;
        Ok(Self { shared, thread: Some(thread) })
    }

    /// Says whether the process that now fills a slot is in its group; one that is not cannot be frozen.
    pub(super) fn set_entered(&self, slot: usize, entered: bool) {
        self.shared.places[slot].entered.store(entered, SeqCst);
    }

    /// Wishes that the group of a slot stands.
    pub(super) fn freeze(&self, slot: usize) {
        if self.shared.places[slot].entered.load(SeqCst) && !self.is_wished(slot, FREEZE) {
            self.shared.wish(slot, FREEZE);
        }
    }

    /// Wishes that the group of a slot goes on. Costs nothing when it was never to stand.
    pub(super) fn thaw(&self, slot: usize) {
        if self.is_wished(slot, FREEZE) {
            self.shared.wish(slot, RUN);
        }
    }

    /// Wishes that everything in the group of a slot is killed, frozen or not; then the group is thawed.
    pub(super) fn kill(&self, slot: usize) {
        self.shared.wish(slot, KILL);
    }

    /// Whether all of the group of a slot stands, by the kernel's word, and is to stand.
    pub(super) fn is_frozen(&self, slot: usize) -> bool {
        self.is_wished(slot, FREEZE) && self.shared.places[slot].frozen.load(SeqCst)
    }

    /// Whether every wish for a slot was carried out, or could not be.
    pub(super) fn is_settled(&self, slot: usize) -> bool {
        let place = &self.shared.places[slot];
        place.done.load(SeqCst) == place.wished.load(SeqCst)
    }

    fn is_wished(&self, slot: usize, what: u64) -> bool {
        self.shared.places[slot].wished.load(SeqCst) & WISH_BITS == what
    }
}

impl Drop for Freezer {
    fn drop(&mut self) {
        self.shared.leave.store(true, SeqCst);
        self.shared.ring();
        if let Some(thread) = self.thread.take() {
            // A thread that panics aborts the process, so there is no error to see here.
            let _ended = thread.join();
        }
    }
}

impl Shared {
    fn wish(&self, slot: usize, what: u64) {
        let wished = &self.places[slot].wished;
        let _replaced = wished.update(SeqCst, SeqCst, |wish| (wish & !WISH_BITS).wrapping_add(NEXT) | what);
        self.ring();
    }

    fn ring(&self) {
        self.bell.fetch_add(1, SeqCst);
        futex::wake(&self.bell, 1);
    }

    fn run(&self, levers: &[Levers]) {
        let mut look_gap = LOOK_FIRST;
        loop {
            let heard = self.bell.load(SeqCst);
            let mut unseen = false;
            for (place, levers) in self.places.iter().zip(levers) {
                if place.carry_out(levers) {
                    look_gap = LOOK_FIRST;
                }
                unseen |= place.is_unseen(levers);
            }
            if self.leave.load(SeqCst) {
                levers.iter().for_each(thaw);
                return;
            }
            let until = unseen.then(|| clock::now().after(look_gap));
            look_gap = look_gap.saturating_mul(2).min(LOOK_LAST);
            // An error would make this loop spin, not fail: the word is ours, so there is none.
            let _woken = futex::wait(&self.bell, heard, until);
        }
    }
}

impl Place {
    /// Carries the latest wish out; says whether there was one.
    fn carry_out(&self, levers: &Levers) -> bool {
        let wish = self.wished.load(SeqCst);
        if wish == self.done.load(SeqCst) {
            return false;
        }
        self.frozen.store(false, SeqCst);
        match wish & WISH_BITS {
            FREEZE => {
                if let Some((freeze, _)) = &levers.freeze {
                    // Refused only when the group is gone; then it is never seen frozen.
                    let _gone = freeze.write_at(b"1", 0);
                }
            }
            KILL => {
                kill(levers);
                thaw(levers);
            }
            _run => thaw(levers),
        }
        self.done.store(wish, SeqCst);
        true
    }

    /// Whether the group is to stand and is not seen to. Looks.
    fn is_unseen(&self, levers: &Levers) -> bool {
        let Some((_, events)) = &levers.freeze else { return false };
        if self.done.load(SeqCst) & WISH_BITS != FREEZE || self.frozen.load(SeqCst) {
            return false;
        }
        let frozen = says_frozen(events);
        self.frozen.store(frozen, SeqCst);
        !frozen
    }
}

/// `cgroup.events` has lines `populated 1` and `frozen 1`. Read, not waited for: its notifications come at most every
/// 10 ms.
fn says_frozen(events: &File) -> bool {
    let mut text = [0; 256];
    let read = events.read_at(&mut text, 0).unwrap_or(0);
    let says = |wanted: &[u8]| text[..read].split(|byte| *byte == b'\n').any(|line| line == wanted);
    says(b"populated 1") && says(b"frozen 1")
}

fn thaw(levers: &Levers) {
    if let Some((freeze, _)) = &levers.freeze {
        // Refused only when the group is gone.
        let _gone = freeze.write_at(b"0", 0);
    }
}

fn kill(levers: &Levers) {
    let at_one_blow = levers.kill.as_ref().is_some_and(|kill| kill.write_at(b"1", 0).is_ok());
    if !at_one_blow {
        levers.listed.iter().for_each(|group| kill_listed(group));
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn wait_for(wanted: impl Fn() -> bool) {
        let end = clock::now().after(Duration::from_secs(60));
        while !wanted() {
            assert!(clock::now() < end, "not within a minute");
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    fn settle(freezer: &Freezer) {
        wait_for(|| freezer.is_settled(0));
    }

    fn levers(folder: &std::path::Path) -> Levers {
        let file = |name: &str, text: &str| {
            let path = folder.join(name);
            fs::write(&path, text).unwrap();
            File::options().read(true).write(true).open(path).unwrap()
        };
        let freeze = (file("cgroup.freeze", "0"), file("cgroup.events", "populated 1\nfrozen 1\n"));
        Levers { freeze: Some(freeze), kill: Some(file("cgroup.kill", "0")), listed: Vec::new() }
    }

    #[test]
    fn a_group_is_frozen_by_the_kernels_word_and_thawed_again_and_when_the_thread_ends() {
        let folder = tempfile::tempdir().unwrap();
        let text = |name: &str| fs::read_to_string(folder.path().join(name)).unwrap();
        let freezer = Freezer::start(vec![levers(folder.path())]).unwrap();
        freezer.freeze(0);
        assert!(freezer.is_settled(0), "nobody is in the group");
        freezer.set_entered(0, true);
        freezer.thaw(0);
        assert!(freezer.is_settled(0), "what was never frozen costs nothing");
        freezer.freeze(0);
        wait_for(|| freezer.is_frozen(0));
        assert_eq!(text("cgroup.freeze"), "1");
        freezer.thaw(0);
        assert!(!freezer.is_frozen(0), "not from the wish on");
        settle(&freezer);
        assert_eq!(text("cgroup.freeze"), "0");
        freezer.freeze(0);
        settle(&freezer);
        drop(freezer);
        assert_eq!(text("cgroup.freeze"), "0");
    }

    #[test]
    fn a_killed_group_is_thawed_for_the_next_process() {
        let folder = tempfile::tempdir().unwrap();
        let text = |name: &str| fs::read_to_string(folder.path().join(name)).unwrap();
        let freezer = Freezer::start(vec![levers(folder.path())]).unwrap();
        freezer.set_entered(0, true);
        freezer.freeze(0);
        freezer.kill(0);
        settle(&freezer);
        let files = (text("cgroup.kill"), text("cgroup.freeze"));
        assert_eq!((files, freezer.is_frozen(0)), (("1".to_owned(), "0".to_owned()), false));
    }

    #[test]
    fn without_a_lever_nothing_counts_as_frozen_and_nothing_waits() {
        let freezer = Freezer::start(Vec::new()).unwrap();
        freezer.set_entered(0, true);
        freezer.freeze(0);
        settle(&freezer);
        assert!(!freezer.is_frozen(0));
        freezer.kill(0);
        settle(&freezer);
    }
}
