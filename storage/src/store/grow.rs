//! A volume that becomes larger while it is used.
//!
//! Order: the image has its new size, with zeroes there, before a superblock says so; the maps for the new size are durable before
//! that, too; and both superblocks say so before any record lies beyond the old end. So whichever superblock a crash leaves,
//! every record fits the volume it describes, and there are maps for it.

use super::Store;
use super::state::Consumer;
use crate::device::Device;
use crate::error::StorageError;
use crate::limits::ZERO_STEP_BYTES;
use std::sync::Arc;
use std::sync::atomic::Ordering;

fn device_for<'a>(maps: &'a [(String, Arc<dyn Device>)], consumer: &Consumer) -> Option<&'a Arc<dyn Device>> {
    let found = maps.iter().find(|(name, _)| *name == consumer.name);
    found.map(|(_, device)| device)
}

impl Store {
    /// Takes over the new size of an image that was made larger and reads as zeroes there. `maps` are for consumers whose maps have another geometry then;
    /// when this returns they hold them durably, and go on in place of the old ones.
    ///
    /// # Errors
    /// [`StorageError`]: nothing was changed, unless the store has [failed](Self::failure), which leaves either size.
    pub fn grow(&self, volume_bytes: u64, maps: &[(String, Arc<dyn Device>)]) -> Result<(), StorageError> {
        let mut drain = self.drain.lock();
        // No checkpoint meanwhile: the tail must not leave what only the old maps know.
        let mut superblock = self.superblock.lock();
        self.check_usable()?;
        if volume_bytes < superblock.volume_bytes {
            return Err(StorageError::refused(&self.name, "cannot become smaller"));
        }
        let images: Vec<_> = {
            let state = self.state.lock();
            let grown = |consumer| {
                let device = Arc::clone(device_for(maps, consumer)?);
                consumer.map.grown(device, volume_bytes).take_changes()
            };
            state.consumers.iter().filter_map(grown).collect()
        };
        for image in images {
            image.persist()?;
        }
        superblock.volume_bytes = volume_bytes;
        // Each copy in turn.
        for _ in 0..2 {
            self.write_superblock(&mut superblock)?;
        }
        let mut state = self.state.lock();
        for consumer in &mut state.consumers {
            if let Some(device) = device_for(maps, consumer) {
                consumer.map = consumer.map.grown(Arc::clone(device), volume_bytes);
            }
        }
        drain.written.grow(volume_bytes);
        self.volume_bytes.store(volume_bytes, Ordering::Release);
        Ok(())
    }

    /// Gives the image the size of a larger volume, durably, with zeroes there. Takes as long as writing them does; can be
    /// [given up](Self::give_up_growth).
    ///
    /// # Errors
    /// [`StorageError`]: the volume has its old size. A failed sync is final, as always: it may have been told of what was written
    /// before.
    pub fn make_room(&self, volume_bytes: u64) -> Result<(), StorageError> {
        self.check_usable()?;
        let mut at = self.volume_bytes();
        if !self.image.make_room(volume_bytes)? {
            // The kernel holds up everything else on a device while it zeroes a part of it.
            while at < volume_bytes {
                if self.growth_given_up.load(Ordering::Acquire) {
                    let text = "was told to stop before it had grown; it grows at the next start";
                    return Err(StorageError::refused(&self.name, text));
                }
                let step = ZERO_STEP_BYTES.min(volume_bytes - at);
                self.image.zero_at(at, step, true)?;
                at += step;
            }
        }
        self.sync_image(|image| image.sync())
    }

    /// Takes back what [`make_room`](Self::make_room) did, if nothing can count on it.
    pub(crate) fn take_room_back(&self) {
        if self.failure().is_none() {
            // A start does it, too.
            let _ = self.image.make_room(self.volume_bytes());
        }
    }

    /// A growth that is under way ends without effect as soon as it can.
    pub fn give_up_growth(&self) {
        self.growth_given_up.store(true, Ordering::Release);
    }
}
