//! Which ways of stopping are compared, how often is each tried, and what does each figure mean? Pure.

/// Most events of a way that takes a second each.
const SLOW_EVENTS_MAX: u64 = 20;
/// Fewest of them.
const SLOW_EVENTS_MIN: u64 = 3;

/// Events of a quick method in one round.
const ROUND_EVENTS: u64 = 100;
/// Most rounds.
const ROUNDS_MAX: u64 = 200;

/// A way in which inference gives way to load.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Method {
    /// The least that any program can do.
    Floor,
    /// Neap, told through shared memory.
    Shm,
    /// Neap, told by Unix datagram.
    Push,
    /// Neap, told by UDP.
    Udp,
    /// `kill -STOP` by somebody who looks once a second.
    PollStop,
    /// `cgroup.freeze` and nothing else.
    CgroupFreeze,
    /// Nobody stops it, it is only nice.
    Nice19,
}

impl Method {
    /// In the order in which they are shown.
    pub(super) const ALL: [Self; 7] =
        [Self::Floor, Self::Shm, Self::Push, Self::Udp, Self::CgroupFreeze, Self::PollStop, Self::Nice19];

    /// Key in the JSON object.
    pub(super) const fn key(self) -> &'static str {
        match self {
            Self::Floor => "floor",
            Self::Shm => "shm",
            Self::Push => "push",
            Self::Udp => "udp",
            Self::PollStop => "poll_stop",
            Self::CgroupFreeze => "cgroup_freeze",
            Self::Nice19 => "nice19",
        }
    }

    /// For people.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Floor => "bare floor",
            Self::Shm => "Neap, shm",
            Self::Push => "Neap, push",
            Self::Udp => "Neap, UDP",
            Self::PollStop => "1 s poller",
            Self::CgroupFreeze => "cgroup.freeze",
            Self::Nice19 => "nice 19 alone",
        }
    }

    /// Whether Neap stops: the real sentinel thread with source, governor and gate.
    pub(super) const fn is_ours(self) -> bool {
        match self {
            Self::Shm | Self::Push | Self::Udp => true,
            Self::Floor | Self::PollStop | Self::CgroupFreeze | Self::Nice19 => false,
        }
    }

    /// What was done, from the event to the stop.
    pub(super) const fn meaning(self) -> &'static str {
        match self {
            Self::Floor => {
                "A thread of the sentinel's own scheduling class that does nothing but wait on a futex and tgkill the \
                 worker: what the kernel itself takes. Event: right before the futex is woken."
            }
            Self::Shm => {
                "The load is written to the shared page and its doorbell is rung; the real sentinel reads, decides and \
                 stops. Event: right before the reading is written."
            }
            Self::Push => {
                "One JSON line is sent to the agent's Unix datagram socket; the real sentinel receives, parses, decides \
                 and stops. Event: right before the send."
            }
            Self::Udp => "As push, by UDP on the loopback address.",
            Self::PollStop => {
                "What a script does: once a second it reads /proc/stat, and when the core of the load was busy for 40 % \
                 of that second it sends kill -STOP. Event: the moment at which a thread on that core becomes busy."
            }
            Self::CgroupFreeze => {
                "A thread like the floor's writes 1 to cgroup.freeze of the workers' cgroup (v2) and does nothing else. \
                 Event: right before the futex is woken. On a machine where nobody changes cgroups meanwhile."
            }
            Self::Nice19 => {
                "Nobody stops it: the same inference at SCHED_OTHER, nice 19, while a normal thread is busy on its core \
                 for one second. The figure is the time from the event to the last instruction that the worker was seen \
                 to execute within that second, so it cannot exceed a second: in truth it goes on as long as the load \
                 lasts. Event: right before the busy thread is woken."
            }
        }
    }

    /// How many events are to be counted when `events` were asked for.
    pub(super) fn events(self, events: u64) -> u64 {
        match self {
            Self::Floor | Self::Shm | Self::Push | Self::Udp => events,
            Self::CgroupFreeze => events.div_ceil(4),
            Self::PollStop | Self::Nice19 => (events / 1000).clamp(SLOW_EVENTS_MIN, SLOW_EVENTS_MAX),
        }
    }
}

/// In how many rounds all methods take turns. Many: threads are started anew in each, and where the kernel puts a thread
/// when it starts may decide how soon it wakes for the rest of the round.
pub(super) fn rounds(events: u64) -> u64 {
    (events / ROUND_EVENTS).clamp(SLOW_EVENTS_MIN, ROUNDS_MAX)
}

/// How many of `events` are to be counted by the end of round number `round` of `rounds`, the first being 0.
pub(super) fn due(events: u64, round: u64, rounds: u64) -> u64 {
    events * (round + 1).min(rounds) / rounds.max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_event_is_due_in_the_last_round_and_they_come_evenly() {
        for events in [1, 7, 50, 20_000] {
            let rounds = rounds(events);
            let dues: Vec<u64> = (0..rounds).map(|round| due(events, round, rounds)).collect();
            assert_eq!(dues.last(), Some(&events));
            assert!(dues.windows(2).all(|pair| pair[1] - pair[0] <= events.div_ceil(rounds)), "{dues:?}");
        }
        assert_eq!([50, 2_000, 20_000, 1_000_000].map(rounds), [3, 20, 200, 200]);
    }

    #[test]
    fn what_takes_seconds_is_tried_less_often() {
        assert_eq!(Method::Floor.events(20_000), Method::Shm.events(20_000));
        assert_eq!(Method::ALL.map(|method| method.events(20_000)), [20_000, 20_000, 20_000, 20_000, 5_000, 20, 20]);
    }
}
