//! Is nobody refused who would have made it, and is what waits for a better moment done in time?

use proptest::prelude::*;

use super::*;

const S: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);

fn at(seconds: u64) -> WallTime {
    WallTime::from_millis(1_700_000_000_000).after(S * u32::try_from(seconds).unwrap())
}

/// From second 0, spans of ten minutes with so many minutes free for all workers; a fifth more or less in rare cases.
fn outlook(free_minutes: &[u32]) -> Outlook {
    let free = |minutes: &u32| {
        let p50 = MINUTE * *minutes;
        Free { p10: p50 * 4 / 5, p50, p90: p50 * 6 / 5 }
    };
    Outlook::new(at(0), 10 * MINUTE, free_minutes.iter().map(free).collect())
}

fn demand(need: Duration, deadline: u64) -> Demand {
    Demand { need, start: at(0), deadline: at(deadline) }
}

fn claim(need: u64, deadline: Option<u64>) -> Claim {
    Claim { need: S * u32::try_from(need).unwrap(), deadline: deadline.map(at) }
}

fn refusal(supply: &Supply, demand: Demand, before: &[Claim]) -> Infeasible {
    check(at(0), supply, demand, before.iter().copied()).unwrap_err()
}

#[test]
fn without_an_outlook_only_the_clock_refuses() {
    let supply = Supply::new(2, None);
    assert_eq!(check(at(0), &supply, demand(100 * S, 100), []), Ok(()));
    let why = refusal(&supply, demand(101 * S, 100), &[]);
    assert_eq!((why.most, why.before, why.jobs), (100 * S, Duration::ZERO, 0));
    let text = why.fault().to_string();
    assert!(text.starts_with("job.infeasible: needs 101 s of core time before 2023-11-14T22:15:00.000Z"), "{text}");
    assert!(text.contains("one worker has 100 s even if the node is always free"), "{text}");
    assert!(text.ends_with(": give it a later deadline, fewer items, or another node"), "{text}");
}

#[test]
fn work_that_goes_before_takes_its_worker_and_not_the_others() {
    let before = [claim(60, None), claim(50, None)];
    let one = refusal(&Supply::new(1, None), demand(10 * S, 100), &before);
    assert_eq!((one.before, one.jobs), (100 * S, 2));
    assert_eq!(check(at(0), &Supply::new(3, None), demand(100 * S, 100), before), Ok(()));
    let two = refusal(&Supply::new(2, None), demand(51 * S, 100), &before);
    assert_eq!(two.before, 50 * S);
    assert!(two.to_string().contains("50 s go to 2 jobs before it"), "{two}");
    assert_eq!(check(at(0), &Supply::new(2, None), demand(50 * S, 100), before), Ok(()));
}

#[test]
fn a_job_before_it_takes_nothing_after_its_own_deadline() {
    let before = [claim(1000, Some(30))];
    assert_eq!(check(at(0), &Supply::new(1, None), demand(70 * S, 100), before), Ok(()));
    assert_eq!(refusal(&Supply::new(1, None), demand(71 * S, 100), &before).before, 30 * S);
}

#[test]
fn the_refusal_goes_by_the_best_of_ten_cases_and_tells_both_figures() {
    let supply = Supply::new(1, Some(outlook(&[5, 0, 5, 10])));
    assert_eq!(check(at(0), &supply, demand(12 * MINUTE, 1800), []), Ok(()), "10 are expected, 12 are possible");
    let why = refusal(&supply, demand(13 * MINUTE, 1800), &[claim(60, None)]);
    assert_eq!((why.expected, why.most, why.before), (10 * MINUTE, 12 * MINUTE, MINUTE));
    let text = why.to_string();
    assert!(text.contains("600 s") || text.contains("10 min are expected free (at most 12 min in nine of ten cases)"));
    assert!(text.contains("60 s go to 1 job before it"), "{text}");
    assert_eq!(check(at(0), &supply, demand(50 * MINUTE, 10 * 3600), []), Ok(()), "nothing is known of so late");
    assert!(check(at(0), &supply, demand(10 * MINUTE, 540), []).is_err(), "not even alone");
}

