//! How do commands read and write recordings? What those that do have in common.

use std::fs::{self, File};
use std::io::{self, BufReader, IsTerminal as _, Write as _};
use std::path::Path;
use std::time::Duration;

use super::failure::{Class, Failure};
use crate::load::Problem;
use crate::load::recording::{Form, Reader};
use crate::sys::clock;
use crate::units::Instant;

/// Time between two lines of progress on a terminal, and elsewhere.
const TELL_EVERY: [Duration; 2] = [Duration::from_millis(250), Duration::from_secs(10)];

/// A problem of a recording or a source, by what can be done about it.
pub(super) fn failure(problem: &Problem) -> Failure {
    let class = match problem {
        Problem::Setting { .. } => Class::Usage,
        Problem::SocketInUse { .. } => Class::TemporaryFailure,
        Problem::NotASocket { .. } | Problem::NotALoadPage { .. } => Class::Io,
        Problem::Io { error, .. } if error.kind() == io::ErrorKind::PermissionDenied => Class::NoPermission,
        Problem::Io { .. } => Class::Io,
        Problem::Line { .. } | Problem::Recording { .. } => Class::Data,
    };
    Failure::new(class, problem.to_string())
}

/// Opens a recording that is a file, and says how long it is.
pub(super) fn open(path: &Path) -> Result<(Reader<BufReader<File>>, u64), Failure> {
    let reader = Reader::open(path).map_err(|problem| failure(&problem))?;
    let bytes = fs::metadata(path).map_or(0, |found| found.len());
    Ok((reader, bytes))
}

/// The form that is asked for, else that of the file's name.
pub(super) fn form(path: &Path, asked: Option<&str>, is_stdout: bool) -> Result<Form, Failure> {
    let asked = asked.map(|form| if form == "csv" { Form::Csv } else { Form::Ndjson });
    asked.or(Form::of_path(path)).or(is_stdout.then_some(Form::Ndjson)).ok_or_else(|| {
        let text = format!("{}: no form ends like that; name it .csv or .ndjson, or give --format", path.display());
        Failure::new(Class::Usage, text)
    })
}

/// Tells on standard error how far it is: a line that is replaced on a terminal, a line now and then elsewhere.
#[derive(Debug)]
pub(super) struct Progress {
    is_terminal: bool,
    began: Instant,
    told: Instant,
}

impl Progress {
    /// Begins.
    pub(super) fn begin() -> Self {
        let now = clock::now();
        Self { is_terminal: io::stderr().is_terminal(), began: now, told: now }
    }

    /// Time since the begin.
    pub(super) fn passed(&self) -> Duration {
        clock::now().since(self.began)
    }

    /// Tells what `text` says, when it is time to.
    pub(super) fn at(&mut self, text: impl FnOnce() -> String) {
        let now = clock::now();
        if now.since(self.told) < TELL_EVERY[usize::from(!self.is_terminal)] {
            return;
        }
        self.told = now;
        // Nothing can be done when stderr is closed.
        let _ = match self.is_terminal {
            true => write!(io::stderr(), "\r\x1b[2K{}", text()),
            false => writeln!(io::stderr(), "neap: {}", text()),
        };
    }

    /// Takes the line away.
    pub(super) fn end(&self) {
        if self.is_terminal {
            let _ = write!(io::stderr(), "\r\x1b[2K");
        }
    }
}

/// A remark on standard error.
pub(super) fn remark(text: &str) {
    let _ = writeln!(io::stderr(), "neap: {text}");
}
