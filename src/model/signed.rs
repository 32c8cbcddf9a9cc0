//! Is a model the one that its publisher signed? Its files against the bundle beside them, its version against the
//! node's floor, its time against the clock.
//!
//! Every file of the model's folder must be listed with its digest, none missing and none more. What the agent holds of
//! the model by then (manifest, labels, the digest that the worker loads by) must be what is listed: a file that is
//! changed between two looks changes nothing.

use std::collections::BTreeMap;
use std::fs::{self, OpenOptions};
use std::io::{self, Read as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::Path;

use sha2::{Digest as _, Sha256};

use super::floors::Floors;
use super::library::Entry;
use crate::fault::{Code, Fault};
use crate::trust::bundle::{self, BUNDLE_BYTES_MAX, Bundle, IGNORED, RESOURCES_MAX, SIGNATURE_FILE, Statement};
use crate::trust::publisher::{Publisher, Publishers};
use crate::units::{Digest, MODEL_BYTES_MAX, WallTime};

/// Files that a sentence names at most.
const NAMED_MAX: usize = 3;

/// What a model's signature is worth.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Standing {
    /// Nobody asked: the node has no key ring.
    #[default]
    Unasked,
    /// Good, by this publisher.
    Signed {
        /// What the key ring calls him.
        by: String,
    },
    /// Not good, and accepted all the same: the node only warns.
    Doubtful(Fault),
}

impl Standing {
    /// The publisher of a good signature.
    pub fn by(&self) -> Option<&str> {
        match self {
            Self::Signed { by } => Some(by),
            Self::Unasked | Self::Doubtful(_) => None,
        }
    }
}

/// What a model must be to be accepted.
#[derive(Clone, Copy)]
pub struct Terms<'a> {
    /// Whose signature counts.
    pub publishers: &'a dyn Publishers,
    /// Versions below these are refused.
    pub floors: &'a Floors,
    /// The wall clock.
    pub now: WallTime,
}

/// Judges a model: the name of the publisher whose good signature it bears.
///
/// # Errors
/// `model.unsigned`, `model.bad_signature`, `model.unknown_key`, `model.key_revoked`, `model.key_expired`,
/// `model.key_scope`, `model.files_differ`, `model.expired`, `model.version_rollback`.
pub fn judge(entry: &Entry, terms: Terms<'_>) -> Result<String, Fault> {
    let (publisher, statement) = verify(&signature_bytes(&entry.folder)?, terms.publishers, terms.now)?;
    publisher.check_model(&entry.manifest.name)?;
    compare(&statement, &files(&entry.folder)?)?;
    check_held(entry, &statement)?;
    check_expiry(entry, terms.now)?;
    terms.floors.check(&entry.manifest.name, entry.manifest.version)?;
    Ok(publisher.name)
}

/// What a model's signature is worth under these terms; without any, nobody asks. A node that does not require a good
/// one takes the model all the same.
///
/// # Errors
/// As [`judge`], when a good signature is required.
pub fn stand(entry: &Entry, terms: Option<Terms<'_>>, is_required: bool) -> Result<Standing, Fault> {
    let Some(terms) = terms else { return Ok(Standing::Unasked) };
    match judge(entry, terms) {
        Ok(by) => Ok(Standing::Signed { by }),
        Err(fault) if is_required => Err(fault),
        Err(fault) => Ok(Standing::Doubtful(fault)),
    }
}

/// Whether the model's time has not passed.
///
/// # Errors
/// `model.expired`.
pub fn check_expiry(entry: &Entry, now: WallTime) -> Result<(), Fault> {
    let manifest = &entry.manifest;
    match manifest.expires {
        Some(end) if end <= now => {
            let text = format!(
                "model {} version {} has expired at {end}, it is {now}: install a newer version",
                manifest.name, manifest.version
            );
            Err(Fault::new(Code::ModelExpired, text))
        }
        Some(_) | None => Ok(()),
    }
}

/// Who signed a bundle, and what. Its files may not even be there yet.
///
/// # Errors
/// `model.bad_signature`, `model.unknown_key`, `model.key_revoked`, `model.key_expired`.
pub fn verify(bundle: &[u8], publishers: &dyn Publishers, now: WallTime) -> Result<(Publisher, Statement), Fault> {
    let bundle = Bundle::parse(bundle)?;
    let publisher = publishers.publisher(bundle.hint(), now)?;
    let statement = bundle.verify(&publisher.key)?;
    Ok((publisher, statement))
}

fn signature_bytes(folder: &Path) -> Result<Vec<u8>, Fault> {
    let path = folder.join(SIGNATURE_FILE);
    let unreadable = |error: io::Error| {
        Fault::new(Code::ModelBadSignature, format!("signature file {}: {error}: sign the model again", path.display()))
    };
    let opened = OpenOptions::new().read(true).custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK).open(&path);
    let file = match opened {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let text = format!(
                "no signature: {} is not there; have the publisher sign the model (neap models sign)",
                path.display()
            );
            return Err(Fault::new(Code::ModelUnsigned, text));
        }
        Err(error) => return Err(unreadable(error)),
    };
    if !file.metadata().map_err(unreadable)?.is_file() {
        return Err(unreadable(io::Error::new(io::ErrorKind::InvalidInput, "is not a regular file")));
    }
    let mut bytes = Vec::new();
    file.take(BUNDLE_BYTES_MAX as u64 + 1).read_to_end(&mut bytes).map_err(unreadable)?;
    Ok(bytes)
}

