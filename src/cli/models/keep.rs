//! How does a node go back to a model that served before, and how does one go? `neap models rollback` and `rm`.

use std::fs;
use std::path::PathBuf;

use serde_json::json;

use super::place::Place;
use super::trusting::{self, say};
use crate::cli::failure::{Class, Failure};
use crate::cli::out::{Out, Tone};
use crate::fault::Fault;
use crate::model::library::{Entry, Library};
use crate::model::signed;
use crate::units::Name;

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  neap models rollback prb-forecast --config /etc/neap/neap.toml
  systemctl reload neap

The model that served before the last \"neap models add\" serves again, and the one that serves now is kept in its place:
the same command goes forward again. The version that serves becomes the lowest that the node accepts, by this decision.
Its signature must be as good as [trust] wants it today.")]
pub(super) struct RollbackArgs {
    /// Name of the model
    #[arg(value_name = "NAME")]
    name: Name,
    #[command(flatten)]
    trusting: trusting::Whom,
    /// One JSON object with what was done
    #[arg(long)]
    json: bool,
}

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  neap models rm prb-forecast --yes --config /etc/neap/neap.toml
  neap models rm prb-forecast --version 3 --yes --dir models

Removes the model and the one kept for rollback. Nothing of it is left but the lowest version that the node accepts.")]
pub(super) struct RemoveArgs {
    /// Name of the model
    #[arg(value_name = "NAME")]
    name: Name,
    /// Only this version
    #[arg(long, value_name = "VERSION")]
    version: Option<u32>,
    /// Really removes it
    #[arg(long)]
    yes: bool,
    #[command(flatten)]
    trusting: trusting::Whom,
    /// One JSON object a folder that was removed
    #[arg(long)]
    json: bool,
}

pub(super) fn rollback(args: &RollbackArgs) -> Result<(), Failure> {
    let out = Out::stdout();
    let trusting = args.trusting.read()?;
    let place = Place::open(trusting.dir())?;
    let name = &args.name;
    let folder = place.previous(name);
    if !folder.exists() {
        let text = format!(
            "no earlier version of {name} is kept in {}: install one with neap models add",
            place.dir().display()
        );
        return Err(Failure::new(Class::Data, text));
    }
    let wrong = |why: String| Failure::new(Class::Data, format!("{}: {why}; nothing was changed", folder.display()));
    let entry = Entry::at(&folder).map_err(wrong)?;
    let refused = |fault: Fault| wrong(fault.to_string());
    entry.verify().map_err(refused)?;
    signed::check_expiry(&entry, crate::sys::clock::wall()).map_err(refused)?;
    let standing = trusting.stand_at_any_version(&entry).map_err(refused)?;
    let before = Entry::at(&place.of(name)).ok().map(|entry| entry.manifest.version);
    let version = entry.manifest.version;
    // The floor first: an agent that looks in between refuses nothing that it has.
    if before.is_none_or(|before| version < before) {
        trusting.decide(name, version)?;
    }
    place.exchange_with_previous(name)?;
    trusting.decide(name, version)?;
    if args.json {
        return out.json(&json!({
            "name": name.as_str(), "version": version, "instead_of": before, "signature": say(&standing),
        }));
    }
    let instead = before.map(|before| format!(" instead of {before}, which is kept")).unwrap_or_default();
    out.line(&format!("{}  {name} v{version} serves{instead}", out.paint(Tone::Good, "done")))?;
    out.line(&format!("  signature: {}", say(&standing)))?;
    out.line("  an agent that runs takes it with: systemctl reload neap (SIGHUP)")
}

pub(super) fn remove(args: &RemoveArgs) -> Result<(), Failure> {
    let out = Out::stdout();
    let trusting = args.trusting.read()?;
    let place = Place::open(trusting.dir())?;
    let library = Library::open(place.dir()).map_err(|error| Failure::new(Class::Io, error.to_string()))?;
    let meant = |entry: &Entry| {
        entry.manifest.name == args.name && args.version.is_none_or(|version| entry.manifest.version == version)
    };
    let mut folders: Vec<(u32, PathBuf)> = library
        .entries()
        .filter(|entry| meant(entry))
        .map(|entry| (entry.manifest.version, entry.folder.clone()))
        .collect();
    let previous = place.previous(&args.name);
    if let Some(entry) = Entry::at(&previous).ok().filter(|entry| meant(entry)) {
        folders.push((entry.manifest.version, previous));
    } else if args.version.is_none() && fs::symlink_metadata(&previous).is_ok() {
        folders.push((0, previous));
    }
    if folders.is_empty() {
        let text = format!("no such model in {}: see neap models list", place.dir().display());
        return Err(Failure::new(Class::Data, text));
    }
    if !args.yes {
        let all: Vec<String> = folders.iter().map(|(_, folder)| folder.display().to_string()).collect();
        let text = format!("this would remove {}: say --yes if that is meant; nothing was removed", all.join(" and "));
        return Err(Failure::new(Class::Usage, text));
    }
    for (version, folder) in folders {
        place.take_away(&folder)?;
        if args.json {
            out.json(
                &json!({"removed": folder.display().to_string(), "name": args.name.as_str(), "version": version}),
            )?;
        } else {
            out.line(&format!("{}  {} v{version}  {}", out.paint(Tone::Good, "removed"), args.name, folder.display()))?;
        }
    }
    Ok(())
}
