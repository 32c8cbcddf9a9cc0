//! Which models are there, are they whole and whose, do they still give what they should? `neap models`.

mod add;
mod appraise;
mod fetch;
mod golden;
mod keep;
mod place;
mod sign;
mod trusting;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::json;

use super::failure::{Class, Failure};
use super::out::{Out, Tone, clean};
use super::span::{self, Span};
use crate::fault::Fault;
use crate::model::library::{Entry, Library};
use crate::model::signed::{self, Standing};
use crate::sys::clock;
use trusting::{Trusting, say};

/// Arguments of `neap models`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  neap models list --dir models
  neap models verify --config /etc/neap/neap.toml
  neap models test --dir models objects
  neap models appraise --config /etc/neap/neap.toml
  neap models add https://models.example.net/objects/ --ca ca.pem --config /etc/neap/neap.toml
  neap models sign models/objects --key publisher.key")]
pub(super) struct Args {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, clap::Subcommand)]
enum Action {
    /// Lists the models of a folder
    #[command(after_help = "Examples:\n  neap models list --dir models\n  neap models list --dir models --json")]
    List(Folder),
    /// Compares each model with its digest, its signature, its lowest version and its end
    #[command(after_help = VERIFY_EXAMPLES)]
    Verify(VerifyArgs),
    /// Finds out what each model costs here, and whether it serves
    Appraise(appraise::Args),
    /// Runs each model's golden inputs in a worker and compares the results
    #[command(after_help = TEST_EXAMPLES)]
    Test(TestArgs),
    /// Installs a model from a folder or an https address
    Add(Box<add::Args>),
    /// Goes back to the version that was installed before
    Rollback(keep::RollbackArgs),
    /// Removes a model
    Rm(keep::RemoveArgs),
    /// Signs a model for its publisher
    Sign(sign::SignArgs),
}

const TEST_EXAMPLES: &str = "\
Examples:
  neap models test --dir models
  neap models test --dir models objects --timeout 10m

Each model is judged alone: one that does not end, or brings its worker down, costs the others nothing.";

const VERIFY_EXAMPLES: &str = "\
Examples:
  neap models verify --dir models
  neap models verify --config /etc/neap/neap.toml --golden
  neap models verify --dir models --ring ring.json objects

With a key ring (of the configuration or --ring) the signature is verified too. The exit code is 65 when any is wrong.";

#[derive(Debug, clap::Args)]
struct TestArgs {
    #[command(flatten)]
    folder: Folder,
    /// Longest time for one case [default: 120s]
    #[arg(long, value_name = "TIME", value_parser = span::positive)]
    timeout: Option<Span>,
}

#[derive(Debug, clap::Args)]
struct VerifyArgs {
    #[command(flatten)]
    folder: Folder,
    /// Runs the golden cases as well
    #[arg(long)]
    golden: bool,
}

#[derive(Debug, clap::Args)]
struct Folder {
    /// Only these models
    #[arg(value_name = "NAME")]
    names: Vec<String>,
    #[command(flatten)]
    trusting: trusting::Whom,
    /// One JSON object a model
    #[arg(long)]
    json: bool,
}

/// What was found out about one model.
struct Finding {
    name: String,
    version: Option<u32>,
    /// What is right, or what is wrong.
    outcome: Result<String, String>,
}

/// Folders in which models are looked for, in this order.
pub(super) fn folders() -> Vec<PathBuf> {
    let beside = std::env::current_exe().ok().and_then(|exe| Some(exe.parent()?.join("models")));
    // First where the sources are, for everybody who runs this by cargo. What is shipped names no folder of its builder.
    let sources =
        cfg!(any(feature = "demo", debug_assertions)).then(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("models"));
    sources.into_iter().chain(beside).chain([PathBuf::from("/usr/share/neap/models")]).collect()
}

/// The folder that was named, or the first of [`folders`] that is there.
pub(super) fn folder_of(named: Option<&PathBuf>) -> Result<PathBuf, Failure> {
    let folders = named.map_or_else(folders, |folder| vec![folder.clone()]);
    if let Some(folder) = folders.iter().find(|folder| folder.is_dir()) {
        return Ok(folder.clone());
    }
    let looked = folders.iter().map(|folder| folder.display().to_string()).collect::<Vec<_>>().join(", ");
    let text = format!("no folder with models was found in {looked}; name one with --models FOLDER");
    Err(Failure::new(Class::Data, text))
}

