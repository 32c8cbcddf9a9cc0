//! What may happen in this world? Its size, its faults and its jobs, drawn from the seed.
//!
//! Each seed has only some of the faults, so that rare meetings of two are not drowned by the noise of all.

use std::time::Duration;

use crate::agent::desk::AdmissionTerms;
use crate::governor::Policy;
use crate::jobs::feasible::DelayTerms;
use crate::jobs::queue::Capacity;
use crate::sim::day::Random;
use crate::units::outlook::{Free, Outlook};
use crate::units::{JobId, Utilization, WallTime};

pub(super) const MS: Duration = Duration::from_millis(1);
pub(super) const S: Duration = Duration::from_secs(1);

/// Wall time at the begin of every world.
pub(super) const WALL_AT_BEGIN: WallTime = WallTime::from_millis(1_800_000_000_000);

/// A part that is broken on purpose, to show that the audit notices.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mutation {
    /// The store says that a batch is durable, and forgets it.
    LostCommit,
    /// The shell acknowledges a submit when it arrives.
    EarlyAck,
    /// A worker computes on while it should stand.
    RunsWhileBusy,
    /// Once in a while a result is told with other bytes.
    OtherBytes,
    /// The store answers reads before what was asked before them.
    ReadsAhead,
    /// The store loses one message of its outbox.
    LostMessage,
    /// After a crash the store shows jobs as they were a commit ago.
    StaleRestart,
    /// A worker's answer is given to the next item as well.
    WrongAnswer,
}

impl Mutation {
    pub(super) const ALL: [Self; 8] = [
        Self::LostCommit,
        Self::EarlyAck,
        Self::RunsWhileBusy,
        Self::OtherBytes,
        Self::ReadsAhead,
        Self::LostMessage,
        Self::StaleRestart,
        Self::WrongAnswer,
    ];
}

/// A fault that comes again and again, with this mean time between two.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    /// The agent is killed, maybe between two acts.
    Kill,
    /// The agent is stopped orderly and started again.
    Stop,
    /// The connection breaks.
    Disconnect,
    /// The broker is away for a while.
    Outage,
    /// The broker is killed and its memory wiped.
    Wipe,
    /// The broker takes everything and answers nothing.
    HalfOpen,
    /// The link takes no commands for a while.
    BackPressure,
    /// The disk refuses to be written for a while.
    DiskRefuses,
    /// The disk stalls.
    DiskStalls,
    /// Memory is short for a while.
    MemoryShort,
    /// Load goes up and down faster than anything settles.
    LoadStorm,
    /// Nobody says anything about the load for a while.
    LoadSilence,
    /// A worker's process dies by itself.
    WorkerDies,
    /// An old Will is published.
    OldWill,
    /// A forecast comes that has nothing to do with what will be.
    WrongOutlook,
}

impl Fault {
    pub(super) const ALL: [Self; 15] = [
        Self::Kill,
        Self::Stop,
        Self::Disconnect,
        Self::Outage,
        Self::Wipe,
        Self::HalfOpen,
        Self::BackPressure,
        Self::DiskRefuses,
        Self::DiskStalls,
        Self::MemoryShort,
        Self::LoadStorm,
        Self::LoadSilence,
        Self::WorkerDies,
        Self::OldWill,
        Self::WrongOutlook,
    ];
}

/// Shares of things that go wrong, in permille.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Shares {
    /// Messages that the broker refuses.
    pub(super) refused: u64,
    /// Messages that arrive twice.
    pub(super) twice: u64,
    /// Items that end in a fault of their own.
    pub(super) item_faults: u64,
    /// Items that end their worker.
    pub(super) crashes: u64,
    /// Items that never end.
    pub(super) hangs: u64,
    /// Load readings that make no sense, or tell of late slots.
    pub(super) bad_readings: u64,
}

/// One job of the controller's.
#[derive(Clone, Debug)]
pub(super) struct JobPlan {
    pub(super) id: JobId,
    pub(super) body: Vec<u8>,
    /// First input of each item; the output is one more.
    pub(super) inputs: Vec<u32>,
    pub(super) batch: bool,
    /// When it is submitted, since the begin.
    pub(super) at: Duration,
    /// When it is taken back.
    pub(super) cancel: Option<Duration>,
    /// Sent with the retain flag the first time.
    pub(super) retained: bool,
    /// Another body is sent under this id as well.
    pub(super) conflict: Option<Duration>,
}

/// All of it.
#[derive(Clone, Debug)]
pub(super) struct Scenario {
    pub(super) workers: usize,
    /// Faults end after this.
    pub(super) storm: Duration,
    pub(super) capacity: Capacity,
    /// The store's quota, in bytes and messages.
    pub(super) quota: (u64, usize),
    pub(super) policy: Policy,
    pub(super) sample_every: Duration,
    pub(super) evict_after: Duration,
    pub(super) admission: AdmissionTerms,
    pub(super) faults: Vec<(Fault, Duration)>,
    pub(super) shares: Shares,
    pub(super) jobs: Vec<JobPlan>,
    /// Mean time between two commands of the controller.
    pub(super) commands_every: Duration,
    pub(super) mutation: Option<Mutation>,
}

