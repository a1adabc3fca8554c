//! Arithmetic of the ring: addresses grow for ever, files do not.
//!
//! Pure. An address counts the bytes of the ring since its creation, laps included; its remainder by the ring
//! size is the place in the file. A chunk never crosses a segment: what is left of one is skipped.

use farside_protocol::journal::Superblock;
use farside_protocol::journal::limits::{BLOCK_BYTES_U64, MAX_CHUNK_DATA_BYTES, RING_OFFSET};

/// Geometry of one journal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Layout {
    /// Bytes of a segment.
    pub segment_bytes: u64,
    /// Segments of the ring.
    pub segment_count: u64,
    /// Segments that may be non-durable at once.
    pub window_segments: u64,
}

impl Layout {
    /// The geometry a superblock names.
    #[must_use]
    pub fn of(superblock: &Superblock) -> Self {
        Self {
            segment_bytes: u64::from(superblock.segment_bytes),
            segment_count: u64::from(superblock.segment_count),
            window_segments: u64::from(superblock.window_segments),
        }
    }

    /// Bytes of the ring.
    #[must_use]
    pub fn ring_bytes(&self) -> u64 {
        self.segment_bytes * self.segment_count
    }

    /// Bytes that may be non-durable at once.
    #[must_use]
    pub fn window_bytes(&self) -> u64 {
        self.segment_bytes * self.window_segments
    }

    /// Largest merged batch, without what is skipped between its chunks, which is less than they and a segment together: until it
    /// has ended it is not durable, and the search for the head relies on that. 0: there is no room for any.
    #[must_use]
    pub fn batch_bytes(&self) -> u64 {
        self.segment_bytes * (self.window_segments - 1) / 2
    }

    /// Where an address lies in the file.
    #[must_use]
    pub fn file_offset(&self, address: u64) -> u64 {
        RING_OFFSET + address % self.ring_bytes()
    }

    /// The segment, counted over all laps, that an address lies in.
    #[must_use]
    pub fn segment_of(&self, address: u64) -> u64 {
        address / self.segment_bytes
    }

    /// Address of the first byte of a segment.
    #[must_use]
    pub fn segment_start(&self, segment: u64) -> u64 {
        segment.saturating_mul(self.segment_bytes)
    }

    /// Address of the first byte after the segment that `address` lies in.
    #[must_use]
    pub fn segment_end(&self, address: u64) -> u64 {
        self.segment_start(self.segment_of(address) + 1)
    }

    /// Payload that fits one chunk of this journal.
    #[must_use]
    pub fn max_data_bytes(&self) -> u32 {
        let fits = u32::try_from(self.segment_bytes - BLOCK_BYTES_U64).unwrap_or(u32::MAX);
        fits.min(MAX_CHUNK_DATA_BYTES)
    }

    /// Address for a chunk of `stored_bytes` after `address`: there if the segment still holds it, else at the
    /// start of the next.
    #[must_use]
    pub fn place(&self, address: u64, stored_bytes: u64) -> u64 {
        let end = self.segment_end(address);
        if address + stored_bytes <= end {
            address
        } else {
            end
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks_never_cross_a_segment() {
        let layout = Layout {
            segment_bytes: 16384,
            segment_count: 4,
            window_segments: 1,
        };
        assert_eq!(layout.place(0, 16384), 0);
        assert_eq!(layout.place(4096, 12288), 4096);
        assert_eq!(layout.place(4096, 16384), 16384);
        assert_eq!(layout.place(16384, 4096), 16384);
        assert_eq!(layout.file_offset(65536 + 5), RING_OFFSET + 5);
        assert_eq!(layout.max_data_bytes(), 12288);
    }
}
