//! The *what* part of a chunk's meta-data block: it travels unchanged from the first journal to the last replica.
//!
//! Layout (version 1), offsets in bytes:
//!
//! | offset | size | field |
//! | --- | --- | --- |
//! | 0 | 8 | magic `FARCHUNK` |
//! | 8 | 2 | version |
//! | 10 | 2 | bytes of the *what* part (96 + 24 x records) |
//! | 12 | 2 | records |
//! | 14 | 2 | zero |
//! | 16 | 16 | volume UUID |
//! | 32 | 8 | epoch |
//! | 40 | 8 | chunk sequence |
//! | 48 | 8 | number of the first record |
//! | 56 | 8 | time of sealing, microseconds since 1970 |
//! | 64 | 4 | bytes of data, without padding |
//! | 68 | 4 | *what* checksum of the chunk before |
//! | 72 | 4 | crc32c of bytes 0..72 and 76.. of the *what* part |
//! | 76 | 4 | zero |
//! | 80 | 8 | blocks of 4 KiB changed by all records before this chunk |
//! | 88 | 8 | bytes changed by all records before this chunk |
//! | 96 | 24 x n | table of records |
//!
//! Version 2 is a chunk of a merged batch: of the records between two points of a chain it holds those parts that none of them
//! overwrites. Between the fixed fields and the table (which begins at 136 then) it has
//!
//! | offset | size | field |
//! | --- | --- | --- |
//! | 96 | 8 | sequence at which the chain goes on after the batch; 0 if more of it follows |
//! | 104 | 8 | the last record of the batch |
//! | 112 | 8 | blocks of 4 KiB changed by all records up to there |
//! | 120 | 8 | bytes changed by all records up to there |
//! | 128 | 4 | *what* checksum of the chunk with which it would have ended unmerged |
//! | 132 | 4 | zero |
//!
//! which are zero while more follows. A batch counts as a whole or not at all.

use super::error::{FormatError, take_zeroes};
use super::limits::{
    BLOCK_BYTES_U64, MAX_CHUNK_DATA_BYTES, MAX_MERGED_RECORDS, MAX_POSITION, MAX_RECORDS, MERGED_BYTES,
    RECORD_BYTES, WHAT_HEADER_BYTES,
};
use super::record::Record;
use super::superblock::ChainPoint;
use crate::fields::{Reader, Writer};
use uuid::Uuid;

const MAGIC: &[u8; 8] = b"FARCHUNK";
/// Version ladder of chunks: 1 is the first, 2 those of merged batches.
pub const CHUNK_VERSION: u16 = 2;
const PLAIN: u16 = 1;
const MERGED: u16 = 2;
const CHECKSUM_OFFSET: usize = 72;

/// The fixed fields of a chunk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ChunkHeader {
    /// The volume whose history this is.
    pub volume: Uuid,
    /// The period of one writer in which the chunk was sealed.
    pub epoch: u64,
    /// Number of the chunk, gapless from 1.
    pub sequence: u64,
    /// Number of the first record, gapless from 1.
    pub first_record: u64,
    /// Time of sealing in microseconds since 1970; never falls from chunk to chunk.
    pub sealed_at_us: u64,
    /// *What* checksum of the chunk before: makes the sequence a chain.
    pub previous_checksum: u32,
    /// Blocks of 4 KiB changed by all records before this chunk.
    pub blocks_before: u64,
    /// Bytes changed by all records before this chunk.
    pub bytes_before: u64,
}

/// What a chunk is in a merged batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Merged {
    /// More of the batch follows.
    More,
    /// The batch ends with it, and the chain goes on at this point, whose epoch and time are those of the chunk, and whose
    /// address is not told.
    End(ChainPoint),
}

/// A decoded *what* part: valid by construction, records still in the bytes it was decoded from.
#[derive(Debug, Clone, Copy)]
pub struct What<'a> {
    /// The fixed fields.
    pub header: ChunkHeader,
    /// Checksum of this part; the next chunk names it as its predecessor's.
    pub checksum: u32,
    /// Bytes of payload that follow the meta-data block.
    pub data_bytes: u32,
    /// Whether it belongs to a merged batch.
    is_merged: bool,
    bytes: &'a [u8],
    table: &'a [u8],
}