pub(super) fn run(args: &Args) -> Result<(), Failure> {
    let out = Out::stdout();
    match &args.action {
        Action::List(folder) => list(&out, folder),
        Action::Appraise(args) => appraise::run(args),
        Action::Verify(args) => verify(&out, args),
        Action::Test(TestArgs { folder, timeout }) => {
            let library = folder.open()?;
            let mut bench = golden::Bench::new(timeout.unwrap_or(golden::CASE_MAX))?;
            report(&out, folder, &library, |entry| bench.test(entry))
        }
        Action::Add(args) => add::run(args),
        Action::Rollback(args) => keep::rollback(args),
        Action::Rm(args) => keep::remove(args),
        Action::Sign(args) => sign::sign(args),
    }
}

impl Folder {
    fn open(&self) -> Result<Library, Failure> {
        self.open_trusting(&self.trusting.read()?)
    }

    fn open_trusting(&self, trusting: &Trusting) -> Result<Library, Failure> {
        let folder = trusting.dir();
        let library = Library::open(folder).map_err(|error| Failure::new(Class::Io, error.to_string()))?;
        if library.entries().next().is_none() && library.problems().is_empty() {
            let text = format!("no model in {}: a model is a folder with a model.toml; check --dir", folder.display());
            return Err(Failure::new(Class::Data, text));
        }
        let known = |name: &String| library.entries().any(|entry| entry.manifest.name.as_str() == name);
        if let Some(name) = self.names.iter().find(|name| !known(name)) {
            let all: Vec<&str> = library.entries().map(|entry| entry.manifest.name.as_str()).collect();
            let text = format!("no model {name:?} in {}: there are {}", folder.display(), all.join(", "));
            return Err(Failure::new(Class::Data, text));
        }
        Ok(library)
    }

    fn wants(&self, entry: &Entry) -> bool {
        self.names.is_empty() || self.names.iter().any(|name| name == entry.manifest.name.as_str())
    }
}

/// What is right with each model, or the first that is wrong.
fn verify(out: &Out, args: &VerifyArgs) -> Result<(), Failure> {
    let trusting = args.folder.trusting.read()?;
    let library = args.folder.open_trusting(&trusting)?;
    let mut bench = args.golden.then(|| golden::Bench::new(golden::CASE_MAX)).transpose()?;
    let examine = |entry: &Arc<Entry>| {
        entry.verify().map_err(|fault| fault.to_string())?;
        let standing = trusting.stand(entry).map_err(|fault| fault.to_string())?;
        signed::check_expiry(entry, clock::wall()).map_err(|fault| fault.to_string())?;
        let mut words = entry.manifest.digest.to_string();
        if standing != Standing::Unasked {
            words = format!("{words}, signature {}", say(&standing));
        }
        if let Some(bench) = &mut bench {
            words = format!("{words}, {}", bench.test(entry)?);
        }
        Ok(words)
    };
    report(out, &args.folder, &library, examine)
}

