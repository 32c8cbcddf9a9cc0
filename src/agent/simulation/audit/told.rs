//! What may be told? Nothing that a crash undoes, unless the disk refuses; and to everybody the same.

use super::{Audit, Heard, print};
use crate::agent::simulation::trace::digest;
use crate::jobs::job::State;
use crate::link::Publish;
use crate::link::messages::{self, Outcome, Reply, Status};
use crate::link::topics::Up;
use crate::units::JobId;

impl Audit {
    /// The broker has answered a message of the outbox.
    pub(in crate::agent::simulation) fn delivered(&mut self, seq: u64) {
        self.answered.insert(seq);
    }

    /// The agent tells something: of its outbox, or something that the store does not keep.
    pub(in crate::agent::simulation) fn told(&mut self, token: Option<u64>, message: &Publish) -> Result<(), String> {
        if token.is_some() {
            self.untold.remove(&print(&message.topic, &message.body));
            return Ok(());
        }
        match self.topics.parse_up(&message.topic) {
            Some((_, Up::Job(id))) => {
                let status = Status::parse(&message.body).map_err(|error| error.to_string())?;
                self.told_past_the_store(&id, &status, &message.body)
            }
            // Not held against what is accepted: it may have waited for the link since the store refused the job, which
            // was sent again and taken meanwhile. A refusal that may pass does not end a job for who hears it.
            Some((_, Up::Result(id))) => {
                self.rejections.entry(id).or_default().push(message.body.clone());
                Ok(())
            }
            Some((_, _)) => Ok(()),
            None => self.replied(message),
        }
    }

    /// A status that the store does not keep: of a job that was refused; or while the disk refuses, when it may be of a
    /// change that was asked for and is not durable.
    fn told_past_the_store(&mut self, id: &JobId, status: &Status, body: &[u8]) -> Result<(), String> {
        if status.status == State::Rejected {
            return match self.refused.contains(id) {
                true => Ok(()),
                false => Err(format!("{id} is told to be rejected, and its submit was not refused")),
            };
        }
        if !self.has_refused {
            return Err(format!("a status of {id} is told past the store, and the disk has not refused"));
        }
        let key = (id.clone(), status.version);
        let durable = self.versions.get(id).copied().unwrap_or(0);
        // Of a version that was stored without being told this is the first word.
        if status.version == durable {
            self.statuses.entry(key.clone()).or_insert_with(|| digest(body));
        }
        if self.statuses.get(&key) == Some(&digest(body)) {
            return Ok(());
        }
        let wanted = self.wanted.get(id).map_or(0, |wanted| wanted.version);
        if status.version <= durable || status.version > wanted {
            let version = status.version;
            return Err(format!(
                "{id} is told past the store as of version {version}; {durable} is durable, {wanted} asked"
            ));
        }
        self.told_ahead.insert((key.0, key.1, digest(body)));
        Ok(())
    }

    /// A reply tells nothing about a job that a crash could undo.
    fn replied(&self, message: &Publish) -> Result<(), String> {
        let jobs = match Reply::parse(&message.body).map_err(|error| error.to_string())? {
            Reply::Job(job) => vec![job],
            Reply::Jobs(page) => page.jobs,
            Reply::Pong(_) | Reply::Node { .. } | Reply::Result(_) | Reply::Done | Reply::Error(_) => return Ok(()),
        };
        for job in jobs {
            let id: JobId = job.id.parse().map_err(|_| format!("a reply tells of {:?}", job.id))?;
            let durable = self.versions.get(&id).copied().unwrap_or(0);
            let waived = self.waived.get(&id).map_or(0, |waived| waived.version);
            if job.status.version > durable.max(waived) {
                let version = job.status.version;
                return Err(format!("a reply tells version {version} of {id}; {durable} is durable, {waived} taken"));
            }
        }
        Ok(())
    }

    /// The controller hears a status.
    pub(in crate::agent::simulation) fn heard_status(&self, id: &JobId, body: &[u8]) -> Result<(), String> {
        let status = Status::parse(body).map_err(|error| error.to_string())?;
        let is_known = self.statuses.get(&(id.clone(), status.version)) == Some(&digest(body));
        let is_ahead = self.told_ahead.contains(&(id.clone(), status.version, digest(body)));
        match is_known || is_ahead || status.status == State::Rejected {
            true => Ok(()),
            false => Err(format!("the controller hears a status of {id} that was never stored")),
        }
    }

    /// The controller hears a result.
    pub(in crate::agent::simulation) fn heard_result(&self, id: &JobId, body: &[u8]) -> Result<Heard, String> {
        if self.results.get(id).is_some_and(|result| result == body) {
            return Ok(Heard::Result);
        }
        let is_rejection = self.rejections.get(id).is_some_and(|known| known.iter().any(|known| known == body));
        match messages::parse_result(body) {
            // Sent without the retain flag it may well be accepted, so this is no last word either.
            Ok(Outcome::Error(error)) if is_rejection => {
                Ok(Heard::Rejection { retryable: error.retryable || error.code == "job.retained" })
            }
            Ok(Outcome::Error(_) | Outcome::Done(_)) | Err(_) => Err(format!(
                "the controller hears a result of {id} that is not its one: {}",
                String::from_utf8_lossy(body)
            )),
        }
    }
}
