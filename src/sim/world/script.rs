//! What may happen? Everything that comes to a node from outside in one day, drawn from a seed.
//!
//! The script does not know the node: whatever the node does, the same seed gives the same script.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::Duration;

use crate::governor::{Order, Policy};
use crate::load::fusion::Trust;
use crate::load::{Malformed, Metric, Observation, Observed, Reading};
use crate::sim::day::{Day, Random, SAMPLES};
use crate::units::{CELLS_MAX, CellId, Instant, SourceId, Utilization, WORKERS_MAX};

/// Length of a day.
pub const DAY: Duration = Duration::from_secs(86_400);
/// Time between two samples of a curve.
const SAMPLE: Duration = Duration::from_secs(120);
/// Sets the stream that decides about plans apart from the day's own.
const PLANS: u64 = 0x706c_616e;
/// Load curves from which days are composed.
const CURVES: u64 = 48;

/// Something that happens to the node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Transition {
    /// A source says something.
    Heard(Observation),
    /// The operator or the controller orders something.
    Ordered(Order),
    /// The policy is replaced, perhaps by one that cannot work.
    Reloaded(Policy),
    /// The worker of that slot ends by itself.
    Died(usize),
}

/// Load curves, made once for many days.
#[derive(Debug)]
pub struct Curves(Vec<Day>);

impl Curves {
    /// The same curves every time.
    pub fn new() -> Self {
        Self((0..CURVES).map(Day::new).collect())
    }
}

impl Default for Curves {
    fn default() -> Self {
        Self::new()
    }
}

/// What is settled before the day begins.
#[derive(Clone, Debug)]
pub(super) struct Scenario {
    /// When the day begins on the node's clock.
    pub(super) origin: Instant,
    pub(super) policy: Policy,
    pub(super) trust: Vec<Trust>,
    /// Whether the kernel's word comes when a worker stops; else the node looks by timer.
    pub(super) child_signals: bool,
    /// Out of 1000 stops, so many find a worker that does not stop as it should.
    pub(super) unruly_permille: u64,
}

/// How a source dates its readings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stamps {
    Never,
    Always,
    Sometimes,
}

/// One source and its moods.
#[derive(Clone, Debug)]
struct Feed {
    id: SourceId,
    curve: usize,
    period: Duration,
    freshness: Duration,
    stamps: Stamps,
    /// Running count of late slots by cell, for a source that has one.
    late: Option<[u64; 3]>,
    silent_until: Instant,
    cells: Vec<FedCell>,
}

#[derive(Clone, Copy, Debug)]
struct FedCell {
    id: CellId,
    silent_until: Instant,
}

/// What is going to happen, and when.
#[derive(Debug)]
struct Due {
    at: Instant,
    /// Keeps the order of what happens in one moment.
    number: u64,
    plan: Plan,
}

#[derive(Debug)]
enum Plan {
    /// The source's regular report.
    Report(usize),
    /// Many reports of one source in a short time.
    Burst {
        feed: usize,
        left: u64,
        gap: Duration,
    },
    /// Something out of the ordinary.
    Trouble,
    Say(Transition),
}

impl PartialEq for Due {
    fn eq(&self, other: &Self) -> bool {
        (self.at, self.number) == (other.at, other.number)
    }
}

impl Eq for Due {}

impl PartialOrd for Due {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Due {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.at, self.number).cmp(&(other.at, other.number))
    }
}

/// One day's events, drawn as they come.
#[derive(Debug)]
pub(super) struct Script<'curves> {
    random: Random,
    curves: &'curves Curves,
    origin: Instant,
    feeds: Vec<Feed>,
    /// Out of 1000 readings, so many are not as they should be.
    odd_permille: u64,
    /// Mean time between troubles; none on a calm day.
    trouble_every: Option<Duration>,
    due: BinaryHeap<Reverse<Due>>,
    count: u64,
}

