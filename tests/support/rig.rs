//! One worker under test: the real binary, the real handle, and this test in the place of agent and sentinel.

#[path = "emulation.rs"]
pub(crate) mod emulation;

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use neap::fault::Fault;
use neap::model::library::Entry;
use neap::model::manifest;
use neap::sys::{clock, signal};
use neap::tensor::Tensor;
use neap::units::Digest;
use neap::worker::gate::Gate;
use neap::worker::handle::{self, Event, Handle, Output, Settings, Work};
use neap::worker::jail::Policy;
use sha2::{Digest as _, Sha256};
use tempfile::TempDir;
use tokio::sync::mpsc;

/// Bytes.
pub(crate) const MEGABYTE: u64 = 1024 * 1024;
/// Nothing here takes that long; without it a broken worker would hang the test.
///
/// Generous: a worker runs at SCHED_IDLE, so on a busy machine it gets a hundredth of a core.
const PATIENCE: Duration = Duration::from_secs(300);

/// A model in a folder of its own.
pub(crate) struct Model {
    folder: Arc<TempDir>,
    file: Vec<u8>,
    digest: Digest,
    inputs: String,
    outputs: String,
    output_bytes: u64,
}

impl Model {
    /// A model `x FP32 [-1]` to `y FP32 [-1]`.
    pub(crate) fn new(file: Vec<u8>) -> Self {
        let digest = Digest(Sha256::digest(&file).into());
        let folder = Arc::new(tempfile::tempdir().unwrap());
        Self { folder, file, digest, inputs: ports("x FP32 -1"), outputs: ports("y FP32 -1"), output_bytes: MEGABYTE }
    }

    /// With other ports: `name TYPE dim,dim [= default]`, separated by `;`.
    pub(crate) fn ports(mut self, inputs: &str, outputs: &str) -> Self {
        self.inputs = ports(inputs);
        self.outputs = ports(outputs);
        self
    }

    /// With another digest than its own.
    pub(crate) fn digest(mut self, digest: [u8; 32]) -> Self {
        self.digest = Digest(digest);
        self
    }

    /// With another limit on the output.
    pub(crate) fn output_bytes(mut self, output_bytes: u64) -> Self {
        self.output_bytes = output_bytes;
        self
    }

    fn entry(&self) -> Arc<Entry> {
        let folder = self.folder.path().canonicalize().unwrap();
        std::fs::write(folder.join("model.onnx"), &self.file).unwrap();
        let text = format!(
            "name = \"test\"\nversion = 1\nsummary = \"A model made by a test.\"\nlicence = \"Apache-2.0\"\n\
             source = \"made by a test\"\nfile = \"model.onnx\"\ndigest = \"{}\"\ninputs = {}\noutputs = {}\n",
            self.digest, self.inputs, self.outputs
        );
        let manifest = manifest::parse(&text).unwrap();
        Arc::new(Entry {
            manifest,
            manifest_text: text.into(),
            labels: "".into(),
            folder,
            standing: Default::default(),
        })
    }
}

fn ports(text: &str) -> String {
    let port = |port: &str| {
        let (port, default) = port.split_once('=').map_or((port, None), |(port, default)| (port, Some(default.trim())));
        let [name, datatype, shape] = port.split_whitespace().collect::<Vec<_>>()[..] else { panic!("{port:?}") };
        let default = default.map(|default| format!(", default = {default}")).unwrap_or_default();
        format!("{{ name = \"{name}\", datatype = \"{datatype}\", shape = [{shape}]{default} }}")
    };
    format!("[{}]", text.split(';').map(port).collect::<Vec<_>>().join(", "))
}

/// The input `x` of most models here.
pub(crate) fn input(values: &[f32]) -> Vec<Tensor> {
    vec![Tensor::f32s("x", vec![values.len()], values).unwrap()]
}

/// A shell script in the place of the worker.
pub(crate) fn script(folder: &Path, body: &str) -> PathBuf {
    let path = folder.join("worker");
    std::fs::write(&path, format!("#!/bin/sh\n{body}\n")).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
    path
}

/// A worker under test.
pub(crate) struct Rig {
    pub(crate) handle: Handle,
    events: mpsc::Receiver<Event>,
    /// Of the process that is up.
    pub(crate) pid: i32,
    /// What the jail could not do.
    pub(crate) jail: Vec<String>,
    /// How many processes have ended.
    pub(crate) exits: usize,
    /// How often the process said that it had stopped itself.
    pub(crate) parks: u32,
    items: std::cell::Cell<u32>,
    /// Folders of models that were asked for: their files may be opened later.
    folders: std::cell::RefCell<Vec<Arc<TempDir>>>,
}

