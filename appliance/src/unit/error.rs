//! Why a unit does not start.

use crate::config::ConfigError;
use std::path::{Path, PathBuf};

/// Why a unit does not start. Nothing was changed on disk beyond empty directories and a lock file.
#[derive(Debug, thiserror::Error)]
pub enum UnitError {
    /// The configuration is wrong.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// Another unit has the directory.
    #[error(
        "{} is in use by another unit{}; stop that one first, or give this one its own data_dir",
        directory.display(),
        process.as_ref().map(|number| format!(" (process {number})")).unwrap_or_default()
    )]
    InUse {
        /// The directory.
        directory: PathBuf,
        /// The process that has it, if it could be read.
        process: Option<String>,
    },
    /// Something cannot be listened on.
    #[error("cannot listen on {address}: {reason}; change {key}")]
    Listen {
        /// The address or socket.
        address: String,
        /// What the system said, or what is in the way.
        reason: String,
        /// The setting that names it.
        key: &'static str,
    },
    /// A file or directory of the unit cannot be used.
    #[error("{}: {message}", path.display())]
    File {
        /// The file or directory.
        path: PathBuf,
        /// What failed and what to do.
        message: String,
    },
    /// It was told to stop while it was starting.
    #[error("told to stop before the start was complete")]
    Stopped {
        /// Whether what had started was shut down cleanly.
        clean: bool,
    },
    /// A part of the unit did not start.
    #[error("{0}")]
    Part(String),
}

impl UnitError {
    pub(super) fn file(path: &Path, action: &str, error: impl std::fmt::Display) -> Self {
        let message = format!("cannot be {action}: {error}; check its permissions and the free space");
        Self::File {
            path: path.to_owned(),
            message,
        }
    }
}
