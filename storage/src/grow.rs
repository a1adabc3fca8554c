//! Larger volumes: the files of a store and the store itself, while it is used.

use crate::FileDevice;
use crate::block_map::BlockMap;
use crate::device::Device;
use crate::error::{Operation, StorageError};
use crate::files::{
    StoreFiles, check_device_size, create_file, map_path, new_map_path, open_device, reserve,
};
use crate::limits::{MAX_VOLUME_BYTES, ZERO_STEP_BYTES};
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
    let made = make_room(store, old, volume_bytes).and_then(|()| growth.make_maps(store, files, old));
    if made.is_err() {
        growth.give_up();
        // The next start would do it as well.
        let _ = store.image().make_room(old);
    }
    made.map(|()| growth)
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
            // What an attempt before this one left.
            let _ = std::fs::remove_file(&path);
            let file = FileDevice::new(create_file(&path)?, &path)?;
            self.names.push((path, name));
            reserve(&file, BlockMap::file_bytes(&header))?;
            self.maps.push((slot.name.clone(), Arc::new(file)));
        }
        // Their names are durable before a superblock counts on them.
        sync_directory(&self.directory)
    }

    fn give_up(&self) {
        for (path, _) in &self.names {
            let _ = std::fs::remove_file(path);
        }
    }

    /// Takes the new size over; takes no longer than a checkpoint.
    ///
    /// # Errors
    /// As [`grow_store`].
    pub fn carry_out(self, store: &Store) -> Result<(), StorageError> {
        let old = store.volume_bytes();
        if old == self.volume_bytes {
            return Ok(());
        }
        store.grow(self.volume_bytes, &self.maps).inspect_err(|_| {
            if store.failure().is_none() {
                self.give_up();
                let _ = store.image().make_room(old);
            }
        })?;
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

/// Whether a volume of `old` bytes that is not open can become one of `volume_bytes`; changes nothing.
///
/// # Errors
/// [`StorageError`] that names the file and the remedy.
pub fn check_growth(files: &StoreFiles, old: u64, volume_bytes: u64) -> Result<(), StorageError> {
    check_sizes(&files.image, old, volume_bytes)?;
    let image = open_device(&files.image, false)?;
    match image.kind() {
        crate::DeviceKind::File => Ok(()),
        crate::DeviceKind::BlockDevice => check_device_size(&image, volume_bytes),
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

/// The image has its new size, and reads as zeroes there.
fn make_room(store: &Store, old: u64, volume_bytes: u64) -> Result<(), StorageError> {
    let image = store.image();
    if image.make_room(volume_bytes)? {
        return Ok(());
    }
    // The kernel holds up everything else on a device while it zeroes a part of it.
    let mut at = old;
    while at < volume_bytes {
        if store.is_closed() {
            return Err(StorageError::refused(
                store.name(),
                "was shut down before it had grown",
            ));
        }
        let step = ZERO_STEP_BYTES.min(volume_bytes - at);
        image.zero_at(at, step, true)?;
        at += step;
    }
    image.sync()
}