impl Rig {
    /// The real binary, up and greeted.
    pub(crate) async fn start() -> Self {
        Self::up(Self::of(PathBuf::from(env!("CARGO_BIN_EXE_neap")))).await
    }

    /// The real binary on one core, up and greeted.
    pub(crate) async fn start_on(core: usize) -> Self {
        Self::up(Self::with(PathBuf::from(env!("CARGO_BIN_EXE_neap")), Some(core))).await
    }

    async fn up(mut rig: Self) -> Self {
        while rig.pid == 0 {
            rig.event().await;
        }
        rig
    }

    /// Any binary.
    pub(crate) fn of(exe: PathBuf) -> Self {
        Self::with(exe, None)
    }

    fn with(exe: PathBuf, core: Option<usize>) -> Self {
        Self::at(Gate::new(), exe, core)
    }

    /// The real binary, up and greeted, whose dead-man's handle is in the hand of who holds the gate: beat at once.
    pub(crate) async fn start_at(gate: Arc<Gate>) -> Self {
        Self::up(Self::at(gate, PathBuf::from(env!("CARGO_BIN_EXE_neap")), None)).await
    }

    fn at(gate: Arc<Gate>, exe: PathBuf, core: Option<usize>) -> Self {
        let settings = Settings {
            exe,
            core,
            memory_bytes: 64 * MEGABYTE,
            item_memory_bytes_max: 256 * MEGABYTE,
            sandbox: Policy { level: emulation::sandbox_level().parse().unwrap(), ..Policy::default() },
            backoff_first: Duration::from_millis(20),
            backoff_max: Duration::from_millis(80),
        };
        let pids = gate.pids();
        // A worker enters the gate stopped; this sentinel always lets it run.
        let on_changed = move || {
            for pid in pids.iter().map(|pid| pid.load(Ordering::SeqCst)).filter(|pid| *pid != 0) {
                signal::continue_process(pid).unwrap();
            }
        };
        let (sender, events) = mpsc::channel(1);
        let handle = handle::start(0, settings, gate, Arc::new(on_changed), sender);
        Self {
            handle,
            events,
            pid: 0,
            jail: Vec::new(),
            exits: 0,
            parks: 0,
            items: std::cell::Cell::new(0),
            folders: std::cell::RefCell::default(),
        }
    }

    /// Work with the limits of these tests.
    pub(crate) fn work(&self, model: &Model, token: u64, inputs: Vec<Tensor>) -> Work {
        self.items.set(self.items.get() + 1);
        self.folders.borrow_mut().push(Arc::clone(&model.folder));
        Work {
            token,
            item: self.items.get(),
            model: model.entry(),
            inputs,
            interpret: true,
            memory_bytes: 64 * MEGABYTE,
            output_bytes: model.output_bytes,
        }
    }

    /// The next event.
    pub(crate) async fn event(&mut self) -> Event {
        let event = tokio::time::timeout(PATIENCE, self.events.recv()).await.expect("no event").expect("no handle");
        match &event {
            Event::Ready { pid, jail, .. } => (self.pid, self.jail) = (*pid, jail.clone()),
            Event::Exited { .. } => self.exits += 1,
            Event::Parked { times, .. } => self.parks += times,
            Event::Done { .. } => {}
        }
        event
    }

    /// The next answer; that the process ended instead is one, too.
    pub(crate) async fn answer(&mut self) -> Result<Output, Fault> {
        loop {
            match self.event().await {
                Event::Done { outcome, .. } => return outcome,
                Event::Exited { token: Some(_), fault, .. } => return Err(fault.unwrap()),
                Event::Ready { .. } | Event::Parked { .. } | Event::Exited { token: None, .. } => {}
            }
        }
    }

    /// One item from request to answer.
    pub(crate) async fn ask(&mut self, model: &Model, inputs: Vec<Tensor>) -> Result<Output, Fault> {
        self.handle.run(self.work(model, 1, inputs)).unwrap();
        self.answer().await
    }

    /// The next end of a process.
    pub(crate) async fn exit(&mut self) -> (Option<u64>, Fault) {
        loop {
            if let Event::Exited { token, fault, .. } = self.event().await {
                return (token, fault.unwrap());
            }
        }
    }

    /// Waits until the process, idle before, has taken up the work it was just given.
    pub(crate) async fn until_busy(&self) {
        let busy = async {
            let before = clock::process_cpu(self.pid).unwrap();
            while clock::process_cpu(self.pid).unwrap() < before + Duration::from_millis(1) {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(PATIENCE, busy).await.expect("the worker does nothing");
    }

    /// Ends the worker for good.
    pub(crate) async fn stop(self) {
        tokio::time::timeout(PATIENCE, self.handle.stop()).await.expect("the worker does not end");
    }
}
