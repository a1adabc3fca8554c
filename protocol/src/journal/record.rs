//! One entry of a chunk's table of records: what changed, where, and the checksum of its payload.

use super::error::FormatError;
use super::limits::RECORD_BYTES;
use crate::fields::{Reader, Writer};

/// What a record does to the volume.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RecordKind {
    /// Stores the payload at the offset.
    Write,
    /// The range reads as zeroes, its space may be given back.
    Trim,
    /// The range reads as zeroes; `allocate` keeps its space reserved.
    Zero {
        /// Keep the space reserved.
        allocate: bool,
    },
    /// Changes nothing; the number says what it marks.
    Mark(u16),
}

/// Marks of a history: what follows up to the next mark is what was overwritten since the image was the state after
/// the record named by the offset.
pub const MARK_MOMENT: u16 = 1;
/// The same of a state that the volume never had, during a copy.
pub const MARK_COPYING: u16 = 2;
/// Mark of a history: the offset is the address in the owning journal up to which the image was brought when the mark
/// before it was made.
pub const MARK_POSITION: u16 = 3;

/// Kind codes on disk. Version 1: write 1, trim 2, zero 3, mark 4.
const WRITE: u8 = 1;
const TRIM: u8 = 2;
const ZERO: u8 = 3;
const MARK: u8 = 4;
const FLAG_ALLOCATE: u8 = 1;

/// One change of the volume.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Record {
    /// First byte of the volume that changes.
    pub offset: u64,
    /// Number of bytes that change.
    pub length: u32,
    /// crc32c of the payload; 0 where there is none.
    pub checksum: u32,
    /// How long before the chunk was sealed the write arrived, in microseconds.
    pub age_us: u32,
    /// What happens there.
    pub kind: RecordKind,
}

impl Record {
    /// Bytes of payload this record has in the chunk's data.
    #[must_use]
    pub fn payload_bytes(&self) -> u32 {
        match self.kind {
            RecordKind::Write => self.length,
            RecordKind::Trim | RecordKind::Zero { .. } | RecordKind::Mark(_) => 0,
        }
    }

    /// First byte after the range; decoded records cannot overflow.
    #[must_use]
    pub fn end(&self) -> u64 {
        self.offset.saturating_add(u64::from(self.length))
    }

    /// How many 4 KiB blocks the range touches.
    #[must_use]
    pub fn blocks(&self) -> u64 {
        if self.length == 0 {
            return 0;
        }
        let last = self.end().saturating_sub(1) >> 12;
        last.saturating_sub(self.offset >> 12).saturating_add(1)
    }

    pub(super) fn encode(&self, to: &mut Writer<'_>) {
        let (kind, flags, extra) = match self.kind {
            RecordKind::Write => (WRITE, 0, 0),
            RecordKind::Trim => (TRIM, 0, 0),
            RecordKind::Zero { allocate } => (ZERO, if allocate { FLAG_ALLOCATE } else { 0 }, 0),
            RecordKind::Mark(mark) => (MARK, 0, mark),
        };
        to.u64(self.offset)
            .u32(self.length)
            .u32(self.checksum)
            .u32(self.age_us);
        to.u8(kind).u8(flags).u16(extra);
    }

    pub(super) fn decode(entry: &[u8; RECORD_BYTES]) -> Result<Self, FormatError> {
        let mut from = Reader::new(entry);
        let (offset, length, checksum, age_us) = (from.u64()?, from.u32()?, from.u32()?, from.u32()?);
        let (kind, flags, extra) = (from.u8()?, from.u8()?, from.u16()?);
        let kind = match (kind, flags, extra) {
            (WRITE, 0, 0) => RecordKind::Write,
            (TRIM, 0, 0) => RecordKind::Trim,
            (ZERO, 0 | FLAG_ALLOCATE, 0) => RecordKind::Zero {
                allocate: flags == FLAG_ALLOCATE,
            },
            (MARK, 0, mark) => RecordKind::Mark(mark),
            _ => return Err(FormatError::Field("record kind")),
        };
        let empty_ok = matches!(kind, RecordKind::Mark(_));
        if offset.checked_add(u64::from(length)).is_none() || (length == 0) != empty_ok {
            return Err(FormatError::Field("record range"));
        }
        if kind != RecordKind::Write && checksum != 0 {
            return Err(FormatError::Field("record checksum"));
        }
        Ok(Self {
            offset,
            length,
            checksum,
            age_us,
            kind,
        })
    }
}
