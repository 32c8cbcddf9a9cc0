//! How large is this program's file, and is it stripped?

use std::fs;

use crate::cli::failure::{Class, Failure};

/// Kind of a section that holds the table of symbols: what stripping takes away.
const SYMBOLS: u32 = 2;
/// More sections than any program has.
const SECTIONS_MAX: u64 = 4096;

/// What the program's file is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Executable {
    /// Its length.
    pub(super) bytes: u64,
    /// Whether it has no table of symbols; `None` when that cannot be told.
    pub(super) stripped: Option<bool>,
}

/// Looks at the program that runs.
pub(super) fn own() -> Result<Executable, Failure> {
    let failed = |error: std::io::Error| Failure::io("cannot read this program's own file", &error);
    let file = fs::read("/proc/self/exe").map_err(failed)?;
    let bytes = u64::try_from(file.len()).map_err(|error| Failure::new(Class::Software, error.to_string()))?;
    Ok(Executable { bytes, stripped: is_stripped(&file) })
}

/// Whether an ELF file, little-endian and of 32 or 64 bits, has no table of symbols.
fn is_stripped(file: &[u8]) -> Option<bool> {
    let word = |at: u64, bytes: u64| -> Option<u64> {
        let at = usize::try_from(at).ok()?;
        let field = file.get(at..at.checked_add(usize::try_from(bytes).ok()?)?)?;
        Some(field.iter().rev().fold(0, |value, byte| value << 8 | u64::from(*byte)))
    };
    let is_little_elf = file.get(..4)? == b"\x7fELF" && *file.get(5)? == 1;
    let (table, length, count) = match (is_little_elf, *file.get(4)?) {
        (true, 1) => (word(0x20, 4)?, word(0x2e, 2)?, word(0x30, 2)?),
        (true, 2) => (word(0x28, 8)?, word(0x3a, 2)?, word(0x3c, 2)?),
        _ => return None,
    };
    if table == 0 {
        return Some(true);
    }
    let kind = |index: u64| word(table.checked_add(index.checked_mul(length)?)?.checked_add(4)?, 4);
    let kinds = (0..count.min(SECTIONS_MAX)).map(kind).collect::<Option<Vec<_>>>()?;
    Some(!kinds.contains(&u64::from(SYMBOLS)))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An ELF file of nothing but a header and sections of these kinds.
    fn elf(wide: bool, kinds: &[u32]) -> Vec<u8> {
        let (header, length) = if wide { (64_usize, 64_usize) } else { (52, 40) };
        let mut file = vec![0; header + length * kinds.len()];
        file[..4].copy_from_slice(b"\x7fELF");
        (file[4], file[5]) = (if wide { 2 } else { 1 }, 1);
        let (table, size, count) = if wide { (0x28, 0x3a, 0x3c) } else { (0x20, 0x2e, 0x30) };
        file[table] = u8::try_from(header).unwrap();
        file[size] = u8::try_from(length).unwrap();
        file[count] = u8::try_from(kinds.len()).unwrap();
        for (index, kind) in kinds.iter().enumerate() {
            let at = header + index * length + 4;
            file[at..at + 4].copy_from_slice(&kind.to_le_bytes());
        }
        file
    }

    #[test]
    fn a_file_with_a_table_of_symbols_is_not_stripped() {
        for wide in [false, true] {
            assert_eq!(is_stripped(&elf(wide, &[0, 1, 11, 3])), Some(true));
            assert_eq!(is_stripped(&elf(wide, &[0, 1, SYMBOLS, 3])), Some(false));
        }
    }

    #[test]
    fn what_is_no_such_file_or_is_cut_tells_nothing() {
        assert_eq!(is_stripped(b""), None);
        assert_eq!(is_stripped(b"#!/bin/sh\necho hello\n"), None);
        let whole = elf(true, &[0, 1, 2]);
        assert_eq!(is_stripped(&whole[..whole.len() - 62]), None);
    }

    #[test]
    fn this_very_program_can_be_told() {
        let own = own().unwrap();
        assert!(own.bytes > 1_000_000 && own.stripped.is_some(), "{own:?}");
    }
}
