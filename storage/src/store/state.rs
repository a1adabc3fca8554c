//! What a store knows, behind one short lock: points, overlay, consumers, counters.

use super::core::Space;
use crate::block_map::BlockMap;
use crate::limits::MAX_PENDING_PIECES;
use crate::overlay::{Overlay, sources};
use farside_protocol::journal::{ChainPoint, ConsumerState, CopyState, Totals, What};

/// The promises a store makes, each as the last point it covers.
///
/// `tail <= mirrored <= applied <= durable <= synced <= journaled`, always.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Points {
    /// Nothing up to here is needed any more.
    pub tail: ChainPoint,
    /// Durably in the image.
    pub mirrored: ChainPoint,
    /// In the image.
    pub applied: ChainPoint,
    /// Durable in the journal, for good.
    pub durable: ChainPoint,
    /// Durable in the journal; what of it has yet to be confirmed counts only then.
    pub synced: ChainPoint,
    /// In the journal.
    pub journaled: ChainPoint,
}

impl Points {
    pub(super) fn assert_ordered(&self) {
        let order = [
            self.tail,
            self.mirrored,
            self.applied,
            self.durable,
            self.synced,
            self.journaled,
        ];
        assert!(
            order.is_sorted_by(|a, b| a.address <= b.address && a.record <= b.record),
            "positions out of order: {self:?}"
        );
    }
}

/// One remote that the journal keeps records for.
#[derive(Debug)]
pub struct Consumer {
    /// Name of the remote.
    pub name: String,
    /// What it may expect.
    pub state: ConsumerState,
    /// Up to where it confirmed.
    pub acked: ChainPoint,
    /// Names the copy under way, through its interruptions; 0 if there is none.
    pub copy_id: u32,
    /// It is being cut loose: nothing more is read for it.
    pub(super) leaving: bool,
    pub(super) map: BlockMap,
}

/// How far the copy of a replica has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CopyProgress {
    /// Empty, copying or complete.
    pub state: CopyState,
    /// Names the copy, as the sender does.
    pub id: u32,
    /// Bytes of the image copied.
    pub written: u64,
    /// Bytes of the image copied durably.
    pub durable: u64,
    /// The record from which the replica is consistent; 0 while unknown.
    pub consistent_from: u64,
}

/// What happened to a store since it was opened, in 4 KiB blocks and bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counters {
    /// Records journaled.
    pub records: u64,
    /// Blocks journaled.
    pub blocks: u64,
    /// Bytes of the ranges journaled.
    pub bytes: u64,
    /// Chunks journaled.
    pub chunks: u64,
    /// Journal syncs.
    pub syncs: u64,
    /// Blocks handed to the link.
    pub sent_blocks: u64,
    /// Blocks confirmed by remotes.
    pub received_blocks: u64,
}

#[derive(Debug)]
pub(super) struct State {
    pub(super) points: Points,
    /// A copy of this replica is about to begin: none is begun of it.
    pub(super) is_reset: bool,
    /// What is synced counts only when it is confirmed.
    pub(super) confirms: bool,
    pub(super) overlay: Overlay,
    /// Journal addresses of chunks whose payload turned out damaged: never handed to a reader.
    pub(super) damaged: Vec<std::ops::Range<u64>>,
    /// Whether reads are served from here, so that pending ranges have to be known.
    pub(super) keeps_overlay: bool,
    pub(super) consumers: Vec<Consumer>,
    pub(super) copy: CopyProgress,
    pub(super) counters: Counters,
    /// Totals when the store was opened.
    pub(super) totals: Totals,
    pub(super) space_wanted: bool,
}

impl State {
    /// Takes up a chunk that is now in the journal.
    pub(super) fn take_up(&mut self, what: &What<'_>, address: u64, after: ChainPoint) {
        for (record, source) in sources(what, address) {
            let (offset, end) = (record.offset, record.end());
            if self.keeps_overlay {
                self.overlay.insert(offset, end, source);
            }
            for consumer in self
                .consumers
                .iter_mut()
                .filter(|c| c.state == ConsumerState::NeedsCopy)
            {
                consumer.map.mark(offset, end);
            }
            self.counters.blocks = self.counters.blocks.saturating_add(record.blocks());
            self.counters.bytes = self.counters.bytes.saturating_add(u64::from(record.length));
        }
        self.counters.records += what.record_count() as u64;
        self.counters.chunks += 1;
        self.points.journaled = after;
    }

    /// The confirmed points of the consumers that hold the tail.
    pub(super) fn holders(&self) -> impl Iterator<Item = &Consumer> {
        self.consumers
            .iter()
            .filter(|consumer| consumer.state != ConsumerState::NeedsCopy)
    }

    /// Whether so much waits for the image that no more is taken.
    pub(super) fn has_no_room_for_pieces(&self) -> bool {
        self.overlay.len() > MAX_PENDING_PIECES
    }

    /// Whether a change waits until the image is further.
    pub(super) fn image_is_waited_for(&self) -> bool {
        self.space_wanted || self.has_no_room_for_pieces()
    }

    /// Where the tail can move once the image is durable up to `mirrored`.
    pub(super) fn next_tail(&self, mirrored: ChainPoint) -> ChainPoint {
        let slowest = self
            .holders()
            .map(|consumer| consumer.acked)
            .min_by_key(|acked| acked.address);
        let next = slowest
            .filter(|acked| acked.address < mirrored.address)
            .unwrap_or(mirrored);
        if next.address < self.points.tail.address {
            self.points.tail
        } else {
            next
        }
    }

    pub(super) fn space(&self, ring_bytes: u64) -> Space {
        Space {
            ring_bytes,
            head: self.points.journaled.address,
            tail: self.points.tail.address,
            applied: self.points.applied.address,
            consumers: self.holders().map(|consumer| consumer.acked.address).collect(),
            wanted: self.space_wanted,
        }
    }

    pub(super) fn totals(&self) -> Totals {
        Totals {
            written: self.totals.written.saturating_add(self.counters.blocks),
            sent: self.totals.sent.saturating_add(self.counters.sent_blocks),
            received: self.totals.received.saturating_add(self.counters.received_blocks),
        }
    }
}
