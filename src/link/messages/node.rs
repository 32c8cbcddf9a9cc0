//! What does a node say about itself? `up/state` (birth, mode, death, Will) and `up/info` (inventory).
//!
//! The first state after each connect is the birth: it lists the unfinished jobs, so that a controller sees at once
//! which of its jobs the node has. Later states carry counts only, because the broker keeps the last one: who comes
//! later asks with the `jobs` command.

use serde::{Deserialize, Serialize};

use super::{BadMessage, parse, render, time};
use crate::jobs::job::State;
use crate::units::WallTime;

const WHAT: &str = "node state";
/// Most jobs that a birth lists.
const OPEN_JOBS_MAX: usize = 256;
/// Most bytes that they take: a birth must pass a broker with the smallest packet limit that the link allows.
const OPEN_JOBS_BYTES_MAX: usize = 12 * 1024;

/// Birth and mode, or death, of a node; retained.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NodeState {
    /// The agent runs.
    Online {
        /// Names this run of the agent; a death of another session is stale.
        session: String,
        /// When the mode began.
        since: WallTime,
        /// `starting busy settling trough held blind draining`.
        mode: String,
        /// Why, for people.
        reason: String,
        /// Jobs in progress, suspended ones included.
        running: u32,
        /// Jobs waiting.
        queued: u32,
        /// Jobs that have ended and whose result nobody has acknowledged.
        unacknowledged: u32,
        /// In a birth: the unfinished jobs.
        open_jobs: Option<OpenJobs>,
        /// Version of the agent.
        version: String,
        /// What keeps the node from its best, as `cause: sentence`; empty when all is well.
        degraded: Vec<String>,
    },
    /// It does not.
    Offline {
        /// The run that ended.
        session: String,
        /// `lost` (the Will) or `shutdown`.
        cause: String,
    },
}

/// The unfinished jobs at a node's birth.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OpenJobs {
    /// How many there are.
    pub total: u32,
    /// The first of them, by id. When there are more, the `jobs` command lists those after the last one here.
    pub jobs: Vec<OpenJob>,
}

/// One unfinished job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OpenJob {
    /// Identity.
    pub id: String,
    /// Where it stands.
    pub status: State,
    /// Version of its status.
    pub version: u64,
}

impl OpenJobs {
    /// Of these jobs, in order of id, as many as a birth may list.
    pub fn first(jobs: impl IntoIterator<Item = OpenJob>) -> Self {
        let mut open = Self::default();
        let mut bytes = 0;
        for job in jobs {
            open.total = open.total.saturating_add(1);
            // What does not fit ends the list, so that whoever pages on from its end misses nothing.
            bytes += if bytes > OPEN_JOBS_BYTES_MAX { 0 } else { render(&job.to_wire()).len() + 1 };
            if bytes <= OPEN_JOBS_BYTES_MAX && open.jobs.len() < OPEN_JOBS_MAX {
                open.jobs.push(job);
            }
        }
        open
    }
}

impl OpenJobs {
    fn from_wire(wire: OpenJobsWire) -> Result<Self, BadMessage> {
        let jobs = wire.jobs.into_iter().map(OpenJob::from_wire).collect::<Result<_, _>>()?;
        Ok(Self { total: wire.total, jobs })
    }
}

impl OpenJob {
    fn to_wire(&self) -> OpenJobWire {
        OpenJobWire { id: self.id.clone(), status: self.status.as_str().to_owned(), version: self.version }
    }

    fn from_wire(wire: OpenJobWire) -> Result<Self, BadMessage> {
        let status = State::parse(&wire.status)
            .ok_or_else(|| BadMessage::new(WHAT, format!("state {:?} is unknown", wire.status)))?;
        Ok(Self { id: wire.id, status, version: wire.version })
    }
}

#[derive(Serialize, Deserialize)]
struct OpenJobsWire {
    total: u32,
    jobs: Vec<OpenJobWire>,
}

#[derive(Serialize, Deserialize)]
struct OpenJobWire {
    id: String,
    status: String,
    version: u64,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
fn is_zero(count: &u32) -> bool {
    *count == 0
}

#[derive(Serialize, Deserialize)]
pub(super) struct StateWire {
    online: bool,
    session: String,
    #[serde(skip_serializing_if = "Option::is_none", with = "time::optional", default)]
    since: Option<WallTime>,
    #[serde(skip_serializing_if = "Option::is_none")]
    mode: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    running: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    queued: Option<u32>,
    #[serde(skip_serializing_if = "is_zero", default)]
    unacknowledged: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    version: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    degraded: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    open_jobs: Option<OpenJobsWire>,
    #[serde(skip_serializing_if = "Option::is_none")]
    cause: Option<String>,
}

impl NodeState {
    /// The Will: what the broker says when the node is gone without a word.
    pub fn will(session: &str) -> Self {
        Self::Offline { session: session.to_owned(), cause: "lost".to_owned() }
    }

    /// The last words of a clean stop.
    pub fn death(session: &str) -> Self {
        Self::Offline { session: session.to_owned(), cause: "shutdown".to_owned() }
    }

