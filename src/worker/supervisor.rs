//! What keeps a worker alive? One task: a process is started, greeted, fed with items, buried with its
//! reason, and started again after a growing wait.
//!
//! A model travels to a process once; when the worker has dropped it, it travels again.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::{mpsc, watch};

use super::child::{self, Child, Start, Step};
use super::gate::Gate;
use super::handle::{Event, Output, Settings, Work};
use super::handover::Handover;
use super::protocol::{Done, Failed, FromWorker, Hello, Load, NeedModel, Parked, Run, ToWorker, data_bytes};
use super::verdict::{self, Backoff, Cause, Circumstances};
use crate::fault::{Code, Fault};
use crate::model::library::Entry;
use crate::sys::process::Exit;
use crate::units::Digest;

/// Events that may wait for the agent before answers are left unread.
const EVENTS_PENDING_MAX: usize = 4;
/// Models that the handle remembers as loaded; beyond that it forgets all, and the worker gets them again.
const MODELS_REMEMBERED_MAX: usize = 64;
/// How often a worker may say, for one item, that it stopped itself.
const PARKS_TOLD_MAX: u8 = 2;

/// What the agent wants.
#[derive(Debug)]
pub(super) enum Order {
    /// Take this item.
    Run(Box<Errand>),
    /// End the work of `token`, or whatever the process does.
    Kill { why: Code, token: Option<u64> },
    /// Drop a model.
    Forget(Digest),
}

// === impl Errand ===

/// Work on its way through the handle.
#[derive(Debug)]
pub(super) struct Errand {
    token: u64,
    item: u32,
    model: Arc<Entry>,
    memory_bytes: u64,
    output_bytes: u64,
    /// The encoded item, kept in case the worker has to be sent it again.
    frame: Result<Arc<Vec<u8>>, Fault>,
    /// Whether the process has it.
    sent: bool,
    /// Whether the worker has asked for the model once: twice makes no sense.
    asked: bool,
    /// How often the worker said that it had stopped itself meanwhile.
    parks_told: u8,
}

impl Errand {
    pub(super) fn new(work: Work) -> Self {
        let Work { token, item, model, inputs, interpret, memory_bytes, output_bytes } = work;
        let digest = model.manifest.digest;
        let run = Run { token, item, digest, interpret, memory_bytes, output_bytes, tensors: inputs };
        let frame = run.encode().map(Arc::new).map_err(|error| {
            Fault::new(Code::JobTooLarge, format!("the item does not fit a frame to the worker: {error}"))
        });
        Self { token, item, model, memory_bytes, output_bytes, frame, sent: false, asked: false, parks_told: 0 }
    }
}

// === impl Supervisor ===

/// The task behind a [`Handle`](super::handle::Handle).
pub(super) struct Supervisor {
    slot: usize,
    settings: Settings,
    gate: Arc<Gate>,
    on_changed: Arc<dyn Fn() + Send + Sync>,
    orders: mpsc::Receiver<Order>,
    /// Whether a process may be started now.
    may_start: watch::Receiver<bool>,
    open: Arc<AtomicUsize>,
    events: mpsc::Sender<Event>,
    /// Events that the agent has not taken yet.
    pending: VecDeque<Event>,
    /// Work in order; the process is at the first if that one is sent, and may have the second already.
    queue: VecDeque<Errand>,
    /// Models that the process has, as far as we know.
    loaded: BTreeMap<Digest, Arc<Entry>>,
    /// The model that the process is to get next.
    handover: Handover,
    backoff: Backoff,
    greeted: bool,
    /// Cgroups that the process could not enter, one sentence each.
    outside: Vec<String>,
}

/// How the life of a process, or the wait for the next, ends.
enum End {
    /// The agent is done with this worker.
    Stop,
    /// The process has ended or must end.
    Exit(Cause),
}

