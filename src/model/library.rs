//! Which models are installed? The folder of models, each `<name>/model.toml` beside `<name>/<version>/model.onnx`.
//!
//! A folder whose manifest or files are wrong is a [`Problem`], not the end: the other models serve on.
//! Nothing outside the folder of models is ever opened, whatever a manifest or a symbolic link says.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use sha2::{Digest as _, Sha256};

use super::Manifest;
use super::golden::{self, GoldenCase};
use super::manifest::{self, MANIFEST_TOML_BYTES_MAX};
use super::signed::Standing;
use super::verdict::Verdict;
use crate::fault::{Code, Fault};
use crate::units::{Digest, MODEL_BYTES_MAX, Name};

mod appraised;
#[cfg(test)]
mod tests;

/// Most models in one library.
pub const MODELS_MAX: usize = 256;
/// Largest labels file, in bytes.
const LABELS_BYTES_MAX: u64 = 1024 * 1024;
/// Largest golden or sample file, in bytes.
const SAMPLE_BYTES_MAX: u64 = 8 * 1024 * 1024;
/// Most files that are listed under `samples/`.
const SAMPLES_MAX: usize = 100;

/// The installed models, by name and version.
#[derive(Clone, Debug, Default)]
pub struct Library {
    entries: Vec<Arc<Entry>>,
    refused: Vec<Refused>,
    problems: Vec<Problem>,
    /// About the entries, those that hold.
    verdicts: Vec<Verdict>,
}

/// One model that is right but not to be trusted, and why.
#[derive(Clone, Debug, PartialEq)]
pub struct Refused {
    /// The model.
    pub entry: Arc<Entry>,
    /// What it lacks.
    pub fault: Fault,
}

/// One model folder that cannot serve, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The file or folder.
    pub path: PathBuf,
    /// Place, value, what is allowed.
    pub message: String,
}

/// One installed model.
#[derive(Clone, Debug, PartialEq)]
pub struct Entry {
    /// Its checked manifest.
    pub manifest: Manifest,
    /// The text of its `model.toml`, for the worker to parse again.
    pub manifest_text: Arc<str>,
    /// The text of its labels file, one name a line; empty when there is none.
    pub labels: Arc<str>,
    /// Where it lies, without symbolic links.
    pub folder: PathBuf,
    /// What its signature is worth.
    pub standing: Standing,
}

/// The folder of models cannot be read.
#[derive(Debug, thiserror::Error)]
#[error("models folder {folder:?}: {source}; name a folder that exists and can be read")]
pub struct LibraryError {
    folder: PathBuf,
    source: io::Error,
}

impl Library {
    /// Reads every `<folder>/*/model.toml`. Folders without one, and hidden ones, are not models.
    ///
    /// # Errors
    /// When the folder itself cannot be read.
    pub fn open(folder: &Path) -> Result<Self, LibraryError> {
        Self::open_judged(folder, |_| Ok(Standing::Unasked))
    }

    /// As [`Self::open`], but only what the judge accepts is offered; the rest is [`Self::refused`].
    ///
    /// # Errors
    /// When the folder itself cannot be read.
    pub fn open_judged(folder: &Path, judge: impl Fn(&Entry) -> Result<Standing, Fault>) -> Result<Self, LibraryError> {
        let broken = |source| LibraryError { folder: folder.to_owned(), source };
        let root = folder.canonicalize().map_err(broken)?;
        let mut folders = Vec::new();
        for found in fs::read_dir(&root).map_err(broken)? {
            let found = found.map_err(broken)?;
            let hidden = found.file_name().as_encoded_bytes().starts_with(b".");
            if !hidden && fs::symlink_metadata(found.path().join("model.toml")).is_ok() {
                folders.push(found.path());
            }
        }
        // In the order of their names, so that the same files always give the same library.
        folders.sort();
        let mut library = Self::default();
        for folder in folders {
            let read = Entry::read(&folder, &root).and_then(|entry| library.admit(entry, &judge));
            if let Err(message) = read {
                library.problems.push(Problem { path: folder.join("model.toml"), message });
            }
        }
        library.entries.sort_by(|a, b| {
            let (a, b) = (&a.manifest, &b.manifest);
            a.name.cmp(&b.name).then(b.version.cmp(&a.version))
        });
        Ok(library)
    }

    fn admit(&mut self, mut entry: Entry, judge: impl Fn(&Entry) -> Result<Standing, Fault>) -> Result<(), String> {
        let same = |known: &&Arc<Entry>| {
            known.manifest.name == entry.manifest.name && known.manifest.version == entry.manifest.version
        };
        if let Some(known) = self.entries.iter().find(same) {
            let Manifest { name, version, .. } = &entry.manifest;
            return Err(format!("{name} version {version} is already in {:?}: give it another version", known.folder));
        }
        if self.entries.len() + self.refused.len() >= MODELS_MAX {
            return Err(format!("{MODELS_MAX} models are installed already, no more are read: remove some"));
        }
        match judge(&entry) {
            Ok(standing) => {
                entry.standing = standing;
                self.entries.push(Arc::new(entry));
            }
            Err(fault) => self.refused.push(Refused { entry: Arc::new(entry), fault }),
        }
        Ok(())
    }

