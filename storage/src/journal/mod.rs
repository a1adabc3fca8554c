//! The journal: a ring of segments filled with chunks, read back by point and recovered by search.
//!
//! `layout` is the arithmetic, `superblocks` the two copies of the superblock, `reader` one chunk or a run of
//! them, `recovery` the search for the head. Appending is in `store`, where positions and space are decided.

mod layout;
mod superblocks;
mod reader;
mod recovery;
mod scan;

use crate::device::Device;
use crate::error::StorageError;
use crate::limits::REWRITE_BYTES;
use farside_protocol::journal::limits::BLOCK_BYTES;
use farside_protocol::journal::{ChainPoint, Superblock, What};
use reader::{Found, Ring, point_before};
use std::io::IoSlice;
use std::sync::Arc;
use uuid::Uuid;

pub use layout::Layout;
pub use reader::{ChunkSpan, ReadError};
pub(crate) use reader::{continues, point_after};
pub use recovery::{Recovered, recover, scan_all};
pub use scan::{RingSurvey, Scan, ScannedChunk};
pub use superblocks::load_superblock;
pub(crate) use superblocks::load_superblock_for_use;
pub(crate) use superblocks::store_superblock;

/// An open journal: where it lies and how it is laid out. Holds no positions.
#[derive(Debug)]
pub(crate) struct Journal {
    pub(crate) device: Arc<dyn Device>,
    pub(crate) layout: Layout,
    pub(crate) journal: Uuid,
    pub(crate) volume: Uuid,
}

impl Journal {
    pub(crate) fn new(device: Arc<dyn Device>, superblock: &Superblock) -> Self {
        let layout = Layout::of(superblock);
        Self {
            device,
            layout,
            journal: superblock.journal,
            volume: superblock.volume,
        }
    }

