//! One unit per directory: a lock that the kernel drops with the process, however it dies.

use super::{UnitError, limits};
use rustix::fs::{FlockOperation, flock};
use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, Write};
use std::path::Path;

/// Holds the directory for as long as it lives.
#[derive(Debug)]
pub(super) struct DirectoryLock {
    _file: File,
}

impl DirectoryLock {
    /// Locks `directory`, which is made if it is not there.
    pub(super) fn take(directory: &Path) -> Result<Self, UnitError> {
        std::fs::create_dir_all(directory).map_err(|error| UnitError::file(directory, "made", error))?;
        let path = directory.join("farside.lock");
        let failed = |error: std::io::Error| UnitError::file(&path, "locked", error);
        let options = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path);
        let mut file = options.map_err(failed)?;
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => {
                return Err(UnitError::InUse {
                    directory: directory.to_owned(),
                    process: holder(&file),
                });
            }
            Err(error) => return Err(failed(error.into())),
        }
        // The number is for people only; the lock itself is what counts.
        let number = std::process::id();
        file.set_len(0)
            .and_then(|()| file.rewind())
            .and_then(|()| writeln!(file, "{number}"))
            .map_err(failed)?;
        Ok(Self { _file: file })
    }
}

fn holder(file: &File) -> Option<String> {
    let mut text = String::new();
    file.take(limits::LOCK_TEXT_BYTES)
        .read_to_string(&mut text)
        .ok()?;
    let number = text.trim();
    (!number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit())).then(|| number.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn second_unit_on_one_directory_is_refused_and_names_the_first() {
        let directory = tempfile::tempdir().unwrap();
        let first = DirectoryLock::take(directory.path()).unwrap();
        let refusal = DirectoryLock::take(directory.path()).unwrap_err().to_string();
        assert!(
            refusal.contains(&format!("process {}", std::process::id())),
            "{refusal}"
        );
        drop(first);
        DirectoryLock::take(directory.path()).unwrap();
    }
}
