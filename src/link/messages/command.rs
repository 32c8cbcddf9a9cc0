//! What is asked of a node? Commands, `down/cmd/{name}`, and the site's hold.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{millis, render};
use crate::fault::{Code, Fault};
use crate::link::json;
use crate::units::JobId;

/// Most jobs in one reply.
pub const JOBS_IN_REPLY_MAX: u32 = 1000;
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
    Jobs(JobsQuery),
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
        /// For so long; until resumed or released otherwise.
        span: Option<Duration>,
    },
    /// End of a hold; a drain stays.
    Release,
}

/// Which jobs are asked for.
///
/// On the wire `{"max":100,"after":"<job id>","open":true,"unacknowledged":true}`, all of it optional.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JobsQuery {
    /// At most so many, 1 to 1000; a reply may hold fewer, because it must fit a packet.
    pub max: u32,
    /// In which order, and from where on.
    pub listing: Listing,
    /// `true`: list the unfinished ones. `false`: leave them out.
    pub open: Option<bool>,
    /// The same for those that have ended and whose result nobody has acknowledged.
    pub unacknowledged: Option<bool>,
}

/// In which order jobs are listed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Listing {
    /// Unfinished ones first, then those that changed last: for people. There is no next page.
    Newest,
    /// By id: for those who page. On the wire `"after":"<last id>"`, and `"after":""` for the first page.
    ById {
        /// Behind this one; from the first one otherwise.
        after: Option<JobId>,
    },
}

impl JobsQuery {
    /// Everything that still matters to a controller, page by page: what is unfinished, and every result it has not
    /// acknowledged.
    pub const fn unsettled(after: Option<JobId>, max: u32) -> Self {
        Self { max, listing: Listing::ById { after }, open: Some(true), unacknowledged: Some(true) }
    }

    /// Whether a job of that kind is listed. Several `true` add up; `false` leaves out; nothing said lists everything.
    pub const fn lists(&self, is_open: bool, is_unacknowledged: bool) -> bool {
        let open = (matches!(self.open, Some(true)), matches!(self.open, Some(false)));
        let results = (matches!(self.unacknowledged, Some(true)), matches!(self.unacknowledged, Some(false)));
        if open.0 || results.0 {
            return (open.0 && is_open) || (results.0 && is_unacknowledged);
        }
        !((open.1 && is_open) || (results.1 && is_unacknowledged))
    }
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
    #[serde(skip_serializing_if = "Option::is_none")]
    after: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    open: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    unacknowledged: Option<bool>,
}

#[derive(Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct HoldWire {
    #[serde(skip_serializing_if = "Option::is_none")]
    for_ms: Option<u64>,
}