    /// Which run of the agent says this, or died.
    pub fn session(&self) -> &str {
        match self {
            Self::Online { session, .. } | Self::Offline { session, .. } => session,
        }
    }

    /// The body.
    pub fn render(&self) -> Vec<u8> {
        render(&self.to_wire())
    }

    /// Reads a body.
    ///
    /// # Errors
    /// When it is not a state.
    pub fn parse(body: &[u8]) -> Result<Self, BadMessage> {
        Self::from_wire(parse(WHAT, body)?)
    }

    pub(super) fn to_wire(&self) -> StateWire {
        let nothing = StateWire {
            online: false,
            session: self.session().to_owned(),
            since: None,
            mode: None,
            reason: None,
            running: None,
            queued: None,
            unacknowledged: 0,
            version: None,
            degraded: Vec::new(),
            open_jobs: None,
            cause: None,
        };
        match self.clone() {
            Self::Online {
                session: _,
                since,
                mode,
                reason,
                running,
                queued,
                unacknowledged,
                open_jobs,
                version,
                degraded,
            } => StateWire {
                online: true,
                since: Some(since),
                mode: Some(mode),
                reason: Some(reason),
                running: Some(running),
                queued: Some(queued),
                unacknowledged,
                version: Some(version),
                degraded,
                open_jobs: open_jobs.map(|open| OpenJobsWire {
                    total: open.total,
                    jobs: open.jobs.iter().map(OpenJob::to_wire).collect(),
                }),
                ..nothing
            },
            Self::Offline { session: _, cause } => StateWire { cause: Some(cause), ..nothing },
        }
    }

    pub(super) fn from_wire(wire: StateWire) -> Result<Self, BadMessage> {
        if !wire.online {
            return Ok(Self::Offline {
                session: wire.session,
                cause: wire.cause.unwrap_or_else(|| "unknown".to_owned()),
            });
        }
        let missing = |field| BadMessage::new(WHAT, format!("online, but without {field}"));
        Ok(Self::Online {
            session: wire.session,
            since: wire.since.ok_or_else(|| missing("since"))?,
            mode: wire.mode.ok_or_else(|| missing("mode"))?,
            reason: wire.reason.unwrap_or_default(),
            running: wire.running.unwrap_or_default(),
            queued: wire.queued.unwrap_or_default(),
            unacknowledged: wire.unacknowledged,
            open_jobs: wire.open_jobs.map(OpenJobs::from_wire).transpose()?,
            version: wire.version.unwrap_or_default(),
            degraded: wire.degraded,
        })
    }
}

/// Inventory of a node; retained.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Info {
    /// Version of the agent.
    pub version: String,
    /// Instruction set, e.g. `aarch64`.
    pub machine: String,
    /// Kernel release.
    pub kernel: String,
    /// Cores of the host.
    pub cores: u32,
    /// Memory of the host.
    pub memory_bytes: u64,
    /// Workers, so most cores that inference uses.
    pub workers: u32,
    /// How fast a yield can be: scheduling class of the sentinel, e.g. `fifo(50)`.
    pub yield_class: String,
    /// Whether the agent's memory is locked, so that no page of the yield path can be missing.
    #[serde(default)]
    pub memory_locked: bool,
    /// Sandbox level of the workers.
    pub sandbox: String,
    /// What happens to orders that nobody signed: `none` (no key ring, everything counts), `warn`, `require`.
    #[serde(default)]
    pub trust: String,
    /// What holds the workers whatever happens to the agent, and what does not: one sentence for each item.
    #[serde(default)]
    pub floor: Vec<String>,
    /// How private the way to the broker is: `tls1.3`, `tls1.2`, `plain-local` (this host only) or `plain-insecure`.
    #[serde(default)]
    pub transport: String,
    /// Of the certificates that the link goes by, the one that ends first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub certificate: Option<InfoCertificate>,
    /// Load sources by name.
    pub sources: Vec<String>,
    /// Models that can be asked for.
    pub models: Vec<InfoModel>,
    /// Models that are there and are not offered, because they are not to be trusted.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub models_refused: Vec<InfoRefused>,
    /// Largest limits that a job may ask for.
    pub limits: InfoLimits,
}

/// The certificate that ends first.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct InfoCertificate {
    /// Whose: `node`, `authority` or `broker`.
    pub whose: String,
    /// Its name.
    pub name: String,
    /// Until when it is valid.
    #[serde(with = "time::required")]
    pub cert_expires: WallTime,
}

