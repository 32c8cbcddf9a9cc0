//! Would the governor keep its promises on any day that a base station can have? A day's simulation, from a seed.
//!
//! Virtual time: the world jumps from one event to the next, so a day takes milliseconds. Nothing in it reads a clock
//! or depends on anything but the seed. Four parts that do not know each other's ways:
//!
//! * `script`: what may happen. Load curves, and sources that are silent, late, senseless, out of order; orders,
//!   policies, deaths.
//! * `node`: the system under test. The real fusion, governor and pending stops, before simulated `workers`.
//! * `reference`: what should be true, from the promises alone.
//! * `audit`: the assertions, before and after every step:
//!   1. No worker executes longer than the bound after the load forbids it; none starts while it does.
//!   2. Each start is earned by low load for the whole wait, which grows by flapping; so starts in a day are bounded.
//!   3. Low load that lasts leads to a start, and to all workers.
//!   4. The budget keeps within the policy, and a policy that cannot work changes nothing.
//!   5. The node never sleeps past what is due, and never spins.
//!   6. Every stop of a worker ends, and nobody is confirmed who executes.
//!   7. The harm guard only lowers, keeps its law (`law`), and stops to compare shortly and rarely.

mod audit;
mod law;
mod node;
mod reference;
mod script;
mod workers;

use std::collections::VecDeque;
use std::fmt;
use std::time::Duration;

use crate::governor::guard::{News, Ruling};
use crate::governor::{Policy, guard};
use crate::load::fusion::Trust;
use crate::sentinel::Decider;
use crate::sim::day::Random;
use crate::units::{Instant, Utilization};
use audit::{Audit, LAG_MAX};
use law::{Law, Voice};
use node::{Act, Node};
use reference::Reference;
use script::{Scenario, Script, part};
use workers::Changed;

pub use law::{Neighbour, settings as guard_settings};
pub use script::{Curves, DAY, Transition};

/// How many of the last events a failure tells.
const RECENT_MAX: usize = 40;

/// How the day is played.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Timer {
    /// The node's timer is late now and then, as on a busy machine.
    Late,
    /// The node's timer is exact, so that how often it rings makes no difference.
    Exact,
}

/// What a day brought.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Summary {
    /// Things that came from outside.
    pub transitions: u64,
    /// Times the node's timer rang.
    pub wakes: u64,
    /// Changes of budget or mode.
    pub decisions: u64,
    /// Troughs that began.
    pub starts: u64,
    /// Troughs that the load ended.
    pub yields: u64,
    /// Workers that were stopped.
    pub stops: u64,
    /// Workers that had lost their core anyway.
    pub displaced: u64,
    /// Workers that had to be killed.
    pub killed: u64,
    /// Time in troughs.
    pub in_troughs: Duration,
    /// Longest stop.
    pub stop_max: Duration,
    /// Shortest `flap_window` of the policies of the day.
    pub flap_window_min: Duration,
    /// Verdicts of the guard: harm, calm, suspected, cleared.
    pub ruled: [u64; 4],
    /// From the first window in which inference ran to the first verdict of harm.
    pub first_harm: Option<Duration>,
    /// The guard's ceiling at the end of the day.
    pub ceiling: Option<u8>,
    /// Fingerprint of everything that happened and was done, with its moments.
    pub trace: u64,
    /// Fingerprint of the decisions with their moments.
    pub decided: u64,
}

impl Summary {
    /// Adds another day, fingerprints aside.
    pub fn add(&mut self, day: &Self) {
        self.transitions += day.transitions;
        self.wakes += day.wakes;
        self.decisions += day.decisions;
        self.starts += day.starts;
        self.yields += day.yields;
        self.stops += day.stops;
        self.displaced += day.displaced;
        self.killed += day.killed;
        self.in_troughs += day.in_troughs;
        self.stop_max = self.stop_max.max(day.stop_max);
        self.flap_window_min = self.flap_window_min.min(day.flap_window_min);
        self.ruled.iter_mut().zip(day.ruled).for_each(|(sum, count)| *sum += count);
    }
}

