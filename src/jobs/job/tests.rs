//! Does the state machine hold the table of PROTOCOL section 3?

use proptest::prelude::*;

use super::*;

const NOW: WallTime = WallTime::from_millis(1_700_000_000_000);

fn spec(items: u32, attempts: u32) -> Spec {
    Spec {
        id: "job-1".parse().unwrap(),
        body: Digest([7; 32]),
        model: ModelRef { name: "person-detect".parse().unwrap(), version: None, digest: None },
        priority: 5,
        deadline: Some(NOW.after(Duration::from_secs(60))),
        not_before: None,
        limits: Limits { wall: Duration::from_secs(60), memory_bytes: 1 << 20, attempts, output_bytes: 1 << 16 },
        traceparent: None,
        items,
    }
}

fn job(items: u32, attempts: u32) -> Job {
    Job::new(spec(items, attempts), NOW)
}

fn in_state(state: State) -> Job {
    Job { state, ..job(3, 3) }
}

fn after(mut job: Job, events: &[Event]) -> Job {
    for event in events {
        job.apply(event.clone(), NOW).unwrap();
    }
    job
}

const ITEM: Event = Event::ItemDone { cpu: Duration::from_millis(7), ran: Duration::from_millis(9) };
const EVICT: Event = Event::Evict { stopped: Duration::from_secs(5) };
const RESUME: Event = Event::Resume { stopped: Duration::from_secs(2) };

fn crash() -> Event {
    Event::Fault(Fault::new(Code::WorkerCrashed, "signal 11"))
}

fn bad_model() -> Event {
    Event::Fault(Fault::new(Code::ModelShape, "3 is not 4"))
}

fn no_start() -> Event {
    Event::Fault(Fault::new(Code::WorkerStart, "no process"))
}

fn lost() -> Fault {
    Fault::new(Code::StateCorrupt, "its input is gone")
}

#[test]
fn every_pair_of_state_and_event_does_what_the_table_says() {
    use State::{Canceled, Failed, InProgress, Queued, Suspended, TimedOut};
    // One row per event: where it leads from Queued, InProgress, Suspended (with an item to go and attempts left).
    let table: [(Event, [Option<State>; 3]); 13] = [
        (Event::Start, [Some(InProgress), None, None]),
        (Event::Yield, [None, Some(Suspended), None]),
        (RESUME, [None, None, Some(InProgress)]),
        (ITEM, [None, Some(InProgress), Some(Suspended)]),
        (Event::Succeed, [None, None, None]),
        (crash(), [None, Some(Queued), Some(Queued)]),
        (no_start(), [None, Some(Queued), Some(Queued)]),
        (bad_model(), [None, Some(Failed), Some(Failed)]),
        (EVICT, [None, Some(Queued), Some(Queued)]),
        (Event::Restart, [None, Some(Queued), Some(Queued)]),
        (Event::Cancel, [Some(Canceled), Some(Canceled), Some(Canceled)]),
        (Event::Expire, [Some(TimedOut), Some(TimedOut), Some(TimedOut)]),
        (Event::Lose(lost()), [Some(Failed), Some(Failed), Some(Failed)]),
    ];
    for (event, leads_to) in table {
        for (from, to) in [Queued, InProgress, Suspended].into_iter().zip(leads_to) {
            check_move(in_state(from), &event, to);
        }
        for from in State::ALL.into_iter().filter(|state| state.is_terminal()) {
            check_move(in_state(from), &event, None);
        }
    }
}

fn check_move(before: Job, event: &Event, to: Option<State>) {
    let mut job = before.clone();
    let answer = job.apply(event.clone(), NOW.after(Duration::from_secs(1)));
    match to {
        Some(state) => {
            assert_eq!(answer, Ok(()), "{:?} × {event:?}", before.state);
            assert_eq!(job.state, state, "{:?} × {event:?}", before.state);
            assert_eq!(job.version, before.version + 1);
            assert_eq!(job.changed, NOW.after(Duration::from_secs(1)));
        }
        None => {
            assert_eq!(answer, Err(IllegalMove { state: before.state, event: event.clone() }));
            assert_eq!(job, before, "a refused event changes nothing");
        }
    }
}

#[test]
fn a_job_succeeds_only_when_every_item_is_done() {
    let mut job = after(job(2, 1), &[Event::Start, ITEM]);
    assert!(job.apply(Event::Succeed, NOW).is_err());
    job.apply(ITEM, NOW).unwrap();
    assert!(job.apply(ITEM, NOW).is_err(), "there is no third item");
    job.apply(Event::Succeed, NOW).unwrap();
    assert_eq!((job.state, job.reason, job.done), (State::Succeeded, reason::DONE, 2));
    assert_eq!((job.cpu, job.ran), (Duration::from_millis(14), Duration::from_millis(18)));
}

#[test]
fn an_answer_under_way_when_the_worker_stops_still_counts() {
    let job = after(job(1, 1), &[Event::Start, Event::Yield, ITEM, Event::Succeed]);
    assert_eq!(job.state, State::Succeeded);
}

#[test]
fn two_crashes_fail_a_job_whatever_attempts_are_left() {
    let once = after(job(1, 10), &[Event::Start, crash()]);
    assert_eq!((once.state, once.reason, once.crashes), (State::Queued, reason::RETRY, 1));
    let twice = after(once, &[Event::Start, crash()]);
    assert_eq!((twice.state, twice.reason, twice.crashes), (State::Failed, reason::FAILED, 2));
    assert_eq!(twice.fault.unwrap().code, Code::WorkerCrashed);
}

