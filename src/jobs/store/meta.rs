//! Which numbers does the store keep of itself? Its layout, its runs, its transactions.

use redb::{ReadableTable, Table, TableDefinition};

use super::recovery::Trouble;
use crate::units::WallTime;

/// The layout that this version writes, and the newest it reads.
pub(super) const SCHEMA: u64 = 2;
/// The layout before records had checksums of their own; it is brought up to date when it is opened.
pub(super) const SCHEMA_UNSEALED: u64 = 1;

pub(super) const META: TableDefinition<'static, &str, u64> = TableDefinition::new("meta");

pub(super) const KEY_SCHEMA: &str = "schema";
const KEY_BOOTS: &str = "boots";
const KEY_COMMITS: &str = "commits";
const KEY_NEXT_SEQ: &str = "next_seq";
const KEY_WALL_HIGH: &str = "wall_high";
/// CRC-32 over all other rows, in the order of their keys: key, a zero byte, number in little-endian.
const KEY_CRC: &str = "crc";
/// Before the name of a mark: a number of the caller's that only rises.
const MARK: &str = "mark/";
/// More rows than any version ever had: a table with more is not this one.
const ROWS_MAX: usize = 64;

/// The numbers, as of one transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Meta {
    /// Runs of the agent on this store.
    pub(super) boots: u64,
    /// Transactions so far: tells after a failed commit whether it is in the file all the same.
    pub(super) commits: u64,
    /// Sequence number of the next message, from 1.
    pub(super) next_seq: u64,
    /// Highest wall time that was trusted.
    pub(super) wall_high: Option<WallTime>,
}

impl Default for Meta {
    fn default() -> Self {
        Self { boots: 0, commits: 0, next_seq: 1, wall_high: None }
    }
}

impl Meta {
    /// The numbers in these rows, and the schema they are of.
    ///
    /// # Errors
    /// [`Trouble::Newer`] for a schema that this version does not know, [`Trouble::Corrupt`] when they make no sense.
    pub(super) fn of(rows: &[(String, u64)]) -> Result<(Self, u64), Trouble> {
        let number = |key: &str| rows.iter().find(|(name, _)| name == key).map(|(_, value)| *value);
        let schema = match number(KEY_SCHEMA) {
            Some(schema @ (SCHEMA_UNSEALED | SCHEMA)) => schema,
            Some(newer) if newer > SCHEMA => return Err(Trouble::Newer(newer)),
            Some(_) | None => return Err(Trouble::Corrupt("it has no schema number that was ever used".to_owned())),
        };
        if schema == SCHEMA && number(KEY_CRC) != Some(crc(rows)) {
            return Err(Trouble::Corrupt("the checksum of its meta table is wrong".to_owned()));
        }
        let millis = number(KEY_WALL_HIGH).and_then(|millis| i64::try_from(millis).ok());
        let meta = Self {
            boots: number(KEY_BOOTS).unwrap_or(0),
            commits: number(KEY_COMMITS).unwrap_or(0),
            next_seq: number(KEY_NEXT_SEQ).unwrap_or(1),
            wall_high: millis.map(WallTime::from_millis),
        };
        Ok((meta, schema))
    }

    /// Reads the table.
    ///
    /// # Errors
    /// As [`Meta::of`].
    pub(super) fn read(table: &impl ReadableTable<&'static str, u64>) -> Result<(Self, u64), Trouble> {
        Self::of(&rows(table)?)
    }

    /// Raises the marks of a batch. Before [`Meta::write`], which vouches for all rows.
    pub(super) fn raise(table: &mut Table<'_, &'static str, u64>, marks: &[(String, u64)]) -> Result<(), Trouble> {
        for (name, number) in marks {
            let key = format!("{MARK}{name}");
            let known = table.get(key.as_str())?.map(|known| known.value());
            if known.is_none_or(|known| known < *number) {
                table.insert(key.as_str(), number)?;
            }
        }
        Ok(())
    }

    /// The marks among these rows.
    pub(super) fn marks_of(rows: &[(String, u64)]) -> Vec<(String, u64)> {
        let mark = |(key, number): &(String, u64)| Some((key.strip_prefix(MARK)?.to_owned(), *number));
        rows.iter().filter_map(mark).collect()
    }

    /// The marks of the table.
    pub(super) fn marks(table: &impl ReadableTable<&'static str, u64>) -> Result<Vec<(String, u64)>, Trouble> {
        Ok(Self::marks_of(&rows(table)?))
    }

    /// Writes the numbers and the schema. Rows of other names stay as they are.
    pub(super) fn write(&self, table: &mut Table<'_, &'static str, u64>) -> Result<(), Trouble> {
        table.insert(KEY_SCHEMA, SCHEMA)?;
        table.insert(KEY_BOOTS, self.boots)?;
        table.insert(KEY_COMMITS, self.commits)?;
        table.insert(KEY_NEXT_SEQ, self.next_seq)?;
        if let Some(high) = self.wall_high {
            table.insert(KEY_WALL_HIGH, u64::try_from(high.as_millis()).unwrap_or(0))?;
        }
        let crc = crc(&rows(table)?);
        table.insert(KEY_CRC, crc)?;
        Ok(())
    }
}

fn rows(table: &impl ReadableTable<&'static str, u64>) -> Result<Vec<(String, u64)>, Trouble> {
    let mut rows = Vec::new();
    for entry in table.iter()?.take(ROWS_MAX) {
        let (key, value) = entry?;
        rows.push((key.value().to_owned(), value.value()));
    }
    Ok(rows)
}

fn crc(rows: &[(String, u64)]) -> u64 {
    let mut hasher = crc32fast::Hasher::new();
    for (key, value) in rows.iter().filter(|(key, _)| key != KEY_CRC) {
        hasher.update(key.as_bytes());
        hasher.update(&[0]);
        hasher.update(&value.to_le_bytes());
    }
    u64::from(hasher.finalize())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sealed(rows: &[(&str, u64)]) -> Vec<(String, u64)> {
        let mut rows: Vec<_> = rows.iter().map(|(key, value)| ((*key).to_owned(), *value)).collect();
        rows.push((KEY_CRC.to_owned(), crc(&rows)));
        rows
    }

    #[test]
    fn rows_of_a_later_version_are_passed_over_and_vouched_for() {
        let rows = sealed(&[("boots", 3), ("colour", 4), ("next_seq", 9), ("schema", 2), ("wall_high", 5)]);
        let (meta, schema) = Meta::of(&rows).unwrap();
        let expected = Meta { boots: 3, commits: 0, next_seq: 9, wall_high: Some(WallTime::from_millis(5)) };
        assert_eq!((meta, schema), (expected, 2));
    }

    #[test]
    fn a_changed_number_is_found_out() {
        for row in 0..3 {
            let mut rows = sealed(&[("boots", 3), ("next_seq", 9), ("wall_high", 4)]);
            rows.push(("schema".to_owned(), 2));
            rows[row].1 ^= 1;
            assert!(matches!(Meta::of(&rows), Err(Trouble::Corrupt(_))), "row {row}");
        }
    }

    #[test]
    fn a_newer_schema_is_told_from_none() {
        assert!(matches!(Meta::of(&sealed(&[("schema", 3)])), Err(Trouble::Newer(3))));
        assert!(matches!(Meta::of(&sealed(&[("schema", 0)])), Err(Trouble::Corrupt(_))));
        assert!(matches!(Meta::of(&[]), Err(Trouble::Corrupt(_))));
        assert_eq!(Meta::of(&[("schema".to_owned(), 1)]).unwrap(), (Meta::default(), 1), "schema 1 had no checksum");
    }
}
