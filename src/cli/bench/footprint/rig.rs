//! What is looked at? The real agent with a state, a broker and a notify socket of its own.

use std::fs;
use std::io;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::time::Duration;

use super::stub::Stub;
use crate::cli::bench::go_on;
use crate::cli::failure::{Class, Failure};
use crate::cli::stage::node::{self, Agent, Changes, Ended, Folder};
use crate::sys::clock;
use crate::sys::signal::Interrupt;

/// The agent has to be ready within this.
const READY_MAX: Duration = Duration::from_secs(60);
/// How often one looks.
const LOOK: Duration = Duration::from_millis(2);

/// Everything that runs. Ends when dropped, and leaves nothing. The agent goes before its broker.
#[derive(Debug)]
pub(super) struct Rig {
    agent: Option<Agent>,
    starts: u32,
    notify: UnixDatagram,
    _stub: Stub,
    folder: Folder,
}

fn failed(what: &'static str) -> impl FnOnce(io::Error) -> Failure {
    move |error| Failure::io(what, &error)
}

impl Rig {
    /// Starts the broker and writes all that the agent needs, below this folder.
    pub(super) fn build(parent: &Path, models: Option<&Path>) -> Result<Self, Failure> {
        let folder = Folder::below(parent, "bench").map_err(|error| {
            Failure::io(&format!("cannot make a folder in {}; name another with --dir", parent.display()), &error)
        })?;
        let stub = Stub::start().map_err(failed("cannot listen on 127.0.0.1 as the agent's broker; is lo up?"))?;
        let none = folder.join("models");
        fs::create_dir(&none).map_err(failed("cannot make a folder for no models"))?;
        let models = std::path::absolute(models.unwrap_or(&none)).map_err(failed("cannot find the models"))?;
        let changes = Changes::of_a_bench(folder.path(), stub.address(), models);
        let wrong = |why: String| Failure::new(Class::Software, format!("the bench's configuration is wrong: {why}"));
        let text = node::configuration(&changes).map_err(wrong)?;
        fs::write(folder.join("node.toml"), text).map_err(failed("cannot write the bench's configuration"))?;
        let path = folder.join("notify.sock");
        let notify = UnixDatagram::bind(&path).map_err(failed("cannot listen for the agent's READY"))?;
        notify.set_read_timeout(Some(LOOK)).map_err(failed("cannot listen for the agent's READY"))?;
        Ok(Self { agent: None, starts: 0, notify, _stub: stub, folder })
    }

    /// Starts the agent; how long it took until READY.
    pub(super) fn start(&mut self, interrupt: &Interrupt) -> Result<Duration, Failure> {
        self.starts += 1;
        let log = self.folder.join(&format!("agent-{}.log", self.starts));
        let socket = self.folder.join("notify.sock");
        let began = clock::now();
        let mut agent = Agent::start_with(&self.folder.join("node.toml"), log, &[("NOTIFY_SOCKET", &socket)])
            .map_err(failed("cannot start the agent"))?;
        let until = began.after(READY_MAX);
        while !self.is_told_ready() {
            go_on(interrupt)?;
            check(&mut agent)?;
            if clock::now() >= until {
                let text = format!(
                    "the agent was not ready after {} s; is the machine overloaded? The end of its log:\n{}",
                    READY_MAX.as_secs(),
                    agent.log_tail()
                );
                return Err(Failure::new(Class::TemporaryFailure, text));
            }
        }
        let ready = clock::now();
        self.agent = Some(agent);
        Ok(ready.since(began))
    }

    /// Whether the next word on the notify socket, for which it waits a moment, is READY.
    fn is_told_ready(&self) -> bool {
        let mut datagram = [0; 4096];
        let Ok(length) = self.notify.recv(&mut datagram) else { return false };
        datagram[..length].split(|byte| *byte == b'\n').any(|line| line == b"READY=1")
    }

    /// The agent's process id.
    pub(super) fn pid(&self) -> Result<u32, Failure> {
        let running = self.agent.as_ref().map(Agent::id);
        running.ok_or_else(|| Failure::new(Class::Software, "there is no agent to look at"))
    }

    /// Fails when the agent has ended by itself.
    pub(super) fn check(&mut self) -> Result<(), Failure> {
        self.agent.as_mut().map_or(Ok(()), check)
    }

    /// Ends the agent in good order.
    pub(super) fn stop(&mut self) -> Result<(), Failure> {
        let Some(mut agent) = self.agent.take() else { return Ok(()) };
        let ended = agent.stop();
        // What it said of its end is not for the next one.
        while self.notify.recv(&mut [0; 4096]).is_ok() {}
        match ended {
            Ended::Well(_) => Ok(()),
            Ended::Badly(_) | Ended::Killed => {
                let text = format!("the agent did not end well; the end of its log:\n{}", agent.log_tail());
                Err(Failure::new(Class::Software, text))
            }
        }
    }
}

fn check(agent: &mut Agent) -> Result<(), Failure> {
    let Some(status) = agent.ended() else { return Ok(()) };
    let text = format!("the agent ended with {status}; the end of its log:\n{}", agent.log_tail());
    Err(Failure::new(Class::Software, text))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Settings;

    #[test]
    fn the_agent_accepts_the_configuration_with_models_and_without() {
        let folder = tempfile::tempdir().unwrap();
        for models in [None, Some(Path::new("/srv/models"))] {
            let rig = Rig::build(folder.path(), models).unwrap();
            let settings = Settings::read(&rig.folder.join("node.toml")).unwrap();
            assert_eq!(settings.models_dir, models.map_or_else(|| rig.folder.join("models"), Path::to_owned));
            // Long enough for no worker to be started while the idle agent is looked at.
            assert!(settings.policy.settle >= Duration::from_secs(60), "{:?}", settings.policy.settle);
        }
    }
}