    /// Judges once more what was accepted, when more is known.
    pub fn judge_again(&mut self, judge: impl Fn(&Entry) -> Result<Standing, Fault>) {
        for entry in std::mem::take(&mut self.entries) {
            match judge(&entry) {
                Ok(standing) if standing == entry.standing => self.entries.push(entry),
                Ok(standing) => self.entries.push(Arc::new(Entry { standing, ..(*entry).clone() })),
                Err(fault) => self.refused.push(Refused { entry, fault }),
            }
        }
    }

    /// What was found but cannot serve.
    pub fn problems(&self) -> &[Problem] {
        &self.problems
    }

    /// What was found and is right, but was not accepted by the judge, in the order of their folders.
    pub fn refused(&self) -> &[Refused] {
        &self.refused
    }

    /// All models, by name, highest version first.
    pub fn entries(&self) -> impl Iterator<Item = &Arc<Entry>> {
        self.entries.iter()
    }

    /// The model of that name; of several versions the highest, of several digests the one asked for.
    ///
    /// # Errors
    /// `model.unknown` names what there is, `model.hash_mismatch` both digests; the fault of its appraisal when that has
    /// refused the model, or of its signature.
    pub fn find(&self, name: &Name, version: Option<u32>, digest: Option<&Digest>) -> Result<Arc<Entry>, Fault> {
        let entry = self.installed(name, version, digest)?;
        self.refusal(&entry).map_or(Ok(entry), Err)
    }

    fn installed(&self, name: &Name, version: Option<u32>, digest: Option<&Digest>) -> Result<Arc<Entry>, Fault> {
        let named: Vec<&Arc<Entry>> = self.entries.iter().filter(|entry| entry.manifest.name == *name).collect();
        let is_there = named.iter().any(|entry| version.is_none_or(|asked| entry.manifest.version == asked));
        let is_meant =
            |manifest: &Manifest| manifest.name == *name && version.is_none_or(|asked| manifest.version == asked);
        if let Some(refused) = self.refused.iter().find(|refused| !is_there && is_meant(&refused.entry.manifest)) {
            return Err(refused.fault.clone());
        }
        if named.is_empty() {
            let mut names: Vec<&str> = self.entries.iter().map(|entry| entry.manifest.name.as_str()).collect();
            names.dedup();
            let there = if names.is_empty() { "none".to_owned() } else { names.join(", ") };
            return Err(Fault::new(Code::ModelUnknown, format!("model {name} is not installed; installed: {there}")));
        }
        let right: Vec<&Arc<Entry>> =
            named.iter().copied().filter(|entry| version.is_none_or(|asked| entry.manifest.version == asked)).collect();
        let Some(highest) = right.first() else {
            let there: Vec<String> = named.iter().map(|entry| entry.manifest.version.to_string()).collect();
            let asked = version.unwrap_or_default();
            let text = format!("model {name} version {asked} is not installed; installed: {}", there.join(", "));
            return Err(Fault::new(Code::ModelUnknown, text));
        };
        let Some(digest) = digest else { return Ok(Arc::clone(highest)) };
        right.iter().find(|entry| entry.manifest.digest == *digest).map(|entry| Arc::clone(entry)).ok_or_else(|| {
            let Manifest { version, digest: there, .. } = &highest.manifest;
            let text = format!(
                "model {name} version {version} here is {there}, the job asks for {digest}: install that file, or \
                 ask for the one that is here"
            );
            Fault::new(Code::ModelHashMismatch, text)
        })
    }
}

impl Entry {
    /// The model in that folder, which may lie anywhere.
    ///
    /// # Errors
    /// Place, value, what is allowed.
    pub fn at(folder: &Path) -> Result<Self, String> {
        let root = folder.canonicalize().map_err(|error| format!("{}: {error}", folder.display()))?;
        Self::read(&root, &root)
    }

    fn read(folder: &Path, root: &Path) -> Result<Self, String> {
        let folder = folder.canonicalize().map_err(|error| error.to_string())?;
        if !folder.starts_with(root) {
            return Err(format!("leads to {folder:?}, outside the folder of models: copy it in"));
        }
        let limit = u64::try_from(MANIFEST_TOML_BYTES_MAX).unwrap_or(u64::MAX);
        let text = read_text(&folder, "model.toml", limit)?;
        let manifest = manifest::parse(&text).map_err(|error| error.to_string())?;
        let labels = match &manifest.labels {
            Some(file) => read_text(&folder, file, LABELS_BYTES_MAX).map_err(|why| format!("{file}: {why}"))?,
            None => String::new(),
        };
        let entry =
            Self { manifest, manifest_text: text.into(), labels: labels.into(), folder, standing: Standing::Unasked };
        entry.open().map_err(|error| format!("{}: {error}", entry.manifest.file))?;
        Ok(entry)
    }

