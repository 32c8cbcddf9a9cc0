//! A verdict as JSON.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{Cost, Goldens, Limits, Outcome, Terms, Verdict, WorstNode, safe_name};
use crate::fault::{Code, Fault};
use crate::units::{Digest, WallTime};

/// Version of the text. Another version is read as no verdict at all: making one anew costs seconds.
const FORMAT: u32 = 1;

#[derive(Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct Raw {
    format: u32,
    digest: String,
    manifest: String,
    engine: String,
    agent: String,
    arch: String,
    limits: RawLimits,
    at_ms: i64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    accepted: Option<RawCost>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    refused: Option<RawFault>,
}

#[derive(Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct RawLimits {
    plan_bytes: u64,
    item_bytes: u64,
    load_ms: u64,
    run_ms: u64,
}

#[derive(Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct RawCost {
    load_us: u64,
    preflight_us: u64,
    run_us_p50: u64,
    run_us_max: u64,
    worst_node: RawNode,
    nodes: u32,
    plan_bytes: u64,
    peak_rss_bytes: u64,
    goldens: RawGoldens,
}

#[derive(Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct RawNode {
    name: String,
    op: String,
    us: u64,
}

#[derive(Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct RawGoldens {
    passed: u32,
    of: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    mismatch: Option<String>,
}

#[derive(Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct RawFault {
    code: String,
    message: String,
}

impl Verdict {
    /// As JSON, one object.
    pub fn render(&self) -> Vec<u8> {
        let Terms { engine, agent, arch, limits } = &self.terms;
        let raw = Raw {
            format: FORMAT,
            digest: self.digest.to_string(),
            manifest: self.manifest.to_string(),
            engine: engine.clone(),
            agent: agent.clone(),
            arch: arch.clone(),
            limits: RawLimits {
                plan_bytes: limits.plan_bytes,
                item_bytes: limits.item_bytes,
                load_ms: millis(limits.load),
                run_ms: millis(limits.run),
            },
            at_ms: self.at.as_millis(),
            accepted: self.cost().map(raw_cost),
            refused: self
                .refusal()
                .map(|fault| RawFault { code: fault.code.as_str().to_owned(), message: fault.message.clone() }),
        };
        // Numbers and texts only: nothing here that JSON cannot hold.
        serde_json::to_vec_pretty(&raw).unwrap_or_default()
    }

    /// Reads what [`Verdict::render`] writes; `None` for anything else, other versions included.
    pub fn parse(json: &[u8]) -> Option<Self> {
        let raw: Raw = serde_json::from_slice(json).ok()?;
        let outcome = match (raw.accepted, raw.refused) {
            (Some(cost), None) => Outcome::Accepted(cost_of(cost)?),
            (None, Some(fault)) => Outcome::Refused(Fault::new(Code::parse(&fault.code)?, fault.message)),
            (Some(_), Some(_)) | (None, None) => return None,
        };
        let limits = Limits {
            plan_bytes: raw.limits.plan_bytes,
            item_bytes: raw.limits.item_bytes,
            load: Duration::from_millis(raw.limits.load_ms),
            run: Duration::from_millis(raw.limits.run_ms),
        };
        let terms =
            Terms { engine: safe_name(&raw.engine), agent: safe_name(&raw.agent), arch: safe_name(&raw.arch), limits };
        let known = raw.format == FORMAT;
        known.then_some(Self {
            digest: digest(&raw.digest)?,
            manifest: digest(&raw.manifest)?,
            terms,
            at: WallTime::from_millis(raw.at_ms),
            outcome,
        })
    }
}

fn digest(text: &str) -> Option<Digest> {
    text.parse().ok()
}

fn raw_cost(cost: &Cost) -> RawCost {
    RawCost {
        load_us: micros(cost.load),
        preflight_us: micros(cost.preflight),
        run_us_p50: micros(cost.run_p50),
        run_us_max: micros(cost.run_max),
        worst_node: RawNode {
            name: safe_name(&cost.worst_node.name),
            op: safe_name(&cost.worst_node.op),
            us: micros(cost.worst_node.time),
        },
        nodes: cost.nodes,
        plan_bytes: cost.plan_bytes,
        peak_rss_bytes: cost.rss_bytes,
        goldens: RawGoldens {
            passed: cost.goldens.passed,
            of: cost.goldens.of,
            mismatch: cost.goldens.mismatch.as_deref().map(safe_sentence),
        },
    }
}

fn cost_of(raw: RawCost) -> Option<Cost> {
    let goldens = Goldens {
        passed: raw.goldens.passed,
        of: raw.goldens.of,
        mismatch: raw.goldens.mismatch.as_deref().map(safe_sentence),
    };
    // What no appraisal writes was written by something else.
    (goldens.passed <= goldens.of && raw.run_us_p50 <= raw.run_us_max).then_some(Cost {
        load: Duration::from_micros(raw.load_us),
        preflight: Duration::from_micros(raw.preflight_us),
        run_p50: Duration::from_micros(raw.run_us_p50),
        run_max: Duration::from_micros(raw.run_us_max),
        worst_node: WorstNode {
            name: safe_name(&raw.worst_node.name),
            op: safe_name(&raw.worst_node.op),
            time: Duration::from_micros(raw.worst_node.us),
        },
        nodes: raw.nodes,
        plan_bytes: raw.plan_bytes,
        rss_bytes: raw.peak_rss_bytes,
        goldens,
    })
}

/// As the sentence of a fault is made safe.
fn safe_sentence(text: &str) -> String {
    Fault::new(Code::ModelRun, text).message
}

fn micros(span: Duration) -> u64 {
    u64::try_from(span.as_micros()).unwrap_or(u64::MAX)
}

fn millis(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}
