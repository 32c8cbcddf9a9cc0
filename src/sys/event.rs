//! How does one thread wake another, or itself at a moment? Descriptors that fit into `epoll`.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::event::{EventfdFlags, eventfd};
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create, timerfd_settime,
};

use crate::units::Instant;

/// Something to ring from any thread, readable until cleared (eventfd).
#[derive(Debug)]
pub struct Doorbell(OwnedFd);

impl Doorbell {
    /// A bell that has not rung.
    ///
    /// # Errors
    /// `EMFILE` and its like.
    pub fn new() -> io::Result<Self> {
        Ok(Self(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?))
    }

    /// Makes the descriptor readable; never blocks. A bell that cannot count further is already ringing.
    pub fn ring(&self) {
        let _already_ringing = rustix::io::write(&self.0, &1_u64.to_ne_bytes());
    }

    /// Makes the descriptor unreadable; says whether it had rung.
    pub fn clear(&self) -> bool {
        rustix::io::read(&self.0, &mut [0_u8; 8]).is_ok()
    }
}

impl AsFd for Doorbell {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// A descriptor that becomes readable at a moment (timerfd on the monotonic clock).
#[derive(Debug)]
pub struct Timer(OwnedFd);

impl Timer {
    /// A timer that is not set.
    ///
    /// # Errors
    /// `EMFILE` and its like.
    pub fn new() -> io::Result<Self> {
        Ok(Self(timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK)?))
    }

    /// Replaces the moment, and takes back an expiry that was not cleared. A moment that has passed fires at once.
    ///
    /// # Errors
    /// None that a valid timer is known to give.
    pub fn set(&self, at: Option<Instant>) -> io::Result<()> {
        // All zero would switch the timer off; an hour-count beyond i64 cannot come out of u64 nanoseconds.
        let nanos = at.map_or(0, |at| at.as_nanos().max(1));
        let it_value = Timespec {
            tv_sec: i64::try_from(nanos / 1_000_000_000).unwrap_or(i64::MAX),
            tv_nsec: i64::try_from(nanos % 1_000_000_000).unwrap_or(0),
        };
        let it_interval = Timespec { tv_sec: 0, tv_nsec: 0 };
        timerfd_settime(&self.0, TimerfdTimerFlags::ABSTIME, &Itimerspec { it_interval, it_value })?;
        Ok(())
    }

    /// Makes the descriptor unreadable; says whether the moment had come.
    pub fn clear(&self) -> bool {
        rustix::io::read(&self.0, &mut [0_u8; 8]).is_ok()
    }
}

impl AsFd for Timer {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use rustix::event::{PollFd, PollFlags, poll};

    use super::*;
    use crate::sys::clock;

    fn readable(fd: &impl AsFd, timeout_s: i64) -> bool {
        let timeout = Timespec { tv_sec: timeout_s, tv_nsec: 0 };
        poll(&mut [PollFd::new(fd, PollFlags::IN)], Some(&timeout)).unwrap() == 1
    }

    #[test]
    fn a_bell_is_readable_from_ring_to_clear() {
        let bell = Doorbell::new().unwrap();
        assert!(!readable(&bell, 0) && !bell.clear());
        bell.ring();
        bell.ring();
        assert!(readable(&bell, 0) && bell.clear());
        assert!(!readable(&bell, 0));
    }

    #[test]
    fn a_timer_fires_at_a_moment_past_or_to_come_and_not_when_unset() {
        let timer = Timer::new().unwrap();
        for moment in [Instant::default(), clock::now(), clock::now().after(std::time::Duration::from_millis(2))] {
            timer.set(Some(moment)).unwrap();
            assert!(readable(&timer, 60), "{moment:?}");
            assert!(clock::now() >= moment);
        }
        timer.set(None).unwrap();
        assert!(!readable(&timer, 0));
        timer.set(Some(Instant::from_nanos(u64::MAX))).unwrap();
        assert!(!readable(&timer, 0));
    }
}
