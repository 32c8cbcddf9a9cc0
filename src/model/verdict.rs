//! What does a model cost on this machine, and does it work at all? The verdict of an appraisal, and its file.
//!
//! A model is appraised once, in a worker of its own under limits, before the first job asks for it. What came of it is
//! kept by the model's digest: a cost, or a refusal. It holds for that file with that manifest, for the engine and
//! version that made it, and within the limits it was made under; otherwise the model counts as not appraised.
//!
//! The record and its text are pure; [`files`] keeps them.

pub mod files;
#[cfg(test)]
mod tests;
mod text;

use std::time::Duration;

use sha2::{Digest as _, Sha256};

use super::library::Entry;
use crate::fault::{Code, Fault};
use crate::units::{Digest, WallTime};

/// Longest name of an operator, engine or version in a verdict, in bytes.
pub const NAME_BYTES_MAX: usize = 128;

/// What an appraisal found out about one model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// Of the ONNX file.
    pub digest: Digest,
    /// Of the text of `model.toml`: it pins shapes and outputs.
    pub manifest: Digest,
    /// What it holds for besides.
    pub terms: Terms,
    /// When it was made.
    pub at: WallTime,
    /// What came of it.
    pub outcome: Outcome,
}

/// Circumstances in which a verdict is made, and in which it holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Terms {
    /// The engine and its version.
    pub engine: String,
    /// Version of the program.
    pub agent: String,
    /// Architecture of the machine.
    pub arch: String,
    /// What the model may take.
    pub limits: Limits,
}

/// What a model may take while it is appraised.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Heap for loaded models, in bytes: `workers.memory_bytes` of the agent.
    pub plan_bytes: u64,
    /// Heap for one item besides, in bytes: the largest `limits.memory_bytes` that a job may bring.
    pub item_bytes: u64,
    /// CPU time for loading it and running it once.
    pub load: Duration,
    /// CPU time for the runs that measure it.
    pub run: Duration,
}

impl Default for Limits {
    /// What the agent allows when its configuration says nothing, a minute to load and half of one to run.
    fn default() -> Self {
        const MEGABYTE: u64 = 1024 * 1024;
        Self {
            plan_bytes: 512 * MEGABYTE,
            item_bytes: 512 * MEGABYTE,
            load: Duration::from_secs(60),
            run: Duration::from_secs(30),
        }
    }
}

/// Whether a model serves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It does, at this cost.
    Accepted(Cost),
    /// It does not, for this reason.
    Refused(Fault),
}

/// What a model costs on one core of this machine. All times are CPU time: a worker shares its core with everything
/// else.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cost {
    /// Loading it, for the golden input that takes longest.
    pub load: Duration,
    /// What was said about the file before the engine saw it; a part of `load`.
    pub preflight: Duration,
    /// One run of the network, the median, for the golden input that takes longest.
    pub run_p50: Duration,
    /// The longest run.
    pub run_max: Duration,
    /// The operator that takes longest in one piece.
    pub worst_node: WorstNode,
    /// Operators of the loaded network.
    pub nodes: u32,
    /// Heap of the loaded network, in bytes.
    pub plan_bytes: u64,
    /// Most memory that the worker had in RAM, in bytes, the program included.
    pub rss_bytes: u64,
    /// Whether it gives what it should.
    pub goldens: Goldens,
}

/// The operator of a network that takes longest: between two operators a worker can be asked to end.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WorstNode {
    /// Its name in the graph, at most [`NAME_BYTES_MAX`] bytes.
    pub name: String,
    /// What it does, in the engine's words.
    pub op: String,
    /// Shortest of several times that it took.
    pub time: Duration,
}

/// How many golden cases gave what they should.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Goldens {
    /// Agreeing cases.
    pub passed: u32,
    /// All cases; 0: the model has none.
    pub of: u32,
    /// Where the first does not agree.
    pub mismatch: Option<String>,
}

impl Goldens {
    /// Whether every case agrees.
    pub fn all_passed(&self) -> bool {
        self.passed == self.of
    }
}

impl Verdict {
    /// Why the verdict says nothing about this model under these terms; `None`: it holds.
    pub fn stale(&self, entry: &Entry, now: &Terms) -> Option<&'static str> {
        let then = &self.terms;
        if self.digest != entry.manifest.digest {
            Some("it is about another file")
        } else if self.manifest != manifest_digest(entry) {
            Some("model.toml was changed since")
        } else if then.engine != now.engine || then.agent != now.agent {
            Some("it was made by another version")
        } else if then.arch != now.arch {
            Some("it was made on another kind of machine")
        } else if !self.holds_within(now.limits) {
            Some("it was made under other limits")
        } else {
            None
        }
    }

    /// Whether it is about this file with this manifest.
    pub fn is_about(&self, entry: &Entry) -> bool {
        self.digest == entry.manifest.digest && self.manifest == manifest_digest(entry)
    }

    /// What was accepted within limits is so within wider ones, and what broke wide limits breaks narrower ones.
    fn holds_within(&self, now: Limits) -> bool {
        let then = self.terms.limits;
        match &self.outcome {
            Outcome::Accepted(_) => then.is_within(now),
            Outcome::Refused(fault) => !depends_on_limits(fault.code) || now.is_within(then),
        }
    }

    /// What it costs; `None` when it was refused.
    pub fn cost(&self) -> Option<&Cost> {
        match &self.outcome {
            Outcome::Accepted(cost) => Some(cost),
            Outcome::Refused(_) => None,
        }
    }

    /// Why it was refused, if it was.
    pub fn refusal(&self) -> Option<&Fault> {
        match &self.outcome {
            Outcome::Accepted(_) => None,
            Outcome::Refused(fault) => Some(fault),
        }
    }
}

impl Cost {
    /// What is to be said of its slowest operator when that is above `max`; nothing without a limit.
    pub fn slow_node(&self, max: Option<Duration>) -> Option<String> {
        let WorstNode { name, op, time } = &self.worst_node;
        let max = max.filter(|max| time > max)?;
        Some(format!(
            "operator {name:?} ({op}) takes {:.1} ms in one piece, more than models.worst_node_ms_max = {}: a smaller input \
             or another export may split it",
            time.as_secs_f64() * 1e3,
            max.as_millis()
        ))
    }
}

impl Limits {
    fn is_within(self, wide: Self) -> bool {
        self.plan_bytes <= wide.plan_bytes
            && self.item_bytes <= wide.item_bytes
            && self.load <= wide.load
            && self.run <= wide.run
    }
}

/// Digest of the text of a model's `model.toml`.
pub fn manifest_digest(entry: &Entry) -> Digest {
    Digest(Sha256::digest(entry.manifest_text.as_bytes()).into())
}

/// A crash counts: the allocator may have ended it.
fn depends_on_limits(code: Code) -> bool {
    matches!(code, Code::WorkerMemory | Code::WorkerTimeout | Code::WorkerCrashed)
}

/// A name that comes from a model, made safe for files and terminals, and short.
pub fn safe_name(name: &str) -> String {
    let clean: String = name.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    clean[..clean.floor_char_boundary(NAME_BYTES_MAX)].to_owned()
}
