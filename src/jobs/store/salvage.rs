//! What of a damaged store can go on? Every record that is still the one that was written, and fits the others.
//!
//! Only what can be reached from a root is taken, so nothing comes back that was deleted. After an orderly end that is
//! the root of the last commit. After a kill, a broken page that only the last commit has may as well never have been
//! written: then the commit before counts, if it is whole, as it does when redb recovers; and if it is not, no page of
//! which that is true is taken apart. A file whose header is gone has the tables of the last transaction that is whole.
//!
//! Two walks: the first learns which records are good, the second carries them over. Bodies are held one at a time.

use std::collections::{BTreeMap, BTreeSet};
use std::io;

use redb::{Database, ReadableTable, ReadableTableMetadata, StorageBackend, TableHandle, Value};

use super::meta::{META, Meta, SCHEMA};
use super::pages::{Pages, Pair, Pointer, Suspects, Tree, root};
use super::records::{ITEMS, JOBS, OUTBOX, PAYLOADS, RESULTS, decode_job, decode_message, decode_payload, encode_job};
use super::recovery::Trouble;
use super::seal::unseal;
use super::transaction::{Values, put};
use crate::jobs::job::Job;
use crate::units::JobId;

/// Names of all tables, in the order in which the file has them.
const NAMES: [&str; 6] = ["items", "jobs", "meta", "outbox", "payloads", "results"];

/// What was carried over.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Balance {
    /// Records in the new store.
    pub(super) kept: u64,
    /// Records that were in the old one and are not in the new one; `None` when nothing tells how many there were.
    pub(super) lost: Option<u64>,
}

/// The tables of one commit.
#[derive(Debug)]
struct Tables {
    trees: BTreeMap<&'static str, Tree>,
    /// Places that do not hold what they should, the directory of tables included.
    broken: BTreeSet<Pointer>,
    suspects: Suspects,
}

/// What the first walk learned.
#[derive(Debug, Default)]
struct Found {
    meta: Meta,
    /// None when the numbers cannot be trusted: whoever set them begins anew.
    marks: Vec<(String, u64)>,
    jobs: BTreeMap<JobId, Job>,
    /// Items of each job from the first on, up to the first that is missing.
    items: BTreeMap<String, u32>,
    seq_max: u64,
}

/// A good record.
#[derive(Clone, Copy, Debug)]
struct Record<'p> {
    key: &'p [u8],
    /// Without its seal.
    value: &'p [u8],
    /// Whether its page is sound as well.
    sound: bool,
}

/// A damaged store, opened for reading.
#[derive(Debug)]
pub(super) struct Wreck {
    pages: Pages,
    tables: Tables,
    /// Whether its records have checksums of their own.
    sealed: bool,
    found: Found,
}

impl Wreck {
    /// Looks at everything once.
    ///
    /// # Errors
    /// [`Trouble::Newer`] for a store of a newer schema, [`Trouble::Io`] when the file cannot be read,
    /// [`Trouble::Corrupt`] when nothing of it can be.
    pub(super) fn survey(backend: Box<dyn StorageBackend>) -> Result<Self, Trouble> {
        let pages = Pages::new(backend)?;
        let Some(tables) = choose(&pages)? else {
            return Err(Trouble::Corrupt("no directory of its tables can be read".to_owned()));
        };
        let (meta, sealed) = match read_meta(&pages, &tables)? {
            Ok((meta, schema)) => (Some(meta), schema == SCHEMA),
            Err(Trouble::Newer(schema)) => return Err(Trouble::Newer(schema)),
            // Without its numbers the records must vouch for themselves.
            Err(Trouble::Corrupt(_) | Trouble::Io(_) | Trouble::Locked(_)) => (None, true),
        };
        let mut wreck = Self { pages, tables, sealed, found: Found::default() };
        wreck.found = wreck.look()?;
        if meta.is_some() {
            wreck.found.marks = Meta::marks_of(&read_rows(&wreck.pages, &wreck.tables)?);
        }
        let seen = wreck.found.seq_max + 1;
        let meta = meta.unwrap_or_default();
        wreck.found.meta = Meta { next_seq: meta.next_seq.max(seen), ..meta };
        wreck.found.settle();
        Ok(wreck)
    }

    /// Writes what is good into an empty store.
    pub(super) fn carry_over(&self, database: &Database) -> Result<Balance, Trouble> {
        let transaction = database.begin_write()?;
        let mut kept = 0;
        {
            let mut numbers = transaction.open_table(META)?;
            Meta::raise(&mut numbers, &self.found.marks)?;
            self.found.meta.write(&mut numbers)?;
            let mut jobs = transaction.open_table(JOBS)?;
            for job in self.found.jobs.values() {
                put(&mut jobs, job.id.as_str(), encode_job(job), None)?;
            }
            let mut payloads = transaction.open_table(PAYLOADS)?;
            self.copy(&mut payloads, |key| self.owner(key))?;
            let mut results = transaction.open_table(RESULTS)?;
            self.copy(&mut results, |key| self.owner(key))?;
            let mut outbox = transaction.open_table(OUTBOX)?;
            self.copy(&mut outbox, seq_key)?;
            let mut items = transaction.open_table(ITEMS)?;
            self.copy(&mut items, |key| self.needed(key))?;
            kept += jobs.len()? + payloads.len()? + results.len()? + outbox.len()? + items.len()?;
        }
        transaction.commit()?;
        Ok(Balance { kept, lost: self.records().map(|records| records.saturating_sub(kept)) })
    }