    /// Where its ONNX file lies.
    pub fn onnx_path(&self) -> PathBuf {
        self.folder.join(&self.manifest.file)
    }

    /// The names of its classes.
    pub fn label_names(&self) -> Vec<&str> {
        self.labels.lines().collect()
    }

    /// Opens its ONNX file: a regular file, inside the folder, not too large.
    ///
    /// # Errors
    /// When it cannot be opened or is not such a file.
    pub fn open(&self) -> io::Result<File> {
        open_inside(&self.folder, &self.manifest.file, MODEL_BYTES_MAX)
    }

    /// Reads its ONNX file and compares the digest.
    ///
    /// # Errors
    /// `model.too_large`, `model.hash_mismatch`, or `model.parse` when the file cannot be read.
    pub fn verify(&self) -> Result<(), Fault> {
        let Manifest { name, version, digest, .. } = &self.manifest;
        let unreadable = |error: io::Error| {
            let code = if error.kind() == io::ErrorKind::FileTooLarge { Code::ModelTooLarge } else { Code::ModelParse };
            Fault::new(code, format!("model {name} version {version}: {}: {error}", self.manifest.file))
        };
        let mut file = self.open().map_err(unreadable)?.take(MODEL_BYTES_MAX + 1);
        let mut hash = Sha256::new();
        let mut chunk = vec![0; 64 * 1024];
        loop {
            match file.read(&mut chunk).map_err(unreadable)? {
                0 => break,
                length => hash.update(&chunk[..length]),
            }
        }
        let found = Digest(hash.finalize().into());
        if found == *digest {
            return Ok(());
        }
        let text = format!(
            "model {name} version {version}: {} is {found}, model.toml says {digest}: install the file again",
            self.manifest.file
        );
        Err(Fault::new(Code::ModelHashMismatch, text))
    }

    /// Its golden cases, read from the files beside the manifest.
    ///
    /// # Errors
    /// `input.decode` when a file is missing or makes no sense.
    pub fn goldens(&self) -> Result<Vec<GoldenCase>, Fault> {
        let read = |file: &str| {
            read_inside(&self.folder, file, SAMPLE_BYTES_MAX)
                .map_err(|error| Fault::new(Code::InputDecode, format!("golden file {file:?}: {error}")))
        };
        let case = |golden| golden::read(&self.manifest, golden, read);
        self.manifest.goldens.iter().map(case).collect()
    }

    /// Files under `samples/`, by name: something to submit. Empty when there is no such folder.
    ///
    /// # Errors
    /// When the folder cannot be listed.
    pub fn samples(&self) -> io::Result<Vec<PathBuf>> {
        let found = match fs::read_dir(self.folder.join("samples")) {
            Ok(found) => found,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(error),
        };
        let mut samples = Vec::new();
        for file in found.take(SAMPLES_MAX) {
            let file = file?;
            if file.file_type()?.is_file() {
                samples.push(file.path());
            }
        }
        samples.sort();
        Ok(samples)
    }
}

fn read_text(folder: &Path, file: &str, bytes_max: u64) -> Result<String, String> {
    let bytes = read_inside(folder, file, bytes_max).map_err(|error| error.to_string())?;
    String::from_utf8(bytes).map_err(|error| error.to_string())
}

fn read_inside(folder: &Path, file: &str, bytes_max: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let read = open_inside(folder, file, bytes_max)?.take(bytes_max + 1).read_to_end(&mut bytes)?;
    match u64::try_from(read) {
        Ok(length) if length <= bytes_max => Ok(bytes),
        Ok(_) | Err(_) => Err(too_large(bytes_max)),
    }
}

/// Opens a regular file that lies in the folder, links resolved. Never waits: a FIFO is refused, not read.
fn open_inside(folder: &Path, file: &str, bytes_max: u64) -> io::Result<File> {
    let path = folder.join(file).canonicalize()?;
    if !path.starts_with(folder) {
        let why = format!("leads to {path:?}, outside the model's folder");
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, why));
    }
    let file = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK | libc::O_NOFOLLOW).open(&path)?;
    let facts = file.metadata()?;
    if !facts.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "is not a regular file"));
    }
    if facts.len() > bytes_max {
        return Err(too_large(bytes_max));
    }
    Ok(file)
}

fn too_large(bytes_max: u64) -> io::Error {
    io::Error::new(io::ErrorKind::FileTooLarge, format!("is larger than {bytes_max} bytes, the most that is allowed"))
}
