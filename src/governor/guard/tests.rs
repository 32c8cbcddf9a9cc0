//! Claims about the guard, against a RAN whose health is known because it is made here.

mod polluted;

use proptest::prelude::*;

use super::*;

const STEP: Duration = Duration::from_millis(250);
const WORKERS: u8 = 2;

fn permille(value: u16) -> Utilization {
    Utilization::from_permille(value).unwrap()
}

/// Numbers that look random (xorshift), the same for each seed.
struct Random(u64);

impl Random {
    fn bits(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    /// Standard normal, nearly: twelve uniform ones.
    fn normal(&mut self) -> f64 {
        (0..12).map(|_| (self.bits() >> 11) as f64 / (1_u64 << 53) as f64).sum::<f64>() - 6.0
    }
}

/// A RAN and its neighbour.
struct World {
    guard: Guard,
    random: Random,
    now: Instant,
    /// How much worse each running worker makes the figure: 0.5 is by half.
    harm: f64,
    /// Standard deviation of the figure's logarithm, and how much of it lasts from second to second.
    noise: (f64, f64),
    drift: f64,
    /// What the figure is without us.
    base: f64,
    figure: Health,
    level: Utilization,
    /// Workers with work, if the guard allows.
    work: u8,
    /// A RAN that says nothing.
    silent: bool,
    verdicts: Vec<Verdict>,
    compared: Vec<Comparison>,
    /// Time in which inference stood, to compare.
    compared_for: Duration,
    ran_for: Duration,
}

impl World {
    fn new(seed: u64) -> Self {
        Self::with(seed, Settings::default())
    }

    fn with(seed: u64, settings: Settings) -> Self {
        let mut random = Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
        (0..20).for_each(|_| {
            random.bits();
        });
        Self {
            guard: Guard::new(settings, WORKERS).unwrap(),
            random,
            now: Instant::from_nanos(7_000_000_000),
            harm: 0.0,
            noise: (0.3, 0.0),
            drift: 0.0,
            base: 400.0,
            figure: Health::EnqueueDelay,
            level: permille(60),
            work: WORKERS,
            silent: false,
            verdicts: Vec::new(),
            compared: Vec::new(),
            compared_for: Duration::ZERO,
            ran_for: Duration::ZERO,
        }
    }

    fn busy(&self) -> u8 {
        self.work.min(self.guard.ceiling())
    }

    fn step(&mut self) {
        let before = self.busy();
        self.now = self.now.after(STEP);
        self.guard.on_load(self.now, Some(self.level));
        if !self.silent && self.now.as_nanos().is_multiple_of(1_000_000_000) {
            let (sd, lasting) = self.noise;
            self.drift = lasting * self.drift + (1.0 - lasting * lasting).sqrt() * self.random.normal();
            let value = self.base * (sd * self.drift).exp() * (1.0 + self.harm * f64::from(before));
            #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a positive figure of health")]
            let value = value as u32;
            self.guard.on_health(self.now, self.figure, value);
        }
        self.pass();
        self.compared_for += if self.guard.is_comparing() { STEP } else { Duration::ZERO };
        self.ran_for += if before > 0 { STEP } else { Duration::ZERO };
    }

    fn pass(&mut self) {
        self.guard.pass(self.now);
        self.guard.on_work(self.now, self.busy());
        while let Some(news) = self.guard.take_news() {
            match news {
                News::Verdict(verdict) => self.verdicts.push(verdict),
                News::Compared(comparison) => self.compared.push(comparison),
            }
        }
        assert!(self.guard.next_moment().is_none_or(|at| at > self.now), "a moment in the past");
        assert!(!self.guard.settings.enabled || self.guard.ceiling() <= WORKERS);
    }

    /// Some minutes with so many workers that have work.
    fn run(&mut self, seconds: u64, work: u8) {
        self.work = work;
        self.guard.on_work(self.now, self.busy());
        (0..seconds * 4).for_each(|_| self.step());
    }

    /// A settling, then inference.
    fn settle_and_run(&mut self, seconds: u64) {
        self.run(30, 0);
        self.run(seconds, WORKERS);
    }

