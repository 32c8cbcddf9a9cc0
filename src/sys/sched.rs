//! How willingly does the scheduler run us, and where?

use std::io;
use std::num::NonZeroU64;

use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

/// `struct sched_attr` of the kernel, first version (48 bytes), which every kernel since 3.14 takes.
/// The C libraries are no help: musl's `sched_setscheduler` refuses everything.
#[repr(C)]
#[derive(Default)]
struct Attributes {
    size: u32,
    policy: u32,
    flags: u64,
    nice: i32,
    priority: u32,
    runtime: u64,
    deadline: u64,
    period: u64,
}

const SIZE: u32 = 48;
const _: () = assert!(size_of::<Attributes>() == SIZE as usize, "the kernel's layout has no padding");

const SCHED_OTHER: u32 = 0;
const SCHED_FIFO: u32 = 1;
const SCHED_IDLE: u32 = 5;
const FLAG_RESET_ON_FORK: u64 = 1;

/// Makes this thread, and what it forks, run only when nothing else wants the core (`SCHED_IDLE`).
///
/// # Errors
/// `EPERM` where a sandbox forbids it.
pub fn idle_self() -> io::Result<()> {
    set(&Attributes { size: SIZE, policy: SCHED_IDLE, ..Attributes::default() })
}

/// Makes this thread run before every normal one (`SCHED_FIFO`, 1 to 99). What it forks is normal again.
///
/// # Errors
/// `EPERM` without `CAP_SYS_NICE` or a sufficient `RLIMIT_RTPRIO`, `EINVAL` for a priority out of range.
pub fn fifo_self(priority: u8) -> io::Result<()> {
    set(&Attributes {
        size: SIZE,
        policy: SCHED_FIFO,
        flags: FLAG_RESET_ON_FORK,
        priority: u32::from(priority),
        ..Attributes::default()
    })
}

/// Asks for a short time slice (100 to 100 000 µs), so that this thread gets the core sooner after it wakes.
///
/// # Errors
/// `ENOSYS` on kernels before 6.12, which take the request and ignore it.
pub fn short_slice_self(slice_us: u32) -> io::Result<()> {
    let slice_ns = u64::from(slice_us) * 1000;
    let held = get()?;
    set(&Attributes { size: SIZE, policy: SCHED_OTHER, nice: held.nice, runtime: slice_ns, ..Attributes::default() })?;
    if get()?.runtime == slice_ns { Ok(()) } else { Err(io::Error::from_raw_os_error(libc::ENOSYS)) }
}

/// Lets sleeps of this thread end as close to their moment as the timer can: a normal thread's may otherwise be 50 µs
/// late on purpose.
///
/// # Errors
/// `EPERM` where a sandbox forbids it.
pub fn exact_timers_self() -> io::Result<()> {
    rustix::thread::set_current_timer_slack(NonZeroU64::new(1))?;
    Ok(())
}

/// Sets the nice value of this process, -20 to 19.
///
/// # Errors
/// `EACCES` when lowering it without privilege.
pub fn nice_self(nice: i32) -> io::Result<()> {
    rustix::process::setpriority_process(None, nice)?;
    Ok(())
}

/// Binds this thread, and what it forks, to one core.
///
/// # Errors
/// `EINVAL` when there is no such core, or it is not ours to use.
pub fn pin_self(core: usize) -> io::Result<()> {
    if core >= CpuSet::MAX_CPU {
        return Err(io::Error::from_raw_os_error(libc::EINVAL));
    }
    let mut set = CpuSet::new();
    set.set(core);
    sched_setaffinity(None, &set)?;
    Ok(())
}

/// Binds this thread, and what it starts, to some cores.
///
/// # Errors
/// `EINVAL` when none of them is there, or ours to use.
pub fn confine_self(cores: &[usize]) -> io::Result<()> {
    let mut set = CpuSet::new();
    cores.iter().filter(|core| **core < CpuSet::MAX_CPU).for_each(|core| set.set(*core));
    sched_setaffinity(None, &set)?;
    Ok(())
}