impl Default for Summary {
    fn default() -> Self {
        Self {
            transitions: 0,
            wakes: 0,
            decisions: 0,
            starts: 0,
            yields: 0,
            stops: 0,
            displaced: 0,
            killed: 0,
            in_troughs: Duration::ZERO,
            stop_max: Duration::ZERO,
            flap_window_min: Duration::MAX,
            ruled: [0; 4],
            first_harm: None,
            ceiling: None,
            trace: FINGERPRINT,
            decided: FINGERPRINT,
        }
    }
}

/// A promise that was not kept.
#[derive(Debug)]
pub struct Failure {
    /// Seed of the day.
    pub seed: u64,
    /// When, since the begin of the day.
    pub at: Duration,
    /// What was wrong.
    pub what: String,
    /// The last events before it.
    pub recent: Vec<String>,
}

impl std::error::Error for Failure {}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { seed, at, what, recent } = self;
        writeln!(f, "day of seed {seed}, {}: {what}", time(*at))?;
        writeln!(f, "the last {} events:", recent.len())?;
        recent.iter().try_for_each(|event| writeln!(f, "  {event}"))?;
        write!(f, "to repeat this day alone: NEAP_SEED={seed} NEAP_DAYS=1 cargo test --test simulated_days")
    }
}

/// Plays the day of that seed, with the governor that `build` makes of a policy, and holds it to its promises.
///
/// # Errors
/// The first promise that was not kept.
pub fn play<D: Decider>(
    seed: u64,
    curves: &Curves,
    timer: Timer,
    build: impl FnOnce(Policy) -> D,
) -> Result<Summary, Box<Failure>> {
    play_with(seed, curves, timer, build, |_| {})
}

/// The same with a node that takes its sources for something else than they are, as `mistake` changes what is true.
///
/// # Errors
/// The first promise that was not kept.
pub fn play_with<D: Decider>(
    seed: u64,
    curves: &Curves,
    timer: Timer,
    build: impl FnOnce(Policy) -> D,
    mistake: impl FnMut(&mut Trust),
) -> Result<Summary, Box<Failure>> {
    let (scenario, script) = Script::new(seed, curves);
    let governor = build(scenario.policy.clone());
    let mut trust = scenario.trust.clone();
    trust.iter_mut().for_each(mistake);
    let mut world = World::new(seed, &scenario, &trust, script, timer, governor);
    let end = world.run();
    end.map_err(|what| Box::new(world.failure(seed, what)))?;
    Ok(world.audit.summary)
}

/// The same beside a RAN that says how it fares, with a guard of [`guard_settings`] in the governor.
///
/// # Errors
/// The first promise that was not kept.
pub fn play_guarded<D: Decider>(
    seed: u64,
    curves: &Curves,
    timer: Timer,
    neighbour: Neighbour,
    build: impl FnOnce(Policy, guard::Settings) -> D,
) -> Result<Summary, Box<Failure>> {
    let (scenario, script) = Script::new(seed, curves);
    let settings = guard_settings();
    let governor = build(scenario.policy.clone(), settings.clone());
    let mut world = World::new(seed, &scenario, &scenario.trust, script, timer, governor);
    world.voice = Some(Voice::new(scenario.origin, neighbour, seed ^ 0x6a09_e667));
    world.audit.law = Some(Law::new(settings, scenario.policy.workers));
    let end = world.run();
    end.map_err(|what| Box::new(world.failure(seed, what)))?;
    world.audit.summary.ceiling = world.audit.law.as_ref().map(|law| law.ceiling);
    Ok(world.audit.summary)
}

struct World<'curves, D> {
    origin: Instant,
    now: Instant,
    child_signals: bool,
    script: Script<'curves>,
    node: Node<D>,
    audit: Audit,
    timer: Timer,
    random: Random,
    /// What the node's timer is set to, and when it will ring.
    armed: (Instant, Instant),
    told: Vec<Transition>,
    acts: Vec<Act>,
    recent: VecDeque<(Instant, Event)>,
    /// How the RAN fares, where it says so.
    voice: Option<Voice>,
    /// When inference first ran.
    ran_at: Option<Instant>,
}

/// For the report of a failure: written out only then.
enum Event {
    Told(Transition),
    Did(Act),
}

