//! Does the table answer what a look at every job would answer, whatever has happened before?

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::fault::{Code, Fault};
use crate::jobs::job::{Limits, ModelRef, Spec};
use crate::units::Digest;

const KEEP: Duration = Duration::from_secs(20);

fn at(seconds: i64) -> WallTime {
    WallTime::from_millis(1_700_000_000_000 + seconds * 1000)
}

fn id(number: u8) -> JobId {
    format!("job-{number}").parse().unwrap()
}

fn job(number: u8, priority: u8, deadline: Option<i64>, not_before: Option<i64>, now: i64) -> Job {
    let spec = Spec {
        id: id(number),
        body: Digest([number; 32]),
        model: ModelRef { name: format!("model-{}", number % 3).parse().unwrap(), version: Some(1), digest: None },
        priority,
        deadline: deadline.map(at),
        not_before: not_before.map(at),
        limits: Limits { wall: Duration::from_secs(1), memory_bytes: 1, attempts: 3, output_bytes: 1 },
        traceparent: number.is_multiple_of(4).then(|| "00-trace".to_owned()),
        items: 1,
    };
    Job::new(spec, at(now))
}

#[derive(Clone, Debug)]
enum Step {
    Insert(Job),
    InsertUndecided(Job),
    Decide(JobId),
    Remove(JobId),
    Apply(JobId, Event),
    Ran(JobId),
    Acknowledge(JobId),
    /// The next one waits for a better moment, so many seconds from now.
    Delay(i64),
    DelayNoMore,
    Clock(i64),
}

fn any_event() -> impl Strategy<Value = Event> {
    let (cpu, ran, stopped) = (Duration::from_millis(1), Duration::from_millis(2), Duration::from_millis(3));
    let fault = Fault::new(Code::WorkerCrashed, "gone");
    proptest::sample::select(vec![
        Event::Start,
        Event::Start,
        Event::Yield,
        Event::Resume { stopped },
        Event::ItemDone { cpu, ran },
        Event::Succeed,
        Event::Fault(fault),
        Event::Evict { stopped },
        Event::Restart,
        Event::Cancel,
        Event::Expire,
    ])
}

fn any_step() -> impl Strategy<Value = Step> {
    let moment = || proptest::option::of(-30i64..30);
    let any_job = (0u8..12, 0u8..4, moment(), moment(), -30i64..30)
        .prop_map(|(number, priority, deadline, start, now)| job(number, priority, deadline, start, now));
    let any_id = || (0u8..12).prop_map(id);
    prop_oneof![
        4 => any_job.clone().prop_map(Step::Insert),
        2 => any_job.prop_map(Step::InsertUndecided),
        2 => any_id().prop_map(Step::Decide),
        1 => any_id().prop_map(Step::Remove),
        8 => (any_id(), any_event()).prop_map(|(id, event)| Step::Apply(id, event)),
        1 => any_id().prop_map(Step::Ran),
        2 => any_id().prop_map(Step::Acknowledge),
        2 => (-3i64..20).prop_map(Step::Delay),
        1 => Just(Step::DelayNoMore),
        3 => (-30i64..60).prop_map(Step::Clock),
        1 => (-30i64..60).prop_map(|late| Step::Clock(24 * 3600 + late)),
    ]
}

/// What the table is to be equal to: all jobs in full, and which of them are not durable.
#[derive(Default)]
struct Plain {
    jobs: BTreeMap<JobId, Job>,
    undecided: BTreeSet<JobId>,
    delayed: BTreeMap<JobId, WallTime>,
}

impl Plain {
    /// Durable jobs that do not wait for a better moment.
    fn undelayed(&self) -> impl Iterator<Item = &Job> + Clone {
        self.durable().filter(|job| !self.delayed.contains_key(&job.id))
    }

    fn durable(&self) -> impl Iterator<Item = &Job> + Clone {
        self.jobs.values().filter(|job| !self.undecided.contains(&job.id))
    }