    /// Copies the good records of a table whose key `admit` admits.
    fn copy<K: redb::Key + 'static>(
        &self,
        table: &mut Values<'_, K>,
        admit: impl for<'k> Fn(&'k [u8]) -> Option<K::SelfType<'k>>,
    ) -> Result<(), Trouble> {
        let name = table.name().to_owned();
        let mut copy = |record: Record<'_>| {
            let Some(key) = admit(record.key) else { return Ok(()) };
            // What is vouched for goes before what is not.
            if record.sound || table.get(&key)?.is_none() {
                put(table, key, record.value.to_vec(), None)?;
            }
            Ok(())
        };
        let mut outcome = Ok(());
        self.each(&name, &mut |record| {
            if outcome.is_ok() {
                outcome = copy(record);
            }
        })?;
        outcome
    }

    /// Visits the good records of a table in the order of their keys.
    fn each(&self, table: &str, visit: &mut dyn FnMut(Record<'_>)) -> io::Result<()> {
        let Some(tree) = self.tables.trees.get(table) else { return Ok(()) };
        self.pages.walk(tree, &self.tables.suspects, &mut |leaf| {
            let good: Vec<Option<Pair<'_>>> = leaf.pairs.iter().map(|pair| self.opened(table, (*pair)?)).collect();
            // Damage hits something. A page that is not the right one, and all of whose records are good, is another
            // one, perhaps from long ago, that was written to the wrong place.
            if !leaf.sound && (!self.sealed || good.iter().all(Option::is_some)) {
                return;
            }
            for (key, value) in good.into_iter().flatten().filter(|(key, value)| reads_back(table, key, value)) {
                visit(Record { key, value, sound: leaf.sound });
            }
        })?;
        Ok(())
    }

    /// The pair without its seal, if it has one and it is right.
    fn opened<'p>(&self, table: &str, (key, value): Pair<'p>) -> Option<Pair<'p>> {
        match self.sealed {
            true => Some((key, unseal(table, key, value)?)),
            false => Some((key, value)),
        }
    }

    fn look(&self) -> io::Result<Found> {
        let mut found = Found::default();
        self.each("jobs", &mut |record| {
            let job = std::str::from_utf8(record.key).ok().and_then(|id| decode_job(id, record.value).ok());
            let job = job.filter(|job| record.sound || !found.jobs.contains_key(&job.id));
            found.jobs.extend(job.map(|job| (job.id.clone(), job)));
        })?;
        self.each("items", &mut |record| {
            let Some((id, index)) = item_key(record.key) else { return };
            let done = found.items.entry(id.to_owned()).or_default();
            if index == *done {
                *done += 1;
            }
        })?;
        self.each("outbox", &mut |record| found.seq_max = found.seq_max.max(seq_key(record.key).unwrap_or(0)))?;
        Ok(found)
    }

    /// The id in a key, if its job was found.
    fn owner<'k>(&self, key: &'k [u8]) -> Option<&'k str> {
        let id = std::str::from_utf8(key).ok()?;
        self.job(id).map(|_| id)
    }

    /// The key of an item, if its job was found and goes on after it.
    fn needed<'k>(&self, key: &'k [u8]) -> Option<(&'k str, u32)> {
        let (id, index) = item_key(key)?;
        self.job(id).filter(|job| index < job.done).map(|_| (id, index))
    }

    fn job(&self, id: &str) -> Option<&Job> {
        self.found.jobs.get(&id.parse::<JobId>().ok()?)
    }

    /// Records that the commit had, `meta` aside.
    fn records(&self) -> Option<u64> {
        let tables = NAMES.iter().filter(|name| **name != META.name());
        tables.map(|name| self.tables.trees.get(name).filter(|tree| tree.vouched).map(|tree| tree.length)).sum()
    }
}

impl Found {
    /// Makes the jobs agree with what is left of them. A job that lost outputs computes them again: its version rises,
    /// because the last one that was told had more.
    fn settle(&mut self) {
        for job in self.jobs.values_mut().filter(|job| !job.is_terminal()) {
            let there = self.items.get(job.id.as_str()).copied().unwrap_or(0);
            if there < job.done {
                job.done = there;
                job.version = job.version.saturating_add(1);
            }
        }
    }
}

/// Whether a value means anything: a checksum also holds for what an older or a newer writer meant differently.
fn reads_back(table: &str, key: &[u8], value: &[u8]) -> bool {
    match table {
        "jobs" => std::str::from_utf8(key).is_ok_and(|id| decode_job(id, value).is_ok()),
        "payloads" => decode_payload(value).is_ok(),
        "outbox" => seq_key(key).is_some() && decode_message(value).is_ok(),
        _ => true,
    }
}

