//! What happens on the nodes right now? `neap watch`.

mod news;
mod view;

use serde_json::json;
use tokio::time::timeout;

use super::failure::Failure;
use super::out::Out;
use super::session::Session;
use super::span::{self, Span};
use super::target::Target;
use crate::sys::clock;
use news::News;
use view::View;

/// Arguments of `neap watch`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  neap watch --node north/cell-17              one node
  neap watch --node north/cell-17 --site       every node of its site
  neap watch --config config/lab.toml --for 60s
  neap watch --node north/cell-17 --json | jq 'select(.kind == \"event\")'

On a terminal the nodes stay at the bottom and what happens scrolls above them; in a pipe there is
one line for each event. With --json each line is {\"at\",\"node\",\"kind\",\"job\",\"body\"}: the message
as the node sent it, kind being state, info, job, result, event, load or metrics.")]
pub(super) struct Args {
    /// Every node of the site
    #[arg(long)]
    site: bool,
    /// End after this, e.g. 60s [default: when interrupted]
    #[arg(long = "for", alias = "seconds", value_name = "TIME", value_parser = span::seconds)]
    lasting: Option<Span>,
    /// Messages as the nodes sent them, one JSON object a line
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    target: Target,
}

pub(super) fn run(args: &Args) -> Result<(), Failure> {
    let place = args.target.resolve()?;
    let filter = if args.site { place.topics.site_filter() } else { place.topics.up_filter() };
    super::block_on(async {
        let mut session = Session::open(place, vec![filter]).await?;
        let watched = watch(args.json, &mut session);
        let done = match args.lasting {
            Some(Span(lasting)) => timeout(lasting, watched).await.unwrap_or(Ok(())),
            None => watched.await,
        };
        session.close().await;
        done
    })
}

async fn watch(as_json: bool, session: &mut Session) -> Result<(), Failure> {
    let out = Out::stdout();
    let mut view = (!as_json).then(|| View::open(&out));
    loop {
        let message = session.next().await?;
        let Some((node, up)) = session.topics.parse_up(&message.topic) else { continue };
        let now = clock::wall().to_string();
        match &mut view {
            Some(view) => view.show(&now, node.as_str(), &News::read(&up, &message.body))?,
            None => out.json(&json!({
                "at": now, "node": node.as_str(), "kind": news::kind(&up), "job": news::job(&up),
                "body": news::body(&message.body),
            }))?,
        }
    }
}
