//! The *where* part of a chunk's meta-data block: each journal writes its own.
//!
//! It binds the chunk to one journal and one address, so that an old lap, another disk's bytes or a
//! misdirected read never pass, and it carries the positions known when the chunk was written.
//!
//! Layout (version 1), offsets from byte 3968 of the block:
//!
//! | offset | size | field |
//! | --- | --- | --- |
//! | 0 | 4 | magic `WHER` |
//! | 4 | 2 | version |
//! | 6 | 2 | zero |
//! | 8 | 16 | journal UUID |
//! | 24 | 8 | address of the chunk in the journal (lap = address / ring size) |
//! | 32 | 8 | chunk sequence |
//! | 40 | 4 | checksum of the *what* part |
//! | 44 | 4 | zero |
//! | 48 | 8 | tail: last record no consumer needs |
//! | 56 | 8 | mirrored: last record the image holds durably |
//! | 64 | 8 | durable: last record known durable in this journal |
//! | 72 | 8 | acked: last record every attached remote confirmed |
//! | 80 | 44 | zero |
//! | 124 | 4 | crc32c of bytes 0..124 |

use super::error::{FormatError, take_zeroes};
use super::limits::{MAX_POSITION, WHERE_BYTES, WHERE_OFFSET};
use crate::fields::{Reader, Writer};
use uuid::Uuid;

const MAGIC: &[u8; 4] = b"WHER";
/// Version ladder of *where* parts: 1 is the first.
const VERSION: u16 = 1;
const CHECKSUM_OFFSET: usize = WHERE_BYTES - 4;
const RESERVED_BYTES: usize = 44;

/// Where one journal keeps a chunk, and what it knew then.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// The journal this copy of the chunk belongs to.
    pub journal: Uuid,
    /// Address of the chunk: grows for ever, the ring offset is its remainder.
    pub address: u64,
    /// Sequence of the chunk, as in its *what* part.
    pub sequence: u64,
    /// Checksum of the *what* part.
    pub what_checksum: u32,
    /// Last record no consumer needs any more.
    pub tail: u64,
    /// Last record the image holds durably.
    pub mirrored: u64,
    /// Last record that was durable in this journal.
    pub durable: u64,
    /// Last record every attached remote confirmed.
    pub acked: u64,
}

impl Place {
    /// Writes the part at its offset in `block`.
    ///
    /// # Panics
    /// When `block` is shorter than a meta-data block: our own mistake.
    pub fn encode(&self, block: &mut [u8]) {
        let part = block
            .get_mut(WHERE_OFFSET..)
            .and_then(|rest| rest.get_mut(..WHERE_BYTES))
            .expect("the where part lies inside a meta-data block");
        let mut to = Writer::new(part);
        to.bytes(MAGIC)
            .u16(VERSION)
            .u16(0)
            .uuid(self.journal)
            .u64(self.address)
            .u64(self.sequence);
        to.u32(self.what_checksum)
            .u32(0)
            .u64(self.tail)
            .u64(self.mirrored)
            .u64(self.durable)
            .u64(self.acked);
        to.zeroes(RESERVED_BYTES);
        let checksum = crc32c::crc32c(part.get(..CHECKSUM_OFFSET).unwrap_or(&[]));
        if let Some(field) = part.get_mut(CHECKSUM_OFFSET..) {
            Writer::new(field).u32(checksum);
        }
    }

    /// Reads the part from its offset in a meta-data block.
    ///
    /// # Errors
    /// [`FormatError`] naming the first thing that is wrong.
    pub fn decode(block: &[u8]) -> Result<Self, FormatError> {
        let part = block
            .get(WHERE_OFFSET..)
            .and_then(|rest| rest.get(..WHERE_BYTES))
            .ok_or(FormatError::Truncated)?;
        let mut from = Reader::new(part);
        if from.bytes(4)? != MAGIC {
            return Err(FormatError::Magic);
        }
        let version = from.u16()?;
        if version != VERSION {
            return Err(FormatError::Version(version, VERSION));
        }
        let stored = Reader::new(part.get(CHECKSUM_OFFSET..).unwrap_or(&[])).u32()?;
        if stored != crc32c::crc32c(part.get(..CHECKSUM_OFFSET).unwrap_or(&[])) {
            return Err(FormatError::Checksum);
        }
        take_zeroes(&mut from, 2)?;
        let (journal, address, sequence) = (from.uuid()?, from.u64()?, from.u64()?);
        let what_checksum = from.u32()?;
        take_zeroes(&mut from, 4)?;
        let (tail, mirrored, durable, acked) = (from.u64()?, from.u64()?, from.u64()?, from.u64()?);
        take_zeroes(&mut from, RESERVED_BYTES)?;
        if tail > mirrored || mirrored > durable || address > MAX_POSITION {
            return Err(FormatError::Field("positions"));
        }
        Ok(Self {
            journal,
            address,
            sequence,
            what_checksum,
            tail,
            mirrored,
            durable,
            acked,
        })
    }
}