/// Key of an item as redb stores it: length of the id, the id, the index.
fn item_key(key: &[u8]) -> Option<(&str, u32)> {
    let (length, rest) = key.split_first()?;
    let (id, index) = rest.split_at_checked(usize::from(*length))?;
    Some((std::str::from_utf8(id).ok()?, u32::from_le_bytes(index.try_into().ok()?)))
}

fn seq_key(key: &[u8]) -> Option<u64> {
    Some(u64::from_le_bytes(key.try_into().ok()?))
}

/// The tables of the newest commit that can be believed.
fn choose(pages: &Pages) -> io::Result<Option<Tables>> {
    let (slots, in_order) = pages.slots()?;
    let mut commits = Vec::new();
    for slot in slots {
        let Some(mut tables) = directory(pages, &slot.root)? else { continue };
        for tree in tables.trees.values() {
            tables.broken.extend(pages.walk(tree, &Suspects::None, &mut |_| {})?);
        }
        commits.push(tables);
    }
    let mut commits = commits.into_iter();
    match (commits.next(), commits.next()) {
        (None, _) => Ok(search(pages, 0)?),
        // The other slot was the newer one, perhaps.
        (Some(left), None) => {
            let commits = read_meta(pages, &left)?.map_or(0, |(meta, _)| meta.commits);
            Ok(Some(search(pages, commits + 1)?.unwrap_or(left)))
        }
        (Some(newest), Some(_)) if in_order => Ok(Some(newest)),
        (Some(newest), Some(before)) => {
            let own: BTreeSet<Pointer> = newest.broken.difference(&before.broken).copied().collect();
            if own.is_empty() {
                return Ok(Some(newest));
            }
            if before.broken.is_subset(&newest.broken) {
                return Ok(Some(before));
            }
            Ok(Some(Tables { suspects: Suspects::Some(own), ..newest }))
        }
    }
}

/// The tables of the last transaction of which a directory is left, from that number on. For a file whose header does
/// not tell.
fn search(pages: &Pages, commits_min: u64) -> io::Result<Option<Tables>> {
    let mut best = None;
    for leaf in pages.leaves() {
        let found = directory(pages, &leaf)?.filter(|tables| tables.trees.len() == NAMES.len());
        let Some(tables) = found.map(|tables| Tables { suspects: Suspects::All, ..tables }) else { continue };
        let Ok((meta, SCHEMA)) = read_meta(pages, &tables)? else { continue };
        if meta.commits >= best.as_ref().map_or(commits_min, |(commits, _)| commits + 1) {
            best = Some((meta.commits, tables));
        }
    }
    Ok(best.map(|(_, tables)| tables))
}

/// The tables under a root; `None` when it has none of this store's.
fn directory(pages: &Pages, root: &Tree) -> io::Result<Option<Tables>> {
    let mut trees = BTreeMap::new();
    let broken = pages.walk(root, &Suspects::None, &mut |leaf| {
        for (key, value) in leaf.pairs.iter().flatten() {
            let name = NAMES.iter().find(|name| name.as_bytes() == *key);
            trees.extend(name.and_then(|name| Some((*name, described(name, value, leaf.sound)?))));
        }
    })?;
    let broken = BTreeSet::from_iter(broken);
    Ok((!trees.is_empty()).then_some(Tables { trees, broken, suspects: Suspects::None }))
}

/// A table as the directory describes it: kind, length, flag and root, then types.
fn described(name: &str, value: &[u8], vouched: bool) -> Option<Tree> {
    const NORMAL: u8 = 3;
    if *value.first()? != NORMAL {
        return None;
    }
    let (pointer, _) = root(value.get(10..)?)?;
    let length = u64::from_le_bytes(*value.get(1..)?.first_chunk()?);
    Some(Tree {
        root: (value[9] != 0).then_some(pointer),
        length,
        vouched,
        key_bytes: if name == OUTBOX.name() { u64::fixed_width() } else { None },
        value_bytes: if name == META.name() { u64::fixed_width() } else { None },
    })
}

/// The numbers of the store, or why they cannot be had.
fn read_meta(pages: &Pages, tables: &Tables) -> io::Result<Result<(Meta, u64), Trouble>> {
    Ok(Meta::of(&read_rows(pages, tables)?))
}

fn read_rows(pages: &Pages, tables: &Tables) -> io::Result<Vec<(String, u64)>> {
    let mut rows = Vec::new();
    if let Some(tree) = tables.trees.get(META.name()) {
        pages.walk(tree, &tables.suspects, &mut |leaf| {
            for (key, value) in leaf.pairs.iter().flatten() {
                let key = std::str::from_utf8(key).ok();
                rows.extend(key.zip(seq_key(value)).map(|(key, value)| (key.to_owned(), value)));
            }
        })?;
    }
    Ok(rows)
}
