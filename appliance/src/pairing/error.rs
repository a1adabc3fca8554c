//! Why something about pairing did not work.

use crate::config::ConfigError;
use crate::unit::remedy;
use std::path::Path;

/// Why. Every text says what to do.
#[derive(Debug, thiserror::Error)]
pub enum PairingError {
    /// A file cannot be used.
    #[error("{path}: {message}")]
    File {
        /// The file.
        path: String,
        /// What is wrong, and what to do.
        message: String,
    },
    /// The list of paired units cannot be read or written.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// There is no peer of this name.
    #[error("no unit is paired with this one under the name '{}'; 'farside pair list' shows those that are", .0.escape_default())]
    Unknown(String),
    /// The invitation is not one.
    #[error("{0}")]
    Token(&'static str),
    /// The other unit is known here, with another key.
    #[error(
        "unit {unit} is paired with this one already, as '{name}' and with another key; if its key was lost, run \
         'farside pair revoke {name}' here first"
    )]
    OtherKey {
        /// Its UUID.
        unit: uuid::Uuid,
        /// Its name here.
        name: String,
    },
    /// The key is known as that of another unit.
    #[error(
        "that key is known here as the key of unit '{0}'; if that is the same unit under a new identity, run 'farside pair \
         revoke {0}' here first"
    )]
    KeyOfAnother(String),
    /// What was looked up has changed.
    #[error("a key changed meanwhile; try again")]
    Changed,
    /// Both ends are the same unit.
    #[error("that is this unit itself; invite on one unit, and accept on the other")]
    Itself,
    /// The other unit cannot be reached, or is not the one meant.
    #[error("{0}")]
    Unreachable(String),
    /// The other unit said no.
    #[error("the other unit refused: {0}")]
    Refused(String),
    /// Another key is on its way already.
    #[error(
        "a new key is on its way already, and these units have not heard of it yet: {}; they do as soon as their link is up, \
         or 'farside pair revoke' gives one up", .0.join(", ")
    )]
    Renewing(Vec<String>),
    /// TLS does not take what was made.
    #[error("the key of this unit cannot be used: {0}")]
    Tls(String),
}

impl PairingError {
    pub(super) fn file(path: &Path, action: &str, error: &std::io::Error) -> Self {
        Self::File {
            path: path.display().to_string(),
            message: format!("cannot be {action}: {error}; {}", remedy(error)),
        }
    }
}

impl From<rustls::Error> for PairingError {
    fn from(error: rustls::Error) -> Self {
        Self::Tls(error.to_string())
    }
}
