//! Reading chunks back: one meta-data block, or a run of chunks from a point on.
//!
//! Every chunk that is returned is of this journal, at its own address and the next in its chain. Payload
//! checksums are the caller's to check, once, where the bytes are used.

use super::layout::Layout;
use crate::device::Device;
use crate::error::StorageError;
use farside_protocol::journal::limits::{BLOCK_BYTES, BLOCK_BYTES_U64};
use farside_protocol::journal::{ChainPoint, FormatError, Place, What};
use std::ops::Range;
use uuid::Uuid;

/// One chunk inside a buffer of journal bytes.
#[derive(Debug, Clone)]
pub struct ChunkSpan {
    /// The *what* part in the buffer.
    pub what: Range<usize>,
    /// The payloads in the buffer, without padding.
    pub data: Range<usize>,
    /// Address of the chunk in the journal.
    pub address: u64,
    /// The point just after the chunk.
    pub after: ChainPoint,
    /// A merged batch goes on after it.
    pub has_more: bool,
}

/// Why chunks cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The ring has moved on: the chunk after this record is no longer there.
    #[error("record {0} is no longer in the journal")]
    Behind(u64),
    /// The disk failed or the journal is damaged.
    #[error(transparent)]
    Storage(#[from] StorageError),
}

/// What one look at an address finds.
#[derive(Debug)]
pub(super) enum Found {
    /// A chunk of this journal at its own address.
    Chunk(Place),
    /// Something else: never written, an older lap, another journal, or damaged.
    Other(FormatError),
}

impl std::fmt::Display for Found {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Chunk(place) => write!(formatter, "chunk {} of another chain", place.sequence),
            Self::Other(error) => error.fmt(formatter),
        }
    }
}

/// Everything needed to read one journal.
#[derive(Debug, Clone, Copy)]
pub(super) struct Ring<'a> {
    pub(super) device: &'a dyn Device,
    pub(super) layout: Layout,
    pub(super) journal: Uuid,
    pub(super) volume: Uuid,
}

/// The point just after a chunk.
pub(crate) fn point_after(what: &What<'_>, address: u64) -> ChainPoint {
    ChainPoint {
        address: address + what.stored_bytes(),
        ..what.point_after()
    }
}

/// The point just before a chunk, as its own header names it; the sealing time and epoch of the chunk before are
/// not in there.
pub(super) fn point_before(what: &What<'_>, address: u64) -> ChainPoint {
    let header = &what.header;
    ChainPoint {
        address,
        sequence: header.sequence - 1,
        record: header.first_record - 1,
        epoch: 0,
        sealed_at_us: 0,
        checksum: header.previous_checksum,
        blocks: header.blocks_before,
        bytes: header.bytes_before,
    }
}

/// Whether a chunk continues the chain at a point.
pub(crate) fn continues(point: &ChainPoint, what: &What<'_>) -> bool {
    let header = &what.header;
    point.sequence.checked_add(1) == Some(header.sequence)
        && point.record.checked_add(1) == Some(header.first_record)
        && header.previous_checksum == point.checksum
        && header.epoch >= point.epoch
}

