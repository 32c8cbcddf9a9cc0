//! What may a worker take for a model? A copy in memory that nobody can change any more, hashed while it was made.
//!
//! A path, or a file on a disk, can be swapped, cut or extended between the check and the use. So the agent copies the
//! model into a memory file, compares the digest of what it copied, and seals the file against every change, and the
//! worker refuses files without these seals: what was checked is what is parsed.
//!
//! The copy is kept by nobody for long. The agent closes its end once it is sent; the worker closes its own as soon as
//! it has read the bytes, and asks again for a model whose plan it has dropped. A copy costs a few milliseconds a
//! megabyte at most, a load tens of milliseconds a megabyte, so asking again is cheaper than the memory. For the same
//! reason the worker does not hash again: the agent has hashed these very bytes.

use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::os::fd::AsFd;

use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, fcntl_get_seals, memfd_create};
use sha2::{Digest as _, Sha256};

use crate::fault::{Code, Fault};
use crate::model::library::Entry;
use crate::units::{Digest, MODEL_BYTES_MAX};

/// Bytes copied and hashed at a time.
const CHUNK_BYTES: usize = 64 * 1024;
/// What a worker insists on: no byte changes, none is added or taken away, and no seal is taken off.
const SEALS: SealFlags = SealFlags::WRITE.union(SealFlags::GROW).union(SealFlags::SHRINK).union(SealFlags::SEAL);

/// Copies a model's file into a sealed memory file. Blocks while it reads: about 5 ms for 4 MB on a fast machine, half a
/// second for 64 MB on a slow one.
///
/// # Errors
/// `model.hash_mismatch` when the file is not the one that the manifest names; `model.too_large` when it is above the limit
/// or grows meanwhile; `model.unknown` when it cannot be opened or read; `worker.memory` when memory for the copy is
/// refused.
pub fn copy(entry: &Entry) -> Result<File, Fault> {
    let mut source = entry.open().map_err(|error| unopened(entry, &error))?;
    let refused = |error: io::Error| {
        let name = &entry.manifest.name;
        let text = format!("the copy of model {name} for a worker could not be made: {error}; free memory");
        Fault::new(Code::WorkerMemory, text)
    };
    let mut copy = File::from(memory_file().map_err(refused)?);
    let mut hash = Sha256::new();
    let mut bytes = 0_u64;
    let mut chunk = vec![0; CHUNK_BYTES];
    loop {
        let read = match source.read(&mut chunk) {
            Ok(0) => break,
            Ok(read) => &chunk[..read],
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(unopened(entry, &error)),
        };
        bytes += read.len() as u64;
        // It may grow while it is read.
        if bytes > MODEL_BYTES_MAX {
            return Err(unopened(entry, &io::ErrorKind::FileTooLarge.into()));
        }
        hash.update(read);
        copy.write_all(read).map_err(refused)?;
    }
    let (found, expected) = (Digest(hash.finalize().into()), entry.manifest.digest);
    if found != expected {
        let (name, file) = (&entry.manifest.name, &entry.manifest.file);
        let text =
            format!("the file {file:?} of model {name} is {found}, expected {expected}; install the model again");
        return Err(Fault::new(Code::ModelHashMismatch, text));
    }
    fcntl_add_seals(&copy, SEALS).map_err(|error| refused(error.into()))?;
    Ok(copy)
}

/// Whether a file that came for a model can no longer be changed by anybody.
///
/// # Errors
/// `model.hash_mismatch` when it can: nobody knows then what was checked.
pub fn check(file: &impl AsFd) -> Result<(), Fault> {
    // What is no memory file has no seals to be asked for.
    let seals = fcntl_get_seals(file).unwrap_or(SealFlags::empty());
    if seals.contains(SEALS) {
        return Ok(());
    }
    let text = "the model came in a file that can still be changed; a worker takes sealed memory files only";
    Err(Fault::new(Code::ModelHashMismatch, text))
}

/// An empty memory file that takes seals and, where the kernel knows how to say so (6.3), can never be executed.
fn memory_file() -> io::Result<std::os::fd::OwnedFd> {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    match memfd_create("neap-model", flags | MemfdFlags::NOEXEC_SEAL) {
        Err(rustix::io::Errno::INVAL) => Ok(memfd_create("neap-model", flags)?),
        made => Ok(made?),
    }
}

fn unopened(entry: &Entry, error: &io::Error) -> Fault {
    let code = if error.kind() == io::ErrorKind::FileTooLarge { Code::ModelTooLarge } else { Code::ModelUnknown };
    let (name, file) = (&entry.manifest.name, &entry.manifest.file);
    Fault::new(code, format!("the file {file:?} of model {name} cannot be read: {error}; install the model again"))
}

#[cfg(test)]
mod tests {
    use std::io::{Seek as _, SeekFrom};
    use std::os::unix::fs::symlink;
    use std::path::Path;

    use super::*;
    use crate::model::manifest;

    const NETWORK: &[u8] = b"these bytes are the network";