impl<'curves, D: Decider> World<'curves, D> {
    fn new(
        seed: u64,
        scenario: &Scenario,
        trust: &[Trust],
        script: Script<'curves>,
        timer: Timer,
        governor: D,
    ) -> Self {
        let origin = scenario.origin;
        // Streams of their own: what a worker does must not change what the script says.
        let mut seeds = Random::new(!seed);
        Self {
            origin,
            now: origin,
            child_signals: scenario.child_signals,
            script,
            node: Node::new(scenario, trust, governor, seeds.bits()),
            audit: Audit::new(Reference::new(origin, scenario.policy.clone(), &scenario.trust), timer),
            timer,
            random: Random::new(seeds.bits()),
            armed: (Instant::default(), Instant::default()),
            told: Vec::new(),
            acts: Vec::new(),
            recent: VecDeque::with_capacity(RECENT_MAX),
            voice: None,
            ran_at: None,
        }
    }

    fn run(&mut self) -> Result<(), String> {
        let end = self.origin.after(DAY);
        loop {
            let told_at = self.script.next_at();
            let workers_at = self.node.workers.next_at();
            let rings_at = self.rings_at();
            let reference_at = self.audit.reference.next_at;
            let voice_at = self.voice.as_ref().map(|voice| voice.next_at);
            let next = [told_at, workers_at, reference_at, voice_at].into_iter().flatten().fold(rings_at, Instant::min);
            if next >= end {
                self.now = end;
                return self.audit.finish(end);
            }
            self.now = next;
            self.audit.pass(next);
            self.audit.before(next, &mut self.node)?;
            if workers_at == Some(next) {
                self.workers_change()?;
            } else if told_at == Some(next) {
                self.tell()?;
            } else if rings_at == next {
                self.audit.summary.wakes += 1;
                self.wake(Changed::default())?;
            } else if voice_at == Some(next) {
                self.speak()?;
            }
        }
    }

    fn workers_change(&mut self) -> Result<(), String> {
        let Changed { child, filled } = self.node.workers.pass(self.now);
        let changed = Changed { child: child && self.child_signals, filled };
        if changed == Changed::default() { Ok(()) } else { self.wake(changed) }
    }

    fn wake(&mut self, changed: Changed) -> Result<(), String> {
        let mut acts = std::mem::take(&mut self.acts);
        self.node.wake(self.now, changed, &mut acts);
        self.check(acts)
    }

    /// The RAN says how it fares.
    fn speak(&mut self) -> Result<(), String> {
        let executing = self.node.workers.executing().count();
        let Some(voice) = &mut self.voice else { return Ok(()) };
        let transition = Transition::Heard(Ok(voice.say(self.now, executing)));
        self.ran_at = self.ran_at.or((executing > 0).then_some(self.now));
        self.audit.hear(self.now, &transition);
        let mut acts = std::mem::take(&mut self.acts);
        self.node.hear(self.now, &transition, &mut acts);
        self.remember(Event::Told(transition));
        self.check(acts)
    }

    fn tell(&mut self) -> Result<(), String> {
        let mut told = std::mem::take(&mut self.told);
        self.script.next(&mut told);
        for transition in told.drain(..) {
            self.audit.summary.transitions += 1;
            self.mix(&[self.now.as_nanos(), transition_code(&transition)]);
            // The thread lets time pass before it obeys.
            match transition {
                Transition::Heard(_) => {}
                Transition::Ordered(_) | Transition::Reloaded(_) | Transition::Died(_) => {
                    self.wake(Changed::default())?;
                }
            }
            self.audit.hear(self.now, &transition);
            let mut acts = std::mem::take(&mut self.acts);
            self.node.hear(self.now, &transition, &mut acts);
            self.remember(Event::Told(transition));
            self.check(acts)?;
        }
        self.told = told;
        Ok(())
    }

