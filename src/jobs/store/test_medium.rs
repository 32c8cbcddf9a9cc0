//! A disk in memory that counts, fails and loses writes on request, and a model of what a store should hold.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::{io, path::PathBuf};

use redb::StorageBackend;

use super::backend::Doubt;
use super::medium::Medium;
use super::*;

/// The seed of a run: `NEAP_SEED`, or one that is given; printed, so that a run can be repeated.
pub(super) fn seed(usual: u64) -> u64 {
    let seed = std::env::var("NEAP_SEED").ok().and_then(|text| text.parse().ok()).unwrap_or(usual);
    eprintln!("NEAP_SEED={seed}");
    seed
}

/// How often to try: few enough for every change, or with `NEAP_CHAOS=full` as often as it takes.
pub(super) fn rounds(usual: usize, full: usize) -> usize {
    if std::env::var("NEAP_CHAOS").is_ok_and(|chaos| chaos == "full") { full } else { usual }
}

/// Runs `work` for each number below `rounds`, on as many threads as there are cores.
pub(super) fn spread<T: Send>(rounds: usize, work: impl Fn(usize) -> T + Sync) -> Vec<T> {
    let threads = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let part = |first: usize| (first..rounds).step_by(threads).map(&work).collect::<Vec<T>>();
    std::thread::scope(|scope| {
        let running: Vec<_> = (0..threads).map(|first| scope.spawn(move || part(first))).collect();
        running.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
    })
}

/// Pseudo-random numbers from a seed (splitmix64): the same run every time.
#[derive(Clone, Debug)]
pub(super) struct Random(pub(super) u64);

impl Random {
    pub(super) fn below(&mut self, limit: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        usize::try_from((z ^ (z >> 31)) % limit as u64).unwrap()
    }
}

#[derive(Clone, Debug)]
pub(super) enum Op {
    Write(usize, Vec<u8>),
    SetLen(usize),
    Sync,
}

impl Op {
    fn apply(&self, bytes: &mut Vec<u8>) {
        match self {
            Self::Write(offset, data) => {
                let end = offset + data.len();
                bytes.resize(bytes.len().max(end), 0);
                bytes[*offset..end].copy_from_slice(data);
            }
            Self::SetLen(length) => bytes.resize(*length, 0),
            Self::Sync => {}
        }
    }

    /// What a power cut may leave of it: all, nothing, or some stretches of it, torn at any byte.
    fn apply_part(&self, bytes: &mut Vec<u8>, random: &mut Random) {
        match (random.below(3), self) {
            (0, _) => {}
            (1, _) | (_, Self::SetLen(_) | Self::Sync) => self.apply(bytes),
            (_, Self::Write(offset, data)) => {
                let mut cuts: Vec<usize> = (0..1 + random.below(6)).map(|_| random.below(data.len() + 1)).collect();
                cuts.extend([0, data.len()]);
                cuts.sort_unstable();
                let written = random.below(2);
                for (_, ends) in cuts.windows(2).enumerate().filter(|(stretch, _)| stretch % 2 == written) {
                    Self::Write(offset + ends[0], data[ends[0]..ends[1]].to_vec()).apply(bytes);
                }
            }
        }
    }
}

/// One file: what a reader sees, and what would be left after a power cut that loses everything unsynced.
#[derive(Clone, Debug, Default)]
pub(super) struct Inode {
    pub(super) live: Vec<u8>,
    pub(super) durable: Vec<u8>,
    pending: Vec<Op>,
    /// All operations since it was made.
    pub(super) log: Vec<Op>,
}

#[derive(Debug, Default)]
pub(super) struct State {
    pub(super) store: Option<Arc<Mutex<Inode>>>,
    fresh: Option<Arc<Mutex<Inode>>>,
    pub(super) aside: Vec<(String, Vec<u8>)>,
    /// The files that were set aside; the store may still be one of them.
    linked: Vec<Arc<Mutex<Inode>>>,
    pub(super) syncs: u64,
    pub(super) renewals: u64,
    /// Operations until one fails, and how many fail from there on.
    pub(super) failure: Option<(u64, u64)>,
}

