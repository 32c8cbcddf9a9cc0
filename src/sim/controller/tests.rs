//! Do controller, link and embedded broker work together? A node of a few lines answers every job.

use std::sync::Mutex;
use std::time::Duration;

use super::assortment::{Offer, Sample};
use super::*;
use crate::link::Publish;
use crate::link::messages::{JobsPage, Progress, Reply, ResultHead, Status, render_item, render_result};
use crate::link::topics::Down;
use crate::sim::broker::Broker;
use crate::tensor::Tensor;
use crate::units::{Digest, Name};

fn topics() -> Topics {
    Topics::new("neap", "lab".parse().unwrap(), "node-1".parse().unwrap()).unwrap()
}

fn assortment() -> Assortment {
    let inputs = || vec![Tensor::bytes("image", &[7; 30_000])];
    let sample = |title: &str| Sample { title: title.to_owned(), inputs: inputs(), interpret: true };
    let samples = vec![sample("a.jpg"), sample("b.jpg")];
    Assortment::new(vec![Offer::new("objects".parse().unwrap(), 1, samples)], 1)
}

/// Both messages about a job that ended well.
fn answers(id: &JobId) -> [(String, Vec<u8>); 2] {
    let progress = Progress { done: 1, total: 1 };
    let status = Status {
        status: State::Succeeded,
        version: 2,
        attempt: 1,
        at: clock::wall(),
        reason: "done".to_owned(),
        progress,
        yields: 0,
        suspended: Duration::ZERO,
        error: None,
    };
    let model: Name = "objects".parse().unwrap();
    let head = ResultHead {
        id,
        model: &model,
        version: 1,
        digest: &Digest([0; 32]),
        attempt: 1,
        wall: Duration::ZERO,
        cpu: Duration::from_millis(400),
        yields: 0,
        suspended: Duration::ZERO,
        sandbox: "full",
    };
    let seen = [Tensor::f32s("scores", vec![1], &[0.9]).unwrap(), Tensor::strings("labels", &["bus"])];
    let result = render_result(&head, &[render_item(&seen)], false);
    [(topics().job(id), status.render()), (topics().result(id), result)]
}

/// A node that answers every job at once, except the one after `forgets` others. Asked for its jobs it knows none, or
/// says nothing.
async fn answer_jobs(broker: &Broker, forgets: Option<usize>, is_asked: bool) {
    let address = broker.address();
    let settings = mqtt::Settings {
        subscriptions: vec![(topics().down_filter(), Qos::AtLeastOnce)],
        ..mqtt::Settings::new(address.ip().to_string(), address.port(), "node-1")
    };
    let (commands, mut events) = mqtt::start(settings, clock::wall).unwrap();
    let mut jobs = 0;
    while let Some(event) = events.recv().await {
        let Event::Received(received) = event else { continue };
        if let Some(token) = received.ack {
            commands.send(Command::Ack(token)).await.unwrap();
        }
        let id = match topics().parse_down(&received.message.topic) {
            Some(Down::Submit(id)) => id,
            Some(Down::Command(name)) if is_asked && name == "jobs" => {
                let Publish { response_topic, correlation, .. } = received.message;
                let body = Reply::Jobs(JobsPage::default()).render();
                let message = Publish { correlation, ..publish(response_topic.unwrap(), body) };
                commands.send(Command::Publish { message, token: None }).await.unwrap();
                continue;
            }
            Some(_) | None => continue,
        };
        jobs += 1;
        if Some(jobs - 1) == forgets {
            continue;
        }
        for (topic, body) in answers(&id) {
            commands.send(Command::Publish { message: publish(topic, body), token: None }).await.unwrap();
        }
    }
}

fn publish(topic: String, body: Vec<u8>) -> Publish {
    Publish::plain(topic, body)
}

/// Submits until eight jobs have ended, finishes or leaves, and gives the figures.
async fn tally_of_a_run(forgets: Option<usize>, is_asked: bool, last: Phase) -> Tally {
    let broker = Broker::start().unwrap();
    let (phase, phases) = watch::channel(Phase::Submit);
    let ended = Mutex::new(0);
    let address = broker.address();
    let plan = Plan {
        host: address.ip().to_string(),
        port: address.port(),
        topics: topics(),
        assortment: assortment(),
        open_max: 3,
        ask_every: Duration::from_secs(1),
    };
    let tell = |news| {
        if let News::Ended { .. } = news {
            let mut ended = ended.lock().unwrap();
            *ended += 1;
            if *ended == 8 {
                phase.send_replace(last);
            }
        }
    };
    tokio::select! {
        tally = run(plan, phases, tell) => tally.unwrap(),
        () = answer_jobs(&broker, forgets, is_asked) => panic!("the node's link has ended"),
        () = sleep(Duration::from_secs(60)) => panic!("no end after 60 s"),
    }
}

#[tokio::test]
async fn every_job_over_a_real_broker_comes_to_its_end() {
    let tally = tally_of_a_run(None, false, Phase::Finish).await;
    assert!(tally.submitted >= 8, "{tally:?}");
    assert_eq!((tally.succeeded, tally.lost, tally.contradictions), (tally.submitted, 0, 0), "{tally:?}");
    assert!(tally.sights.values().all(|seen| seen == "bus 0.90"), "{tally:?}");
}

#[tokio::test]
async fn a_job_that_got_lost_on_its_way_is_found_missing_and_submitted_again() {
    let tally = tally_of_a_run(Some(2), true, Phase::Finish).await;
    assert_eq!((tally.succeeded, tally.lost, tally.contradictions), (tally.submitted, 0, 0), "{tally:?}");
}

#[tokio::test]
async fn a_job_the_node_forgot_counts_as_lost() {
    let tally = tally_of_a_run(Some(2), false, Phase::Leave).await;
    assert!(tally.lost >= 1 && tally.succeeded >= 8, "{tally:?}");
}
