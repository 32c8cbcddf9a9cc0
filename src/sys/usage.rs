//! How long did threads wait for a core, and what else kept them or the host busy? The kernel's own counts.
//!
//! Nothing here allocates, so the sentinel's thread may read it.

use std::ffi::CStr;
use std::io::{self, Write as _};
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::time::Duration;

use rustix::fs::{Mode, OFlags};
use rustix::time::{ClockId, clock_gettime};

use super::target;

/// Unit of the times in `/proc/stat`: `USER_HZ` is 100 on every architecture that this program is built for.
pub const TICK: Duration = Duration::from_millis(10);

/// What one thread has used in its life.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ThreadUsage {
    /// Runnable without a core.
    pub waited: Duration,
    /// On a core.
    pub ran: Duration,
    /// Pages that were read from disk.
    pub major_faults: u64,
    /// Pages that were mapped without reading.
    pub minor_faults: u64,
    /// How often it lost its core to somebody else.
    pub preempted: u64,
}

/// The calling thread's counts, with their file held open. Use it in the thread that made it.
#[derive(Debug)]
pub struct OwnUsage(RunDelay);

impl OwnUsage {
    /// Opens the file of the calling thread.
    ///
    /// # Errors
    /// `ENOENT` without `/proc`, or on a kernel without scheduler statistics.
    pub fn open() -> io::Result<Self> {
        Ok(Self(RunDelay::open(c"/proc/thread-self/schedstat")?))
    }

    /// Reads everything: three system calls, 2 to 3 µs. `None` when the kernel does not say.
    pub fn read(&self) -> Option<ThreadUsage> {
        let mut usage = MaybeUninit::<libc::rusage>::uninit();
        // SAFETY: `usage` is a valid place for one rusage; it is read only after the call has filled it.
        let usage = unsafe {
            if libc::getrusage(libc::RUSAGE_THREAD, usage.as_mut_ptr()) != 0 {
                return None;
            }
            usage.assume_init()
        };
        let count = |value: libc::c_long| u64::try_from(value).unwrap_or(0);
        // The CPU time in schedstat stands still while the thread runs; its clock does not.
        let ran = clock_gettime(ClockId::ThreadCPUTime);
        Some(ThreadUsage {
            waited: self.0.read()?,
            ran: Duration::new(u64::try_from(ran.tv_sec).ok()?, u32::try_from(ran.tv_nsec).ok()?),
            major_faults: count(usage.ru_majflt),
            minor_faults: count(usage.ru_minflt),
            preempted: count(usage.ru_nivcsw),
        })
    }
}

/// How long the first thread of a process has been runnable without a core, with its file held open.
#[derive(Debug)]
pub struct RunDelay(OwnedFd);

impl RunDelay {
    /// Opens the file of a process. It stays that process's when its id is given to another.
    ///
    /// # Errors
    /// `ENOENT` when there is no such process, no `/proc`, or no scheduler statistics in this kernel.
    pub fn of_process(pid: i32) -> io::Result<Self> {
        let pid = target(pid)?.as_raw_nonzero();
        let mut path = [0_u8; 40];
        write!(&mut path[..], "/proc/{pid}/schedstat\0")?;
        Self::open(CStr::from_bytes_until_nul(&path).map_err(io::Error::other)?)
    }

    fn open(path: &CStr) -> io::Result<Self> {
        Ok(Self(rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?))
    }

    /// The time until now, in ns; exact. `None` when the process has ended.
    pub fn read(&self) -> Option<Duration> {
        let mut text = [0_u8; 96];
        let bytes = rustix::io::pread(&self.0, &mut text, 0).ok()?;
        run_delay(text.get(..bytes)?)
    }
}

/// Second of the three numbers of a `schedstat`: CPU time, run-queue delay, number of turns.
fn run_delay(text: &[u8]) -> Option<Duration> {
    numbers(text).nth(1).map(Duration::from_nanos)
}