/// Between both, uniformly.
pub(super) fn between(random: &mut Random, least: Duration, most: Duration) -> Duration {
    let nanos = |span: Duration| u64::try_from(span.as_nanos()).unwrap_or(u64::MAX);
    least + Duration::from_nanos(random.below(nanos(most.saturating_sub(least)) + 1))
}

/// Half to one and a half of it.
pub(super) fn about(random: &mut Random, mean: Duration) -> Duration {
    between(random, mean / 2, mean + mean / 2)
}

pub(super) fn chance(random: &mut Random, permille: u64) -> bool {
    random.below(1000) < permille
}

impl Scenario {
    pub(super) fn new(seed: u64, mutation: Option<Mutation>) -> Self {
        let mut random = Random::new(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ 0x4e65_6170);
        let random = &mut random;
        let workers = 1 + usize::try_from(random.below(3)).unwrap_or(0);
        let storm = between(random, 4 * S, 20 * S);
        let mut faults = Vec::new();
        for fault in Fault::ALL {
            if chance(random, 280) {
                faults.push((fault, between(random, storm / 12, storm / 2)));
            }
        }
        let mut share = |most| if chance(random, 400) { random.below(most) } else { 0 };
        let shares = Shares {
            refused: share(60),
            twice: share(300),
            item_faults: share(150),
            crashes: share(150),
            hangs: share(60),
            bad_readings: share(200),
        };
        let is_narrow = chance(random, 150);
        let quota = if chance(random, 150) { (3000, 40) } else { (1 << 20, 400) };
        let jobs = 3 + random.below(9);
        let jobs = (0..jobs).map(|index| job(random, index, storm)).collect();
        Self {
            workers,
            storm,
            capacity: Capacity { jobs_max: 64, open_max: if is_narrow { 3 } else { 16 } },
            quota,
            policy: policy(random, workers),
            sample_every: between(random, 200 * MS, S),
            evict_after: between(random, S, 10 * S),
            // Items take a few hundred milliseconds here.
            admission: AdmissionTerms {
                refuse: chance(random, 800),
                delay: DelayTerms { stretch_above: 20 * MS, wait_max: between(random, Duration::ZERO, 20 * S) },
            },
            faults,
            shares,
            jobs,
            commands_every: if chance(random, 500) { between(random, S, 8 * S) } else { 3600 * S },
            mutation,
        }
    }
}

fn policy(random: &mut Random, workers: usize) -> Policy {
    Policy {
        workers: u8::try_from(workers).unwrap_or(1),
        busy_above: Utilization::from_permille(400).unwrap_or_default(),
        idle_below: Utilization::from_permille(250).unwrap_or_default(),
        settle: between(random, 50 * MS, S),
        settle_max: 3 * S,
        flap_window: S,
        raise_every: if chance(random, 500) { Duration::ZERO } else { 300 * MS },
    }
}

fn job(random: &mut Random, index: u64, storm: Duration) -> JobPlan {
    let at = between(random, Duration::ZERO, storm);
    let batch = chance(random, 500);
    let items = if batch { 1 + random.below(5) } else { 1 };
    let base = u32::try_from(index * 1000).unwrap_or(0);
    let inputs: Vec<u32> = (base..).take(usize::try_from(items).unwrap_or(1)).collect();
    let is_bad = chance(random, 80);
    let request = |x: &u32| format!(r#"{{"inputs":[{{"name":"x","shape":[1],"datatype":"FP32","data":[{x}]}}]}}"#);
    let requests: Vec<String> = inputs.iter().map(request).collect();
    let mut body = format!(r#"{{"model":"{}","priority":{}"#, if is_bad { "none" } else { "m" }, random.below(10));
    if chance(random, 150) {
        let deadline = WALL_AT_BEGIN.after(at).after(between(random, S, 2 * storm));
        body += &format!(r#","deadline":"{deadline}""#);
    }
    if chance(random, 100) {
        let start = WALL_AT_BEGIN.after(at).after(between(random, S, 20 * S));
        body += &format!(r#","not_before":"{start}""#);
    }
    if chance(random, 300) {
        body += &format!(r#","limits":{{"wall_ms":{},"attempts":{}}}"#, 200 + random.below(9000), 1 + random.below(4));
    }
    body += &if batch {
        format!(r#","items":[{}]}}"#, requests.join(","))
    } else {
        format!(r#","input":{}}}"#, requests[0])
    };
    JobPlan {
        id: format!("job-{index}").parse().expect("letters, a hyphen and digits"),
        body: body.into_bytes(),
        inputs,
        batch,
        at,
        cancel: chance(random, 150).then(|| at + between(random, Duration::ZERO, 15 * S)),
        retained: chance(random, 30),
        conflict: chance(random, 60).then(|| at + between(random, Duration::ZERO, 15 * S)),
    }
}

/// What a forecast may say that knows nothing.
pub(super) fn wrong_outlook(random: &mut Random, now: WallTime) -> Outlook {
    let span = between(random, S, 20 * S);
    let free = |random: &mut Random| {
        let p10 = between(random, Duration::ZERO, span);
        let p50 = p10 + between(random, Duration::ZERO, span);
        Free { p10, p50, p90: p50 + between(random, Duration::ZERO, span) }
    };
    let spans = 1 + random.below(12);
    Outlook::new(now, span, (0..spans).map(|_| free(random)).collect())
}
