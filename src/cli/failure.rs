//! How does a command end badly? One sentence for the person, one exit code of `sysexits.h` for the script.

use std::io::{self, Write as _};
use std::process::ExitCode;

use crate::config;
use crate::fault::Fault;
use crate::units::escape_steering;

/// Classes of failure, by their exit code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// 64: the command line is wrong.
    Usage,
    /// 65: what was given to work on is wrong, or a job ended badly.
    Data,
    /// 69: the broker or the node cannot be reached.
    Unavailable,
    /// 70: a defect of this program.
    Software,
    /// 74: a file or socket failed.
    Io,
    /// 75: not now; the same command may succeed later.
    TemporaryFailure,
    /// 77: not allowed.
    NoPermission,
    /// 78: the configuration is wrong.
    Config,
    /// 0: nobody reads our output any more; that is not our failure.
    ClosedPipe,
}

impl Class {
    /// The exit code.
    pub const fn code(self) -> u8 {
        match self {
            Self::Usage => 64,
            Self::Data => 65,
            Self::Unavailable => 69,
            Self::Software => 70,
            Self::Io => 74,
            Self::TemporaryFailure => 75,
            Self::NoPermission => 77,
            Self::Config => 78,
            Self::ClosedPipe => 0,
        }
    }
}

/// Why a command did not succeed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// Its exit code.
    pub class: Class,
    /// What, value, limit, remedy; may have several lines. Empty when everything was said already.
    pub text: String,
}

impl Failure {
    /// A failure of that class.
    pub fn new(class: Class, text: impl Into<String>) -> Self {
        Self { class, text: text.into() }
    }

    /// A failure of which the output already told everything.
    pub const fn told(class: Class) -> Self {
        Self { class, text: String::new() }
    }

    /// A failed file or socket; `what` says what was tried with which path.
    pub fn io(what: &str, error: &io::Error) -> Self {
        let kind = error.kind();
        let class = if kind == io::ErrorKind::PermissionDenied {
            Class::NoPermission
        } else if kind == io::ErrorKind::BrokenPipe {
            Class::ClosedPipe
        } else {
            Class::Io
        };
        Self::new(class, format!("{what}: {error}"))
    }

    /// Tells the person and gives the exit code.
    pub fn report(&self) -> ExitCode {
        // A wrong configuration already begins with its code, each mistake on a line of its own.
        if !self.text.is_empty() && self.class != Class::ClosedPipe {
            // Nothing can be done when stderr is closed as well.
            // The text may quote a broker, a node or a file.
            let text = escape_steering(&self.text, &['\n']);
            let _ = writeln!(io::stderr(), "{}{text}", if self.class == Class::Config { "" } else { "neap: " });
        }
        ExitCode::from(self.class.code())
    }
}

impl From<config::Error> for Failure {
    fn from(error: config::Error) -> Self {
        let class = match &error {
            config::Error::Unreadable { source, .. } if source.kind() == io::ErrorKind::PermissionDenied => {
                Class::NoPermission
            }
            config::Error::Unreadable { .. } | config::Error::TooLarge { .. } | config::Error::Invalid { .. } => {
                Class::Config
            }
        };
        Self::new(class, error.to_string())
    }
}

impl From<config::PasswordError> for Failure {
    fn from(error: config::PasswordError) -> Self {
        Self::new(Class::NoPermission, error.to_string())
    }
}

impl From<Fault> for Failure {
    fn from(fault: Fault) -> Self {
        let class = if fault.code.retryable() { Class::TemporaryFailure } else { Class::Data };
        Self::new(class, fault.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fault::Code;

    #[test]
    fn a_fault_that_may_pass_is_a_temporary_failure() {
        assert_eq!(Failure::from(Fault::new(Code::QueueFull, "x")).class.code(), 75);
        assert_eq!(Failure::from(Fault::new(Code::ModelUnknown, "x")).class.code(), 65);
    }

    #[test]
    fn a_closed_pipe_is_no_failure() {
        let failure = Failure::io("stdout", &io::Error::from(io::ErrorKind::BrokenPipe));
        assert_eq!(failure.class.code(), 0);
    }

    #[test]
    fn a_denied_file_is_told_apart_from_a_broken_one() {
        let class = |kind| Failure::io("x", &io::Error::from(kind)).class.code();
        assert_eq!((class(io::ErrorKind::PermissionDenied), class(io::ErrorKind::NotFound)), (77, 74));
    }
}