/// What all cores of the host together spent on others than its threads, in ticks since boot.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HostUsage {
    /// The hypervisor ran something else.
    pub steal_ticks: u64,
    /// Interrupt handlers, soft ones included.
    pub irq_ticks: u64,
}

impl HostUsage {
    /// Reads `/proc/stat`. The kernel adds up the counts of every interrupt and core for it: 10 µs on two cores, far
    /// more on a large host, so not for a thread that is in a hurry.
    pub fn read() -> Option<Self> {
        let file = rustix::fs::open(c"/proc/stat", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).ok()?;
        let mut text = [0_u8; 256];
        let bytes = rustix::io::pread(&file, &mut text, 0).ok()?;
        host_usage(text.get(..bytes)?)
    }
}

/// From `cpu  user nice system idle iowait irq softirq steal …`, the first line.
fn host_usage(text: &[u8]) -> Option<HostUsage> {
    let line = text.split(|byte| *byte == b'\n').next()?.strip_prefix(b"cpu ")?;
    let mut later = numbers(line).skip(5);
    let (irq, softirq, steal) = (later.next()?, later.next()?, later.next()?);
    Some(HostUsage { steal_ticks: steal, irq_ticks: irq.saturating_add(softirq) })
}

fn numbers(text: &[u8]) -> impl Iterator<Item = u64> {
    let words = text.split(u8::is_ascii_whitespace).filter(|word| !word.is_empty());
    words.map_while(|word| std::str::from_utf8(word).ok()?.parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_schedstat_tells_the_delay_second() {
        assert_eq!(run_delay(b"703000000 1851252 17\n"), Some(Duration::from_nanos(1_851_252)));
        for bad in [&b""[..], b"703", b"703 x 17", b"-1 2 3", b"703 99999999999999999999 1"] {
            assert_eq!(run_delay(bad), None, "{:?}", String::from_utf8_lossy(bad));
        }
    }

    #[test]
    fn the_first_line_of_proc_stat_tells_interrupts_and_steal() {
        let text = b"cpu  702309 662661 216124 912025 15395 11 3539 609 0 0\ncpu0 1 2 3 4 5 6 7 8 9 10\n";
        assert_eq!(host_usage(text), Some(HostUsage { steal_ticks: 609, irq_ticks: 3550 }));
        for bad in [&b""[..], b"cpu0 1 2 3 4 5 6 7 8", b"cpu  1 2 3 4 5 6 7", b"intr 1 2 3 4 5 6 7 8 9"] {
            assert_eq!(host_usage(bad), None, "{:?}", String::from_utf8_lossy(bad));
        }
    }

    #[test]
    fn a_threads_own_cpu_time_grows_while_it_runs() {
        let Ok(own) = OwnUsage::open() else {
            eprintln!("SKIPPED: this kernel has no /proc/thread-self/schedstat");
            return;
        };
        let before = own.read().unwrap();
        let end = before.ran + Duration::from_millis(2);
        while own.read().unwrap().ran < end {
            std::hint::spin_loop();
        }
        let after = own.read().unwrap();
        assert!(after.waited >= before.waited && after.preempted >= before.preempted, "{before:?} {after:?}");
    }

    #[test]
    fn the_delay_of_a_process_that_ended_is_not_read() {
        if !std::path::Path::new("/proc/self/schedstat").exists() {
            eprintln!("SKIPPED: this kernel has no /proc/PID/schedstat");
            return;
        }
        let mut child = std::process::Command::new("cat").stdin(std::process::Stdio::piped()).spawn().unwrap();
        let delay = RunDelay::of_process(i32::try_from(child.id()).unwrap()).unwrap();
        assert!(delay.read().is_some());
        drop(child.stdin.take());
        child.wait().unwrap();
        assert_eq!(delay.read(), None);
        assert!(RunDelay::of_process(0).is_err() && RunDelay::of_process(i32::MAX).is_err());
    }
}
