//! Commands, `down/cmd/{name}`, and the replies to them; and the site's hold.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::node::StateWire;
use super::{BadMessage, ErrorBody, Info, NodeState, Status, millis, parse, render, status, time};
use crate::fault::{Code, Fault};
use crate::link::json;
use crate::units::{JobId, WallTime};

/// Most jobs in one reply.
const JOBS_IN_REPLY_MAX: u32 = 1000;
/// Largest body of a command, in bytes.
const COMMAND_BYTES_MAX: usize = 4096;
/// Longest hold that can be asked for.
const HOLD_MAX: Duration = Duration::from_secs(7 * 24 * 3600);

/// What a controller asks of a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// Is it there?
    Ping,
    /// What is it, or how does this job stand?
    Describe {
        /// The job; the node itself otherwise.
        job: Option<JobId>,
    },
    /// Which jobs does it know?
    Jobs {
        /// At most so many, 1 to 1000.
        max: u32,
    },
    /// Say the result of this job again.
    Result {
        /// The job.
        job: JobId,
    },
    /// Take no new jobs, run none.
    Drain,
    /// End of drain and hold.
    Resume,
    /// Run nothing.
    Hold {
        /// For so long; until resumed otherwise.
        span: Option<Duration>,
    },
}

#[derive(Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Nothing {}

#[derive(Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct DescribeWire {
    #[serde(skip_serializing_if = "Option::is_none")]
    job: Option<String>,
}

#[derive(Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct JobsWire {
    #[serde(skip_serializing_if = "Option::is_none")]
    max: Option<u32>,
}

#[derive(Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct HoldWire {
    #[serde(skip_serializing_if = "Option::is_none")]
    for_ms: Option<u64>,
}

impl Command {
    /// Every command's name.
    pub const NAMES: [&'static str; 7] = ["ping", "describe", "jobs", "result", "drain", "resume", "hold"];

    /// Last level of its topic.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Ping => "ping",
            Self::Describe { .. } => "describe",
            Self::Jobs { .. } => "jobs",
            Self::Result { .. } => "result",
            Self::Drain => "drain",
            Self::Resume => "resume",
            Self::Hold { .. } => "hold",
        }
    }

    /// The body.
    pub fn render(&self) -> Vec<u8> {
        match self {
            Self::Ping | Self::Drain | Self::Resume => render(&Nothing {}),
            Self::Describe { job } => render(&DescribeWire { job: job.as_ref().map(ToString::to_string) }),
            Self::Jobs { max } => render(&JobsWire { max: Some(*max) }),
            Self::Result { job } => render(&DescribeWire { job: Some(job.to_string()) }),
            Self::Hold { span } => render(&HoldWire { for_ms: span.map(millis) }),
        }
    }
}

/// Reads the command `name`; an empty body is `{}`.
///
/// # Errors
/// `job.unsupported` for an unknown name, `job.malformed` for a body that does not fit, `job.too_large`.
pub fn parse_command(name: &str, body: &[u8]) -> Result<Command, Fault> {
    match name {
        "ping" => read::<Nothing>(name, body).map(|_| Command::Ping),
        "drain" => read::<Nothing>(name, body).map(|_| Command::Drain),
        "resume" => read::<Nothing>(name, body).map(|_| Command::Resume),
        "describe" => {
            let wire: DescribeWire = read(name, body)?;
            Ok(Command::Describe { job: wire.job.map(|id| job_id(&id)).transpose()? })
        }
        "jobs" => {
            let max = read::<JobsWire>(name, body)?.max.unwrap_or(JOBS_IN_REPLY_MAX);
            if !(1..=JOBS_IN_REPLY_MAX).contains(&max) {
                let text = format!("jobs: max {max} is not allowed; use 1 to {JOBS_IN_REPLY_MAX}");
                return Err(Fault::new(Code::JobMalformed, text));
            }
            Ok(Command::Jobs { max })
        }
        "result" => match read::<DescribeWire>(name, body)?.job {
            Some(id) => Ok(Command::Result { job: job_id(&id)? }),
            None => Err(Fault::new(Code::JobMalformed, "result: needs {\"job\":\"<id>\"}")),
        },
        "hold" => Ok(Command::Hold { span: hold_span(name, body)? }),
        _ => {
            let name: String = name.chars().take(40).collect();
            let text = format!("command {name:?} is unknown; use one of {}", Command::NAMES.join(", "));
            Err(Fault::new(Code::JobUnsupported, text))
        }
    }
}

