//! Does the harm guard touch the heap once it is there, and what does it cost the thread that it runs on? One test in a
//! process of its own, so that nothing else allocates meanwhile.

use std::time::Duration;

use neap::governor::guard::{Guard, News, Ruling, Settings};
use neap::sys::{alloc, clock};
use neap::units::{Health, Instant, Utilization};

const WORKERS: u8 = 4;
/// Readings of each figure in a second: as from a source of slots.
const READINGS: u32 = 100;

/// What a run took.
#[derive(Default)]
struct Cost {
    readings: u32,
    reading: Duration,
    passes: u32,
    pass: Duration,
    pass_max: Duration,
}

/// Some minutes of a RAN that is harmed by what runs; counts the verdicts of harm.
fn minutes(guard: &mut Guard, origin: Instant, seconds: u64, cost: &mut Cost) -> u32 {
    let mut harm = 0;
    for second in 0..seconds {
        for reading in 0..READINGS {
            let now = origin.after(Duration::from_secs(second) + Duration::from_secs(1) * reading / READINGS);
            let busy = if second % 60 < 10 { 0 } else { WORKERS.min(guard.ceiling()) };
            let begin = clock::now();
            guard.on_load(now, Utilization::from_permille(60));
            for figure in Health::ALL {
                guard.on_health(now, figure, 500 * (1 + u32::from(busy)) + reading % 17);
            }
            let heard = clock::now();
            guard.on_work(now, busy);
            guard.pass(now);
            let passed = clock::now();
            while let Some(news) = guard.take_news() {
                harm += u32::from(matches!(news, News::Verdict(verdict) if verdict.ruling == Ruling::Harm));
            }
            cost.readings += 4;
            cost.reading += heard.since(begin);
            cost.passes += 1;
            cost.pass += passed.since(heard);
            cost.pass_max = cost.pass_max.max(passed.since(heard));
        }
    }
    harm
}

#[test]
fn the_guard_allocates_nothing_from_its_first_reading_to_its_verdicts() {
    let origin = Instant::from_nanos(1_000_000_000_000);
    let before = alloc::used();
    let mut guard = Guard::new(Settings::default(), WORKERS).expect("the standard settings can work");
    let memory = alloc::used() - before;
    let mut cost = Cost::default();
    // The first use of this and that.
    minutes(&mut guard.clone(), origin, 2, &mut Cost::default());
    alloc::reset_peak();
    let before = (alloc::used(), alloc::peak());
    let harm = minutes(&mut guard, origin, 900, &mut cost);
    let after = (alloc::used(), alloc::peak());
    assert_eq!(after, before, "bytes in use and most in use");
    assert!(harm >= 2, "only {harm} verdicts: not everything was gone through");
    assert!(memory < 256 * 1024, "{memory} bytes");
    eprintln!(
        "{memory} bytes; a reading {} ns, a pass {} ns on average, at most {} µs (a window ended in each hundredth)",
        cost.reading.as_nanos() / u128::from(cost.readings),
        cost.pass.as_nanos() / u128::from(cost.passes),
        cost.pass_max.as_micros()
    );
}
