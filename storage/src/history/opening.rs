//! Making a ring, and finding in it what it knows after any end.
//!
//! The newest mark says how far the image may have been written: what lies before it in the owning journal was told of
//! already, and is not told again when it is applied once more. A mark beyond the end of that journal does not count: it
//! belongs to a copy that was never begun, or journal and image are older copies that were put back. From then on there are
//! two lines of positions, and a position alone does not say on which one an image is that is put back later: so both sides
//! count such turns, and an image that has another count is one about which the history says nothing. An image that is further than the newest mark went on without its history,
//! which is then of no use and begins anew.

use super::index::{Index, Moment};
use super::ring::{Writer, add_records};
use super::{History, Mark};
use crate::device::Device;
use crate::error::StorageError;
use crate::journal::{Journal, load_superblock, recover, store_superblock};
use crate::store::{Points, Store, StoreParameters};
use farside_protocol::journal::limits::{
    BLOCK_BYTES_U64, MAX_SEGMENT_BYTES, MAX_VOLUME_BYTES, MIN_SEGMENT_BYTES,
};
use farside_protocol::journal::{
    ChainPoint, MARK_COPYING, MARK_MOMENT, MARK_POSITION, Record, RecordKind, Role, Superblock, What,
};
use parking_lot::Mutex;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use uuid::Uuid;

/// Segments of a ring, roughly: so much is dropped at a time.
const SEGMENTS: u64 = 256;

/// Makes the ring for the image of the journal that `owner` describes.
///
/// # Errors
/// [`StorageError`].
pub fn format_history(
    device: &dyn Device,
    owner: &Superblock,
    bytes: u64,
    now_us: u64,
) -> Result<(), StorageError> {
    let segment = u32::try_from(bytes / SEGMENTS)
        .unwrap_or(u32::MAX)
        .max(MIN_SEGMENT_BYTES);
    let parameters = StoreParameters {
        role: Role::History,
        name: owner.name.clone(),
        volume: owner.volume,
        journal: Uuid::new_v4(),
        volume_bytes: owner.volume_bytes,
        journal_bytes: bytes,
        segment_bytes: Some((1 << segment.ilog2()).min(MAX_SEGMENT_BYTES)),
        source: owner.journal,
    };
    Store::format(device, &parameters, now_us)?;
    if owner.history_line == 0 {
        return Ok(());
    }
    let mut superblock = load_superblock(device)?;
    superblock.history_line = owner.history_line;
    superblock.generation += 1;
    store_superblock(device, &superblock)?;
    device.sync()
}

/// The marks that count: each at a position not before that of the one before it. A mark at an earlier position says that
/// what the marks beyond it stood for never came to pass.
#[derive(Default)]
struct Marks {
    begun: Option<u64>,
    /// Position and serial.
    line: Vec<(u64, u64)>,
    void: Vec<u64>,
    seen: bool,
}

impl Marks {
    fn take(&mut self, serial: u64, record: &Record) {
        match record.kind {
            RecordKind::Mark(MARK_MOMENT | MARK_COPYING) => self.begun = Some(serial),
            RecordKind::Mark(MARK_POSITION) => {
                if let Some(serial) = self.begun.take() {
                    self.end_at(record.offset);
                    self.line.push((record.offset, serial));
                    self.seen = true;
                }
            }
            _ => {}
        }
    }

    /// Nothing beyond this position came to pass.
    fn end_at(&mut self, position: u64) {
        while let Some((_, serial)) = self.line.pop_if(|(beyond, _)| *beyond > position) {
            self.void.push(serial);
        }
    }
}

