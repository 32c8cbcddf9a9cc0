//! What came of a job? `neap result`.

use tokio::time::timeout;

use super::failure::{Class, Failure};
use super::follow;
use super::out::Out;
use super::session::{self, REPLY_WAIT, Session};
use super::show;
use super::span::{self, Span};
use super::target::Target;
use crate::link::messages::{Command, Outcome, Reply, parse_result};
use crate::link::reconcile::ROUND_EVERY;
use crate::units::JobId;

/// Arguments of `neap result`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  neap result --node north/cell-17 night-7
  neap result --node north/cell-17 night-7 --json > night-7.json
  neap result --node north/cell-17 night-7 --forget      and let the node delete it
  neap result --node north/cell-17 night-7 --wait --timeout 6h      as soon as it is there

A node keeps results for its retention_h. A job that is still waiting or running has none yet: exit code 65, unless
--wait is given. When connection, broker or node fail, the node is asked again until the time is over.")]
pub(super) struct Args {
    /// Identity of the job
    #[arg(value_name = "JOB")]
    job: JobId,
    /// The result as the node sent it: an Open Inference Protocol v2 response
    #[arg(long)]
    json: bool,
    /// Tell the node that the result has arrived and may be deleted
    #[arg(long)]
    forget: bool,
    /// Wait for the job to end, and show progress
    #[arg(long)]
    wait: bool,
    /// With --wait: when nothing is heard, ask the node this often [default: 10s]
    #[arg(long, value_name = "TIME", value_parser = span::round, requires = "wait")]
    ask_every: Option<Span>,
    /// Give up after this [default: 10s, with --wait: never]
    #[arg(long, value_name = "TIME", value_parser = span::positive)]
    timeout: Option<Span>,
    #[command(flatten)]
    target: Target,
}

pub(super) fn run(args: &Args) -> Result<(), Failure> {
    let place = args.target.resolve()?;
    super::block_on(async {
        let topics = &place.topics;
        let filters = match args.wait {
            true => vec![topics.state(), topics.job(&args.job), topics.result(&args.job)],
            false => vec![topics.state()],
        };
        let mut session = Session::open(place, filters).await?;
        let done = if args.wait { wait(args, &mut session).await } else { fetch(args, &mut session).await };
        session.close().await;
        done
    })
}

/// The result, whenever it comes.
async fn wait(args: &Args, session: &mut Session) -> Result<(), Failure> {
    let ask_every = args.ask_every.map_or(ROUND_EVERY, |Span(span)| span);
    let wanted = follow::Wanted { id: &args.job, submit: None, to_the_end: true, ask_every };
    let mut seen = follow::Seen::default();
    let followed = async { follow::until(session, &wanted, &mut seen).await };
    match args.timeout {
        None => followed.await?,
        Some(Span(span)) => match timeout(span, followed).await {
            Ok(done) => done?,
            Err(_) => return Err(seen.unfinished(&args.job, span)),
        },
    }
    seen.finish(&Out::stdout(), args.json, session, &args.job, args.forget).await
}

/// The result that is there now.
async fn fetch(args: &Args, session: &mut Session) -> Result<(), Failure> {
    let wait = args.timeout.map_or(REPLY_WAIT, |Span(span)| span);
    let Reply::Result(body) = session.request(&Command::Result { job: args.job.clone() }, wait).await? else {
        return Err(Failure::new(Class::Data, "the node's reply to result makes no sense"));
    };
    let out = Out::stdout();
    if args.json {
        show::raw(&out, &body)?;
    } else {
        show::result(&out, &body)?;
    }
    // Only what has been printed may be forgotten.
    if args.forget {
        session.send_bare(session.topics.ack(&args.job)).await?;
    }
    match parse_result(&body) {
        Ok(Outcome::Done(_)) => Ok(()),
        Ok(Outcome::Error(error)) if args.json => Err(Failure::told(session::failed(&error).class)),
        Ok(Outcome::Error(error)) => Err(session::failed(&error)),
        Err(error) => Err(Failure::new(Class::Data, error.to_string())),
    }
}
