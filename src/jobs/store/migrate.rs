//! How does an old store become one of today? In one transaction, when it is opened.
//!
//! Schema 1 had no checksums of its own on its records, nor on the rows of `meta`; its pages were checked by the
//! database when it was opened, so what is read here is what was written. Killed in between, the store is still whole
//! and of schema 1.

use redb::{Database, ReadTransaction, ReadableDatabase, ReadableTable, WriteTransaction};

use super::meta::{META, Meta};
use super::records::{ITEMS, JOBS, OUTBOX, PAYLOADS, RESULTS};
use super::recovery::Trouble;
use super::seal::Sealed;
use super::transaction::put;

/// Gives every record of a store of schema 1 its checksum.
pub(super) fn seal_all(database: &Database, meta: &Meta) -> Result<(), Trouble> {
    let old = database.begin_read()?;
    let transaction = database.begin_write()?;
    seal_table(&old, &transaction, JOBS)?;
    seal_table(&old, &transaction, PAYLOADS)?;
    seal_table(&old, &transaction, ITEMS)?;
    seal_table(&old, &transaction, RESULTS)?;
    seal_table(&old, &transaction, OUTBOX)?;
    let meta = Meta { commits: meta.commits + 1, ..*meta };
    meta.write(&mut transaction.open_table(META)?)?;
    Ok(transaction.commit()?)
}

fn seal_table<K: redb::Key + 'static>(
    old: &ReadTransaction,
    transaction: &WriteTransaction,
    table: Sealed<K>,
) -> Result<(), Trouble> {
    let mut new = transaction.open_table(table)?;
    for entry in old.open_table(table)?.iter()? {
        let (key, value) = entry?;
        put(&mut new, key.value(), value.value().to_vec(), None)?;
    }
    Ok(())
}