impl<'curves> Script<'curves> {
    /// The day of that seed.
    pub(super) fn new(seed: u64, curves: &'curves Curves) -> (Scenario, Self) {
        let mut random = Random::new(seed);
        let far = random.below(1 << 60);
        let origin = Instant::from_nanos(if random.below(4) == 0 { 0 } else { far });
        let (odd_permille, trouble_every) = match random.below(10) {
            0..3 => (0, None),
            3..8 => (5, Some(Duration::from_secs(3 * 3600))),
            _ => (60, Some(Duration::from_secs(3600))),
        };
        let policy = policy(&mut random);
        let sources = [1, 1, 1, 1, 2, 3][index(random.below(6))];
        let mut script = Self {
            random,
            curves,
            origin,
            feeds: vec![],
            odd_permille,
            trouble_every,
            due: BinaryHeap::new(),
            count: 0,
        };
        let mut trust: Vec<Trust> = (0..sources).map(|id| script.add_feed(SourceId(id))).collect();
        // A stream of its own: days without a plan are what they were before there were plans.
        if Random::new(seed ^ PLANS).below(3) == 0 {
            let trust_of_plan = script.add_feed(SourceId(sources));
            trust.push(Trust { required: false, planning: true, ..trust_of_plan });
        }
        if trouble_every.is_some() {
            script.plan_trouble(origin);
        }
        let scenario = Scenario {
            origin,
            policy,
            trust,
            child_signals: script.random.below(8) > 0,
            unruly_permille: [0, 20, 300][index(script.random.below(3))],
        };
        (scenario, script)
    }

    fn add_feed(&mut self, id: SourceId) -> Trust {
        let random = &mut self.random;
        let period = SAMPLE * [1, 1, 1, 2][index(random.below(4))];
        // A source that is believed for less than its period gives gaps all day long.
        let freshness = [period / 2, period * 3 / 2, period * 2, period * 3, period * 3][index(random.below(5))];
        let stamps = [Stamps::Never, Stamps::Always, Stamps::Sometimes][index(random.below(3))];
        let cells = [1, 1, 1, 2, 3][index(random.below(5))];
        let required = random.below(2) == 0;
        let feed = Feed {
            id,
            curve: index(random.below(CURVES)),
            period,
            freshness,
            stamps,
            late: (random.below(2) == 0).then(|| [0; 3].map(|_: u64| random.below(1000))),
            silent_until: Instant::default(),
            cells: (1..=cells).map(|id| FedCell { id: CellId(id), silent_until: Instant::default() }).collect(),
        };
        let first = self.origin.after(part(random, period));
        let feeds = self.feeds.len();
        self.feeds.push(feed);
        self.plan(first, Plan::Report(feeds));
        Trust { freshness, required, planning: false }
    }

    /// When something happens next; `None` at the end of the day.
    pub(super) fn next_at(&self) -> Option<Instant> {
        let end = self.origin.after(DAY);
        self.due.peek().map(|Reverse(due)| due.at).filter(|at| *at < end)
    }

    /// What happens next, into `told`: nothing, or all that comes in one datagram.
    pub(super) fn next(&mut self, told: &mut Vec<Transition>) {
        let Some(Reverse(Due { at, plan, .. })) = self.due.pop() else { return };
        match plan {
            Plan::Say(transition) => told.push(transition),
            Plan::Report(feed) => {
                self.report(at, feed, told);
                let period = self.feeds[feed].period;
                let jitter = part(&mut self.random, period / 50);
                self.plan(at.after(period * 99 / 100 + jitter), Plan::Report(feed));
            }
            Plan::Burst { feed, left, gap } => {
                self.report(at, feed, told);
                if left > 0 {
                    let next = at.after(part(&mut self.random, gap * 2));
                    self.plan(next, Plan::Burst { feed, left: left - 1, gap });
                }
            }
            Plan::Trouble => {
                self.trouble(at);
                self.plan_trouble(at);
            }
        }
    }

    fn plan(&mut self, at: Instant, plan: Plan) {
        self.count += 1;
        self.due.push(Reverse(Due { at, number: self.count, plan }));
    }