impl State {
    fn may_fail(&mut self) -> io::Result<()> {
        match &mut self.failure {
            None => Ok(()),
            Some((0, 0)) => {
                self.failure = None;
                Ok(())
            }
            Some((0, left)) => {
                *left -= 1;
                Err(io::Error::other("injected"))
            }
            Some((until, _)) => {
                *until -= 1;
                Ok(())
            }
        }
    }
}

/// The disk; clones are the same disk.
#[derive(Clone, Debug, Default)]
pub(super) struct Disk(Arc<Mutex<State>>, Arc<Doubt>);

impl Disk {
    /// A disk with a store of these bytes.
    pub(super) fn with(bytes: Vec<u8>) -> Self {
        let disk = Self::default();
        let inode = Inode { durable: bytes.clone(), live: bytes, ..Inode::default() };
        disk.state().store = Some(Arc::new(Mutex::new(inode)));
        disk
    }

    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap()
    }

    /// The store's file as it is now.
    pub(super) fn inode(&self) -> Inode {
        self.state().store.as_ref().expect("a store was made").lock().unwrap().clone()
    }

    /// The same disk for the next process. After a power cut nothing is left of what was not synced.
    pub(super) fn after_death(&self, power_cut: bool) -> Self {
        let mut state = self.state();
        state.failure = None;
        state.fresh = None;
        if let Some(store) = state.store.as_ref().filter(|_| power_cut) {
            let mut inode = store.lock().unwrap();
            inode.live = inode.durable.clone();
            inode.pending.clear();
        }
        Self(Arc::clone(&self.0), Arc::default())
    }

    pub(super) fn open(&self, quota: Quota) -> Result<Opened, Fault> {
        Store::open_on(Box::new(self.clone()), quota)
    }

    fn file(&self, inode: &Arc<Mutex<Inode>>) -> io::Result<Box<dyn StorageBackend>> {
        Ok(Box::new(Backend { disk: self.clone(), inode: Arc::clone(inode) }))
    }
}

impl Medium for Disk {
    fn path(&self) -> &Path {
        Path::new("/memory/jobs.redb")
    }

    fn exists(&self) -> io::Result<bool> {
        Ok(self.state().store.is_some())
    }

    fn open(&self) -> io::Result<Box<dyn StorageBackend>> {
        let inode = self.state().store.clone().ok_or(io::ErrorKind::NotFound)?;
        self.file(&inode)
    }

    fn create(&self) -> io::Result<Box<dyn StorageBackend>> {
        let inode = Arc::new(Mutex::new(Inode::default()));
        self.state().may_fail()?;
        self.state().fresh = Some(Arc::clone(&inode));
        self.file(&inode)
    }

    fn publish(&self) -> io::Result<()> {
        let mut state = self.state();
        state.may_fail()?;
        state.store = state.fresh.take();
        Ok(())
    }

    fn inspect(&self) -> io::Result<Box<dyn StorageBackend>> {
        Medium::open(self)
    }

    fn set_aside(&self, kind: &str) -> io::Result<PathBuf> {
        let mut state = self.state();
        let store = state.store.clone().ok_or(io::ErrorKind::NotFound)?;
        if !state.linked.iter().any(|linked| Arc::ptr_eq(linked, &store)) {
            state.may_fail()?;
            let bytes = store.lock().unwrap().live.clone();
            state.aside.push((kind.to_owned(), bytes));
            state.linked.push(store);
        }
        Ok(PathBuf::from(format!("/memory/jobs.redb.{kind}-{}", state.aside.len())))
    }

    fn renew(&self) -> io::Result<()> {
        let bytes = self.inode().live;
        let inode = Inode { durable: bytes.clone(), live: bytes, ..Inode::default() };
        let mut state = self.state();
        state.may_fail()?;
        state.renewals += 1;
        state.store = Some(Arc::new(Mutex::new(inode)));
        Ok(())
    }

    fn room(&self, _: u64) -> io::Result<()> {
        self.state().may_fail()
    }

    fn doubt(&self) -> &Arc<Doubt> {
        &self.1
    }
}

#[derive(Debug)]
struct Backend {
    disk: Disk,
    inode: Arc<Mutex<Inode>>,
}

impl Backend {
    fn change(&self, op: Op) -> io::Result<()> {
        self.disk.state().may_fail()?;
        let mut inode = self.inode.lock().unwrap();
        op.apply(&mut inode.live);
        inode.pending.push(op.clone());
        inode.log.push(op);
        Ok(())
    }
}

