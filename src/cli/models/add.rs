//! How does a model come onto a node? `neap models add`: staged, checked, tried, and put in place in one step.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde_json::json;

use super::fetch::{self, Fetch};
use super::place::{Place, cannot, make_folder};
use super::trusting::say;
use crate::agent::appraised::limits;
use crate::cli::failure::{Class, Failure};
use crate::cli::out::{Out, Tone};
use crate::fault::{Code, Fault};
use crate::model::library::{Entry, Library};
use crate::model::signed;
use crate::model::verdict::{Limits, Outcome};
use crate::trust::bundle::SIGNATURE_FILE;
use crate::worker::appraisal::appraise;

/// Largest model with all its files, unless more is asked for, in MiB.
const SIZE_MIB: u64 = 320;
const MIB: u64 = 1024 * 1024;

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  neap models add ./prb-forecast --config /etc/neap/neap.toml
  neap models add https://models.example.net/prb-forecast/ --ca ca.pem --config /etc/neap/neap.toml
  systemctl reload neap                                         the agent takes it from there

The model is fetched or copied beside the others, its signature is checked as [trust] says, its digests are compared,
a sandboxed worker runs it and its golden cases, and only then it takes the place of the one of its name, in one step. That one is
kept for \"neap models rollback\". Whatever interrupts it, the old one still serves; a download goes on where it ended.
An address names the folder of model.toml: model.sig beside it lists the files, else what model.toml names is fetched.")]
pub(super) struct Args {
    /// Folder, or https address of a folder
    #[arg(value_name = "SOURCE")]
    source: String,
    #[command(flatten)]
    trusting: super::trusting::Whom,
    /// Certificates (PEM) of those who vouch for the server; the system's are not used
    #[arg(long, value_name = "FILE")]
    ca: Option<PathBuf>,
    /// Most that all files together may have
    #[arg(long, value_name = "MIB", default_value_t = SIZE_MIB, value_parser = clap::value_parser!(u64).range(1..=4096))]
    max_mib: u64,
    /// Longest silence of the server
    #[arg(long, value_name = "SECONDS", default_value_t = 30, value_parser = clap::value_parser!(u64).range(1..=3600))]
    stall_s: u64,
    /// Longest time for one file
    #[arg(long, value_name = "SECONDS", default_value_t = 3600, value_parser = clap::value_parser!(u64).range(1..=86_400))]
    timeout_s: u64,
    /// Leaves out what a worker makes of it, and with it the golden cases
    #[arg(long)]
    no_golden: bool,
    /// One JSON object with what was done
    #[arg(long)]
    json: bool,
}

/// What an installation did, for [`tell`].
struct Done {
    entry: Entry,
    replaced: Option<u32>,
    trial: String,
}

pub(super) fn run(args: &Args) -> Result<(), Failure> {
    let out = Out::stdout();
    let trusting = args.trusting.read()?;
    let place = Place::open(trusting.dir())?;
    let bytes_max = args.max_mib * MIB;
    let staged = if fetch::is_address(&args.source) {
        let (stall, total) = (Duration::from_secs(args.stall_s), Duration::from_secs(args.timeout_s));
        Fetch::new(&args.source, args.ca.as_deref(), stall, total, bytes_max)?.model(&place, &trusting)?
    } else {
        copy(Path::new(&args.source), &place, bytes_max)?
    };
    let wrong = |why: String| Failure::new(Class::Data, format!("{}: {why}; nothing was changed", args.source));
    let mut entry = Entry::at(&staged).map_err(wrong)?;
    let refused = |fault: Fault| wrong(fault.to_string());
    entry.verify().map_err(refused)?;
    entry.standing = trusting.stand(&entry).map_err(refused)?;
    signed::check_expiry(&entry, crate::sys::clock::wall()).map_err(refused)?;
    let Some(replaced) = may_install(&entry, &place).map_err(refused)? else {
        let text = format!(
            "{} version {} is installed already, with the same files",
            entry.manifest.name, entry.manifest.version
        );
        return if args.json { tell_already(&out, &entry) } else { out.line(&text) };
    };
    let trial = match args.no_golden {
        true => "no worker has tried it".to_owned(),
        false => try_out(&entry, trusting.settings().map(limits).unwrap_or_default())
            .map_err(|why| wrong(format!("a worker tried it: {why}")))?,
    };
    place.put(&staged, &entry.manifest.name)?;
    trusting.accepted(&entry)?;
    tell(&out, args.json, &place, &Done { entry, replaced, trial })
}

