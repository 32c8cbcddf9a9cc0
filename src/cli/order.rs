//! What is a node told to do? `neap order`: ping, drain, resume, hold, release; and how busy its cells are.

mod plan;

use std::time::Duration;

use clap::Subcommand;
use serde_json::{Value, json};

use super::failure::{Class, Failure};
use super::out::{Out, clean};
use super::session::{REPLY_WAIT, Session};
use super::span::{self, Span};
use super::target::Target;
use crate::link::messages::{Command, NodeState, Pong, Reply};
use crate::sys::clock;

/// Arguments of `neap order`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  neap order ping --node north/cell-17
  neap order drain --config config/lab.toml       before maintenance
  neap order resume --node north/cell-17          after it
  neap order hold --node north/cell-17 --for 30m
  neap order load --node north/cell-17 --prb 71

A drained node takes no new jobs and runs none, until it is resumed or started again. A held one takes jobs and runs
none, until it is released or the time is over. Every order may be given twice.")]
pub(super) struct Args {
    #[command(subcommand)]
    order: Order,
}

#[derive(Debug, Subcommand)]
enum Order {
    /// Asks whether the node answers.
    #[command(after_help = "\
Examples:
  neap order ping --node north/cell-17
  neap order ping --node north/cell-17 --json --timeout 2s")]
    Ping(Common),
    /// Takes no new jobs and runs none; what is unfinished stays and goes on after a resume.
    #[command(after_help = "\
Examples:
  neap order drain --node north/cell-17")]
    Drain(Common),
    /// Ends drain and hold.
    #[command(after_help = "\
Examples:
  neap order resume --node north/cell-17")]
    Resume(Common),
    /// Runs nothing, but takes jobs.
    #[command(after_help = "\
Examples:
  neap order hold --node north/cell-17 --for 30m
  neap order hold --node north/cell-17           until it is released")]
    Hold {
        /// For so long, at most 7d [default: until released or resumed]
        #[arg(long = "for", value_name = "TIME", value_parser = span::positive)]
        span: Option<Span>,
        #[command(flatten)]
        common: Common,
    },
    /// Ends a hold; a drain stays.
    #[command(after_help = "\
Examples:
  neap order release --node north/cell-17")]
    Release(Common),
    /// Reports the load of a cell, as a controller that plans with it does.
    #[command(after_help = "\
Examples:
  neap order load --node north/cell-17 --prb 71 --ul 12
  neap order load --node north/cell-17 --cell 2 --prb 35 --at 2026-11-22T01:00:00Z
  neap order load --node north/cell-17 --cell 2 --gone

The node needs a [[load]] of kind mqtt. A report can only make it busier, for as long as max_age_s says; nobody
answers it.")]
    Load(plan::Args),
}

/// What every order takes.
#[derive(Debug, clap::Args)]
struct Common {
    /// One JSON object
    #[arg(long)]
    json: bool,
    /// Give up after this [default: 10s]
    #[arg(long, value_name = "TIME", value_parser = span::positive)]
    timeout: Option<Span>,
    #[command(flatten)]
    target: Target,
}

impl Order {
    /// What is asked, and of whom; a report of the load is no question.
    fn parts(&self) -> Result<(Command, &Common), &plan::Args> {
        Ok(match self {
            Self::Ping(common) => (Command::Ping, common),
            Self::Drain(common) => (Command::Drain, common),
            Self::Resume(common) => (Command::Resume, common),
            Self::Hold { span, common } => (Command::Hold { span: span.map(|Span(span)| span) }, common),
            Self::Release(common) => (Command::Release, common),
            Self::Load(report) => return Err(report),
        })
    }
}

pub(super) fn run(args: &Args) -> Result<(), Failure> {
    let (order, common) = match args.order.parts() {
        Ok(parts) => parts,
        Err(report) => return plan::run(report),
    };
    let place = common.target.resolve()?;
    let node = format!("{}/{}", place.topics.site(), place.topics.node());
    let wait = common.timeout.map_or(REPLY_WAIT, |Span(span)| span);
    let (reply, took, state) = super::block_on(async {
        let topic = place.topics.state();
        let mut session = Session::open(place, vec![topic.clone()]).await?;
        let asked = clock::now();
        let reply = session.request(&order, wait).await;
        let took = clock::now().since(asked);
        // The broker keeps the last state: it came with the subscription.
        let state = session.latest(&topic).and_then(|message| NodeState::parse(&message.body).ok());
        session.close().await;
        Ok((reply?, took, state))
    })?;
    let out = Out::stdout();
    match reply {
        Reply::Pong(pong) if order == Command::Ping => pinged(&out, common.json, &node, &pong, took, state.as_ref()),
        Reply::Done if order != Command::Ping => {
            if common.json {
                return out.json(&json!({"node": node, "order": order.name(), "done": true}));
            }
            out.line(&format!("{node} {}", done(&order)))
        }
        Reply::Pong(_)
        | Reply::Node { .. }
        | Reply::Job(_)
        | Reply::Jobs(_)
        | Reply::Result(_)
        | Reply::Done
        | Reply::Error(_) => {
            Err(Failure::new(Class::Data, format!("the node's reply to {} makes no sense", order.name())))
        }
    }
}

fn pinged(
    out: &Out,
    as_json: bool,
    node: &str,
    pong: &Pong,
    took: Duration,
    state: Option<&NodeState>,
) -> Result<(), Failure> {
    let (mode, why) = match state {
        Some(NodeState::Online { mode, reason, .. }) => (Value::from(mode.as_str()), reason.as_str()),
        Some(NodeState::Offline { .. }) | None => (Value::Null, ""),
    };
    if as_json {
        let took_ms = took.as_secs_f64() * 1000.0;
        return out.json(&json!({
            "node": node, "order": "ping", "session": pong.session, "version": pong.version,
            "at": pong.at.to_string(), "round_trip_ms": (took_ms * 1000.0).round() / 1000.0, "mode": mode,
        }));
    }
    let mode = match mode.as_str() {
        Some(mode) => format!(", {} ({})", clean(mode, 40), clean(why, 200)),
        None => String::new(),
    };
    out.line(&format!(
        "{node} answers within {:.1} ms: version {}{mode}, its clock shows {}",
        took.as_secs_f64() * 1000.0,
        clean(&pong.version, 40),
        pong.at
    ))
}

/// What an order that was carried out means.
fn done(order: &Command) -> String {
    match order {
        Command::Drain => "drains: it takes no new jobs and runs none until it is resumed".to_owned(),
        Command::Resume => "goes on: no drain and no hold any more".to_owned(),
        Command::Hold { span: None } => "holds: it takes jobs and runs none until it is released".to_owned(),
        Command::Hold { span: Some(span) } => {
            format!("holds: it takes jobs and runs none for {} s, or until it is released", span.as_secs_f64())
        }
        Command::Release => "is released: no hold any more".to_owned(),
        Command::Ping | Command::Describe { .. } | Command::Jobs(_) | Command::Result { .. } => "answers".to_owned(),
    }
}