impl StorageBackend for Backend {
    fn len(&self) -> io::Result<u64> {
        Ok(self.inode.lock().unwrap().live.len() as u64)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let inode = self.inode.lock().unwrap();
        let start = usize::try_from(offset).map_err(io::Error::other)?;
        let end = start.checked_add(out.len()).ok_or(io::ErrorKind::InvalidInput)?;
        out.copy_from_slice(inode.live.get(start..end).ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.change(Op::SetLen(usize::try_from(len).map_err(io::Error::other)?))
    }

    /// As Linux does it: what a failed sync did not write is never tried again, though readers go on seeing it.
    fn sync_data(&self) -> io::Result<()> {
        let verdict = {
            let mut state = self.disk.state();
            state.syncs += 1;
            state.may_fail()
        };
        let mut inode = self.inode.lock().unwrap();
        let pending = std::mem::take(&mut inode.pending);
        if verdict.is_ok() {
            pending.iter().for_each(|op| op.apply(&mut inode.durable));
        }
        inode.log.push(Op::Sync);
        verdict
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.change(Op::Write(usize::try_from(offset).map_err(io::Error::other)?, data.to_vec()))
    }
}

/// Every state in which a power cut during `log` may leave the file, one at random for each point from `from` on.
pub(super) fn crash_images(
    before: &[u8],
    log: &[Op],
    from: usize,
    random: &mut Random,
    mut check: impl FnMut(usize, Vec<u8>),
) {
    let mut synced = before.to_vec();
    let mut last_sync = 0;
    for (point, op) in log.iter().enumerate() {
        if matches!(op, Op::Sync) {
            log[last_sync..point].iter().for_each(|op| op.apply(&mut synced));
            last_sync = point;
        }
        if point + 1 < from {
            continue;
        }
        let mut image = synced.clone();
        let unsynced = &log[last_sync..=point];
        if random.below(4) == 0 {
            // The process was killed and the machine went on: everything written is there.
            unsynced.iter().for_each(|op| op.apply(&mut image));
        } else {
            unsynced.iter().for_each(|op| op.apply_part(&mut image, random));
        }
        check(point + 1, image);
    }
}

/// What a store should hold.
#[derive(Clone, Default, PartialEq)]
pub(super) struct Model {
    pub(super) jobs: BTreeMap<JobId, Job>,
    payloads: BTreeMap<JobId, Payload>,
    items: BTreeMap<JobId, BTreeMap<u32, Vec<u8>>>,
    results: BTreeMap<JobId, Vec<u8>>,
    pub(super) outbox: BTreeMap<u64, Message>,
}

/// Names, versions and sizes: bodies would fill the screen.
impl fmt::Debug for Model {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let jobs: Vec<String> =
            self.jobs.values().map(|job| format!("{} v{} {:?}", job.id, job.version, job.state)).collect();
        let payloads: Vec<_> = self.payloads.iter().map(|(id, payload)| (id.as_str(), payload.body.len())).collect();
        let items: Vec<_> = self.items.iter().map(|(id, items)| (id.as_str(), items.len())).collect();
        let results: Vec<_> = self.results.iter().map(|(id, body)| (id.as_str(), body.len())).collect();
        let outbox: Vec<_> = self.outbox.iter().map(|(seq, message)| (seq, message.topic.as_str())).collect();
        write!(f, "jobs {jobs:?} payloads {payloads:?} items {items:?} results {results:?} outbox {outbox:?}")
    }
}

impl Model {
    /// The batch as its documentation words it.
    pub(super) fn apply(&mut self, batch: &Batch, seqs: &[u64]) {
        for id in &batch.forget {
            self.jobs.remove(id);
        }
        self.payloads.retain(|id, _| !batch.forget.contains(id) && !batch.drop_payloads.contains(id));
        self.items.retain(|id, _| !batch.forget.contains(id) && !batch.drop_items.contains(id));
        self.results.retain(|id, _| !batch.forget.contains(id) && !batch.drop_results.contains(id));
        self.jobs.extend(batch.jobs.iter().map(|job| (job.id.clone(), job.clone())));
        self.payloads.extend(batch.payloads.iter().cloned());
        self.results.extend(batch.results.iter().cloned());
        for (id, index, output) in &batch.items {
            self.items.entry(id.clone()).or_default().insert(*index, output.clone());
        }
        self.outbox.extend(seqs.iter().copied().zip(batch.messages.iter().chain(&batch.droppable).cloned()));
        for seq in &batch.delivered {
            self.outbox.remove(seq);
        }
    }

