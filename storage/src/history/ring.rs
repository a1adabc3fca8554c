//! Into the ring: marks and before-images gathered to chunks, room made by dropping the oldest segment.

use super::index::{Entry, Moment, ZEROES};
use super::{History, Mark};
use crate::error::StorageError;
use crate::journal::{point_after, store_superblock};
use crate::limits::{HISTORY_GRANULE_BYTES, HISTORY_ITEM_BYTES, MIN_HISTORY_ITEMS};
use farside_protocol::journal::limits::{BLOCK_BYTES, BLOCK_BYTES_U64, MAX_RECORDS};
use farside_protocol::journal::{
    ChainPoint, ChunkHeader, MARK_COPYING, MARK_MOMENT, MARK_POSITION, Place, Record, RecordKind, Superblock,
    What, encode_what, stored_bytes,
};
use std::io::IoSlice;

/// The end of the ring, and what waits to go there.
#[derive(Debug)]
pub(super) struct Writer {
    pub(super) superblock: Superblock,
    pub(super) head: ChainPoint,
    pub(super) durable: ChainPoint,
    pub(super) tail: ChainPoint,
    /// The newest mark, written or waiting.
    pub(super) marked: Option<Mark>,
    /// Bytes since the newest moment: what it needs to stay.
    since_moment: u64,
    /// It needed more than there may be.
    overflowed: bool,
    records: Vec<Record>,
    data: Vec<u8>,
    /// The moment of each mark that waits, by its place among the records.
    moments: Vec<(usize, Moment)>,
    first_time_us: u64,
    time_us: u64,
    block: Box<[u8; BLOCK_BYTES]>,
}

impl Writer {
    pub(super) fn new(superblock: Superblock, head: ChainPoint, marked: Option<Mark>) -> Self {
        Self {
            tail: superblock.tail,
            superblock,
            durable: head,
            marked,
            since_moment: 0,
            overflowed: false,
            records: Vec::new(),
            data: Vec::new(),
            moments: Vec::new(),
            first_time_us: head.sealed_at_us,
            time_us: head.sealed_at_us,
            block: Box::new([0; BLOCK_BYTES]),
            head,
        }
    }
}

impl Writer {
    /// What waits is not written any more, and no mark counts.
    pub(super) fn drop_waiting(&mut self) {
        (self.marked, self.since_moment, self.overflowed) = (None, 0, false);
        self.records.clear();
        self.data.clear();
        self.moments.clear();
    }
}

impl History {
    /// The image is where `mark` says, and what is told from here on is overwritten after that.
    ///
    /// # Errors
    /// [`StorageError`] of the ring.
    pub fn mark(&self, mark: Mark) -> Result<(), StorageError> {
        let mut writer = self.writer.lock();
        if writer.marked == Some(mark) {
            return Ok(());
        }
        let time_us = mark.point.sealed_at_us.max(writer.time_us);
        let age_fits = u32::try_from(time_us - writer.first_time_us).is_ok();
        if writer.records.len() + 2 > MAX_RECORDS || (!age_fits && !writer.records.is_empty()) {
            self.seal(&mut writer)?;
        }
        if writer.records.is_empty() {
            writer.first_time_us = time_us;
        }
        writer.time_us = time_us;
        let kind = if mark.settled { MARK_MOMENT } else { MARK_COPYING };
        let moment = Moment {
            record: mark.point.record,
            time_us,
            serial: 0,
            settled: mark.settled,
        };
        let at = writer.records.len();
        writer.moments.push((at, moment));
        let age_us = u32::try_from(time_us - writer.first_time_us).unwrap_or(u32::MAX);
        for (kind, number) in [(kind, mark.point.record), (MARK_POSITION, mark.point.address)] {
            writer.records.push(Record {
                offset: number,
                length: 0,
                checksum: 0,
                // Counted from the first mark of the chunk, until that is sealed.
                age_us,
                kind: RecordKind::Mark(kind),
            });
        }
        writer.marked = Some(mark);
        if mark.settled {
            writer.since_moment = 0;
        }
        Ok(())
    }

    /// What stands at `offset` and is about to be overwritten.
    ///
    /// # Errors
    /// [`StorageError`] of the ring, also when one moment needs more than half of it.
    pub fn before(&self, offset: u64, content: &[u8]) -> Result<(), StorageError> {
        let longest = u64::from(self.journal.layout.max_data_bytes()).min(HISTORY_GRANULE_BYTES);
        let (mut at, mut rest) = (offset, content);
        while !rest.is_empty() {
            let cut = (at / HISTORY_GRANULE_BYTES + 1) * HISTORY_GRANULE_BYTES - at;
            let length = usize::try_from(cut.min(longest))
                .unwrap_or(usize::MAX)
                .min(rest.len());
            let (piece, later) = rest.split_at(length);
            if is_zero(piece) {
                self.zeroes_before(at, piece.len() as u64)?;
            } else {
                self.piece_before(at, piece)?;
            }
            at += piece.len() as u64;
            rest = later;
        }
        Ok(())
    }