    fn ring(&self) -> Ring<'_> {
        Ring {
            device: self.device.as_ref(),
            layout: self.layout,
            journal: self.journal,
            volume: self.volume,
        }
    }

    /// Chunks after `from` up to the address `limit`, as many whole ones as `max_bytes` hold.
    pub(crate) fn read_run(
        &self,
        from: &ChainPoint,
        limit: u64,
        max_bytes: usize,
        buffer: &mut Vec<u8>,
    ) -> Result<Vec<ChunkSpan>, StorageError> {
        self.ring().read_run(from, limit, max_bytes, buffer)
    }

    /// Erases a chunk that looks like the successor of `head` but is not: one whose payload was lost. Left there,
    /// it would stand in the way of the true successor if that one goes to the next segment.
    pub(crate) fn erase_false_successors(&self, head: &ChainPoint) -> Result<(), StorageError> {
        self.erase_found(head, &mut Box::new([0_u8; BLOCK_BYTES]))
    }

    fn erase_found(&self, head: &ChainPoint, block: &mut [u8; BLOCK_BYTES]) -> Result<(), StorageError> {
        for address in self.ring().candidates(head) {
            if let Found::Chunk(_) = self.ring().look(address, block)? {
                block.fill(0);
                self.device.write_at(
                    &mut [IoSlice::new(block.as_slice())],
                    self.layout.file_offset(address),
                )?;
            }
        }
        Ok(())
    }

    /// Erases every chunk of the chain after `head`, so that none of them is ever taken for one that is written there later.
    pub(crate) fn erase_successors(&self, head: &ChainPoint) -> Result<(), StorageError> {
        let mut block = Box::new([0_u8; BLOCK_BYTES]);
        let limit = head.address.saturating_add(self.layout.ring_bytes());
        let (mut at, mut found) = (*head, Vec::new());
        while let Some((address, _, after)) = self.next_chunk(&at, limit, &mut block)? {
            found.push(address);
            at = after;
        }
        block.fill(0);
        for address in found {
            let offset = self.layout.file_offset(address);
            self.device
                .write_at(&mut [IoSlice::new(block.as_slice())], offset)?;
        }
        self.erase_found(head, &mut block)
    }

    /// Writes what may not be durable before `head` once more, as it was read. `durable` is known to be.
    ///
    /// After a sync that failed, the operating system may give from its cache what it will never write again, and
    /// report success for the next sync: only what is written anew is covered by that one.
    pub(crate) fn rewrite(&self, durable: &ChainPoint, head: &ChainPoint) -> Result<(), StorageError> {
        let layout = &self.layout;
        let first = layout
            .segment_of(head.address)
            .saturating_sub(layout.window_segments + 1);
        let mut point = *durable;
        if first > layout.segment_of(durable.address) {
            let mut block = Box::new([0_u8; BLOCK_BYTES]);
            point = self.segment_point(first, &mut block)?.unwrap_or(point);
        }
        let mut buffer = Vec::new();
        while point.address < head.address {
            let spans = self.read_run(&point, head.address, REWRITE_BYTES, &mut buffer)?;
            let (Some(start), Some(last)) = (spans.first().map(|span| span.address), spans.last()) else {
                break;
            };
            let length = usize::try_from(last.after.address - start).unwrap_or(usize::MAX);
            let bytes = buffer.get(..length).unwrap_or_default();
            self.device
                .write_at(&mut [IoSlice::new(bytes)], layout.file_offset(start))?;
            point = last.after;
        }
        Ok(())
    }

    /// Walks the chain after `from`, calling `visit` with each chunk's meta-data, until `limit` is reached.
    pub(crate) fn walk(
        &self,
        from: ChainPoint,
        limit: u64,
        mut visit: impl FnMut(u64, &What<'_>),
    ) -> Result<ChainPoint, StorageError> {
        let mut block = Box::new([0_u8; BLOCK_BYTES]);
        let mut point = from;
        while point.address < limit {
            let Some((next, _)) = self.ring().next_after(&point, &mut block)? else {
                break;
            };
            if let Ok(what) = What::decode(block.as_slice()) {
                visit(next.address - what.stored_bytes(), &what);
            }
            point = next;
        }
        Ok(point)
    }

    /// The chunk after `from`, if there is one before the address `limit`: its address, its meta-data, the point after it.
    pub(crate) fn next_chunk<'b>(
        &self,
        from: &ChainPoint,
        limit: u64,
        block: &'b mut [u8; BLOCK_BYTES],
    ) -> Result<Option<(u64, What<'b>, ChainPoint)>, StorageError> {
        if from.address >= limit {
            return Ok(None);
        }
        let Some((after, place)) = self.ring().next_after(from, block)? else {
            return Ok(None);
        };
        Ok(What::decode(block.as_slice())
            .ok()
            .map(|what| (place.address, what, after)))
    }

    /// Puts the payloads of the chunk at an address into `data`. False: there is none there, or they are damaged.
    pub(crate) fn read_payloads(&self, address: u64, data: &mut Vec<u8>) -> Result<bool, StorageError> {
        let mut block = Box::new([0_u8; BLOCK_BYTES]);
        if !matches!(self.ring().look(address, &mut block)?, Found::Chunk(_)) {
            return Ok(false);
        }
        let Ok(what) = What::decode(block.as_slice()) else {
            return Ok(false);
        };
        data.resize(what.data_bytes as usize, 0);
        let offset = self.layout.file_offset(address) + BLOCK_BYTES as u64;
        self.device.read_at(data, offset)?;
        Ok(what.data_is_intact(data))
    }

    /// The point just after the chunk whose last record is `record`, between two points of the chain.
    pub(crate) fn locate(
        &self,
        record: u64,
        tail: &ChainPoint,
        head: &ChainPoint,
    ) -> Result<Option<ChainPoint>, StorageError> {
        if record == head.record {
            return Ok(Some(*head));
        }
        if record < tail.record || record > head.record {
            return Ok(None);
        }
        let mut point = self.segment_before(record, tail, head)?;
        let mut block = Box::new([0_u8; BLOCK_BYTES]);
        while point.record < record {
            let Some((next, _)) = self.ring().next_after(&point, &mut block)? else {
                return Ok(None);
            };
            point = next;
        }
        Ok((point.record == record).then_some(point))
    }

    /// The last segment start whose first record is not after `record + 1`, by binary search.
    fn segment_before(
        &self,
        record: u64,
        tail: &ChainPoint,
        head: &ChainPoint,
    ) -> Result<ChainPoint, StorageError> {
        let mut block = Box::new([0_u8; BLOCK_BYTES]);
        let (mut low, mut high) = (
            self.layout.segment_of(tail.address),
            self.layout.segment_of(head.address),
        );
        let mut best = *tail;
        while low < high {
            let middle = low + (high - low).div_ceil(2);
            match self.segment_point(middle, &mut block)? {
                Some(point) if point.record < record => {
                    (best, low) = (point, middle);
                }
                _ => high = middle - 1,
            }
        }
        Ok(best)
    }

    fn segment_point(
        &self,
        segment: u64,
        block: &mut [u8; BLOCK_BYTES],
    ) -> Result<Option<ChainPoint>, StorageError> {
        let address = self.layout.segment_start(segment);
        if !matches!(self.ring().look(address, block)?, Found::Chunk(_)) {
            return Ok(None);
        }
        Ok(What::decode(block).ok().map(|what| point_before(&what, address)))
    }
}
