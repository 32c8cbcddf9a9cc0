//! Does this machine have what the settings name? Files, folders and permissions, looked at without changing them.

use std::fs;
use std::io::{self, Read as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use super::{Mqtt, Settings};
use crate::load::{Kind, dpdk, log};
use crate::sys::{clock, credential, sched};
use crate::trust::Mode;
use crate::units::CoreList;

/// Longest password, in bytes.
const PASSWORD_BYTES_MAX: u64 = 1024;

/// Why a password cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum PasswordError {
    /// The file cannot be read.
    #[error("mqtt.password_file {}: {source}", path.display())]
    Unreadable {
        /// Which file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Others may read it.
    #[error(
        "mqtt.password_file {} has mode {mode:03o}: others may read it, at most 600 is allowed; run chmod 600 on it",
        path.display()
    )]
    Permissions {
        /// Which file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// Empty or far too long.
    #[error("mqtt.password_file {} must hold 1 to {PASSWORD_BYTES_MAX} bytes of text", path.display())]
    Length {
        /// Which file.
        path: PathBuf,
    },
}

impl Mqtt {
    /// The password; a line break at its end is not part of it.
    ///
    /// # Errors
    /// When the file cannot be read, others may read it, or it is empty or too long.
    pub fn password(&self) -> Result<Option<String>, PasswordError> {
        Self::read_password(self.password_file.as_deref())
    }

    /// The password of that file, if there is one; see [`Mqtt::password`].
    ///
    /// # Errors
    /// As [`Mqtt::password`].
    pub fn read_password(path: Option<&Path>) -> Result<Option<String>, PasswordError> {
        let Some(path) = path else { return Ok(None) };
        let unreadable = |source| PasswordError::Unreadable { path: path.to_owned(), source };
        let file = fs::File::open(path).map_err(unreadable)?;
        let mode = file.metadata().map_err(unreadable)?.permissions().mode() & 0o777;
        if credential::bits_for_others(path, mode) != 0 {
            return Err(PasswordError::Permissions { path: path.to_owned(), mode });
        }
        let mut text = String::new();
        file.take(PASSWORD_BYTES_MAX + 1).read_to_string(&mut text).map_err(unreadable)?;
        let password = text.trim_end_matches(['\r', '\n']);
        if password.is_empty() || text.len() as u64 > PASSWORD_BYTES_MAX {
            return Err(PasswordError::Length { path: path.to_owned() });
        }
        Ok(Some(password.to_owned()))
    }
}

impl Settings {
    /// What is legal but will not work, or not well, on this machine as it is now: one sentence each.
    pub fn surroundings(&self) -> Vec<String> {
        let mut notes = Vec::new();
        if self.load.sources.is_empty() {
            notes.push("no [[load]] is configured: the node stays blind and never runs a job".to_owned());
        }
        match (&self.mqtt.tls, self.mqtt.allow_insecure) {
            (None, true) => {
                notes.push(format!("mqtt.allow_insecure: everything to {} travels in plaintext", self.mqtt.host));
            }
            (Some(_), true) => notes.push("mqtt.allow_insecure has no effect with ca_file: TLS is spoken".to_owned()),
            (_, false) => {}
        }
        match &self.trust.keys {
            None => notes.push("[trust] keys names no key ring: every order counts, whoever sends it".to_owned()),
            Some(keys) => {
                if self.trust.mode == Mode::Warn {
                    notes.push("[trust] mode is warn: orders that nobody signed count as well".to_owned());
                }
                if let Err(error) = fs::metadata(keys) {
                    notes.push(format!("trust.keys {}: {error}", keys.display()));
                }
            }
        }
        notes.extend(self.tls_notes(clock::wall()));
        if let Err(error) = self.mqtt.password() {
            notes.push(error.to_string());
        }
        let here = sched::cores();
        if let Some(core) = self.workers.cores.iter().find(|core| !here.contains(core)) {
            notes.push(format!("[workers] names core {core}; from here {} can be used", CoreList(&here)));
        }
        folder("models.dir", &self.models_dir, &mut notes);
        if !self.jobs.state_dir.is_dir() {
            folder(
                "the folder above jobs.state_dir",
                self.jobs.state_dir.parent().unwrap_or(Path::new("/")),
                &mut notes,
            );
        }
        let proc = &self.memory.proc;
        if !["pressure/memory", "meminfo"].iter().any(|name| proc.join(name).is_file()) {
            let proc = proc.display();
            notes
                .push(format!("memory.proc: {proc} has neither pressure/memory nor meminfo: short memory goes unseen"));
        }
        self.source_notes(&mut notes);
        notes
    }

