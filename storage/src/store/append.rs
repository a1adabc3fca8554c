//! Into the journal: a group of host changes sealed as one chunk, or a chunk that a link brought.
//!
//! One vectored write per chunk. A chunk is visible to reads when the call returns; it is durable after the
//! next successful [`Store::sync`].

use super::Store;
use super::core::{Plan, plan};
use super::state::Points;
use crate::error::StorageError;
use crate::journal::{continues, point_after};
use bytes::Bytes;
use farside_protocol::journal::limits::{BLOCK_BYTES, MAX_REACHED};
use farside_protocol::journal::{ChainPoint, ChunkHeader, Place, Record, RecordKind, What, encode_what};
use std::collections::VecDeque;
use std::io::IoSlice;

/// One change a host asked for.
#[derive(Debug, Clone)]
pub struct Change {
    /// First byte of the volume that changes.
    pub offset: u64,
    /// Number of bytes that change; for a write the length of `data`.
    pub length: u32,
    /// What happens there.
    pub kind: RecordKind,
    /// The payload of a write, else empty.
    pub data: Bytes,
    /// When it arrived, in microseconds since 1970.
    pub arrived_us: u64,
}

/// What a call appended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Appended {
    /// The point just after the chunk.
    pub point: ChainPoint,
}

/// Why nothing was appended.
#[derive(Debug, thiserror::Error)]
pub enum AppendError {
    /// The ring has no room until the tail moves.
    #[error("the journal is full")]
    Full,
    /// Too much is not durable yet: a sync has to come first.
    #[error("too much of the journal is not durable yet")]
    NotDurable,
    /// Too many ranges wait for the image.
    #[error("too many changes wait for the image")]
    Pending,
    /// The chunk does not continue what the journal holds.
    #[error("chunk {found} does not follow chunk {expected}")]
    Gap {
        /// Sequence that came.
        found: u64,
        /// Sequence held before it.
        expected: u64,
    },
    /// Whoever made the chunk broke the format.
    #[error("chunk {0} is longer than a segment, or says that the journal is where none can be")]
    Impossible(u64),
    /// The disk failed, now or before.
    #[error(transparent)]
    Storage(#[from] StorageError),
}

/// The end of the journal, owned by whoever appends.
#[derive(Debug)]
pub(super) struct Appender {
    pub(super) head: ChainPoint,
    pub(super) epoch: u64,
    block: Box<[u8; BLOCK_BYTES]>,
    /// Bytes of the block that the *what* part of the chunk before took.
    used: usize,
    records: Vec<Record>,
    /// A merged batch whose end has not come: its chunks are in the ring, and do not count yet.
    batch: Option<Batch>,
}

/// What has come of a merged batch.
#[derive(Debug, Clone, Copy)]
struct Batch {
    /// The point after its newest chunk.
    at: ChainPoint,
    chunks: u64,
    records: u64,
}

static PADDING: [u8; BLOCK_BYTES] = [0; BLOCK_BYTES];

impl Appender {
    pub(super) fn new(head: ChainPoint, epoch: u64) -> Self {
        Self {
            head,
            epoch,
            block: Box::new([0; BLOCK_BYTES]),
            used: 0,
            records: Vec::new(),
            batch: None,
        }
    }

    /// From now on the next chunk follows this point; what has come of a batch is forgotten.
    pub(super) fn go_to(&mut self, head: ChainPoint) {
        self.head = head;
        self.batch = None;
    }

    /// Zeroes what the chunk before left behind the *what* part of this one; the *where* part is written each time.
    fn clear_behind(&mut self, length: usize) {
        if length < self.used {
            self.block[length..self.used].fill(0);
        }
        self.used = length;
    }

