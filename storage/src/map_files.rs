//! The files of dirty-block maps: where they are, opened, made for a larger volume, removed.

use crate::block_map::BlockMap;
use crate::device::{Device, FileDevice};
use crate::error::{Operation, StorageError};
use crate::files::{StoreFiles, create_file, open_device};
use crate::small_file::{remove_file_durably, sync_directory};
use farside_protocol::journal::limits::{BLOCK_BYTES, BLOCK_BYTES_U64};
use farside_protocol::journal::{BlockMapHeader, FormatError, Superblock};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The dirty-block map of a consumer. It carries the volume's name, because volumes may share the directory;
/// names have no `@`.
pub(crate) fn map_path(files: &StoreFiles, volume: &str, consumer: &str) -> PathBuf {
    files.maps.join(format!("dirty-{volume}@{consumer}.map"))
}

/// Where the map for a larger volume is made.
pub(crate) fn new_map_path(files: &StoreFiles, volume: &str, consumer: &str) -> PathBuf {
    files.maps.join(format!("dirty-{volume}@{consumer}.map.new"))
}

/// Removes the dirty-block map of a consumer that is forgotten.
///
/// # Errors
/// [`StorageError::Io`].
pub fn remove_map(files: &StoreFiles, volume: &str, consumer: &str) -> Result<(), StorageError> {
    remove_file_durably(&new_map_path(files, volume, consumer))?;
    remove_file_durably(&map_path(files, volume, consumer))
}

/// Removes the dirty-block maps of all consumers that a volume ever had.
///
/// # Errors
/// [`StorageError::Io`].
pub fn remove_maps(files: &StoreFiles, volume: &str) -> Result<(), StorageError> {
    let failed = |error| StorageError::io(Operation::Read, &files.maps.display().to_string(), 0, error);
    let prefix = format!("dirty-{volume}@");
    let entries = match std::fs::read_dir(&files.maps) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        entries => entries.map_err(failed)?,
    };
    for entry in entries {
        let name = entry.map_err(failed)?.file_name();
        let name = name.to_string_lossy();
        let consumer = name.strip_prefix(&prefix).and_then(|rest| {
            rest.strip_suffix(".map")
                .or_else(|| rest.strip_suffix(".map.new"))
        });
        if let Some(consumer) = consumer {
            remove_map(files, volume, consumer)?;
        }
    }
    Ok(())
}

/// Opens, or creates, the dirty-block map of a consumer.
///
/// # Errors
/// [`StorageError`], also when something else is there.
pub fn open_map(
    files: &StoreFiles,
    consumer: &str,
    superblock: &Superblock,
) -> Result<Arc<dyn Device>, StorageError> {
    let path = map_path(files, &superblock.name, consumer);
    let header = BlockMap::header_for(superblock.volume, superblock.volume_bytes);
    settle_new_map(&new_map_path(files, &superblock.name, consumer), &path, &header)?;
    let file = FileDevice::new(create_file(&path)?, &path)?;
    refuse_foreign_map(&file)?;
    // A longer one is a larger volume's: a growth that a loss of power took back. Its trail is at its end, and still true.
    let bytes = BlockMap::file_bytes(&header).max(file.size_bytes()?);
    let sized = file.file().set_len(bytes);
    sized
        .map_err(|error| StorageError::io(Operation::Allocate, &path.display().to_string(), bytes, error))?;
    Ok(Arc::new(file))
}

/// A map that was made for a growth is in force if the growth is, and of no use otherwise.
pub(crate) fn settle_new_map(new: &Path, path: &Path, header: &BlockMapHeader) -> Result<(), StorageError> {
    if !new.exists() {
        return Ok(());
    }
    let file = open_device(new, false)?;
    let mut start = [0; BLOCK_BYTES];
    let length = usize::try_from(file.size_bytes()?.min(BLOCK_BYTES_U64)).unwrap_or(BLOCK_BYTES);
    file.read_at(&mut start[..length], 0)?;
    if BlockMapHeader::decode(&start).ok().as_ref() != Some(header) {
        return remove_file_durably(new);
    }
    let renamed = std::fs::rename(new, path);
    renamed.map_err(|error| StorageError::io(Operation::Open, &path.display().to_string(), 0, error))?;
    sync_directory(path.parent().unwrap_or(Path::new(".")))
}

/// A map that is damaged or of another volume is made anew, but only a map.
fn refuse_foreign_map(file: &FileDevice) -> Result<(), StorageError> {
    let size = file.size_bytes()?;
    let mut start = [0; BLOCK_BYTES];
    let length = usize::try_from(size.min(BLOCK_BYTES_U64)).unwrap_or(BLOCK_BYTES);
    file.read_at(&mut start[..length], 0)?;
    let zero = start.iter().all(|byte| *byte == 0);
    if zero
        || !matches!(
            BlockMapHeader::decode(&start),
            Err(FormatError::Magic | FormatError::Version(..))
        )
    {
        return Ok(());
    }
    let text = "is no dirty-block map that this version knows; move it away, and it is made anew";
    Err(StorageError::refused(file.name(), text))
}
