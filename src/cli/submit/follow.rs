//! What becomes of a job? Its statuses and its result, as they arrive.

use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use tokio::time::timeout;

use crate::cli::failure::{Class, Failure};
use crate::cli::out::clean;
use crate::cli::session::{self, Session};
use crate::fault::Code;
use crate::jobs::job::State;
use crate::link::messages::{Command, ErrorBody, NodeEvent, NodeState, Outcome, Reply, Status, parse_result};
use crate::units::JobId;

/// How long a result may be late behind the status that announces it.
const RESULT_WAIT: Duration = Duration::from_secs(3);

/// What is known of a job.
#[derive(Debug, Default)]
pub(super) struct Seen {
    /// Latest status.
    pub(super) status: Option<Status>,
    /// Body of the result topic.
    pub(super) result: Option<Vec<u8>>,
    node: Option<NodeState>,
    /// The id is taken by another job: its statuses are not about ours.
    conflict: Option<ErrorBody>,
}

/// Follows the job until the node's first word about it, or with `to_the_end` until its result is there.
pub(super) async fn until(session: &mut Session, id: &JobId, to_the_end: bool, seen: &mut Seen) -> Result<(), Failure> {
    let bar = to_the_end.then(bar);
    let (status_topic, result_topic) = (session.topics.job(id), session.topics.result(id));
    let (state_topic, event_topic) = (session.topics.state(), session.topics.event());
    loop {
        if seen.is_enough(to_the_end) {
            break;
        }
        // A status can overtake its result, and either can be lost with the broker: the node is asked then.
        let ended = seen.status.as_ref().is_some_and(|status| status.status.is_terminal());
        let message = if ended {
            match timeout(RESULT_WAIT, session.next()).await {
                Ok(message) => message?,
                Err(_) => {
                    seen.result = asked(session, id).await;
                    break;
                }
            }
        } else {
            session.next().await?
        };
        let unreadable = |error: crate::link::messages::BadMessage| Failure::new(Class::Data, error.to_string());
        if message.topic == status_topic {
            let status = Status::parse(&message.body).map_err(unreadable)?;
            if seen.status.as_ref().is_none_or(|known| status.version > known.version) {
                if let Some(bar) = &bar {
                    show(bar, id, &status);
                }
                seen.status = Some(status);
            }
        } else if message.topic == result_topic {
            seen.result = Some(message.body);
        } else if message.topic == event_topic {
            seen.conflict = conflict(id, &message.body);
        } else if message.topic == state_topic {
            seen.node = NodeState::parse(&message.body).ok();
            if let (Some(bar), Some(NodeState::Offline { .. })) = (&bar, &seen.node) {
                bar.set_message("the node is offline; the broker keeps the job");
            }
        }
    }
    if let Some(bar) = bar {
        bar.finish_and_clear();
    }
    Ok(())
}

/// Whether an event says that the id is taken. It comes as an event, because the id's topics are the other job's.
fn conflict(id: &JobId, body: &[u8]) -> Option<ErrorBody> {
    let NodeEvent::Alarm { code, message, .. } = NodeEvent::parse(body).ok()? else { return None };
    let ours = code == Code::JobIdConflict.as_str() && message.starts_with(&format!("job {id} "));
    ours.then_some(ErrorBody { code, message, retryable: false })
}

async fn asked(session: &mut Session, id: &JobId) -> Option<Vec<u8>> {
    match session.request(&Command::Result { job: id.clone() }).await {
        Ok(Reply::Result(body)) => Some(body),
        Ok(Reply::Pong(_) | Reply::Node { .. } | Reply::Job(_) | Reply::Jobs(_) | Reply::Done | Reply::Error(_))
        | Err(_) => None,
    }
}

impl Seen {
    fn is_enough(&self, to_the_end: bool) -> bool {
        if self.conflict.is_some() {
            return true;
        }
        let ended = self.status.as_ref().is_some_and(|status| status.status.is_terminal());
        // An error needs no result: the status carries it.
        let told = self.result.is_some() || self.error().is_some();
        if to_the_end { ended && told } else { self.status.is_some() }
    }

    fn error(&self) -> Option<ErrorBody> {
        let from_result = self.result.as_deref().and_then(|body| match parse_result(body) {
            Ok(Outcome::Error(error)) => Some(error),
            Ok(Outcome::Done(_)) | Err(_) => None,
        });
        from_result.or_else(|| self.status.as_ref()?.error.clone())
    }

    /// The failure that a job which did not succeed amounts to.
    pub(super) fn failure(&self) -> Option<Failure> {
        if let Some(error) = &self.conflict {
            return Some(session::failed(error));
        }
        let status = self.status.as_ref()?;
        let class = match status.status {
            State::Queued | State::InProgress | State::Suspended | State::Succeeded => return None,
            State::Failed | State::Rejected => Class::Data,
            State::TimedOut | State::Canceled => Class::TemporaryFailure,
        };
        Some(match self.error() {
            Some(error) if class == Class::Data => session::failed(&error),
            Some(error) => Failure::new(class, session::failed(&error).text),
            None => Failure::new(class, format!("{} ({})", status.status.as_str(), clean(&status.reason, 200))),
        })
    }

