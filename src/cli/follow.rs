//! What becomes of a job? Its statuses and its result as they arrive, and what is asked when they do not.
//!
//! The node is asked after each connect, at each birth of the node, and every so often: by what it says, the result is
//! fetched, or the job is submitted again under its id. What to do is decided in [`reconcile`](crate::link::reconcile); this file does it.

use std::io::{self, Write as _};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use tokio::time::sleep;

use super::failure::{Class, Failure};
use super::out::{Out, clean};
use super::session::{self, Heard, Session};
use super::show;
use crate::fault::Code;
use crate::jobs::job::State;
use crate::link::Publish;
use crate::link::messages::{
    BadMessage, Command, ErrorBody, JobSummary, NodeEvent, NodeState, Outcome, Reply, Status, parse_result,
};
use crate::link::reconcile::{Known, Rounds, Standing, Step, step};
use crate::sys::{clock, random};
use crate::units::{Digest, JobId};

/// How long a result may be late behind the status that announces it before the node is asked.
const RESULT_WAIT: Duration = Duration::from_secs(3);

/// A job, and how far it is followed.
#[derive(Debug)]
pub(super) struct Wanted<'a> {
    /// Which.
    pub(super) id: &'a JobId,
    /// The submit, to be sent now and whenever the node does not know the job, and the digest of its body; nothing
    /// when it was submitted long ago.
    pub(super) submit: Option<(&'a Publish, Digest)>,
    /// Until its result is there; else until the node's first word about it.
    pub(super) to_the_end: bool,
    /// How often the node is asked.
    pub(super) ask_every: Duration,
}

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
    /// What is missing will not come any more.
    gone: Option<ErrorBody>,
    /// The broker has not acknowledged the submit yet.
    undelivered: bool,
}

/// Follows the job as far as is wanted.
pub(super) async fn until(session: &mut Session, wanted: &Wanted<'_>, seen: &mut Seen) -> Result<(), Failure> {
    let rounds = Rounds::new(wanted.ask_every, clock::now(), random());
    let bar = wanted.to_the_end.then(bar);
    let mut follower = Follower { session, wanted, seen, rounds, bar, asked: None, submit: None };
    let done = follower.follow().await;
    if let Some(bar) = follower.bar {
        bar.finish_and_clear();
    }
    done
}

struct Follower<'a> {
    session: &'a mut Session,
    wanted: &'a Wanted<'a>,
    seen: &'a mut Seen,
    rounds: Rounds,
    bar: Option<ProgressBar>,
    /// Mark of the reply that is waited for.
    asked: Option<Vec<u8>>,
    /// Token of the submit that the broker has not acknowledged.
    submit: Option<u64>,
}