impl Supervisor {
    #[expect(clippy::too_many_arguments, reason = "one caller, which has them one by one")]
    pub(super) fn new(
        slot: usize,
        settings: Settings,
        gate: Arc<Gate>,
        on_changed: Arc<dyn Fn() + Send + Sync>,
        orders: mpsc::Receiver<Order>,
        may_start: watch::Receiver<bool>,
        open: Arc<AtomicUsize>,
        events: mpsc::Sender<Event>,
    ) -> Self {
        let backoff = Backoff::new(settings.backoff_first, settings.backoff_max);
        Self {
            slot,
            settings,
            gate,
            on_changed,
            orders,
            may_start,
            open,
            events,
            pending: VecDeque::new(),
            queue: VecDeque::new(),
            loaded: BTreeMap::new(),
            handover: Handover::default(),
            backoff,
            greeted: false,
            outside: Vec::new(),
        }
    }

    pub(super) async fn supervise(mut self) {
        let mut wait = Duration::ZERO;
        while !self.rest(wait).await {
            let (fault, retry_in) = match self.spawn().await {
                Ok(child) => match self.keep(child).await {
                    Some(end) => end,
                    None => break,
                },
                Err(error) => {
                    let exe = self.settings.exe.display();
                    let text = format!("the worker {exe} could not be started: {error}; free memory and processes");
                    (Fault::new(Code::WorkerStart, text), self.backoff.failed())
                }
            };
            self.bury(fault, retry_in);
            wait = retry_in;
        }
        for event in self.pending {
            // The agent may still listen; if it does not, it does not want to know.
            let _unheard = self.events.try_send(event);
        }
    }

    async fn spawn(&mut self) -> std::io::Result<Child> {
        let Settings { exe, core, memory_bytes, item_memory_bytes_max, sandbox, .. } = &self.settings;
        let address_bytes = child::address_bytes(*memory_bytes, *item_memory_bytes_max);
        let (slot, plan_bytes, dead_man) = (self.slot, *memory_bytes, self.gate.dead_man());
        let start = Start { exe, slot, core: *core, plan_bytes, address_bytes, sandbox: *sandbox, dead_man };
        let cgroups = self.gate.cgroups();
        let groups = cgroups.before_start(self.slot).await;
        let tried = groups.is_some();
        // A child that is dropped is killed.
        let child = Child::spawn(&start, groups)?;
        self.outside = cgroups.after_start(self.slot, tried);
        if cgroups.is_required() && !self.outside.is_empty() {
            let why = format!("{}; cgroup.mode is \"required\"", self.outside.join("; "));
            return Err(std::io::Error::other(why));
        }
        Ok(child)
    }

    /// Works with a process until it ends. `None` when the worker is to be ended for good.
    async fn keep(&mut self, mut child: Child) -> Option<(Fault, Duration)> {
        self.greeted = false;
        self.loaded.clear();
        self.gate.fill(self.slot, child.pid());
        (self.on_changed)();
        let oom = super::oom::Watch::start(self.gate.cgroups().memory_signs(self.slot));
        let end = self.live(&mut child).await;
        // First out of the gate, then reaped: the sentinel must never signal an id that the kernel has given away.
        self.gate.clear(self.slot);
        child.kill();
        // And whatever it has started.
        self.gate.cgroups().kill(self.slot);
        let pid = child.pid();
        let ended = child.end().await;
        let cause = match end {
            End::Stop => return None,
            End::Exit(cause) => cause,
        };
        let (exit, last_words) = match ended {
            Ok(ended) => (ended.exit, ended.last_words),
            Err(error) => {
                tracing::error!(slot = self.slot, pid, %error, "a worker process could not be waited for");
                (Exit::Signal(libc::SIGKILL), error.to_string())
            }
        };
        let circumstances = Circumstances {
            greeted: self.greeted,
            memory_bytes: self.queue.front().filter(|job| job.sent).map(|job| job.memory_bytes),
            plan_bytes: self.settings.memory_bytes,
            last_words: &last_words,
            out_of_memory: oom.has_killed(),
        };
        let fault = verdict::fault(&cause, exit, circumstances);
        let retry_in = match cause {
            Cause::Killed(_) => Duration::ZERO,
            Cause::Nonsense(_) | Cause::Gone => self.backoff.failed(),
        };
        Some((fault, retry_in))
    }

