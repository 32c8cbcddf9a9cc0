//! Whom does this node believe about models? What the configuration or the command line says, for every `neap models`.

use std::path::{Path, PathBuf};

use crate::agent::trust;
use crate::cli::failure::Failure;
use crate::config::Settings;
use crate::fault::Fault;
use crate::model::floors::Floors;
use crate::model::library::Entry;
use crate::model::signed::{self, Standing, Terms};
use crate::sys::clock;
use crate::trust::Mode;
use crate::trust::bundle::Statement;
use crate::trust::keyring::KeyRing;
use crate::units::Name;

/// Where models are, and whom to believe.
#[derive(Debug, clap::Args)]
pub(super) struct Whom {
    /// Folder of the models [default: from --config, else /usr/share/neap/models]
    #[arg(long, value_name = "FOLDER")]
    dir: Option<PathBuf>,
    /// Configuration of the agent: its models, key ring and state
    #[arg(short, long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Key ring; without --config a good signature of one of its publishers is required
    #[arg(long, value_name = "FILE")]
    ring: Option<PathBuf>,
    /// State of the agent, where the lowest versions are kept [default: from --config]
    #[arg(long, value_name = "FOLDER")]
    state: Option<PathBuf>,
}

/// As [`Whom`], read.
#[derive(Debug)]
pub(super) struct Trusting {
    dir: PathBuf,
    ring: Option<KeyRing>,
    is_required: bool,
    state: Option<PathBuf>,
    floors: Floors,
    settings: Option<Settings>,
}

impl Whom {
    /// Reads what they name.
    pub(super) fn read(&self) -> Result<Trusting, Failure> {
        let settings = self.config.as_deref().map(Settings::read).transpose()?;
        let of_settings = settings.as_ref().map(|settings| settings.models_dir.clone());
        let dir = self.dir.clone().or(of_settings).unwrap_or_else(|| PathBuf::from("/usr/share/neap/models"));
        let (ring, is_required) = ring(self.ring.as_deref(), settings.as_ref())?;
        let state = self.state.clone().or(settings.as_ref().map(|settings| settings.jobs.state_dir.clone()));
        let floors = state.as_deref().map(Floors::read).transpose()?.unwrap_or_default();
        Ok(Trusting { dir, ring, is_required, state, floors, settings })
    }
}

impl Trusting {
    /// The folder of models.
    pub(super) fn dir(&self) -> &Path {
        &self.dir
    }

    /// The agent's configuration, when it was given.
    pub(super) fn settings(&self) -> Option<&Settings> {
        self.settings.as_ref()
    }

    fn terms(&self) -> Option<Terms<'_>> {
        self.ring.as_ref().map(|ring| Terms { publishers: ring, floors: &self.floors, now: clock::wall() })
    }

    /// What the signature of a model is worth.
    ///
    /// # Errors
    /// Its fault, when a good signature is required.
    pub(super) fn stand(&self, entry: &Entry) -> Result<Standing, Fault> {
        signed::stand(entry, self.terms(), self.is_required)
    }

    /// As [`Self::stand`], whatever the lowest version is: for going back on purpose.
    pub(super) fn stand_at_any_version(&self, entry: &Entry) -> Result<Standing, Fault> {
        let floors = Floors::default();
        let terms = self.terms().map(|terms| Terms { floors: &floors, ..terms });
        signed::stand(entry, terms, self.is_required)
    }

    /// What a bundle lists whose files are not here yet; `None` when its signature is not good and need not be.
    ///
    /// # Errors
    /// The bundle's fault, when a good signature is required.
    pub(super) fn listed(&self, bundle: &[u8]) -> Result<Option<Statement>, Fault> {
        let Some(terms) = self.terms() else {
            return Ok(crate::trust::bundle::Bundle::parse(bundle)?.claims().ok());
        };
        match signed::verify(bundle, terms.publishers, terms.now) {
            Ok((_, statement)) => Ok(Some(statement)),
            Err(fault) if self.is_required => Err(fault),
            Err(_) => Ok(None),
        }
    }

    /// Whether a model without a signature is refused.
    pub(super) fn is_required(&self) -> bool {
        self.ring.is_some() && self.is_required
    }

    /// A version was installed: lower ones are refused from now on, where a state is known.
    pub(super) fn accepted(&self, entry: &Entry) -> Result<(), Failure> {
        let floor = self.floors.of(&entry.manifest.name).unwrap_or(0);
        self.decide(&entry.manifest.name, entry.manifest.version.max(floor))
    }

    /// That version is the lowest from now on, where a state is known.
    pub(super) fn decide(&self, name: &Name, version: u32) -> Result<(), Failure> {
        if let Some(state) = &self.state {
            Floors::update(state, |floors| floors.decide(name, version))?;
        }
        Ok(())
    }
}

/// In words.
pub(super) fn say(standing: &Standing) -> String {
    match standing {
        Standing::Unasked => "not asked for: no key ring".to_owned(),
        Standing::Signed { by } => format!("good, by {by}"),
        Standing::Doubtful(fault) => format!("not good, but only warned of: {fault}"),
    }
}

/// The ring that counts, and whether a good signature is required.
fn ring(given: Option<&Path>, settings: Option<&Settings>) -> Result<(Option<KeyRing>, bool), Failure> {
    let mode = settings.map_or(Mode::None, |settings| settings.trust.mode);
    let configured = settings.and_then(|settings| settings.trust.keys.as_deref());
    let (path, is_required) = match (given, mode) {
        (Some(path), _) => (Some(path), true),
        (None, Mode::None) => (None, false),
        (None, Mode::Warn) => (configured, false),
        (None, Mode::Require) => (configured, true),
    };
    let ring = path.map(|path| KeyRing::parse(&trust::read(path)?)).transpose()?;
    Ok((ring, is_required))
}