    fn step(&mut self, table: &mut Table, step: Step, now: &mut i64) -> Result<(), TestCaseError> {
        match step {
            Step::Insert(job) => {
                table.insert(job.clone());
                self.undecided.remove(&job.id);
                self.delayed.remove(&job.id);
                self.jobs.insert(job.id.clone(), job);
            }
            Step::InsertUndecided(job) => {
                table.insert_undecided(job.clone());
                self.undecided.insert(job.id.clone());
                self.delayed.remove(&job.id);
                self.jobs.insert(job.id.clone(), job);
            }
            Step::Decide(id) => {
                table.decide(&id);
                self.undecided.remove(&id);
            }
            Step::Remove(id) => {
                table.remove(&id);
                self.jobs.remove(&id);
                self.undecided.remove(&id);
            }
            Step::Apply(id, event) => {
                let expected =
                    self.jobs.get_mut(&id).map(|job| job.apply(event.clone(), at(*now)).map(|()| job.clone()));
                prop_assert_eq!(table.apply(&id, event, at(*now)), expected);
            }
            Step::Ran(id) => {
                let ran = Duration::from_secs(1);
                table.add_running_time(&id, ran);
                if let Some(job) = self.jobs.get_mut(&id).filter(|job| !job.is_terminal()) {
                    job.ran += ran;
                }
            }
            Step::Acknowledge(id) => {
                let kept = self.jobs.get_mut(&id).filter(|job| job.keeps_result());
                prop_assert_eq!(table.acknowledge(&id), kept.is_some());
                if let Some(job) = kept {
                    job.acknowledged = true;
                }
            }
            Step::Delay(by) => {
                let delay = Delay { until: at(*now + by), stretch: Duration::ZERO, now: Duration::ZERO };
                let Some(next) = table.next().map(|job| job.id.clone()) else { return Ok(()) };
                table.delay(&next, delay);
                self.delayed.insert(next, delay.until);
            }
            Step::DelayNoMore => {
                table.delay_no_more();
                self.delayed.clear();
            }
            Step::Clock(to) => *now = to,
        }
        let waits = |job: &Job| job.state == State::Queued;
        self.delayed.retain(|id, until| *until > at(*now) && self.jobs.get(id).is_some_and(waits));
        Ok(())
    }

