//! What is in the file, and can it be trusted? Opening, checking, reading everything once, setting aside.
//!
//! Each step over a file that may be damaged runs in [`contained`], and the database itself lives outside of that call:
//! so that it is never dropped while a panic unwinds.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::io::{self, ErrorKind};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use redb::{Database, ReadTransaction, ReadableDatabase, ReadableTable, TableHandle};

use super::backend::{Control, Doubt, Watched};
use super::medium::Medium;
use super::meta::{META, Meta, SCHEMA, SCHEMA_UNSEALED};
use super::migrate;
use super::records::{ITEMS, JOBS, OUTBOX, PAYLOADS, RESULTS, Unreadable, decode_job, is_droppable};
use super::salvage::{Balance, Wreck};
use super::seal::{Sealed, unsealed};
use super::tally::{Queued, Tally};
use crate::fault::{Code, Fault};
use crate::jobs::job::Job;
use crate::units::JobId;

/// Memory that redb may use for pages, in bytes; its own default of a gigabyte is more than a node has to spare.
const CACHE_BYTES: usize = 1024 * 1024;

/// Why the store does not work.
#[derive(Debug)]
pub(super) enum Trouble {
    /// Somebody else uses it.
    Locked(String),
    /// Written with a newer schema.
    Newer(u64),
    /// What is in the file makes no sense.
    Corrupt(String),
    /// The file system refused.
    Io(String),
}

impl Trouble {
    /// The same as a fault that names the file and the remedy.
    pub(super) fn fault(&self, path: &Path) -> Fault {
        let path = path.display();
        match self {
            Self::Locked(holder) => {
                let text =
                    format!("{path} is in use by {holder}: stop it, or give this agent a state directory of its own");
                Fault::new(Code::StateLocked, text)
            }
            Self::Newer(found) => {
                let text = format!(
                    "{path} has schema {found}, this version reads up to {SCHEMA}: install a newer version to read it"
                );
                Fault::new(Code::StateVersion, text)
            }
            Self::Corrupt(why) => Fault::new(Code::StateCorrupt, format!("{path} cannot be read: {why}")),
            Self::Io(why) => {
                let text =
                    format!("{path}: {why}; the state directory must be writable and its file system must have space");
                Fault::new(Code::StateIo, text)
            }
        }
    }
}

impl From<io::Error> for Trouble {
    fn from(err: io::Error) -> Self {
        // Reading past the end of the file: it is shorter than it says of itself.
        let damaged = matches!(err.kind(), ErrorKind::UnexpectedEof | ErrorKind::InvalidData);
        if damaged { Self::Corrupt(err.to_string()) } else { Self::Io(err.to_string()) }
    }
}

impl From<redb::Error> for Trouble {
    fn from(err: redb::Error) -> Self {
        use redb::Error;
        if let Error::Io(err) = err {
            return err.into();
        }
        if matches!(err, Error::DatabaseAlreadyOpen | Error::LockProtocolMismatch) {
            return Self::Locked("another process".to_owned());
        }
        let refused =
            matches!(err, Error::PreviousIo | Error::DatabaseClosed | Error::Unsupported | Error::ValueTooLarge(_));
        if refused { Self::Io(err.to_string()) } else { Self::Corrupt(err.to_string()) }
    }
}

/// One `From` per error type of redb: they all widen to `redb::Error`.
macro_rules! trouble_from {
    ($($error:ty),+) => { $(impl From<$error> for Trouble {
        fn from(err: $error) -> Self {
            redb::Error::from(err).into()
        }
    })+ };
}

trouble_from!(
    redb::StorageError,
    redb::DatabaseError,
    redb::TableError,
    redb::TransactionError,
    redb::CommitError,
    redb::SetDurabilityError
);

impl From<Unreadable> for Trouble {
    fn from(err: Unreadable) -> Self {
        Self::Corrupt(err.to_string())
    }
}

thread_local! {
    static CONTAINED: Cell<bool> = const { Cell::new(false) };
}

/// Whether a panic on this thread will be caught and turned into a fault by the store.
///
/// redb can panic over a damaged file. A panic hook that ends the process must ask this first, or one bad sector keeps
/// the agent from ever starting.
pub fn panic_is_contained() -> bool {
    CONTAINED.get()
}

