//! What time is it, and how much CPU time was used? The only file that reads a clock.

use std::io;
use std::mem::MaybeUninit;
use std::time::{Duration, SystemTime};

use rustix::thread::clock_nanosleep_absolute;
use rustix::time::{ClockId, Timespec, clock_gettime};

use super::{no_such_process, target};
use crate::units::{Instant, WallTime};

/// Now, by `CLOCK_MONOTONIC`.
pub fn now() -> Instant {
    let time = clock_gettime(ClockId::Monotonic);
    Instant::from_nanos(u64::try_from(span(time).as_nanos()).unwrap_or(u64::MAX))
}

/// Now, by the machine's wall clock. Asked of the C library, which a test can stand in front of.
#[expect(clippy::disallowed_methods, reason = "the one place that reads the wall clock")]
pub fn wall() -> WallTime {
    let millis = |span: Duration| i64::try_from(span.as_millis()).unwrap_or(i64::MAX);
    match SystemTime::now().duration_since(SystemTime::UNIX_EPOCH) {
        Ok(since) => WallTime::from_millis(millis(since)),
        Err(before) => WallTime::from_millis(-millis(before.duration())),
    }
}

/// Time since the machine started, by `CLOCK_BOOTTIME`: as [`now`], but it goes on while the machine is suspended.
pub fn since_boot() -> Instant {
    let time = clock_gettime(ClockId::Boottime);
    Instant::from_nanos(u64::try_from(span(time).as_nanos()).unwrap_or(u64::MAX))
}

/// Whether the kernel calls its wall clock synchronised: a time service has set it and keeps it. When the kernel does
/// not say, it is not.
pub fn is_synchronised() -> bool {
    let mut time = MaybeUninit::<libc::timex>::zeroed();
    // SAFETY: an all-zero timex is valid and asks for nothing to be changed (`modes` 0); the call only fills it.
    let state = unsafe { libc::adjtimex(time.as_mut_ptr()) };
    // TIME_ERROR stands for STA_UNSYNC and its like; -1 for a refusal.
    (0..TIME_ERROR).contains(&state)
}

/// What adjtimex(2) returns for a clock that is not synchronised.
const TIME_ERROR: libc::c_int = 5;

/// CPU time that this process has used, all threads together.
pub fn own_cpu() -> Duration {
    span(clock_gettime(ClockId::ProcessCPUTime))
}

/// CPU time that another process has used, all threads together, in ns. Exact while it does not run. While it runs on
/// another core the kernel brings the value up to date at its ticks only, so it may lag by one (1 to 10 ms).
///
/// # Errors
/// `ESRCH` when there is no such process.
pub fn process_cpu(pid: i32) -> io::Result<Duration> {
    /// The kernel's name of the clock that counts what all threads of a process ran, by the scheduler's account
    /// (`CPUCLOCK_SCHED`). clock_getcpuclockid(3) makes the same, and a system call to ask whether there is one.
    const SCHED: libc::clockid_t = 2;
    let clock = !target(pid)?.as_raw_nonzero().get() << 3 | SCHED;
    let mut time = MaybeUninit::<libc::timespec>::uninit();
    // SAFETY: `time` is a valid place for one timespec; it is read only after the call has filled it.
    let time = unsafe {
        if libc::clock_gettime(clock, time.as_mut_ptr()) != 0 {
            return Err(no_such_process());
        }
        time.assume_init()
    };
    Ok(Duration::new(u64::try_from(time.tv_sec).unwrap_or(0), u32::try_from(time.tv_nsec).unwrap_or(0)))
}

/// Sleeps until a moment of the monotonic clock, whatever signals come; returns at once when it has passed. Sleeps to
/// absolute moments do not add their delays up.
pub fn sleep_until(moment: Instant) {
    let nanos = moment.as_nanos();
    let request = Timespec {
        tv_sec: i64::try_from(nanos / 1_000_000_000).unwrap_or(i64::MAX),
        tv_nsec: i64::try_from(nanos % 1_000_000_000).unwrap_or(0),
    };
    while now() < moment {
        // Interrupted by a signal it is begun again; no other failure is possible with a valid time.
        let _woken = clock_nanosleep_absolute(ClockId::Monotonic, &request);
    }
}

fn span(time: Timespec) -> Duration {
    Duration::new(u64::try_from(time.tv_sec).unwrap_or(0), u32::try_from(time.tv_nsec).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_monotonic_clock_never_goes_back() {
        let (first, second) = (now(), now());
        assert!(first <= second && first > Instant::default());
    }

    #[test]
    fn cpu_time_of_ones_own_pid_is_ones_own_cpu_time() {
        let before = own_cpu();
        let by_pid = process_cpu(rustix::process::getpid().as_raw_nonzero().get()).unwrap();
        assert!(before <= by_pid && by_pid <= own_cpu());
    }

    #[test]
    fn no_cpu_time_is_read_of_groups_or_of_nobody() {
        for pid in [0, -1, i32::MIN, i32::MAX, crate::sys::process::NOBODY] {
            assert_eq!(process_cpu(pid).unwrap_err().raw_os_error(), Some(libc::ESRCH), "pid {pid}");
        }
    }

    #[test]
    fn a_sleep_ends_at_its_moment_and_not_before() {
        let moment = now().after(Duration::from_millis(3));
        sleep_until(moment);
        assert!(now() >= moment);
        sleep_until(Instant::default());
    }

    #[test]
    fn the_time_since_boot_goes_on_with_the_monotonic_clock_or_is_ahead_of_it_by_a_suspend() {
        let before = now();
        assert!(since_boot() >= before);
    }

    #[test]
    fn the_kernel_gives_its_word_on_synchronisation_twice_alike() {
        // A time service may change it in between once; not twice.
        let words = [is_synchronised(), is_synchronised(), is_synchronised()];
        assert!(words[0] == words[1] || words[1] == words[2]);
    }

    #[test]
    fn the_wall_clock_is_of_this_century() {
        assert!(wall().as_millis() > 1_600_000_000_000);
    }
}
