//! How does the agent use a worker? It hands over items, hears of answers and ends, and kills; the rest happens here.
//!
//! One task per worker (`supervisor`) keeps one process alive, starting another when it ends.
//!
//! Must run on a current-thread runtime on the main thread: a worker dies with the *thread* that started it.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;

use super::gate::Gate;
use super::jail;
use super::jail::achieved::Achieved;
use super::supervisor::{Errand, Order, Supervisor};
use crate::fault::{Code, Fault};
use crate::model::library::Entry;
use crate::tensor::Tensor;
use crate::units::Digest;

/// Work that a handle takes at once: one item in the process, one behind it, so a worker never waits for the journal.
pub const OPEN_MAX: usize = 2;
/// Orders that may wait for the handle's task.
const ORDERS_MAX: usize = 16;

/// How a worker is run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// The binary, `/proc/self/exe` outside tests.
    pub exe: PathBuf,
    /// The one core to run on; `None`: any.
    pub core: Option<usize>,
    /// Memory for loaded models, in bytes.
    pub memory_bytes: u64,
    /// Largest memory limit that an item may bring, in bytes.
    pub item_memory_bytes_max: u64,
    /// How its sandbox is to be.
    pub sandbox: jail::Policy,
    /// Wait before the first restart.
    pub backoff_first: Duration,
    /// Longest wait before a restart.
    pub backoff_max: Duration,
}

/// One item for a worker.
#[derive(Clone, Debug)]
pub struct Work {
    /// Names the attempt of the job; another attempt needs another token. Not 0.
    pub token: u64,
    /// Which item of it.
    pub item: u32,
    /// The model.
    pub model: Arc<Entry>,
    /// A medium or raw inputs.
    pub inputs: Vec<Tensor>,
    /// Whether the outputs are to be interpreted as the model's manifest says.
    pub interpret: bool,
    /// Heap that the item may use beyond the loaded model, in bytes.
    pub memory_bytes: u64,
    /// Longest output, in bytes.
    pub output_bytes: u64,
}

/// What happened to a worker.
#[derive(Debug)]
pub enum Event {
    /// A process is up and takes work.
    Ready {
        /// Which worker.
        slot: usize,
        /// Its process id.
        pid: i32,
        /// What the jail could not do, one sentence each; empty when all was done.
        jail: Vec<String>,
        /// What its sandbox has come to.
        sandbox: Achieved,
    },
    /// An item has its output, or never will.
    Done {
        /// Which worker.
        slot: usize,
        /// The token of the work.
        token: u64,
        /// The item of the work.
        item: u32,
        /// Output or fault.
        outcome: Result<Output, Fault>,
    },
    /// The process stopped itself for a while because the sentinel was silent; it goes on now.
    Parked {
        /// Which worker.
        slot: usize,
        /// How often since it last said so.
        times: u32,
        /// How long in all.
        time: Duration,
    },
    /// The process ended. Every [`Work`] of that token is void; that of other tokens is kept for the next process.
    Exited {
        /// Which worker.
        slot: usize,
        /// Token of the work it was at; `None` when it was idle.
        token: Option<u64>,
        /// Why it ended.
        fault: Option<Fault>,
        /// When the next process starts.
        retry_in: Duration,
    },
}

/// Output of one item.
#[derive(Clone, Debug, PartialEq)]
pub struct Output {
    /// What came out.
    pub tensors: Vec<Tensor>,
    /// CPU time of the item, without loading the model.
    pub cpu: Duration,
    /// Time from request to answer, stops included.
    pub wall: Duration,
    /// CPU time of loading the model, when this item was the first that needed it.
    pub load_cpu: Option<Duration>,
    /// Highest use of heap while it was worked on, loaded models included, in bytes.
    pub peak_bytes: u64,
}

/// The handle takes no more now.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the worker has {OPEN_MAX} items, or {ORDERS_MAX} orders, that wait")]
pub struct Busy;

/// The agent's grip on one worker. Dropping it ends the worker for good, without waiting for it.
#[derive(Debug)]
pub struct Handle {
    orders: mpsc::Sender<Order>,
    open: Arc<AtomicUsize>,
    may_start: watch::Sender<bool>,
    task: JoinHandle<()>,
}

/// Starts a worker and keeps it alive. Processes may be started until [`Handle::set_may_start`] says otherwise; the
/// first one is when the runtime next runs its tasks.
///
/// `on_changed` is called right after a process has entered the gate: it must tell the sentinel.
///
/// # Panics
/// Outside a tokio runtime.
pub fn start(
    slot: usize,
    settings: Settings,
    gate: Arc<Gate>,
    on_changed: Arc<dyn Fn() + Send + Sync>,
    events: mpsc::Sender<Event>,
) -> Handle {
    let (orders, received) = mpsc::channel(ORDERS_MAX);
    let open = Arc::new(AtomicUsize::new(0));
    let (may_start, starts) = watch::channel(true);
    let supervisor = Supervisor::new(slot, settings, gate, on_changed, received, starts, Arc::clone(&open), events);
    Handle { orders, open, may_start, task: tokio::spawn(supervisor.supervise()) }
}

impl Handle {
    /// How much more work it takes at this moment.
    pub fn room(&self) -> usize {
        OPEN_MAX.saturating_sub(self.open.load(Ordering::Relaxed))
    }

    /// Hands over an item. Its answer comes as [`Event::Done`], or never if [`Event::Exited`] comes with its token.
    ///
    /// # Errors
    /// [`Busy`] when [`Handle::room`] is 0.
    pub fn run(&self, work: Work) -> Result<(), Busy> {
        if self.room() == 0 {
            return Err(Busy);
        }
        self.open.fetch_add(1, Ordering::Relaxed);
        let sent = self.orders.try_send(Order::Run(Box::new(Errand::new(work))));
        sent.map_err(|_| {
            self.open.fetch_sub(1, Ordering::Relaxed);
            Busy
        })
    }

    /// Ends the work of `token` for the reason `why`: the process is killed if it is at it ([`Event::Exited`]); work that
    /// only waits is answered with the fault ([`Event::Done`]). Without a token the process is killed whatever it does.
    ///
    /// # Errors
    /// [`Busy`] when too many orders wait; try again.
    pub fn kill(&self, why: Code, token: Option<u64>) -> Result<(), Busy> {
        self.orders.try_send(Order::Kill { why, token }).map_err(|_| Busy)
    }

    /// Whether a process may be started when there is none. One that is there is not touched: starting is what costs,
    /// about a millisecond of a core before the process can be stopped.
    pub fn set_may_start(&self, may_start: bool) {
        self.may_start.send_replace(may_start);
    }

    /// Has the worker drop a model that will not be asked for again.
    ///
    /// # Errors
    /// [`Busy`] when too many orders wait; try again.
    pub fn forget(&self, digest: Digest) -> Result<(), Busy> {
        self.orders.try_send(Order::Forget(digest)).map_err(|_| Busy)
    }

    /// Ends the worker for good: returns when its process is gone. Work that was not answered is void, without an event.
    ///
    /// A killed process still needs a little of its core to die, and at SCHED_IDLE on a busy core that can take seconds;
    /// meanwhile it computes nothing. Who cannot wait drops the wait: the process is killed already, and dies.
    pub async fn stop(self) {
        drop(self.orders);
        if let Err(error) = self.task.await {
            tracing::error!(%error, "a worker's task ended badly");
        }
    }
}
