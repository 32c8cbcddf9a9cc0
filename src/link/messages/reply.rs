//! What does a node answer? Replies to commands: an object whose members name the kind of reply.
//!
//! A list of jobs says with `more` whether there are others behind its last one; it ends where a packet would be full.

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::node::StateWire;
use super::{BadMessage, ErrorBody, Info, NodeState, Status, parse, render, status, time};
use crate::fault::{Code, Fault};
use crate::units::WallTime;

const WHAT: &str = "reply";

/// What a node answers.
#[derive(Clone, Debug, PartialEq)]
#[expect(clippy::large_enum_variant, reason = "made and taken apart at once, never kept in numbers")]
pub enum Reply {
    /// To `ping`.
    Pong(Pong),
    /// To `describe`.
    Node {
        /// Inventory.
        info: Info,
        /// State.
        state: NodeState,
    },
    /// To `describe` with a job.
    Job(JobSummary),
    /// To `jobs`.
    Jobs(JobsPage),
    /// To `result`: the body that the result topic carries, for [`super::parse_result`].
    Result(Vec<u8>),
    /// To `drain`, `resume`, `hold`, `release`.
    Done,
    /// To anything that could not be done.
    Error(ErrorBody),
}

/// Answer to `ping`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pong {
    /// This run of the agent.
    pub session: String,
    /// Version of the agent.
    pub version: String,
    /// The node's clock.
    #[serde(with = "time::required")]
    pub at: WallTime,
}

/// Some of the jobs that were asked for.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct JobsPage {
    /// In the order that was asked for.
    pub jobs: Vec<JobSummary>,
    /// Whether there are others behind the last one.
    pub more: bool,
}

/// One job in a reply: enough for a controller to go on from where it lost sight of it.
#[derive(Clone, Debug, PartialEq)]
pub struct JobSummary {
    /// Identity.
    pub id: String,
    /// Model asked for.
    pub model: String,
    /// 0 to 9.
    pub priority: u8,
    /// After this the result has no value.
    pub deadline: Option<WallTime>,
    /// Why it is not running, when it waits. Not told in lists that are ordered by id.
    pub waiting: Option<String>,
    /// Digest of the submit's body, in the reply to `describe`: tells whether the job of that id is one's own.
    pub body_digest: Option<String>,
    /// Whether `result` would be answered with a result or an error of the job; unknown of an older node.
    pub result_kept: Option<bool>,
    /// Where it stands.
    pub status: Status,
}

#[derive(Default, Serialize, Deserialize)]
struct ReplyWire {
    #[serde(skip_serializing_if = "Option::is_none")]
    pong: Option<Pong>,
    #[serde(skip_serializing_if = "Option::is_none")]
    node: Option<Box<NodeWire>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    job: Option<Box<SummaryWire>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    jobs: Option<Vec<SummaryWire>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    more: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    result: Option<Box<RawValue>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    done: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<ErrorBody>,
}

#[derive(Serialize, Deserialize)]
struct NodeWire {
    info: Info,
    state: StateWire,
}

#[derive(Serialize, Deserialize)]
struct SummaryWire {
    id: String,
    model: String,
    priority: u8,
    #[serde(skip_serializing_if = "Option::is_none", with = "time::optional", default)]
    deadline: Option<WallTime>,
    #[serde(skip_serializing_if = "Option::is_none")]
    waiting: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    body_digest: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    result_kept: Option<bool>,
    #[serde(flatten)]
    status: status::Wire,
}

impl Reply {
    /// The body.
    pub fn render(&self) -> Vec<u8> {
        let nothing = ReplyWire::default();
        render(&match self {
            Self::Pong(pong) => ReplyWire { pong: Some(pong.clone()), ..nothing },
            Self::Node { info, state } => {
                let node = NodeWire { info: info.clone(), state: state.to_wire() };
                ReplyWire { node: Some(Box::new(node)), ..nothing }
            }
            Self::Job(job) => ReplyWire { job: Some(Box::new(job.to_wire())), ..nothing },
            Self::Jobs(page) => {
                let jobs = page.jobs.iter().map(JobSummary::to_wire).collect();
                ReplyWire { jobs: Some(jobs), more: Some(page.more), ..nothing }
            }
            Self::Result(body) => match serde_json::from_slice(body) {
                Ok(raw) => ReplyWire { result: Some(raw), ..nothing },
                Err(error) => {
                    let fault = Fault::new(Code::StateCorrupt, format!("the stored result is not JSON: {error}"));
                    ReplyWire { error: Some(ErrorBody::from(&fault)), ..nothing }
                }
            },
            Self::Done => ReplyWire { done: Some(true), ..nothing },
            Self::Error(error) => ReplyWire { error: Some(error.clone()), ..nothing },
        })
    }

    /// Reads a body.
    ///
    /// # Errors
    /// When it is not a reply, or one of a kind that this version does not know.
    pub fn parse(body: &[u8]) -> Result<Self, BadMessage> {
        let wire: ReplyWire = parse(WHAT, body)?;
        let summary = |job: SummaryWire| JobSummary::from_wire(job);
        let known = [
            wire.error.map(|error| Ok(Self::Error(error))),
            wire.pong.map(|pong| Ok(Self::Pong(pong))),
            wire.node.map(|node| Ok(Self::Node { info: node.info, state: NodeState::from_wire(node.state)? })),
            wire.job.map(|job| summary(*job).map(Self::Job)),
            wire.jobs.map(|jobs| {
                let jobs = jobs.into_iter().map(summary).collect::<Result<_, BadMessage>>()?;
                Ok(Self::Jobs(JobsPage { jobs, more: wire.more.unwrap_or(false) }))
            }),
            wire.result.map(|raw| Ok(Self::Result(raw.get().as_bytes().to_vec()))),
            wire.done.map(|_| Ok(Self::Done)),
        ];
        let unknown = || Err(BadMessage::new(WHAT, "it is of no kind that this version knows"));
        known.into_iter().flatten().next().unwrap_or_else(unknown)
    }
}