    fn ruled(&self, ruling: Ruling) -> Vec<Verdict> {
        self.verdicts.iter().copied().filter(|verdict| verdict.ruling == ruling).collect()
    }
}

/// What the law of the ceiling says, told once more from the verdicts alone.
fn check_law(verdicts: &[Verdict], settings: &Settings) {
    let mut ceiling = WORKERS;
    let mut not_before = Instant::default();
    for verdict in verdicts {
        let Verdict { at, ruling, from, to, .. } = *verdict;
        assert_eq!(from, ceiling, "{verdict:?}");
        match ruling {
            Ruling::Harm => {
                assert!(to <= from / 2, "{verdict:?}");
                not_before = at.after(settings.calm);
            }
            Ruling::Calm => {
                assert_eq!(to, from + 1, "{verdict:?}");
                assert!(to <= WORKERS && at >= not_before, "raised too early: {verdict:?}");
                not_before = at.after(settings.calm);
            }
            Ruling::Suspected | Ruling::Cleared | Ruling::Unheard | Ruling::Silent | Ruling::Heard => {
                assert_eq!(to, from, "{verdict:?}");
            }
        }
        ceiling = to;
    }
}

// ---- harm ----

#[test]
fn a_neighbour_that_harms_loses_half_of_its_workers_and_then_all() {
    for seed in 1..20 {
        let mut world = World::new(seed);
        world.harm = 1.0;
        world.settle_and_run(300);
        let harm = world.ruled(Ruling::Harm);
        let steps: Vec<_> = harm.iter().map(|verdict| (verdict.from, verdict.to)).collect();
        assert_eq!(steps[..2], [(2, 1), (1, 0)], "seed {seed}: {:#?}", world.verdicts);
        let first = harm[0].at.since(Instant::from_nanos(37_000_000_000));
        assert!(first <= Duration::from_secs(120), "seed {seed}: found after {first:?}");
        let change = harm[0].comparison.unwrap().change_permille();
        assert!((1000..4000).contains(&change), "seed {seed}: {change} permille, but it was 2000");
        let sentence = harm[0].to_string();
        assert!(sentence.starts_with("budget 2 → 1, enqueue p75 +") && sentence.ends_with(" % while running"));
        check_law(&world.verdicts, &Settings::default());
    }
}

#[test]
fn every_figure_can_tell_of_harm() {
    for (figure, base) in Health::ALL.into_iter().zip([400.0, 300.0, 20_000.0, 50.0]) {
        let mut world = World::new(3);
        (world.figure, world.base, world.harm) = (figure, base, 1.0);
        world.settle_and_run(200);
        let harm = world.ruled(Ruling::Harm);
        assert_eq!(harm[0].comparison.unwrap().figure, Figure::Health(figure));
    }
}

#[test]
fn with_lasting_harm_the_pause_doubles_and_the_budget_never_flaps_to_full() {
    let mut world = World::new(5);
    world.harm = 1.0;
    world.settle_and_run(8 * 3600);
    check_law(&world.verdicts, &Settings::default());
    let zeros: Vec<_> = world.ruled(Ruling::Harm).iter().filter(|verdict| verdict.to == 0).map(|v| v.at).collect();
    let gaps: Vec<_> = zeros.windows(2).map(|pair| pair[1].since(pair[0]).as_secs()).collect();
    assert!(gaps.windows(2).all(|pair| pair[1] + 60 > pair[0]), "each pause is longer: {gaps:?}");
    assert!(*gaps.last().unwrap() > 3600, "up to the longest: {gaps:?}");
    let to_full = world.ruled(Ruling::Calm).iter().filter(|verdict| verdict.to == WORKERS).count();
    assert_eq!(to_full, 0, "one worker was never harmless, so two were never tried");
    let share = world.ran_for.as_secs_f64() / (8.0 * 3600.0);
    assert!(share < 0.1, "inference ran for {share} of the time");
}

#[test]
fn when_the_harm_is_over_all_workers_are_back_one_by_one() {
    let mut world = World::new(6);
    world.harm = 1.0;
    world.settle_and_run(1);
    while world.guard.ceiling() > 0 || world.guard.is_comparing() {
        world.step();
        assert!(world.ran_for < Duration::from_secs(600), "{:#?}", world.verdicts);
    }
    assert_eq!((world.guard.ceiling(), world.guard.is_comparing()), (0, false));
    world.harm = 0.0;
    world.verdicts.clear();
    world.run(900, WORKERS);
    let raised: Vec<_> = world.ruled(Ruling::Calm).iter().map(|verdict| verdict.to).collect();
    assert_eq!((raised, world.guard.ceiling()), (vec![1, 2], 2));
}

#[test]
fn harm_of_the_second_worker_alone_leaves_the_first() {
    let mut world = World::new(8);
    world.settle_and_run(10);
    for _ in 0..1600 {
        world.harm = if world.busy() > 1 { 0.7 } else { 0.0 };
        world.step();
    }
    let harm = world.ruled(Ruling::Harm);
    assert!(harm.iter().all(|verdict| (verdict.from, verdict.to) == (2, 1)) && !harm.is_empty(), "{harm:#?}");
}

#[test]
fn slots_that_are_late_soon_after_each_start_are_harm() {
    let mut world = World::new(9);
    world.silent = true;
    for _ in 0..6 {
        world.run(60, 0);
        world.run(3, WORKERS);
        world.guard.on_late(world.now);
        world.pass();
    }
    let harm = world.ruled(Ruling::Harm);
    assert_eq!(harm[0].comparison.unwrap().figure, Figure::Late);
    assert!(harm[0].to_string().starts_with("budget 2 → 1, late slots +"), "{}", harm[0]);
}

// ---- no harm ----

/// False alarms in so many hours of a noisy RAN that is not harmed, and the share of time that comparing took.
fn false_alarms(noise: (f64, f64), seeds: std::ops::Range<u64>, hours: u64) -> (usize, f64) {
    let (mut alarms, mut compared) = (0, Duration::ZERO);
    let runs = seeds.end - seeds.start;
    for seed in seeds {
        let mut world = World::new(seed);
        world.noise = noise;
        for _ in 0..hours {
            world.settle_and_run(3570);
        }
        check_law(&world.verdicts, &Settings::default());
        alarms += world.ruled(Ruling::Harm).len();
        compared += world.compared_for;
    }
    (alarms, compared.as_secs_f64() / (3600 * hours * runs) as f64)
}

#[test]
fn noise_without_harm_is_hardly_ever_taken_for_harm() {
    // Log-normal noise: of no memory, and of a memory of ten seconds.
    for (noise, alarms_max) in [((0.3, 0.0), 2), ((0.7, 0.0), 4), ((0.5, 0.9), 24)] {
        let (alarms, compared) = false_alarms(noise, 100..112, 4);
        eprintln!("noise {noise:?}: {alarms} false alarms in 48 h, {:.2} % of the time to compare", compared * 100.0);
        assert!(alarms <= alarms_max, "{alarms} false alarms in 48 h of noise {noise:?}");
        assert!(compared < 0.1, "{compared} of the time to compare");
    }
}

#[test]
fn a_step_of_the_ran_is_not_taken_for_harm() {
    for seed in 40..60 {
        let mut world = World::new(seed);
        world.settle_and_run(300);
        // A carrier more: three times as much work, whatever we do.
        world.base *= 3.0;
        world.run(600, WORKERS);
        assert!(world.ruled(Ruling::Harm).is_empty(), "seed {seed}: {:#?}", world.verdicts);
        assert!(!world.ruled(Ruling::Suspected).is_empty(), "seed {seed}: the step was not even noticed");
        assert!(!world.ruled(Ruling::Cleared).is_empty(), "seed {seed}: {:#?}", world.verdicts);
    }
}

#[test]
fn what_comes_of_the_load_is_not_taken_for_harm() {
    let mut world = World::new(11);
    world.run(30, 0);
    // As soon as inference runs the load is higher, as it happens, and the figure with it.
    (world.level, world.base) = (permille(120), 900.0);
    world.run(900, WORKERS);
    assert!(world.ruled(Ruling::Harm).is_empty(), "{:#?}", world.verdicts);
}

#[test]
fn workers_without_a_job_harm_nobody_and_are_a_control() {
    let mut world = World::new(12);
    world.harm = 1.0;
    world.run(600, 0);
    assert!(world.ruled(Ruling::Suspected).is_empty() && world.guard.ceiling() == WORKERS);
}

#[test]
fn late_slots_at_any_time_are_not_harm() {
    let mut world = World::new(13);
    for _ in 0..200 {
        let span = 30 + world.random.bits() % 600;
        let share = world.random.bits() % 100;
        world.run(span * share / 100, WORKERS);
        world.run(span - span * share / 100, 0);
        if world.random.bits().is_multiple_of(3) {
            let work = if world.random.bits() % 100 < share { WORKERS } else { 0 };
            world.guard.on_work(world.now, work.min(world.guard.ceiling()));
            world.guard.on_late(world.now);
            world.pass();
        }
    }
    assert!(world.ruled(Ruling::Harm).len() <= 1, "{:#?}", world.verdicts);
}

// ---- what is not there, and what is senseless ----

#[test]
fn without_figures_nothing_is_restricted_and_it_is_told_once() {
    let mut world = World::new(14);
    world.silent = true;
    world.settle_and_run(900);
    assert_eq!(world.guard.ceiling(), WORKERS);
    assert_eq!(world.verdicts.iter().map(|verdict| verdict.ruling).collect::<Vec<_>>(), [Ruling::Unheard]);
    assert_eq!(world.compared_for, Duration::ZERO);
}

#[test]
fn figures_that_stop_coming_hold_the_budget_where_it_is() {
    let mut world = World::new(15);
    world.harm = 1.0;
    world.settle_and_run(120);
    assert_eq!(world.guard.ceiling(), 1, "{:#?}", world.verdicts);
    world.silent = true;
    world.run(4000, WORKERS);
    assert_eq!((world.guard.ceiling(), world.ruled(Ruling::Silent).len()), (1, 1));
    (world.silent, world.harm) = (false, 0.0);
    world.run(10, WORKERS);
    let raised = world.ruled(Ruling::Calm).last().map(|verdict| verdict.to);
    assert_eq!((raised, world.ruled(Ruling::Heard).len()), (Some(2), 2), "{:#?}", world.verdicts);
}

#[test]
fn deliberate_stops_are_short_and_rare() {
    let mut world = World::new(16);
    world.harm = 0.25;
    world.noise = (0.6, 0.9);
    let mut began: Vec<Instant> = Vec::new();
    let mut was = false;
    world.settle_and_run(1);
    for _ in 0..40_000 {
        world.step();
        let is = world.guard.is_comparing();
        if is && !was {
            began.push(world.now);
        }
        if was && !is {
            let lasted = world.now.since(*began.last().unwrap());
            assert!(lasted <= Duration::from_secs(3) + STEP, "{lasted:?}");
        }
        was = is;
    }
    assert!(began.len() > 10, "{} stops", began.len());
    assert!(began.windows(2).all(|pair| pair[1].since(pair[0]) >= Duration::from_secs(30)));
}

#[test]
fn a_guard_that_is_off_restricts_nothing_and_says_nothing() {
    let mut world = World::with(17, Settings::off());
    (world.work, world.harm) = (WORKERS, 5.0);
    (0..4000).for_each(|_| world.step());
    assert!(world.guard.ceiling() == u8::MAX && world.verdicts.is_empty() && world.guard.next_moment().is_none());
}

#[test]
fn turning_it_off_lifts_the_restriction_and_new_figures_count_at_once() {
    let mut world = World::new(18);
    world.harm = 1.0;
    world.settle_and_run(120);
    assert_eq!(world.guard.ceiling(), 1);
    world.guard.set_settings(Settings { calm: Duration::from_secs(60), ..Settings::default() }).unwrap();
    assert_eq!(world.guard.ceiling(), 1, "what was learned stays");
    world.guard.set_settings(Settings::off()).unwrap();
    assert_eq!(world.guard.ceiling(), u8::MAX);
    world.guard.set_settings(Settings::default()).unwrap();
    assert_eq!(world.guard.ceiling(), WORKERS);
    let bad = Settings { window: Duration::from_secs(61), ..Settings::default() };
    assert!(world.guard.set_settings(bad).is_err() && world.guard.ceiling() == WORKERS);
}

#[test]
fn bad_settings_are_refused_with_value_and_limit() {
    let good = Settings::default;
    let s = Duration::from_secs;
    for (settings, sentence) in [
        (Settings { worse_permille: 0, ..good() }, "worse_permille is 0, but must be 1 to 10000"),
        (Settings { window: s(61), ..good() }, "window is 61000 ms, but must be 50 to 60000 ms"),
        (
            Settings { control_every: s(5), ..good() },
            "control_every is 5000 ms, but must be at least 6 windows, which are 6000 ms",
        ),
        (Settings { calm: s(29), ..good() }, "calm is 29000 ms, but must be at least control_every, which is 30000 ms"),
        (
            Settings { pause_max: s(119), ..good() },
            "pause_max is 119000 ms, but must be at least calm, which is 120000 ms",
        ),
    ] {
        assert_eq!(settings.check().unwrap_err().to_string(), sentence);
    }
}

#[derive(Clone, Copy, Debug)]
enum Input {
    Health(Health, u32),
    Late,
    Load(Option<u16>),
    Work(u8),
    Pass,
    Workers(u8),
}

fn input() -> impl Strategy<Value = Input> {
    let value = prop_oneof![0..1000_u32, Just(0), Just(u32::MAX), any::<u32>()];
    let figure = prop::sample::select(Health::ALL.to_vec());
    prop_oneof![
        8 => (figure, value).prop_map(|(figure, value)| Input::Health(figure, value)),
        1 => Just(Input::Late),
        4 => prop::option::weighted(0.9, 0..=1000_u16).prop_map(Input::Load),
        6 => any::<u8>().prop_map(Input::Work),
        6 => Just(Input::Pass),
        1 => (0..=16_u8).prop_map(Input::Workers),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn nothing_that_is_heard_raises_the_ceiling_beyond_the_workers_or_sooner_than_the_law_allows(
        steps in prop::collection::vec((prop_oneof![9 => 0..3000_u64, 1 => 0..100_000_u64], input()), 1..400),
    ) {
        let settings = Settings::default();
        let mut guard = Guard::new(settings.clone(), 4).unwrap();
        let (mut now, mut workers, mut told) = (Instant::from_nanos(1), 4_u8, 4_u8);
        let mut changed: Option<Instant> = None;
        for (step, input) in steps {
            now = now.after(Duration::from_millis(step));
            match input {
                Input::Health(figure, value) => guard.on_health(now, figure, value),
                Input::Late => guard.on_late(now),
                Input::Load(level) => guard.on_load(now, level.and_then(Utilization::from_permille)),
                Input::Work(busy) => guard.on_work(now, busy),
                Input::Pass => guard.pass(now),
                Input::Workers(count) => {
                    guard.set_workers(count);
                    told = if told == workers { count } else { told.min(count) };
                    workers = count;
                }
            }
            prop_assert!(guard.ceiling() <= workers);
            while let Some(news) = guard.take_news() {
                let News::Verdict(verdict) = news else { continue };
                match verdict.ruling {
                    Ruling::Harm => prop_assert!(verdict.to <= told / 2, "{verdict:?}"),
                    Ruling::Calm => {
                        prop_assert_eq!(verdict.to, told + 1);
                        prop_assert!(changed.is_none_or(|changed| now.since(changed) >= settings.calm));
                    }
                    Ruling::Suspected | Ruling::Cleared | Ruling::Unheard | Ruling::Silent | Ruling::Heard => continue,
                }
                (told, changed) = (verdict.to, Some(now));
            }
            prop_assert!(guard.ceiling() == told || guard.is_comparing());
        }
    }
}
