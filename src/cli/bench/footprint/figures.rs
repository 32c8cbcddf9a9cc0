//! What came out of it, for machines and for people.

use std::time::Duration;

use serde_json::{Map, Value, json};

use super::calls::Counted;
use super::executable::Executable;
use super::process::{Memory, Wakes};
use crate::cli::bench::machine::Facts;
use crate::cli::failure::Failure;
use crate::cli::out::{Out, Tone};

/// What is to be reached: bytes of the stripped program, and of the idle agent in memory.
const EXECUTABLE_BYTES_MAX: u64 = 20_000_000;
const AGENT_BYTES_MAX: u64 = 12 * 1024 * 1024;

/// All that is measured.
#[derive(Debug, Default)]
pub(super) struct Figures {
    /// The program's file.
    pub(super) executable: Executable,
    /// From each start to READY.
    pub(super) starts: Vec<Duration>,
    /// The idle agent's memory.
    pub(super) agent: Option<Memory>,
    /// What the idle agent does.
    pub(super) idle: Option<Idle>,
    /// A worker after its first inference, for each model.
    pub(super) workers: Vec<Worker>,
}

/// What an idle agent does.
#[derive(Debug)]
pub(super) struct Idle {
    /// The time looked at.
    pub(super) span: Duration,
    /// CPU time of all its threads in it.
    pub(super) cpu: Duration,
    /// How often its threads slept in it.
    pub(super) wakes: Wakes,
    /// System calls, over a time of their own.
    pub(super) calls: Counted,
}

/// A worker with a model.
#[derive(Debug)]
pub(super) struct Worker {
    /// The model.
    pub(super) model: String,
    /// Its memory; `None` when the model was refused.
    pub(super) memory: Option<Memory>,
}

impl Idle {
    fn cpu_share(&self) -> f64 {
        rate(self.cpu.as_secs_f64(), self.span)
    }

    fn calls_per_s(&self) -> Option<f64> {
        self.calls.calls.map(|calls| rate(count(calls), self.calls.span))
    }

    fn json(&self) -> Value {
        let thread =
            |(name, wakes): (&str, u64)| json!({"name": name, "wakes_per_s": round(rate(count(wakes), self.span))});
        json!({
            "seconds": round(self.span.as_secs_f64()),
            "cpu_percent": (self.cpu_share() * 1e6).round() / 1e4,
            "wakes_per_s": round(rate(count(self.wakes.total()), self.span)),
            "system_calls_per_s": self.calls_per_s().map(round),
            "system_calls": self.calls.calls,
            "system_calls_counted_by": self.calls.method,
            "system_calls_seconds": round(self.calls.span.as_secs_f64()),
            "threads": self.wakes.threads().into_iter().map(thread).collect::<Vec<_>>(),
        })
    }
}

impl Figures {
    /// Shortest, median and longest time to READY, in ms.
    fn ready_ms(&self) -> Option<[f64; 3]> {
        let mut starts = self.starts.clone();
        starts.sort_unstable();
        let ms = |time: &Duration| (time.as_secs_f64() * 1e5).round() / 100.0;
        Some([ms(starts.first()?), ms(starts.get(starts.len() / 2)?), ms(starts.last()?)])
    }

    /// Only a stripped program is compared: symbols do not go to a node.
    fn is_small(&self) -> Option<bool> {
        let is_stripped = self.executable.stripped? && !cfg!(debug_assertions);
        is_stripped.then_some(self.executable.bytes <= EXECUTABLE_BYTES_MAX)
    }

    fn is_lean(&self) -> Option<bool> {
        self.agent.map(|agent| agent.rss <= AGENT_BYTES_MAX)
    }

    /// For `--json`.
    pub(super) fn json(&self, facts: &Facts) -> Value {
        let worker =
            |worker: &Worker| (worker.model.clone(), worker.memory.map_or(Value::Null, |memory| memory.json()));
        let ready = self.ready_ms().map(|[min, p50, max]| json!({"min": min, "p50": p50, "max": max}));
        json!({
            "executable": {"bytes": self.executable.bytes, "stripped": self.executable.stripped},
            "agent": {
                "memory": self.agent.map(|agent| agent.json()),
                "start_to_ready_ms": ready,
                "starts": self.starts.len(),
                "idle": self.idle.as_ref().map(Idle::json),
            },
            "workers": self.workers.iter().map(worker).collect::<Map<_, _>>(),
            "reached": {"executable": self.is_small(), "agent_memory": self.is_lean()},
            "machine": facts.json(),
        })
    }

