//! How is a model signed? `neap models sign`, and `neap models key` for the key.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use ring::rand::SystemRandom;
use serde_json::json;

use super::place::cannot;
use crate::cli::failure::{Class, Failure};
use crate::cli::out::{Out, Tone};
use crate::model::library::Entry;
use crate::model::signed;
use crate::trust::bundle::{self, SIGNATURE_FILE, Statement};
use crate::trust::key::KEY_FILE_BYTES_MAX;
use crate::trust::publisher::{SigningKey, hint};

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  neap models sign models/prb-forecast --key publisher.key
  model_signing sign key --private_key publisher.key --signature models/prb-forecast/model.sig models/prb-forecast

Both write the same kind of file, model.sig in the model's folder, and read each other's: it lists every file of the
folder with its digest. Whatever is changed afterwards, sign again. The private key never needs to be on a node.")]
pub(super) struct SignArgs {
    /// Folder of one model
    #[arg(value_name = "FOLDER")]
    folder: PathBuf,
    /// Private key (PEM): ECDSA on P-256 or P-384
    #[arg(long, value_name = "FILE")]
    key: PathBuf,
    /// One JSON object with what was done
    #[arg(long)]
    json: bool,
}

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  neap models key publisher.key              writes publisher.key (keep it secret) and publisher.key.pub
  openssl ecparam -name prime256v1 -genkey | openssl pkcs8 -topk8 -nocrypt -out publisher.key     the same by openssl

The public half goes into the key rings of the nodes, with the role of a publisher.")]
pub(super) struct KeyArgs {
    /// File of the private key; the public one is beside it, with .pub behind its name
    #[arg(value_name = "FILE")]
    file: PathBuf,
}

pub(super) fn sign(args: &SignArgs) -> Result<(), Failure> {
    let out = Out::stdout();
    let random = SystemRandom::new();
    let key = SigningKey::from_pem(&read_key(&args.key)?, &random)?;
    let wrong = |why: String| Failure::new(Class::Data, format!("{}: {why}", args.folder.display()));
    // What would not be accepted by a node is not signed.
    let entry = Entry::at(&args.folder).map_err(wrong)?;
    entry.verify()?;
    let name = entry.folder.file_name().map_or_else(String::new, |name| name.to_string_lossy().into_owned());
    let statement = Statement { name, files: signed::files(&entry.folder)? };
    let payload = statement.render();
    let signature = key.sign(&bundle::pae(&payload), &random)?;
    let text = bundle::render(key.public(), &payload, &signature);
    let path = entry.folder.join(SIGNATURE_FILE);
    write_beside(&path, text.as_bytes()).map_err(|error| cannot("write", &path, &error))?;
    let (files, hint) = (statement.files.len(), hint(key.public()));
    if args.json {
        let manifest = &entry.manifest;
        return out.json(&json!({
            "name": manifest.name.as_str(), "version": manifest.version, "files": files,
            "key": key.public().id().to_string(), "hint": hint.to_string(), "signature": path.display().to_string(),
        }));
    }
    let mark = out.paint(Tone::Good, "signed");
    let (name, version) = (&entry.manifest.name, entry.manifest.version);
    out.line(&format!("{mark}  {name} v{version}  {files} files  by key {}  {}", key.public().id(), path.display()))
}

pub(super) fn new_key(args: &KeyArgs) -> Result<(), Failure> {
    let (key, pem) = SigningKey::generate(&SystemRandom::new())?;
    let public = PathBuf::from(format!("{}.pub", args.file.display()));
    for (path, text, mode) in [(&args.file, pem.as_str(), 0o600), (&public, &key.public().to_pem(), 0o644)] {
        let file = OpenOptions::new().write(true).create_new(true).mode(mode).open(path);
        let written = file.and_then(|mut file| file.write_all(text.as_bytes()).and_then(|()| file.sync_all()));
        written.map_err(|error| cannot("make", path, &error))?;
    }
    let out = Out::stdout();
    let mark = out.paint(Tone::Good, "made");
    out.line(&format!("{mark}  {}  {}  key {}", args.file.display(), public.display(), key.public().id()))
}

/// Reads a private key that nobody else may read.
fn read_key(path: &Path) -> Result<String, Failure> {
    let failed = |error: io::Error| cannot("read the key", path, &error);
    let file = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path).map_err(failed)?;
    let facts = file.metadata().map_err(failed)?;
    if facts.mode() & 0o077 != 0 {
        let text = format!(
            "the private key {} may be read by others (mode {:o}): chmod 600 {}",
            path.display(),
            facts.mode() & 0o777,
            path.display()
        );
        return Err(Failure::new(Class::NoPermission, text));
    }
    let mut text = String::new();
    io::Read::read_to_string(&mut io::Read::take(file, KEY_FILE_BYTES_MAX as u64 + 1), &mut text).map_err(failed)?;
    Ok(text)
}

/// Writes a file beside its name and renames it into place.
fn write_beside(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let beside = path.with_extension("sig.new");
    let mut file = File::create(&beside)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&beside, path)
}