#[test]
fn several_workers_do_not_make_one_job_faster() {
    let supply = Supply::new(4, None);
    assert!(check(at(0), &supply, demand(101 * S, 100), []).is_err());
    let supply = Supply::new(4, Some(outlook(&[40])));
    assert_eq!(check(at(0), &supply, demand(10 * MINUTE, 600), []), Ok(()));
    assert!(check(at(0), &supply, demand(11 * MINUTE, 600), []).is_err());
}

/// The queue as the workers would work it off, in steps of a second: in each, `rate` of it is free for each worker.
/// Tells when the last of `jobs` is done.
fn play(workers: usize, jobs: &[Claim], start: u64, rate: impl Fn(u64) -> f64) -> Option<u64> {
    let mut left: Vec<f64> = jobs.iter().map(|job| job.need.as_secs_f64()).collect();
    let mut running: Vec<Option<usize>> = vec![None; workers];
    let mut waiting: std::collections::VecDeque<usize> = (0..jobs.len()).collect();
    for second in 0..4000 {
        for place in &mut running {
            let over = |job: usize| jobs[job].deadline.is_some_and(|deadline| deadline <= at(second));
            while place.is_none_or(|job| left[job] <= 0.0 || over(job)) {
                let last = jobs.len() - 1;
                let Some(next) = waiting.pop_front() else { break };
                if next == last && second < start {
                    waiting.push_front(next);
                    break;
                }
                *place = Some(next);
            }
            if place.is_some_and(|job| left[job] <= 0.0 || over(job)) {
                *place = None;
            }
        }
        for job in running.iter().flatten() {
            left[*job] -= rate(second);
        }
        if left[jobs.len() - 1] <= 1e-9 {
            return Some(second + 1);
        }
    }
    None
}

fn any_claims() -> impl Strategy<Value = Vec<Claim>> {
    prop::collection::vec((0_u64..120, prop::option::of(1_u64..600)), 0..6)
        .prop_map(|claims| claims.into_iter().map(|(need, deadline)| claim(need, deadline)).collect())
}

proptest! {
    #[test]
    fn whoever_is_refused_would_have_missed(
        workers in 1_usize..4, before in any_claims(), need in 1_u64..400, deadline in 1_u64..700,
        spans in prop::collection::vec(0_u32..11, 0..2),
    ) {
        let whole: Vec<u32> = spans.iter().map(|minutes| minutes * u32::try_from(workers).unwrap()).collect();
        let outlook = (!spans.is_empty()).then(|| {
            let free = |minutes: &u32| Free { p90: MINUTE * *minutes, ..Free::default() };
            Outlook::new(at(0), 10 * MINUTE, whole.iter().map(free).collect())
        });
        let supply = Supply::new(workers, outlook);
        if check(at(0), &supply, demand(S * u32::try_from(need).unwrap(), deadline), before.iter().copied()).is_err() {
            // The world is as good as one in ten: each worker gets its share of every second.
            let rate = |second: u64| spans.get(usize::try_from(second / 600).unwrap()).map_or(1.0, |m| f64::from(*m) / 10.0);
            let jobs: Vec<Claim> = before.iter().copied().chain([claim(need, None)]).collect();
            let done = play(workers, &jobs, 0, rate);
            prop_assert!(done.is_none_or(|done| done > deadline), "done at {done:?}");
        }
    }

    #[test]
    fn what_fits_alone_on_an_idle_node_is_never_refused_there(
        workers in 1_usize..9, need in 0_u64..5000, more in 0_u64..5000, start in 0_u64..5000,
    ) {
        let demand = Demand { need: S * u32::try_from(need).unwrap(), start: at(start), deadline: at(start + need + more) };
        prop_assert_eq!(check(at(0), &Supply::new(workers, None), demand, []), Ok(()));
        let all_free = Outlook::new(at(0), MINUTE, vec![
            Free { p10: MINUTE, p50: MINUTE, p90: MINUTE } ; 60
        ]);
        prop_assert_eq!(check(at(0), &Supply::new(1, Some(all_free)), demand, []), Ok(()));
    }

    #[test]
    fn a_later_deadline_or_a_smaller_need_never_makes_it_worse(
        workers in 1_usize..4, before in any_claims(), need in 1_u64..400, deadline in 1_u64..700,
        later in 0_u64..500, less in 0_u64..400, spans in prop::collection::vec(0_u32..11, 0..4),
    ) {
        let supply = Supply::new(workers, (!spans.is_empty()).then(|| outlook(&spans)));
        let is_fine = |need: u64, deadline: u64| {
            let demand = demand(S * u32::try_from(need).unwrap(), deadline);
            check(at(0), &supply, demand, before.iter().copied()).is_ok()
        };
        if is_fine(need, deadline) {
            prop_assert!(is_fine(need.saturating_sub(less), deadline + later));
        }
    }

    #[test]
    fn a_delay_ends_in_time_and_leads_to_a_stretch_that_is_long_enough(
        workers in 1_u32..4, spans in prop::collection::vec(0_u32..11, 1..40), now in 0_u64..20_000,
        stretch in 1_u64..4000, items in 1_u32..4, age in 0_u64..20_000, deadline in prop::option::of(0_u64..30_000),
    ) {
        let whole: Vec<u32> = spans.iter().map(|minutes| minutes * workers).collect();
        let supply = Supply::new(workers as usize, Some(outlook(&whole)));
        let terms = DelayTerms { stretch_above: MINUTE, wait_max: 10_000 * S };
        let stretch = S * u32::try_from(stretch).unwrap();
        let since = at(now.saturating_sub(age));
        let deadline = deadline.map(|after| at(now + after));
        let work = Work { stretch, need: stretch * items, since, deadline };
        if let Some(delay) = supply.delay(at(now), &work, &terms) {
            prop_assert!(stretch > terms.stretch_above);
            prop_assert!(delay.until > at(now) && delay.until <= since.after(terms.wait_max));
            prop_assert!(delay.now < stretch);
            if let Some(deadline) = deadline {
                prop_assert!(delay.until.after(work.need) <= deadline.after(Duration::from_millis(1)));
            }
            // It is begun then, and a little late as well.
            for late in [Duration::ZERO, Duration::from_millis(20)] {
                prop_assert_eq!(supply.delay(delay.until.after(late), &work, &terms), None);
            }
        }
    }
}