    fn piece_before(&self, offset: u64, piece: &[u8]) -> Result<(), StorageError> {
        let mut writer = self.writer.lock();
        let full = writer.data.len() + piece.len() > self.journal.layout.max_data_bytes() as usize;
        if full || writer.records.len() == MAX_RECORDS {
            self.seal(&mut writer)?;
        }
        self.count(&mut writer, piece.len() as u64)?;
        writer.records.push(Record {
            offset,
            length: u32::try_from(piece.len()).unwrap_or(u32::MAX),
            checksum: crc32c::crc32c(piece),
            age_us: 0,
            kind: RecordKind::Write,
        });
        writer.data.extend_from_slice(piece);
        Ok(())
    }

    /// The range reads as zeroes and is about to be overwritten.
    ///
    /// # Errors
    /// As [`before`](Self::before).
    pub fn zeroes_before(&self, offset: u64, length: u64) -> Result<(), StorageError> {
        let mut writer = self.writer.lock();
        let (mut at, end) = (offset, offset + length);
        while at < end {
            // Whole granules, so that no entry is longer than it says.
            let length = (end - at).min(u64::from(u32::MAX) / HISTORY_GRANULE_BYTES * HISTORY_GRANULE_BYTES);
            if writer.records.len() == MAX_RECORDS {
                self.seal(&mut writer)?;
            }
            self.count(&mut writer, 0)?;
            writer.records.push(Record {
                offset: at,
                length: u32::try_from(length).unwrap_or(u32::MAX),
                checksum: 0,
                age_us: 0,
                kind: RecordKind::Trim,
            });
            at += length;
        }
        Ok(())
    }

    fn count(&self, writer: &mut Writer, bytes: u64) -> Result<(), StorageError> {
        writer.since_moment += bytes + BLOCK_BYTES_U64 / 32;
        if writer.since_moment <= self.journal.layout.ring_bytes() / 2 {
            return Ok(());
        }
        writer.overflowed = true;
        let text = "is too small for what was overwritten at once; it needs at least twice that";
        Err(StorageError::refused(self.journal.device.name(), text))
    }

    /// All that was told is durable: it may be overwritten.
    ///
    /// # Errors
    /// [`StorageError`] of the ring.
    pub fn commit(&self) -> Result<(), StorageError> {
        let mut writer = self.writer.lock();
        self.seal(&mut writer)?;
        self.sync(&mut writer)
    }

    /// Whether it could not take what a single moment needs; it can begin anew.
    pub(crate) fn has_overflowed(&self) -> bool {
        self.writer.lock().overflowed
    }

    pub(super) fn sync(&self, writer: &mut Writer) -> Result<(), StorageError> {
        if writer.durable.address != writer.head.address {
            self.journal.device.sync()?;
            writer.durable = writer.head;
        }
        Ok(())
    }

    /// Writes what waits as one chunk.
    fn seal(&self, writer: &mut Writer) -> Result<(), StorageError> {
        if writer.records.is_empty() {
            return Ok(());
        }
        let data_bytes = u32::try_from(writer.data.len()).unwrap_or(u32::MAX);
        let mut address = self
            .journal
            .layout
            .place(writer.head.address, stored_bytes(data_bytes));
        let (limit, open) = {
            let index = self.index.lock();
            (self.most_items(), index.open_items())
        };
        let layout = &self.journal.layout;
        // Never a whole segment, which recovery would not find begun.
        let is_inside = writer.head.address != layout.segment_start(layout.segment_of(writer.head.address));
        if open > limit / 4 && is_inside {
            address = address.max(layout.segment_end(writer.head.address));
        }
        let end = address + stored_bytes(data_bytes);
        if end - writer.durable.address > self.journal.layout.window_bytes() {
            self.sync(writer)?;
        }
        self.make_room(writer, end)?;
        let point = self.write_chunk(writer, address)?;
        self.take_into_index(writer, address);
        writer.head = point;
        writer.records.clear();
        writer.data.clear();
        writer.moments.clear();
        Ok(())
    }

    pub(super) fn most_items(&self) -> usize {
        let most =
            usize::try_from(self.journal.layout.ring_bytes() / HISTORY_ITEM_BYTES).unwrap_or(usize::MAX);
        most.max(MIN_HISTORY_ITEMS)
    }

