//! What really happened to one volume: every record in the order of its journal, read from the bytes that reached the
//! journal's disk, not from anything the product says.
//!
//! It also knows which records are durable, by watching syncs, and which chunk every (epoch, sequence) ever stood for.

mod damage;
mod left_out;
mod received;

use farside_protocol::journal::{Record, RecordKind, What};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

/// A snapshot of the volume's state is kept every so many records.
const SNAPSHOT_EVERY: usize = 32;
/// What a read or a crash never tears.
const SECTOR: usize = 512;

/// One record of the volume.
#[derive(Debug, Clone)]
pub struct Entry {
    /// First byte changed.
    pub offset: usize,
    /// What stands there afterwards.
    pub bytes: Arc<[u8]>,
    /// Last record of its chunk.
    pub chunk_end: u64,
}

/// A change a host asked for and has not been answered about.
#[derive(Debug, Clone)]
struct Asked {
    number: u64,
    offset: u64,
    bytes: Arc<[u8]>,
    kind: RecordKind,
    /// Last record when it was asked for.
    since: u64,
    /// Bytes of it that were journaled.
    journaled: usize,
    /// The record of the last of them.
    last: u64,
}

/// The history of one volume.
#[derive(Debug, Clone)]
pub struct History {
    volume_bytes: usize,
    /// Entry `n` is record `n + 1`.
    entries: Vec<Entry>,
    snapshots: BTreeMap<u64, Arc<[u8]>>,
    sequence: u64,
    /// Last record that is durable on the disk, whatever the product thinks.
    durable: u64,
    /// Chunks that are not durable yet: where they stand on the disk, and their last record.
    volatile: VecDeque<(std::ops::Range<u64>, u64)>,
    /// What a copy that was put back may hold durably, until the volume starts from it.
    perhaps_durable: u64,
    /// Chunks by epoch and sequence: checksum and last record.
    chunks: BTreeMap<(u64, u64), (u32, u64)>,
    /// Chunks of what was to come, when the volume went back in time: some were still on their way.
    lost: BTreeSet<(u64, u64, u32)>,
    asked: Vec<Asked>,
    /// What was answered with an error and is in the journal, in part or whole.
    refused: Vec<Asked>,
    next_number: u64,
    /// Writes that change nothing may be missing in the journal.
    pub leaves_out: bool,
    /// Records that had been durable were damaged: the mirror may hold more than the journal knows.
    pub lost_its_end: bool,
    /// Since the volume was last opened its disks lost what was not durable.
    pub power_was_lost: bool,
    /// The highest record a host was told is journaled.
    pub acknowledged: u64,
    /// The highest record a host was told is durable.
    pub flushed: u64,
}

impl History {
    /// A volume of zeroes.
    #[must_use]
    pub fn new(volume_bytes: u64) -> Self {
        let volume_bytes = usize::try_from(volume_bytes).expect("simulated volumes are small");
        Self {
            volume_bytes,
            entries: Vec::new(),
            snapshots: BTreeMap::from([(0, vec![0; volume_bytes].into())]),
            sequence: 0,
            durable: 0,
            volatile: VecDeque::new(),
            perhaps_durable: 0,
            chunks: BTreeMap::new(),
            lost: BTreeSet::new(),
            asked: Vec::new(),
            refused: Vec::new(),
            next_number: 0,
            leaves_out: false,
            lost_its_end: false,
            power_was_lost: false,
            acknowledged: 0,
            flushed: 0,
        }
    }

    /// The most bytes that the volume can have.
    #[must_use]
    pub fn capacity(&self) -> u64 {
        self.volume_bytes as u64
    }

    /// Number of the last record.
    #[must_use]
    pub fn last(&self) -> u64 {
        self.entries.len() as u64
    }

    /// Last record that is durable on the journal's disk.
    #[must_use]
    pub fn durable(&self) -> u64 {
        self.durable
    }

    /// No record after this one is durable there.
    #[must_use]
    pub fn durable_at_most(&self) -> u64 {
        self.durable.max(self.perhaps_durable)
    }

    /// Records after `after`, up to `to`.
    pub fn between(&self, after: u64, to: u64) -> impl Iterator<Item = &Entry> {
        let index = |record: u64| {
            usize::try_from(record)
                .unwrap_or(usize::MAX)
                .min(self.entries.len())
        };
        self.entries[index(after)..index(to)].iter()
    }

    /// Whether a chunk ends with this record: the product never stands between.
    #[must_use]
    pub fn is_chunk_end(&self, record: u64) -> bool {
        record == 0
            || self
                .between(record - 1, record)
                .all(|entry| entry.chunk_end == record)
    }

    /// The volume after `record`.
    #[must_use]
    pub fn state_after(&self, record: u64) -> Vec<u8> {
        self.range_after(record, 0..self.volume_bytes)
    }