/// Reads the site's hold: `None` is its end (an empty body clears the retained message), otherwise how long it holds,
/// if that is limited.
///
/// # Errors
/// `job.malformed` for a body that does not fit.
pub fn parse_hold(body: &[u8]) -> Result<Option<Option<Duration>>, Fault> {
    if body.is_empty() { Ok(None) } else { hold_span("hold", body).map(Some) }
}

fn hold_span(name: &str, body: &[u8]) -> Result<Option<Duration>, Fault> {
    let span = read::<HoldWire>(name, body)?.for_ms.map(Duration::from_millis);
    match span {
        Some(span) if span > HOLD_MAX => {
            let text = format!("hold: for_ms {} exceeds {}; renew it instead", millis(span), millis(HOLD_MAX));
            Err(Fault::new(Code::JobLimitExceedsPolicy, text))
        }
        Some(_) | None => Ok(span),
    }
}

fn read<T: for<'de> Deserialize<'de> + Default>(name: &str, body: &[u8]) -> Result<T, Fault> {
    if body.is_empty() {
        return Ok(T::default());
    }
    if body.len() > COMMAND_BYTES_MAX {
        let text = format!("command {name}: body of {} bytes exceeds {COMMAND_BYTES_MAX}", body.len());
        return Err(Fault::new(Code::JobTooLarge, text));
    }
    json::object(name, json::text(name, body)?)
}

fn job_id(text: &str) -> Result<JobId, Fault> {
    text.parse().map_err(|error: crate::units::BadName| Fault::new(Code::JobMalformed, error.to_string()))
}

// ---- replies ----

/// What a node answers.
#[derive(Clone, Debug, PartialEq)]
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
    Jobs(Vec<JobSummary>),
    /// To `result`: the body that the result topic carries, for [`super::parse_result`].
    Result(Vec<u8>),
    /// To `drain`, `resume`, `hold`.
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

/// One job in a reply.
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
    /// Why it is not running, when it waits.
    pub waiting: Option<String>,
    /// Where it stands.
    pub status: Status,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum ReplyWire {
    Pong(Pong),
    Node(Box<NodeWire>),
    Job(Box<SummaryWire>),
    Jobs(Vec<SummaryWire>),
    Result(Box<RawValue>),
    Done(bool),
    Error(ErrorBody),
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
    #[serde(flatten)]
    status: status::Wire,
}

impl Reply {
    /// The body: an object whose one member names the kind of reply.
    pub fn render(&self) -> Vec<u8> {
        render(&match self {
            Self::Pong(pong) => ReplyWire::Pong(pong.clone()),
            Self::Node { info, state } => {
                ReplyWire::Node(Box::new(NodeWire { info: info.clone(), state: state.to_wire() }))
            }
            Self::Job(job) => ReplyWire::Job(Box::new(job.to_wire())),
            Self::Jobs(jobs) => ReplyWire::Jobs(jobs.iter().map(JobSummary::to_wire).collect()),
            Self::Result(body) => match serde_json::from_slice(body) {
                Ok(raw) => ReplyWire::Result(raw),
                Err(error) => {
                    let fault = Fault::new(Code::StateCorrupt, format!("the stored result is not JSON: {error}"));
                    ReplyWire::Error(ErrorBody::from(&fault))
                }
            },
            Self::Done => ReplyWire::Done(true),
            Self::Error(error) => ReplyWire::Error(error.clone()),
        })
    }