impl JobsPage {
    /// As many of the jobs as are wanted, and as fit into so many bytes of body.
    pub fn fill(jobs: impl IntoIterator<Item = JobSummary>, max: usize, bytes_max: usize) -> Self {
        let mut page = Self::default();
        let mut bytes = render(&ReplyWire { jobs: Some(Vec::new()), more: Some(false), ..ReplyWire::default() }).len();
        for job in jobs {
            // And a comma.
            bytes += render(&job.to_wire()).len() + 1;
            if page.jobs.len() >= max || bytes > bytes_max {
                page.more = true;
                break;
            }
            page.jobs.push(job);
        }
        page
    }
}

impl JobSummary {
    fn to_wire(&self) -> SummaryWire {
        SummaryWire {
            id: self.id.clone(),
            model: self.model.clone(),
            priority: self.priority,
            deadline: self.deadline,
            waiting: self.waiting.clone(),
            body_digest: self.body_digest.clone(),
            result_kept: self.result_kept,
            status: self.status.to_wire(),
        }
    }

    fn from_wire(wire: SummaryWire) -> Result<Self, BadMessage> {
        Ok(Self {
            id: wire.id,
            model: wire.model,
            priority: wire.priority,
            deadline: wire.deadline,
            waiting: wire.waiting,
            body_digest: wire.body_digest,
            result_kept: wire.result_kept,
            status: Status::from_wire(wire.status)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STATUS: &str = r#"{"status":"QUEUED","version":1,"attempt":0,"at":"2026-11-22T01:10:07.311Z","reason":"accepted","progress":{"done":0,"total":1},"yields":0,"suspended_ms":0}"#;

    fn job(id: &str) -> JobSummary {
        JobSummary {
            id: id.to_owned(),
            model: "m".to_owned(),
            priority: 5,
            deadline: Some(WallTime::from_millis(1_764_000_000_000)),
            waiting: Some("load".to_owned()),
            body_digest: Some("sha256:00".to_owned()),
            result_kept: Some(false),
            status: Status::parse(STATUS.as_bytes()).unwrap(),
        }
    }

    #[test]
    fn every_reply_survives() {
        let at = WallTime::from_millis(1_764_000_000_000);
        let bare = JobSummary { deadline: None, waiting: None, body_digest: None, result_kept: None, ..job("j2") };
        for reply in [
            Reply::Pong(Pong { session: "s".to_owned(), version: "0.1.0".to_owned(), at }),
            Reply::Node { info: Info::default(), state: NodeState::death("s") },
            Reply::Job(job("j1")),
            Reply::Jobs(JobsPage { jobs: vec![job("j1"), bare], more: true }),
            Reply::Jobs(JobsPage::default()),
            Reply::Result(br#"{"id":"j1","outputs":[]}"#.to_vec()),
            Reply::Done,
            Reply::Error(ErrorBody::from(&Fault::new(Code::JobUnknown, "no job"))),
        ] {
            let body = reply.render();
            assert_eq!(Reply::parse(&body).unwrap(), reply, "{}", String::from_utf8_lossy(&body));
        }
        assert!(matches!(Reply::parse(&Reply::Result(b"oops".to_vec()).render()).unwrap(), Reply::Error(_)));
    }

    #[test]
    fn a_reply_of_an_older_or_newer_node_is_read_as_far_as_it_goes() {
        let status = &STATUS[1..STATUS.len() - 1];
        let old = format!(r#"{{"jobs":[{{"id":"a","model":"m","priority":5,{status}}}]}}"#);
        let Reply::Jobs(page) = Reply::parse(old.as_bytes()).unwrap() else { panic!("{old}") };
        assert_eq!((page.jobs.len(), page.more, page.jobs[0].result_kept), (1, false, None));
        assert_eq!(Reply::parse(br#"{"done":true,"mode":"busy"}"#).unwrap(), Reply::Done);
        assert!(Reply::parse(br#"{"moon":"full"}"#).unwrap_err().to_string().contains("no kind"));
    }

    #[test]
    fn a_page_ends_at_its_count_or_where_its_bytes_are_used_up_and_says_so() {
        let jobs = || (0..10).map(|number| job(&format!("job-{number}")));
        let ids = |page: &JobsPage| page.jobs.iter().map(|job| job.id.clone()).collect::<Vec<_>>();
        let page = JobsPage::fill(jobs(), 3, usize::MAX);
        assert_eq!((ids(&page), page.more), (vec!["job-0".into(), "job-1".into(), "job-2".into()], true));
        assert!(!JobsPage::fill(jobs(), 10, usize::MAX).more);
        for bytes_max in [0, 100, 1000, 2000, 5000] {
            let page = JobsPage::fill(jobs(), 10, bytes_max);
            let bytes = Reply::Jobs(page.clone()).render().len();
            assert!(page.jobs.is_empty() || bytes <= bytes_max, "{bytes} > {bytes_max}");
            assert_eq!(page.more, page.jobs.len() < 10);
        }
    }
}
