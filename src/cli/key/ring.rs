//! Changes and shows the key ring of nodes: `neap key ring`.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use clap::Subcommand;
use serde_json::json;

use super::super::failure::{Class, Failure};
use super::super::out::Out;
use super::super::signer::read_private;
use super::read_public;
use crate::sys::clock;
use crate::trust::key::{KeyId, PrivateKey, Role, label};
use crate::trust::keyring::{Entry, KeyRing, RING_BYTES_MAX};
use crate::units::{Name, WallTime};

/// Arguments of `neap key ring`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  neap key ring add --ring keys.json ctl.key.pub --nodes 'north/*' --models 'objects,prb-*'
  neap key ring revoke --ring keys.json 0123456789abcdef --why 'laptop lost'
  neap key ring list --ring keys.json --json
  neap key ring verify --ring new.json --after /etc/neap/keys.json

Copy the ring to the node as root (mode 644) and send the agent a SIGHUP. To exchange a key: add the new one, install the
ring, sign with the new key, then revoke the old one. With --root a ring is signed, and whoever may write the file but
has no root key cannot change it for an agent that runs.")]
pub(super) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Adds a key; makes the ring when there is none.
    Add(Add),
    /// Lets a key never count again.
    Revoke {
        /// Id of the key
        #[arg(value_name = "ID")]
        id: KeyId,
        /// Why, for people
        #[arg(long, default_value = "")]
        why: String,
        #[command(flatten)]
        file: File,
    },
    /// Adds a root: from then on the ring is signed.
    Root {
        /// Public key of the root
        #[arg(value_name = "KEY")]
        key: PathBuf,
        #[command(flatten)]
        file: File,
    },
    /// Shows the keys.
    List {
        /// One JSON object
        #[arg(long)]
        json: bool,
        /// The ring
        #[arg(long, value_name = "FILE")]
        ring: PathBuf,
    },
    /// Tells whether a ring is right, and may follow another.
    Verify {
        /// The ring
        #[arg(long, value_name = "FILE")]
        ring: PathBuf,
        /// The one in use
        #[arg(long, value_name = "FILE")]
        after: Option<PathBuf>,
    },
}

/// Arguments of `neap key ring add`.
#[derive(Debug, clap::Args)]
struct Add {
    /// Public key
    #[arg(value_name = "KEY")]
    key: PathBuf,
    /// What it signs [default: as the key file says]
    #[arg(long)]
    role: Option<Role>,
    /// Whose it is [default: as the key file says]
    #[arg(long, value_name = "NAME")]
    owner: Option<Name>,
    /// Nodes it counts at, as SITE/NODE, SITE/*, *
    #[arg(long, value_delimiter = ',', default_value = "*")]
    nodes: Vec<String>,
    /// Models it counts for, as NAME, BEGINNING*, *
    #[arg(long, value_delimiter = ',', default_value = "*")]
    models: Vec<String>,
    /// It counts from then on, e.g. 2026-12-01T00:00:00Z
    #[arg(long, value_name = "TIME", value_parser = WallTime::parse)]
    not_before: Option<WallTime>,
    /// It counts until then
    #[arg(long, value_name = "TIME", value_parser = WallTime::parse)]
    not_after: Option<WallTime>,
    #[command(flatten)]
    file: File,
}

/// A ring that is changed.
#[derive(Debug, clap::Args)]
struct File {
    /// The ring
    #[arg(long, value_name = "FILE")]
    ring: PathBuf,
    /// Private key of a root, for a ring that has any
    #[arg(long, value_name = "KEY")]
    sign_with: Option<PathBuf>,
}

pub(super) fn run(args: &Args) -> Result<(), Failure> {
    match &args.command {
        Command::Add(add) => add_key(add),
        Command::Revoke { id, why, file } => change(file, |ring| {
            ring.revoke(*id, clock::wall(), why)?;
            Ok(format!("{id} revoked"))
        }),
        Command::Root { key, file } => {
            let (_, key) = read_public(key)?;
            change(file, |ring| {
                let id = key.id();
                ring.add_root(key)?;
                Ok(format!("{id} is a root"))
            })
        }
        Command::List { json, ring } => list(&KeyRing::parse(&read(ring)?)?, *json),
        Command::Verify { ring, after } => {
            let text = read(ring)?;
            let found = match after {
                Some(after) => KeyRing::parse(&read(after)?)?.succeeded_by(&text)?,
                None => KeyRing::parse(&text)?,
            };
            Out::stdout().line(&format!(
                "{}: right, seq {}, {} keys",
                ring.display(),
                found.seq(),
                found.keys().count()
            ))
        }
    }
}

