//! Larger volumes: the files of a store and the store itself, while it is used.

use crate::FileDevice;
use crate::block_map::BlockMap;
use crate::device::Device;
use crate::error::{Operation, StorageError};
use crate::files::{StoreFiles, create_file, reserve};
use crate::limits::MAX_VOLUME_BYTES;
use crate::map_files::{map_path, new_map_path, settle_new_map};
use crate::small_file::sync_directory;
use crate::store::Store;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// A growth of which everything is there that can fail, or take long: the longer image, and room for its maps.
#[derive(Debug)]
pub struct Growth {
    volume_bytes: u64,
    directory: PathBuf,
    /// Consumers, the devices for their maps, and the names that those are to get.
    maps: Vec<(String, Arc<dyn Device>)>,
    names: Vec<(PathBuf, PathBuf)>,
}

/// Makes a volume or a replica larger; what is new reads as zeroes. It may be in use. Blocks: on a block device as long as
/// writing the zeroes takes.
///
/// # Errors
/// [`StorageError`] that names the file and the remedy: the volume has its old size, unless the store has
/// [failed](Store::failure), which leaves either.
pub fn grow_store(store: &Store, files: &StoreFiles, volume_bytes: u64) -> Result<(), StorageError> {
    prepare_growth(store, files, volume_bytes)?.carry_out(store)
}

/// The part of [`grow_store`] that may take long.
///
/// # Errors
/// [`StorageError`] that names the file and the remedy: the volume has its old size.
pub fn prepare_growth(store: &Store, files: &StoreFiles, volume_bytes: u64) -> Result<Growth, StorageError> {
    let old = store.volume_bytes();
    check_sizes(&files.image, old, volume_bytes)?;
    let mut growth = Growth {
        volume_bytes,
        directory: files.maps.clone(),
        maps: Vec::new(),
        names: Vec::new(),
    };
    if volume_bytes == old {
        return Ok(growth);
    }
    // One that has failed may have the new size on its disk, and need what an attempt before this one made.
    store.make_room(volume_bytes)?;
    if let Err(error) = growth.make_maps(store, files, old) {
        growth.give_up(store);
        return Err(error);
    }
    Ok(growth)
}

impl Growth {
    fn make_maps(&mut self, store: &Store, files: &StoreFiles, old: u64) -> Result<(), StorageError> {
        let superblock = store.superblock();
        let header = BlockMap::header_for(superblock.volume, self.volume_bytes);
        if header == BlockMap::header_for(superblock.volume, old) {
            return Ok(());
        }
        for slot in &superblock.consumers {
            let (path, name) = (
                new_map_path(files, store.name(), &slot.name),
                map_path(files, store.name(), &slot.name),
            );
            // What an attempt before this one left; or a map in force that has not got its name yet.
            settle_new_map(&path, &name, &BlockMap::header_for(superblock.volume, old))?;
            let file = FileDevice::new(create_file(&path)?, &path)?;
            self.names.push((path, name));
            reserve(&file, BlockMap::file_bytes(&header))?;
            self.maps.push((slot.name.clone(), Arc::new(file)));
        }
        // Their names are durable before a superblock counts on them.
        sync_directory(&self.directory)
    }

    fn give_up(&self, store: &Store) {
        if store.failure().is_none() {
            for (path, _) in &self.names {
                let _ = std::fs::remove_file(path);
            }
            store.take_room_back();
        }
    }

    /// Takes the new size over; takes no longer than a checkpoint.
    ///
    /// # Errors
    /// As [`grow_store`].
    pub fn carry_out(self, store: &Store) -> Result<(), StorageError> {
        if store.volume_bytes() == self.volume_bytes {
            return Ok(());
        }
        store
            .grow(self.volume_bytes, &self.maps)
            .inspect_err(|_| self.give_up(store))?;
        if let Err(error) = self.rename_maps() {
            tracing::warn!(volume = store.name(), "{error}; the next start does it again");
        }
        Ok(())
    }

    /// Gives the maps their names, as a start does with those that have not got them.
    fn rename_maps(&self) -> Result<(), StorageError> {
        for (path, name) in &self.names {
            std::fs::rename(path, name)
                .map_err(|error| StorageError::io(Operation::Open, &name.display().to_string(), 0, error))?;
        }
        sync_directory(&self.directory)
    }
}

fn check_sizes(image: &Path, old: u64, volume_bytes: u64) -> Result<(), StorageError> {
    let refuse = |text| Err(StorageError::refused(&image.display().to_string(), text));
    if volume_bytes < old {
        return refuse(format!(
            "has {old} bytes and cannot become smaller ({volume_bytes}); set the size back"
        ));
    }
    if volume_bytes > MAX_VOLUME_BYTES {
        return refuse(format!(
            "a volume of {volume_bytes} bytes; use up to {MAX_VOLUME_BYTES}"
        ));
    }
    Ok(())
}
