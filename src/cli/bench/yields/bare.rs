//! What is the least that a program must do to stop a worker? One futex, one signal, one thread; and the same thread
//! with `cgroup.freeze` in the signal's place.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::os::unix::fs::FileExt as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicU32;
use std::sync::atomic::Ordering::SeqCst;
use std::sync::mpsc::sync_channel;
use std::thread::JoinHandle;
use std::time::Duration;

use super::super::crew::{Crew, Member};
use super::stage::{SETTLE, Stopper, is_stopped, out_of_time};
use crate::cli::failure::Failure;
use crate::sentinel::{self, YieldClass, YieldRecord};
use crate::sys::{clock, futex, signal};

/// Longest wait for a thaw.
const THAW_MAX: Duration = Duration::from_secs(10);
/// Name of the thread.
pub(super) const THREAD: &str = "neap-floor";

/// A thread that waits on a futex and acts.
#[derive(Debug)]
struct Bare {
    word: Arc<AtomicU32>,
    class: YieldClass,
    thread: Option<JoinHandle<()>>,
}

/// Value of the word that ends the thread.
const LEAVE: u32 = u32::MAX;

impl Bare {
    /// Starts the thread in the class that the sentinel would get.
    fn start(priority: Option<u8>, act: impl FnMut() + Send + 'static) -> io::Result<Self> {
        let word = Arc::new(AtomicU32::new(0));
        let (tell, told) = sync_channel(1);
        let heard = Arc::clone(&word);
        let run = move || {
            let _the_starter_waits = tell.send(sentinel::take_best_class(priority));
            wait_and_act(&heard, act);
        };
        let thread = std::thread::Builder::new().name(THREAD.to_owned()).spawn(run)?;
        let class = told.recv().map_err(io::Error::other)?;
        Ok(Self { word, class, thread: Some(thread) })
    }

    fn wake(&self) {
        self.word.fetch_add(1, SeqCst);
        futex::wake(&self.word, 1);
    }
}

impl Drop for Bare {
    fn drop(&mut self) {
        self.word.store(LEAVE, SeqCst);
        futex::wake(&self.word, 1);
        if let Some(thread) = self.thread.take() {
            // It cannot panic: it makes system calls only.
            let _ended = thread.join();
        }
    }
}

fn wait_and_act(word: &AtomicU32, mut act: impl FnMut()) {
    let mut seen = 0;
    loop {
        while word.load(SeqCst) == seen {
            // Fails only when the word has gone, which we hold.
            let _woken = futex::wait(word, seen, None);
        }
        seen = word.load(SeqCst);
        if seen == LEAVE {
            return;
        }
        act();
    }
}

/// The bare floor.
#[derive(Debug)]
pub(super) struct Floor(Bare);

impl Floor {
    /// Starts the thread that stops this crew.
    ///
    /// # Errors
    /// When no thread can be started.
    pub(super) fn start(priority: Option<u8>, crew: &Crew) -> Result<Self, Failure> {
        let pids: Vec<i32> = crew.members.iter().map(|member| member.pid).collect();
        let act = move || {
            for pid in &pids {
                // A worker that has gone is noticed where the page is read.
                let _gone = signal::stop_thread(*pid, *pid);
            }
        };
        let bare = Bare::start(priority, act).map_err(|error| Failure::io("cannot start a thread", &error))?;
        Ok(Self(bare))
    }

    /// The scheduling class of the thread.
    pub(super) fn class(&self) -> YieldClass {
        self.0.class
    }
}

impl Stopper for Floor {
    fn resume(&mut self, crew: &Crew) -> Result<(), Failure> {
        std::thread::sleep(SETTLE);
        for member in &crew.members {
            signal::continue_process(member.pid).map_err(|error| Failure::io("cannot continue a worker", &error))?;
        }
        Ok(())
    }

    fn strike(&mut self) -> Result<(), Failure> {
        self.0.wake();
        Ok(())
    }

    fn is_still(&self, member: &Member) -> Result<bool, Failure> {
        is_stopped(member)
    }

    fn record(&mut self) -> Option<YieldRecord> {
        None
    }
}

/// `cgroup.freeze` alone.
#[derive(Debug)]
pub(super) struct Freezer {
    bare: Bare,
    cgroup: Cgroup,
}

impl Freezer {
    /// Starts the thread, and moves the crew into a cgroup of its own.
    ///
    /// # Errors
    /// Why it cannot be had here: no cgroup v2, or no right to make a cgroup.
    pub(super) fn start(priority: Option<u8>, crew: &Crew) -> Result<Self, String> {
        let cgroup = Cgroup::make()?;
        for member in &crew.members {
            cgroup.enter(member.pid)?;
            // A stop of another kind would hide this one.
            signal::continue_process(member.pid).map_err(|error| error.to_string())?;
        }
        let freeze = cgroup.freeze.try_clone().map_err(|error| error.to_string())?;
        let act = move || {
            // What does not freeze is seen to run on, which ends the bench.
            let _refused = (&freeze).write_all(b"1");
        };
        Ok(Self { bare: Bare::start(priority, act).map_err(|error| error.to_string())?, cgroup })
    }
}

