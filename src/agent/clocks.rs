//! Who reads the clocks? The shell, here: every moment that the core is told has gone through the [`Judge`].

use super::desk::Now;
use super::wall::{Judge, News, Reading};
use crate::sys::clock;
use crate::units::WallTime;

/// The machine's clocks, and what is to be thought of them.
#[derive(Debug)]
pub(super) struct Clocks {
    judge: Judge,
    news: Option<News>,
}

impl Clocks {
    /// The clocks at the start, as far as they can be judged without a memory.
    pub(super) fn start() -> Self {
        let judge = Judge::new(read(), None);
        let news = judge.why().map(|_| News::Doubt);
        Self { judge, news }
    }

    /// A store was opened; `mark` is the highest time that it was given.
    pub(super) fn recall(&mut self, mark: Option<WallTime>) {
        if let Some(mark) = mark {
            self.news = self.judge.recall(read(), mark).or(self.news);
        }
    }

    /// Both clocks at this moment.
    pub(super) fn now(&mut self) -> Now {
        // A doubt that ended a moment ago is worth more than one that began: the core asks why.
        self.news = self.judge.observe(read()).or(self.news);
        Now::new(clock::now(), self.judge.judged())
    }

    /// What changed since the last call, and why the time is in doubt now, if it is.
    pub(super) fn take_news(&mut self) -> Option<(News, Option<String>)> {
        Some((self.news.take()?, self.judge.why().map(str::to_owned)))
    }
}

fn read() -> Reading {
    Reading { steady: clock::since_boot(), raw: clock::wall(), synchronised: clock::is_synchronised() }
}