    fn say(&mut self, at: Instant, transition: Transition) {
        self.plan(at, Plan::Say(transition));
    }

    fn plan_trouble(&mut self, now: Instant) {
        if let Some(every) = self.trouble_every {
            let next = now.after(part(&mut self.random, every * 2));
            self.plan(next, Plan::Trouble);
        }
    }

    /// One report of all cells that are not silent.
    fn report(&mut self, now: Instant, feed: usize, told: &mut Vec<Transition>) {
        if now < self.feeds[feed].silent_until {
            return;
        }
        let sample = index(now.since(self.origin).as_secs() / SAMPLE.as_secs()).min(SAMPLES - 1);
        for place in 0..self.feeds[feed].cells.len() {
            if now < self.feeds[feed].cells[place].silent_until {
                continue;
            }
            if self.random.below(1000) < self.odd_permille {
                self.odd(now, feed, place, told);
                continue;
            }
            let level = self.curves.0[self.feeds[feed].curve].cells()[place].at(sample);
            told.push(Transition::Heard(Ok(self.reading(now, feed, place, level))));
        }
    }

    fn reading(&mut self, now: Instant, feed: usize, place: usize, level: Utilization) -> Reading {
        let Feed { id, stamps, late, ref cells, .. } = self.feeds[feed];
        let stamped = match stamps {
            Stamps::Never => false,
            Stamps::Always => true,
            Stamps::Sometimes => self.random.below(2) == 0,
        };
        let age = part(&mut self.random, Duration::from_millis(2));
        Reading {
            source: id,
            cell: cells[place].id,
            stamped: stamped.then(|| before(now, age)),
            observed: Observed::Level { metric: Metric::PrbTotDl, level, late: late.map(|late| late[place]) },
        }
    }

    /// A reading that is not as it should be, in one of many ways.
    fn odd(&mut self, now: Instant, feed: usize, place: usize, told: &mut Vec<Transition>) {
        let level = any_level(&mut self.random);
        let mut reading = self.reading(now, feed, place, level);
        let freshness = self.feeds[feed].freshness;
        let span = part(&mut self.random, freshness * 2);
        match self.random.below(9) {
            // Left out.
            0 => return,
            // Sent in time, received late.
            1 => {
                reading.stamped = Some(now);
                return self.say(now.after(span), Transition::Heard(Ok(reading)));
            }
            // Overtaken by others.
            2 => reading.stamped = Some(before(now, span)),
            // From the future, within what is tolerated or beyond it.
            3 => reading.stamped = Some(now.after(part(&mut self.random, Duration::from_millis(20)))),
            4 => {
                let source = reading.source;
                return told.push(Transition::Heard(Err(Malformed { source, why: "no number" })));
            }
            5 | 6 => {
                let count = self.move_counter(feed, place);
                reading.observed = Observed::Late { count };
            }
            // From a source that nobody configured.
            7 => reading.source = SourceId(7),
            // A level from nowhere.
            _ => {}
        }
        told.push(Transition::Heard(Ok(reading)));
    }

    /// Slots were late, or the RAN has started anew.
    fn move_counter(&mut self, feed: usize, place: usize) -> u64 {
        let step = self.random.below(4);
        let restart = self.random.below(8) == 0;
        let late = self.feeds[feed].late.get_or_insert([0; 3]);
        late[place] = if restart { 0 } else { late[place] + step };
        late[place]
    }

