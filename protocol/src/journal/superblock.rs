//! The superblock of a journal: identity, geometry, and the points from which recovery starts.
//!
//! Two copies are written in turn with a rising generation; the newest valid one counts, so that a torn write
//! loses at most the newest change. Layout (version 1), offsets in bytes:
//!
//! | offset | size | field |
//! | --- | --- | --- |
//! | 0 | 8 | magic `FARSIDEJ` |
//! | 8 | 2 | version |
//! | 10 | 2 | role: 1 volume, 2 replica, 3 history |
//! | 12 | 4 | flags: 1 clean shutdown, 2 the image is written only after its history, 4 nothing after the head counts |
//! | 16 | 8 | generation |
//! | 24 | 16 | journal UUID |
//! | 40 | 16 | volume UUID |
//! | 56 | 8 | volume size in bytes |
//! | 64 | 4 | segment size in bytes |
//! | 68 | 4 | segments |
//! | 72 | 8 | creation time, microseconds since 1970 |
//! | 80 | 8 | epoch |
//! | 88 | 8 | starts: how often the journal was opened for writing |
//! | 96 | 64 | head (exact after a clean shutdown, a lower bound otherwise) |
//! | 160 | 64 | tail |
//! | 224 | 64 | mirrored |
//! | 288 | 4 | copy state of a replica: 0 empty, 1 copying, 2 complete |
//! | 292 | 4 | window: segments that may be non-durable at once |
//! | 296 | 8 | copy: bytes of the image copied durably |
//! | 304 | 8 | record from which the replica is consistent |
//! | 312 | 33 | name: length and up to 32 bytes |
//! | 345 | 7 | zero |
//! | 352 | 16 | unit UUID of the sender (replica), UUID of the journal whose past it keeps (history) |
//! | 368 | 8 x 3 | totals at the last checkpoint: blocks written, sent, received |
//! | 392 | 4 | consumers |
//! | 396 | 4 | copy: its id, given by the sender; 0 if none was begun |
//! | 400 | 112 x 8 | consumers: name (33), zero (7), state (4), id of the copy under way or 0 (4), point (64) |
//! | 4092 | 4 | crc32c of bytes 0..4092 |
//!
//! A point is address, sequence, record, epoch, sealing time (8 bytes each), *what* checksum (4),
//! zero (4), blocks and bytes changed so far (8 each).

use super::error::{FormatError, take_zeroes};
use super::limits::{
    BLOCK_BYTES, BLOCK_BYTES_U64, MAX_CONSUMERS, MAX_POSITION, MAX_RING_BYTES, MAX_SEGMENT_BYTES,
    MAX_VOLUME_BYTES, MIN_SEGMENT_BYTES, MIN_SEGMENTS, RING_OFFSET,
};
use crate::fields::{Reader, Writer};
use uuid::Uuid;

mod fields;

use fields::{
    consumer_code, copy_code, decode_copy, decode_role, put_name, put_point, role_code, take_consumer,
    take_name, take_point,
};

const MAGIC: &[u8; 8] = b"FARSIDEJ";
/// Version ladder of journals: 1 is the first.
pub const JOURNAL_VERSION: u16 = 1;
const FLAG_CLEAN: u32 = 1;
const FLAG_REMEMBERS: u32 = 2;
const FLAG_CONFIRMS: u32 = 4;
const CHECKSUM_OFFSET: usize = BLOCK_BYTES - 4;
const CONSUMER_PAD: usize = 7;
const NAME_PAD: usize = 3;

/// The place just after a chunk: where the next one goes and what it must continue.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ChainPoint {
    /// Address of the first byte after the chunk.
    pub address: u64,
    /// Sequence of the chunk; 0 before the first.
    pub sequence: u64,
    /// Its last record; 0 before the first.
    pub record: u64,
    /// Its epoch.
    pub epoch: u64,
    /// Its sealing time in microseconds since 1970.
    pub sealed_at_us: u64,
    /// Checksum of its *what* part.
    pub checksum: u32,
    /// Blocks of 4 KiB changed by all records up to here.
    pub blocks: u64,
    /// Bytes changed by all records up to here.
    pub bytes: u64,
}

