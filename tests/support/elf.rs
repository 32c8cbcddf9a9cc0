//! What does a program's file say about how it is loaded? As much of ELF as a record of hardening needs, little-endian.

#![allow(dead_code, missing_docs, unreachable_pub)]

use std::collections::BTreeSet;

const ET_DYN: u64 = 3;
const PT_LOAD: u64 = 1;
const PT_DYNAMIC: u64 = 2;
const PT_INTERP: u64 = 3;
const PT_GNU_STACK: u64 = 0x6474_e551;
const PT_GNU_RELRO: u64 = 0x6474_e552;
const PF_X: u64 = 1;
const PF_W: u64 = 2;
const SHT_VERNEED: u64 = 0x6fff_fffe;
const DT_NEEDED: u64 = 1;
const DT_STRTAB: u64 = 5;
const DT_RPATH: u64 = 15;
const DT_TEXTREL: u64 = 22;
const DT_BIND_NOW: u64 = 24;
const DT_RUNPATH: u64 = 29;
const DT_FLAGS: u64 = 30;
const DT_FLAGS_1: u64 = 0x6fff_fffb;
const DF_TEXTREL: u64 = 4;
const DF_BIND_NOW: u64 = 8;
const DF_1_NOW: u64 = 1;
const DF_1_PIE: u64 = 0x0800_0000;
/// More of anything than this is no program of ours.
const ENTRIES_MAX: u64 = 65_536;

/// What was found in one file.
#[derive(Debug, Default)]
pub struct Elf {
    /// `e_machine`, and whether addresses have 64 bits.
    pub machine: (u64, bool),
    /// May it be placed anywhere in memory?
    pub is_pie: bool,
    /// Is there a part that becomes read-only after start?
    pub has_relro: bool,
    /// Is everything bound before the start, so that all of that part can be?
    pub binds_now: bool,
    /// Does it say that its stack holds no code?
    pub has_plain_stack: bool,
    /// Is there memory that can be written and executed?
    pub has_writable_code: bool,
    pub interpreter: Option<String>,
    pub needed: BTreeSet<String>,
    pub has_run_path: bool,
    pub has_text_relocations: bool,
    pub has_symbols: bool,
    pub has_crates: bool,
    pub names_stack_guard: bool,
    /// The newest version of glibc that a symbol asks for.
    pub glibc: Option<(u32, u32)>,
}

struct Segment {
    kind: u64,
    flags: u64,
    offset: u64,
    address: u64,
    bytes: u64,
}

struct Section {
    name: String,
    kind: u64,
    offset: u64,
    bytes: u64,
    link: u64,
}

/// The file as numbers at places; `wide` is a file of 64-bit addresses.
struct File<'a> {
    bytes: &'a [u8],
    wide: bool,
}

impl File<'_> {
    fn slice(&self, at: u64, bytes: u64) -> Result<&[u8], String> {
        let start = usize::try_from(at).map_err(|_| format!("{at:#x} is no place in a file"))?;
        let end = usize::try_from(bytes).ok().and_then(|bytes| start.checked_add(bytes));
        end.and_then(|end| self.bytes.get(start..end)).ok_or(format!("the file ends before {at:#x} + {bytes}"))
    }

    fn number(&self, at: u64, bytes: u64) -> Result<u64, String> {
        Ok(self.slice(at, bytes)?.iter().rev().fold(0, |sum, byte| sum << 8 | u64::from(*byte)))
    }

    /// A field that is as wide as an address, at the place for wide files or at that for narrow ones.
    fn field(&self, at: u64, wide: u64, narrow: u64) -> Result<u64, String> {
        if self.wide { self.number(at.saturating_add(wide), 8) } else { self.number(at.saturating_add(narrow), 4) }
    }

    fn text(&self, at: u64) -> Result<String, String> {
        let start = usize::try_from(at).map_err(|_| format!("{at:#x} is no place in a file"))?;
        let rest = self.bytes.get(start..).ok_or(format!("the file ends before {at:#x}"))?;
        let text = rest.split(|byte| *byte == 0).next().unwrap_or_default();
        String::from_utf8(text.to_vec()).map_err(|_| format!("no text at {at:#x}"))
    }

    fn segments(&self) -> Result<Vec<Segment>, String> {
        let table = self.field(0, 32, 28)?;
        let (entry, count) = if self.wide { (54, 56) } else { (42, 44) };
        let (entry, count) = (self.number(entry, 2)?, self.number(count, 2)?);
        let segment = |index: u64| {
            let at = table.saturating_add(index * entry);
            Ok(Segment {
                kind: self.number(at, 4)?,
                flags: self.number(at.saturating_add(if self.wide { 4 } else { 24 }), 4)?,
                offset: self.field(at, 8, 4)?,
                address: self.field(at, 16, 8)?,
                bytes: self.field(at, 32, 16)?,
            })
        };
        (0..count).map(segment).collect()
    }

    fn sections(&self) -> Result<Vec<Section>, String> {
        let table = self.field(0, 40, 32)?;
        let (entry, count, names) = if self.wide { (58, 60, 62) } else { (46, 48, 50) };
        let (entry, count, names) = (self.number(entry, 2)?, self.number(count, 2)?, self.number(names, 2)?);
        let place = |index: u64| table.saturating_add(index * entry);
        let offset_of = |index: u64| self.field(place(index), 24, 16);
        let section = |index: u64| {
            let at = place(index);
            let name = offset_of(names)?.saturating_add(self.number(at, 4)?);
            Ok(Section {
                name: self.text(name)?,
                kind: self.number(at.saturating_add(4), 4)?,
                offset: offset_of(index)?,
                bytes: self.field(at, 32, 20)?,
                link: self.number(at.saturating_add(if self.wide { 40 } else { 24 }), 4)?,
            })
        };
        (0..count).map(section).collect()
    }

    /// The pairs of tag and value that the loader reads.
    fn dynamic(&self, segments: &[Segment]) -> Result<Vec<(u64, u64)>, String> {
        let Some(table) = segments.iter().find(|segment| segment.kind == PT_DYNAMIC) else { return Ok(Vec::new()) };
        let width = if self.wide { 8 } else { 4 };
        let count = (table.bytes / (2 * width)).min(ENTRIES_MAX);
        let pair = |index: u64| {
            let at = table.offset.saturating_add(index * 2 * width);
            Ok((self.number(at, width)?, self.number(at.saturating_add(width), width)?))
        };
        let pairs: Result<Vec<(u64, u64)>, String> = (0..count).map(pair).collect();
        Ok(pairs?.into_iter().take_while(|(tag, _)| *tag != 0).collect())
    }

    /// The newest `GLIBC_x.y` of the versions that are asked for.
    fn glibc(&self, sections: &[Section]) -> Result<Option<(u32, u32)>, String> {
        let Some(table) = sections.iter().find(|section| section.kind == SHT_VERNEED) else { return Ok(None) };
        let link = usize::try_from(table.link).ok().and_then(|link| sections.get(link));
        let names = link.ok_or("the versions have no names")?.offset;
        let mut newest = None;
        let mut library = table.offset;
        for _ in 0..ENTRIES_MAX {
            let mut version = library.saturating_add(self.number(library.saturating_add(8), 4)?);
            for _ in 0..self.number(library.saturating_add(2), 2)? {
                let name = self.text(names.saturating_add(self.number(version.saturating_add(8), 4)?))?;
                newest = newest.max(glibc_version(&name));
                version = version.saturating_add(self.number(version.saturating_add(12), 4)?);
            }
            match self.number(library.saturating_add(12), 4)? {
                0 => break,
                next => library = library.saturating_add(next),
            }
        }
        Ok(newest)
    }
}

