//! What does a controller know of the load? Reports that come over MQTT: second-hand and slow, so for planning only.
//!
//! The agent receives, judges and posts them ([`Inbox`]); to the sentinel they are one more event-driven source. What
//! they may do is decided in [`fusion`](super::fusion): raise the load while they are fresh, and nothing else. A node
//! that hears nothing but them is blind.

use std::io;
use std::os::fd::BorrowedFd;
use std::time::Duration;

use super::mailbox::{Mailbox, Poster};
use super::{Observation, Problem, Source};
use crate::load::{Metric, Observed, Reading};
use crate::units::{CELLS_MAX, CellId, Instant, SourceId, Utilization};

/// Age at which a report is no longer believed, unless configured.
pub const MAX_AGE_DEFAULT: Duration = Duration::from_secs(900);
/// Readings that wait for the sentinel: four reports of as many cells as there may be.
const WAITING_MAX: usize = 4 * CELLS_MAX;

/// The agent's end.
#[derive(Clone, Debug)]
pub struct Inbox {
    source: SourceId,
    poster: Poster,
}

/// The sentinel's end.
#[derive(Debug)]
pub(super) struct Mqtt {
    mailbox: Mailbox,
    inbox: Inbox,
}

/// What a report says of one cell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Said {
    /// Its PRB usage, the higher direction.
    Level(Metric, Utilization),
    /// It was taken out of service.
    Gone,
}

impl Mqtt {
    /// A source that is heard through its [`Inbox`].
    pub(super) fn open(id: SourceId) -> Result<Self, Problem> {
        let failed = |error: io::Error| Problem::Io {
            attempt: "make a mailbox for",
            place: "reports over MQTT".to_owned(),
            error,
            remedy: "raise the limit of open files of the agent's service",
        };
        let (mailbox, poster) = Mailbox::pair(WAITING_MAX).map_err(failed)?;
        Ok(Self { mailbox, inbox: Inbox { source: id, poster } })
    }
}

impl Source for Mqtt {
    fn fd(&self) -> Option<BorrowedFd<'_>> {
        self.mailbox.fd()
    }

    fn next_poll(&self) -> Option<Instant> {
        None
    }

    fn inbox(&self) -> Option<Inbox> {
        Some(self.inbox.clone())
    }

    fn read(&mut self, now: Instant, sink: &mut dyn FnMut(Observation)) {
        self.mailbox.read(now, sink);
    }
}

impl Inbox {
    /// Hands on what was said of a cell, measured at `at`.
    pub fn post(&self, at: Instant, cell: CellId, said: Said) {
        let observed = match said {
            Said::Level(metric, level) => Observed::Level { metric, level, late: None },
            Said::Gone => Observed::Gone,
        };
        self.poster.post(Ok(Reading { source: self.source, cell, stamped: Some(at), observed }));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_posted_is_read_with_its_stamp_and_its_source() {
        let mut source = Mqtt::open(SourceId(2)).unwrap();
        let inbox = source.inbox().unwrap();
        let (at, now) = (Instant::from_nanos(5), Instant::from_nanos(9));
        let level = Utilization::from_percent(71).unwrap();
        inbox.post(at, CellId(1), Said::Level(Metric::PrbTotUl, level));
        inbox.post(at, CellId(2), Said::Gone);
        let mut heard = Vec::new();
        source.read(now, &mut |observation| heard.push(observation.unwrap()));
        let reading = |cell, observed| Reading { source: SourceId(2), cell: CellId(cell), stamped: Some(at), observed };
        let expected = Observed::Level { metric: Metric::PrbTotUl, level, late: None };
        assert_eq!(heard, [reading(1, expected), reading(2, Observed::Gone)]);
    }

    #[test]
    fn a_flood_is_bounded_and_its_end_survives() {
        let mut source = Mqtt::open(SourceId(0)).unwrap();
        let inbox = source.inbox().unwrap();
        let most = WAITING_MAX as u64;
        (0..2 * most).for_each(|cell| inbox.post(Instant::default(), CellId(cell), Said::Gone));
        let mut cells = Vec::new();
        for _ in 0..2 * WAITING_MAX {
            source.read(Instant::default(), &mut |observation| cells.push(observation.unwrap().cell.0));
        }
        assert_eq!(cells, (most..2 * most).collect::<Vec<_>>());
    }
}
