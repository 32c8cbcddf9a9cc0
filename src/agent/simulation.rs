//! Does the agent keep its promises whatever happens around it? All of its logic in a simulated world, from a seed.
//!
//! Virtual time: the world jumps from one event to the next. Nothing in it reads a clock, sleeps, or depends on
//! anything but the seed. Around the real core, governor and protocol stand parts that keep the rules of the real ones:
//!
//! * `node`: the daemon's shell, which may be killed between any two acts.
//! * `wire`, `broker`: client and connection, sessions, redelivery, Wills; a broker that loses its memory.
//! * `disk`: the store's thread. What it had not made durable is gone with the agent.
//! * `radio`, `crew`: load before the real governor; workers whose CPU time passes only while its budget lets it.
//! * `controller`: submits, takes back, acknowledges, and asks again for what it has not heard of.
//! * `scenario`: what happens in this world. Faults for a while, then none: then everything must drain.
//! * `audit`: the promises, checked with every step:
//!   1. What was accepted ends once, with one result, and whoever hears of it hears the same bytes.
//!   2. Versions of a job rise, stored and told; one version is told in one way; what has ended never changes.
//!   3. A message is acknowledged after what it asked for is durable.
//!   4. No job runs that is not durable as started, none beyond its attempts, no item again that is journalled.
//!   5. Nothing is started, and nothing computes, while the budget forbids it.
//!   6. Every queue keeps within its limit; no timer rings in vain for ever.
//!   7. After the faults everything drains, and the controller has every result.
//!
//! `NEAP_SEED=n cargo test --lib agent::simulation` plays one world and prints all of it.

mod audit;
mod broker;
mod controller;
mod crew;
mod disk;
mod node;
mod radio;
mod scenario;
mod tests;
mod trace;
mod wire;
mod world;

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use self::scenario::{S, Scenario, WALL_AT_BEGIN};
pub(super) use self::world::World;
use super::core::Terms;
use super::desk::Settings;
use super::keeper::Request;
use crate::jobs::job::Limits;
use crate::jobs::store::Batch;
use crate::link::messages::LimitPolicy;
use crate::link::topics::Topics;
use crate::link::{Event, Publish};
use crate::model::library::Library;
use crate::units::{Digest, Instant, PACKET_BYTES_MAX, WallTime};

/// The monotonic clock at the begin of every world.
const BEGIN: Instant = Instant::from_nanos(1_000_000_000_000);

fn since_begin(now: Instant) -> Duration {
    now.since(BEGIN)
}

fn wall(now: Instant) -> WallTime {
    WALL_AT_BEGIN.after(since_begin(now))
}

fn topics() -> Topics {
    let name = |text: &str| text.parse().expect("letters");
    Topics::new("neap", name("north"), name("n")).expect("letters")
}

/// One model, made once for all worlds.
fn library() -> Arc<Library> {
    static LIBRARY: OnceLock<Arc<Library>> = OnceLock::new();
    Arc::clone(LIBRARY.get_or_init(|| {
        use sha2::Digest as _;
        let root = tempfile::tempdir().expect("a folder for the model");
        let folder = root.path().join("m");
        std::fs::create_dir_all(&folder).expect("a folder for the model");
        std::fs::write(folder.join("m.onnx"), b"a network").expect("a file for the model");
        let manifest = format!(
            "name = \"m\"\nversion = 1\nsummary = \"s\"\nlicence = \"l\"\nsource = \"s\"\nfile = \"m.onnx\"\ndigest = \
             \"{}\"\ninputs = [{{ name = \"x\", datatype = \"FP32\", shape = [1] }}]\noutputs = [{{ name = \"y\", \
             datatype = \"FP32\", shape = [1] }}]\n",
            Digest(sha2::Sha256::digest(b"a network").into())
        );
        std::fs::write(folder.join("model.toml"), manifest).expect("a file for the model");
        let library = Library::open(root.path()).expect("the folder is there");
        assert_eq!(library.problems(), []);
        Arc::new(library)
    }))
}

fn settings(scenario: &Scenario) -> Settings {
    let limits = Limits { wall: 10 * S, memory_bytes: 1 << 20, attempts: 3, output_bytes: 1 << 16 };
    let maxima = Limits { wall: 100 * S, memory_bytes: 1 << 30, attempts: 10, output_bytes: 1 << 20 };
    Settings {
        capacity: scenario.capacity,
        limits: LimitPolicy { defaults: limits, maxima, body_bytes_max: PACKET_BYTES_MAX },
        evict_after: scenario.evict_after,
        retention: 24 * 3600 * S,
        admission: scenario.admission,
    }
}

fn terms() -> Terms {
    Terms { topics: topics(), dead_man: S, memory_calm: 3 * S, plan_age_max: None }
}

// ---- words of the trace ----

fn words(event: &Event) -> String {
    match event {
        Event::Up { epoch, session_present, .. } => format!("link: up, epoch {epoch}, session {session_present}"),
        Event::Down { .. } => "link: down".to_owned(),
        Event::Received(received) => {
            let (message, ack) = (&received.message, received.ack);
            let ack = ack.map_or_else(|| "-".to_owned(), |ack| format!("{}/{}", ack.epoch, ack.packet));
            format!("link: {ack} {}{}", tail(&message.topic), if message.retain { " (retained)" } else { "" })
        }
        Event::Delivered { token } => format!("link: {token} is delivered"),
        Event::Refused { token, .. } => format!("link: {token} is refused"),
        Event::Closed => "link: closed".to_owned(),
    }
}

fn tail(topic: &str) -> &str {
    topic.strip_prefix("neap/v1/north/").unwrap_or(topic)
}

fn asked(request: &Request) -> String {
    match request {
        Request::Commit { ticket, batch } => format!("  → store: ticket {ticket}: {}", summary(batch)),
        Request::Fetch { id, slot } => format!("  → store: fetch {id} for slot {slot}"),
        Request::Outbox { after, max } => format!("  → store: outbox after {after}, at most {max}"),
        Request::Result { id, reply } => format!("  → store: result of {id} for reply {reply}"),
    }
}

fn summary(batch: &Batch) -> String {
    let jobs = batch.jobs.iter().map(|job| format!("{} v{} {:?} ({})", job.id, job.version, job.state, job.reason));
    let items = batch.items.iter().map(|(id, item, _)| format!("item {item} of {id}"));
    let results = batch.results.iter().map(|(id, _)| format!("result of {id}"));
    let told = batch.messages.iter().chain(&batch.droppable).map(|message| format!("tell {}", tail(&message.topic)));
    let delivered = (!batch.delivered.is_empty()).then(|| format!("delivered {:?}", batch.delivered));
    let dropped = batch.drop_results.iter().map(|id| format!("drop result of {id}"));
    jobs.chain(items).chain(results).chain(told).chain(delivered).chain(dropped).collect::<Vec<_>>().join(", ")
}

fn told(token: Option<u64>, message: &Publish) -> String {
    let token = token.map_or_else(|| "-".to_owned(), |token| token.to_string());
    format!("  → link: {token} {}", tail(&message.topic))
}
