//! Which versions of a model are too old? The lowest that each may have, kept in the state directory.
//!
//! Signatures do not grow old with the mistakes that a newer version mends: whoever can put files on a node could put an
//! old signed model there. So the highest version that was ever accepted becomes the floor, and only an operator's
//! explicit decision lowers it. The file is small JSON, written beside its name, synchronised and renamed into place.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::fault::{Code, Fault};
use crate::units::Name;

/// The file in the state directory.
pub const FILE: &str = "model-floors.json";
/// Whoever changes the file holds this one locked.
const LOCK: &str = "model-floors.lock";
const BYTES_MAX: u64 = 512 * 1024;
/// Most models whose floor is kept.
pub const FLOORS_MAX: usize = 2_000;
const FORMAT: u32 = 1;

/// The floors of all models.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Floors {
    models: BTreeMap<String, Floor>,
}

/// The floor of one model.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Floor {
    /// Lower versions are refused.
    floor: u32,
    /// The highest version that was ever accepted: the floor rises by itself above this one only, so that a decision to
    /// go back stays in force.
    highest: u32,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Raw {
    v: u32,
    models: BTreeMap<String, Floor>,
}

impl Floors {
    /// Reads the floors of a state directory; none when the file is not there.
    ///
    /// # Errors
    /// `state.io` when it cannot be read, `state.corrupt` when it makes no sense: then no version may be trusted.
    pub fn read(state_dir: &Path) -> Result<Self, Fault> {
        let path = state_dir.join(FILE);
        let failed = |error: io::Error| Fault::new(Code::StateIo, format!("{}: {error}", path.display()));
        let file = match OpenOptions::new().read(true).custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK).open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Self::default()),
            Err(error) => return Err(failed(error)),
        };
        let mut text = Vec::new();
        file.take(BYTES_MAX + 1).read_to_end(&mut text).map_err(failed)?;
        let corrupt = |why: String| {
            let text =
                format!("{}: {why}: restore it from a backup, or remove it to forget all floors", path.display());
            Fault::new(Code::StateCorrupt, text)
        };
        if text.len() as u64 > BYTES_MAX {
            return Err(corrupt(format!("is larger than {BYTES_MAX} bytes")));
        }
        let raw: Raw = serde_json::from_slice(&text).map_err(|error| corrupt(error.to_string()))?;
        if raw.v != FORMAT {
            let text = format!("{} has format {}, this version reads {FORMAT}", path.display(), raw.v);
            return Err(Fault::new(Code::StateVersion, text));
        }
        Ok(Self { models: raw.models })
    }

    /// The lowest version that is accepted; `None`: any.
    pub fn of(&self, name: &Name) -> Option<u32> {
        self.models.get(name.as_str()).map(|floor| floor.floor)
    }

    /// Whether that version is not below its floor.
    ///
    /// # Errors
    /// `model.version_rollback`.
    pub fn check(&self, name: &Name, version: u32) -> Result<(), Fault> {
        match self.of(name) {
            Some(floor) if version < floor => {
                let text = format!(
                    "model {name} version {version} is below {floor}, the lowest that this node accepts: install version \
                     {floor} or newer, or go back on purpose with neap models rollback {name}"
                );
                Err(Fault::new(Code::ModelVersionRollback, text))
            }
            Some(_) | None => Ok(()),
        }
    }

    /// Raises the floor for a version that was accepted, if it is the highest so far. Tells whether anything changed.
    pub fn accept(&mut self, name: &Name, version: u32) -> bool {
        let known = self.models.get(name.as_str()).map(|floor| floor.highest);
        let is_new =
            known.is_none_or(|highest| version > highest) && (known.is_some() || self.models.len() < FLOORS_MAX);
        if is_new {
            self.models.insert(name.as_str().to_owned(), Floor { floor: version, highest: version });
        }
        is_new
    }

    /// Sets the floor by decision, upwards or downwards.
    pub fn decide(&mut self, name: &Name, version: u32) {
        let highest = self.models.get(name.as_str()).map_or(version, |floor| floor.highest.max(version));
        self.models.insert(name.as_str().to_owned(), Floor { floor: version, highest });
    }

    /// Reads the floors, has them changed, and writes them when they were; one process at a time.
    ///
    /// # Errors
    /// As [`Self::read`], and `state.io` when they cannot be written.
    pub fn update(state_dir: &Path, change: impl FnOnce(&mut Self)) -> Result<Self, Fault> {
        let path = state_dir.join(FILE);
        let failed = |error: io::Error| {
            let text = format!("{}: {error}: the floor of versions cannot be kept there", path.display());
            Fault::new(Code::StateIo, text)
        };
        let lock = lock(&state_dir.join(LOCK)).map_err(failed)?;
        let mut floors = Self::read(state_dir)?;
        let before = floors.clone();
        change(&mut floors);
        if floors != before {
            floors.write(state_dir, &path).map_err(failed)?;
        }
        drop(lock);
        Ok(floors)
    }

    fn write(&self, state_dir: &Path, path: &Path) -> io::Result<()> {
        let text = serde_json::to_string(&Raw { v: FORMAT, models: self.models.clone() })?;
        let beside: PathBuf = state_dir.join(format!("{FILE}.new"));
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o644).open(&beside)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        fs::rename(&beside, path)?;
        File::open(state_dir)?.sync_all()
    }
}

