//! Who computes in a bench? A crew: real worker processes that run a real model for ever, each on a core of its own.
//!
//! The bench is their parent, as the agent is of its workers: it may stop and continue them, see them stopped, and put
//! them into a gate. They are killed when the crew is dropped, and by the kernel when the bench dies.

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::{Child, Command};
use std::time::Duration;

use super::page::Page;
pub(in crate::cli) use super::seat::Class;
use crate::cli::failure::{Class as FailureClass, Failure};
use crate::sys::{clock, process};
use crate::units::Name;
use crate::worker::infer;

/// Longest wait for the first inference of a worker: it runs only when nobody else wants its core.
const READY_MAX: Duration = Duration::from_secs(120);
/// Time between two looks at a page.
const LOOK: Duration = Duration::from_millis(2);

/// A model that a crew can run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::cli) struct Model {
    /// The folder of models in which it lies.
    pub(in crate::cli) folder: PathBuf,
    /// Its name.
    pub(in crate::cli) name: Name,
}

/// How a crew is to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::cli) struct Plan<'a> {
    /// What it runs.
    pub(in crate::cli) model: &'a Model,
    /// How the scheduler treats it.
    pub(in crate::cli) class: Class,
    /// One worker for each of these cores, pinned to it.
    pub(in crate::cli) cores: &'a [usize],
    /// Whether the workers spend three quarters of their time on stamps (see [`super::page`]); without, they compute
    /// all the time.
    pub(in crate::cli) stamps: bool,
}

/// Worker processes of a bench, running.
#[derive(Debug)]
pub(in crate::cli) struct Crew {
    /// In the order of the cores asked for.
    pub(in crate::cli) members: Vec<Member>,
}

/// One worker process. Killed when dropped.
#[derive(Debug)]
pub(in crate::cli) struct Member {
    /// What it tells.
    pub(in crate::cli) page: Page,
    /// Its process id.
    pub(in crate::cli) pid: i32,
    /// The core it is pinned to.
    pub(in crate::cli) core: usize,
    child: Child,
}

impl Crew {
    /// Starts the workers and waits until each has done its first inference. They die with this thread.
    ///
    /// # Errors
    /// When a process cannot be started, or ends, or does not get far enough.
    pub(in crate::cli) fn start(plan: &Plan<'_>) -> Result<Self, Failure> {
        let start = |core: &usize| Member::start(plan, *core);
        let mut members: Vec<Member> = plan.cores.iter().map(start).collect::<Result<_, Failure>>()?;
        let until = clock::now().after(READY_MAX);
        for member in &mut members {
            while member.page.inferences() == 0 {
                member.check()?;
                if clock::now() >= until {
                    let text = format!(
                        "the worker on core {} has not run its model once within {} s; free the core, or choose a \
                         smaller model with --model",
                        member.core,
                        READY_MAX.as_secs()
                    );
                    return Err(Failure::new(FailureClass::TemporaryFailure, text));
                }
                std::thread::sleep(LOOK);
            }
        }
        Ok(Self { members })
    }

    /// Fails when a worker has ended by itself.
    ///
    /// # Errors
    /// Names the core and how the worker ended; it has said why on standard error.
    pub(in crate::cli) fn check(&mut self) -> Result<(), Failure> {
        self.members.iter_mut().try_for_each(Member::check)
    }
}

impl Member {
    fn start(plan: &Plan<'_>, core: usize) -> Result<Self, Failure> {
        let failed = |error: io::Error| Failure::io("cannot start a worker", &error);
        let (page, fd) = Page::create().map_err(failed)?;
        let folder = std::path::absolute(&plan.model.folder).map_err(failed)?;
        let mut command = Command::new("/proc/self/exe");
        command.args(["bench-worker", "--parent", &std::process::id().to_string()]);
        command.args(["--class", plan.class.as_str(), "--core", &core.to_string()]);
        command.args(["--model", plan.model.name.as_str()]).arg("--models").arg(folder);
        if plan.stamps {
            command.arg("--stamps");
        }
        command.env_clear().env("RUST_BACKTRACE", "0").current_dir("/").process_group(0);
        command.envs(infer::environment(Some(core)));
        // What it says goes where its reasons go: /dev/null is not everywhere.
        command.stdin::<OwnedFd>(fd).stdout(io::stderr());
        process::tie_to_parent(&mut command);
        let child = command.spawn().map_err(failed)?;
        let pid = i32::try_from(child.id()).map_err(io::Error::other).map_err(failed)?;
        Ok(Self { page, pid, core, child })
    }

    /// CPU time that it has used so far. May lag by a tick of the kernel while it runs.
    ///
    /// # Errors
    /// When it has ended.
    pub(in crate::cli) fn cpu(&self) -> io::Result<Duration> {
        clock::process_cpu(self.pid)
    }

    fn check(&mut self) -> Result<(), Failure> {
        match self.child.try_wait() {
            Ok(None) => Ok(()),
            Ok(Some(status)) => {
                let text = format!("the worker on core {} ended ({status}); its reason stands above", self.core);
                Err(Failure::new(FailureClass::Software, text))
            }
            Err(error) => Err(Failure::io("cannot look after a worker", &error)),
        }
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        // It has gone already, or it goes now; the wait releases its process id.
        let _gone = self.child.kill().and_then(|()| self.child.wait());
    }
}