/// Seals `records` into the start of `block`; returns the length and checksum of the *what* part.
///
/// # Panics
/// With no record or more than [`MAX_RECORDS`], or with a block too small for them: our own mistakes.
pub fn encode_what(block: &mut [u8], header: &ChunkHeader, records: &[Record]) -> (usize, u32) {
    encode(block, header, records, None)
}

/// The same for a chunk of a merged batch, which holds at most [`MAX_MERGED_RECORDS`](super::limits::MAX_MERGED_RECORDS).
///
/// # Panics
/// As [`encode_what`].
pub fn encode_merged(
    block: &mut [u8],
    header: &ChunkHeader,
    records: &[Record],
    merged: Merged,
) -> (usize, u32) {
    encode(block, header, records, Some(merged))
}

fn encode(
    block: &mut [u8],
    header: &ChunkHeader,
    records: &[Record],
    merged: Option<Merged>,
) -> (usize, u32) {
    let most = max_records(merged.is_some());
    assert!(
        !records.is_empty() && records.len() <= most,
        "a chunk holds 1 to {most} records"
    );
    let length = fixed_bytes(merged.is_some()).saturating_add(records.len().saturating_mul(RECORD_BYTES));
    let data_bytes: u32 = records
        .iter()
        .map(Record::payload_bytes)
        .fold(0, u32::saturating_add);
    let part = block.get_mut(..length).expect("the block holds the whole table");
    let mut to = Writer::new(part);
    to.bytes(MAGIC)
        .u16(if merged.is_some() { MERGED } else { PLAIN })
        .u16(narrow(length))
        .u16(narrow(records.len()))
        .u16(0);
    to.uuid(header.volume)
        .u64(header.epoch)
        .u64(header.sequence)
        .u64(header.first_record);
    to.u64(header.sealed_at_us)
        .u32(data_bytes)
        .u32(header.previous_checksum)
        .u32(0)
        .u32(0)
        .u64(header.blocks_before)
        .u64(header.bytes_before);
    if let Some(merged) = merged {
        let end = match merged {
            Merged::More => ChainPoint::default(),
            Merged::End(point) => point,
        };
        to.u64(end.sequence)
            .u64(end.record)
            .u64(end.blocks)
            .u64(end.bytes);
        to.u32(end.checksum).u32(0);
    }
    for record in records {
        record.encode(&mut to);
    }
    let checksum = part_checksum(part);
    if let Some(field) = part.get_mut(CHECKSUM_OFFSET..) {
        Writer::new(field).u32(checksum);
    }
    (length, checksum)
}

/// Bytes before the table of records.
fn fixed_bytes(is_merged: bool) -> usize {
    if is_merged {
        WHAT_HEADER_BYTES.saturating_add(MERGED_BYTES)
    } else {
        WHAT_HEADER_BYTES
    }
}

fn max_records(is_merged: bool) -> usize {
    if is_merged {
        MAX_MERGED_RECORDS
    } else {
        MAX_RECORDS
    }
}

/// Length of a *what* part of version 1 with this many records.
#[must_use]
pub fn what_bytes(records: usize) -> usize {
    records
        .saturating_mul(RECORD_BYTES)
        .saturating_add(WHAT_HEADER_BYTES)
}

fn narrow(value: usize) -> u16 {
    u16::try_from(value).expect("the table of records fits a 4 KiB block")
}

/// crc32c of the part without the field that holds it.
fn part_checksum(part: &[u8]) -> u32 {
    let (before, rest) = part.split_at_checked(CHECKSUM_OFFSET).unwrap_or((part, &[]));
    let after = rest.get(4..).unwrap_or(&[]);
    crc32c::crc32c_append(crc32c::crc32c(before), after)
}

