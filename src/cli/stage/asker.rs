//! Who gives the node work? A controller on a thread of its own, which also listens for Ctrl-C.

use std::io;
use std::thread::{self, JoinHandle};

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

use crate::sim::controller::{self, News, Phase, Plan, Tally};
use crate::sys::sched;

/// A controller at work; gives the figures when its phase has ended it.
pub(in crate::cli) type Asker = JoinHandle<Result<Tally, controller::Error>>;

/// Starts a controller. `tell` hears what happens, `interrupted` each Ctrl-C and SIGTERM; both must return at once.
/// With a core it keeps to that one.
///
/// # Errors
/// When there is no thread or runtime to be had.
pub(in crate::cli) fn start(
    plan: Plan,
    phases: watch::Receiver<Phase>,
    core: Option<usize>,
    tell: impl Fn(News) + Send + 'static,
    interrupted: impl Fn() + Send + 'static,
) -> io::Result<Asker> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    thread::Builder::new().name("controller".to_owned()).spawn(move || {
        if let Some(core) = core {
            // Where that is refused it runs anywhere, and costs the measured cores a little.
            let _anywhere = sched::pin_self(core);
        }
        runtime.block_on(async move {
            // Dropped with the runtime when the controller is done.
            tokio::spawn(forward_interrupts(interrupted));
            controller::run(plan, phases, tell).await
        })
    })
}

/// Passes Ctrl-C and SIGTERM on: whoever asked ends in order, with what is known by then.
async fn forward_interrupts(interrupted: impl Fn()) {
    let (Ok(mut interrupt), Ok(mut terminate)) = (signal(SignalKind::interrupt()), signal(SignalKind::terminate()))
    else {
        return;
    };
    loop {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
        interrupted();
    }
}
