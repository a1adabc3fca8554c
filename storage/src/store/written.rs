//! Which parts of an image wait for its disk, coarsely, so that they can be brought there a little at a time.
//!
//! One bit stands for 64 KiB or, with large volumes, for more, as in a dirty-block map: 2 MiB of memory at most, twice
//! while parts are under way. It is a help and not a record: what is durable is decided by the sync that follows.

use crate::block_map::block_bytes_for;
use crate::limits::PART_MIN_BYTES;
use fixedbitset::{FixedBitSet, IntoOnes};
use std::iter::Peekable;
use std::ops::Range;

/// The parts of an image that were written since they were last taken.
#[derive(Debug)]
pub(super) struct Written {
    block_bytes: u64,
    blocks: FixedBitSet,
}

impl Written {
    pub(super) fn new(volume_bytes: u64) -> Self {
        let block_bytes = block_bytes_for(volume_bytes).max(PART_MIN_BYTES);
        let count = usize::try_from(volume_bytes.div_ceil(block_bytes)).unwrap_or(0);
        Self {
            block_bytes,
            blocks: FixedBitSet::with_capacity(count),
        }
    }

    /// The volume has become larger.
    pub(super) fn grow(&mut self, volume_bytes: u64) {
        let mut larger = Self::new(volume_bytes);
        let mut parts = self.take();
        while let Some(part) = parts.next(u64::MAX / 2) {
            larger.mark(&part);
        }
        *self = larger;
    }

    /// Notes that `range` was written: not empty, and within the volume.
    pub(super) fn mark(&mut self, range: &Range<u64>) {
        let block = |offset: u64| usize::try_from(offset / self.block_bytes).unwrap_or(usize::MAX);
        self.blocks
            .insert_range(block(range.start)..block(range.end - 1) + 1);
    }

    /// All parts, of which none is left behind.
    pub(super) fn take(&mut self) -> Parts {
        let empty = FixedBitSet::with_capacity(self.blocks.len());
        Parts {
            block_bytes: self.block_bytes,
            blocks: std::mem::replace(&mut self.blocks, empty).into_ones().peekable(),
        }
    }
}

/// Parts of an image in order of offset.
pub(super) struct Parts {
    block_bytes: u64,
    blocks: Peekable<IntoOnes>,
}

impl Parts {
    /// The next one: without a gap, and no longer than `most` bytes or one block.
    pub(super) fn next(&mut self, most: u64) -> Option<Range<u64>> {
        let first = self.blocks.next()? as u64;
        let mut end = first + 1;
        while (end - first + 1) * self.block_bytes <= most
            && self.blocks.next_if(|block| *block as u64 == end).is_some()
        {
            end += 1;
        }
        Some(first * self.block_bytes..end * self.block_bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::{MAX_VOLUME_BYTES, PART_MIN_BYTES as BLOCK};

    #[test]
    fn what_was_written_comes_back_in_parts_and_once() {
        let parts = |most| {
            let mut written = Written::new(10 * BLOCK + 1);
            written.mark(&(0..1));
            written.mark(&(2 * BLOCK - 1..5 * BLOCK));
            written.mark(&(10 * BLOCK..10 * BLOCK + 1));
            let mut taken = written.take();
            assert_eq!(written.take().next(most), None);
            std::iter::from_fn(move || taken.next(most))
                .map(|part| (part.start / BLOCK, part.end / BLOCK))
                .collect::<Vec<_>>()
        };
        assert_eq!(parts(u64::MAX / 2), [(0, 5), (10, 11)]);
        assert_eq!(parts(3 * BLOCK - 1), [(0, 2), (2, 4), (4, 5), (10, 11)]);
        assert_eq!(parts(0), [(0, 1), (1, 2), (2, 3), (3, 4), (4, 5), (10, 11)]);
    }

    #[test]
    fn what_waits_is_known_when_the_volume_has_become_larger() {
        let mut written = Written::new(2 * BLOCK);
        written.mark(&(BLOCK..BLOCK + 1));
        written.grow(3 * BLOCK);
        written.mark(&(2 * BLOCK..3 * BLOCK));
        assert_eq!(written.take().next(u64::MAX / 2), Some(BLOCK..3 * BLOCK));
        written.mark(&(BLOCK..BLOCK + 1));
        written.grow(MAX_VOLUME_BYTES);
        let coarse = block_bytes_for(MAX_VOLUME_BYTES);
        assert_eq!(written.take().next(0), Some(0..coarse));
    }

    #[test]
    fn the_largest_volume_takes_two_mebibytes() {
        assert!(Written::new(MAX_VOLUME_BYTES).blocks.len() <= 16 << 20);
    }
}