    /// Reads a body.
    ///
    /// # Errors
    /// When it is not a reply.
    pub fn parse(body: &[u8]) -> Result<Self, BadMessage> {
        Ok(match parse("reply", body)? {
            ReplyWire::Pong(pong) => Self::Pong(pong),
            ReplyWire::Node(node) => Self::Node { info: node.info, state: NodeState::from_wire(node.state)? },
            ReplyWire::Job(job) => Self::Job(JobSummary::from_wire(*job)?),
            ReplyWire::Jobs(jobs) => {
                Self::Jobs(jobs.into_iter().map(JobSummary::from_wire).collect::<Result<_, BadMessage>>()?)
            }
            ReplyWire::Result(raw) => Self::Result(raw.get().as_bytes().to_vec()),
            ReplyWire::Done(_) => Self::Done,
            ReplyWire::Error(error) => Self::Error(error),
        })
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
            status: Status::from_wire(wire.status)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_command_survives() {
        let job: JobId = "j1".parse().unwrap();
        for command in [
            Command::Ping,
            Command::Describe { job: None },
            Command::Describe { job: Some(job.clone()) },
            Command::Jobs { max: 10 },
            Command::Result { job },
            Command::Drain,
            Command::Resume,
            Command::Hold { span: None },
            Command::Hold { span: Some(Duration::from_secs(900)) },
        ] {
            assert_eq!(parse_command(command.name(), &command.render()).unwrap(), command);
            assert!(Command::NAMES.contains(&command.name()));
        }
    }

    #[test]
    fn an_empty_body_is_enough_where_nothing_is_needed() {
        for name in ["ping", "describe", "jobs", "drain", "resume", "hold"] {
            assert!(parse_command(name, b"").is_ok(), "{name}");
        }
        assert!(parse_command("result", b"").unwrap_err().message.contains("job"));
    }

    #[test]
    fn wrong_commands_are_refused_by_name() {
        for (name, body, code, word) in [
            ("reboot", "", Code::JobUnsupported, "reboot"),
            ("hold", r#"{"for":1}"#, Code::JobMalformed, "`for`"),
            ("hold", r#"{"for_ms":99999999999}"#, Code::JobLimitExceedsPolicy, "99999999999"),
            ("jobs", r#"{"max":0}"#, Code::JobMalformed, "1 to 1000"),
            ("describe", r#"{"job":"a b"}"#, Code::JobMalformed, "a b"),
            ("ping", "x", Code::JobMalformed, "ping"),
        ] {
            let fault = parse_command(name, body.as_bytes()).unwrap_err();
            assert_eq!(fault.code, code, "{fault}");
            assert!(fault.message.contains(word), "{fault}");
        }
        assert_eq!(parse_command("ping", &[b' '; 5000]).unwrap_err().code, Code::JobTooLarge);
    }

    #[test]
    fn an_empty_hold_ends_it() {
        assert_eq!(parse_hold(b"").unwrap(), None);
        assert_eq!(parse_hold(b"{}").unwrap(), Some(None));
        assert_eq!(parse_hold(br#"{"for_ms":5}"#).unwrap(), Some(Some(Duration::from_millis(5))));
    }

    #[test]
    fn every_reply_survives() {
        let at = WallTime::from_millis(1_764_000_000_000);
        let status = Status::parse(br#"{"status":"QUEUED","version":1,"attempt":0,"at":"2026-11-22T01:10:07.311Z","reason":"accepted","progress":{"done":0,"total":1},"yields":0,"suspended_ms":0}"#).unwrap();
        let job = JobSummary {
            id: "j1".to_owned(),
            model: "m".to_owned(),
            priority: 5,
            deadline: Some(at),
            waiting: Some("load".to_owned()),
            status,
        };
        for reply in [
            Reply::Pong(Pong { session: "s".to_owned(), version: "0.1.0".to_owned(), at }),
            Reply::Node { info: Info::default(), state: NodeState::death("s") },
            Reply::Job(job.clone()),
            Reply::Jobs(vec![job.clone(), JobSummary { deadline: None, waiting: None, ..job }]),
            Reply::Result(br#"{"id":"j1","outputs":[]}"#.to_vec()),
            Reply::Done,
            Reply::Error(ErrorBody::from(&Fault::new(Code::JobUnknown, "no job"))),
        ] {
            let body = reply.render();
            assert_eq!(Reply::parse(&body).unwrap(), reply, "{}", String::from_utf8_lossy(&body));
        }
        assert!(matches!(Reply::parse(&Reply::Result(b"oops".to_vec()).render()).unwrap(), Reply::Error(_)));
    }
}