impl Stopper for Freezer {
    fn resume(&mut self, _: &Crew) -> Result<(), Failure> {
        std::thread::sleep(SETTLE);
        let failed = |error: io::Error| Failure::io("cannot thaw the workers", &error);
        (&self.cgroup.freeze).write_all(b"0").map_err(failed)?;
        let until = clock::now().after(THAW_MAX);
        while self.cgroup.is_frozen().map_err(failed)? {
            if clock::now() >= until {
                return Err(out_of_time("thawed", THAW_MAX));
            }
        }
        Ok(())
    }

    fn strike(&mut self) -> Result<(), Failure> {
        self.bare.wake();
        Ok(())
    }

    fn is_still(&self, _: &Member) -> Result<bool, Failure> {
        self.cgroup.is_frozen().map_err(|error| Failure::io("cannot read cgroup.events", &error))
    }

    fn record(&mut self) -> Option<YieldRecord> {
        None
    }
}

/// A cgroup (v2) made for the bench. Left by its processes and removed when dropped.
#[derive(Debug)]
struct Cgroup {
    path: PathBuf,
    home: PathBuf,
    freeze: File,
    events: File,
}

impl Cgroup {
    fn make() -> Result<Self, String> {
        let read = |path: &str| fs::read_to_string(path).map_err(|error| format!("{path}: {error}"));
        let mount = v2_mount(&read("/proc/self/mounts")?)
            .ok_or("no cgroup v2 is mounted: mount one, e.g. at /sys/fs/cgroup/unified")?;
        let own = read("/proc/self/cgroup")?;
        let own = own.lines().find_map(|line| line.strip_prefix("0::/")).ok_or("this process is in no cgroup v2")?;
        let home = mount.join(own);
        let path = home.join(format!("neap-bench-{}", std::process::id()));
        let failed = |error: io::Error| format!("no cgroup can be made in {}: {error}; run as root", home.display());
        fs::create_dir(&path).map_err(failed)?;
        let open = |name: &str, write: bool| {
            let file = path.join(name);
            File::options()
                .read(!write)
                .write(write)
                .open(&file)
                .map_err(|error| format!("{}: {error}", file.display()))
        };
        let files = open("cgroup.freeze", true).and_then(|freeze| Ok((freeze, open("cgroup.events", false)?)));
        let (freeze, events) = files.inspect_err(|_| _ = fs::remove_dir(&path))?;
        Ok(Self { path, home, freeze, events })
    }

    fn enter(&self, pid: i32) -> Result<(), String> {
        fs::write(self.path.join("cgroup.procs"), pid.to_string())
            .map_err(|error| format!("the workers cannot enter {}: {error}", self.path.display()))
    }

    fn is_frozen(&self) -> io::Result<bool> {
        let mut buffer = [0; 256];
        let length = self.events.read_at(&mut buffer, 0)?;
        Ok(frozen(&String::from_utf8_lossy(&buffer[..length])))
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        let _thawed = (&self.freeze).write_all(b"0");
        let members = fs::read_to_string(self.path.join("cgroup.procs")).unwrap_or_default();
        for pid in members.lines() {
            // One that has ended is in no cgroup any more.
            let _left = fs::write(self.home.join("cgroup.procs"), pid);
        }
        let _removed = fs::remove_dir(&self.path);
    }
}

/// Where cgroup v2 is mounted, by `/proc/self/mounts`.
fn v2_mount(mounts: &str) -> Option<PathBuf> {
    let mut fields = mounts.lines().map(|line| line.split(' '));
    fields
        .find_map(|mut fields| Some((fields.nth(1)?, fields.next()? == "cgroup2")).filter(|(_, is_v2)| *is_v2))
        .map(|(path, _)| PathBuf::from(path))
}

fn frozen(events: &str) -> bool {
    events.lines().any(|line| line == "frozen 1")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_thread_acts_once_for_each_wake_and_ends_when_dropped() {
        let acted = Arc::new(AtomicU32::new(0));
        let count = Arc::clone(&acted);
        let bare = Bare::start(None, move || _ = count.fetch_add(1, SeqCst)).unwrap();
        for wakes in 1..=3 {
            bare.wake();
            while acted.load(SeqCst) < wakes {
                std::thread::yield_now();
            }
        }
        drop(bare);
        assert_eq!(acted.load(SeqCst), 3);
    }

    #[test]
    fn the_second_hierarchy_is_found_where_it_is_mounted() {
        let mounts = "cgroup /sys/fs/cgroup/cpu cgroup rw,cpu 0 0\ncgroup2 /sys/fs/cgroup/unified cgroup2 rw 0 0\n";
        assert_eq!(v2_mount(mounts), Some("/sys/fs/cgroup/unified".into()));
        assert_eq!(v2_mount("cgroup /sys/fs/cgroup/cpu cgroup rw,cpu 0 0\n"), None);
        assert!(frozen("populated 1\nfrozen 1\n") && !frozen("populated 1\nfrozen 0\n"));
    }
}