    /// Checks what the node did.
    fn check(&mut self, mut acts: Vec<Act>) -> Result<(), String> {
        for act in &acts {
            match act {
                Act::Decided(decision) => {
                    let word = u64::from(decision.budget) << 8 | decision.mode as u64;
                    self.mix(&[self.now.as_nanos(), word]);
                    let decided = &mut self.audit.summary.decided;
                    *decided = mixed(mixed(*decided, self.now.as_nanos()), word);
                }
                Act::Confirmed { slot, end, .. } => self.mix(&[self.now.as_nanos(), *slot as u64, *end as u64]),
                Act::Ruled(News::Verdict(verdict)) => {
                    let place = Ruling::ALL.iter().position(|ruling| *ruling == verdict.ruling);
                    if let Some(count) = place.and_then(|place| self.audit.summary.ruled.get_mut(place)) {
                        *count += 1;
                    }
                    if verdict.ruling == Ruling::Harm {
                        let first = self.ran_at.map(|ran| self.now.since(ran));
                        self.audit.summary.first_harm = self.audit.summary.first_harm.or(first);
                    }
                    self.mix(&[verdict.ruling as u64, u64::from(verdict.to)]);
                }
                Act::Ruled(News::Compared(_)) => {}
                Act::Yielded(record) => self.mix(&[record.confirmed.as_nanos(), u64::from(record.workers)]),
            }
            self.remember(Event::Did(act.clone()));
        }
        self.audit.after(self.now, &self.node, &acts)?;
        acts.clear();
        self.acts = acts;
        Ok(())
    }

    /// When the node's timer rings: as set, or late.
    fn rings_at(&mut self) -> Instant {
        let wanted = self.node.next_at();
        if wanted != self.armed.0 {
            let rings = wanted.max(self.now);
            self.armed = (wanted, if self.timer == Timer::Late { rings.after(self.lag()) } else { rings });
        }
        self.armed.1
    }

    fn lag(&mut self) -> Duration {
        let most = match self.random.below(1000) {
            0 => LAG_MAX,
            1..100 => LAG_MAX / 10,
            _ => LAG_MAX / 200,
        };
        part(&mut self.random, most)
    }

    fn mix(&mut self, words: &[u64]) {
        let trace = &mut self.audit.summary.trace;
        *trace = words.iter().fold(*trace, |trace, word| mixed(trace, *word));
    }

    fn remember(&mut self, event: Event) {
        if self.recent.len() == RECENT_MAX {
            self.recent.pop_front();
        }
        self.recent.push_back((self.now, event));
    }

    fn failure(&self, seed: u64, what: String) -> Failure {
        let line = |(at, event): &(Instant, Event)| {
            let at = time(at.since(self.origin));
            match event {
                Event::Told(transition) => format!("{at} ▶ {transition:?}"),
                Event::Did(act) => format!("{at}   ▷ {act:?}"),
            }
        };
        let what = format!("{what}\npolicy {:?}", self.audit.reference.policy);
        Failure { seed, at: self.now.since(self.origin), what, recent: self.recent.iter().map(line).collect() }
    }
}

fn transition_code(transition: &Transition) -> u64 {
    use crate::load::Observed;
    match transition {
        Transition::Heard(Ok(reading)) => {
            let observed = match reading.observed {
                Observed::Level { level, .. } => u64::from(Utilization::permille(level)),
                Observed::Late { count } => 2000 + count,
                Observed::Gone => 1500,
                Observed::Health { figure, value } => 1600 + figure as u64 + u64::from(value),
            };
            observed << 16 | reading.cell.0 << 4 | u64::from(reading.source.0)
        }
        Transition::Heard(Err(malformed)) => 1 << 40 | u64::from(malformed.source.0),
        Transition::Ordered(order) => 2 << 40 | *order as u64,
        Transition::Reloaded(policy) => 3 << 40 | u64::from(policy.workers),
        Transition::Died(slot) => 4 << 40 | *slot as u64,
    }
}

/// Begin of a fingerprint (FNV-1a, by words).
const FINGERPRINT: u64 = 0xcbf2_9ce4_8422_2325;

const fn mixed(print: u64, word: u64) -> u64 {
    (print ^ word).wrapping_mul(0x0100_0000_01b3).rotate_left(29)
}

/// A moment of the day: `03:12:44.000120000`.
fn time(since: Duration) -> String {
    let seconds = since.as_secs();
    format!("{:02}:{:02}:{:02}.{:09}", seconds / 3600, seconds / 60 % 60, seconds % 60, since.subsec_nanos())
}