impl Command {
    /// Every command's name.
    pub const NAMES: [&'static str; 8] = ["ping", "describe", "jobs", "result", "drain", "resume", "hold", "release"];

    /// Last level of its topic.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Ping => "ping",
            Self::Describe { .. } => "describe",
            Self::Jobs(_) => "jobs",
            Self::Result { .. } => "result",
            Self::Drain => "drain",
            Self::Resume => "resume",
            Self::Hold { .. } => "hold",
            Self::Release => "release",
        }
    }

    /// The body.
    pub fn render(&self) -> Vec<u8> {
        match self {
            Self::Ping | Self::Drain | Self::Resume | Self::Release => render(&Nothing {}),
            Self::Describe { job } => render(&DescribeWire { job: job.as_ref().map(ToString::to_string) }),
            Self::Jobs(query) => render(&query.to_wire()),
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
        "release" => read::<Nothing>(name, body).map(|_| Command::Release),
        "describe" => {
            let wire: DescribeWire = read(name, body)?;
            Ok(Command::Describe { job: wire.job.map(|id| job_id(&id)).transpose()? })
        }
        "jobs" => JobsQuery::from_wire(read(name, body)?).map(Command::Jobs),
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

impl JobsQuery {
    fn to_wire(&self) -> JobsWire {
        let after = match &self.listing {
            Listing::Newest => None,
            Listing::ById { after: None } => Some(String::new()),
            Listing::ById { after: Some(id) } => Some(id.to_string()),
        };
        JobsWire { max: Some(self.max), after, open: self.open, unacknowledged: self.unacknowledged }
    }

    fn from_wire(wire: JobsWire) -> Result<Self, Fault> {
        let max = wire.max.unwrap_or(JOBS_IN_REPLY_MAX);
        if !(1..=JOBS_IN_REPLY_MAX).contains(&max) {
            let text = format!("jobs: max {max} is not allowed; use 1 to {JOBS_IN_REPLY_MAX}, and after for the rest");
            return Err(Fault::new(Code::JobMalformed, text));
        }
        let listing = match wire.after.as_deref() {
            None => Listing::Newest,
            Some("") => Listing::ById { after: None },
            Some(id) => Listing::ById { after: Some(job_id(id)?) },
        };
        Ok(Self { max, listing, open: wire.open, unacknowledged: wire.unacknowledged })
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
            Command::Jobs(JobsQuery { max: 10, listing: Listing::Newest, open: None, unacknowledged: None }),
            Command::Jobs(JobsQuery { open: Some(false), ..JobsQuery::unsettled(None, 1000) }),
            Command::Jobs(JobsQuery::unsettled(Some(job.clone()), 1)),
            Command::Result { job },
            Command::Drain,
            Command::Resume,
            Command::Hold { span: None },
            Command::Hold { span: Some(Duration::from_secs(900)) },
            Command::Release,
        ] {
            assert_eq!(parse_command(command.name(), &command.render()).unwrap(), command);
            assert!(Command::NAMES.contains(&command.name()));
        }
    }

    #[test]
    fn an_empty_body_is_enough_where_nothing_is_needed() {
        for name in ["ping", "describe", "jobs", "drain", "resume", "hold", "release"] {
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
            ("jobs", r#"{"after":"a b"}"#, Code::JobMalformed, "a b"),
            ("jobs", r#"{"offset":1}"#, Code::JobMalformed, "offset"),
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
    fn a_page_is_asked_for_as_the_protocol_writes_it() {
        let Command::Jobs(query) = parse_command("jobs", br#"{"max":5,"after":"","open":true}"#).unwrap() else {
            panic!("another command");
        };
        assert_eq!((query.max, &query.listing), (5, &Listing::ById { after: None }));
        let body = Command::Jobs(JobsQuery::unsettled(Some("j1".parse().unwrap()), 100)).render();
        assert_eq!(String::from_utf8(body).unwrap(), r#"{"max":100,"after":"j1","open":true,"unacknowledged":true}"#);
        let Command::Jobs(query) = parse_command("jobs", b"").unwrap() else { panic!("another command") };
        assert_eq!((query.max, query.listing), (JOBS_IN_REPLY_MAX, Listing::Newest));
    }

    #[test]
    fn what_is_asked_for_adds_up_and_what_is_not_wanted_is_left_out() {
        // Of an unfinished job, one with a result, one whose result was acknowledged.
        let listed = |open, unacknowledged| {
            let query = JobsQuery { open, unacknowledged, ..JobsQuery::unsettled(None, 1) };
            [(true, false), (false, true), (false, false)].map(|(open, result)| query.lists(open, result))
        };
        assert_eq!(listed(None, None), [true, true, true]);
        assert_eq!(listed(Some(true), None), [true, false, false]);
        assert_eq!(listed(None, Some(true)), [false, true, false]);
        assert_eq!(listed(Some(true), Some(true)), [true, true, false]);
        assert_eq!(listed(Some(false), None), [false, true, true]);
        assert_eq!(listed(Some(false), Some(true)), [false, true, false]);
        assert_eq!(listed(None, Some(false)), [true, false, true]);
        assert_eq!(listed(Some(true), Some(false)), [true, false, false]);
        assert_eq!(listed(Some(false), Some(false)), [false, false, true]);
    }
}