impl History {
    /// Opens the ring of the image that `owner` and `points` describe.
    ///
    /// # Errors
    /// [`StorageError`]; one that is [lost content](StorageError::is_lost_content) ends with a new ring.
    pub fn open(device: Arc<dyn Device>, owner: &Superblock, points: &Points) -> Result<Self, StorageError> {
        let mut superblock = load_superblock(device.as_ref())?;
        let fits = superblock.role == Role::History && superblock.source == owner.journal;
        if !fits || superblock.volume != owner.volume {
            return Err(StorageError::lost(
                device.name(),
                "is not the history of this replica",
            ));
        }
        let recovered = recover(device.as_ref(), &superblock)?;
        superblock.epoch = superblock.epoch.max(recovered.head.epoch) + 1;
        superblock.starts += 1;
        let journal = Journal::new(device, &superblock);
        journal.erase_false_successors(&recovered.head)?;
        journal.rewrite(&superblock.head, &recovered.head)?;
        journal.device.sync()?;
        let mut index = Index::default();
        let mut marks = walk(&journal, (superblock.tail, recovered.head), &mut index)?;
        let known_void = marks.void.len();
        marks.end_at(points.durable.address);
        let is_current = superblock.history_line == owner.history_line;
        if !is_current || marks.void.len() > known_void {
            superblock.history_line = superblock.history_line.max(owner.history_line).wrapping_add(1);
        }
        index.void(&marks.void);
        let knows = marks.line.last().map(|(position, _)| *position);
        let history = Self {
            writer: Mutex::new(Writer::new(superblock, recovered.head, None)),
            journal,
            index: Mutex::new(index),
            failure: Mutex::new(None),
            covered: AtomicU64::new(knows.unwrap_or(points.durable.address)),
        };
        let tail = history.writer.lock().tail;
        if !is_current {
            tracing::warn!(
                "{}: journal and image are older copies that this history does not know the place of; it begins anew",
                history.journal.device.name()
            );
            history.forget(points.durable.address)?;
            return Ok(history);
        }
        if marks.seen && knows.is_none_or(|known| known < points.mirrored.address) {
            tracing::warn!(
                "{}: the image went on without its history, which begins anew",
                history.journal.device.name()
            );
            history.forget(points.durable.address)?;
            return Ok(history);
        }
        history.record_tail(&mut history.writer.lock(), tail)?;
        if let Some(position) = knows.filter(|_| !marks.void.is_empty()) {
            // Said once and for all: the journal may grow beyond where those marks stand before the next one is made.
            let point = ChainPoint {
                address: position,
                ..ChainPoint::default()
            };
            history.mark(Mark {
                point,
                settled: false,
            })?;
            history.commit()?;
            history.writer.lock().marked = None;
        }
        Ok(history)
    }

    /// Begins anew: what was kept is of no use. `covered` is the end of the owning journal: what lies before it may be in the
    /// image already, in part.
    ///
    /// # Errors
    /// [`StorageError`] of the ring.
    pub fn forget(&self, covered: u64) -> Result<(), StorageError> {
        self.covered.store(covered, Ordering::Release);
        let mut writer = self.writer.lock();
        self.index.lock().clear();
        writer.drop_waiting();
        self.sync(&mut writer)?;
        let head = writer.head;
        self.record_tail(&mut writer, head)
    }

    /// Whether a mark at this place says nothing new.
    #[must_use]
    pub fn is_marked(&self, mark: &Mark) -> bool {
        self.writer.lock().marked.as_ref() == Some(mark)
    }
}

/// Puts everything from `tail` to `head` into the tables.
fn walk(
    journal: &Journal,
    (tail, head): (ChainPoint, ChainPoint),
    index: &mut Index,
) -> Result<Marks, StorageError> {
    let (layout, mut marks) = (journal.layout, Marks::default());
    let (mut before, mut is_sound) = (tail, true);
    let reached = journal.walk(tail, head.address, |address, what| {
        let (number, first) = (layout.segment_of(address), what.header.first_record);
        index.begin_segment(number, ChainPoint { address, ..before }, first);
        let place = address + BLOCK_BYTES_U64 - layout.segment_start(number);
        if !what.records().all(|record| record_is_sound(&record)) {
            is_sound = false;
            return;
        }
        add_records(index, what.records(), (first, place), |record| {
            Some(moment(what, record))
        });
        for (serial, record) in (first..).zip(what.records()) {
            marks.take(serial, &record);
        }
        before = crate::journal::point_after(what, address);
    })?;
    if reached.address == head.address && is_sound {
        return Ok(marks);
    }
    let offset = layout.file_offset(reached.address);
    let text = format!("chunk {} of the history is unreadable", reached.sequence + 1);
    Err(StorageError::damaged(journal.device.name(), offset, text))
}

/// Whether a record can be of an image.
fn record_is_sound(record: &Record) -> bool {
    matches!(record.kind, RecordKind::Mark(_)) || record.end() <= MAX_VOLUME_BYTES
}

fn moment(what: &What<'_>, record: &Record) -> Moment {
    Moment {
        record: record.offset,
        time_us: what.header.sealed_at_us.saturating_sub(u64::from(record.age_us)),
        serial: 0,
        settled: record.kind == RecordKind::Mark(MARK_MOMENT),
    }
}
