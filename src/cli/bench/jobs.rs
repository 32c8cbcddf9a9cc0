//! How many jobs a second does a node accept for good? Durable jobs through a real broker, against what the broker and
//! the client can do at all.
//!
//! A Mosquitto on loopback, the real agent with its state on a real file system, one client on the project's own link.
//! Rounds alternate: in one the client publishes to itself (QoS 1, the round trip that any message costs), in the other
//! it submits jobs and waits for the status that says that they are durable. The ratio of the two is what durability
//! costs. Nothing runs meanwhile: the agent hears of no load, so it calls itself blind and keeps all jobs queued.
//!
//! Then jobs go in one at a time, between bare syncs of the same file system; and in the end the agent is started again
//! with all of them in its store.

mod client;
mod figures;
mod rig;

use std::path::PathBuf;
use std::time::Duration;

use super::machine::Machine;
use super::progress::Progress;
use super::{go_on, keep_interrupt};
use crate::cli::failure::{Class, Failure};
use crate::cli::out::Out;
use crate::sys::signal::Interrupt;

use client::Client;
use figures::Figures;
use rig::Rig;

/// Rounds of each kind.
const ROUNDS: u32 = 4;
/// Blocks of jobs that go in one at a time, and of bare syncs between them.
const BLOCKS: u32 = 5;
/// Most jobs that may be asked for: the node knows no more, and the single ones come besides.
const JOBS_MAX: i64 = 40_000;

/// Arguments of `neap bench jobs`.
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = "\
Examples:
  neap bench jobs
  neap bench jobs --dir /var/lib            on the file system that the agent's state is on
  neap bench jobs --json --jobs 20000
  neap bench jobs --window 16               with fewer messages on their way at once

accepted_per_s counts jobs that are durable and whose `accepted` status has arrived; raw_qos1_per_s counts QoS 1
messages that the same client publishes to itself through the same broker. accept_p50_us is the time from one submit to
its status with nothing else on its way, fdatasync_p50_us that of an append of 4 KiB and its sync on the same file system.
start_to_ready_ms is the median time from the agent's start to READY=1 with all the jobs in its store.
It needs mosquitto on PATH, and takes less than a minute.")]
pub(in crate::cli) struct Args {
    /// Print one JSON object
    #[arg(long)]
    json: bool,
    /// Folder in which the agent's state lies while the bench runs [default: that for temporary files]
    #[arg(long, value_name = "FOLDER")]
    dir: Option<PathBuf>,
    /// Jobs that are submitted as fast as they are accepted, and that are there at the starts
    #[arg(long, value_name = "N", default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(20..=JOBS_MAX))]
    jobs: u32,
    /// Jobs that are submitted one at a time
    #[arg(long, value_name = "N", default_value_t = 500, value_parser = clap::value_parser!(u32).range(10..=5_000))]
    single: u32,
    /// Messages that the client has on their way at once, in both kinds of rounds
    #[arg(long, value_name = "N", default_value_t = 256, value_parser = clap::value_parser!(u32).range(1..=1_024))]
    window: u32,
    /// Starts of the agent with all jobs in its store
    #[arg(long, value_name = "N", default_value_t = 7, value_parser = clap::value_parser!(u32).range(1..=50))]
    starts: u32,
}

pub(in crate::cli) fn run(args: &Args) -> Result<(), Failure> {
    let interrupt = keep_interrupt()?;
    let machine = Machine::begin();
    // One step for each round and block, and for each start.
    let mut progress = Progress::begin(u64::from(2 * ROUNDS + BLOCKS + args.starts));
    progress.at(0, "starting broker and agent");
    let parent = args.dir.clone().unwrap_or_else(std::env::temp_dir);
    let mut rig = Rig::build(&parent)?;
    let mut figures = Figures { window: args.window, filesystem: rig.filesystem(), ..Figures::default() };
    rig.start_agent(&interrupt)?;
    crate::cli::block_on(async {
        let mut client = Client::connect(&rig, &interrupt).await?;
        streams(args, &mut client, &mut progress, &mut figures).await?;
        singles(args, &mut client, &rig, &mut progress, &mut figures).await?;
        client.close().await;
        Ok(())
    })?;
    figures.jobs_in_store = u64::from(args.jobs + args.single);
    rig.stop_agent()?;
    for start in 0..args.starts {
        progress.at(u64::from(2 * ROUNDS + BLOCKS + start), "starting the agent with all jobs in its store");
        figures.starts.push(rig.start_agent(&interrupt)?);
        rig.stop_agent()?;
    }
    progress.end();
    tell(args, &figures, &machine)
}

/// As fast as it goes: rounds of plain messages and rounds of jobs, in turn.
async fn streams(
    args: &Args,
    client: &mut Client<'_>,
    progress: &mut Progress,
    figures: &mut Figures,
) -> Result<(), Failure> {
    for round in 0..ROUNDS {
        let count = args.jobs / ROUNDS + u32::from(round < args.jobs % ROUNDS);
        progress.at(u64::from(2 * round), "publishing plain messages");
        figures.raw.add(count, client.echo(count, args.window).await?);
        progress.at(u64::from(2 * round + 1), "submitting jobs");
        figures.accepted.add(count, client.submit(count, args.window).await?);
    }
    Ok(())
}

/// One at a time: blocks of bare syncs and blocks of jobs, in turn.
async fn singles(
    args: &Args,
    client: &mut Client<'_>,
    rig: &Rig,
    progress: &mut Progress,
    figures: &mut Figures,
) -> Result<(), Failure> {
    for block in 0..BLOCKS {
        progress.at(u64::from(2 * ROUNDS + block), "submitting jobs one at a time");
        let count = args.single / BLOCKS + u32::from(block < args.single % BLOCKS);
        rig.time_syncs(count, &mut figures.syncs)?;
        for _ in 0..count {
            figures.single.record(client.submit(1, 1).await?);
        }
    }
    Ok(())
}

fn tell(args: &Args, figures: &Figures, machine: &Machine) -> Result<(), Failure> {
    let facts = machine.end(vec![
        ("file system", figures.filesystem.clone()),
        ("broker", "mosquitto, no persistence, max_inflight_messages without limit".to_owned()),
        ("window", args.window.to_string()),
    ]);
    let out = Out::stdout();
    if args.json {
        return out.json(&figures.json(&facts));
    }
    figures.tell(&out)
}

/// Waits for something that must happen within a time, and for nothing else: an interrupt ends it.
fn wait_for<T>(
    what: &str,
    longest: Duration,
    interrupt: &Interrupt,
    mut look: impl FnMut() -> Result<Option<T>, Failure>,
) -> Result<T, Failure> {
    let until = crate::sys::clock::now().after(longest);
    loop {
        if let Some(found) = look()? {
            return Ok(found);
        }
        go_on(interrupt)?;
        if crate::sys::clock::now() >= until {
            let text = format!("{what} took more than {} s; is the machine overloaded?", longest.as_secs());
            return Err(Failure::new(Class::TemporaryFailure, text));
        }
    }
}