fn add_key(add: &Add) -> Result<(), Failure> {
    let (text, key) = read_public(&add.key)?;
    let missing = |what: &str| {
        Failure::new(Class::Usage, format!("{} does not say the {what}; give --{what}", add.key.display()))
    };
    let role = add.role.or_else(|| label(&text, "role")?.parse().ok()).ok_or_else(|| missing("role"))?;
    let owner = add.owner.clone().or_else(|| label(&text, "owner")?.parse().ok()).ok_or_else(|| missing("owner"))?;
    change(&add.file, |ring| {
        let (nodes, models) = (add.nodes.clone(), add.models.clone());
        let (not_before, not_after) = (add.not_before, add.not_after);
        let id = ring.add(Entry { key, role, owner, not_before, not_after, nodes, models })?;
        Ok(format!("{id} added"))
    })
}

fn change(file: &File, work: impl FnOnce(&mut KeyRing) -> Result<String, crate::fault::Fault>) -> Result<(), Failure> {
    let mut ring = match file.ring.exists() {
        true => KeyRing::parse(&read(&file.ring)?)?,
        false => KeyRing::default(),
    };
    let done = work(&mut ring)?;
    let text = match (&file.sign_with, ring.roots().is_empty()) {
        (_, true) => ring.render(),
        (Some(key), false) => ring.sign(&PrivateKey::from_pem(&read_private(key)?)?),
        (None, false) => {
            return Err(Failure::new(Class::Usage, "the ring has roots: give --sign-with KEY, the private key of one"));
        }
    };
    // What would not be read back is not written.
    KeyRing::parse(text.as_bytes())?;
    replace(&file.ring, &text)?;
    Out::stdout().line(&format!("{done}; {} has seq {}", file.ring.display(), ring.seq()))
}

fn list(ring: &KeyRing, as_json: bool) -> Result<(), Failure> {
    let out = Out::stdout();
    let time = |at: Option<WallTime>| at.map(|at| at.to_string());
    if as_json {
        let key = |(id, entry): (KeyId, &Entry)| {
            json!({
                "id": id.to_string(), "role": entry.role.as_str(), "owner": entry.owner.as_str(),
                "algorithm": entry.key.algorithm().as_str(), "nodes": entry.nodes, "models": entry.models,
                "not_before": time(entry.not_before), "not_after": time(entry.not_after),
                "revoked": ring.revoked(id).map(|revoked| revoked.at.to_string()),
            })
        };
        let roots: Vec<String> = ring.roots().iter().map(|root| root.id().to_string()).collect();
        return out.json(&json!({"seq": ring.seq(), "roots": roots, "keys": ring.keys().map(key).collect::<Vec<_>>()}));
    }
    let row = |(id, entry): (KeyId, &Entry)| {
        let state = match (ring.revoked(id), entry.not_after) {
            (Some(revoked), _) => format!("revoked {}", revoked.at),
            (None, Some(until)) => format!("until {until}"),
            (None, None) => "counts".to_owned(),
        };
        let (role, owner) = (entry.role.to_string(), entry.owner.to_string());
        vec![id.to_string(), role, owner, entry.nodes.join(","), entry.models.join(","), state]
    };
    out.table(&["KEY", "ROLE", "OWNER", "NODES", "MODELS", "STATE"], &ring.keys().map(row).collect::<Vec<_>>())
}

fn read(path: &Path) -> Result<Vec<u8>, Failure> {
    let io = |error: std::io::Error| Failure::io(&format!("cannot read {}", path.display()), &error);
    let bytes = fs::metadata(path).map_err(io)?.len();
    if bytes > 2 * RING_BYTES_MAX as u64 {
        return Err(Failure::new(Class::Data, format!("{} has {bytes} bytes; is it a key ring?", path.display())));
    }
    fs::read(path).map_err(io)
}

/// Writes the file whole or not at all.
fn replace(path: &Path, text: &str) -> Result<(), Failure> {
    let mut temporary = path.as_os_str().to_owned();
    temporary.push(".new");
    let temporary = PathBuf::from(temporary);
    let file = fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o644).open(&temporary);
    let written = file.and_then(|mut file| {
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        fs::rename(&temporary, path)
    });
    written.map_err(|error| Failure::io(&format!("cannot write {}", path.display()), &error))
}