impl Follower<'_> {
    async fn follow(&mut self) -> Result<(), Failure> {
        self.submit().await?;
        if self.wanted.submit.is_none() {
            self.rounds.within(clock::now(), Duration::ZERO);
        }
        while !self.seen.is_enough(self.wanted.to_the_end) {
            let wait = self.rounds.due().since(clock::now());
            let heard = tokio::select! {
                heard = self.session.hear() => Some(heard?),
                () = sleep(wait) => None,
            };
            match heard {
                Some(Heard::Message(message)) => self.message(&message).await?,
                Some(Heard::Up) => self.up().await?,
                Some(Heard::Down { why }) => self.note(&format!("connection lost: {why}")),
                Some(Heard::Delivered { token }) if self.submit == Some(token) => self.delivered(),
                Some(Heard::Refused { token, why }) if self.submit == Some(token) => {
                    return Err(session::refused(&self.session.topics.submit(self.wanted.id), &why));
                }
                Some(Heard::Delivered { .. } | Heard::Refused { .. }) => {}
                None => self.ask().await?,
            }
        }
        Ok(())
    }

    /// Sends the job, for the first time or again: the node runs what it knows by this id only once.
    async fn submit(&mut self) -> Result<(), Failure> {
        if let Some((submit, _)) = self.wanted.submit {
            self.submit = Some(self.session.post(submit.clone()).await?);
            self.seen.undelivered = true;
        }
        Ok(())
    }

    fn delivered(&mut self) {
        self.submit = None;
        self.seen.undelivered = false;
    }

    /// Whatever was under way may be lost, in either direction.
    async fn up(&mut self) -> Result<(), Failure> {
        self.note("connected again, asking the node for the job");
        if self.seen.undelivered {
            self.submit().await?;
        }
        self.asked = None;
        self.rounds.soon(clock::now(), random());
        Ok(())
    }

    /// A round: how does the job stand? Where that is known, what came of it?
    async fn ask(&mut self) -> Result<(), Failure> {
        self.rounds.begin(clock::now(), random());
        if self.session.is_up() {
            self.show("asking the node");
            self.order(&Command::Describe { job: Some(self.wanted.id.clone()) }).await?;
        }
        Ok(())
    }

    async fn order(&mut self, order: &Command) -> Result<(), Failure> {
        let (message, mark) = self.session.order(order);
        self.session.post(message).await?;
        self.asked = Some(mark);
        Ok(())
    }

    async fn message(&mut self, message: &Publish) -> Result<(), Failure> {
        let topics = &self.session.topics;
        let id = self.wanted.id;
        let unreadable = |error: BadMessage| Failure::new(Class::Data, error.to_string());
        if message.topic == topics.job(id) {
            self.status(Status::parse(&message.body).map_err(unreadable)?);
        } else if message.topic == topics.result(id) {
            self.seen.result = Some(message.body.clone());
        } else if message.topic == topics.event() {
            self.seen.conflict = self.seen.conflict.take().or(conflict(id, &message.body));
        } else if message.topic == topics.state() {
            self.state(NodeState::parse(&message.body).ok());
        } else if self.asked.as_ref().is_some_and(|mark| self.session.is_reply(message, mark)) {
            self.asked = None;
            self.reply(Reply::parse(&message.body).map_err(unreadable)?).await?;
        }
        Ok(())
    }

    fn status(&mut self, status: Status) {
        if self.seen.status.as_ref().is_some_and(|known| status.version <= known.version) {
            return;
        }
        if let Some(bar) = &self.bar {
            progress(bar, self.wanted.id, &status);
        }
        // A status can overtake its result, and either can be lost with the broker.
        if status.status.is_terminal() {
            self.rounds.within(clock::now(), RESULT_WAIT);
        }
        self.seen.status = Some(status);
    }

    fn state(&mut self, state: Option<NodeState>) {
        match &state {
            Some(NodeState::Offline { .. }) => self.show("the node is offline; the broker keeps the job"),
            // A birth: what the node said before may be lost.
            Some(NodeState::Online { open_jobs: Some(_), .. }) => self.rounds.soon(clock::now(), random()),
            Some(NodeState::Online { open_jobs: None, .. }) | None => {}
        }
        self.seen.node = state;
    }

    async fn reply(&mut self, reply: Reply) -> Result<(), Failure> {
        match reply {
            Reply::Job(job) => self.stands(&job).await,
            Reply::Result(body) => {
                self.seen.result = Some(body);
                Ok(())
            }
            Reply::Error(error) => self.fault(error).await,
            Reply::Pong(_) | Reply::Node { .. } | Reply::Jobs(_) | Reply::Done => Ok(()),
        }
    }

    /// The node knows the job.
    async fn stands(&mut self, job: &JobSummary) -> Result<(), Failure> {
        let mine = self.wanted.submit.map(|(_, digest)| digest.to_string());
        if let (Some(mine), Some(theirs)) = (mine, &job.body_digest)
            && mine != *theirs
        {
            let message = format!("job {} is known with another body; send the new one under a new id", self.wanted.id);
            let code = Code::JobIdConflict.as_str().to_owned();
            self.seen.conflict = Some(ErrorBody { code, message, retryable: false });
            return Ok(());
        }
        self.status(job.status.clone());
        self.take(Standing::of(job)).await
    }

    async fn fault(&mut self, error: ErrorBody) -> Result<(), Failure> {
        let unknown = error.code == Code::JobUnknown.as_str();
        let ended = self.seen.has_ended();
        if unknown && !ended {
            self.take(Standing::Unknown).await
        } else {
            // A node that is busy, or a disk that is: the next round asks again.
            if !error.retryable {
                self.seen.gone = Some(error);
            }
            Ok(())
        }
    }

    async fn take(&mut self, standing: Standing) -> Result<(), Failure> {
        let id = self.wanted.id;
        let known = Known { has_ended: self.seen.has_ended(), has_result: self.seen.is_told() };
        match step(known, standing) {
            Step::Done => {}
            Step::Wait => {
                if let (Some(bar), Some(status)) = (&self.bar, &self.seen.status) {
                    progress(bar, id, status);
                }
            }
            Step::Fetch => {
                self.show("fetching the result");
                self.order(&Command::Result { job: id.clone() }).await?;
            }
            Step::Submit if self.wanted.submit.is_some() => {
                self.note("the node does not know the job: submitted again");
                self.submit().await?;
            }
            Step::Submit | Step::Lost => {
                let (code, message) = match standing {
                    Standing::Unknown => (Code::JobUnknown, format!("no job {id} is known here; submit it")),
                    Standing::Open | Standing::Ended { .. } => (
                        Code::JobUnknown,
                        format!("the result of job {id} is no longer kept; submit it under a new id to run it again"),
                    ),
                };
                self.seen.gone = Some(ErrorBody { code: code.as_str().to_owned(), message, retryable: false });
            }
        }
        Ok(())
    }

    /// What is being done, on the bar.
    fn show(&self, doing: &str) {
        if let Some(bar) = &self.bar {
            bar.set_message(doing.to_owned());
        }
    }

    /// Something worth a line on standard error, terminal or not.
    fn note(&self, what: &str) {
        // Nothing can be done when stderr is closed.
        let write = || _ = writeln!(io::stderr(), "neap: job {}: {}", self.wanted.id, clean(what, 300));
        match &self.bar {
            Some(bar) => bar.suspend(write),
            None => write(),
        }
    }
}

