//! The header of a dirty-block map: one bit per block that a consumer lost track of.
//!
//! Layout (version 1): magic `FARSIDEM` (8), version (2), zero (6), volume UUID (16), bytes per bit (8), number
//! of bits (8), crc32c of the 48 bytes before (4); the bits follow at byte 4096, bit 0 of a byte first.

use super::error::{FormatError, take_zeroes};
use super::limits::MAX_VOLUME_BYTES;
use crate::fields::{Reader, Writer};
use uuid::Uuid;

const MAGIC: &[u8; 8] = b"FARSIDEM";
/// Version ladder of dirty-block maps: 1 is the first.
const VERSION: u16 = 1;
/// Bytes of the encoded header.
pub const BLOCK_MAP_HEADER_BYTES: usize = 52;

/// Identity and geometry of a dirty-block map.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BlockMapHeader {
    /// The volume whose blocks it marks.
    pub volume: Uuid,
    /// Bytes of the volume that one bit stands for.
    pub block_bytes: u64,
    /// Number of bits.
    pub bits: u64,
}

impl BlockMapHeader {
    /// The header as it stands on disk.
    #[must_use]
    pub fn encode(&self) -> [u8; BLOCK_MAP_HEADER_BYTES] {
        let mut bytes = [0; BLOCK_MAP_HEADER_BYTES];
        let (fields, checksum) = bytes.split_at_mut(BLOCK_MAP_HEADER_BYTES - 4);
        let mut to = Writer::new(fields);
        to.bytes(MAGIC)
            .u16(VERSION)
            .zeroes(6)
            .uuid(self.volume)
            .u64(self.block_bytes)
            .u64(self.bits);
        Writer::new(checksum).u32(crc32c::crc32c(fields));
        bytes
    }

    /// Decodes a header.
    ///
    /// # Errors
    /// [`FormatError`] naming the first thing that is wrong.
    pub fn decode(bytes: &[u8]) -> Result<Self, FormatError> {
        let mut from = Reader::new(bytes);
        if from.bytes(8)? != MAGIC {
            return Err(FormatError::Magic);
        }
        let version = from.u16()?;
        let (covered, checksum) = bytes
            .get(..BLOCK_MAP_HEADER_BYTES)
            .and_then(|header| header.split_at_checked(BLOCK_MAP_HEADER_BYTES - 4))
            .ok_or(FormatError::Truncated)?;
        if Reader::new(checksum).u32()? != crc32c::crc32c(covered) {
            return Err(FormatError::Checksum);
        }
        if version != VERSION {
            return Err(FormatError::Version(version, VERSION));
        }
        take_zeroes(&mut from, 6)?;
        let header = Self {
            volume: from.uuid()?,
            block_bytes: from.u64()?,
            bits: from.u64()?,
        };
        let covered_bytes = header.block_bytes.checked_mul(header.bits);
        // The last block may stick out beyond the end of the volume, by less than itself.
        if !header.block_bytes.is_power_of_two()
            || header.bits == 0
            || covered_bytes.is_none_or(|bytes| bytes >= MAX_VOLUME_BYTES.saturating_mul(2))
        {
            return Err(FormatError::Field("geometry"));
        }
        Ok(header)
    }
}
