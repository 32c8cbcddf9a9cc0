//! Which jobs does a node know? `neap jobs`.

use serde_json::{Value, json};

use super::failure::{Class, Failure};
use super::out::{Out, clean};
use super::session::Session;
use super::target::Target;
use crate::link::messages::{Command, JobSummary, JobsQuery, Listing, Reply};
use crate::units::JobId;

/// Arguments of `neap jobs`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  neap jobs --node north/cell-17
  neap jobs --node north/cell-17 night-7         one job, with the reason why it waits
  neap jobs --config config/lab.toml --json | jq 'select(.status == \"FAILED\")'")]
pub(super) struct Args {
    /// Only this job
    #[arg(value_name = "JOB")]
    job: Option<JobId>,
    /// At most so many
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=1000))]
    max: u32,
    /// One JSON object a line
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    target: Target,
}

pub(super) fn run(args: &Args) -> Result<(), Failure> {
    let place = args.target.resolve()?;
    let order = match &args.job {
        Some(job) => Command::Describe { job: Some(job.clone()) },
        None => {
            let listing = Listing::Newest;
            Command::Jobs(JobsQuery { max: args.max, listing, open: None, unacknowledged: None })
        }
    };
    let reply = super::block_on(async {
        let state = place.topics.state();
        let mut session = Session::open(place, vec![state]).await?;
        let reply = session.request(&order).await;
        session.close().await;
        reply
    })?;
    let jobs = match reply {
        Reply::Jobs(page) => page.jobs,
        Reply::Job(job) => vec![job],
        Reply::Pong(_) | Reply::Node { .. } | Reply::Result(_) | Reply::Done | Reply::Error(_) => {
            return Err(Failure::new(Class::Data, format!("the node's reply to {} makes no sense", order.name())));
        }
    };
    let out = Out::stdout();
    if args.json {
        return jobs.iter().try_for_each(|job| out.json(&machine(job)));
    }
    if jobs.is_empty() {
        return out.line("no jobs");
    }
    let rows: Vec<Vec<String>> = jobs.iter().map(row).collect();
    out.table(&["JOB", "STATE", "MODEL", "PRIORITY", "DONE", "ATTEMPT", "YIELDS", "CHANGED", "WHY"], &rows)
}

fn row(job: &JobSummary) -> Vec<String> {
    let status = &job.status;
    let why = match (&status.error, &job.waiting) {
        (Some(error), _) => format!("{}: {}", error.code, error.message),
        (None, Some(waiting)) => waiting.clone(),
        (None, None) => status.reason.clone(),
    };
    vec![
        clean(&job.id, 64),
        status.status.as_str().to_owned(),
        clean(&job.model, 40),
        job.priority.to_string(),
        format!("{}/{}", status.progress.done, status.progress.total),
        status.attempt.to_string(),
        status.yields.to_string(),
        status.at.to_string().replace('T', " ").replace('Z', ""),
        clean(&why, 120),
    ]
}

fn machine(job: &JobSummary) -> Value {
    let status = &job.status;
    let error = status
        .error
        .as_ref()
        .map(|error| json!({"code": error.code, "message": error.message, "retryable": error.retryable}));
    json!({
        "id": job.id, "status": status.status.as_str(), "reason": status.reason, "waiting": job.waiting,
        "model": job.model, "priority": job.priority, "deadline": job.deadline.map(|at| at.to_string()),
        "done": status.progress.done, "total": status.progress.total, "attempt": status.attempt,
        "yields": status.yields, "suspended_ms": u64::try_from(status.suspended.as_millis()).unwrap_or(u64::MAX),
        "version": status.version, "at": status.at.to_string(), "error": error,
    })
}