/// Runs `work`, and makes a panic in it a [`Trouble::Corrupt`]. Whatever `work` touched must be thrown away then.
pub(super) fn contained<T>(work: impl FnOnce() -> Result<T, Trouble>) -> Result<T, Trouble> {
    let outer = CONTAINED.replace(true);
    let outcome = catch_unwind(AssertUnwindSafe(work));
    CONTAINED.set(outer);
    outcome.unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().map(String::as_str);
        let text = text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("no text");
        Err(Trouble::Corrupt(format!("reading it panicked: {text}")))
    })
}

/// An open database and the hold on its backend.
#[derive(Debug)]
pub(super) struct Live {
    pub(super) database: Database,
    pub(super) control: Arc<Control>,
}

/// What a store held when it was opened.
#[derive(Debug)]
pub(super) struct Contents {
    pub(super) jobs: Vec<Job>,
    pub(super) tally: Tally,
    /// Jobs that have not ended and whose input is not there.
    pub(super) without_input: Vec<JobId>,
    pub(super) marks: Vec<(String, u64)>,
    schema: u64,
}

/// A store that could not be used and lies beside the new one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Quarantined {
    /// Where it is now; nothing in it was changed by the agent.
    pub path: PathBuf,
    /// Why: `state.corrupt` or `state.version`; the sentence also says what became of its records.
    pub fault: Fault,
    /// Records that were carried over into the new store.
    pub kept: u64,
    /// Records that were not; `None` when nothing tells how many there were.
    pub lost: Option<u64>,
}

/// A store that is ready for a new run of the agent.
#[derive(Debug)]
pub(super) struct Started {
    pub(super) live: Live,
    pub(super) contents: Contents,
    /// Which run this is, from 1.
    pub(super) boot: u64,
    pub(super) quarantined: Option<Quarantined>,
}

/// Opens the store for a new run. One that cannot be used is set aside, never deleted, and a new one takes its place with
/// whatever of it is still good.
pub(super) fn start(medium: &dyn Medium) -> Result<Started, Fault> {
    let path = medium.path();
    if !medium.exists().map_err(|err| Trouble::from(err).fault(path))? {
        let created = create(medium, |_| Ok(Balance::default()));
        return created.map(|(started, _)| started).map_err(|trouble| trouble.fault(path));
    }
    medium.doubt().take_refused();
    let trouble = match resume(medium) {
        Ok(started) => return Ok(started),
        // redb can take a refusal for damage, and a store that is whole would be set aside.
        Err(Trouble::Corrupt(why)) if medium.doubt().take_refused() => Trouble::Io(why),
        Err(trouble) => trouble,
    };
    let Fault { code, message } = trouble.fault(path);
    let kind = match trouble {
        Trouble::Corrupt(_) => "corrupt",
        Trouble::Newer(_) => "newer",
        Trouble::Locked(_) | Trouble::Io(_) => return Err(Fault::new(code, message)),
    };
    let aside = medium.set_aside(kind);
    let path = aside.map_err(|err| Fault::new(code, format!("{message}; and it could not be set aside: {err}")))?;
    let started = match trouble {
        Trouble::Corrupt(_) => carry_over(medium),
        Trouble::Newer(_) | Trouble::Locked(_) | Trouble::Io(_) => create(medium, |_| Ok(Balance::default())),
    };
    let (mut started, Balance { kept, lost }) = started.map_err(|trouble| trouble.fault(medium.path()))?;
    let text = format!("{message}; it is kept as {}, {}", path.display(), told(kept, lost));
    started.quarantined = Some(Quarantined { path, fault: Fault::new(code, text), kept, lost });
    Ok(started)
}

/// What became of the records of a store that was set aside.
fn told(kept: u64, lost: Option<u64>) -> String {
    match (kept, lost) {
        (0, _) => "the agent starts with an empty store".to_owned(),
        (kept, Some(lost)) => format!("{kept} records were carried over into a new store and {lost} are lost"),
        (kept, None) => format!("{kept} records were carried over into a new store; nothing tells how many are lost"),
    }
}

