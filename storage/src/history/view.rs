//! Reading the image as it was at a moment, while it goes on being written.
//!
//! First the image is read, then the ring is asked what of that was overwritten since the moment: whoever overwrites says
//! so before, so nothing newer than the moment is left in the answer, whatever happened between the two steps.

use super::index::{Hit, ZEROES};
use super::{History, Moment, Pin};
use crate::device::Device;
use crate::error::StorageError;
use std::sync::Arc;

/// The image as it was at one moment.
#[derive(Debug)]
pub struct View {
    image: Arc<dyn Device>,
    pin: Pin,
    bytes: u64,
}

impl View {
    pub(crate) fn new(image: Arc<dyn Device>, pin: Pin, bytes: u64) -> Self {
        Self { image, pin, bytes }
    }

    /// The moment.
    #[must_use]
    pub fn moment(&self) -> &Moment {
        self.pin.moment()
    }

    /// Size of the disk, which is that of now; what was added since reads as zeroes.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Fills `buffer` with what stood at `offset`. Blocks.
    ///
    /// # Errors
    /// [`StorageError`] of image or ring; also when the moment has left the ring.
    pub fn read(&self, offset: u64, buffer: &mut [u8]) -> Result<(), StorageError> {
        let filled = self.fill(offset, buffer);
        // What was found may have been dropped meanwhile, and what was dropped not have been found.
        if self.pin.holds() {
            return filled;
        }
        let text = format!(
            "no longer holds the state after record {}: it was full; a larger history keeps more",
            self.moment().record
        );
        Err(StorageError::refused(
            self.pin.history.journal.device.name(),
            text,
        ))
    }

    fn fill(&self, offset: u64, buffer: &mut [u8]) -> Result<(), StorageError> {
        let (end, history) = (offset + buffer.len() as u64, &self.pin.history);
        self.image.read_at(buffer, offset)?;
        let hits = history.index.lock().find(offset..end, self.moment().serial);
        let mut scratch = Vec::new();
        for hit in hits {
            let index = |at: u64| usize::try_from(at - offset).unwrap_or(usize::MAX);
            let target = &mut buffer[index(hit.wanted.start)..index(hit.wanted.end)];
            if hit.entry.place == ZEROES {
                target.fill(0);
            } else {
                history.read_entry(&hit, &mut scratch, target)?;
            }
        }
        Ok(())
    }
}

impl History {
    /// The wanted part of a before-image, whose checksum is compared first.
    fn read_entry(&self, hit: &Hit, scratch: &mut Vec<u8>, target: &mut [u8]) -> Result<(), StorageError> {
        let layout = &self.journal.layout;
        let address = layout.segment_start(hit.segment) + u64::from(hit.entry.place);
        let offset = layout.file_offset(address);
        scratch.resize(hit.entry.length as usize, 0);
        self.journal.device.read_at(scratch, offset)?;
        if crc32c::crc32c(scratch) != hit.entry.checksum {
            let text = format!(
                "what stood at byte {} of the volume is damaged here",
                hit.entry.offset
            );
            return Err(StorageError::damaged(self.journal.device.name(), offset, text));
        }
        let from = usize::try_from(hit.wanted.start - hit.entry.offset).unwrap_or(usize::MAX);
        target.copy_from_slice(&scratch[from..from + target.len()]);
        Ok(())
    }
}
