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
    /// A file or directory of the unit on which `action` failed, with the remedy for that kind of failure.
    pub(crate) fn file(path: &Path, action: &str, error: impl Into<std::io::Error>) -> Self {
        let error = error.into();
        let message = format!("cannot be {action}: {error}; {}", remedy(&error));
        Self::File {
            path: path.to_owned(),
            message,
        }
    }
}

/// What helps against an error of a file system.
pub(crate) fn remedy(error: &std::io::Error) -> &'static str {
    use std::io::ErrorKind as Kind;
    match error.kind() {
        Kind::AlreadyExists | Kind::NotADirectory => {
            "a file is where a directory should be: move it away, or name another directory"
        }
        Kind::ReadOnlyFilesystem => {
            "the file system is read-only: mount it writable, or name a directory on another one"
        }
        Kind::NotFound => {
            "nothing can be made there: name a directory on an ordinary file system that is mounted"
        }
        Kind::PermissionDenied => {
            "allow the user this runs as to write there, or name a directory where it may"
        }
        Kind::StorageFull | Kind::QuotaExceeded => "free space there, or name a directory with more",
        _ => "check its permissions and the free space",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_obstacle_to_a_directory_has_its_remedy() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("file");
        std::fs::write(&file, "x").unwrap();
        for (path, word) in [
            (file.clone(), "move it away"),
            (file.join("below"), "move it away"),
            ("/proc/farside".into(), "ordinary file system"),
        ] {
            let error = std::fs::create_dir_all(&path).unwrap_err();
            let said = UnitError::file(&path, "made", error).to_string();
            assert!(
                said.contains(word) && said.contains(&path.display().to_string()),
                "{said}"
            );
        }
    }
}