/// A new store with whatever is still good in the one that is there.
fn carry_over(medium: &dyn Medium) -> Result<(Started, Balance), Trouble> {
    let wreck = contained(|| Wreck::survey(medium.inspect()?));
    let carried = wreck.and_then(|wreck| create(medium, |database| wreck.carry_over(database)));
    match carried {
        // redb can take a refusal of the disk for damage, of the new file this time.
        Err(Trouble::Corrupt(why)) if medium.doubt().take_refused() => Err(Trouble::Io(why)),
        // Nothing of it can be read, or not even reading it went well.
        Err(Trouble::Corrupt(_) | Trouble::Newer(_)) => create(medium, |_| Ok(Balance::default())),
        outcome => outcome,
    }
}

/// A store with what `fill` puts into it. It takes its name only when it is whole, so a file of that name always has a
/// schema.
fn create(
    medium: &dyn Medium,
    fill: impl FnOnce(&Database) -> Result<Balance, Trouble>,
) -> Result<(Started, Balance), Trouble> {
    medium.doubt().set_unsynced(false);
    let live = open_database(medium.doubt(), || medium.create())?;
    let mut balance = Balance::default();
    let made = contained(|| {
        live.control.release()?;
        lay_out(&live.database)?;
        balance = fill(&live.database)?;
        read_all(&live.database)
    });
    let started = begin(live, made, || Ok(medium.publish()?))?;
    Ok((started, balance))
}

/// The store that is there, for a new run.
fn resume(medium: &dyn Medium) -> Result<Started, Trouble> {
    let (live, contents) = reopen(medium)?;
    begin(live, Ok(contents), || Ok(()))
}

/// The store that is there, for the run that already used it.
pub(super) fn reopen(medium: &dyn Medium) -> Result<(Live, Contents), Trouble> {
    if medium.doubt().is_unsynced() {
        medium.renew()?;
        medium.doubt().set_unsynced(false);
    }
    let live = open_database(medium.doubt(), || medium.open())?;
    let read = contained(|| {
        let contents = read_all(&live.database)?;
        // It is sound: what opening it has to write may go to the file now.
        live.control.release()?;
        if contents.schema == SCHEMA {
            return Ok(contents);
        }
        migrate::seal_all(&live.database, &contents.tally.meta)?;
        read_all(&live.database)
    });
    match read {
        Ok(contents) => Ok((live, contents)),
        Err(trouble) => {
            close(live);
            Err(trouble)
        }
    }
}

/// Counts the run, and lets `publish` do what comes after the first transaction.
fn begin(
    live: Live,
    contents: Result<Contents, Trouble>,
    publish: impl FnOnce() -> Result<(), Trouble>,
) -> Result<Started, Trouble> {
    let outcome = contents.and_then(|mut contents| {
        let meta = &mut contents.tally.meta;
        *meta = Meta { boots: meta.boots + 1, commits: meta.commits + 1, ..*meta };
        contained(|| write_meta(&live.database, meta))?;
        publish()?;
        Ok(contents)
    });
    match outcome {
        Ok(contents) => Ok(Started { boot: contents.tally.meta.boots, live, contents, quarantined: None }),
        Err(trouble) => {
            close(live);
            Err(trouble)
        }
    }
}

/// Drops a database that gave trouble. Dropping writes, so it may fail and even panic; nothing depends on it.
pub(super) fn close(live: Live) {
    // The database is rebuilt from its last commit at the next open, whatever happens here.
    let _ = contained(|| {
        drop(live);
        Ok(())
    });
}

/// Opens with redb's check of every page: a damaged file is an error then, where a plain open would trust it. Nothing
/// is written to the file before its [`Control`] is released.
fn open_database(
    doubt: &Arc<Doubt>,
    backend: impl FnOnce() -> io::Result<Box<dyn redb::StorageBackend>>,
) -> Result<Live, Trouble> {
    let (watched, control) = Watched::holding(backend()?, Arc::clone(doubt));
    let database = contained(|| {
        let mut builder = Database::builder();
        builder.set_cache_size(CACHE_BYTES).set_check_integrity_on_open(true);
        Ok(builder.create_with_backend(watched)?)
    })?;
    Ok(Live { database, control })
}

/// Writes the schema number and makes all tables, empty.
fn lay_out(database: &Database) -> Result<(), Trouble> {
    let transaction = database.begin_write()?;
    {
        Meta::default().write(&mut transaction.open_table(META)?)?;
        transaction.open_table(JOBS)?;
        transaction.open_table(PAYLOADS)?;
        transaction.open_table(ITEMS)?;
        transaction.open_table(RESULTS)?;
        transaction.open_table(OUTBOX)?;
    }
    Ok(transaction.commit()?)
}