/// Whose journal it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// The journal of a volume, written by its host.
    Volume,
    /// The journal of a replica, written by a link.
    Replica,
    /// What an image held before it was overwritten, in a ring of the same format.
    History,
}

/// How far the first copy of a replica has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CopyState {
    /// Nothing was ever received.
    Empty,
    /// Being copied; not consistent.
    Copying,
    /// Copied; consistent from the record the superblock names.
    Complete,
}

/// What a consumer may expect of the journal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ConsumerState {
    /// Nothing is kept for it: it needs a full copy.
    NeedsCopy,
    /// Everything after its point is kept; a full copy is under way.
    Copying,
    /// Everything after its point is kept.
    Attached,
}

/// One remote that the journal keeps records for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConsumerSlot {
    /// Name of the remote.
    pub name: String,
    /// What it may expect.
    pub state: ConsumerState,
    /// Up to where it confirmed.
    pub acked: ChainPoint,
    /// Names the copy under way, through its interruptions; 0 if there is none.
    pub copy_id: u32,
}

/// Blocks of 4 KiB counted over a journal's whole life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Totals {
    /// Written by hosts (volume) or received by the link (replica).
    pub written: u64,
    /// Sent to remotes.
    pub sent: u64,
    /// Confirmed by remotes.
    pub received: u64,
}

/// A decoded superblock.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Superblock {
    /// Volume, replica or history.
    pub role: Role,
    /// Whether the last writer shut down cleanly.
    pub clean: bool,
    /// Whether everything that the image held since the history's last mark went into the history before it was
    /// overwritten. Without it a history is of no use.
    pub remembers: bool,
    /// The head is exact also after an unclean end: of what lies after it in the ring nothing was confirmed.
    pub confirms: bool,
    /// Of a history, and of the journal whose image it belongs to: how often that one was found to be older than the history.
    /// Another number than the history's is that of an older copy, about which the history says nothing.
    pub history_line: u32,
    /// Rises with each write of a superblock.
    pub generation: u64,
    /// This journal.
    pub journal: Uuid,
    /// The volume whose history it keeps.
    pub volume: Uuid,
    /// Size of the volume.
    pub volume_bytes: u64,
    /// Size of a segment.
    pub segment_bytes: u32,
    /// Number of segments.
    pub segment_count: u32,
    /// Segments that may be non-durable at once; bounds the search for the head.
    pub window_segments: u32,
    /// When it was made, in microseconds since 1970.
    pub created_at_us: u64,
    /// The period of one writer.
    pub epoch: u64,
    /// How often it was opened for writing.
    pub starts: u64,
    /// The newest chunk, exact after a clean shutdown.
    pub head: ChainPoint,
    /// Nothing before it is needed.
    pub tail: ChainPoint,
    /// The image holds everything before it.
    pub mirrored: ChainPoint,
    /// Copy state of a replica; `Complete` for a volume.
    pub copy: CopyState,
    /// Names the copy of a replica, as its sender does; 0 if none was begun.
    pub copy_id: u32,
    /// Bytes of the image that are copied.
    pub copy_offset: u64,
    /// The replica is consistent once this record is applied.
    pub consistent_from: u64,
    /// Name of the volume.
    pub name: String,
    /// Unit that feeds a replica; nil for a volume; the owning journal of a history.
    pub source: Uuid,
    /// Blocks counted over the journal's whole life, as of the last checkpoint.
    pub totals: Totals,
    /// Remotes that records are kept for.
    pub consumers: Vec<ConsumerSlot>,
}

impl Superblock {
    /// Bytes of the ring.
    #[must_use]
    pub fn ring_bytes(&self) -> u64 {
        u64::from(self.segment_bytes).saturating_mul(u64::from(self.segment_count))
    }

    /// Bytes of the whole journal.
    #[must_use]
    pub fn journal_bytes(&self) -> u64 {
        self.ring_bytes().saturating_add(RING_OFFSET)
    }