    async fn live(&mut self, child: &mut Child) -> End {
        loop {
            if let Err(why) = self.dispatch(child) {
                return End::Exit(Cause::Nonsense(why));
            }
            tokio::select! {
                biased;
                order = self.orders.recv() => match order {
                    None => return End::Stop,
                    Some(order) => if let Some(end) = self.obey(order, Some(child)) {
                        return end;
                    },
                },
                () = deliver(&self.events, &mut self.pending), if !self.pending.is_empty() => {}
                () = self.handover.ready() => {}
                step = child.step(), if self.pending.len() < EVENTS_PENDING_MAX => match step {
                    Ok(Step::Quiet) => {}
                    Ok(Step::Gone) => return End::Exit(Cause::Gone),
                    Ok(Step::Message(message)) => if let Err(why) = self.hear(*message, child.pid()) {
                        return End::Exit(Cause::Nonsense(why));
                    },
                    Err(error) => return End::Exit(Cause::Nonsense(error.to_string())),
                },
            }
        }
    }

    /// Sends the first work, and its model if the process does not have it; then the work behind it, so that the
    /// process finds it when it has answered, instead of waiting until this one has heard of the answer.
    fn dispatch(&mut self, child: &mut Child) -> Result<(), String> {
        while self.greeted && self.queue.front().is_some_and(|job| !job.sent) {
            match self.send_first(child) {
                Ok(()) => {}
                Err(Unsent::Later) => return Ok(()),
                Err(Unsent::Worker(why)) => return Err(why),
                Err(Unsent::Work(fault)) => self.answer(Err(fault)),
            }
        }
        self.handover.clear();
        self.send_ahead(child)
    }

    /// Sends the second work behind the first, when it is of the same attempt: what ends the one ends the other as
    /// well, and the model is the same. What cannot be sent is left until its turn, when it is answered in order.
    fn send_ahead(&mut self, child: &mut Child) -> Result<(), String> {
        if !self.greeted {
            return Ok(());
        }
        let mut jobs = self.queue.iter_mut();
        if let (Some(first), Some(second)) = (jobs.next(), jobs.next())
            && first.sent
            && !second.sent
            && first.token == second.token
            && same(&first.model, &second.model)
            && let Ok(frame) = &second.frame
        {
            child.send(Arc::clone(frame), None).map_err(|error| error.to_string())?;
            second.sent = true;
        }
        Ok(())
    }

    fn send_first(&mut self, child: &mut Child) -> Result<(), Unsent> {
        let Some(job) = self.queue.front_mut() else { return Ok(()) };
        let frame = Arc::clone(job.frame.as_ref().map_err(|fault| Unsent::Work(fault.clone()))?);
        let model = &job.model;
        let digest = model.manifest.digest;
        if !self.loaded.get(&digest).is_some_and(|loaded| same(loaded, model)) {
            let load = Load { digest, manifest: model.manifest_text.to_string(), labels: model.labels.to_string() };
            let load = load.encode().map_err(|error| {
                let text =
                    format!("model.toml and labels of model {} do not fit a frame: {error}", model.manifest.name);
                Unsent::Work(Fault::new(Code::ModelTooLarge, text))
            })?;
            let file = self.handover.take(model).ok_or(Unsent::Later)?.map_err(Unsent::Work)?;
            child.send(Arc::new(load), Some(file.into())).map_err(|error| Unsent::Worker(error.to_string()))?;
            if self.loaded.len() >= MODELS_REMEMBERED_MAX {
                self.loaded.clear();
            }
            self.loaded.insert(digest, Arc::clone(model));
        }
        child.send(frame, None).map_err(|error| Unsent::Worker(error.to_string()))?;
        job.sent = true;
        self.gate.set_job(self.slot, job.token);
        Ok(())
    }