    /// Describes the changes of a plan, splitting the first if it alone is too large.
    fn take_changes(&mut self, plan: &Plan, pending: &VecDeque<Change>, sealed_at_us: u64) {
        self.records.clear();
        for change in pending.iter().take(plan.changes) {
            let data = &change.data[..change.data.len().min(plan.data_bytes as usize)];
            let is_write = change.kind == RecordKind::Write;
            self.records.push(Record {
                offset: change.offset,
                length: if is_write {
                    u32::try_from(data.len()).unwrap_or(u32::MAX)
                } else {
                    change.length
                },
                checksum: if is_write { crc32c::crc32c(data) } else { 0 },
                age_us: u32::try_from(sealed_at_us.saturating_sub(change.arrived_us)).unwrap_or(u32::MAX),
                kind: change.kind,
            });
        }
    }
}

impl Store {
    /// Seals as many of the `pending` changes as one chunk holds and removes them from the front. A change
    /// larger than a chunk is split; the rest of it stays in front.
    ///
    /// # Errors
    /// [`AppendError`]; then nothing was taken. After a failed write the store is degraded for good.
    pub fn append(&self, pending: &mut VecDeque<Change>) -> Result<Appended, AppendError> {
        let mut appender = self.appender.lock();
        self.check_usable()?;
        let plan = plan(
            &self.journal.layout,
            appender.head.address,
            pending.iter().map(|c| c.data.len() as u64),
        );
        let points = self.claim_room(plan.end())?;
        let sealed_at_us = self.clock.wall_us().max(appender.head.sealed_at_us);
        appender.take_changes(&plan, pending, sealed_at_us);
        let header = ChunkHeader {
            volume: self.journal.volume,
            epoch: appender.epoch,
            sequence: appender.head.sequence + 1,
            first_record: appender.head.record + 1,
            sealed_at_us,
            previous_checksum: appender.head.checksum,
            blocks_before: appender.head.blocks,
            bytes_before: appender.head.bytes,
        };
        let Appender { block, records, .. } = &mut *appender;
        let (length, checksum) = encode_what(block.as_mut_slice(), &header, records);
        appender.clear_behind(length);
        let place = self.place_at(plan.address, (header.sequence, checksum), &points);
        place.encode(appender.block.as_mut_slice());
        let what = What::decode(appender.block.as_slice()).expect("the block was encoded just before");
        let point = point_after(&what, plan.address);
        let mut budget = plan.data_bytes as usize;
        let payloads = pending.iter().take(plan.changes).map(|change| {
            let part = &change.data[..change.data.len().min(budget)];
            budget -= part.len();
            part
        });
        self.write_chunk(&appender.block, plan.address, payloads)?;
        self.take_up(&what, point);
        appender.head = point;
        consume(pending, &plan);
        Ok(Appended { point })
    }

    /// Appends a chunk that a link brought: `what` and `data` as another journal sealed them. The caller has
    /// verified its payload checksums. Chunks of a merged batch count when the last of them has come; if another chunk comes
    /// instead, they never were.
    ///
    /// # Errors
    /// [`AppendError`]; then nothing was taken.
    pub fn append_sealed(&self, what: &What<'_>, data: &[u8]) -> Result<Appended, AppendError> {
        let mut appender = self.appender.lock();
        self.check_usable()?;
        let layout = &self.journal.layout;
        if what.stored_bytes() > layout.segment_bytes || what.last_record() > MAX_REACHED {
            return Err(AppendError::Impossible(what.header.sequence));
        }
        let head = self.place_to_go_on(&mut appender, what)?;
        let address = self.journal.layout.place(head.address, what.stored_bytes());
        let points = self.claim_room(address + what.stored_bytes())?;
        let length = what.as_bytes().len();
        appender.clear_behind(length);
        appender.block[..length].copy_from_slice(what.as_bytes());
        let place = self.place_at(address, (what.header.sequence, what.checksum), &points);
        place.encode(appender.block.as_mut_slice());
        let point = point_after(what, address);
        self.write_chunk(&appender.block, address, std::iter::once(data))?;
        if what.has_more() {
            let before = appender
                .batch
                .map_or((0, 0), |batch| (batch.chunks, batch.records));
            appender.batch = Some(Batch {
                at: point,
                chunks: before.0 + 1,
                records: before.1 + what.record_count() as u64,
            });
            return Ok(Appended { point });
        }
        self.take_up(what, point);
        if let Some(batch) = appender.batch {
            let mut state = self.state.lock();
            state.counters.chunks += batch.chunks;
            state.counters.records += batch.records;
        }
        appender.go_to(point);
        Ok(Appended { point })
    }

