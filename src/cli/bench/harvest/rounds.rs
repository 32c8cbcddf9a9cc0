//! What happens in a round? A part of the day is played, and clocks are read where its troughs begin and end.

use std::ops::Range;
use std::time::Duration;

use super::grant::Grant;
use super::stand::Stand;
use super::{DAY, Places};
use crate::cli::bench::crew::{self, Crew, Model};
use crate::cli::failure::Failure;
use crate::cli::stage::player::{Emulator, Played, Subject, Told};
use crate::sim::day::Day;

/// Whose round it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// The agent harvests.
    Neap,
    /// Processes that nobody manages compute without pause.
    Unmanaged,
}

impl Kind {
    /// For the progress.
    pub(super) const fn doing(self) -> &'static str {
        match self {
            Self::Neap => "the agent harvests",
            Self::Unmanaged => "an unmanaged process computes",
        }
    }
}

/// Both rounds of one part of the day.
#[derive(Clone, Debug)]
pub(super) struct Pair {
    /// Which part.
    pub(super) part: Range<Duration>,
    /// What the policy grants of it.
    pub(super) grant: Grant,
    /// The agent's round.
    pub(super) neap: Round,
    /// The other.
    pub(super) unmanaged: Round,
}

/// What was measured in one round.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Round {
    /// How long it took.
    pub(super) wall: Duration,
    /// Time in troughs.
    pub(super) trough: Duration,
    /// CPU time that workers, or unmanaged processes, got in them.
    pub(super) cpu: Duration,
    /// How long they waited in them for a core that others had.
    pub(super) displaced: Duration,
    /// CPU time of the agent in them.
    pub(super) agent_in_troughs: Duration,
    /// CPU time of the agent, all threads.
    pub(super) agent: Duration,
    /// CPU time of its sentinel.
    pub(super) sentinel: Duration,
}

impl Pair {
    pub(super) fn new(part: Range<Duration>, grant: Grant) -> Self {
        Self { part, grant, neap: Round::default(), unmanaged: Round::default() }
    }

    /// What the unmanaged processes would have had without an agent beside them.
    pub(super) fn unmanaged_cpu(&self) -> Duration {
        self.unmanaged.cpu + self.unmanaged.agent_in_troughs
    }
}

/// Plays the part once, and enters what was measured.
pub(super) fn play(
    pair: &mut Pair,
    kind: Kind,
    stand: &mut Stand,
    day: &Day,
    model: &Model,
    places: &Places,
) -> Result<(), Failure> {
    let emulator = |subject, told| Emulator {
        day: day.clone(),
        length: DAY,
        part: pair.part.clone(),
        busy_above: stand.policy().busy_above,
        idle_below: stand.policy().idle_below,
        subject,
        beside: Some(stand.agent_pid()),
        told,
    };
    match kind {
        Kind::Neap => {
            let emulator = emulator(Subject::ChildrenOf(stand.agent_id()), Told::DayOnce);
            pair.neap = measure(stand, emulator)?;
        }
        Kind::Unmanaged => {
            let plan = crew::Plan { model, class: crew::Class::Idle, cores: &places.harvest, stamps: false };
            let mut crew = Crew::start(&plan)?;
            let pids = crew.members.iter().map(|member| member.pid).collect();
            let emulator = emulator(Subject::Processes(pids), Told::BusyOnce);
            pair.unmanaged = measure(stand, emulator)?;
            crew.check()?;
        }
    }
    Ok(())
}

fn measure(stand: &mut Stand, emulator: Emulator) -> Result<Round, Failure> {
    let wall = emulator.part.end - emulator.part.start;
    let sentinel = stand.sentinel_cpu();
    let played: Played = stand.play(emulator)?;
    Ok(Round {
        wall,
        trough: played.trough,
        cpu: played.usage.while_idle,
        displaced: played.waits.while_idle,
        agent_in_troughs: played.beside.while_idle,
        agent: played.beside.cpu,
        sentinel: stand.sentinel_cpu().saturating_sub(sentinel),
    })
}
