//! How is a model signed? `neap models sign`; `neap key new --role publisher` makes the key.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use ring::rand::SystemRandom;
use serde_json::json;

use super::place::cannot;
use crate::cli::failure::{Class, Failure};
use crate::cli::out::{Out, Tone};
use crate::cli::signer::read_private;
use crate::model::library::Entry;
use crate::model::signed;
use crate::trust::bundle::{self, SIGNATURE_FILE, Statement};
use crate::trust::publisher::{SigningKey, hint};

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  neap key new --role publisher --owner models-team --out publisher.key
  neap models sign models/prb-forecast --key publisher.key
  model_signing sign key --private_key publisher.key --signature models/prb-forecast/model.sig models/prb-forecast

Both write the same kind of file, model.sig in the model's folder, and read each other's: it lists every file of the
folder with its digest. Whatever is changed afterwards, sign again. The private key never needs to be on a node.")]
pub(super) struct SignArgs {
    /// Folder of one model
    #[arg(value_name = "FOLDER")]
    folder: PathBuf,
    /// Private key (PEM) of a publisher: ECDSA on P-256 or P-384
    #[arg(long, value_name = "FILE")]
    key: PathBuf,
    /// One JSON object with what was done
    #[arg(long)]
    json: bool,
}

pub(super) fn sign(args: &SignArgs) -> Result<(), Failure> {
    let out = Out::stdout();
    let random = SystemRandom::new();
    let key = SigningKey::from_pem(&read_private(&args.key)?, &random)?;
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

/// Writes a file beside its name and renames it into place.
fn write_beside(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let beside = path.with_extension("sig.new");
    let mut file = File::create(&beside)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&beside, path)
}
