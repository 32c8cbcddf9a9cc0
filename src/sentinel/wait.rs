//! What can wake the thread, and how does it sleep until then?
//!
//! In one of two ways. Without a page in shared memory it waits for all descriptors at once (`epoll`), with a timerfd for
//! the next moment. With one it sleeps at the page's doorbell, a futex, because that is the shortest way out of bed; a
//! companion then listens to the descriptors, see [`Ears`].

use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};

use rustix::event::epoll::{self, EventData, EventFlags};

use super::Shared;
use super::ears::Ears;
use crate::load::Source;
use crate::sys::event::Timer;
use crate::sys::signal;
use crate::units::{Instant, SOURCES_MAX};

/// A set of things that want to be looked at.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Ready(pub(super) u32);

impl Ready {
    /// The handle wants something.
    pub(super) const DOORBELL: Self = Self(1 << SOURCES_MAX);
    /// A worker has stopped, gone on or ended.
    pub(super) const CHILD: Self = Self(1 << (SOURCES_MAX + 1));
    /// The moment has come.
    const TIMER: Self = Self(1 << (SOURCES_MAX + 2));
    /// The companion has to end.
    pub(super) const LEAVE: Self = Self(1 << (SOURCES_MAX + 3));

    /// The source of that index.
    pub(super) const fn source(index: usize) -> Self {
        Self(if index < SOURCES_MAX { 1 << index } else { 0 })
    }

    /// Whether `other` is in it.
    pub(super) const fn has(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }

    /// Both together.
    pub(super) const fn and(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

/// Most events that one call hands over: one for each mark.
const EVENTS_MAX: usize = SOURCES_MAX + 4;

/// Everything with a descriptor that can be of interest, in one `epoll`.
#[derive(Debug)]
pub(super) struct Descriptors {
    epoll: OwnedFd,
    flags: EventFlags,
    /// `None` where signalfd is refused: stops are then confirmed by timer.
    child_signal: Option<OwnedFd>,
}

impl Descriptors {
    /// Watches the handle's doorbell, the workers and the sources. `flags` go with each of them.
    pub(super) fn new(flags: EventFlags, shared: &Shared, sources: &[Box<dyn Source>]) -> io::Result<Self> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let flags = EventFlags::IN | flags;
        let new = Self { epoll, flags, child_signal: signal::child_signal_fd().ok() };
        for (mark, fd) in new.all(shared, sources) {
            epoll::add(&new.epoll, fd, EventData::new_u64(mark.0.into()), new.flags)?;
        }
        Ok(new)
    }

    /// Watches one more, whatever the flags of the others.
    pub(super) fn add(&self, fd: BorrowedFd<'_>, mark: Ready) -> io::Result<()> {
        epoll::add(&self.epoll, fd, EventData::new_u64(mark.0.into()), EventFlags::IN)?;
        Ok(())
    }

    /// Watches those in `handled` again: with `ONESHOT` each is reported once and then forgotten.
    pub(super) fn again(&self, handled: Ready, shared: &Shared, sources: &[Box<dyn Source>]) -> io::Result<()> {
        for (mark, fd) in self.all(shared, sources).filter(|(mark, _)| handled.has(*mark)) {
            epoll::modify(&self.epoll, fd, EventData::new_u64(mark.0.into()), self.flags)?;
        }
        Ok(())
    }

    /// Sleeps until one of them is readable. A signal may end it with none.
    pub(super) fn wait(&self) -> io::Result<Ready> {
        let mut events = [epoll::Event { flags: EventFlags::empty(), data: EventData::new_u64(0) }; EVENTS_MAX];
        let count = match epoll::wait(&self.epoll, &mut events[..], None) {
            Ok(count) => count,
            Err(rustix::io::Errno::INTR) => 0,
            Err(error) => return Err(error.into()),
        };
        let marks = events.iter().take(count).map(|event| Ready(u32::try_from(event.data.u64()).unwrap_or(0)));
        Ok(marks.fold(Ready::default(), Ready::and))
    }

    /// Takes up what the kernel has said about the workers.
    pub(super) fn clear_child_signal(&self) {
        if let Some(child_signal) = &self.child_signal {
            signal::clear_child_signal(child_signal.as_fd());
        }
    }

    fn all<'a>(
        &'a self,
        shared: &'a Shared,
        sources: &'a [Box<dyn Source>],
    ) -> impl Iterator<Item = (Ready, BorrowedFd<'a>)> {
        let sources =
            sources.iter().enumerate().filter_map(|(index, source)| Some((Ready::source(index), source.fd()?)));
        let child_signal = self.child_signal.iter().map(|fd| (Ready::CHILD, fd.as_fd()));
        sources.chain([(Ready::DOORBELL, shared.doorbell.as_fd())]).chain(child_signal)
    }
}