impl<'a> What<'a> {
    /// Decodes the *what* part at the start of `bytes`; what follows it is not looked at.
    ///
    /// # Errors
    /// [`FormatError`] naming the first thing that is wrong.
    pub fn decode(bytes: &'a [u8]) -> Result<Self, FormatError> {
        let mut from = Reader::new(bytes);
        if from.bytes(8)? != MAGIC {
            return Err(FormatError::Magic);
        }
        let version = from.u16()?;
        if version != PLAIN && version != MERGED {
            return Err(FormatError::Version(version, CHUNK_VERSION));
        }
        let is_merged = version == MERGED;
        let (length, count) = (usize::from(from.u16()?), usize::from(from.u16()?));
        let whole = fixed_bytes(is_merged).saturating_add(count.saturating_mul(RECORD_BYTES));
        if count == 0 || count > max_records(is_merged) || length != whole {
            return Err(FormatError::Field("record count"));
        }
        let part = bytes.get(..length).ok_or(FormatError::Truncated)?;
        let stored = Reader::new(part.get(CHECKSUM_OFFSET..).unwrap_or(&[])).u32()?;
        if stored != part_checksum(part) {
            return Err(FormatError::Checksum);
        }
        take_zeroes(&mut from, 2)?;
        let what = Self::decode_fields(&mut from, part, is_merged)?;
        what.check_fields()?;
        Ok(what)
    }

    /// Takes what follows the counts from `from`; `part` is the whole *what* part.
    fn decode_fields(from: &mut Reader<'a>, part: &'a [u8], is_merged: bool) -> Result<Self, FormatError> {
        let (volume, epoch, sequence, first_record) = (from.uuid()?, from.u64()?, from.u64()?, from.u64()?);
        let (sealed_at_us, data_bytes) = (from.u64()?, from.u32()?);
        let (previous_checksum, checksum) = (from.u32()?, from.u32()?);
        take_zeroes(from, 4)?;
        let header = ChunkHeader {
            volume,
            epoch,
            sequence,
            first_record,
            sealed_at_us,
            previous_checksum,
            blocks_before: from.u64()?,
            bytes_before: from.u64()?,
        };
        if is_merged {
            decode_merged(from, &header)?;
        }
        let table = from
            .rest()
            .get(..part.len().saturating_sub(fixed_bytes(is_merged)));
        Ok(Self {
            header,
            checksum,
            data_bytes,
            is_merged,
            bytes: part,
            table: table.ok_or(FormatError::Truncated)?,
        })
    }

    fn check_fields(&self) -> Result<(), FormatError> {
        let mut data_bytes = 0_u32;
        for entry in self.table.as_chunks::<RECORD_BYTES>().0 {
            let record = Record::decode(entry)?;
            data_bytes = data_bytes.saturating_add(record.payload_bytes());
        }
        if data_bytes != self.data_bytes || data_bytes > MAX_CHUNK_DATA_BYTES {
            return Err(FormatError::Field("data length"));
        }
        let header = &self.header;
        if header.sequence == 0 || header.first_record == 0 || header.epoch == 0 {
            return Err(FormatError::Field("sequence"));
        }
        let count = u64::try_from(self.record_count()).unwrap_or(u64::MAX);
        let last = header.first_record.saturating_add(count);
        if header.sequence > MAX_POSITION || last > MAX_POSITION || header.epoch > MAX_POSITION {
            return Err(FormatError::Field("sequence"));
        }
        // A batch stands for as many chunks as it has, or more.
        if let Some(Merged::End(end)) = self.merged()
            && (end.sequence < header.sequence
                || end.sequence > end.record
                || end.record < header.first_record
                || end.sequence > MAX_POSITION
                || end.record > MAX_POSITION)
        {
            return Err(FormatError::Field("end of a merged batch"));
        }
        Ok(())
    }

    /// What it is in a merged batch, if it belongs to one.
    #[must_use]
    pub fn merged(&self) -> Option<Merged> {
        if !self.is_merged {
            return None;
        }
        let mut from = Reader::new(self.bytes.get(WHAT_HEADER_BYTES..).unwrap_or(&[]));
        decode_merged(&mut from, &self.header).ok()
    }