    /// What the store says of itself. `names` are all ids ever used: nothing may be left of a forgotten one.
    pub(super) fn of(store: &Store, jobs: &[Job], names: &[JobId]) -> Self {
        let mut model = Self::default();
        model.jobs.extend(jobs.iter().map(|job| (job.id.clone(), job.clone())));
        for id in names {
            model.payloads.extend(store.payload(id).unwrap().map(|payload| (id.clone(), payload)));
            model.results.extend(store.result(id).unwrap().map(|body| (id.clone(), body)));
            let items = store.items(id).unwrap();
            if !items.is_empty() {
                model.items.insert(id.clone(), (0..).zip(items).collect());
            }
        }
        model.outbox.extend(store.outbox(0, usize::MAX).unwrap());
        assert_eq!(store.outbox_len(), model.outbox.len());
        model
    }

    /// Every record as it lies in the file, seal included, with its name.
    pub(super) fn sealed(&self) -> Vec<(String, Vec<u8>)> {
        let mut all = Vec::new();
        let mut add = |table: &str, name: String, key: &[u8], value: Vec<u8>| {
            all.push((format!("{table} {name}"), seal::seal(table, key, value)));
        };
        for (id, job) in &self.jobs {
            add("jobs", id.to_string(), id.as_str().as_bytes(), records::encode_job(job));
        }
        for (id, payload) in &self.payloads {
            add("payloads", id.to_string(), id.as_str().as_bytes(), records::encode_payload(payload));
        }
        for (id, items) in &self.items {
            for (index, body) in items {
                let key = [&[1], id.as_str().as_bytes(), &index.to_le_bytes()].concat();
                add("items", format!("{id} {index}"), &key, body.clone());
            }
        }
        for (id, body) in &self.results {
            add("results", id.to_string(), id.as_str().as_bytes(), body.clone());
        }
        for (seq, message) in &self.outbox {
            add("outbox", seq.to_string(), &seq.to_le_bytes(), records::encode_message(message, false));
        }
        all
    }

    /// How many records it has.
    pub(super) fn records(&self) -> usize {
        let items: usize = self.items.values().map(BTreeMap::len).sum();
        self.jobs.len() + self.payloads.len() + items + self.results.len() + self.outbox.len()
    }

    /// Whether this is what damage may leave of `whole`: records are missing, and the others agree with what is left.
    pub(super) fn is_rest_of(&self, whole: &Self) -> Result<(), String> {
        for (id, job) in &self.jobs {
            let before = whole.jobs.get(id).ok_or_else(|| format!("phantom {id}"))?;
            let lowered = Job { done: job.done, version: before.version.saturating_add(1), ..before.clone() };
            if job != before && (job.done >= before.done || *job != lowered) {
                return Err(format!("{id} was changed"));
            }
            let items = self.items.get(id).map_or(0, BTreeMap::len);
            if !job.is_terminal() && items != job.done as usize {
                return Err(format!("{id} has {items} items, {} are done", job.done));
            }
        }
        let strangers = self.payloads.keys().chain(self.items.keys()).chain(self.results.keys());
        if let Some(id) = strangers.clone().find(|id| !self.jobs.contains_key(*id)) {
            return Err(format!("something of {id} is there without it"));
        }
        let same = self.payloads.iter().all(|(id, payload)| whole.payloads.get(id) == Some(payload))
            && self.results.iter().all(|(id, body)| whole.results.get(id) == Some(body))
            && self.outbox.iter().all(|(seq, message)| whole.outbox.get(seq) == Some(message))
            && self.items.iter().all(|(id, items)| {
                whole.items.get(id).is_some_and(|before| items.iter().all(|(at, body)| before.get(at) == Some(body)))
            });
        same.then_some(()).ok_or_else(|| format!("{self:?} is not of {whole:?}"))
    }
}