    /// A range of the volume after `record`.
    #[must_use]
    pub fn range_after(&self, record: u64, range: std::ops::Range<usize>) -> Vec<u8> {
        let snapshots = self.snapshots.range(..=record).next_back();
        let (base, snapshot) = snapshots.expect("there is one at 0");
        let mut state = snapshot[range.clone()].to_vec();
        for entry in self.between(*base, record) {
            entry.apply(&mut state, range.start);
        }
        state
    }

    /// A host asks for a change. Its number.
    pub fn ask(&mut self, offset: u64, bytes: Arc<[u8]>, kind: RecordKind) -> u64 {
        self.next_number += 1;
        self.asked.push(Asked {
            number: self.next_number,
            offset,
            bytes,
            kind,
            since: self.entries.len() as u64,
            journaled: 0,
            last: 0,
        });
        self.next_number
    }

    /// The host was answered, with a promise that covers records up to `covered`; the last record of its change, 0 if
    /// it is not in the journal.
    ///
    /// # Panics
    /// When it was told that the change is done and it is not in the journal, whole and once.
    pub fn answered(&mut self, number: u64, done: bool, covered: u64) -> u64 {
        let at = self.asked.iter().position(|asked| asked.number == number);
        let mut asked = self.asked.remove(at.expect("a change is answered once"));
        // Of changes that are the same nobody can tell which one was journaled first. Let this one be the last that
        // its answer covers, which leaves earlier ones to the others. What was refused may be journaled all the same.
        let value = |asked: &Asked| {
            let whole = asked.journaled == asked.bytes.len();
            (whole && asked.last <= covered).then_some(asked.last)
        };
        if !done {
            let last = asked.last;
            if asked.journaled > 0 {
                self.refused.push(asked);
            }
            return last;
        }
        if self.leaves_out && asked.kind == RecordKind::Write {
            let last = self.took_effect(&asked, covered);
            self.acknowledged = self.acknowledged.max(last);
            return last;
        }
        let own = value(&asked);
        let twins =
            self.asked.iter_mut().chain(&mut self.refused).filter(|twin| {
                (twin.kind, twin.offset, &twin.bytes) == (asked.kind, asked.offset, &asked.bytes)
            });
        if let Some(twin) = twins
            .max_by_key(|twin| value(twin))
            .filter(|twin| value(twin) > own)
        {
            std::mem::swap(&mut asked.journaled, &mut twin.journaled);
            std::mem::swap(&mut asked.last, &mut twin.last);
        }
        assert_eq!(
            asked.journaled,
            asked.bytes.len(),
            "acknowledged, and only {} of {} bytes at {} are in the journal",
            asked.journaled,
            asked.bytes.len(),
            asked.offset
        );
        self.acknowledged = self.acknowledged.max(asked.last);
        asked.last
    }

    /// The volume goes back from `later` to this. Whoever puts a copy back writes all of it durably, also what was in the
    /// cache only when the copy was made.
    pub fn went_back_from(&mut self, later: &Self) {
        self.perhaps_durable = self.last();
        self.lost.clone_from(&later.lost);
        for (key, (checksum, _)) in &later.chunks {
            if self.chunks.get(key).is_none_or(|(known, _)| known != checksum) {
                self.lost.insert((key.0, key.1, *checksum));
            }
        }
    }

    /// Whether somebody still waits for this change.
    #[must_use]
    pub fn is_open(&self, number: u64) -> bool {
        self.asked.iter().any(|asked| asked.number == number)
    }

    /// Everybody who waited is gone.
    pub fn nobody_waits(&mut self) {
        self.asked.clear();
        self.refused.clear();
    }

    /// The volume was opened again and ends with `record` now.
    pub fn truncate(&mut self, record: u64, sequence: u64) {
        self.entries
            .truncate(usize::try_from(record).unwrap_or(usize::MAX));
        self.snapshots.split_off(&(record + 1));
        self.sequence = sequence;
        self.acknowledged = self.acknowledged.min(record);
        self.flushed = self.flushed.min(record);
        self.durable = self.durable.min(record);
        self.perhaps_durable = 0;
        self.volatile.retain(|(_, last)| *last <= record);
    }

    /// A sync of the journal's disk succeeded; `is_durable` tells what it covered.
    pub fn synced(&mut self, is_durable: impl Fn(std::ops::Range<u64>) -> bool) {
        while let Some((_, last)) = self
            .volatile
            .front()
            .filter(|(range, _)| is_durable(range.clone()))
        {
            self.durable = self.durable.max(*last);
            self.volatile.pop_front();
        }
    }

    /// Whether the volume ever went back in time.
    #[must_use]
    pub fn has_branches(&self) -> bool {
        !self.lost.is_empty()
    }

