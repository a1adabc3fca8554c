//! Larger volumes: the files of a store and the store itself, while it is used.

use crate::FileDevice;
use crate::block_map::BlockMap;
use crate::device::{Device, Kind};
use crate::error::{Operation, StorageError};
use crate::files::{StoreFiles, check_device_size, create_file, map_path, open_device};
use crate::limits::MAX_VOLUME_BYTES;
use crate::small_file::sync_directory;
use crate::store::Store;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Makes a volume or a replica larger; what is new reads as zeroes. It may be in use. Blocks: on a block device as long as
/// writing the zeroes takes.
///
/// # Errors
/// [`StorageError`] that names the file and the remedy: the volume has its old size.
pub fn grow_store(store: &Store, files: &StoreFiles, volume_bytes: u64) -> Result<(), StorageError> {
    let old = store.volume_bytes();
    if volume_bytes == old {
        return Ok(());
    }
    check_growth(files, old, volume_bytes)?;
    grow_image(&files.image, old, volume_bytes)?;
    let header = BlockMap::header_for(store.superblock().volume, volume_bytes);
    let new_path = |consumer: &str| {
        let mut path = map_path(files, store.name(), consumer).into_os_string();
        path.push(".new");
        PathBuf::from(path)
    };
    let mut made = Vec::new();
    let new_map = |consumer: &str| {
        let path = new_path(consumer);
        // What an attempt before this one left.
        let _ = std::fs::remove_file(&path);
        let file = FileDevice::new(create_file(&path)?, &path)?;
        set_size(&file, BlockMap::file_bytes(&header))?;
        Ok(Arc::new(file) as Arc<dyn Device>)
    };
    for consumer in &store.superblock().consumers {
        made.push(consumer.name.clone());
    }
    store.adopt_larger_image(volume_bytes, new_map)?;
    // A start that finds an old map with the new size takes it for one that says nothing, and the consumer for one that needs
    // everything: dear, and right.
    for consumer in &made {
        let (from, to) = (new_path(consumer), map_path(files, store.name(), consumer));
        let renamed = std::fs::rename(&from, &to);
        renamed.map_err(|error| StorageError::io(Operation::Open, &to.display().to_string(), 0, error))?;
    }
    sync_directory(&files.maps)
}

/// Whether a volume of `old` bytes can become one of `volume_bytes`; changes nothing.
///
/// # Errors
/// [`StorageError`] that names the file and the remedy.
pub fn check_growth(files: &StoreFiles, old: u64, volume_bytes: u64) -> Result<(), StorageError> {
    let name = files.image.display().to_string();
    if volume_bytes < old {
        let text = format!("has {old} bytes and cannot become smaller ({volume_bytes}); set the size back");
        return Err(StorageError::refused(&name, text));
    }
    if volume_bytes > MAX_VOLUME_BYTES {
        let text = format!("a volume of {volume_bytes} bytes; use up to {MAX_VOLUME_BYTES}");
        return Err(StorageError::refused(&name, text));
    }
    let image = open_device(&files.image, false)?;
    match image.kind() {
        Kind::File => Ok(()),
        Kind::BlockDevice => check_device_size(&image, volume_bytes),
    }
}

fn grow_image(path: &Path, old: u64, volume_bytes: u64) -> Result<(), StorageError> {
    let image = open_device(path, true)?;
    match image.kind() {
        Kind::File => {
            set_size(&image, volume_bytes)?;
            image.sync_with_attributes()
        }
        Kind::BlockDevice => {
            check_device_size(&image, volume_bytes)?;
            image.zero_at(old, volume_bytes - old, true)?;
            image.sync()
        }
    }
}

fn set_size(file: &FileDevice, bytes: u64) -> Result<(), StorageError> {
    let sized = file.file().set_len(bytes);
    sized.map_err(|error| StorageError::io(Operation::Allocate, file.name(), bytes, error))
}
