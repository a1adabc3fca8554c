//! Small files that are replaced whole: after a crash the old or the new content is there, never a mixture.

use crate::error::{Operation, StorageError};
use crate::limits::SMALL_FILE_BYTES;
use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

/// Replaces `path` by `content`, durably: new file, sync, rename, sync of the directory.
///
/// # Errors
/// [`StorageError::Io`]; the old content stands.
pub fn replace_file(path: &Path, content: &[u8]) -> Result<(), StorageError> {
    let name = path.display().to_string();
    let mut new = path.as_os_str().to_owned();
    new.push(".new");
    let new = Path::new(&new);
    let written = write_new(new, content).and_then(|()| std::fs::rename(new, path));
    written.map_err(|error| StorageError::io(Operation::Write, &name, 0, error))?;
    sync_directory(path.parent().unwrap_or(Path::new(".")))
}

#[expect(clippy::disallowed_methods, reason = "one of the two doors to file syncs")]
fn write_new(path: &Path, content: &[u8]) -> std::io::Result<()> {
    let mut file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(path)?;
    file.write_all(content)?;
    file.sync_all()
}

/// Makes the entries of a directory durable.
///
/// # Errors
/// [`StorageError::Io`].
#[expect(clippy::disallowed_methods, reason = "one of the two doors to file syncs")]
pub fn sync_directory(path: &Path) -> Result<(), StorageError> {
    let path = if path.as_os_str().is_empty() {
        Path::new(".")
    } else {
        path
    };
    let synced = File::open(path).and_then(|directory| directory.sync_all());
    synced.map_err(|error| StorageError::io(Operation::Sync, &path.display().to_string(), 0, error))
}

/// The whole content of a small file; `None` when there is none.
///
/// # Errors
/// [`StorageError`], also when it is too large to be a small file.
pub fn read_small_file(path: &Path) -> Result<Option<Vec<u8>>, StorageError> {
    let name = path.display().to_string();
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(StorageError::io(Operation::Open, &name, 0, error)),
    };
    let mut content = Vec::new();
    let read = file.take(SMALL_FILE_BYTES + 1).read_to_end(&mut content);
    read.map_err(|error| StorageError::io(Operation::Read, &name, 0, error))?;
    if content.len() as u64 > SMALL_FILE_BYTES {
        return Err(StorageError::refused(
            &name,
            format!("is larger than {SMALL_FILE_BYTES} bytes"),
        ));
    }
    Ok(Some(content))
}

/// Removes a file, if there, durably.
///
/// # Errors
/// [`StorageError::Io`].
pub fn remove_file_durably(path: &Path) -> Result<(), StorageError> {
    match std::fs::remove_file(path) {
        Ok(()) => sync_directory(path.parent().unwrap_or(Path::new("."))),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(StorageError::io(
            Operation::Write,
            &path.display().to_string(),
            0,
            error,
        )),
    }
}