    /// Takes a message in, or says why it makes no sense.
    fn hear(&mut self, message: FromWorker, pid: i32) -> Result<(), String> {
        match message {
            FromWorker::Hello(hello) => self.greet(hello, pid),
            FromWorker::Done(Done { token, item, cpu, wall, load_cpu, peak_bytes, tensors }) => {
                let job = self.current(token, item)?;
                let bytes = data_bytes(&tensors);
                if bytes > job.output_bytes {
                    return Err(format!("an output of {bytes} bytes, although {} are allowed", job.output_bytes));
                }
                self.backoff.answered();
                self.answer(Ok(Output { tensors, cpu, wall, load_cpu, peak_bytes }));
                Ok(())
            }
            FromWorker::Failed(Failed { token, item, fault }) => {
                self.current(token, item)?;
                self.backoff.answered();
                self.answer(Err(fault));
                Ok(())
            }
            FromWorker::NeedModel(NeedModel { token, item, digest }) => {
                // Sent ahead of a model that the process had dropped, the work behind the first asks as well.
                let mut sent = self.queue.iter_mut().filter(|job| job.sent);
                let job = sent.find(|job| job.token == token && job.item == item);
                let job = job.ok_or_else(|| stray(token, item))?;
                if job.asked || job.model.manifest.digest != digest {
                    return Err("it asks for a model that it was given".to_owned());
                }
                job.asked = true;
                job.sent = false;
                self.loaded.remove(&digest);
                Ok(())
            }
            FromWorker::Parked(parked) => self.hear_parked(parked),
            FromWorker::Appraised(_) => Err("a measurement that it was not asked for".to_owned()),
        }
    }

    /// Once before each answer, and a worker may ask for its model before it gives one.
    fn hear_parked(&mut self, Parked { times, time }: Parked) -> Result<(), String> {
        let job = self.queue.front_mut().filter(|job| job.sent && job.parks_told < PARKS_TOLD_MAX);
        let job = job.ok_or("it stopped itself, it says, when it had nothing to do or had said so before")?;
        job.parks_told += 1;
        self.pending.push_back(Event::Parked { slot: self.slot, times, time });
        Ok(())
    }

    fn greet(&mut self, hello: Hello, pid: i32) -> Result<(), String> {
        let own = env!("CARGO_PKG_VERSION");
        if self.greeted || hello.version != own || i32::try_from(hello.pid) != Ok(pid) {
            return Err(format!(
                "a greeting of version {} and pid {}, expected {own} and {pid}",
                hello.version, hello.pid
            ));
        }
        self.greeted = true;
        if let Err(error) = self.gate.refresh_threads(self.slot) {
            tracing::warn!(slot = self.slot, pid, %error, "a worker's threads cannot be listed; those beyond its first stop with it");
        }
        let jail: Vec<String> = self.outside.drain(..).chain(hello.notes).collect();
        for note in &jail {
            tracing::warn!(slot = self.slot, pid, "{note}");
        }
        self.pending.push_back(Event::Ready { slot: self.slot, pid, jail, sandbox: hello.sandbox });
        Ok(())
    }

    /// The work that the process is at, if that is what the message is about.
    fn current(&mut self, token: u64, item: u32) -> Result<&mut Errand, String> {
        let first = self.queue.front_mut().filter(|job| job.sent && job.token == token && job.item == item);
        first.ok_or_else(|| stray(token, item))
    }

    /// Ends the first work with its outcome.
    fn answer(&mut self, outcome: Result<Output, Fault>) {
        let Some(job) = self.queue.pop_front() else { return };
        self.open.fetch_sub(1, Ordering::Relaxed);
        self.pending.push_back(Event::Done { slot: self.slot, token: job.token, item: job.item, outcome });
    }