    /// The point after which the chunk goes into the ring.
    fn place_to_go_on(&self, appender: &mut Appender, what: &What<'_>) -> Result<ChainPoint, AppendError> {
        if let Some(batch) = &appender.batch {
            if what.merged().is_some() && continues(&batch.at, what) {
                return Ok(batch.at);
            }
            // Where the next chunk goes to the next segment, the batch's first would stand in its way.
            let erased = self.journal.erase_false_successors(&appender.head);
            self.guard(erased)?;
            appender.batch = None;
        }
        if continues(&appender.head, what) {
            return Ok(appender.head);
        }
        let (found, expected) = (what.header.sequence, appender.head.sequence);
        Err(AppendError::Gap { found, expected })
    }

    /// A chunk in the journal counts from now on.
    fn take_up(&self, what: &What<'_>, point: ChainPoint) {
        let mut state = self.state.lock();
        state.take_up(what, point.address - what.stored_bytes(), point);
        state.points.assert_ordered();
    }

    /// Checks that the journal may grow to `end`.
    fn claim_room(&self, end: u64) -> Result<Points, AppendError> {
        let layout = &self.journal.layout;
        let mut state = self.state.lock();
        if end - state.points.tail.address > layout.ring_bytes() {
            state.space_wanted = true;
            return Err(AppendError::Full);
        }
        if end - state.points.synced.address > layout.window_bytes()
            && state.points.synced != state.points.journaled
        {
            return Err(AppendError::NotDurable);
        }
        if state.has_no_room_for_pieces() {
            return Err(AppendError::Pending);
        }
        Ok(state.points)
    }

    /// The *where* part of a chunk.
    fn place_at(&self, address: u64, (sequence, what_checksum): (u64, u32), points: &Points) -> Place {
        Place {
            journal: self.journal.journal,
            address,
            sequence,
            what_checksum,
            tail: points.tail.record,
            mirrored: points.mirrored.record,
            durable: points.durable.record,
            acked: self.acked(),
        }
    }

    /// Writes meta-data block, payloads and padding with one call.
    fn write_chunk<'a>(
        &self,
        block: &[u8; BLOCK_BYTES],
        address: u64,
        payloads: impl Iterator<Item = &'a [u8]>,
    ) -> Result<(), StorageError> {
        let mut buffers = Vec::with_capacity(8);
        buffers.push(IoSlice::new(block.as_slice()));
        for payload in payloads.filter(|payload| !payload.is_empty()) {
            buffers.push(IoSlice::new(payload));
        }
        let written: usize = buffers.iter().map(|buffer| buffer.len()).sum();
        let padding = written.next_multiple_of(BLOCK_BYTES) - written;
        if padding > 0 {
            buffers.push(IoSlice::new(&PADDING[..padding]));
        }
        let offset = self.journal.layout.file_offset(address);
        self.guard(self.journal.device.write_at(&mut buffers, offset))
    }
}

/// Removes what a plan took from the front of the queue.
fn consume(pending: &mut VecDeque<Change>, plan: &Plan) {
    let split = plan.changes == 1
        && pending
            .front()
            .is_some_and(|c| c.data.len() > plan.data_bytes as usize);
    if let (true, Some(change)) = (split, pending.front_mut()) {
        let taken = change.data.split_to(plan.data_bytes as usize);
        change.offset += taken.len() as u64;
        change.length = u32::try_from(change.data.len()).unwrap_or(u32::MAX);
        return;
    }
    pending.drain(..plan.changes);
}