impl Ring<'_> {
    /// Judges the meta-data block in `block` as the one that belongs at `address`.
    pub(super) fn judge<'b>(&self, block: &'b [u8], address: u64) -> Result<(What<'b>, Place), FormatError> {
        let place = Place::decode(block)?;
        if place.journal != self.journal || place.address != address {
            return Err(FormatError::Field("chunk of another journal, lap or address"));
        }
        let what = What::decode(block)?;
        if what.header.volume != self.volume {
            return Err(FormatError::Field("volume"));
        }
        if place.sequence != what.header.sequence || place.what_checksum != what.checksum {
            return Err(FormatError::Field("the two parts belong to different chunks"));
        }
        if address + what.stored_bytes() > self.layout.segment_end(address) {
            return Err(FormatError::Field("chunk crosses its segment"));
        }
        Ok((what, place))
    }

    /// Where the meta-data block in `block`, found where `address` stands now, was written: in this lap or a later one.
    pub(super) fn place_of_any_lap(&self, block: &[u8], address: u64) -> Option<Place> {
        let place = Place::decode(block).ok()?;
        let laps_bytes = place.address.checked_sub(address)?;
        let here = place.journal == self.journal && laps_bytes.is_multiple_of(self.layout.ring_bytes());
        (here && self.judge(block, place.address).is_ok()).then_some(place)
    }

    /// Reads and judges the meta-data block at `address` into `block`.
    pub(super) fn look(&self, address: u64, block: &mut [u8; BLOCK_BYTES]) -> Result<Found, StorageError> {
        self.device.read_at(block, self.layout.file_offset(address))?;
        Ok(match self.judge(block, address) {
            Ok((_, place)) => Found::Chunk(place),
            Err(error) => Found::Other(error),
        })
    }

    /// The addresses at which the chunk after `point` may stand: right there, or at the next segment's start.
    pub(super) fn candidates(&self, point: &ChainPoint) -> impl Iterator<Item = u64> + use<> {
        let next = self.layout.segment_end(point.address);
        let here = (next - point.address >= BLOCK_BYTES_U64).then_some(point.address);
        here.into_iter().chain([next])
    }

    /// The chunk that follows `point`, its meta-data in `block`; `None` when the chain ends there.
    pub(super) fn next_after(
        &self,
        point: &ChainPoint,
        block: &mut [u8; BLOCK_BYTES],
    ) -> Result<Option<(ChainPoint, Place)>, StorageError> {
        for address in self.candidates(point) {
            if let Found::Chunk(place) = self.look(address, block)?
                && let Ok(what) = What::decode(block)
                && continues(point, &what)
            {
                return Ok(Some((point_after(&what, address), place)));
            }
        }
        Ok(None)
    }

    /// Reads chunks after `from`, up to the address `limit`, as many as `max_bytes` hold whole; at least one
    /// unless `from` has reached `limit`. Only what the spans name counts in the buffer.
    pub(super) fn read_run(
        &self,
        from: &ChainPoint,
        limit: u64,
        max_bytes: usize,
        buffer: &mut Vec<u8>,
    ) -> Result<Vec<ChunkSpan>, StorageError> {
        for address in self.candidates(from).filter(|address| *address < limit) {
            let end = self.layout.segment_end(address).min(limit);
            // A limit smaller than a chunk still has to let one through.
            let at_least = self.layout.max_data_bytes() as usize + BLOCK_BYTES;
            let length = usize::try_from(end - address)
                .unwrap_or(usize::MAX)
                .min(max_bytes.max(at_least));
            // It only grows: what it held before is overwritten, which costs less than zeroes for every run.
            if buffer.len() < length {
                buffer.resize(length, 0);
            }
            let run = &mut buffer[..length];
            self.device.read_at(run, self.layout.file_offset(address))?;
            let spans = self.parse_run(from, address, run);
            if !spans.is_empty() {
                return Ok(spans);
            }
        }
        Ok(Vec::new())
    }

    fn parse_run(&self, from: &ChainPoint, start: u64, buffer: &[u8]) -> Vec<ChunkSpan> {
        let mut spans = Vec::new();
        let (mut point, mut at) = (*from, 0_usize);
        while let Some(block) = buffer.get(at..).and_then(|rest| rest.get(..BLOCK_BYTES)) {
            let address = start + at as u64;
            let Ok((what, _)) = self.judge(block, address) else {
                break;
            };
            let data = at + BLOCK_BYTES..at + BLOCK_BYTES + what.data_bytes as usize;
            if !continues(&point, &what) || buffer.len() < data.end {
                break;
            }
            point = point_after(&what, address);
            spans.push(ChunkSpan {
                what: at..at + what.as_bytes().len(),
                data,
                address,
                after: point,
                has_more: what.has_more(),
            });
            at += usize::try_from(what.stored_bytes()).unwrap_or(usize::MAX);
        }
        spans
    }
}
