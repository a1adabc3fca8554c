//! How the commands end: an exit code that means something, and a message that says what to do.

use crate::config::ConfigError;
use crate::inspect::InspectError;
use crate::unit::UnitError;
use farside_protocol::control::{ControlError, ErrorCode};
use std::process::ExitCode;

/// The codes, as `farside help` and the manual document them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Exit {
    /// Something failed.
    Failure = 1,
    /// The command line is wrong.
    Usage = 2,
    /// No unit answers.
    Unreachable = 3,
    /// The time was up.
    Timeout = 4,
    /// The configuration is wrong, or the unit refused the command; nothing was changed.
    Refused = 5,
    /// The inspected file is damaged.
    Damaged = 6,
    /// The inspected file is none that this version knows.
    Unrecognised = 7,
    /// A volume and a remote differ.
    Differs = 8,
}

/// What `farside help` says about exit codes.
pub(super) const EXIT_CODES: &str = "Exit codes:
  0  done
  1  something failed
  2  the command line is wrong
  3  no unit answers on the control socket
  4  the time given was up
  5  refused: the configuration is wrong, or the command conflicts with what is there
  6  inspect: the file is damaged
  7  inspect: the file is none of Farside's, or of a newer version
  8  verify: the sides differ";

/// Why a command ends early.
#[derive(Debug)]
pub(super) struct CliError {
    /// The exit code.
    pub(super) exit: Exit,
    /// What is printed; empty if nothing is.
    pub(super) message: String,
}

impl CliError {
    pub(super) fn new(exit: Exit, message: impl Into<String>) -> Self {
        Self {
            exit,
            message: message.into(),
        }
    }

    pub(super) fn failure(message: impl Into<String>) -> Self {
        Self::new(Exit::Failure, message)
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(match exit {
            Exit::Failure => 1,
            Exit::Usage => 2,
            Exit::Unreachable => 3,
            Exit::Timeout => 4,
            Exit::Refused => 5,
            Exit::Damaged => 6,
            Exit::Unrecognised => 7,
            Exit::Differs => 8,
        })
    }
}

impl From<ControlError> for CliError {
    fn from(error: ControlError) -> Self {
        let exit = match error.code {
            ErrorCode::Conflict | ErrorCode::InvalidConfiguration => Exit::Refused,
            ErrorCode::ShuttingDown => Exit::Unreachable,
            ErrorCode::BadRequest | ErrorCode::NotFound | ErrorCode::Failed => Exit::Failure,
        };
        Self::new(exit, error.to_string())
    }
}

impl From<ConfigError> for CliError {
    fn from(error: ConfigError) -> Self {
        Self::new(Exit::Refused, error.to_string())
    }
}

impl From<UnitError> for CliError {
    fn from(error: UnitError) -> Self {
        match error {
            UnitError::Config(error) => error.into(),
            other => Self::failure(other.to_string()),
        }
    }
}

impl From<InspectError> for CliError {
    fn from(error: InspectError) -> Self {
        match error {
            InspectError::Output(error) => error.into(),
            InspectError::Damaged { .. } => Self::new(Exit::Damaged, error.to_string()),
            InspectError::Unrecognised { .. } => Self::new(Exit::Unrecognised, error.to_string()),
            InspectError::Read { .. } => Self::failure(error.to_string()),
        }
    }
}

impl From<std::io::Error> for CliError {
    fn from(error: std::io::Error) -> Self {
        // A reader that has seen enough, as `head` does, is no failure worth a message.
        let message = match error.kind() {
            std::io::ErrorKind::BrokenPipe => String::new(),
            _ => format!("the answer cannot be written: {error}"),
        };
        Self::failure(message)
    }
}