    /// The same about the load sources.
    fn source_notes(&self, notes: &mut Vec<String>) {
        for source in &self.load.sources {
            match &source.kind {
                Kind::Push { socket, .. } => {
                    folder("the folder of a push socket", socket.parent().unwrap_or(Path::new("/")), notes);
                }
                Kind::Shm { path, .. } => page(path, notes),
                Kind::Trace { file, .. } if !file.is_file() => {
                    notes.push(format!("load {}: there is no file {}", source.name, file.display()));
                }
                Kind::Mqtt if self.load.sources.iter().all(|other| other.kind.is_planning()) => notes.push(format!(
                    "load {}: reports of a controller can only make the node busier, and there is no other source: it \
                     will be blind and run nothing; add one that hears the RAN",
                    source.name
                )),
                Kind::Dpdk(settings) => {
                    let said =
                        dpdk::inquire(settings).unwrap_or_else(|why| format!("no load now, which means busy: {why}"));
                    notes.push(format!("load {}: {said}", source.name));
                }
                Kind::Log(settings) => {
                    if let Err(why) = log::inquire(&settings.path) {
                        notes.push(format!(
                            "load {}: {why}: failures of the RAN are not seen until it is there",
                            source.name
                        ));
                    }
                }
                Kind::PushUdp { .. } | Kind::Procfs(_) | Kind::Ocudu(_) | Kind::Trace { .. } | Kind::Mqtt => {}
            }
        }
    }
}

/// The folder of a load page, and whether it keeps files in memory.
fn page(path: &Path, notes: &mut Vec<String>) {
    const TMPFS: i128 = 0x0102_1994;
    const RAMFS: i128 = 0x8584_58f6;
    let above = path.parent().unwrap_or(Path::new("/"));
    folder("the folder of a shm page", above, notes);
    let in_memory = |found: rustix::fs::StatFs| [TMPFS, RAMFS].contains(&i128::from(found.f_type));
    if rustix::fs::statfs(above).is_ok_and(|found| !in_memory(found)) {
        notes.push(format!(
            "the shm page {} is not on a tmpfs: a write to it may wait for a disk; use /run",
            path.display()
        ));
    }
}

fn folder(what: &str, path: &Path, notes: &mut Vec<String>) {
    match fs::metadata(path) {
        Ok(found) if found.is_dir() => {}
        Ok(_) => notes.push(format!("{what}: {} is not a folder", path.display())),
        Err(error) => notes.push(format!("{what}: {}: {error}", path.display())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::tests::minimal;

    fn with_password(mode: u32, content: &str) -> Result<Option<String>, PasswordError> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("password");
        fs::write(&path, content).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        Mqtt { password_file: Some(path), ..minimal().mqtt }.password()
    }

    #[test]
    fn a_password_file_of_its_owner_is_read_without_its_line_break() {
        assert_eq!(with_password(0o600, "s3cret\n").unwrap(), Some("s3cret".to_owned()));
    }

    #[test]
    fn a_password_file_that_others_may_read_is_refused_with_mode_and_remedy() {
        let text = with_password(0o640, "s3cret").unwrap_err().to_string();
        assert!(text.contains("640") && text.contains("chmod 600"), "{text}");
    }

    #[test]
    fn an_empty_or_endless_password_is_refused() {
        for content in ["", "\n", &"x".repeat(5_000)] {
            assert!(matches!(with_password(0o600, content), Err(PasswordError::Length { .. })));
        }
    }

    #[test]
    fn a_node_without_a_source_is_told_that_it_stays_blind() {
        assert!(minimal().surroundings().iter().any(|note| note.contains("blind")));
    }
}
