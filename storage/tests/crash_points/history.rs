//! What a volume holds after each record, computed byte by byte from what was asked of it, and its chain.
//!
//! A run that goes on after a crash has a history of its own that leaves the old one after the recovered record.

use crate::disk::{Disk, index};
use crate::machine::mix;
use farside_protocol::journal::{ChainPoint, RecordKind};
use farside_storage::Change;
use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;

/// Bytes of every volume here: a little more than three bits of a dirty-block map.
pub(crate) const VOLUME_BYTES: u64 = 208 << 10;

/// Records and chunks in order.
pub(crate) struct History {
    base: Option<Arc<History>>,
    /// Chunk and record before the first one here.
    first: ChainPoint,
    states: Vec<Disk>,
    changed: Vec<Range<u64>>,
    chunks: Vec<ChainPoint>,
}

impl History {
    /// Of a volume that holds zeroes.
    pub(crate) fn new() -> Self {
        Self {
            base: None,
            first: ChainPoint::default(),
            states: Vec::new(),
            changed: Vec::new(),
            chunks: Vec::new(),
        }
    }

    /// One that leaves `base` after `head`.
    pub(crate) fn branch(base: &Arc<Self>, head: ChainPoint) -> Self {
        Self {
            base: Some(base.clone()),
            first: head,
            ..Self::new()
        }
    }

    /// The last record.
    pub(crate) fn records(&self) -> u64 {
        self.first.record + self.states.len() as u64
    }

    /// The content after a record.
    pub(crate) fn state(&self, record: u64) -> Disk {
        match (&self.base, record.checked_sub(self.first.record + 1)) {
            (_, Some(number)) => self.states[index(number)].clone(),
            (Some(base), None) => base.state(record),
            (None, None) => Disk::new(VOLUME_BYTES),
        }
    }

    /// The end of a chunk; `None` before the first and after the last.
    pub(crate) fn chunk(&self, sequence: u64) -> Option<ChainPoint> {
        match (&self.base, sequence.checked_sub(self.first.sequence + 1)) {
            (_, Some(number)) => self.chunks.get(index(number)).copied(),
            (Some(base), None) => base.chunk(sequence),
            (None, None) => None,
        }
    }

    /// The last chunk.
    pub(crate) fn head(&self) -> ChainPoint {
        self.chunks.last().copied().unwrap_or(self.first)
    }

    /// What a record changes.
    pub(crate) fn range(&self, record: u64) -> Range<u64> {
        match (&self.base, record.checked_sub(self.first.record + 1)) {
            (_, Some(number)) => self.changed[index(number)].clone(),
            (Some(base), None) => base.range(record),
            (None, None) => 0..0,
        }
    }

    /// The chunks after a record up to another.
    pub(crate) fn chunks_between(&self, after: u64, to: u64) -> Vec<ChainPoint> {
        let own = self.chunks.iter().copied();
        let older = self.base.as_ref().map_or(Vec::new(), |base| {
            base.chunks_between(after, to.min(self.first.record))
        });
        let own = own.filter(|point| point.record > after && point.record <= to);
        older.into_iter().chain(own).collect()
    }

    /// Takes up what a chunk took from the front of the queue: `before` and `after` are the queue around the call.
    pub(crate) fn remember(
        &mut self,
        before: &VecDeque<Change>,
        after: &VecDeque<Change>,
        point: ChainPoint,
    ) {
        if before.len() == after.len() {
            // One that was too large: its first part went.
            let taken = before[0].data.len() - after[0].data.len();
            self.push(&before[0], taken as u64);
        } else {
            for change in before.iter().take(before.len() - after.len()) {
                self.push(change, u64::from(change.length));
            }
        }
        assert_eq!(point.record, self.records(), "a chunk holds what was taken");
        assert_eq!(point.sequence, self.head().sequence + 1, "one chunk at a time");
        self.chunks.push(point);
    }

    fn push(&mut self, change: &Change, length: u64) {
        let mut state = self.state(self.records());
        if change.kind == RecordKind::Write {
            state.write(index(change.offset), &change.data[..index(length)]);
        } else {
            state.zero(index(change.offset), index(length));
        }
        self.states.push(state);
        self.changed.push(change.offset..change.offset + length);
    }
}

/// A change; the bytes of a write name its number and differ from sector to sector.
pub(crate) fn change(number: u64, kind: RecordKind, offset: u64, length: u64) -> Change {
    let payload = if kind == RecordKind::Write { length } else { 0 };
    let mut data = vec![0; index(payload)];
    for (sector, part) in (1_u64..).zip(data.chunks_mut(512)) {
        let name = mix(number, sector).to_be_bytes();
        part.fill(name[0] | 1);
        let named = part.len().min(name.len());
        part[..named].copy_from_slice(&name[..named]);
    }
    Change {
        offset,
        length: u32::try_from(length).expect("changes are short"),
        kind,
        data: data.into(),
        arrived_us: 0,
    }
}
