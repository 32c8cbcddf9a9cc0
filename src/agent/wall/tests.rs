use proptest::prelude::*;

use super::*;

const HOUR: i64 = 3_600_000;
/// 2026-11-22, some moment.
const TODAY: WallTime = WallTime::from_millis(1_795_000_000_000);
const Y1970: WallTime = WallTime::from_millis(20_000);
const Y2038: WallTime = WallTime::from_millis(2_147_483_647_000);
const Y2100: WallTime = WallTime::from_millis(4_102_444_800_000);

/// A machine: its steady clock, its wall clock, and the judge of it.
struct Machine {
    steady: Instant,
    raw: WallTime,
    synchronised: bool,
    judge: Judge,
    news: Vec<News>,
}

impl Machine {
    fn start(raw: WallTime, mark: Option<WallTime>) -> Self {
        let steady = Instant::from_nanos(5_000_000_000);
        let judge = Judge::new(Reading { steady, raw, synchronised: false }, mark);
        Self { steady, raw, synchronised: false, judge, news: Vec::new() }
    }

    fn synchronised(mut self) -> Self {
        self.synchronised = true;
        self
    }

    fn look(&mut self) -> Judged {
        let (steady, raw, synchronised) = (self.steady, self.raw, self.synchronised);
        self.news.extend(self.judge.observe(Reading { steady, raw, synchronised }));
        self.judge.judged()
    }

    /// Lets time pass, with a look each second.
    fn pass(&mut self, seconds: u64) -> Judged {
        for _ in 0..seconds {
            self.steady = self.steady.after(Duration::from_secs(1));
            self.raw = self.raw.after(Duration::from_secs(1));
            self.look();
        }
        self.judge.judged()
    }

    fn recall(&mut self, mark: WallTime) -> Judged {
        let (steady, raw, synchronised) = (self.steady, self.raw, self.synchronised);
        self.news.extend(self.judge.recall(Reading { steady, raw, synchronised }, mark));
        self.judge.judged()
    }

    fn jump(&mut self, by_ms: i64) -> Judged {
        self.raw = plus(self.raw, by_ms);
        self.look()
    }

    fn jump_to(&mut self, raw: WallTime) -> Judged {
        self.raw = raw;
        self.look()
    }

    /// Seconds until the time is beyond doubt; `None`: not within an hour.
    fn seconds_to_sure(&mut self) -> Option<u64> {
        (0..3600).find(|_| {
            let sure = self.judge.judged().sure;
            if !sure {
                self.pass(1);
            }
            sure
        })
    }
}

fn plus(wall: WallTime, ms: i64) -> WallTime {
    WallTime::from_millis(wall.as_millis() + ms)
}

// ---- at the start ----

#[test]
fn a_start_soon_after_the_mark_is_beyond_doubt() {
    for (mark, raw) in [
        (None, TODAY),
        (Some(TODAY), TODAY),
        (Some(TODAY), plus(TODAY, -1_500)),
        (Some(TODAY), plus(TODAY, 29 * 24 * HOUR)),
    ] {
        let judged = Machine::start(raw, mark).judge.judged();
        assert_eq!(judged, Judged { wall: raw, sure: true }, "mark {mark:?}");
        assert_eq!(judged.due(), raw);
    }
}

#[test]
fn a_start_at_an_impossible_time_is_in_doubt_and_begins_at_the_least_that_it_can_be() {
    for (raw, mark, least) in [
        (Y1970, None, FLOOR),
        (Y1970, Some(TODAY), TODAY),
        (Y1970, Some(Y1970), FLOOR),
        (plus(TODAY, -HOUR), Some(TODAY), TODAY),
        (Y2038, Some(TODAY), TODAY),
        (Y2100, Some(TODAY), TODAY),
        (Y2100, None, FLOOR),
        (TODAY, Some(Y2100), Y2100),
    ] {
        let machine = Machine::start(raw, mark);
        assert_eq!(machine.judge.judged(), Judged { wall: least, sure: false }, "{raw} with mark {mark:?}");
        assert!(machine.judge.judged().due() < Y1970, "nothing is due");
        let why = machine.judge.why().unwrap();
        assert!(why.contains(&raw.to_string()) && why.contains(&least.to_string()), "{why}");
    }
}

