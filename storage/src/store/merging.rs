//! The backlog of a remote, merged: what of the records between two points of the chain none of them overwrites, in chunks
//! that count together or not at all.
//!
//! Planning reads meta-data only. Payloads are read when they are to be sent, chunk by chunk of the journal, and compared with
//! their checksums as a whole.

use super::Store;
use crate::error::StorageError;
use crate::journal::{ChunkSpan, ReadError};
use crate::limits::{MERGE_LEAST_BYTES, MERGE_PIECES};
use crate::overlay::{Overlay, Piece, Source, sources};
use farside_protocol::journal::limits::{BLOCK_BYTES, BLOCK_BYTES_U64, MAX_MERGED_RECORDS};
use farside_protocol::journal::{ChainPoint, ChunkHeader, Merged, Record, RecordKind, What, encode_merged};
use std::collections::VecDeque;

/// A batch on its way.
#[derive(Debug)]
pub struct MergedBatch {
    /// The point before it.
    start: ChainPoint,
    /// The point after the newest chunk made of it.
    at: ChainPoint,
    end: ChainPoint,
    /// What is left to be sent, as it lies in the journal; each with the chunk it is in.
    pieces: VecDeque<(u64, Piece)>,
    /// Bytes of payload in the journal, and of what is left of them.
    bytes: (u64, u64),
    /// The chunk of the journal whose payloads were read last.
    loaded: Option<u64>,
    payloads: Vec<u8>,
}

/// What became of a backlog that was looked at.
#[derive(Debug)]
pub enum MergePlan {
    /// It is sent as this.
    Batch(Box<MergedBatch>),
    /// Up to here merging is not worth it.
    NotWorth(ChainPoint),
}

impl MergedBatch {
    /// The point after the newest chunk made of it.
    #[must_use]
    pub fn at(&self) -> &ChainPoint {
        &self.at
    }

    /// Whether all of it was given out.
    #[must_use]
    pub fn is_done(&self) -> bool {
        self.pieces.is_empty()
    }

    /// Bytes of payload that need not be sent.
    #[must_use]
    pub fn saved_bytes(&self) -> u64 {
        self.bytes.0.saturating_sub(self.bytes.1)
    }
}

impl Store {
    /// Looks whether what follows `from` up to `limit`, or the first part of that, is worth merging. `None`: it is too little to be looked
    /// at. The batch takes at most so many bytes of a journal, without what that may skip between chunks and with what is trimmed and zeroed, and stands for at most
    /// so many chunks of this one. Blocks.
    ///
    /// # Errors
    /// [`StorageError`].
    pub fn plan_merge(
        &self,
        from: &ChainPoint,
        limit: &ChainPoint,
        (most_bytes, most_chunks): (u64, u64),
    ) -> Result<Option<MergePlan>, StorageError> {
        let least = MERGE_LEAST_BYTES.min(self.journal.layout.ring_bytes() / 8);
        if limit.address.saturating_sub(from.address) < least {
            return Ok(None);
        }
        let mut block = Box::new([0; BLOCK_BYTES]);
        let (mut found, mut chunks) = (Overlay::new(), Vec::new());
        let (mut end, mut bytes, mut left) = (*from, 0, Left::default());
        while let Some((address, what, after)) = self.journal.next_chunk(&end, limit.address, &mut block)? {
            let more = u64::from(what.data_bytes);
            let count = found.len() + 2 * what.record_count();
            let erased = what.records().map(|record| u64::from(record.length)).sum::<u64>() - more;
            let stored = self.stored_at_most(left.payloads + more, count);
            let fits = stored + left.erased + erased <= most_bytes && count <= MERGE_PIECES;
            if !fits || chunks.len() as u64 >= most_chunks {
                if chunks.is_empty() {
                    // By itself it is too much; what follows may be worth it.
                    end = after;
                }
                break;
            }
            take(&mut found, &what, address, &mut left);
            chunks.push(address);
            (bytes, end) = (bytes + more, after);
        }
        // Moments in between are not to be had at the remote: one part in eight is worth that.
        let saves = bytes.saturating_sub(left.payloads) > bytes / 8;
        // Each of its chunks stands for one of the journal's, or for several.
        let is_shorter = self.chunks_at_most(left.payloads, found.len()) <= chunks.len() as u64;
        if !saves || !is_shorter {
            return Ok(Some(MergePlan::NotWorth(end)));
        }
        let mut pieces: Vec<(u64, Piece)> = found
            .iter()
            .map(|piece| (chunk_of(&chunks, &piece), piece))
            .collect();
        pieces.sort_by_key(|(chunk, piece)| (*chunk, piece.source.address()));
        Ok(Some(MergePlan::Batch(Box::new(MergedBatch {
            start: *from,
            at: *from,
            end,
            pieces: pieces.into(),
            bytes: (bytes, left.payloads),
            loaded: None,
            payloads: Vec::new(),
        }))))
    }

