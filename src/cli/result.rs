//! What came of a job? `neap result`.

use super::failure::{Class, Failure};
use super::out::Out;
use super::session::{self, Session};
use super::show;
use super::target::Target;
use crate::link::messages::{Command, Outcome, Reply, parse_result};
use crate::units::JobId;

/// Arguments of `neap result`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  neap result --node north/cell-17 night-7
  neap result --node north/cell-17 night-7 --json > night-7.json
  neap result --node north/cell-17 night-7 --forget      and let the node delete it

A node keeps results for its retention_h. A job that is still waiting or running has none yet: exit code 65.")]
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
    #[command(flatten)]
    target: Target,
}

pub(super) fn run(args: &Args) -> Result<(), Failure> {
    let place = args.target.resolve()?;
    super::block_on(async {
        let state = place.topics.state();
        let mut session = Session::open(place, vec![state]).await?;
        let done = fetch(args, &mut session).await;
        session.close().await;
        done
    })
}

async fn fetch(args: &Args, session: &mut Session) -> Result<(), Failure> {
    let Reply::Result(body) = session.request(&Command::Result { job: args.job.clone() }).await? else {
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
