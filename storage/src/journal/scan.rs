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

/// What stands at the starts of the ring's segments, whether still needed or not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct RingSurvey {
    /// Segments that begin with a chunk of this journal.
    pub with_chunks: u64,
    /// Segments that begin with zeroes.
    pub empty: u64,
    /// Segments that begin with anything else.
    pub unknown: u64,
    /// Lowest sequence of a chunk that was seen.
    pub oldest: Option<u64>,
    /// Highest sequence of a chunk that was seen.
    pub newest: Option<u64>,
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

    /// Reads the superblock again, for a journal in use. True: the tail has passed the point, and the scan goes on
    /// from there.
    ///
    /// # Errors
    /// [`StorageError`] when there is no readable superblock any more.
    pub fn catch_up(&mut self) -> Result<bool, StorageError> {
        self.superblock = load_superblock(self.journal.device.as_ref())?;
        let passed = self.superblock.tail.address > self.point.address;
        if passed {
            self.point = self.superblock.tail;
        }
        Ok(passed)
    }

    /// Looks at the start of every segment.
    ///
    /// # Errors
    /// [`StorageError::Io`].
    pub fn survey(&self) -> Result<RingSurvey, StorageError> {
        let (layout, ring) = (self.journal.layout, self.ring());
        let (mut block, mut survey) = (Box::new([0_u8; BLOCK_BYTES]), RingSurvey::default());
        for segment in 0..layout.segment_count {
            let offset = layout.file_offset(layout.segment_start(segment));
            self.journal.device.read_at(block.as_mut_slice(), offset)?;
            let address = Place::decode(block.as_slice()).map_or(0, |place| place.address);
            match ring.judge(block.as_slice(), address) {
                Ok((what, _)) if layout.file_offset(address) == offset => {
                    let sequence = what.header.sequence;
                    survey.with_chunks += 1;
                    survey.oldest = Some(survey.oldest.map_or(sequence, |oldest| oldest.min(sequence)));
                    survey.newest = survey.newest.max(Some(sequence));
                }
                _ if block.iter().all(|byte| *byte == 0) => survey.empty += 1,
                _ => survey.unknown += 1,
            }
        }
        Ok(survey)
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