const TERMS: DelayTerms = DelayTerms { stretch_above: MINUTE, wait_max: Duration::from_secs(12 * 3600) };

fn work(minutes: u32) -> Work {
    Work { stretch: MINUTE * minutes, need: MINUTE * minutes, since: at(0), deadline: None }
}

#[test]
fn long_work_waits_for_the_trough_that_it_fits() {
    let supply = Supply::new(1, Some(outlook(&[4, 0, 0, 6, 10, 10, 0])));
    let delay = supply.delay(at(0), &work(12), &TERMS).unwrap();
    assert_eq!((delay.until, delay.now), (at(1800), 4 * MINUTE));
    let text = delay.to_string();
    assert!(text.ends_with("needs 12 min at a stretch, 240 s are expected now"), "{text}");
    assert!(text.starts_with("waits for the trough expected at 2023-11-14T22:43:20.000Z"), "{text}");
    assert_eq!(supply.delay(at(0), &work(4), &TERMS), None, "it fits");
    assert_eq!(supply.delay(at(0), &work(1), &TERMS), None, "too short to be worth it");
    assert_eq!(supply.delay(at(0), &work(60), &TERMS), None, "nothing better comes");
    assert_eq!(supply.delay(at(9000), &work(12), &TERMS), None, "nothing is known of so late");
    assert_eq!(Supply::new(1, None).delay(at(0), &work(12), &TERMS), None);
}

#[test]
fn nothing_waits_into_its_deadline_or_beyond_the_limit() {
    let supply = Supply::new(1, Some(outlook(&[4, 0, 0, 6, 10, 10, 0])));
    let until = |deadline| Work { deadline: Some(at(deadline)), ..work(12) };
    assert!(supply.delay(at(0), &until(3600), &TERMS).is_some());
    assert_eq!(supply.delay(at(0), &until(2700), &TERMS), None, "the later span would be too late: now or never");
    let terms = |wait_max| DelayTerms { wait_max, ..TERMS };
    assert_eq!(supply.delay(at(0), &work(12), &terms(1799 * S)), None);
    assert!(supply.delay(at(0), &work(12), &terms(1800 * S)).is_some());
    assert_eq!(supply.delay(at(0), &work(12), &terms(Duration::ZERO)), None, "switched off");
}
