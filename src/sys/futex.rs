//! How does a thread sleep until a word of memory changes, even one that another process writes?

use std::io;
use std::num::NonZeroU32;
use std::sync::atomic::AtomicU32;

use rustix::io::Errno;
use rustix::thread::futex::{self, Flags};
use rustix::time::Timespec;

use crate::units::Instant;

/// Why a wait ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Woken {
    /// Somebody woke us, or a signal did, or the word had changed already: look at it.
    Changed,
    /// The moment has come.
    TimedOut,
}

/// Sleeps while `word` is `seen`, at the latest until `until` (monotonic clock). The word may be shared with other processes.
///
/// # Errors
/// `EFAULT` when the word's page has vanished.
pub fn wait(word: &AtomicU32, seen: u32, until: Option<Instant>) -> io::Result<Woken> {
    // 64 bits of seconds on every architecture: rustix takes the system call that has room for them.
    let time = until.map(|until| Timespec {
        tv_sec: i64::try_from(until.as_nanos() / 1_000_000_000).unwrap_or(i64::MAX),
        tv_nsec: i64::try_from(until.as_nanos() % 1_000_000_000).unwrap_or(0),
    });
    match futex::wait_bitset(word, Flags::empty(), seen, time.as_ref(), NonZeroU32::MAX) {
        Ok(()) | Err(Errno::AGAIN | Errno::INTR) => Ok(Woken::Changed),
        Err(Errno::TIMEDOUT) => Ok(Woken::TimedOut),
        Err(error) => Err(error.into()),
    }
}

/// Wakes up to `count` sleepers of `word`, in this process and in others. Change the word first.
pub fn wake(word: &AtomicU32, count: u32) {
    // Only an address that is not mapped could be refused.
    let _woken = futex::wake(word, Flags::empty(), count);
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::Ordering::SeqCst;
    use std::time::Duration;

    use super::*;
    use crate::sys::clock;

    #[test]
    fn a_sleeper_wakes_when_the_word_has_changed_and_not_before_its_time_otherwise() {
        let word = Arc::new(AtomicU32::new(7));
        let until = clock::now().after(Duration::from_millis(5));
        assert_eq!(wait(&word, 7, Some(until)).unwrap(), Woken::TimedOut);
        assert!(clock::now() >= until);
        assert_eq!(wait(&word, 8, None).unwrap(), Woken::Changed);
        let never = Instant::from_nanos(u64::MAX);
        assert_eq!(wait(&word, 8, Some(never)).unwrap(), Woken::Changed, "a moment beyond 32 bits of seconds");
        let ringer = Arc::clone(&word);
        let ringer = std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(20));
            ringer.store(8, SeqCst);
            wake(&ringer, 1);
        });
        while word.load(SeqCst) == 7 {
            assert_eq!(wait(&word, 7, None).unwrap(), Woken::Changed);
        }
        ringer.join().unwrap();
    }
}
