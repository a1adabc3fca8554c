//! A volume that becomes larger while it is used.
//!
//! Order: the image has its new size, with zeroes there, before a superblock says so, and both superblocks say so before any
//! record lies beyond the old end. So whichever superblock a crash leaves, every record fits the volume it describes.

use super::Store;
use crate::device::Device;
use crate::error::StorageError;
use std::sync::Arc;
use std::sync::atomic::Ordering;

impl Store {
    /// Takes over the new size of an image that was made larger. `map` makes the device for the dirty-block map of a consumer,
    /// empty and long enough; when this returns they hold the maps durably, and take the place of the old ones.
    ///
    /// # Errors
    /// [`StorageError`]: before anything was changed if it is not of the journal, of which a failure is final.
    pub(crate) fn adopt_larger_image(
        &self,
        volume_bytes: u64,
        map: impl Fn(&str) -> Result<Arc<dyn Device>, StorageError>,
    ) -> Result<(), StorageError> {
        self.check_usable()?;
        let names: Vec<String> = {
            let state = self.state.lock();
            state
                .consumers
                .iter()
                .map(|consumer| consumer.name.clone())
                .collect()
        };
        let maps = names
            .iter()
            .map(|name| map(name))
            .collect::<Result<Vec<_>, _>>()?;
        // Each copy in turn.
        for _ in 0..2 {
            self.persist(|superblock| superblock.volume_bytes = volume_bytes)?;
        }
        let mut drain = self.drain.lock();
        let mut state = self.state.lock();
        for (name, map) in names.iter().zip(maps) {
            let consumer = state.consumers.iter_mut().find(|consumer| consumer.name == *name);
            if let Some(consumer) = consumer {
                consumer.map.move_to(map, volume_bytes);
            }
        }
        drain.written.grow(volume_bytes);
        self.volume_bytes.store(volume_bytes, Ordering::Release);
        drop((state, drain));
        self.checkpoint()
    }
}
