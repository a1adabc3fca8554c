//! Directories made for files that may come to nothing: taken away again unless they are kept.

use crate::error::{Operation, StorageError};
use std::path::{Path, PathBuf};

/// Directories made, outer ones first. Dropped without [`keep`](Self::keep), those that are empty are removed.
#[derive(Debug, Default)]
pub(crate) struct MadeDirectories(Vec<PathBuf>);

impl MadeDirectories {
    /// Makes the directory of `path` with all that are missing above it.
    ///
    /// # Errors
    /// [`StorageError::Io`].
    pub(crate) fn make_parent(&mut self, path: &Path) -> Result<(), StorageError> {
        let parent = path.parent().unwrap_or(Path::new("."));
        let missing: Vec<_> = parent
            .ancestors()
            .take_while(|ancestor| !ancestor.as_os_str().is_empty() && !ancestor.exists())
            .map(Path::to_owned)
            .collect();
        self.0.extend(missing.into_iter().rev());
        let made = std::fs::create_dir_all(parent);
        made.map_err(|error| StorageError::io(Operation::Open, &parent.display().to_string(), 0, error))
    }

    /// They are in use now.
    pub(crate) fn keep(mut self) {
        self.0.clear();
    }
}

impl Drop for MadeDirectories {
    fn drop(&mut self) {
        for directory in self.0.iter().rev() {
            // What somebody else has put there meanwhile stays.
            let _ = std::fs::remove_dir(directory);
        }
    }
}
