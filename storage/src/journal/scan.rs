//! Reading a journal offline, chunk by chunk from its tail, for inspection. Changes nothing.

use super::reader::Ring;
use super::{Journal, load_superblock};
use crate::device::Device;
use crate::error::StorageError;
use farside_protocol::journal::limits::BLOCK_BYTES;
use farside_protocol::journal::{ChainPoint, Place, Superblock, What};
use std::sync::Arc;

/// A journal being read from its tail on.
#[derive(Debug)]
pub struct Scan {
    journal: Journal,
    superblock: Superblock,
    block: Box<[u8; BLOCK_BYTES]>,
    data: Vec<u8>,
    point: ChainPoint,
}

/// One chunk as it lies in the journal.
#[derive(Debug)]
pub struct ScannedChunk<'a> {
    /// Byte offset of its meta-data block in the file.
    pub file_offset: u64,
    /// What travels.
    pub what: What<'a>,
    /// Where it lies.
    pub place: Place,
    /// Whether every payload fits its checksum.
    pub intact: bool,
}

impl Scan {
    /// Begins at the tail that the superblock names.
    ///
    /// # Errors
    /// [`StorageError`] when there is no readable superblock.
    pub fn new(device: Arc<dyn Device>) -> Result<Self, StorageError> {
        let superblock = load_superblock(device.as_ref())?;
        let journal = Journal::new(device, &superblock);
        let point = superblock.tail;
        Ok(Self {
            journal,
            superblock,
            block: Box::new([0; BLOCK_BYTES]),
            data: Vec::new(),
            point,
        })
    }

    /// The superblock in force.
    #[must_use]
    pub fn superblock(&self) -> &Superblock {
        &self.superblock
    }

    /// The point after the last chunk returned.
    #[must_use]
    pub fn point(&self) -> ChainPoint {
        self.point
    }

    fn ring(&self) -> Ring<'_> {
        self.journal.ring()
    }

    /// The next chunk; `None` where the chain ends.
    ///
    /// # Errors
    /// [`StorageError::Io`].
    pub fn next_chunk(&mut self) -> Result<Option<ScannedChunk<'_>>, StorageError> {
        let mut block = std::mem::replace(&mut self.block, Box::new([0; BLOCK_BYTES]));
        let found = self.ring().next_after(&self.point, &mut block);
        self.block = block;
        let Some((after, place)) = found? else {
            return Ok(None);
        };
        let Ok(what) = What::decode(self.block.as_slice()) else {
            return Ok(None);
        };
        self.data.resize(what.data_bytes as usize, 0);
        let file_offset = self.journal.layout.file_offset(place.address);
        self.journal
            .device
            .read_at(&mut self.data, file_offset + BLOCK_BYTES as u64)?;
        self.point = after;
        let intact = what.data_is_intact(&self.data);
        Ok(Some(ScannedChunk {
            file_offset,
            what,
            place,
            intact,
        }))
    }

    /// Where the chain ends: the file offsets at which the next chunk could stand, and what is there instead.
    ///
    /// # Errors
    /// [`StorageError::Io`].
    pub fn end(&self) -> Result<Vec<(u64, String)>, StorageError> {
        let mut block = Box::new([0_u8; BLOCK_BYTES]);
        let mut ends = Vec::new();
        for address in self.ring().candidates(&self.point) {
            let found = self.ring().look(address, &mut block)?;
            let offset = self.journal.layout.file_offset(address);
            let empty = block.iter().all(|byte| *byte == 0);
            ends.push((
                offset,
                if empty {
                    "never written".to_owned()
                } else {
                    found.to_string()
                },
            ));
        }
        Ok(ends)
    }
}