    /// The failure of having waited for too long.
    pub(super) fn unfinished(&self, id: &JobId, wait: Duration) -> Failure {
        let stand = match (&self.status, &self.node) {
            (Some(status), _) => format!("it is {} ({})", status.status.as_str(), clean(&status.reason, 200)),
            (None, Some(NodeState::Offline { cause, .. })) => {
                format!("its node is offline ({}); the broker keeps the job", clean(cause, 40))
            }
            (None, Some(NodeState::Online { mode, .. })) => {
                format!("its node is online ({}), but has said nothing about it", clean(mode, 40))
            }
            (None, None) => "no such node has ever been seen at this broker: check --node and --root".to_owned(),
        };
        let text = format!(
            "job {id} is not done after {} s: {stand}; neap result {id} shows what comes of it",
            wait.as_secs_f64()
        );
        Failure::new(Class::TemporaryFailure, text)
    }
}

/// A progress bar on standard error; nothing where that is no terminal.
fn bar() -> ProgressBar {
    let bar = ProgressBar::with_draw_target(Some(1), ProgressDrawTarget::stderr());
    let style = ProgressStyle::with_template("{prefix} [{bar:30}] {pos}/{len} {msg}");
    if let Ok(style) = style {
        bar.set_style(style.progress_chars("=> "));
    }
    bar.set_message("sent");
    bar.enable_steady_tick(Duration::from_millis(200));
    bar
}

fn show(bar: &ProgressBar, id: &JobId, status: &Status) {
    bar.set_prefix(id.to_string());
    bar.set_length(status.progress.total.into());
    bar.set_position(status.progress.done.into());
    let yields = if status.yields > 0 { format!(", yielded {} times", status.yields) } else { String::new() };
    bar.set_message(format!("{} ({}{yields})", status.status.as_str(), clean(&status.reason, 80)));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fault::Fault;
    use crate::link::messages::{Progress, render_error};
    use crate::units::WallTime;

    fn status(state: State) -> Status {
        Status {
            status: state,
            version: 1,
            attempt: 1,
            at: WallTime::default(),
            reason: "why".to_owned(),
            progress: Progress { done: 0, total: 1 },
            yields: 0,
            suspended: Duration::ZERO,
            error: None,
        }
    }

    fn seen(state: State, result: Option<Vec<u8>>) -> Seen {
        Seen { status: Some(status(state)), result, ..Seen::default() }
    }

    #[test]
    fn a_job_is_followed_to_its_end_and_its_result() {
        assert!(!Seen::default().is_enough(false));
        assert!(seen(State::Queued, None).is_enough(false));
        assert!(!seen(State::Queued, None).is_enough(true));
        assert!(!seen(State::Succeeded, None).is_enough(true));
        assert!(seen(State::Succeeded, Some(Vec::new())).is_enough(true));
    }

    #[test]
    fn a_failed_job_exits_by_what_its_error_says() {
        let class =
            |code| seen(State::Failed, Some(render_error(&Fault::new(code, "x")))).failure().unwrap().class.code();
        assert_eq!((class(Code::ModelUnknown), class(Code::WorkerCrashed)), (65, 75));
        assert_eq!(seen(State::Canceled, None).failure().unwrap().class.code(), 75);
        assert_eq!(seen(State::Succeeded, None).failure(), None);
    }

    #[test]
    fn only_the_conflict_of_our_own_id_ends_the_wait() {
        let event = |code: &str, message: &str| {
            NodeEvent::Alarm { code: code.to_owned(), message: message.to_owned(), at: WallTime::default() }.render()
        };
        let id: JobId = "j1".parse().unwrap();
        assert!(conflict(&id, &event("job.id_conflict", "job j1 is known with another body")).is_some());
        assert!(conflict(&id, &event("job.id_conflict", "job j10 is known with another body")).is_none());
        assert!(conflict(&id, &event("job.unknown", "job j1 is not known")).is_none());
    }

    #[test]
    fn waiting_in_vain_says_why_and_what_to_do() {
        let id: JobId = "j1".parse().unwrap();
        let text = |seen: Seen| seen.unfinished(&id, Duration::from_secs(10)).text;
        assert!(text(Seen::default()).contains("check --node"));
        assert!(text(seen(State::Suspended, None)).contains("SUSPENDED"));
        let offline = Seen { node: Some(NodeState::will("s")), ..Seen::default() };
        assert!(text(offline).contains("offline (lost)"), "offline");
    }
}
