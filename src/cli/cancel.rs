//! Takes jobs back: `neap cancel`.

use std::time::Duration;

use serde_json::json;
use tokio::time::timeout;

use super::failure::{Class, Failure};
use super::out::Out;
use super::session::{REPLY_WAIT, Session};
use super::target::Target;
use crate::jobs::job::State;
use crate::link::messages::{Command, Reply, Status};
use crate::units::JobId;

/// Longest wait for the job to end.
const END_WAIT: Duration = Duration::from_secs(10);

/// Arguments of `neap cancel`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  neap cancel --node north/cell-17 night-7
  neap cancel --node north/cell-17 night-7 night-8 --json

A job that has already ended stays as it is; its state is printed.")]
pub(super) struct Args {
    /// Identities of the jobs
    #[arg(value_name = "JOB", required = true, num_args = 1..)]
    jobs: Vec<JobId>,
    /// One JSON object a job
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    target: Target,
}

pub(super) fn run(args: &Args) -> Result<(), Failure> {
    let place = args.target.resolve()?;
    super::block_on(async {
        let filters = vec![place.topics.state(), format!("{}/up/job/+", place.topics.source())];
        let mut session = Session::open(place, filters).await?;
        let mut done = Ok(());
        for job in &args.jobs {
            let canceled = cancel(args, &mut session, job).await;
            // Every job is tried; the first failure decides the exit code.
            if let (Err(failure), Err(_)) = (&canceled, &done) {
                failure.report();
            }
            done = done.and(canceled);
        }
        session.close().await;
        done
    })
}

async fn cancel(args: &Args, session: &mut Session, job: &JobId) -> Result<(), Failure> {
    // A node says nothing about a job it does not know: ask first.
    let order = Command::Describe { job: Some(job.clone()) };
    let Reply::Job(known) = session.request(&order, REPLY_WAIT).await? else {
        return Err(Failure::new(Class::Data, "the node's reply to describe makes no sense"));
    };
    let ended = if known.status.status.is_terminal() {
        known.status.status
    } else {
        session.send_bare(session.topics.cancel(job)).await?;
        let ended = end(session, job);
        timeout(END_WAIT, ended).await.map_err(|_| {
            let text = format!("job {job} has not ended within {} s; the cancel stands", END_WAIT.as_secs());
            Failure::new(Class::TemporaryFailure, text)
        })??
    };
    let out = Out::stdout();
    if args.json {
        return out.json(&json!({"id": job.as_str(), "status": ended.as_str()}));
    }
    out.line(&format!("{job} {}", ended.as_str()))
}

async fn end(session: &mut Session, job: &JobId) -> Result<State, Failure> {
    let topic = session.topics.job(job);
    loop {
        let message = session.next().await?;
        if message.topic != topic {
            continue;
        }
        let status = Status::parse(&message.body).map_err(|error| Failure::new(Class::Data, error.to_string()))?;
        if status.status.is_terminal() {
            return Ok(status.status);
        }
    }
}
