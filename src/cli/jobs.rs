//! Which jobs does a node know? `neap jobs`.

use std::cmp::Reverse;
use std::time::Duration;

use serde_json::{Value, json};

use super::failure::{Class, Failure};
use super::out::{Out, clean};
use super::session::{REPLY_WAIT, Session};
use super::span::{self, Span};
use super::target::Target;
use crate::link::messages::{Command, JobSummary, JobsQuery, Listing, Reply};
use crate::units::{JOBS_MAX, JobId};

/// So many jobs always fit one reply; more are asked for page by page.
const ONE_REPLY: u32 = 100;
/// Jobs on one page.
const PAGE: u32 = 500;

/// Arguments of `neap jobs`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  neap jobs --node north/cell-17
  neap jobs --node north/cell-17 night-7         one job, with the reason why it waits
  neap jobs --node north/cell-17 --max 0         all of them
  neap jobs --node north/cell-17 --unacknowledged --max 0 --json      every result that waits to be fetched
  neap jobs --config config/lab.toml --json | jq 'select(.status == \"FAILED\")'

Unfinished jobs come first, then those that changed last. Why a job waits is told of one job, or of at most 100.")]
pub(super) struct Args {
    /// Only this job
    #[arg(value_name = "JOB")]
    job: Option<JobId>,
    /// At most so many; 0 for all
    #[arg(long, value_name = "N", default_value_t = ONE_REPLY,
        value_parser = clap::value_parser!(u32).range(0..=JOBS_MAX as i64))]
    max: u32,
    /// Only unfinished jobs
    #[arg(long, conflicts_with = "job")]
    open: bool,
    /// Only jobs that have ended and whose result nobody has acknowledged; with --open both
    #[arg(long, conflicts_with = "job")]
    unacknowledged: bool,
    /// One JSON object a line
    #[arg(long)]
    json: bool,
    /// Give up when the node has not answered for this long [default: 10s]
    #[arg(long, value_name = "TIME", value_parser = span::positive)]
    timeout: Option<Span>,
    #[command(flatten)]
    target: Target,
}

pub(super) fn run(args: &Args) -> Result<(), Failure> {
    let place = args.target.resolve()?;
    let jobs = super::block_on(async {
        let state = place.topics.state();
        let mut session = Session::open(place, vec![state]).await?;
        let jobs = fetch(args, &mut session).await;
        session.close().await;
        jobs
    })?;
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

async fn fetch(args: &Args, session: &mut Session) -> Result<Vec<JobSummary>, Failure> {
    let wait = args.timeout.map_or(REPLY_WAIT, |Span(span)| span);
    if let Some(job) = &args.job {
        let order = Command::Describe { job: Some(job.clone()) };
        return match session.request(&order, wait).await? {
            Reply::Job(job) => Ok(vec![job]),
            Reply::Pong(_) | Reply::Node { .. } | Reply::Jobs(_) | Reply::Result(_) | Reply::Done | Reply::Error(_) => {
                Err(nonsense(&order))
            }
        };
    }
    let some = |flag: bool| flag.then_some(true);
    let (open, unacknowledged) = (some(args.open), some(args.unacknowledged));
    if (1..=ONE_REPLY).contains(&args.max) {
        let query = JobsQuery { max: args.max, listing: Listing::Newest, open, unacknowledged };
        return Ok(page(session, query, wait).await?.0);
    }
    let mut jobs: Vec<JobSummary> = Vec::new();
    let mut after = None;
    loop {
        let query = JobsQuery { max: PAGE, listing: Listing::ById { after: after.clone() }, open, unacknowledged };
        let (found, more) = page(session, query, wait).await?;
        let last = found.last().and_then(|job| job.id.parse::<JobId>().ok());
        jobs.extend(found);
        // A page that leads nowhere ends it as well, and so does a node that knows more than a node may.
        if !more || last.is_none() || last <= after || jobs.len() > JOBS_MAX {
            break;
        }
        after = last;
    }
    jobs.sort_by_key(|job| (job.status.status.is_terminal(), Reverse(job.status.at)));
    if args.max > 0 {
        jobs.truncate(args.max as usize);
    }
    Ok(jobs)
}

async fn page(session: &mut Session, query: JobsQuery, wait: Duration) -> Result<(Vec<JobSummary>, bool), Failure> {
    let order = Command::Jobs(query);
    match session.request(&order, wait).await? {
        Reply::Jobs(page) => Ok((page.jobs, page.more)),
        Reply::Pong(_) | Reply::Node { .. } | Reply::Job(_) | Reply::Result(_) | Reply::Done | Reply::Error(_) => {
            Err(nonsense(&order))
        }
    }
}

fn nonsense(order: &Command) -> Failure {
    Failure::new(Class::Data, format!("the node's reply to {} makes no sense", order.name()))
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
        "result_kept": job.result_kept, "version": status.version, "at": status.at.to_string(), "error": error,
    })
}
