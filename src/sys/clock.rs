//! What time is it, and how much CPU time was used? The only file that reads a clock.

use std::io;
use std::mem::MaybeUninit;
use std::time::Duration;

use rustix::thread::clock_nanosleep_absolute;
use rustix::time::{ClockId, Timespec, clock_gettime};

use super::{no_such_process, target};
use crate::units::{Instant, WallTime};

/// Now, by `CLOCK_MONOTONIC`.
pub fn now() -> Instant {
    let time = clock_gettime(ClockId::Monotonic);
    Instant::from_nanos(u64::try_from(span(time).as_nanos()).unwrap_or(u64::MAX))
}

/// Now, by the wall clock.
pub fn wall() -> WallTime {
    let time = clock_gettime(ClockId::Realtime);
    WallTime::from_millis(time.tv_sec.saturating_mul(1000).saturating_add(time.tv_nsec / 1_000_000))
}

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
    fn the_wall_clock_is_of_this_century() {
        assert!(wall().as_millis() > 1_600_000_000_000);
    }
}
