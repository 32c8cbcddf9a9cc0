//! Who reads the clocks? The shell, here: every moment that the core is told has gone through the [`Judge`].

use std::time::Duration;

use super::desk::Now;
use super::wall::{Judge, News, Reading};
use crate::sys::clock;
use crate::units::{Instant, WallTime};

/// The kernel is asked so often whether it calls its clock synchronised: the question is a costly one, and nothing is
/// decided on the answer in less than a minute.
const ASK_EVERY: Duration = Duration::from_secs(1);

/// The machine's clocks, and what is to be thought of them.
#[derive(Debug)]
pub(super) struct Clocks {
    judge: Judge,
    news: Option<News>,
    /// What the kernel said last, and when.
    synchronised: (Instant, bool),
}

impl Clocks {
    /// The clocks at the start, as far as they can be judged without a memory.
    pub(super) fn start() -> Self {
        let now = clock::since_boot();
        let synchronised = (now, clock::is_synchronised());
        let judge = Judge::new(Reading { steady: now, raw: clock::wall(), synchronised: synchronised.1 }, None);
        let news = judge.why().map(|_| News::Doubt);
        Self { judge, news, synchronised }
    }

    /// A store was opened; `mark` is the highest time that it was given.
    pub(super) fn recall(&mut self, mark: Option<WallTime>) {
        if let Some(mark) = mark {
            let reading = self.read();
            self.news = self.judge.recall(reading, mark).or(self.news);
        }
    }

    /// Both clocks at this moment.
    pub(super) fn now(&mut self) -> Now {
        let reading = self.read();
        // A doubt that ended a moment ago is worth more than one that began: the core asks why.
        self.news = self.judge.observe(reading).or(self.news);
        Now::new(clock::now(), self.judge.judged())
    }

    /// What changed since the last call, and why the time is in doubt now, if it is.
    pub(super) fn take_news(&mut self) -> Option<(News, Option<String>)> {
        Some((self.news.take()?, self.judge.why().map(str::to_owned)))
    }

    fn read(&mut self) -> Reading {
        let steady = clock::since_boot();
        if steady.since(self.synchronised.0) >= ASK_EVERY {
            self.synchronised = (steady, clock::is_synchronised());
        }
        Reading { steady, raw: clock::wall(), synchronised: self.synchronised.1 }
    }
}