fn list(out: &Out, folder: &Folder) -> Result<(), Failure> {
    let trusting = folder.trusting.read()?;
    let library = appraise::known(folder.open_trusting(&trusting)?, trusting.settings());
    let mut rows = Vec::new();
    for entry in library.entries().filter(|entry| folder.wants(entry)) {
        let manifest = &entry.manifest;
        let bytes = std::fs::metadata(entry.onnx_path()).map(|file| file.len()).ok();
        let accepts = manifest.prepare.as_ref().map(|prepare| prepare.accepts.as_str());
        let standing = trusting.stand(entry);
        let signed_by = standing.as_ref().ok().and_then(Standing::by);
        let refused = standing.as_ref().err().map(ToString::to_string);
        if folder.json {
            out.json(&json!({
                "name": manifest.name.as_str(), "version": manifest.version, "digest": manifest.digest.to_string(),
                "bytes": bytes, "accepts": accepts, "licence": manifest.licence, "summary": manifest.summary,
                "source": manifest.source, "folder": entry.folder.display().to_string(), "signed_by": signed_by,
                "expires": manifest.expires.map(|end| end.to_string()), "refused": refused,
                "cost": appraise::cost(library.verdict(entry)),
            }))?;
        } else {
            let [load, run, worst_node, memory] = appraise::cells(library.verdict(entry));
            rows.push(vec![
                manifest.name.to_string(),
                manifest.version.to_string(),
                bytes.map_or_else(|| "missing".to_owned(), |bytes| format!("{:.1} MB", mega(bytes))),
                accepts.unwrap_or("tensors").to_owned(),
                manifest.licence.clone(),
                column(&standing),
                load,
                run,
                worst_node,
                memory,
                clean(&manifest.summary, 80),
            ]);
        }
    }
    if !folder.json {
        let [load, run, worst_node, memory] = appraise::HEAD;
        let costs = [load, run, worst_node, memory];
        let head =
            [&["MODEL", "VERSION", "SIZE", "ACCEPTS", "LICENCE", "SIGNATURE"][..], &costs[..], &["WHAT IT DOES"]]
                .concat();
        // No columns that say nothing.
        let empty =
            |at: usize| (6..10).contains(&at) && rows.iter().all(|row: &Vec<String>| row[6..10].concat().is_empty());
        let keep = |at: &usize| !empty(*at);
        let pick = |row: &Vec<String>| (0..row.len()).filter(keep).map(|at| row[at].clone()).collect();
        let head: Vec<&str> = (0..head.len()).filter(keep).map(|at| head[at]).collect();
        out.table(&head, &rows.iter().map(pick).collect::<Vec<_>>())?;
    }
    let problems: Vec<Finding> = problems(&library, folder).collect();
    tell(out, folder.json, &problems)
}

/// What a signature is worth, in a column's width.
fn column(standing: &Result<Standing, Fault>) -> String {
    match standing {
        Ok(Standing::Unasked) => "not asked for".to_owned(),
        Ok(Standing::Signed { by }) => format!("good, {by}"),
        Ok(Standing::Doubtful(fault)) => format!("warned: {}", fault.code),
        Err(fault) => format!("refused: {}", fault.code),
    }
}

/// Examines each wanted model and tells what was found, problems of the folder included.
fn report(
    out: &Out,
    folder: &Folder,
    library: &Library,
    mut examine: impl FnMut(&Arc<Entry>) -> Result<String, String>,
) -> Result<(), Failure> {
    let mut bad = false;
    for entry in library.entries().filter(|entry| folder.wants(entry)) {
        let finding = Finding {
            name: entry.manifest.name.to_string(),
            version: Some(entry.manifest.version),
            outcome: examine(entry),
        };
        bad |=
            tell(out, folder.json, std::slice::from_ref(&finding)).is_err_and(|failure| failure.class == Class::Data);
    }
    let problems: Vec<Finding> = problems(library, folder).collect();
    tell(out, folder.json, &problems)?;
    if bad { Err(Failure::told(Class::Data)) } else { Ok(()) }
}

/// What lies in the folder but is no model; left out when only some models are wanted.
fn problems<'l>(library: &'l Library, folder: &Folder) -> impl Iterator<Item = Finding> + 'l {
    let shown = if folder.names.is_empty() { library.problems() } else { &[] };
    shown.iter().map(|problem| Finding {
        name: path_name(&problem.path),
        version: None,
        outcome: Err(format!("{}: {}", problem.path.display(), problem.message)),
    })
}

fn path_name(path: &Path) -> String {
    path.file_name().map_or_else(|| path.display().to_string(), |name| name.to_string_lossy().into_owned())
}

fn tell(out: &Out, as_json: bool, findings: &[Finding]) -> Result<(), Failure> {
    for finding in findings {
        let (good, words) = match &finding.outcome {
            Ok(words) => (true, words),
            Err(words) => (false, words),
        };
        if as_json {
            out.json(&json!({"name": finding.name, "version": finding.version, "right": good, "detail": words}))?;
            continue;
        }
        let version = finding.version.map(|version| format!(" v{version}")).unwrap_or_default();
        let mark = if good { out.paint(Tone::Good, "right") } else { out.paint(Tone::Bad, "wrong") };
        out.line(&format!("{mark}  {}{version}  {}", finding.name, clean(words, 2_000)))?;
    }
    let all_right = findings.iter().all(|finding| finding.outcome.is_ok());
    if all_right { Ok(()) } else { Err(Failure::told(Class::Data)) }
}

/// Bytes in millions, for people.
#[expect(clippy::cast_precision_loss, reason = "two digits are shown")]
fn mega(bytes: u64) -> f64 {
    bytes as f64 / 1e6
}