#[test]
fn a_board_without_a_battery_is_believed_a_minute_after_its_clock_is_set() {
    let mut machine = Machine::start(Y1970, Some(TODAY));
    assert_eq!(machine.pass(3600), Judged { wall: TODAY.after(Duration::from_secs(3600)), sure: false });
    let two_days = plus(TODAY, 48 * HOUR);
    machine.jump_to(two_days);
    assert_eq!(machine.seconds_to_sure(), Some(60));
    assert_eq!(machine.judge.judged().wall, two_days.after(SOON));
    assert!(matches!(machine.news.last(), Some(News::Adopted { .. })), "{:?}", machine.news);
}

#[test]
fn a_mark_from_2100_is_lowered_by_a_synchronised_clock_after_ten_minutes_and_by_no_other() {
    let mut machine = Machine::start(TODAY, Some(Y2100));
    assert_eq!(machine.seconds_to_sure(), None);
    machine.synchronised = true;
    machine.pass(1);
    assert_eq!(machine.judge.judged(), Judged { wall: machine.raw, sure: true });
    assert!(matches!(machine.news.last(), Some(News::Adopted { from, to }) if from > to));
    assert_eq!(Machine::start(TODAY, Some(Y2100)).synchronised().seconds_to_sure(), Some(600));
}

// ---- in a run ----

#[test]
fn a_jump_is_doubted_and_the_time_goes_on_steadily() {
    for to in [Y1970, plus(TODAY, -HOUR), plus(TODAY, HOUR), plus(TODAY, 60_000), Y2038, Y2100] {
        let mut machine = Machine::start(TODAY, None);
        machine.pass(5);
        assert_eq!(machine.jump_to(to), Judged { wall: TODAY.after(Duration::from_secs(5)), sure: false }, "{to}");
        assert_eq!(machine.pass(50).wall, TODAY.after(Duration::from_secs(55)));
        assert_eq!(machine.news, [News::Doubt]);
        let why = machine.judge.why().unwrap();
        assert!(why.contains("jumped") && why.contains(&to.to_string()), "{why}");
    }
}

#[test]
fn a_clock_that_comes_back_is_believed_after_ten_seconds() {
    let mut machine = Machine::start(TODAY, None);
    machine.jump(-HOUR);
    machine.pass(7);
    machine.jump(HOUR);
    assert_eq!(machine.seconds_to_sure(), Some(10));
    assert_eq!(machine.news, [News::Doubt, News::Agrees]);
    assert_eq!(machine.judge.judged().wall, TODAY.after(Duration::from_secs(17)));
    assert_eq!(machine.judge.why(), None);
}

#[test]
fn how_long_a_new_time_waits_depends_on_how_far_it_is_and_on_the_kernels_word() {
    let day = 24 * HOUR;
    for (jump, synchronised, waits) in [
        (HOUR, true, Some(60)),
        (HOUR, false, Some(600)),
        (-HOUR, true, Some(60)),
        (-HOUR, false, Some(600)),
        (-2 * day, true, Some(600)),
        (-2 * day, false, None),
        (2 * day, true, Some(60)),
        (2 * day, false, None),
        (Y2100.as_millis() - TODAY.as_millis(), true, Some(600)),
        (Y2100.as_millis() - TODAY.as_millis(), false, None),
        (Y1970.as_millis() - TODAY.as_millis(), true, None),
        (Y1970.as_millis() - TODAY.as_millis(), false, None),
    ] {
        let mut machine = Machine::start(TODAY, None);
        machine.synchronised = synchronised;
        machine.jump(jump);
        let why = machine.judge.why().unwrap().to_owned();
        assert_eq!(machine.seconds_to_sure(), waits, "by {jump} ms, synchronised {synchronised}");
        let told = match waits {
            Some(60) => "1 min synchronised",
            Some(_) => "10 min",
            None => "time service",
        };
        assert!(why.contains(told), "{why}");
    }
}

