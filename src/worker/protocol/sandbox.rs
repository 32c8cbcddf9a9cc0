//! How does a worker write down what its sandbox has come to? Levels and items as the numbers of their place.

use super::codec::{Reader, Writer, cut};
use super::{BadFrame, NOTE_BYTES_MAX};
use crate::worker::jail::achieved::{Achieved, Given, Level, Outcome, Step};

impl Writer {
    pub(super) fn sandbox(&mut self, sandbox: &Achieved) {
        self.u8(place(&Level::ALL, sandbox.level));
        self.u8(sandbox.landlock_abi);
        self.u32(sandbox.uid);
        self.span(sandbox.set_up);
        self.span(sandbox.warm_up);
        let outcomes = &sandbox.outcomes[..sandbox.outcomes.len().min(Step::ALL.len())];
        self.length(outcomes.len());
        for outcome in outcomes {
            self.u8(place(&Step::ALL, outcome.step));
            self.u8(place(&Given::ALL, outcome.given));
            self.text(cut(&outcome.detail, NOTE_BYTES_MAX));
        }
    }
}

impl Reader<'_> {
    pub(super) fn sandbox(&mut self) -> Result<Achieved, BadFrame> {
        let level = self.one_of("sandbox level", &Level::ALL)?;
        let [landlock_abi] = self.array("landlock_abi")?;
        let uid = self.u32("uid")?;
        let (set_up, warm_up) = (self.span("set_up_ns")?, self.span("warm_up_ns")?);
        let count = self.length("sandbox items", Step::ALL.len())?;
        let mut outcomes = Vec::with_capacity(count);
        for _ in 0..count {
            let step = self.one_of("sandbox item", &Step::ALL)?;
            let given = self.one_of("sandbox item's state", &Given::ALL)?;
            outcomes.push(Outcome { step, given, detail: self.text("sandbox item's detail", NOTE_BYTES_MAX)? });
        }
        Ok(Achieved { level, outcomes, landlock_abi, uid, set_up, warm_up })
    }

    fn one_of<T: Copy>(&mut self, field: &'static str, all: &[T]) -> Result<T, BadFrame> {
        let [number] = self.array(field)?;
        let found = all.get(usize::from(number)).copied();
        found.ok_or_else(|| BadFrame::Field { field, why: format!("{number} is none of {}", all.len()) })
    }
}

fn place<T: PartialEq>(all: &[T], one: T) -> u8 {
    let place = all.iter().position(|other| *other == one);
    place.and_then(|place| u8::try_from(place).ok()).unwrap_or(u8::MAX)
}