    fn compare(&self, table: &Table, now: WallTime) -> Result<(), TestCaseError> {
        let all = || self.jobs.values();
        prop_assert_eq!(table.len(), self.jobs.len());
        prop_assert_eq!(table.open(), all().filter(|job| !job.is_terminal()).count());
        prop_assert_eq!(table.queued(), all().filter(|job| job.state == State::Queued).count());
        prop_assert_eq!(table.unacknowledged(), all().filter(|job| job.keeps_result()).count());
        prop_assert_eq!(table.next(), queue::next(self.undelayed(), now));
        // A job that is not durable neither expires nor wakes anybody: its times count when the store has decided.
        prop_assert_eq!(table.expired(), queue::expired(self.durable(), now));
        // What waits for a better moment has had its start, even if the clock is set back then.
        let started = |job: &Job| Job {
            not_before: job.not_before.filter(|_| !self.delayed.contains_key(&job.id)),
            ..job.clone()
        };
        let jobs: Vec<Job> = self.durable().map(started).collect();
        let moment = queue::next_moment(&jobs, now).into_iter().chain(self.delayed.values().copied()).min();
        prop_assert_eq!(table.next_moment(), moment);
        prop_assert_eq!(table.forgettable(KEEP, usize::MAX), queue::forgettable(all(), now, KEEP));
        for (closed, free_workers) in [(None, 0), (None, 2), (Some("mode busy"), 1)] {
            let surroundings = Surroundings { closed, free_workers };
            for job in all() {
                let waiting = table.why_waiting(job, surroundings);
                if self.delayed.contains_key(&job.id) && !job.is_overdue(now) {
                    prop_assert_eq!(waiting.map(|waiting| waiting.code), Some(queue::OUTLOOK));
                    continue;
                }
                prop_assert_eq!(waiting, queue::why_waiting(job, self.undelayed(), surroundings, now));
                let before: BTreeSet<&JobId> = table.before(job, 99).map(|other| &other.id).collect();
                let is_before = |other: &&Job| {
                    let is_undecided = self.undecided.contains(&other.id) && !other.is_terminal();
                    let is_ready =
                        queue::next([*other], now).is_some() || other.state == State::Queued && other.is_overdue(now);
                    let is_ready = is_ready
                        && !self.delayed.contains_key(&other.id)
                        && other.earliest_start().is_none_or(|start| start <= now);
                    (is_undecided || is_ready) && queue::goes_before(other, job)
                };
                prop_assert_eq!(before, all().filter(is_before).map(|job| &job.id).collect());
            }
        }
        let mut newest: Vec<&Job> = all().collect();
        newest.sort_by_key(|job| (job.is_terminal(), Reverse(job.changed)));
        let newest: Vec<&JobId> = newest.iter().map(|job| &job.id).take(5).collect();
        prop_assert_eq!(table.newest(5, |_| true).iter().map(|entry| entry.id).collect::<Vec<_>>(), newest);
        prop_assert!(table.after(None).map(|entry| entry.id).eq(self.jobs.keys()));
        for (entry, job) in table.after(None).zip(all()) {
            let told = (entry.is_open(), entry.keeps_result(), entry.changed());
            prop_assert_eq!(told, (!job.is_terminal(), job.keeps_result(), job.changed));
        }
        prop_assert!(table.after(Some(&id(3))).all(|entry| *entry.id > id(3)));
        Ok(())
    }
}

proptest! {
    #[test]
    fn every_answer_is_that_of_a_look_at_every_job(steps in prop::collection::vec(any_step(), 0..120)) {
        let (mut table, mut plain, mut now) = (Table::default(), Plain::default(), 0);
        for step in steps {
            plain.step(&mut table, step, &mut now)?;
            table.look(at(now));
            plain.compare(&table, at(now))?;
        }
    }
}

#[test]
fn an_ended_job_answers_a_repetition_of_its_submit_and_a_question_for_it() {
    let mut ended = job(4, 7, Some(99), Some(1), 0);
    ended.apply(Event::Start, at(1)).unwrap();
    ended.apply(Event::Fault(Fault::new(Code::ModelParse, "no model")), at(2)).unwrap();
    assert!(ended.is_terminal());
    let table = Table::new([ended.clone()]);
    let told = table.get(&ended.id).unwrap().into_owned();
    // What its result told is not kept here.
    let expected = Job {
        model: ModelRef { version: None, ..ended.model.clone() },
        not_before: None,
        limits: told.limits,
        failures: 0,
        received: at(2),
        ..ended
    };
    assert_eq!(told, expected);
    assert!(table.get_open(&told.id).is_none());
}

#[test]
fn more_models_than_are_shared_are_told_apart_all_the_same() {
    let mut table = Table::default();
    for number in 0..200_u8 {
        let mut job = job(number, 5, None, None, 0);
        job.model.name = format!("model-{number}").parse().unwrap();
        job.apply(Event::Cancel, at(1)).unwrap();
        table.insert(job);
    }
    for number in 0..200 {
        let name = table.get(&id(number)).unwrap().model.name.to_string();
        assert_eq!(name, format!("model-{number}"));
    }
}

#[test]
fn no_more_ids_are_forgotten_at_once_than_asked_for() {
    let mut table = Table::default();
    for number in 0..10 {
        let mut job = job(number, 5, None, None, 0);
        job.apply(Event::Cancel, at(1)).unwrap();
        table.insert(job);
    }
    table.look(at(1 + 24 * 3600));
    assert_eq!((table.forgettable(KEEP, 3).len(), table.forgettable(KEEP, 30).len()), (3, 10));
}
