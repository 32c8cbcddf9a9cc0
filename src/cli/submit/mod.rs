//! Sends a job to a node: `neap submit`.

mod inputs;

use std::path::PathBuf;
use std::time::Duration;

use serde_json::json;
use sha2::Digest as _;
use tokio::time::timeout;

use super::failure::{Class, Failure};
use super::follow;
use super::out::Out;
use super::session::{Session, message};
use super::span::{self, Span};
use super::target::Target;
use crate::jobs::job::{ModelRef, State};
use crate::link::Publish;
use crate::link::messages::{self, Body, Draft, LimitsDraft, Rendered, render_submit};
use crate::link::reconcile::ROUND_EVERY;
use crate::sys::clock;
use crate::units::{Digest, JobId, Name, PACKET_BYTES_MAX};

/// How long a job without deadline waits at the broker for its node, in seconds.
const EXPIRY_S: u32 = 24 * 3600;
/// Longest wait for the node's first word about a job.
const ANSWER_WAIT: Duration = Duration::from_secs(10);

/// Arguments of `neap submit`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  neap submit --node north/cell-17 --model objects --input picture.jpg --wait
  neap submit --node north/cell-17 --model objects --input *.jpg --wait --json
  neap submit --config config/lab.toml --model prb-forecast --input load.json --deadline-in 6h
  neap submit --node north/cell-17 job.json               a whole job, as the protocol has it
  neap submit --node north/cell-17 --id night-7 job.json  with an id: sending it twice is harmless

A picture, sound or other file becomes a BYTES tensor, as the model takes it; a .json file is an Open Inference
Protocol v2 request. Several inputs become the items of one job.
Without --wait the command ends when the node has accepted or rejected the job: neap result JOB shows the rest.
With it nothing is lost on the way: when the connection or the broker fails, the node is asked how the job stands, the
result is fetched from it, and a job that it never got is sent again under its id, which never runs one twice.")]
pub(super) struct Args {
    /// A job in JSON, - for standard input
    #[arg(value_name = "FILE", required_unless_present = "model", conflicts_with = "model")]
    job: Option<PathBuf>,
    #[command(flatten)]
    draft: DraftArgs,
    /// Identity of the job [default: a new UUIDv7]
    #[arg(long, value_name = "ID")]
    id: Option<JobId>,
    /// Wait for the result, show progress and print the result
    #[arg(long)]
    wait: bool,
    /// Give up waiting after this, e.g. 10m; the job goes on [default: 10s for the first answer, --wait: never]
    #[arg(long, value_name = "TIME", value_parser = span::positive)]
    timeout: Option<Span>,
    /// When nothing is heard, ask the node this often [default: 10s]
    #[arg(long, value_name = "TIME", value_parser = span::round, requires = "wait")]
    ask_every: Option<Span>,
    /// Once the result is printed, tell the node that it may delete it
    #[arg(long, requires = "wait")]
    forget: bool,
    /// The result, or without --wait the job's status, as JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    target: Target,
}

/// A job put together from arguments.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Job")]
struct DraftArgs {
    /// Model by name
    #[arg(long, value_name = "NAME", requires = "input")]
    model: Option<Name>,
    /// Picture, sound, any file, or a .json request; several make a batch
    #[arg(long, value_name = "FILE", num_args = 1.., requires = "model")]
    input: Vec<PathBuf>,
    /// Version of the model [default: the highest installed]
    #[arg(long, value_name = "N", requires = "model")]
    version: Option<u32>,
    /// Only this file of the model: sha256:...
    #[arg(long, requires = "model")]
    digest: Option<Digest>,
    /// Tensor that takes the files [default: as the node says, else by file name]
    #[arg(long, value_name = "NAME", requires = "model")]
    tensor: Option<String>,
    /// 0 to 9, higher goes first
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u8).range(0..=9), requires = "model")]
    priority: u8,
    /// The result is worthless after this, e.g. 6h
    #[arg(long, value_name = "TIME", value_parser = span::positive, requires = "model")]
    deadline_in: Option<Span>,
    /// Not to be started before this has passed, e.g. 30m
    #[arg(long, value_name = "TIME", value_parser = span::positive, requires = "model")]
    start_in: Option<Span>,
    /// Limit of the running time, stops excluded, e.g. 10m
    #[arg(long, value_name = "TIME", value_parser = span::positive, requires = "model")]
    wall: Option<Span>,
    /// The network's own outputs instead of labels and boxes
    #[arg(long, requires = "model")]
    raw: bool,
}