/// One model of the inventory.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct InfoModel {
    /// Name.
    pub name: String,
    /// Version.
    pub version: u32,
    /// `sha256:…` of the ONNX file.
    pub digest: String,
    /// What it does, one sentence.
    pub summary: String,
    /// Name of the BYTES tensor that takes an encoded medium; nothing when it takes raw tensors only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub accepts: Option<String>,
    /// `good: PUBLISHER`, or what is wrong with its signature where the node only warns; nothing without a key ring.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signature: Option<String>,
    /// Whether its costs on this node are known, or its refusal.
    #[serde(default)]
    pub appraised: bool,
    /// Code and sentence of its refusal: jobs for it end in it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refused: Option<String>,
    /// CPU time of loading it, in ms.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub load_ms: Option<u64>,
    /// CPU time of one run, the median, in µs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run_us_p50: Option<u64>,
    /// CPU time of the operator that takes longest, in µs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub worst_node_us: Option<u64>,
    /// Heap of the loaded network, in bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_bytes: Option<u64>,
    /// What is remarkable about its costs or results, one sentence each.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub remarks: Vec<String>,
}

/// One model that is there and not to be trusted.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct InfoRefused {
    /// Name.
    pub name: String,
    /// Version.
    pub version: u32,
    /// Stable code, such as `model.unsigned`.
    pub code: String,
    /// What it lacks, and what to do.
    pub message: String,
}

/// Largest limits that a job may ask for.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct InfoLimits {
    /// Running time.
    pub wall_ms: u64,
    /// Memory of the worker.
    pub memory_bytes: u64,
    /// Attempts that may end in a fault.
    pub attempts: u32,
    /// Output of one item.
    pub output_bytes: u64,
    /// Items of one job.
    pub items: u32,
    /// Body of a submit without binary tensors.
    pub manifest_bytes: u64,
    /// MQTT packet.
    pub packet_bytes: u64,
}

impl Info {
    /// The body.
    pub fn render(&self) -> Vec<u8> {
        render(self)
    }

    /// Reads a body.
    ///
    /// # Errors
    /// When it is not an inventory.
    pub fn parse(body: &[u8]) -> Result<Self, BadMessage> {
        parse("info", body)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_birth_reads_as_the_protocol_writes_it() {
        let text = r#"{"online":true,"session":"01JD","since":"2026-11-22T01:02:03.120Z","mode":"trough","reason":"RRU.PrbTotDl 6 < 15 for 30 s","running":1,"queued":3,"version":"0.1.0"}"#;
        let state = NodeState::parse(text.as_bytes()).unwrap();
        assert_eq!(String::from_utf8(state.render()).unwrap(), text);
    }

    fn open(count: u64, id: impl Fn(u64) -> String) -> OpenJobs {
        OpenJobs::first((0..count).map(|number| OpenJob { id: id(number), status: State::Queued, version: number }))
    }

    #[test]
    fn a_birth_lists_the_open_jobs_and_a_later_state_counts_them() {
        let text = r#"{"online":true,"session":"01JD","since":"2026-11-22T01:02:03.120Z","mode":"busy","reason":"","running":1,"queued":0,"unacknowledged":2,"version":"0.1.0","open_jobs":{"total":1,"jobs":[{"id":"j1","status":"SUSPENDED","version":4}]}}"#;
        let state = NodeState::parse(text.as_bytes()).unwrap();
        assert_eq!(String::from_utf8(state.render()).unwrap(), text);
        let NodeState::Online { unacknowledged: 2, open_jobs: Some(open), .. } = state else { panic!("{state:?}") };
        assert_eq!((open.total, open.jobs[0].status), (1, State::Suspended));
        assert!(NodeState::parse(text.replace("SUSPENDED", "LOST").as_bytes()).is_err());
    }

    #[test]
    fn the_list_of_a_birth_has_a_limit_and_ends_where_it_is_cut() {
        let short = open(1000, |number| format!("{number:04}"));
        assert_eq!((short.total, short.jobs.len()), (1000, OPEN_JOBS_MAX));
        let long = open(100_000, |number| format!("{number:064}"));
        let bytes: usize = long.jobs.iter().map(|job| render(&job.to_wire()).len() + 1).sum();
        assert!(long.total == 100_000 && bytes <= OPEN_JOBS_BYTES_MAX && long.jobs.len() > 90, "{bytes}");
        let gapless = long.jobs.iter().zip(0..).all(|(job, number)| job.version == number);
        assert!(gapless, "nothing before the cut is left out");
        assert_eq!(open(0, |_| String::new()), OpenJobs::default());
    }

    #[test]
    fn will_and_death_read_as_the_protocol_writes_them() {
        let will = String::from_utf8(NodeState::will("01JD").render()).unwrap();
        assert_eq!(will, r#"{"online":false,"session":"01JD","cause":"lost"}"#);
        let death = NodeState::death("01JD");
        assert_eq!(NodeState::parse(&death.render()).unwrap(), death);
        assert!(NodeState::parse(br#"{"online":true,"session":"a"}"#).unwrap_err().to_string().contains("since"));
    }

    #[test]
    fn an_inventory_survives() {
        let info = Info {
            version: "0.1.0".to_owned(),
            cores: 2,
            floor: vec!["cpu.idle: yes: inference gets only what nothing else wants".to_owned()],
            models: vec![InfoModel { name: "m".to_owned(), version: 1, ..InfoModel::default() }],
            ..Info::default()
        };
        assert_eq!(Info::parse(&info.render()).unwrap(), info);
    }
}