/// Copies a folder's files, and nothing but files.
fn copy(source: &Path, place: &Place, bytes_max: u64) -> Result<PathBuf, Failure> {
    let source = source.canonicalize().map_err(|error| cannot("read", source, &error))?;
    if !source.join("model.toml").exists() {
        let text = format!("{}: there is no model.toml in it: name the folder of one model", source.display());
        return Err(Failure::new(Class::Data, text));
    }
    let staged = place.new_folder()?;
    let mut names = signed::list(&source)?;
    if fs::symlink_metadata(source.join(SIGNATURE_FILE)).is_ok() {
        names.push(SIGNATURE_FILE.to_owned());
    }
    let mut left = bytes_max;
    for name in names {
        let (from, to) = (source.join(&name), staged.join(&name));
        if let Some(folder) = to.parent() {
            make_folder(folder)?;
        }
        let file = OpenOptions::new().read(true).custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK).open(&from);
        let file = file.map_err(|error| cannot("read", &from, &error))?;
        let mut copy = File::create_new(&to).map_err(|error| cannot("make", &to, &error))?;
        let copied = io::copy(&mut file.take(left + 1), &mut copy).map_err(|error| cannot("copy to", &to, &error))?;
        left = left.checked_sub(copied).ok_or_else(|| fetch::too_large(bytes_max))?;
    }
    Ok(staged)
}

/// Whether it may take the place of what is installed: the version that it replaces, if any. `None`: it is there
/// already.
fn may_install(entry: &Entry, place: &Place) -> Result<Option<Option<u32>>, Fault> {
    let library = Library::open(place.dir()).map_err(|error| Fault::new(Code::StateIo, error.to_string()))?;
    let (name, version) = (&entry.manifest.name, entry.manifest.version);
    let serves = place.of(name);
    let same_name: Vec<&Arc<Entry>> = library.entries().filter(|there| there.manifest.name == *name).collect();
    let conflict = |text: String| Err(Fault::new(Code::ModelFilesDiffer, text));
    if let Some(there) = same_name.iter().find(|there| there.manifest.version == version) {
        let same = signed::files(&there.folder).ok() == Some(signed::files(&entry.folder)?)
            && fs::read(there.folder.join(SIGNATURE_FILE)).ok() == fs::read(entry.folder.join(SIGNATURE_FILE)).ok();
        if same {
            return Ok(None);
        }
        // A signature or a sample that came later changes nothing of the model.
        if there.manifest != entry.manifest || there.folder != serves {
            return conflict(format!(
                "{name} version {version} is installed in {} with other files: give the new one a higher version",
                there.folder.display()
            ));
        }
        return Ok(Some(Some(version)));
    }
    let Some(there) = same_name.iter().find(|there| there.folder == serves) else {
        let taken = serves.exists();
        return if taken {
            conflict(format!("{} is there already and holds something else: remove it", serves.display()))
        } else {
            Ok(Some(None))
        };
    };
    if there.manifest.version > version {
        let text = format!(
            "{name} version {version} is older than version {}, which is installed: neap models rollback {name} goes back \
             to the one before, neap models rm {name} makes room",
            there.manifest.version
        );
        return Err(Fault::new(Code::ModelVersionRollback, text));
    }
    Ok(Some(Some(there.manifest.version)))
}

/// Has a worker load the model, run it and compare it with its golden cases; what it costs, in words.
fn try_out(entry: &Entry, limits: Limits) -> Result<String, String> {
    let entry = Arc::new(entry.clone());
    let verdict = appraise(Path::new("/proc/self/exe"), &limits, &entry).map_err(|error| error.to_string())?;
    let cost = match verdict.outcome {
        Outcome::Accepted(cost) => cost,
        Outcome::Refused(fault) => return Err(fault.to_string()),
    };
    if let Some(mismatch) = cost.goldens.mismatch.filter(|_| cost.goldens.passed < cost.goldens.of) {
        return Err(mismatch);
    }
    let golden = match cost.goldens.of {
        0 => "it has no golden case".to_owned(),
        of => format!("{of} golden cases agree"),
    };
    let (load, run) = (cost.load.as_millis(), cost.run_p50.as_micros());
    Ok(format!("{golden}; {load} ms to load, {run} us a run, {} MiB", cost.rss_bytes.div_ceil(MIB)))
}

fn tell_already(out: &Out, entry: &Entry) -> Result<(), Failure> {
    out.json(&json!({"installed": false, "name": entry.manifest.name.as_str(), "version": entry.manifest.version}))
}

fn tell(out: &Out, as_json: bool, place: &Place, done: &Done) -> Result<(), Failure> {
    let manifest = &done.entry.manifest;
    let folder = place.of(&manifest.name);
    if as_json {
        return out.json(&json!({
            "installed": true, "name": manifest.name.as_str(), "version": manifest.version, "replaced": done.replaced,
            "signature": say(&done.entry.standing), "trial": done.trial, "folder": folder.display().to_string(),
        }));
    }
    let mark = out.paint(Tone::Good, "installed");
    out.line(&format!("{mark}  {} v{}  {}", manifest.name, manifest.version, folder.display()))?;
    out.line(&format!("  signature: {}", say(&done.entry.standing)))?;
    out.line(&format!("  {}", done.trial))?;
    if let Some(version) = done.replaced {
        out.line(&format!("  version {version} is kept: neap models rollback {}", manifest.name))?;
    }
    out.line("  an agent that runs takes it with: systemctl reload neap (SIGHUP)")
}