    /// The encoded part, as it travels.
    #[must_use]
    pub fn as_bytes(&self) -> &'a [u8] {
        self.bytes
    }

    /// How many records the chunk has.
    #[must_use]
    pub fn record_count(&self) -> usize {
        self.table.len().checked_div(RECORD_BYTES).unwrap_or(0)
    }

    /// Number of the last record. What is in a merged batch has no numbers: none of its records counts before its end, where all of
    /// those do that it stands for.
    #[must_use]
    pub fn last_record(&self) -> u64 {
        match self.merged() {
            Some(Merged::End(end)) => return end.record,
            Some(Merged::More) => return self.header.first_record.saturating_sub(1),
            None => {}
        }
        let count = u64::try_from(self.record_count()).unwrap_or(u64::MAX);
        self.header.first_record.saturating_add(count).saturating_sub(1)
    }

    /// The records in order.
    pub fn records(&self) -> impl Iterator<Item = Record> + use<'a> {
        self.table
            .as_chunks::<RECORD_BYTES>()
            .0
            .iter()
            .filter_map(|entry| Record::decode(entry).ok())
    }

    /// Whether the chunk is part of a batch that goes on after it: nothing counts until that has ended.
    #[must_use]
    pub fn has_more(&self) -> bool {
        self.merged() == Some(Merged::More)
    }

    /// The place in the chain just after the chunk; its address is not told here, nor what was changed up to there.
    #[must_use]
    pub fn place_after(&self) -> ChainPoint {
        if let Some(Merged::End(end)) = self.merged() {
            return ChainPoint {
                blocks: 0,
                bytes: 0,
                ..end
            };
        }
        ChainPoint {
            address: 0,
            sequence: self.header.sequence,
            record: self.last_record(),
            epoch: self.header.epoch,
            sealed_at_us: self.header.sealed_at_us,
            checksum: self.checksum,
            blocks: 0,
            bytes: 0,
        }
    }

    /// The same with what was changed up to there.
    #[must_use]
    pub fn point_after(&self) -> ChainPoint {
        if let Some(Merged::End(end)) = self.merged() {
            return end;
        }
        let (mut blocks, mut bytes) = (self.header.blocks_before, self.header.bytes_before);
        for record in self.records() {
            // Trims of the whole volume can take these sums anywhere; they are for people, the chain does without.
            blocks = blocks.saturating_add(record.blocks());
            bytes = bytes.saturating_add(u64::from(record.length));
        }
        ChainPoint {
            blocks,
            bytes,
            ..self.place_after()
        }
    }

    /// Bytes the chunk takes in a journal: meta-data block and padded data.
    #[must_use]
    pub fn stored_bytes(&self) -> u64 {
        stored_bytes(self.data_bytes)
    }

    /// Whether `data` is the payloads, no more and no less, and each has the checksum its record names.
    #[must_use]
    pub fn data_is_intact(&self, data: &[u8]) -> bool {
        let mut from = Reader::new(data);
        let intact = self.records().all(|record| {
            let bytes = usize::try_from(record.payload_bytes()).unwrap_or(usize::MAX);
            bytes == 0
                || from
                    .bytes(bytes)
                    .is_ok_and(|payload| crc32c::crc32c(payload) == record.checksum)
        });
        intact && from.rest().is_empty()
    }
}

/// What follows the fixed fields of a chunk of a merged batch.
fn decode_merged(from: &mut Reader<'_>, header: &ChunkHeader) -> Result<Merged, FormatError> {
    let (sequence, record, blocks, bytes) = (from.u64()?, from.u64()?, from.u64()?, from.u64()?);
    let checksum = from.u32()?;
    take_zeroes(from, 4)?;
    if sequence == 0 {
        let nothing = record == 0 && blocks == 0 && bytes == 0 && checksum == 0;
        return if nothing {
            Ok(Merged::More)
        } else {
            Err(FormatError::Field("end of a merged batch"))
        };
    }
    Ok(Merged::End(ChainPoint {
        address: 0,
        sequence,
        record,
        epoch: header.epoch,
        sealed_at_us: header.sealed_at_us,
        checksum,
        blocks,
        bytes,
    }))
}

/// Bytes a chunk with this much payload takes in a journal.
#[must_use]
pub fn stored_bytes(data_bytes: u32) -> u64 {
    u64::from(data_bytes)
        .next_multiple_of(BLOCK_BYTES_U64)
        .saturating_add(BLOCK_BYTES_U64)
}