    /// A model whose manifest names the digest of `NETWORK`.
    fn entry(folder: &Path) -> Entry {
        let digest = Digest(Sha256::digest(NETWORK).into());
        let text = format!(
            "name = \"m\"\nversion = 1\nsummary = \"s\"\nlicence = \"l\"\nsource = \"s\"\nfile = \"m.onnx\"\n\
             digest = \"{digest}\"\ninputs = [{{ name = \"x\", datatype = \"FP32\", shape = [1] }}]\n\
             outputs = [{{ name = \"y\", datatype = \"FP32\", shape = [1] }}]\n"
        );
        std::fs::write(folder.join("m.onnx"), NETWORK).unwrap();
        let manifest = manifest::parse(&text).unwrap();
        let folder = folder.canonicalize().unwrap();
        Entry { manifest, manifest_text: text.into(), labels: "".into(), folder, standing: Default::default() }
    }

    fn content(mut file: &File) -> Vec<u8> {
        let mut bytes = Vec::new();
        file.seek(SeekFrom::Start(0)).unwrap();
        file.read_to_end(&mut bytes).unwrap();
        bytes
    }

    #[test]
    fn whatever_happens_to_the_file_after_the_check_changes_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let entry = entry(folder.path());
        let path = entry.onnx_path();
        let sealed = copy(&entry).unwrap();
        check(&sealed).unwrap();
        std::fs::write(&path, b"these bytes are the NETWORK").unwrap();
        assert_eq!(content(&sealed), NETWORK, "overwritten in place");
        File::options().write(true).open(&path).unwrap().set_len(3).unwrap();
        assert_eq!(content(&sealed), NETWORK, "truncated");
        File::options().write(true).open(&path).unwrap().set_len(1 << 20).unwrap();
        assert_eq!(content(&sealed), NETWORK, "grown");
        std::fs::write(folder.path().join("other"), b"other").unwrap();
        std::fs::rename(folder.path().join("other"), &path).unwrap();
        assert_eq!(content(&sealed), NETWORK, "swapped");
    }

    #[test]
    fn a_sealed_copy_takes_no_write_no_growth_no_cut_and_no_other_seal() {
        let folder = tempfile::tempdir().unwrap();
        let mut sealed = copy(&entry(folder.path())).unwrap();
        assert!(sealed.write_all(b"x").is_err());
        assert!(sealed.set_len(1).is_err());
        assert!(sealed.set_len(1000).is_err());
        assert!(fcntl_add_seals(&sealed, SealFlags::FUTURE_WRITE).is_err());
        assert_eq!(content(&sealed), NETWORK);
    }

    #[test]
    fn a_file_of_another_digest_is_never_copied_for_a_worker() {
        let folder = tempfile::tempdir().unwrap();
        let entry = entry(folder.path());
        std::fs::write(entry.onnx_path(), b"these bytes are the NETWORK").unwrap();
        let fault = copy(&entry).unwrap_err();
        assert_eq!(fault.code, Code::ModelHashMismatch);
        assert!(fault.message.contains("expected sha256:"), "{fault}");
    }

    #[test]
    fn links_pipes_and_giants_in_the_place_of_the_file_are_refused_without_waiting() {
        let folder = tempfile::tempdir().unwrap();
        let entry = entry(folder.path());
        let path = entry.onnx_path();
        let outside = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(outside.path(), NETWORK).unwrap();
        std::fs::remove_file(&path).unwrap();
        symlink(outside.path(), &path).unwrap();
        assert_eq!(copy(&entry).unwrap_err().code, Code::ModelUnknown, "a link that leads out");
        std::fs::remove_file(&path).unwrap();
        rustix::fs::mkfifoat(rustix::fs::CWD, &path, rustix::fs::Mode::RUSR).unwrap();
        assert_eq!(copy(&entry).unwrap_err().code, Code::ModelUnknown, "a pipe");
        std::fs::remove_file(&path).unwrap();
        assert_eq!(copy(&entry).unwrap_err().code, Code::ModelUnknown, "nothing");
        File::create(&path).unwrap().set_len(MODEL_BYTES_MAX + 1).unwrap();
        assert_eq!(copy(&entry).unwrap_err().code, Code::ModelTooLarge, "a giant");
    }

    #[test]
    fn files_without_all_seals_are_refused() {
        assert_eq!(check(&tempfile::tempfile().unwrap()).unwrap_err().code, Code::ModelHashMismatch);
        let file = memory_file().unwrap();
        assert!(check(&file).is_err(), "no seal");
        fcntl_add_seals(&file, SealFlags::WRITE | SealFlags::SHRINK).unwrap();
        assert!(check(&file).is_err(), "it can still grow");
        fcntl_add_seals(&file, SealFlags::GROW).unwrap();
        assert!(check(&file).is_err(), "seals can be added; harmless, but not ours");
        fcntl_add_seals(&file, SealFlags::SEAL).unwrap();
        check(&file).unwrap();
    }
}