#[test]
fn a_slew_is_followed_and_a_clock_at_twice_the_rate_is_not() {
    let mut slow = Machine::start(TODAY, None);
    let mut fast = Machine::start(TODAY, None);
    for _ in 0..600 {
        slow.raw = plus(slow.raw, 90);
        fast.raw = plus(fast.raw, 1_000);
        slow.pass(1);
        fast.pass(1);
    }
    assert_eq!(slow.judge.judged(), Judged { wall: slow.raw, sure: true });
    assert_eq!(slow.news, []);
    assert!(!fast.judge.judged().sure);
}

#[test]
fn a_clock_that_jumps_all_the_time_is_told_of_once() {
    let mut machine = Machine::start(TODAY, None);
    for jump in 0..1_000 {
        machine.jump(if jump % 2 == 0 { HOUR } else { -HOUR });
        machine.pass(1);
    }
    assert_eq!(machine.news, [News::Doubt]);
    assert_eq!(machine.judge.judged().wall, TODAY.after(Duration::from_secs(1_000)));
}

#[test]
fn the_sentence_follows_a_clock_that_jumps_again_and_stays() {
    let mut machine = Machine::start(TODAY, None);
    machine.jump(HOUR);
    machine.pass(5);
    machine.jump_to(Y2038);
    machine.pass(20);
    assert_eq!(machine.news, [News::Doubt, News::Doubt]);
    let why = machine.judge.why().unwrap();
    assert!(why.contains("2038") && why.contains("11 years"), "{why}");
}

#[test]
fn an_agent_that_was_stopped_for_hours_believes_a_clock_that_went_on() {
    let mut machine = Machine::start(TODAY, None);
    let hours = Duration::from_secs(5 * 3600);
    machine.steady = machine.steady.after(hours);
    machine.raw = machine.raw.after(hours);
    assert!(machine.look().sure);
}

// ---- whatever happens ----

#[derive(Clone, Copy, Debug)]
enum Step {
    Pass { ms: u64 },
    Slew { ms: i64 },
    Jump { to: WallTime },
    JumpBy { ms: i64 },
    Synchronised(bool),
    Suspend { s: u64 },
    Restart,
}

fn any_wall() -> impl Strategy<Value = WallTime> {
    prop_oneof![
        Just(Y1970),
        Just(Y2038),
        Just(Y2100),
        (-100_000_000_i64..100_000_000).prop_map(|ms| plus(TODAY, ms)),
        (0_i64..5_000_000_000_000).prop_map(WallTime::from_millis),
    ]
}

fn any_step() -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => (1_u64..5_000).prop_map(|ms| Step::Pass { ms }),
        2 => (1_u64..200).prop_map(|s| Step::Pass { ms: s * 1_000 }),
        2 => (-2_000_i64..2_000).prop_map(|ms| Step::Slew { ms }),
        1 => any_wall().prop_map(|to| Step::Jump { to }),
        1 => prop_oneof![Just(HOUR), Just(-HOUR)].prop_map(|ms| Step::JumpBy { ms }),
        1 => any::<bool>().prop_map(Step::Synchronised),
        1 => (1_u64..100_000).prop_map(|s| Step::Suspend { s }),
        1 => Just(Step::Restart),
    ]
}