fn write_meta(database: &Database, meta: &Meta) -> Result<(), Trouble> {
    let transaction = database.begin_write()?;
    meta.write(&mut transaction.open_table(META)?)?;
    Ok(transaction.commit()?)
}

/// Reads every record once and checks its seal: what is not as it was written is found now, not in the middle of a job.
/// Only jobs are decoded. They take as long as everything else, so that is read on another core meanwhile.
pub(super) fn read_all(database: &Database) -> Result<Contents, Trouble> {
    let transaction = database.begin_read()?;
    // Checks the schema first: of a newer one no other table may be touched.
    if !transaction.list_tables()?.any(|table| table.name() == META.name()) {
        return Err(Trouble::Corrupt("it has no schema number".to_owned()));
    }
    let numbers = transaction.open_table(META)?;
    let ((meta, schema), marks) = (Meta::read(&numbers)?, Meta::marks(&numbers)?);
    let (jobs, bodies) = std::thread::scope(|scope| {
        let read = || contained(|| read_bodies(database, schema));
        let reader = std::thread::Builder::new().name("neap-opening".into()).spawn_scoped(scope, read);
        let jobs = read_jobs(&transaction, schema);
        let bodies = reader.map_err(Trouble::from).and_then(|reader| {
            reader.join().unwrap_or_else(|_| Err(Trouble::Corrupt("its reader ended early".to_owned())))
        });
        (jobs, bodies)
    });
    let (jobs, Bodies { bytes, inputs, outbox }) = (jobs?, bodies?);
    let is_lost = |job: &&Job| !job.is_terminal() && inputs.binary_search_by(|id| (**id).cmp(job.id.as_str())).is_err();
    let without_input = jobs.iter().filter(is_lost).map(|job| job.id.clone()).collect();
    Ok(Contents { jobs, tally: Tally { bytes, outbox, meta }, without_input, marks, schema })
}

fn read_jobs(transaction: &ReadTransaction, schema: u64) -> Result<Vec<Job>, Trouble> {
    let mut jobs = Vec::new();
    for entry in transaction.open_table(JOBS)?.iter()? {
        let (id, record) = entry?;
        jobs.push(decode_job(id.value(), value_of(schema, JOBS, &id.value(), record.value())?)?);
    }
    Ok(jobs)
}

/// What is known of everything but the jobs.
struct Bodies {
    bytes: u64,
    /// Ids that have a payload, in their order.
    inputs: Vec<Box<str>>,
    outbox: BTreeMap<u64, Queued>,
}

fn read_bodies(database: &Database, schema: u64) -> Result<Bodies, Trouble> {
    let transaction = database.begin_read()?;
    let mut bodies = Bodies { bytes: 0, inputs: Vec::new(), outbox: BTreeMap::new() };
    for entry in transaction.open_table(PAYLOADS)?.iter()? {
        let (id, record) = entry?;
        value_of(schema, PAYLOADS, &id.value(), record.value())?;
        bodies.inputs.push(id.value().into());
        bodies.bytes += record.value().len() as u64;
    }
    for entry in transaction.open_table(ITEMS)?.iter()? {
        let (key, record) = entry?;
        value_of(schema, ITEMS, &key.value(), record.value())?;
        bodies.bytes += record.value().len() as u64;
    }
    for entry in transaction.open_table(RESULTS)?.iter()? {
        let (id, record) = entry?;
        value_of(schema, RESULTS, &id.value(), record.value())?;
        bodies.bytes += record.value().len() as u64;
    }
    for entry in transaction.open_table(OUTBOX)?.iter()? {
        let (seq, record) = entry?;
        let droppable = is_droppable(value_of(schema, OUTBOX, &seq.value(), record.value())?)?;
        let bytes = record.value().len() as u64;
        bodies.outbox.insert(seq.value(), Queued { droppable, bytes });
        bodies.bytes += bytes;
    }
    Ok(bodies)
}

/// The value of a record in a store of that schema.
fn value_of<'r, K: redb::Key + 'static>(
    schema: u64,
    table: Sealed<K>,
    key: &K::SelfType<'_>,
    record: &'r [u8],
) -> Result<&'r [u8], Unreadable> {
    if schema == SCHEMA_UNSEALED { Ok(record) } else { unsealed(table, key, record) }
}