    /// How many chunks hold so much payload in so many pieces, at most.
    fn chunks_at_most(&self, bytes: u64, pieces: usize) -> u64 {
        let full = bytes / u64::from(self.journal.layout.max_data_bytes());
        // Where a chunk is full a piece is cut.
        full + (pieces as u64 + full) / MAX_MERGED_RECORDS as u64 + 1
    }

    /// What they take in a journal, at most.
    fn stored_at_most(&self, bytes: u64, pieces: usize) -> u64 {
        bytes + self.chunks_at_most(bytes, pieces) * 2 * BLOCK_BYTES_U64
    }

    /// The next chunks of a batch, put into `buffer`, of about so many bytes but at least one. Blocks.
    ///
    /// # Errors
    /// [`ReadError`]: the journal went on without it, or what it holds cannot be read.
    pub fn read_merged(
        &self,
        batch: &mut MergedBatch,
        max_bytes: usize,
        buffer: &mut Vec<u8>,
    ) -> Result<Vec<ChunkSpan>, ReadError> {
        buffer.clear();
        let mut spans = Vec::new();
        while !batch.pieces.is_empty() && (spans.is_empty() || buffer.len() < max_bytes) {
            let begin = buffer.len();
            // Room for the meta-data, of which as much as it takes is kept.
            buffer.resize(begin + BLOCK_BYTES, 0);
            let data_at = buffer.len();
            let records = self.gather(batch, buffer)?;
            let header = ChunkHeader {
                volume: self.journal.volume,
                epoch: batch.end.epoch,
                sequence: batch.at.sequence + 1,
                first_record: batch.at.record + 1,
                sealed_at_us: batch.end.sealed_at_us,
                previous_checksum: batch.at.checksum,
                blocks_before: batch.at.blocks,
                bytes_before: batch.at.bytes,
            };
            let merged = match batch.pieces.is_empty() {
                true => Merged::End(batch.end),
                false => Merged::More,
            };
            let (length, _) = encode_merged(&mut buffer[begin..data_at], &header, &records, merged);
            let what = What::decode(&buffer[begin..begin + length]).map_err(|error| {
                StorageError::refused(self.name(), format!("made a merged chunk that is none: {error}"))
            })?;
            let after = match merged {
                Merged::End(point) => point,
                Merged::More => ChainPoint {
                    address: batch.start.address,
                    ..what.point_after()
                },
            };
            batch.at = after;
            spans.push(ChunkSpan {
                what: begin..begin + length,
                data: data_at..buffer.len(),
                address: batch.start.address,
                after,
                has_more: merged == Merged::More,
            });
        }
        // What was read may have been written over meanwhile.
        if batch.start.address < self.points().tail.address {
            return Err(ReadError::Behind(batch.start.record));
        }
        Ok(spans)
    }

