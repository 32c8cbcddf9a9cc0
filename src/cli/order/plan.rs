//! How does a controller tell a node how busy its cells are? `neap order load`.

use serde_json::json;

use crate::cli::failure::{Class, Failure};
use crate::cli::out::Out;
use crate::cli::session::{Session, message};
use crate::cli::target::Target;
use crate::link::messages::{LoadPlan, PlannedCell, PlannedUsage};
use crate::sys::clock;
use crate::units::{CellId, WallTime};

/// How long the broker keeps a report for an absent node, in seconds: no node believes an older one by default.
const EXPIRY_S: u32 = 900;

/// Arguments of `neap order load`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Cell number (PCI or NCGI)
    #[arg(long, value_name = "CELL", default_value_t = 1)]
    cell: u64,
    /// Downlink PRB usage in percent (RRU.PrbTotDl)
    #[arg(long, value_name = "PERCENT", value_parser = clap::value_parser!(u8).range(0..=100))]
    prb: Option<u8>,
    /// Uplink PRB usage in percent (RRU.PrbTotUl)
    #[arg(long, value_name = "PERCENT", value_parser = clap::value_parser!(u8).range(0..=100))]
    ul: Option<u8>,
    /// The cell is out of service
    #[arg(long, conflicts_with_all = ["prb", "ul"])]
    gone: bool,
    /// When it was measured, e.g. 2026-11-22T01:00:00Z [default: now]
    #[arg(long, value_name = "TIME", value_parser = WallTime::parse)]
    at: Option<WallTime>,
    /// One JSON object
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    target: Target,
}

pub(super) fn run(args: &Args) -> Result<(), Failure> {
    let usage = match (args.gone, args.prb.or(args.ul)) {
        (true, _) => PlannedUsage::Gone,
        (false, Some(_)) => PlannedUsage::Prb { dl: args.prb, ul: args.ul },
        (false, None) => {
            let text = "nothing to report: give --prb PERCENT, --ul PERCENT or --gone";
            return Err(Failure::new(Class::Usage, text));
        }
    };
    let place = args.target.resolve()?;
    let node = format!("{}/{}", place.topics.site(), place.topics.node());
    let topic = place.topics.load_plan();
    let at = args.at.unwrap_or_else(clock::wall);
    let plan = LoadPlan { at, cells: vec![PlannedCell { cell: CellId(args.cell), usage }] };
    crate::cli::block_on(async {
        let mut session = Session::open(place, Vec::new()).await?;
        let sent = session.send(message(topic, plan.render(), EXPIRY_S)).await;
        session.close().await;
        sent
    })?;
    let out = Out::stdout();
    if args.json {
        return out
            .json(&json!({"node": node, "order": "load", "cell": args.cell, "at": at.to_string(), "sent": true}));
    }
    out.line(&format!("{node}: the broker has the report of cell {} at {at}; nobody answers it", args.cell))
}