pub(super) fn run(args: &Args) -> Result<(), Failure> {
    let id = match &args.id {
        Some(id) => id.clone(),
        None => messages::new_id().parse().map_err(|error| Failure::new(Class::Software, format!("{error}")))?,
    };
    // Whatever can be found wrong here is found before anything is sent.
    let files = args.draft.model.is_some().then(|| inputs::read(&args.draft.input)).transpose()?;
    let whole = args.job.as_deref().map(inputs::whole_job).transpose()?;
    let place = args.target.resolve()?;
    super::block_on(async {
        let topics = place.topics.clone();
        let filters = [topics.job(&id), topics.result(&id), topics.state(), topics.info(), topics.event()];
        let mut session = Session::open(place, filters.to_vec()).await?;
        let rendered = match (files, whole) {
            (Some(files), _) => {
                let tensor = match &args.draft.tensor {
                    Some(tensor) => Some(tensor.clone()),
                    None => inputs::accepted_tensor(&mut session, &args.draft.wanted()?, &files).await,
                };
                args.draft.render(&files, tensor.as_deref())?
            }
            (None, Some(body)) => plain(body),
            (None, None) => return Err(Failure::new(Class::Usage, "give a job file, or --model and --input")),
        };
        let done = deliver(args, &mut session, &id, rendered).await;
        session.close().await;
        done
    })
}

fn plain(body: Vec<u8>) -> Rendered {
    Rendered { body, content_type: messages::JSON.to_owned(), properties: Vec::new() }
}

impl DraftArgs {
    fn wanted(&self) -> Result<ModelRef, Failure> {
        let name = self.model.clone().ok_or_else(|| Failure::new(Class::Usage, "--model is missing"))?;
        Ok(ModelRef { name, version: self.version, digest: self.digest })
    }

    fn render(&self, files: &[inputs::Input], tensor: Option<&str>) -> Result<Rendered, Failure> {
        let mut items: Vec<_> = files.iter().map(|file| file.request(tensor)).collect();
        if self.raw {
            items.iter_mut().for_each(|item| item.interpret = false);
        }
        let now = clock::wall();
        let mut draft = Draft::new(self.wanted()?, items);
        draft.priority = self.priority;
        draft.deadline = self.deadline_in.map(|Span(span)| now.after(span));
        draft.not_before = self.start_in.map(|Span(span)| now.after(span));
        draft.limits = LimitsDraft { wall: self.wall.map(|Span(span)| span), ..LimitsDraft::default() };
        let rendered = render_submit(&draft, true);
        // The node would refuse it as well; here nothing has been sent for it yet.
        let header_bytes = rendered.properties.iter().find_map(|(_, value)| value.parse().ok());
        let body = Body { bytes: &rendered.body, content_type: Some(&rendered.content_type), header_bytes };
        Draft::parse(&body, PACKET_BYTES_MAX)?;
        Ok(rendered)
    }
}

/// Publishes the job and follows it as far as was asked for.
async fn deliver(args: &Args, session: &mut Session, id: &JobId, rendered: Rendered) -> Result<(), Failure> {
    let expiry_s =
        args.draft.deadline_in.map_or(EXPIRY_S, |Span(span)| u32::try_from(span.as_secs()).unwrap_or(u32::MAX));
    let message = Publish {
        content_type: Some(rendered.content_type),
        properties: rendered.properties,
        ..message(session.topics.submit(id), rendered.body, expiry_s.max(1))
    };
    let wait = args.timeout.map(|Span(span)| span).or((!args.wait).then_some(ANSWER_WAIT));
    let ask_every = args.ask_every.map_or(ROUND_EVERY, |Span(span)| span);
    let digest = Digest(sha2::Sha256::digest(&message.body).into());
    let wanted = follow::Wanted { id, submit: Some((&message, digest)), to_the_end: args.wait, ask_every };
    let mut seen = follow::Seen::default();
    let followed = async { follow::until(session, &wanted, &mut seen).await };
    let elapsed = match wait {
        Some(wait) => timeout(wait, followed).await.map_err(|_| wait),
        None => Ok(followed.await),
    };
    match elapsed {
        Ok(done) => done?,
        Err(wait) => return Err(seen.unfinished(id, wait)),
    }
    let out = Out::stdout();
    if args.wait {
        return seen.finish(&out, args.json, session, id, args.forget).await;
    }
    match seen.status {
        Some(ref status) if args.json => {
            out.json(&json!({"id": id.as_str(), "status": status.status.as_str(), "reason": status.reason}))?
        }
        Some(ref status) if status.status != State::Rejected => {
            out.line(&format!("{id} {} ({})", status.status.as_str(), super::out::clean(&status.reason, 200)))?;
        }
        Some(_) | None => {}
    }
    seen.failure().map_or(Ok(()), Err)
}
