//! How does a thread sleep until a word of memory changes, even one that another process writes?

use std::io;
use std::sync::atomic::AtomicU32;

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
    let time = until.map(|until| libc::timespec {
        tv_sec: libc::time_t::try_from(until.as_nanos() / 1_000_000_000).unwrap_or(libc::time_t::MAX),
        tv_nsec: libc::c_long::try_from(until.as_nanos() % 1_000_000_000).unwrap_or(0),
    });
    let time = time.as_ref().map_or(std::ptr::null(), std::ptr::from_ref);
    // SAFETY: `word` is a valid aligned word for the length of the call, `time` is null or a valid timespec, and
    // FUTEX_WAIT_BITSET ignores the second address. The kernel writes to neither.
    let result = unsafe {
        libc::syscall(
            libc::SYS_futex,
            word.as_ptr(),
            libc::FUTEX_WAIT_BITSET,
            seen,
            time,
            std::ptr::null::<u32>(),
            libc::FUTEX_BITSET_MATCH_ANY,
        )
    };
    if result == 0 {
        return Ok(Woken::Changed);
    }
    let error = io::Error::last_os_error();
    match error.raw_os_error() {
        Some(libc::EAGAIN | libc::EINTR) => Ok(Woken::Changed),
        Some(libc::ETIMEDOUT) => Ok(Woken::TimedOut),
        Some(_) | None => Err(error),
    }
}

/// Wakes up to `count` sleepers of `word`, in this process and in others. Change the word first.
pub fn wake(word: &AtomicU32, count: u32) {
    // SAFETY: the kernel uses the address of `word`, which is valid, as a key only.
    let _woken = unsafe { libc::syscall(libc::SYS_futex, word.as_ptr(), libc::FUTEX_WAKE, count) };
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
