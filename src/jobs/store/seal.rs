//! Is this record the one that was written? A checksum on each, beside those that the database keeps of its pages.
//!
//! With it one good record can be told from a bad one without trusting the tree it was found in.

use redb::{Key, TableDefinition, TableHandle};

use super::records::Unreadable;

/// Bytes that a seal adds to a value.
pub(super) const SEAL_BYTES: usize = 4;

/// A table whose records are sealed.
pub(super) type Sealed<K> = TableDefinition<'static, K, &'static [u8]>;

/// CRC-32 (IEEE) over the table's name, a zero byte, the key as the database stores it, and the value: a record that
/// turns up under another key or in another table is not sound either.
fn crc(table: &str, key: &[u8], value: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(table.as_bytes());
    hasher.update(&[0]);
    hasher.update(key);
    hasher.update(value);
    hasher.finalize()
}

/// Appends the seal to a value, in little-endian.
pub(super) fn seal(table: &str, key: &[u8], mut value: Vec<u8>) -> Vec<u8> {
    let crc = crc(table, key, &value);
    value.extend_from_slice(&crc.to_le_bytes());
    value
}

/// The value of a record, if the seal is right for this key, as the database stores it.
pub(super) fn unseal<'r>(table: &str, key: &[u8], record: &'r [u8]) -> Option<&'r [u8]> {
    let (value, seal) = record.split_last_chunk::<SEAL_BYTES>()?;
    (crc(table, key, value) == u32::from_le_bytes(*seal)).then_some(value)
}

/// The value of a record that was found in an open table.
pub(super) fn unsealed<'r, K: Key + 'static>(
    table: Sealed<K>,
    key: &K::SelfType<'_>,
    record: &'r [u8],
) -> Result<&'r [u8], Unreadable> {
    let wrong = || Unreadable::new(table.name(), format!("the checksum of record {key:?} is wrong"));
    unseal(table.name(), K::as_bytes(key).as_ref(), record).ok_or_else(wrong)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seal_holds_for_its_table_its_key_and_its_value_only() {
        let record = seal("items", b"a", b"value".to_vec());
        assert_eq!(unseal("items", b"a", &record), Some(b"value".as_slice()));
        assert_eq!(unseal("results", b"a", &record), None);
        assert_eq!(unseal("items", b"b", &record), None);
        for bit in 0..record.len() * 8 {
            let mut flipped = record.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(unseal("items", b"a", &flipped), None, "bit {bit}");
        }
        for length in 0..record.len() {
            assert_eq!(unseal("items", b"a", &record[..length]), None, "cut to {length}");
        }
    }

    #[test]
    fn an_empty_value_has_a_seal_too() {
        assert_eq!(unseal("items", b"a", &seal("items", b"a", Vec::new())), Some([].as_slice()));
        assert_eq!(unseal("items", b"a", &[]), None);
    }
}