    /// A chunk reached the journal's disk, at this offset.
    ///
    /// # Panics
    /// When it does not follow what is there, or holds what no host asked for.
    pub fn journaled(&mut self, at: u64, what: &What<'_>, data: &[u8]) {
        let header = &what.header;
        let key = (header.epoch, header.sequence);
        let known = self.chunks.insert(key, (what.checksum, what.last_record()));
        assert!(
            known.is_none_or(|(checksum, _)| checksum == what.checksum),
            "chunk {}/{} stands for two contents",
            key.0,
            key.1
        );
        let place = at..at + what.stored_bytes();
        if header.sequence <= self.sequence {
            // The same chunk written once more, in its place.
            return;
        }
        self.volatile.push_back((place, what.last_record()));
        assert_eq!(
            header.sequence,
            self.sequence + 1,
            "the journal skips or repeats a chunk"
        );
        assert_eq!(
            header.first_record,
            self.last() + 1,
            "the journal skips or repeats a record"
        );
        assert!(
            what.data_is_intact(data),
            "a chunk with wrong checksums was journaled"
        );
        self.sequence = header.sequence;
        let chunk_end = what.last_record();
        let mut at = 0;
        for record in what.records() {
            let length = record.payload_bytes() as usize;
            self.record(&record, &data[at..at + length], chunk_end);
            at += length;
        }
    }

    fn record(&mut self, record: &Record, payload: &[u8], chunk_end: u64) {
        let bytes: Arc<[u8]> = match record.kind {
            RecordKind::Write => payload.into(),
            RecordKind::Mark(_) => Arc::default(),
            RecordKind::Trim | RecordKind::Zero { .. } => vec![0; record.length as usize].into(),
        };
        if !matches!(record.kind, RecordKind::Mark(_)) {
            self.was_asked_for(record, &bytes);
        }
        let offset = usize::try_from(record.offset).expect("inside a small volume");
        assert!(
            offset + bytes.len() <= self.volume_bytes,
            "a record beyond the end of the volume"
        );
        self.entries.push(Entry {
            offset,
            bytes,
            chunk_end,
        });
        if self.entries.len().is_multiple_of(SNAPSHOT_EVERY) {
            let state = self.state_after(self.last());
            self.snapshots.insert(self.last(), state.into());
        }
    }

    /// Finds whose change this is, or the next part of.
    fn was_asked_for(&mut self, record: &Record, bytes: &[u8]) {
        if self.leaves_out && record.kind == RecordKind::Write && self.is_part_of_what_is_asked(record, bytes)
        {
            return;
        }
        // Only a write may be split; two changes that look alike are told apart by their length.
        let fits = |asked: &Asked, whole: bool| {
            let rest = &asked.bytes[asked.journaled..];
            asked.kind == record.kind
                && asked.offset + asked.journaled as u64 == record.offset
                && (rest.len() == bytes.len()
                    || (!whole && record.kind == RecordKind::Write && rest.len() > bytes.len()))
                && rest[..bytes.len()] == *bytes
        };
        let whole = self.asked.iter().position(|asked| fits(asked, true));
        let found = whole.or_else(|| self.asked.iter().position(|asked| fits(asked, false)));
        let number = self.entries.len() as u64 + 1;
        let Some(asked) = found.and_then(|at| self.asked.get_mut(at)) else {
            panic!(
                "record {} ({:?}, {} bytes at {}) is nothing that a host asks for now",
                self.last() + 1,
                record.kind,
                record.length,
                record.offset
            );
        };
        asked.journaled += bytes.len();
        asked.last = number;
    }

    /// Which states a range may show: one after at least `from` and at most `to`, the same for each sector.
    ///
    /// # Errors
    /// The first byte of a sector that shows none.
    pub fn explains(&self, offset: usize, found: &[u8], from: u64, to: u64) -> Result<(), usize> {
        self.explains_each(SECTOR, offset, found, (from, to))
    }

    /// The same for each piece of `unit` bytes.
    ///
    /// # Errors
    /// The first byte of a piece that shows none.
    pub fn explains_each(
        &self,
        unit: usize,
        offset: usize,
        found: &[u8],
        (from, to): (u64, u64),
    ) -> Result<(), usize> {
        let end = offset + found.len();
        let mut state = self.range_after(from, offset..end);
        if state == found {
            return Ok(());
        }
        let sectors = offset / unit..end.div_ceil(unit);
        let ranges = sectors.map(|sector| {
            let (start, limit) = ((sector * unit).max(offset), ((sector + 1) * unit).min(end));
            start - offset..limit - offset
        });
        let mut open: Vec<_> = ranges
            .filter(|range| state[range.clone()] != found[range.clone()])
            .collect();
        for entry in self.between(from, to) {
            if open.is_empty() {
                break;
            }
            if entry.apply(&mut state, offset) {
                open.retain(|range| state[range.clone()] != found[range.clone()]);
            }
        }
        open.first().map_or(Ok(()), |range| Err(offset + range.start))
    }
}

impl Entry {
    /// Changes a part of the volume that begins at `start`; false if it lies elsewhere.
    fn apply(&self, part: &mut [u8], start: usize) -> bool {
        let (from, to) = (
            self.offset.max(start),
            (self.offset + self.bytes.len()).min(start + part.len()),
        );
        if from >= to {
            return false;
        }
        part[from - start..to - start].copy_from_slice(&self.bytes[from - self.offset..to - self.offset]);
        true
    }
}