/// `2.34` of `GLIBC_2.34`, and of `2.34`.
pub fn glibc_version(name: &str) -> Option<(u32, u32)> {
    let (major, minor) = name.strip_prefix("GLIBC_").unwrap_or(name).split_once('.')?;
    let minor = minor.split('.').next()?;
    Some((major.parse().ok()?, minor.parse().ok()?))
}

/// Reads a program's file.
pub fn read(bytes: &[u8]) -> Result<Elf, String> {
    let file = File { bytes, wide: bytes.get(4) == Some(&2) };
    if !bytes.starts_with(b"\x7fELF") || bytes.get(5) != Some(&1) {
        return Err("no little-endian ELF file".to_owned());
    }
    let (segments, sections) = (file.segments()?, file.sections()?);
    let dynamic = file.dynamic(&segments)?;
    let value = |tag: u64| dynamic.iter().find(|(found, _)| *found == tag).map(|(_, value)| *value);
    let flags = |tag: u64, flag: u64| value(tag).unwrap_or(0) & flag != 0;
    let in_file = |address: u64| {
        let load = segments.iter().find(|segment| {
            segment.kind == PT_LOAD
                && (segment.address..segment.address.saturating_add(segment.bytes)).contains(&address)
        });
        load.map(|load| load.offset.saturating_add(address - load.address))
    };
    let mut needed = BTreeSet::new();
    if let Some(names) = value(DT_STRTAB).and_then(in_file) {
        for (_, name) in dynamic.iter().filter(|(tag, _)| *tag == DT_NEEDED) {
            needed.insert(file.text(names.saturating_add(*name))?);
        }
    }
    let stack = segments.iter().find(|segment| segment.kind == PT_GNU_STACK);
    let interpreter = segments.iter().find(|segment| segment.kind == PT_INTERP);
    let has_section = |name: &str| sections.iter().any(|section| section.name == name);
    Ok(Elf {
        machine: (file.number(18, 2)?, file.wide),
        is_pie: file.number(16, 2)? == ET_DYN && flags(DT_FLAGS_1, DF_1_PIE),
        has_relro: segments.iter().any(|segment| segment.kind == PT_GNU_RELRO),
        binds_now: value(DT_BIND_NOW).is_some() || flags(DT_FLAGS, DF_BIND_NOW) || flags(DT_FLAGS_1, DF_1_NOW),
        has_plain_stack: stack.is_some_and(|stack| stack.flags & PF_X == 0),
        has_writable_code: segments
            .iter()
            .any(|segment| segment.kind == PT_LOAD && segment.flags & PF_W != 0 && segment.flags & PF_X != 0),
        interpreter: interpreter.map(|segment| file.text(segment.offset)).transpose()?,
        needed,
        has_run_path: value(DT_RPATH).is_some() || value(DT_RUNPATH).is_some(),
        has_text_relocations: value(DT_TEXTREL).is_some() || flags(DT_FLAGS, DF_TEXTREL),
        has_symbols: has_section(".symtab") || has_section(".debug_info"),
        has_crates: has_section(".dep-v0"),
        names_stack_guard: names_stack_guard(&file, &sections)?,
        glibc: file.glibc(&sections)?,
    })
}

/// Whether any table of symbols has what code with a guarded stack calls.
fn names_stack_guard(file: &File<'_>, sections: &[Section]) -> Result<bool, String> {
    for section in sections.iter().filter(|section| matches!(section.name.as_str(), ".dynstr" | ".strtab")) {
        let mut names = file.slice(section.offset, section.bytes)?.split(|byte| *byte == 0);
        if names.any(|name| name == b"__stack_chk_fail") {
            return Ok(true);
        }
    }
    Ok(false)
}
