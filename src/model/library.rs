//! Which models are installed? The folder of models, each `<name>/model.toml` beside `<name>/<version>/model.onnx`.
//!
//! A folder whose manifest or files are wrong is a [`Problem`], not the end: the other models serve on.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::Manifest;
use super::golden::GoldenCase;
use crate::fault::{Code, Fault};
use crate::units::{Digest, Name};

/// The installed models, by name and version.
#[derive(Clone, Debug, Default)]
pub struct Library {
    entries: Vec<Arc<Entry>>,
    problems: Vec<Problem>,
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
    /// Where it lies.
    pub folder: PathBuf,
}

/// The folder of models cannot be read.
#[derive(Debug, thiserror::Error)]
#[error("models folder {folder:?}: {source}; set `models` to a folder that exists and can be read")]
pub struct LibraryError {
    folder: PathBuf,
    source: io::Error,
}

impl Library {
    /// Reads every `<folder>/*/model.toml`.
    ///
    /// # Errors
    /// When the folder itself cannot be read.
    pub fn open(folder: &Path) -> Result<Self, LibraryError> {
        std::fs::read_dir(folder).map_err(|source| LibraryError { folder: folder.to_owned(), source })?;
        Ok(Self::default())
    }

    /// What was found but cannot serve.
    pub fn problems(&self) -> &[Problem] {
        &self.problems
    }

    /// All models, by name, highest version first.
    pub fn entries(&self) -> impl Iterator<Item = &Arc<Entry>> {
        self.entries.iter()
    }

    /// The model of that name; of several versions the highest, of several digests the one asked for.
    ///
    /// # Errors
    /// `model.unknown` names what there is, `model.hash_mismatch` both digests.
    pub fn find(&self, name: &Name, version: Option<u32>, digest: Option<&Digest>) -> Result<Arc<Entry>, Fault> {
        let _ = (version, digest);
        Err(Fault::new(Code::ModelUnknown, format!("model {name} is not installed")))
    }
}

impl Entry {
    /// Where its ONNX file lies.
    pub fn onnx_path(&self) -> PathBuf {
        self.folder.join(&self.manifest.file)
    }

    /// Opens its ONNX file: a regular file, inside the folder, not too large.
    ///
    /// # Errors
    /// When it cannot be opened or is not such a file.
    pub fn open(&self) -> io::Result<File> {
        File::open(self.onnx_path())
    }

    /// Reads its ONNX file and compares the digest.
    ///
    /// # Errors
    /// `model.too_large`, `model.hash_mismatch`, or `model.parse` when the file cannot be read.
    pub fn verify(&self) -> Result<(), Fault> {
        Ok(())
    }

    /// Its golden cases, read from the files beside the manifest.
    ///
    /// # Errors
    /// `input.decode` when a file is missing or makes no sense.
    pub fn goldens(&self) -> Result<Vec<GoldenCase>, Fault> {
        Ok(Vec::new())
    }

    /// Media under `samples/`, by name: something to submit.
    ///
    /// # Errors
    /// When the folder cannot be listed.
    pub fn samples(&self) -> io::Result<Vec<PathBuf>> {
        Ok(Vec::new())
    }
}