    /// For people.
    pub(super) fn tell(&self, out: &Out) -> Result<(), Failure> {
        let verdict = |kept| match kept {
            Some(true) => out.paint(Tone::Good, "reached"),
            Some(false) => out.paint(Tone::Bad, "missed"),
            None => String::new(),
        };
        let kind = match self.executable.stripped {
            Some(true) => "stripped",
            Some(false) => "not stripped",
            None => "stripped or not: cannot be told",
        };
        let size = format!("{:.1} MB, {kind}", megabytes(self.executable.bytes));
        let mut rows = vec![row("program", size, "≤ 20 MB stripped", verdict(self.is_small()))];
        if let Some(agent) = &self.agent {
            let split = format!(
                "{} ({} its own, {} of files)",
                mebibytes(agent.rss),
                mebibytes(agent.anonymous),
                mebibytes(agent.file)
            );
            rows.push(row("agent idle, resident", split, "≤ 12 MiB", verdict(self.is_lean())));
            let pss = agent.pss.map_or_else(|| "not told".to_owned(), mebibytes);
            rows.push(row("the same, shared pages divided", pss, "", String::new()));
        }
        if let Some([min, p50, max]) = self.ready_ms() {
            let text = format!("p50 {p50:.1} ms ({min:.1} to {max:.1}, {} starts)", self.starts.len());
            rows.push(row("start to READY", text, "", String::new()));
        }
        if let Some(idle) = &self.idle {
            let calls = idle.calls_per_s().map_or_else(
                || format!("not counted: {}", idle.calls.method),
                |calls| format!("{calls:.1} a second, counted by {}", idle.calls.method),
            );
            rows.push(row("system calls, idle", calls, "", String::new()));
            let wakes = format!("{:.1} a second", rate(count(idle.wakes.total()), idle.span));
            rows.push(row("wakes, idle", wakes, "", String::new()));
            rows.push(row("CPU, idle", format!("{:.3} % of a core", idle.cpu_share() * 100.0), "", String::new()));
        }
        out.table(&["", "measured", "to be reached", ""], &rows)?;
        if self.workers.is_empty() {
            return Ok(());
        }
        out.line("")?;
        let worker = |worker: &Worker| {
            let cells = worker.memory.map_or_else(
                || ["refused", "", "", ""].map(str::to_owned),
                |memory| {
                    let pss = memory.pss.map_or_else(|| "not told".to_owned(), mebibytes);
                    [mebibytes(memory.rss), pss, mebibytes(memory.anonymous), mebibytes(memory.file)]
                },
            );
            std::iter::once(worker.model.clone()).chain(cells).collect()
        };
        out.table(
            &["WORKER WITH", "RESIDENT", "SHARED DIVIDED", "ITS OWN", "OF FILES"],
            &self.workers.iter().map(worker).collect::<Vec<_>>(),
        )
    }
}

fn row(what: &str, figure: String, reach: &str, verdict: String) -> Vec<String> {
    vec![what.to_owned(), figure, reach.to_owned(), verdict]
}

fn rate(amount: f64, span: Duration) -> f64 {
    if span.is_zero() { 0.0 } else { amount / span.as_secs_f64() }
}

fn round(value: f64) -> f64 {
    (value * 100.0).round() / 100.0
}

#[expect(clippy::cast_precision_loss, reason = "far below 2^53")]
fn count(value: u64) -> f64 {
    value as f64
}

fn megabytes(bytes: u64) -> f64 {
    count(bytes) / 1e6
}

fn mebibytes(bytes: u64) -> String {
    format!("{:.1} MiB", count(bytes) / 1_048_576.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::bench::machine::Machine;

    fn figures() -> Figures {
        let memory =
            Memory { rss: 11 << 20, rss_max: 17 << 20, anonymous: 3 << 20, file: 8 << 20, ..Memory::default() };
        let calls = Counted { calls: Some(70), span: Duration::from_secs(10), method: "strace".to_owned() };
        Figures {
            executable: Executable { bytes: 18_000_000, stripped: Some(true) },
            starts: [30, 10, 20].map(Duration::from_millis).to_vec(),
            agent: Some(memory),
            idle: Some(Idle {
                span: Duration::from_secs(20),
                cpu: Duration::from_millis(2),
                wakes: Wakes::default(),
                calls,
            }),
            workers: vec![
                Worker { model: "objects".to_owned(), memory: Some(memory) },
                Worker { model: "odd".to_owned(), memory: None },
            ],
        }
    }

    #[test]
    fn medians_rates_and_what_is_reached_are_told() {
        let json = figures().json(&Machine::begin().end(Vec::new()));
        assert_eq!(json["agent"]["start_to_ready_ms"], json!({"min": 10.0, "p50": 20.0, "max": 30.0}));
        assert_eq!(json["agent"]["idle"]["system_calls_per_s"], json!(7.0));
        assert_eq!(json["agent"]["idle"]["cpu_percent"], json!(0.01));
        assert_eq!(json["workers"]["objects"]["rss_bytes"], json!(11 << 20));
        assert_eq!(json["workers"]["odd"], Value::Null);
        assert_eq!(json["reached"]["agent_memory"], json!(true));
    }

    #[test]
    fn nothing_measured_is_neither_reached_nor_missed() {
        let json = Figures::default().json(&Machine::begin().end(Vec::new()));
        assert_eq!(json["reached"], json!({"executable": null, "agent_memory": null}));
        let uncounted = Counted { calls: None, span: Duration::ZERO, method: "nothing".to_owned() };
        let idle = Idle { span: Duration::ZERO, cpu: Duration::ZERO, wakes: Wakes::default(), calls: uncounted };
        assert_eq!((idle.calls_per_s(), idle.cpu_share()), (None, 0.0));
    }
}