/// Waits for whoever else changes the floors, which takes milliseconds.
fn lock(path: &Path) -> io::Result<File> {
    // Another user may have made it: locking needs no right to write.
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            OpenOptions::new().write(true).create(true).truncate(false).mode(0o644).open(path)?
        }
        Err(error) => return Err(error),
    };
    file.lock()?;
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name() -> Name {
        "m".parse().unwrap()
    }

    fn code(floors: &Floors, version: u32) -> Option<Code> {
        floors.check(&name(), version).err().map(|fault| fault.code)
    }

    #[test]
    fn the_floor_rises_with_what_was_accepted_and_never_falls_by_itself() {
        let mut floors = Floors::default();
        assert_eq!(code(&floors, 1), None);
        assert!(floors.accept(&name(), 3));
        assert!(!floors.accept(&name(), 2));
        assert_eq!(
            (floors.of(&name()), code(&floors, 2), code(&floors, 3)),
            (Some(3), Some(Code::ModelVersionRollback), None)
        );
        assert!(floors.accept(&name(), 4));
        assert_eq!(code(&floors, 3), Some(Code::ModelVersionRollback));
    }

    #[test]
    fn a_decision_to_go_back_stays_in_force_until_something_newer_comes() {
        let mut floors = Floors::default();
        floors.accept(&name(), 4);
        floors.decide(&name(), 3);
        assert_eq!(code(&floors, 3), None);
        assert!(!floors.accept(&name(), 4), "version 4 is known already");
        assert_eq!(floors.of(&name()), Some(3));
        assert!(floors.accept(&name(), 5));
        assert_eq!(floors.of(&name()), Some(5));
    }

    #[test]
    fn they_survive_their_file_and_a_file_that_makes_no_sense_is_not_taken_for_none() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(Floors::read(folder.path()), Ok(Floors::default()));
        let written = Floors::update(folder.path(), |floors| floors.decide(&name(), 7)).unwrap();
        assert_eq!(Floors::read(folder.path()), Ok(written));
        for (text, code) in [
            ("", Code::StateCorrupt),
            ("{\"v\":1}", Code::StateCorrupt),
            ("{\"v\":1,\"models\":{\"m\":{\"floor\":-1,\"highest\":1}}}", Code::StateCorrupt),
            ("{\"v\":2,\"models\":{}}", Code::StateVersion),
        ] {
            fs::write(folder.path().join(FILE), text).unwrap();
            assert_eq!(Floors::read(folder.path()).unwrap_err().code, code, "{text}");
            assert!(Floors::update(folder.path(), |floors| floors.decide(&name(), 1)).is_err());
        }
    }

    #[test]
    fn two_at_once_lose_nothing() {
        let folder = tempfile::tempdir().unwrap();
        std::thread::scope(|scope| {
            for at in 0..8 {
                let folder = folder.path();
                scope.spawn(move || {
                    let name: Name = format!("m{at}").parse().unwrap();
                    Floors::update(folder, |floors| floors.decide(&name, 1)).unwrap();
                });
            }
        });
        assert_eq!(Floors::read(folder.path()).unwrap().models.len(), 8);
    }
}