proptest! {
    /// The reference keeps what a person would: when the machine's clock last jumped, and what it said before.
    #[test]
    fn no_jump_is_believed_before_its_time_and_the_time_never_runs_away(
        first in any_wall(),
        mark in prop::option::of(any_wall()),
        steps in prop::collection::vec(any_step(), 1..120),
    ) {
        let mut machine = Machine::start(first, mark);
        // When the raw clock last left its line, by steady time.
        let mut jumped = machine.steady;
        for step in steps {
            let before = machine.judge.judged();
            let began = machine.steady;
            let raw_before = machine.raw;
            match step {
                Step::Pass { ms } => {
                    machine.steady = machine.steady.after(Duration::from_millis(ms));
                    machine.raw = machine.raw.after(Duration::from_millis(ms));
                }
                Step::Slew { ms } => machine.raw = plus(machine.raw, ms),
                Step::Jump { to } => machine.raw = to,
                Step::JumpBy { ms } => machine.raw = plus(machine.raw, ms),
                Step::Synchronised(synchronised) => machine.synchronised = synchronised,
                Step::Suspend { s } => {
                    machine.steady = machine.steady.after(Duration::from_secs(s));
                    machine.raw = machine.raw.after(Duration::from_secs(s));
                }
                Step::Restart => {
                    let mark = Some(before.wall);
                    let synchronised = machine.synchronised;
                    machine = Machine { synchronised, ..Machine::start(machine.raw, mark) };
                    jumped = machine.steady;
                    continue;
                }
            }
            let passed = machine.steady.since(began);
            if gap(machine.raw, raw_before.after(passed)).0 > TOLERANCE {
                jumped = machine.steady;
            }
            machine.news.clear();
            let now = machine.look();

            prop_assert!(now.wall.after(TOLERANCE * 2) >= FLOOR, "{now:?} is before the floor");
            if now.sure {
                prop_assert_eq!(now.wall, machine.raw, "what is sure is what the machine says");
                prop_assert_eq!(now.due(), now.wall);
            } else {
                prop_assert!(machine.judge.why().is_some());
            }
            match machine.news.first() {
                Some(News::Adopted { .. }) => prop_assert!(machine.steady.since(jumped) >= SOON),
                Some(News::Agrees) => prop_assert!(machine.steady.since(jumped) >= AGREES),
                Some(News::Doubt) | None => {
                    let carried = before.wall.after(passed);
                    prop_assert!(gap(now.wall, carried).0 <= TOLERANCE * 2, "from {before:?} in {passed:?} to {now:?}");
                }
            }
        }
        // When the clock is right at last and a time service says so, doubt ends.
        machine.synchronised = true;
        machine.jump_to(machine.raw.max(TODAY));
        prop_assert!(machine.seconds_to_sure().is_some_and(|seconds| seconds <= 601));
    }
}

// ---- a mark that comes late ----

#[test]
fn a_mark_that_comes_late_is_judged_as_at_a_start() {
    for (raw, mark) in [
        (TODAY, plus(TODAY, -HOUR)),
        (TODAY, plus(TODAY, HOUR)),
        (TODAY, plus(TODAY, -31 * 24 * HOUR)),
        (Y1970, TODAY),
        (Y2100, TODAY),
        (TODAY, Y1970),
    ] {
        let mut late = Machine::start(raw, None);
        late.pass(5);
        let early = Machine::start(late.raw, Some(mark));
        assert_eq!(late.recall(mark), early.judge.judged(), "{raw} {mark}");
        assert_eq!(late.judge.why(), early.judge.why(), "{raw} {mark}");
    }
}

#[test]
fn only_the_first_mark_counts_because_a_run_knows_better_than_a_damaged_store() {
    let mut machine = Machine::start(TODAY, Some(plus(TODAY, -HOUR)));
    let before = machine.pass(3);
    assert_eq!(machine.recall(plus(TODAY, 24 * HOUR)), before);
    let mut machine = Machine::start(TODAY, None);
    assert!(machine.recall(plus(TODAY, -HOUR)).sure);
    assert!(machine.recall(Y2038).sure);
    assert!(machine.news.is_empty(), "{:?}", machine.news);
}

#[test]
fn a_late_mark_ends_no_doubt_about_a_jump_but_the_time_is_not_before_it() {
    let mut machine = Machine::start(TODAY, None);
    machine.pass(5);
    let jumped = machine.jump(HOUR);
    assert!(!jumped.sure);
    assert_eq!(machine.recall(plus(TODAY, -HOUR)), jumped);
    let mut machine = Machine::start(TODAY, None);
    machine.jump(HOUR);
    let mark = plus(TODAY, HOUR);
    assert_eq!(machine.recall(mark), Judged { wall: mark, sure: false });
    assert!(machine.pass(15).sure, "it agrees with the mark");
}

#[test]
fn a_late_mark_that_explains_a_strange_time_ends_the_doubt_and_that_is_told() {
    let far = plus(FLOOR, 31 * 365 * 24 * HOUR);
    let mut machine = Machine::start(far, None);
    assert!(!machine.pass(5).sure);
    let judged = machine.recall(plus(far, -HOUR));
    assert_eq!(judged, Judged { wall: machine.raw, sure: true });
    assert!(matches!(machine.news.last(), Some(News::Adopted { to, .. }) if *to == machine.raw), "{:?}", machine.news);
}