    /// The block as it stands on disk.
    ///
    /// # Panics
    /// With a name or list of consumers over the limits, which are checked where they enter.
    #[must_use]
    pub fn encode(&self) -> Box<[u8; BLOCK_BYTES]> {
        assert!(
            self.consumers.len() <= MAX_CONSUMERS,
            "at most {MAX_CONSUMERS} remotes"
        );
        let mut block = Box::new([0_u8; BLOCK_BYTES]);
        let mut to = Writer::new(block.as_mut_slice());
        let flag = |set, flag| if set { flag } else { 0 };
        let flags = flag(self.clean, FLAG_CLEAN)
            | flag(self.remembers, FLAG_REMEMBERS)
            | flag(self.confirms, FLAG_CONFIRMS);
        to.bytes(MAGIC)
            .u16(JOURNAL_VERSION)
            .u16(role_code(self.role))
            .u32(flags)
            .u64(self.generation);
        to.uuid(self.journal).uuid(self.volume).u64(self.volume_bytes);
        to.u32(self.segment_bytes)
            .u32(self.segment_count)
            .u64(self.created_at_us);
        to.u64(self.epoch).u64(self.starts);
        for point in [&self.head, &self.tail, &self.mirrored] {
            put_point(&mut to, point);
        }
        to.u32(copy_code(self.copy))
            .u32(self.window_segments)
            .u64(self.copy_offset)
            .u64(self.consistent_from);
        put_name(&mut to, &self.name);
        to.zeroes(NAME_PAD).u32(self.history_line).uuid(self.source);
        to.u64(self.totals.written)
            .u64(self.totals.sent)
            .u64(self.totals.received);
        to.u32(u32::try_from(self.consumers.len()).unwrap_or(0))
            .u32(self.copy_id);
        for slot in &self.consumers {
            put_name(&mut to, &slot.name);
            to.zeroes(CONSUMER_PAD)
                .u32(consumer_code(slot.state))
                .u32(slot.copy_id);
            put_point(&mut to, &slot.acked);
        }
        let checksum = crc32c::crc32c(block.get(..CHECKSUM_OFFSET).unwrap_or(&[]));
        if let Some(field) = block.get_mut(CHECKSUM_OFFSET..) {
            Writer::new(field).u32(checksum);
        }
        block
    }

    /// Decodes one copy.
    ///
    /// # Errors
    /// [`FormatError`] naming the first thing that is wrong.
    pub fn decode(bytes: &[u8]) -> Result<Self, FormatError> {
        let block = bytes.get(..BLOCK_BYTES).ok_or(FormatError::Truncated)?;
        let mut from = Reader::new(block);
        if from.bytes(8)? != MAGIC {
            return Err(FormatError::Magic);
        }
        let version = from.u16()?;
        let stored = Reader::new(block.get(CHECKSUM_OFFSET..).unwrap_or(&[])).u32()?;
        let intact = stored == crc32c::crc32c(block.get(..CHECKSUM_OFFSET).unwrap_or(&[]));
        if !intact {
            return Err(FormatError::Checksum);
        }
        if version != JOURNAL_VERSION {
            return Err(FormatError::Version(version, JOURNAL_VERSION));
        }
        let superblock = Self::decode_fields(&mut from)?;
        let unused = from.rest().len().saturating_sub(4);
        take_zeroes(&mut from, unused)?;
        superblock.check_geometry()?;
        superblock.check_positions()?;
        superblock.check_consumers()?;
        Ok(superblock)
    }

    /// The version a block claims to have, believed even where nothing else of it can be read.
    #[must_use]
    pub fn claimed_version(bytes: &[u8]) -> Option<u16> {
        let mut from = Reader::new(bytes);
        let ours = from.bytes(8).is_ok_and(|magic| magic == MAGIC);
        if ours { from.u16().ok() } else { None }
    }