    fn write_chunk(&self, writer: &mut Writer, address: u64) -> Result<ChainPoint, StorageError> {
        let head = writer.head;
        let header = ChunkHeader {
            volume: self.journal.volume,
            epoch: writer.superblock.epoch,
            sequence: head.sequence + 1,
            first_record: head.record + 1,
            sealed_at_us: writer.time_us.max(head.sealed_at_us),
            previous_checksum: head.checksum,
            blocks_before: head.blocks,
            bytes_before: head.bytes,
        };
        // What was counted from the first mark becomes an age.
        let span = u32::try_from(writer.time_us - writer.first_time_us).unwrap_or(u32::MAX);
        for record in &mut writer.records {
            if matches!(record.kind, RecordKind::Mark(_)) {
                record.age_us = span.saturating_sub(record.age_us);
            }
        }
        let Writer {
            block, records, data, ..
        } = writer;
        block.fill(0);
        let (_, what_checksum) = encode_what(block.as_mut_slice(), &header, records);
        let place = Place {
            journal: self.journal.journal,
            address,
            sequence: header.sequence,
            what_checksum,
            tail: writer.tail.record,
            mirrored: writer.tail.record,
            durable: writer.durable.record,
            acked: writer.durable.record,
        };
        place.encode(block.as_mut_slice());
        let padding = vec![0; data.len().next_multiple_of(BLOCK_BYTES) - data.len()];
        let mut buffers = [
            IoSlice::new(block.as_slice()),
            IoSlice::new(data),
            IoSlice::new(&padding),
        ];
        let offset = self.journal.layout.file_offset(address);
        self.journal.device.write_at(&mut buffers, offset)?;
        let what = What::decode(block.as_slice()).expect("the block was encoded just before");
        Ok(point_after(&what, address))
    }

    /// What is in the ring can be found from now on.
    fn take_into_index(&self, writer: &Writer, address: u64) {
        let layout = &self.journal.layout;
        let first = writer.head.record + 1;
        let mut index = self.index.lock();
        let before = ChainPoint {
            address,
            ..writer.head
        };
        index.begin_segment(layout.segment_of(address), before, first);
        let start = layout.segment_start(layout.segment_of(address));
        let records = writer.records.iter().copied();
        let mut moments = writer.moments.iter();
        add_records(
            &mut index,
            records,
            (first, address + BLOCK_BYTES_U64 - start),
            |_| moments.next().map(|(_, moment)| *moment),
        );
    }

    /// Drops what is oldest until the ring holds what ends at `end`.
    fn make_room(&self, writer: &mut Writer, end: u64) -> Result<(), StorageError> {
        let ring = self.journal.layout.ring_bytes();
        let mut tail = writer.tail;
        {
            let mut index = self.index.lock();
            let limit = self.most_items();
            while end - tail.address > ring || index.items() > limit {
                if index.segments.len() < 2 {
                    break;
                }
                if index.oldest_is_pinned() {
                    tracing::warn!(
                        "{}: full of what came after a moment that is to be kept; that moment is given up, because \
                         mirroring goes on",
                        self.journal.device.name()
                    );
                }
                tail = index.drop_oldest().unwrap_or(tail);
            }
        }
        if end - tail.address > ring {
            writer.overflowed = true;
            let text = "is too small for what was overwritten at once";
            return Err(StorageError::refused(self.journal.device.name(), text));
        }
        if tail.address != writer.tail.address {
            // Nothing of the old tail may be overwritten while a start would begin there.
            self.sync(writer)?;
            self.record_tail(writer, tail)?;
        }
        Ok(())
    }

    /// Says durably up to where the ring is durable: what is damaged up to there is not taken for something that never was.
    ///
    /// # Errors
    /// [`StorageError`] of the ring.
    pub fn record_head(&self) -> Result<(), StorageError> {
        let mut writer = self.writer.lock();
        if writer.superblock.head == writer.durable {
            return Ok(());
        }
        let tail = writer.tail;
        self.record_tail(&mut writer, tail)
    }

    pub(super) fn record_tail(&self, writer: &mut Writer, tail: ChainPoint) -> Result<(), StorageError> {
        writer.tail = tail;
        let superblock = &mut writer.superblock;
        (superblock.tail, superblock.mirrored, superblock.head) = (tail, tail, writer.durable);
        superblock.generation += 1;
        store_superblock(self.journal.device.as_ref(), superblock)?;
        self.journal.device.sync()
    }
}

/// Puts the records of a chunk into the newest segment's table. `at` is the serial of the first and where the payload begins
/// in the segment.
pub(super) fn add_records(
    index: &mut super::Index,
    records: impl Iterator<Item = Record>,
    at: (u64, u64),
    mut moment_of: impl FnMut(&Record) -> Option<Moment>,
) {
    let segment_first = index.segments.back().map_or(0, |segment| segment.first_serial);
    let (first, mut place) = at;
    for (serial, record) in (first..).zip(records) {
        let relative = u32::try_from(serial - segment_first).unwrap_or(u32::MAX);
        let mut entry = Entry {
            offset: record.offset,
            length: record.length,
            serial: relative,
            place: ZEROES,
            checksum: record.checksum,
        };
        match record.kind {
            RecordKind::Mark(MARK_MOMENT | MARK_COPYING) => {
                if let Some(moment) = moment_of(&record) {
                    index.add_moment(Moment { serial, ..moment });
                }
            }
            RecordKind::Mark(_) => {}
            RecordKind::Write => {
                entry.place = u32::try_from(place).unwrap_or(ZEROES);
                place += u64::from(record.length);
                index.add(entry);
            }
            RecordKind::Trim | RecordKind::Zero { .. } => index.add(entry),
        }
    }
}

fn is_zero(bytes: &[u8]) -> bool {
    let (blocks, rest) = bytes.as_chunks::<64>();
    blocks.iter().all(|block| *block == [0; 64]) && rest.iter().all(|byte| *byte == 0)
}