/// How the thread sleeps.
#[derive(Debug)]
pub(super) enum Wait {
    /// At all descriptors.
    Descriptors(Bed),
    /// At the doorbell of a page in shared memory.
    Doorbell(Ears),
}

impl Wait {
    /// Chooses by what the sources have.
    pub(super) fn new(priority: Option<u8>, shared: &Shared, sources: &[Box<dyn Source>]) -> io::Result<Self> {
        // One page at most, by the configuration. Another one would be looked at on time, and its ring not heard.
        let page = sources.iter().enumerate().find_map(|(index, source)| Some((Ready::source(index), source.bell()?)));
        Ok(match page {
            None => Self::Descriptors(Bed::new(Descriptors::new(EventFlags::empty(), shared, sources)?)?),
            Some((page, bell)) => {
                let descriptors = Descriptors::new(EventFlags::ONESHOT, shared, sources)?;
                Self::Doorbell(Ears::start(priority, page, bell, descriptors)?)
            }
        })
    }

    /// Sleeps until something wants to be looked at or the moment has come.
    pub(super) fn sleep(&mut self, until: Option<Instant>) -> io::Result<Ready> {
        match self {
            Self::Descriptors(bed) => bed.sleep(until),
            Self::Doorbell(ears) => ears.sleep(until),
        }
    }

    /// What is in `handled` was looked at: it may wake the thread again.
    pub(super) fn again(&self, handled: Ready, shared: &Shared, sources: &[Box<dyn Source>]) -> io::Result<()> {
        match self {
            Self::Descriptors(_) => Ok(()),
            Self::Doorbell(ears) => ears.descriptors().again(handled, shared, sources),
        }
    }

    /// Takes up what the kernel has said about the workers.
    pub(super) fn clear_child_signal(&self) {
        match self {
            Self::Descriptors(bed) => bed.descriptors.clear_child_signal(),
            Self::Doorbell(ears) => ears.descriptors().clear_child_signal(),
        }
    }
}

/// Sleep at all descriptors.
#[derive(Debug)]
pub(super) struct Bed {
    descriptors: Descriptors,
    timer: Timer,
    /// What the timer is set to.
    armed: Option<Instant>,
    /// The timer has fired, and stays readable until it is set anew.
    fired: bool,
}

impl Bed {
    fn new(descriptors: Descriptors) -> io::Result<Self> {
        let timer = Timer::new()?;
        descriptors.add(timer.as_fd(), Ready::TIMER)?;
        Ok(Self { descriptors, timer, armed: None, fired: false })
    }

    /// The timer is set anew only if it would fire too late, and never cleared: a wake too early costs less than a call
    /// at each reading, and no call stands between a wake and what it is about.
    fn sleep(&mut self, until: Option<Instant>) -> io::Result<Ready> {
        let too_late = until.is_some_and(|until| self.armed.is_none_or(|armed| until < armed));
        if too_late || self.fired {
            self.timer.set(until)?;
            (self.armed, self.fired) = (until, false);
        }
        let ready = self.descriptors.wait()?;
        self.fired = ready.has(Ready::TIMER);
        Ok(ready)
    }
}