    fn decode_fields(from: &mut Reader<'_>) -> Result<Self, FormatError> {
        let (role, flags, generation) = (decode_role(from.u16()?)?, from.u32()?, from.u64()?);
        if flags & !(FLAG_CLEAN | FLAG_REMEMBERS | FLAG_CONFIRMS) != 0 {
            return Err(FormatError::Field("flags"));
        }
        let (journal, volume, volume_bytes) = (from.uuid()?, from.uuid()?, from.u64()?);
        let (segment_bytes, segment_count, created_at_us) = (from.u32()?, from.u32()?, from.u64()?);
        let (epoch, starts) = (from.u64()?, from.u64()?);
        let (head, tail, mirrored) = (take_point(from)?, take_point(from)?, take_point(from)?);
        let (copy, window_segments) = (decode_copy(from.u32()?)?, from.u32()?);
        let (copy_offset, consistent_from) = (from.u64()?, from.u64()?);
        let name = take_name(from)?;
        take_zeroes(from, NAME_PAD)?;
        let history_line = from.u32()?;
        let source = from.uuid()?;
        let totals = Totals {
            written: from.u64()?,
            sent: from.u64()?,
            received: from.u64()?,
        };
        let (count, copy_id) = (from.u32()?, from.u32()?);
        if usize::try_from(count).map_or(true, |count| count > MAX_CONSUMERS) {
            return Err(FormatError::Field("consumers"));
        }
        let consumers = (0..count)
            .map(|_| take_consumer(from))
            .collect::<Result<_, _>>()?;
        Ok(Self {
            role,
            clean: flags & FLAG_CLEAN != 0,
            remembers: flags & FLAG_REMEMBERS != 0,
            confirms: flags & FLAG_CONFIRMS != 0,
            history_line,
            generation,
            journal,
            volume,
            volume_bytes,
            segment_bytes,
            segment_count,
            window_segments,
            created_at_us,
            epoch,
            starts,
            head,
            tail,
            mirrored,
            copy,
            copy_id,
            copy_offset,
            consistent_from,
            name,
            source,
            totals,
            consumers,
        })
    }

    fn check_geometry(&self) -> Result<(), FormatError> {
        let segment = self.segment_bytes;
        if !segment.is_power_of_two() || !(MIN_SEGMENT_BYTES..=MAX_SEGMENT_BYTES).contains(&segment) {
            return Err(FormatError::Field("segment size"));
        }
        if self.segment_count < MIN_SEGMENTS {
            return Err(FormatError::Field("segments"));
        }
        if self.window_segments == 0 || self.window_segments > self.segment_count {
            return Err(FormatError::Field("window"));
        }
        if self.volume_bytes == 0
            || self.volume_bytes > MAX_VOLUME_BYTES
            || self.ring_bytes() > MAX_RING_BYTES
        {
            return Err(FormatError::Field("volume or ring size"));
        }
        Ok(())
    }

    fn check_positions(&self) -> Result<(), FormatError> {
        let points = [&self.tail, &self.mirrored, &self.head];
        let ordered = points
            .is_sorted_by(|a, b| a.address <= b.address && a.sequence <= b.sequence && a.record <= b.record);
        let used = self.head.address.saturating_sub(self.tail.address);
        if !ordered || used > self.ring_bytes() || !points.into_iter().all(point_is_valid) {
            return Err(FormatError::Field("positions"));
        }
        if self.epoch == 0 || self.epoch > MAX_POSITION || self.starts > MAX_POSITION {
            return Err(FormatError::Field("epoch or starts"));
        }
        if self.generation > MAX_POSITION || self.copy_offset > self.volume_bytes {
            return Err(FormatError::Field("generation or copy"));
        }
        Ok(())
    }

    fn check_consumers(&self) -> Result<(), FormatError> {
        for (index, slot) in self.consumers.iter().enumerate() {
            let before = self.consumers.iter().take(index);
            if !point_is_valid(&slot.acked) || before.into_iter().any(|other| other.name == slot.name) {
                return Err(FormatError::Field("consumers"));
            }
        }
        Ok(())
    }
}

/// Whether a point can be one of a journal: chunks begin and end at multiples of the block, and each has a record.
fn point_is_valid(point: &ChainPoint) -> bool {
    let numbers = [point.address, point.sequence, point.record, point.epoch];
    numbers.iter().all(|number| *number <= MAX_POSITION)
        && point.address.is_multiple_of(BLOCK_BYTES_U64)
        && point.sequence <= point.record
}
