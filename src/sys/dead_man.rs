//! Who stops a process whose guard is stuck? Itself: a dead-man's handle, held down by a beat in a shared page.
//!
//! The guard writes the time into the page ([`Beat`]) as long as it is able to act. The guarded process looks at it from
//! a signal handler ([`arm`]), at each [`EVERY`] of its own CPU time: one that is idle or stopped is never woken. While
//! the beat is too old it parks, computing nothing, and when the beat is back it goes on where it was.
//!
//! The handler only makes system calls that a signal handler may make, takes no lock and allocates nothing. It sleeps on
//! top of whatever it interrupted: right for a process with one thread, where nobody can wait for a lock held below.
//!
//! This guards against a guard that is stuck, not against a process that was taken over: such a one can switch its own
//! timer off. But it cannot write the beat, so it keeps nobody else alive.

use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed, Ordering::Release};
use std::time::Duration;

use super::shared::{ReadPage, SharedPage};
use super::signal;
use crate::units::Instant;

/// CPU time between two looks at the beat.
pub const EVERY: Duration = Duration::from_micros(EVERY_US as u64);
/// The same in µs: narrow enough for the C library's field, whose width differs between architectures.
const EVERY_US: u16 = 50_000;
/// How long a parked process sleeps between two looks.
pub const NAP: Duration = Duration::from_millis(10);
/// Exit code of a process that finds, while it is parked, that its parent is gone: nobody can ever want it again.
pub const EXIT_ORPHAN: i32 = 113;
/// Which word of the page is the beat: milliseconds of the monotonic clock, modulo 2^32.
const BEAT: usize = 0;

// ---- the guard ----

/// The guard's side.
#[derive(Debug)]
pub struct Beat {
    page: SharedPage,
    fd: OwnedFd,
}

impl Beat {
    /// A beat that has never been given: whoever looks at it parks.
    ///
    /// # Errors
    /// `EMFILE`, `ENOMEM` and their like; `EINVAL` before Linux 5.1.
    pub fn new() -> io::Result<Self> {
        let (page, fd) = SharedPage::create_for_readers("neap-beat")?;
        Ok(Self { page, fd })
    }

    /// Says that the guard is able to act at `now`. Neither locks nor allocates.
    pub fn give(&self, now: Instant) {
        self.page.u32(BEAT).store(millis(now), Release);
    }

    /// The page, to be passed to a guarded process, which can only read it.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// Milliseconds modulo 2^32.
fn millis(now: Instant) -> u32 {
    let [a, b, c, d, ..] = (now.as_nanos() / 1_000_000).to_le_bytes();
    u32::from_le_bytes([a, b, c, d])
}

// ---- the guarded process ----

/// What the handler looks at; written once, before the first signal.
struct Armed {
    page: ReadPage,
    limit_ms: u32,
    parent: i32,
}

static ARMED: OnceLock<Armed> = OnceLock::new();
static PARKS: AtomicU32 = AtomicU32::new(0);
static NAPS: AtomicU32 = AtomicU32::new(0);

/// How often and how long this process has parked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Parked {
    /// How often.
    pub times: u32,
    /// How long in all, within a [`NAP`] for each time; stops from outside do not count.
    pub time: Duration,
}

/// Parks this process from now on whenever it has used CPU time and the beat in the page is older than `limit`. When
/// `parent` is not its parent any more by then, the process ends with [`EXIT_ORPHAN`].
///
/// # Errors
/// `EALREADY` for the second call, and what mapping the page gives.
pub fn arm(page: BorrowedFd<'_>, limit: Duration, parent: i32) -> io::Result<()> {
    let limit_ms = u32::try_from(limit.as_millis()).unwrap_or(u32::MAX / 2);
    let armed = Armed { page: ReadPage::map(page)?, limit_ms, parent };
    ARMED.set(armed).map_err(|_| io::Error::from_raw_os_error(libc::EALREADY))?;
    handle_profile_signal()?;
    signal::unblock_all()?;
    let span = libc::timeval { tv_sec: 0, tv_usec: EVERY_US.into() };
    let timer = libc::itimerval { it_interval: span, it_value: span };
    // SAFETY: `timer` is a valid timer value for the length of the call, and the old one is not asked for.
    let result = unsafe { libc::setitimer(libc::ITIMER_PROF, &raw const timer, std::ptr::null_mut()) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// How often and how long this process has parked so far.
pub fn parked() -> Parked {
    Parked { times: PARKS.load(Relaxed), time: NAP.saturating_mul(NAPS.load(Relaxed)) }
}

fn handle_profile_signal() -> io::Result<()> {
    // SAFETY: an all-zero sigaction is a valid one (no flags, empty mask, default handler).
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    // Interrupted system calls go on by themselves.
    action.sa_flags = libc::SA_RESTART;
    action.sa_sigaction = on_profile_signal as extern "C" fn(libc::c_int) as libc::sighandler_t;
    // SAFETY: `action` is valid, its handler takes one integer as SA_SIGINFO is not set, and the old one is not asked for.
    let result = unsafe { libc::sigaction(libc::SIGPROF, &raw const action, std::ptr::null_mut()) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Runs on top of any instruction of the process: only atomics and system calls that are safe there.
extern "C" fn on_profile_signal(_: libc::c_int) {
    let Some(armed) = ARMED.get() else { return };
    if !armed.is_stale() {
        return;
    }
    // SAFETY: gives the address of this thread's own errno, which what was interrupted may be about to read.
    let errno = unsafe { libc::__errno_location() };
    // SAFETY: as above.
    let kept = unsafe { errno.read() };
    PARKS.fetch_add(1, Relaxed);
    while armed.is_stale() {
        // SAFETY: `NAP_TIME` is a valid time, and what remains of it is not asked for. getppid takes nothing, and
        // _exit runs no code of this process.
        unsafe {
            libc::nanosleep(&raw const NAP_TIME, std::ptr::null_mut());
            if libc::getppid() != armed.parent {
                libc::_exit(EXIT_ORPHAN);
            }
        }
        NAPS.fetch_add(1, Relaxed);
    }
    // SAFETY: as above.
    unsafe { errno.write(kept) };
}

static NAP_TIME: libc::timespec = libc::timespec { tv_sec: 0, tv_nsec: NAP.subsec_nanos() as libc::c_long };

impl Armed {
    fn is_stale(&self) -> bool {
        // First the beat, then the clock: the other way round a beat could look as if it came from the future.
        let beat = self.page.load_u32(BEAT);
        let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
        // SAFETY: `time` is a valid place for one time. The call is safe in a signal handler and fails for no known clock.
        unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut time) };
        let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
        let nanos = u64::try_from(time.tv_nsec).unwrap_or(0);
        is_stale(beat, millis(Instant::from_nanos(seconds * 1_000_000_000 + nanos)), self.limit_ms)
    }
}

/// Whether a beat is older than the limit, all in milliseconds modulo 2^32.
const fn is_stale(beat: u32, now: u32, limit: u32) -> bool {
    now.wrapping_sub(beat) > limit
}

#[cfg(test)]
mod tests;
