//! Neap runs AI inference at the low tide of a base station's load.
//!
//! One daemon, `neap run`, watches how busy the baseband is, runs ONNX jobs in worker processes while it is idle,
//! stops them within microseconds when the load rises, and takes work and reports over MQTT 5.
//! Words are used as the field uses them: a *job* is one request, an *attempt* one run of it, a *trough* the span in
//! which it may run, a *yield* the whole act of giving way.
//!
//! # The map, in reading order
//!
//! Shared vocabulary, importable by everybody:
//! * [`units`]: what do the numbers mean? Identifiers, time, load, and every limit.
//! * [`tensor`]: what goes into a model and what comes out?
//! * [`fault`]: what went wrong, under which stable code, and can trying again help?
//! * [`model`]: what is a model? Its manifest, and the folder of all models.
//! * [`trust`]: who may say what? Keys, signed envelopes, and whether a signature is to be believed.
//! * [`sys`]: the system calls and the clocks; the only home of unsafe code.
//!
//! Decisions, pure: no clock, no I/O, no async, no serde:
//! * [`governor`]: may inference run now, and on how many cores?
//! * [`jobs`]: what work is there, and what became of it? States, order, and the durable store.
//!
//! The world, each folder one outside thing:
//! * [`load`]: how busy is the radio? One file per source, and how they are joined.
//! * [`worker`]: who computes? Worker processes, the gate that stops them, the engine.
//! * [`link`]: how does the node talk to its controller? Topics, messages, the MQTT client.
//!
//! Where they meet:
//! * [`sentinel`]: the thread that joins load → governor → gate; the yield path.
//! * [`ledger`]: how fast were the yields, and what delayed the slow ones? Pure.
//! * [`telemetry`]: tracing, and limits for log lines.
//! * [`config`]: TOML → checked settings of each module; the one place with defaults.
//! * [`agent`]: builds the parts, joins them with bounded channels, orders the shutdown.
//! * [`cli`]: what can a person type? One file per subcommand.
//! * [`sim`]: the simulated world: clock, load curves, RAN emulator, broker.
//!
//! # Dependency rule
//!
//! The world never reaches into a decision, and a decision never reaches into the world: methods take `now` and data,
//! outputs are data, a thin shell acts and confirms back. `tests/architecture.rs` holds these invariants:
//!
//! 1. `governor` imports `units` and nothing else. It reads no clock; every input carries `now`.
//! 2. The folders of the world do not import one another (one exception: `link` turns messages into `jobs` types). They meet only in `agent` and `sentinel`.
//! 3. Nobody imports `config` except `agent` and `cli`; modules own their settings struct, `config` fills it.
//! 4. Domain types are not wire types: serde derives appear only at the edges.
//! 5. `tract` is named only in `worker/infer.rs`, `rumqttc` only in `link/mqtt.rs`, `sysinfo` only in `load/host.rs`, `unsafe` only in `sys/`.
//! 6. Missing, late or malformed load data means busy.
//! 7. Every queue, buffer, file, message, retry and log line rate has a limit.
//!
//! # The life of a job
//!
//! 1. A controller publishes a submit. [`link`] parses it into `jobs` types; a bad one is answered with a fault code.
//! 2. [`jobs`] admits it and commits it to the store. Only then is the message acknowledged and `QUEUED` reported.
//! 3. Meanwhile the [`sentinel`] reads [`load`], asks the [`governor`], and applies its budget to the gate of the
//!    workers. In a trough the agent takes the best job by priority and deadline.
//! 4. A [`worker`] gets one item at a time, prepares it, runs the model, interprets the output. Each finished item is
//!    journalled.
//! 5. When the load rises, the sentinel stops the workers first and tells the agent afterwards: `SUSPENDED`. When the
//!    trough is back they go on at the very instruction; if it does not come back, the job is queued again from the
//!    last finished item.
//! 6. The result and the last state are committed with the messages that carry them, and a message leaves the store
//!    when the broker has acknowledged it.

pub mod units;

pub mod fault;
pub mod model;
pub mod sys;
pub mod tensor;
pub mod trust;

pub mod governor;
pub mod jobs;

pub mod link;
pub mod load;
pub mod worker;

pub mod agent;
pub mod cli;
pub mod config;
pub mod ledger;
pub mod sentinel;
pub mod sim;
pub mod telemetry;

#[cfg(test)]
#[path = "../tests/support/emulation.rs"]
mod emulation;