/// Every file of a model's folder with its digest, except the signature itself and what belongs to git.
///
/// # Errors
/// `model.files_differ` for what no signature can list: a link of either kind, a pipe, a name that is no text, too many
/// or too large files; and when something cannot be read.
pub fn files(folder: &Path) -> Result<BTreeMap<String, Digest>, Fault> {
    let with_digest = |name: String| {
        let path = folder.join(&name);
        let digest = digest(&path).map_err(|error| differ(&path, &error.to_string()))?;
        Ok((name, digest))
    };
    list(folder)?.into_iter().map(with_digest).collect()
}

/// The files that [`files`] takes the digests of.
///
/// # Errors
/// As [`files`].
pub fn list(folder: &Path) -> Result<Vec<String>, Fault> {
    let mut found = Vec::new();
    walk(folder, "", &mut found)?;
    Ok(found)
}

fn walk(folder: &Path, below: &str, found: &mut Vec<String>) -> Result<(), Fault> {
    for file in fs::read_dir(folder).map_err(|error| differ(folder, &error.to_string()))? {
        let file = file.map_err(|error| differ(folder, &error.to_string()))?;
        let path = file.path();
        let name = file.file_name();
        let name = name.to_str().ok_or_else(|| differ(&path, "has a name that is no text: rename it"))?;
        let at_top = below.is_empty();
        if at_top && (name == SIGNATURE_FILE || IGNORED.contains(&name)) {
            continue;
        }
        let inner = format!("{below}{name}");
        bundle::check_path(&inner).map_err(|fault| differ(&path, &fault.message))?;
        // The entry's own kind: a link is not followed.
        let facts = fs::symlink_metadata(&path).map_err(|error| differ(&path, &error.to_string()))?;
        if facts.is_dir() {
            walk(&path, &format!("{inner}/"), found)?;
        } else if facts.is_file() && facts.nlink() == 1 {
            if found.len() == RESOURCES_MAX {
                return Err(differ(&path, &format!("is more than the {RESOURCES_MAX} files that a model may have")));
            }
            found.push(inner);
        } else {
            let kind = if facts.is_file() {
                "has a second name (a hard link), by which it can be changed: copy it"
            } else if facts.is_symlink() {
                "is a symbolic link, not a file: copy what it leads to"
            } else {
                "is neither file nor folder: remove it"
            };
            return Err(differ(&path, kind));
        }
    }
    Ok(())
}

/// The digest of a regular file, at most [`MODEL_BYTES_MAX`] long.
///
/// # Errors
/// When it cannot be read, or is longer.
pub fn digest(path: &Path) -> io::Result<Digest> {
    let file = OpenOptions::new().read(true).custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK).open(path)?;
    let mut file = file.take(MODEL_BYTES_MAX + 1);
    let mut hash = Sha256::new();
    let (mut chunk, mut bytes) = (vec![0; 64 * 1024], 0);
    loop {
        let read = file.read(&mut chunk)?;
        if read == 0 {
            return Ok(Digest(hash.finalize().into()));
        }
        bytes += read as u64;
        if bytes > MODEL_BYTES_MAX {
            let why = format!("is larger than {MODEL_BYTES_MAX} bytes, the most that is allowed");
            return Err(io::Error::new(io::ErrorKind::FileTooLarge, why));
        }
        hash.update(&chunk[..read]);
    }
}

fn differ(path: &Path, why: &str) -> Fault {
    Fault::new(Code::ModelFilesDiffer, format!("{}: {why}", path.display()))
}

fn compare(statement: &Statement, found: &BTreeMap<String, Digest>) -> Result<(), Fault> {
    let listed = &statement.files;
    let changed = listed.iter().filter(|(name, digest)| found.get(*name).is_some_and(|there| there != *digest));
    let missing = listed.keys().filter(|name| !found.contains_key(*name));
    let more = found.keys().filter(|name| !listed.contains_key(*name));
    let said: Vec<String> = [
        ("changed", changed.map(|(name, _)| name).collect::<Vec<_>>()),
        ("missing", missing.collect()),
        ("not signed", more.collect()),
    ]
    .into_iter()
    .filter(|(_, names)| !names.is_empty())
    .map(|(what, names)| {
        let shown: Vec<String> = names.iter().take(NAMED_MAX).map(|name| format!("{name:?}")).collect();
        let rest =
            if names.len() > NAMED_MAX { format!(" and {} more", names.len() - NAMED_MAX) } else { String::new() };
        format!("{what}: {}{rest}", shown.join(", "))
    })
    .collect();
    if said.is_empty() {
        return Ok(());
    }
    let text = format!("the files are not those that were signed: {}; install the model again", said.join("; "));
    Err(Fault::new(Code::ModelFilesDiffer, text))
}

/// What was read before the files were compared, and all that the model's manifest leads to, must be listed.
fn check_held(entry: &Entry, statement: &Statement) -> Result<(), Fault> {
    let text = |text: &str| Digest(Sha256::digest(text).into());
    let manifest = &entry.manifest;
    let mut held = vec![("model.toml", text(&entry.manifest_text)), (manifest.file.as_str(), manifest.digest)];
    held.extend(manifest.labels.as_deref().map(|file| (file, text(&entry.labels))));
    if let Some((file, _)) = held.iter().find(|(file, digest)| statement.files.get(*file) != Some(digest)) {
        let text = format!("{file:?} is not the file that was signed: install the model again");
        return Err(Fault::new(Code::ModelFilesDiffer, text));
    }
    let goldens = manifest.goldens.iter().flat_map(|golden| [&golden.input, &golden.output]);
    if let Some(file) = goldens.into_iter().find(|file| !statement.files.contains_key(*file)) {
        let text = format!("{file:?}, which model.toml names, was not signed: sign the whole folder");
        return Err(Fault::new(Code::ModelFilesDiffer, text));
    }
    Ok(())
}
