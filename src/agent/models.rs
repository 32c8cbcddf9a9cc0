//! Which models does the agent offer? Those of its folder that are whole and, with a key ring, signed by a publisher.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use super::Error;
use super::appraised;
use super::trust::Trust;
use crate::config::Settings;
use crate::fault::Fault;
use crate::link::messages::{InfoModel, InfoRefused};
use crate::model::floors::Floors;
use crate::model::library::{Entry, Library, Refused};
use crate::model::signed::{self, Standing, Terms};
use crate::units::WallTime;

/// Reads the models folder, and what is known of their costs below that state directory. A model with a mistake is left out and said so, one that is not to be trusted is refused as
/// the key ring and its mode say.
pub(super) fn open_library(
    settings: &Settings,
    trust: &Trust,
    state_dir: &Path,
    now: WallTime,
) -> Result<Arc<Library>, Error> {
    let folder = &settings.models_dir;
    let library = open_judged(folder, trust, state_dir, now)?;
    let library = appraised::with_verdicts(library, state_dir, appraised::limits(settings));
    log(folder, &library);
    Ok(Arc::new(library))
}

fn open_judged(folder: &Path, trust: &Trust, state_dir: &Path, now: WallTime) -> Result<Library, Error> {
    let Some((publishers, is_required)) = trust.publishers() else { return Ok(Library::open(folder)?) };
    // First the signatures alone: of several versions the highest that is signed makes the floor for the others.
    let terms = Terms { publishers, floors: &Floors::default(), now };
    let mut library = Library::open_judged(folder, |entry| signed::stand(entry, Some(terms), is_required))?;
    let floors = raise(state_dir, &library);
    let at_floor = |entry: &Entry| {
        let checked = floors.as_ref().map_err(Clone::clone);
        match checked.and_then(|floors| floors.check(&entry.manifest.name, entry.manifest.version)) {
            Ok(()) => Ok(entry.standing.clone()),
            Err(fault) if is_required => Err(fault),
            Err(fault) => Ok(Standing::Doubtful(fault)),
        }
    };
    library.judge_again(at_floor);
    Ok(library)
}

/// The floors, raised to the highest version of each model that bears a good signature. A disk that refuses keeps the
/// node from remembering, not from serving what it has.
fn raise(state_dir: &Path, library: &Library) -> Result<Floors, Fault> {
    let accept = |floors: &mut Floors| {
        for entry in library.entries().filter(|entry| entry.standing.by().is_some()) {
            floors.accept(&entry.manifest.name, entry.manifest.version);
        }
    };
    let mut floors = Floors::read(state_dir)?;
    let before = floors.clone();
    accept(&mut floors);
    if floors != before
        && let Err(fault) = Floors::update(state_dir, accept)
    {
        tracing::warn!(%fault, "the lowest versions of models are not remembered");
    }
    Ok(floors)
}

fn log(folder: &Path, library: &Library) {
    for problem in library.problems() {
        tracing::error!(path = %problem.path.display(), problem = problem.message, "model left out");
    }
    for refused in library.refused() {
        let (fault, path) = (&refused.fault, refused.entry.folder.display());
        tracing::error!(%path, %fault, "model refused");
    }
    for entry in library.entries() {
        match &entry.standing {
            Standing::Unasked => {}
            Standing::Signed { by } => {
                tracing::info!(model = %entry.manifest.name, version = entry.manifest.version, by, "signed model")
            }
            Standing::Doubtful(fault) => {
                tracing::warn!(path = %entry.folder.display(), %fault, "model accepted all the same: [trust] mode is warn");
            }
        }
    }
    if library.entries().next().is_none() {
        tracing::warn!(folder = %folder.display(), "no model is installed: every job will be refused");
    }
}

/// The models of a library, as the inventory lists them. `worst_node_max`: the longest single operator that is not
/// remarked on.
pub(super) fn offered(library: &Library, worst_node_max: Option<Duration>) -> Vec<InfoModel> {
    let told = |entry: &Entry| {
        let info = InfoModel {
            name: entry.manifest.name.to_string(),
            version: entry.manifest.version,
            digest: entry.manifest.digest.to_string(),
            summary: entry.manifest.summary.clone(),
            accepts: entry.manifest.prepare.as_ref().map(|prepare| prepare.accepts.clone()),
            signature: match &entry.standing {
                Standing::Unasked => None,
                Standing::Signed { by } => Some(format!("good: {by}")),
                Standing::Doubtful(fault) => Some(fault.to_string()),
            },
            ..InfoModel::default()
        };
        appraised::tell(library, entry, worst_node_max, info)
    };
    library.entries().map(|entry| told(entry)).collect()
}

/// The models of a library that are not offered because they are not to be trusted, as the inventory lists them.
pub(super) fn refused(library: &Library) -> Vec<InfoRefused> {
    let told = |refused: &Refused| InfoRefused {
        name: refused.entry.manifest.name.to_string(),
        version: refused.entry.manifest.version,
        code: refused.fault.code.as_str().to_owned(),
        message: refused.fault.message.clone(),
    };
    library.refused().iter().map(told).collect()
}