    /// Follows an order; with `None` for the process while there is none. Some orders end the process.
    fn obey(&mut self, order: Order, child: Option<&mut Child>) -> Option<End> {
        match order {
            Order::Run(job) => self.queue.push_back(*job),
            Order::Kill { why, token } => {
                let hit = token.is_none() || self.queue.front().is_some_and(|job| job.sent && Some(job.token) == token);
                if hit && child.is_some() {
                    return Some(End::Exit(Cause::Killed(why)));
                }
                let fault = verdict::fault(&Cause::Killed(why), Exit::Signal(libc::SIGKILL), Circumstances::IDLE);
                for job in self.withdraw(|job| Some(job.token) == token) {
                    let (token, item, outcome) = (job.token, job.item, Err(fault.clone()));
                    self.pending.push_back(Event::Done { slot: self.slot, token, item, outcome });
                }
            }
            Order::Forget(digest) => {
                let frame = self.loaded.remove(&digest).map(|_| ToWorker::Forget(digest).encode());
                if let (Some(child), Some(Ok(frame))) = (child, frame)
                    && let Err(error) = child.send(Arc::new(frame), None)
                {
                    return Some(End::Exit(Cause::Nonsense(error.to_string())));
                }
            }
        }
        None
    }

    /// Takes work out of the queue.
    fn withdraw(&mut self, which: impl Fn(&Errand) -> bool) -> Vec<Errand> {
        let (out, kept) = std::mem::take(&mut self.queue).into_iter().partition::<Vec<_>, _>(which);
        self.queue = kept.into();
        self.open.fetch_sub(out.len(), Ordering::Relaxed);
        out
    }

    /// Reports the end of a process and voids the work it was at. A process that never came up voids what waits first:
    /// its job has attempts, and must not wait for ever.
    fn bury(&mut self, fault: Fault, retry_in: Duration) {
        let never_up = matches!(fault.code, Code::WorkerStart | Code::SandboxUnavailable);
        let first = self.queue.front().filter(|job| job.sent || never_up);
        let token = first.map(|job| job.token);
        // What waits in the channel may be of the same token.
        while let Ok(order) = self.orders.try_recv() {
            self.obey(order, None);
        }
        self.withdraw(|job| Some(job.token) == token);
        let (slot, retry_in_ms) = (self.slot, retry_in.as_millis());
        // Only what the agent kills needs no wait: that is no trouble of the worker's.
        match retry_in.is_zero() {
            true => tracing::info!(slot, ?token, "worker ended: {fault}"),
            false => tracing::warn!(slot, ?token, retry_in_ms, "worker ended: {fault}"),
        }
        self.pending.push_back(Event::Exited { slot: self.slot, token, fault: Some(fault), retry_in });
    }

    /// Waits before a start, at least so long and until one is permitted. `true` when there is to be none.
    async fn rest(&mut self, wait: Duration) -> bool {
        let mut may_start = self.may_start.clone();
        let rested = async move {
            tokio::time::sleep(wait).await;
            // Fails when the handle is gone; then so are the orders, which end this.
            if may_start.wait_for(|may_start| *may_start).await.is_err() {
                std::future::pending::<()>().await;
            }
        };
        tokio::pin!(rested);
        loop {
            tokio::select! {
                biased;
                order = self.orders.recv() => match order {
                    None => return true,
                    Some(order) => _ = self.obey(order, None),
                },
                () = deliver(&self.events, &mut self.pending), if !self.pending.is_empty() => {}
                () = &mut rested => return false,
            }
        }
    }
}

fn stray(token: u64, item: u32) -> String {
    format!("an answer to item {item} of job token {token}, which it is not working on")
}

/// Why work was not sent.
enum Unsent {
    /// The work itself cannot be: its answer is this fault.
    Work(Fault),
    /// The process takes nothing more.
    Worker(String),
    /// Its model is being copied.
    Later,
}

/// Whether a loaded model is still the one asked for: the file may be the same and its manifest another.
fn same(loaded: &Arc<Entry>, wanted: &Arc<Entry>) -> bool {
    Arc::ptr_eq(loaded, wanted) || (loaded.manifest_text == wanted.manifest_text && loaded.labels == wanted.labels)
}

/// Hands one event over when the agent has room for it. Dropping the wait loses nothing.
async fn deliver(events: &mpsc::Sender<Event>, pending: &mut VecDeque<Event>) {
    match events.reserve().await {
        Ok(permit) => {
            if let Some(event) = pending.pop_front() {
                permit.send(event);
            }
        }
        // Nobody listens any more.
        Err(_) => pending.clear(),
    }
}