    fn trouble(&mut self, now: Instant) {
        let feed = index(self.random.below(self.feeds.len() as u64));
        let place = index(self.random.below(self.feeds[feed].cells.len() as u64));
        let freshness = self.feeds[feed].freshness;
        let span = part(&mut self.random, freshness * 4);
        let minutes = part(&mut self.random, Duration::from_secs(1800));
        match self.random.below(12) {
            0 => self.feeds[feed].silent_until = now.after(span),
            1 => self.feeds[feed].cells[place].silent_until = now.after(span),
            2 | 3 => {
                let gap = [1, 10, 100, 3000][index(self.random.below(4))];
                let left = 10 + self.random.below(40);
                self.plan(now, Plan::Burst { feed, left, gap: Duration::from_millis(gap) });
            }
            4 => self.order(now, minutes, Order::Hold, Order::Release),
            5 => self.order(now, minutes, Order::Drain, Order::Resume),
            // Held and released at once.
            6 => self.order(now, minutes / 10_000, Order::Hold, Order::Release),
            7 => {
                let policy = policy(&mut self.random);
                self.say(now, Transition::Reloaded(policy));
            }
            8 => {
                let bad = Policy { idle_below: Utilization::IDLE, ..policy(&mut self.random) };
                self.say(now, Transition::Reloaded(bad));
            }
            9 => {
                let slot = index(self.random.below(4));
                self.say(now, Transition::Died(slot));
            }
            10 => {
                let reading = self.reading(now, feed, place, Utilization::IDLE);
                self.feeds[feed].cells[place].silent_until = now.after(span);
                self.say(now, Transition::Heard(Ok(Reading { observed: Observed::Gone, ..reading })));
            }
            _ => self.strange_cells(now, feed),
        }
    }

    fn order(&mut self, now: Instant, lasting: Duration, begin: Order, end: Order) {
        self.say(now, Transition::Ordered(begin));
        self.say(now.after(lasting), Transition::Ordered(end));
    }

    /// Cells that nobody knew, now and then more than the tables hold; later they go.
    fn strange_cells(&mut self, now: Instant, feed: usize) {
        let count = if self.random.below(16) == 0 { CELLS_MAX as u64 + 2 } else { 1 };
        let lasting = part(&mut self.random, self.feeds[feed].freshness * 2);
        for cell in 0..count {
            let reading = Reading { cell: CellId(1000 + cell), ..self.reading(now, feed, 0, Utilization::IDLE) };
            self.say(now, Transition::Heard(Ok(reading)));
            let gone = Reading { observed: Observed::Gone, stamped: None, ..reading };
            self.say(now.after(lasting), Transition::Heard(Ok(gone)));
        }
    }
}

/// A policy that can work.
fn policy(random: &mut Random) -> Policy {
    let pick =
        |random: &mut Random, values: &[u64]| Duration::from_millis(values[index(random.below(values.len() as u64))]);
    let permille = |value: u64| u16::try_from(value).ok().and_then(Utilization::from_permille).unwrap_or_default();
    // Whole percent, as the levels are: so that a level is often exactly at a limit.
    let busy = 200 + 10 * random.below(50);
    let idle = 10 + 10 * random.below(busy / 10);
    let settle = pick(random, &[1, 40, 1000, 10_000, 60_000, 360_000]);
    let settle_max = settle * [1, 3, 8, 10][index(random.below(4))];
    let most = if random.below(16) == 0 { WORKERS_MAX as u64 } else { 4 };
    Policy {
        workers: u8::try_from(1 + random.below(most)).unwrap_or(1),
        busy_above: permille(busy),
        idle_below: permille(idle),
        settle,
        settle_max,
        flap_window: pick(random, &[0, 20, 5000, 60_000, 600_000, 3_600_000]),
        raise_every: pick(random, &[0, 0, 7, 1000, 60_000]),
    }
}

fn any_level(random: &mut Random) -> Utilization {
    let permille = u16::try_from(10 * random.below(101)).unwrap_or(1000);
    Utilization::from_permille(permille).unwrap_or(Utilization::FULL)
}

/// Uniform from nothing to `whole`.
pub(super) fn part(random: &mut Random, whole: Duration) -> Duration {
    Duration::from_nanos(random.below(u64::try_from(whole.as_nanos()).unwrap_or(u64::MAX)))
}

fn before(at: Instant, span: Duration) -> Instant {
    Instant::from_nanos(at.as_nanos().saturating_sub(u64::try_from(span.as_nanos()).unwrap_or(u64::MAX)))
}

fn index(value: u64) -> usize {
    usize::try_from(value).unwrap_or(usize::MAX)
}
