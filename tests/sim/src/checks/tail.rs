//! The tail moves only when no crash can bring the old one back: a chunk never takes the place of one that the newest
//! superblock which is sure to survive still counts as in use.
//!
//! A crash that brings an old tail back does harm only if records behind it are needed again, which takes several
//! misfortunes at once. That the place was given away too early is seen here, at every chunk.

use crate::platter::{Platter, index};
use farside_protocol::journal::limits::{BLOCK_BYTES, BLOCK_BYTES_U64, SUPERBLOCK_OFFSETS};
use farside_protocol::journal::{Place, Superblock, What};
use parking_lot::Mutex;

/// What the superblocks of one journal say of its tail, from the bytes on its disk.
#[derive(Debug, Default)]
pub struct DurableTail(Mutex<Known>);

#[derive(Debug, Default)]
struct Known {
    /// A superblock was written since the last look.
    is_stale: bool,
    tail: u64,
    /// 0 before the first look.
    ring_bytes: u64,
}

impl DurableTail {
    /// These bytes were written to the journal's disk.
    ///
    /// # Panics
    /// When they are a chunk in a place that is not free.
    pub fn wrote(&self, offset: u64, bytes: &[u8], chunk: Option<&What<'_>>) {
        let mut known = self.0.lock();
        known.is_stale |= SUPERBLOCK_OFFSETS.contains(&offset);
        let (Some(what), Ok(place)) = (chunk, Place::decode(bytes)) else {
            return;
        };
        let end = place.address + what.stored_bytes();
        assert!(
            known.ring_bytes == 0 || end <= known.tail + known.ring_bytes,
            "chunk {} overwrites the ring from {} on; the superblock that is sure to survive keeps it from {} on",
            place.sequence,
            end - known.ring_bytes,
            known.tail
        );
    }

    /// The disk was exchanged for a copy of itself: what was known of its superblocks is not true any more.
    pub fn forget(&self) {
        *self.0.lock() = Known::default();
    }

    /// A sync of the journal's disk succeeded.
    pub fn synced(&self, platter: &Platter) {
        let mut known = self.0.lock();
        if !std::mem::take(&mut known.is_stale) {
            return;
        }
        // One that was written once more meanwhile may be lost; then the other one counts.
        known.is_stale = SUPERBLOCK_OFFSETS
            .iter()
            .any(|offset| !is_durable(platter, *offset));
        let newest = SUPERBLOCK_OFFSETS
            .into_iter()
            .filter(|offset| is_durable(platter, *offset))
            .filter_map(|offset| superblock_at(platter, offset))
            .max_by_key(|superblock| superblock.generation);
        if let Some(newest) = newest {
            known.tail = newest.tail.address;
            known.ring_bytes = u64::from(newest.segment_bytes) * u64::from(newest.segment_count);
        }
    }
}

fn is_durable(platter: &Platter, offset: u64) -> bool {
    platter.is_durable(offset..offset + BLOCK_BYTES_U64)
}

fn superblock_at(platter: &Platter, offset: u64) -> Option<Superblock> {
    let mut block = [0; BLOCK_BYTES];
    platter.content.lock().read(index(offset), &mut block);
    Superblock::decode(&block).ok()
}
