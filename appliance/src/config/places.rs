//! Whether two paths are one place, although they are written differently.

use std::collections::HashMap;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Component, Path, PathBuf};

/// Paths already taken, by what they really are.
#[derive(Debug, Default)]
pub(super) struct Places {
    by_path: HashMap<PathBuf, String>,
    by_file: HashMap<(u64, u64), String>,
}

impl Places {
    /// Takes `path` for `owner`. Returns who has it already, seen through symbolic links of its parents,
    /// of itself, hard links, and other names of one block device.
    pub(super) fn take(&mut self, path: &Path, owner: &str) -> Option<String> {
        let real = real_path(path);
        let file = std::fs::metadata(&real).ok().map(|found| {
            if found.file_type().is_block_device() {
                (u64::MAX, found.rdev())
            } else {
                (found.dev(), found.ino())
            }
        });
        let taken = self
            .by_path
            .get(&real)
            .or_else(|| file.and_then(|file| self.by_file.get(&file)));
        if let Some(other) = taken {
            return Some(other.clone());
        }
        if let Some(file) = file {
            self.by_file.insert(file, owner.to_owned());
        }
        self.by_path.insert(real, owner.to_owned());
        None
    }
}

/// The path with symbolic links resolved as far as it exists, and the rest appended without `.` and `..`.
pub(super) fn real_path(path: &Path) -> PathBuf {
    for ancestor in path.ancestors() {
        let Ok(mut real) = ancestor.canonicalize() else {
            continue;
        };
        let rest = path.strip_prefix(ancestor).unwrap_or(Path::new(""));
        for component in rest.components() {
            match component {
                Component::ParentDir => {
                    real.pop();
                }
                Component::Normal(name) => real.push(name),
                _ => {}
            }
        }
        return real;
    }
    path.to_owned()
}