#[test]
fn a_retryable_fault_keeps_its_code_when_attempts_run_out() {
    let job = after(job(1, 3), &[Event::Start, no_start(), Event::Start, no_start(), Event::Start, no_start()]);
    assert_eq!((job.state, job.failures, job.attempt), (State::Failed, 3, 3));
    assert_eq!(job.fault.unwrap().code, Code::WorkerStart);
}

#[test]
fn evictions_are_not_failures_and_keep_finished_items() {
    let mut job = after(job(3, 1), &[Event::Start, ITEM]);
    for _ in 0..20 {
        job = after(job, &[Event::Yield, EVICT, Event::Start]);
    }
    assert_eq!((job.attempt, job.failures, job.done, job.yields), (21, 0, 1, 20));
    assert_eq!(job.suspended, Duration::from_secs(100));
}

#[test]
fn a_restart_is_told_and_is_no_failure() {
    let once = after(job(1, 1), &[Event::Start, Event::Restart]);
    assert_eq!((once.state, once.reason), (State::Queued, reason::RESTARTED));
    assert_eq!((once.attempt, once.failures, once.interruptions), (1, 0, 1));
    let twice = after(once, &[Event::Start, Event::Yield, Event::Restart, Event::Start, ITEM, Event::Succeed]);
    assert_eq!(
        (twice.state, twice.attempt, twice.failures),
        (State::Succeeded, 3, 0),
        "one attempt may fail, none did"
    );
}

#[test]
fn a_job_that_is_there_at_every_end_of_the_agent_and_never_gets_an_item_done_is_failed() {
    let mut job = after(job(2, 1), &[Event::Start]);
    for _ in 1..INTERRUPTIONS_MAX {
        job = after(job, &[Event::Restart, Event::Start]);
    }
    // A finished item shows that the job is not to blame: counting starts anew.
    job = after(job, &[ITEM]);
    for _ in 1..INTERRUPTIONS_MAX {
        job = after(job, &[Event::Restart, Event::Start]);
    }
    assert_eq!(job.state, State::InProgress);
    job = after(job, &[Event::Restart]);
    assert_eq!((job.state, job.failures), (State::Failed, 0));
    let fault = job.fault.unwrap();
    assert_eq!(fault.code, Code::JobAttempts);
    assert!(fault.message.contains("20 attempts") && fault.message.contains("attempt 39"), "{}", fault.message);
}

#[test]
fn success_forgets_the_fault_of_an_earlier_attempt() {
    let job = after(job(1, 3), &[Event::Start, no_start(), Event::Start, ITEM, Event::Succeed]);
    assert_eq!(job.fault, None);
}

#[test]
fn expiry_says_which_deadline_and_how_far_it_came() {
    let mut job = after(job(3, 1), &[Event::Start, ITEM]);
    job.apply(Event::Expire, NOW.after(Duration::from_secs(61))).unwrap();
    let fault = job.fault.unwrap();
    assert_eq!((fault.code, job.reason), (Code::JobExpired, reason::DEADLINE));
    assert!(fault.message.contains("2023-11-14T22:14:20.000Z"), "{}", fault.message);
    assert!(fault.message.contains("1 of 3"), "{}", fault.message);
}

#[test]
fn state_names_read_back() {
    for state in State::ALL {
        assert_eq!(State::parse(state.as_str()), Some(state));
    }
    assert_eq!(State::parse("queued"), None);
}

fn any_event() -> impl Strategy<Value = Event> {
    let code = proptest::sample::select(Code::ALL);
    let span = (0u64..10_000).prop_map(Duration::from_millis);
    prop_oneof![
        3 => Just(Event::Start),
        2 => Just(Event::Yield),
        2 => span.clone().prop_map(|stopped| Event::Resume { stopped }),
        4 => (span.clone(), span.clone()).prop_map(|(cpu, ran)| Event::ItemDone { cpu, ran }),
        1 => Just(Event::Succeed),
        2 => code.prop_map(|code| Event::Fault(Fault::new(code, "x"))),
        2 => span.prop_map(|stopped| Event::Evict { stopped }),
        1 => Just(Event::Restart),
        1 => Just(Event::Cancel),
        1 => Just(Event::Expire),
        1 => Just(Event::Lose(lost())),
    ]
}

proptest! {
    #[test]
    fn no_order_of_events_breaks_a_job(
        items in 0u32..6,
        attempts in 0u32..5,
        events in prop::collection::vec(any_event(), 0..60),
    ) {
        let mut job = job(items, attempts);
        for event in events {
            let before = job.clone();
            let accepted = job.apply(event, NOW).is_ok();
            prop_assert_eq!(job.version, before.version + u64::from(accepted));
            prop_assert!(!before.is_terminal() || job == before, "left {:?}", before.state);
            prop_assert!(accepted || job == before);
            prop_assert!(job.done <= job.items && job.done >= before.done);
            prop_assert!(job.attempt >= job.failures && job.failures >= job.crashes);
            prop_assert!(job.crashes <= CRASHES_MAX && job.interruptions <= INTERRUPTIONS_MAX);
            prop_assert!(job.state != State::Failed || job.fault.is_some());
            prop_assert!(job.state != State::Succeeded || job.done == job.items);
            // A job that waits again has an attempt left: nothing is retried for ever.
            prop_assert!(job.state != State::Queued || job.failures == 0 || job.failures < job.limits.attempts);
        }
    }
}
