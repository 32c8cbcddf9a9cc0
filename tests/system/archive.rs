//! How do files get into a machine? In an initramfs: a cpio archive ("newc") that the kernel unpacks at its start.

#![allow(unreachable_pub, reason = "parts of one test")]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Component, Path, PathBuf};

const EXECUTABLE: u32 = 0o100_755;
const PLAIN: u32 = 0o100_644;
const FOLDER: u32 = 0o040_755;
const LINK: u32 = 0o120_777;
/// Sticky and writable by everybody.
const SHARED_FOLDER: u32 = 0o041_777;

/// What is to be in the machine, by path.
#[derive(Clone, Debug, Default)]
pub struct Archive {
    members: BTreeMap<PathBuf, (u32, Vec<u8>)>,
    /// Other architectures, as Debian names them, whose programs run in the machine as well.
    pub also: Vec<&'static str>,
}

impl Archive {
    /// A file that is not to be run.
    pub fn file(&mut self, path: impl AsRef<Path>, bytes: impl Into<Vec<u8>>) {
        self.put(path.as_ref(), PLAIN, bytes.into());
    }

    /// A program.
    pub fn program(&mut self, path: impl AsRef<Path>, bytes: impl Into<Vec<u8>>) {
        self.put(path.as_ref(), EXECUTABLE, bytes.into());
    }

    /// A symbolic link.
    pub fn link(&mut self, path: impl AsRef<Path>, to: &str) {
        self.put(path.as_ref(), LINK, to.into());
    }

    /// A folder of this machine with all that is in it.
    pub fn folder(&mut self, path: impl AsRef<Path>, from: &Path) {
        for entry in fs::read_dir(from).unwrap_or_else(|error| panic!("{}: {error}", from.display())) {
            let entry = entry.expect("a folder can be listed").path();
            let inside = path.as_ref().join(entry.file_name().expect("an entry has a name"));
            if entry.is_dir() {
                self.folder(inside, &entry);
            } else {
                self.file(inside, fs::read(&entry).unwrap_or_else(|error| panic!("{}: {error}", entry.display())));
            }
        }
    }

    /// Puts something there, and the folders above it.
    fn put(&mut self, path: &Path, mode: u32, bytes: Vec<u8>) {
        let path: PathBuf = path.components().filter(|part| matches!(part, Component::Normal(_))).collect();
        for above in path.ancestors().skip(1).filter(|above| !above.as_os_str().is_empty()) {
            let mode = if above == Path::new("tmp") { SHARED_FOLDER } else { FOLDER };
            self.members.entry(above.to_owned()).or_insert((mode, Vec::new()));
        }
        self.members.insert(path, (mode, bytes));
    }

    /// The archive's bytes.
    pub fn bytes(&self) -> Vec<u8> {
        let mut archive = Vec::new();
        // In the order of paths a folder comes before what is in it.
        for (number, (path, (mode, bytes))) in (1..).zip(&self.members) {
            append(&mut archive, number, path, *mode, bytes);
        }
        append(&mut archive, 0, Path::new("TRAILER!!!"), 0, &[]);
        archive
    }
}

/// One member: a header of hexadecimal numbers, the name, the bytes, each filled up to four.
fn append(archive: &mut Vec<u8>, number: u32, path: &Path, mode: u32, bytes: &[u8]) {
    let name = path.as_os_str().as_encoded_bytes();
    let length = u32::try_from(bytes.len()).expect("a member has less than 4 GiB");
    let name_length = u32::try_from(name.len() + 1).expect("a path is short");
    let links = 1;
    archive.extend(b"070701");
    // Inode, mode, owner, group, links, time, length, four numbers of devices, length of the name, no checksum.
    for field in [number, mode, 0, 0, links, 0, length, 0, 0, 0, 0, name_length, 0] {
        archive.extend(format!("{field:08x}").bytes());
    }
    for part in [[name, b"\0"].concat().as_slice(), bytes] {
        archive.extend(part);
        archive.resize(archive.len().next_multiple_of(4), 0);
    }
}