/// Cores that this thread may use, ascending; empty when the kernel does not say.
pub fn cores() -> Vec<usize> {
    let Ok(set) = sched_getaffinity(None) else { return Vec::new() };
    (0..CpuSet::MAX_CPU).filter(|core| set.is_set(*core)).collect()
}

/// Size of the cache of level 2 that the core uses, in bytes; `None` when the kernel does not say.
pub fn level_2_cache_bytes(core: usize) -> Option<usize> {
    let text = std::fs::read_to_string(format!("/sys/devices/system/cpu/cpu{core}/cache/index2/size")).ok()?;
    cache_bytes(text.trim())
}

/// A size as the kernel writes it: `512K`, `2M`.
fn cache_bytes(text: &str) -> Option<usize> {
    let (digits, unit) = match text.as_bytes().last()? {
        b'K' => (&text[..text.len() - 1], 1 << 10),
        b'M' => (&text[..text.len() - 1], 1 << 20),
        _ => (text, 1),
    };
    digits.parse::<usize>().ok()?.checked_mul(unit).filter(|bytes| *bytes > 0)
}

fn set(attributes: &Attributes) -> io::Result<()> {
    // SAFETY: `attributes` is a valid `struct sched_attr` whose `size` field tells its length; the kernel only reads it.
    let result = unsafe { libc::syscall(libc::SYS_sched_setattr, 0, &raw const *attributes, 0) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

fn get() -> io::Result<Attributes> {
    let mut attributes = Attributes::default();
    // SAFETY: the kernel writes at most `SIZE` bytes, which is the length of `attributes`; every bit pattern is valid.
    let result = unsafe { libc::syscall(libc::SYS_sched_getattr, 0, &raw mut attributes, SIZE, 0) };
    if result == 0 { Ok(attributes) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// In a thread of its own: what it does to itself must not stick to the test runner's threads.
    fn apart<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
        std::thread::spawn(work).join().unwrap()
    }

    #[test]
    fn an_idle_thread_is_idle() {
        apart(|| {
            idle_self().unwrap();
            assert_eq!(get().unwrap().policy, SCHED_IDLE);
        });
    }

    #[test]
    fn a_fifo_thread_is_fifo_or_told_that_it_may_not() {
        apart(|| match fifo_self(10) {
            Ok(()) => {
                let held = get().unwrap();
                assert_eq!((held.policy, held.priority, held.flags), (SCHED_FIFO, 10, FLAG_RESET_ON_FORK));
            }
            Err(error) => assert_eq!(error.raw_os_error(), Some(libc::EPERM)),
        });
        apart(|| assert!(fifo_self(100).is_err()));
    }

    #[test]
    fn a_short_slice_is_read_back_or_told_to_be_unknown() {
        apart(|| match short_slice_self(100) {
            Ok(()) => assert_eq!(get().unwrap().runtime, 100_000),
            Err(error) => assert_eq!(error.raw_os_error(), Some(libc::ENOSYS)),
        });
    }

    #[test]
    fn a_confined_thread_and_what_it_starts_have_those_cores_and_no_others() {
        apart(|| {
            let all = cores();
            confine_self(&all[..1]).unwrap();
            assert_eq!(cores(), all[..1]);
            assert_eq!(std::thread::spawn(cores).join().unwrap(), all[..1]);
            assert!(confine_self(&[]).is_err());
            assert!(confine_self(&[usize::MAX]).is_err());
        });
    }

    #[test]
    fn a_pinned_thread_has_one_core() {
        apart(|| {
            let last = *cores().last().unwrap();
            pin_self(last).unwrap();
            assert_eq!(cores(), [last]);
            assert!(pin_self(CpuSet::MAX_CPU - 1).is_err() || last == CpuSet::MAX_CPU - 1);
            assert!(pin_self(usize::MAX).is_err());
        });
    }

    #[test]
    fn cache_sizes_are_read_with_their_unit() {
        let sizes = ["512K", "2M", "4096", "0K", "", "K", "12Q"].map(cache_bytes);
        assert_eq!(sizes, [Some(512 << 10), Some(2 << 20), Some(4096), None, None, None, None]);
    }
}