/// Whether an event says that the id is taken. It comes as an event, because the id's topics are the other job's.
fn conflict(id: &JobId, body: &[u8]) -> Option<ErrorBody> {
    let NodeEvent::Alarm { code, message, .. } = NodeEvent::parse(body).ok()? else { return None };
    let ours = code == Code::JobIdConflict.as_str() && message.starts_with(&format!("job {id} "));
    ours.then_some(ErrorBody { code, message, retryable: false })
}

impl Seen {
    fn has_ended(&self) -> bool {
        self.status.as_ref().is_some_and(|status| status.status.is_terminal())
    }

    /// Whether the result is there, or the error: a status carries that, and needs no result.
    fn is_told(&self) -> bool {
        self.result.is_some() || self.error().is_some()
    }

    fn is_enough(&self, to_the_end: bool) -> bool {
        let over = self.conflict.is_some() || self.gone.is_some();
        over || if to_the_end { self.has_ended() && self.is_told() } else { self.status.is_some() }
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
        if let Some(error) = self.conflict.as_ref().or(self.gone.as_ref()) {
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

    /// Prints what came of the job, and then, if it may, lets the node forget it: only what has been printed may be
    /// forgotten. The job's own failure decides the exit code.
    pub(super) async fn finish(
        &self,
        out: &Out,
        as_json: bool,
        session: &mut Session,
        id: &JobId,
        forget: bool,
    ) -> Result<(), Failure> {
        if let Some(result) = &self.result {
            if as_json {
                show::raw(out, result)?;
            } else {
                show::result(out, result)?;
            }
            if forget {
                session.send_bare(session.topics.ack(id)).await?;
            }
        }
        match self.failure() {
            Some(failure) if as_json && self.result.is_some() => Err(Failure::told(failure.class)),
            Some(failure) => Err(Failure::new(failure.class, format!("job {id}: {}", failure.text))),
            None => Ok(()),
        }
    }

    /// The failure of having waited for too long.
    pub(super) fn unfinished(&self, id: &JobId, wait: Duration) -> Failure {
        let stand = match (&self.status, &self.node) {
            (None, _) if self.undelivered => "the broker has not acknowledged it".to_owned(),
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

fn progress(bar: &ProgressBar, id: &JobId, status: &Status) {
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