    /// Takes as many pieces as one chunk holds; their payloads go to the end of `buffer`.
    fn gather(&self, batch: &mut MergedBatch, buffer: &mut Vec<u8>) -> Result<Vec<Record>, ReadError> {
        let (begin, longest) = (buffer.len(), self.journal.layout.max_data_bytes() as usize);
        let mut records = Vec::new();
        while records.len() < MAX_MERGED_RECORDS {
            let Some((chunk, piece)) = batch.pieces.front().copied() else {
                break;
            };
            let room = match piece.source {
                Source::Journal(_) => longest - (buffer.len() - begin),
                Source::Zero { .. } => u32::MAX as usize,
            };
            if room == 0 {
                break;
            }
            let length = usize::try_from(piece.end - piece.offset)
                .unwrap_or(usize::MAX)
                .min(room);
            let (kind, checksum) = match piece.source {
                Source::Journal(address) => {
                    self.load(batch, chunk)?;
                    let from = usize::try_from(address - chunk - BLOCK_BYTES_U64).unwrap_or(usize::MAX);
                    let bytes = &batch.payloads[from..from + length];
                    buffer.extend_from_slice(bytes);
                    (RecordKind::Write, crc32c::crc32c(bytes))
                }
                Source::Zero { allocate: true, .. } => (RecordKind::Zero { allocate: true }, 0),
                Source::Zero { .. } => (RecordKind::Trim, 0),
            };
            records.push(Record {
                offset: piece.offset,
                length: u32::try_from(length).unwrap_or(u32::MAX),
                checksum,
                age_us: 0,
                kind,
            });
            batch.pieces.pop_front();
            if piece.offset + (length as u64) < piece.end {
                batch.pieces.push_front((chunk, rest_of(piece, length as u64)));
            }
        }
        Ok(records)
    }

    /// Reads the payloads of a chunk of the journal, unless that was done last.
    fn load(&self, batch: &mut MergedBatch, chunk: u64) -> Result<(), ReadError> {
        if batch.loaded == Some(chunk) {
            return Ok(());
        }
        batch.loaded = None;
        let intact = self.journal.read_payloads(chunk, &mut batch.payloads)?;
        if intact {
            batch.loaded = Some(chunk);
            return Ok(());
        }
        if batch.start.address < self.points().tail.address {
            return Err(ReadError::Behind(batch.start.record));
        }
        let offset = self.journal.layout.file_offset(chunk);
        let text = "a chunk was durable and is damaged; restore the journal, or remove the remote and add it again, so that \
                    it gets a full copy";
        Err(StorageError::damaged(self.journal.device.name(), offset, text.to_owned()).into())
    }
}

/// What is left of a piece behind its first bytes.
fn rest_of(piece: Piece, taken: u64) -> Piece {
    Piece {
        offset: piece.offset + taken,
        source: match piece.source {
            Source::Journal(address) => Source::Journal(address + taken),
            zero @ Source::Zero { .. } => zero,
        },
        ..piece
    }
}

/// What of a backlog is to be sent, in bytes.
#[derive(Debug, Clone, Copy, Default)]
struct Left {
    payloads: u64,
    /// Trimmed or zeroed.
    erased: u64,
}

/// Takes the records of a chunk over what was there.
fn take(found: &mut Overlay, what: &What<'_>, address: u64, left: &mut Left) {
    for (record, source) in sources(what, address) {
        let gone = covered(found, &record);
        let payload = u64::from(record.payload_bytes());
        left.payloads = left.payloads + payload - gone.payloads;
        left.erased = left.erased + u64::from(record.length) - payload - gone.erased;
        found.insert(record.offset, record.end(), source);
    }
}

/// What a record overwrites.
fn covered(found: &Overlay, record: &Record) -> Left {
    let mut covered = Left::default();
    for piece in found.pieces(record.offset, record.end()) {
        let length = piece.end - piece.offset;
        match piece.source {
            Source::Journal(_) => covered.payloads += length,
            Source::Zero { .. } => covered.erased += length,
        }
    }
    covered
}

/// The chunk in which a piece lies; `chunks` are their addresses in order.
fn chunk_of(chunks: &[u64], piece: &Piece) -> u64 {
    let address = piece.source.address();
    let at = chunks.partition_point(|chunk| *chunk <= address);
    at.checked_sub(1).map_or(0, |at| chunks[at])
}
