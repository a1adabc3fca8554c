//! Making things durable: the journal for its waiters, and from time to time the image, whose new position is
//! then recorded so that the ring can be used again.
//!
//! Order of a checkpoint: image and maps synced; superblock written; journal synced; only then does the tail
//! move, because only then can no crash bring the old tail back.

use super::Store;
use super::core::{Relief, relief};
use crate::error::StorageError;
use crate::journal::store_superblock;
use farside_protocol::journal::{ChainPoint, ConsumerSlot, ConsumerState, CopyState, Superblock};
use std::sync::atomic::Ordering;

impl Store {
    /// Makes everything journaled so far durable; one call serves all who wait. The point up to which it is.
    ///
    /// # Errors
    /// [`StorageError`]: final, the store is degraded and acknowledges no flush any more.
    pub fn sync(&self) -> Result<ChainPoint, StorageError> {
        let _gate = self.sync_gate.lock();
        self.sync_gated(|| self.sync_journal())
    }

    /// The same if nobody is doing it; `None` if somebody is, so that it would have to be waited for.
    ///
    /// # Errors
    /// As [`sync`](Self::sync).
    pub fn try_sync(&self) -> Option<Result<ChainPoint, StorageError>> {
        let _gate = self.sync_gate.try_lock()?;
        let one = self.journal_sync.try_lock()?;
        Some(self.sync_gated(|| self.sync_journal_as(&one)))
    }

    /// Makes everything journaled so far durable; the caller holds the gate.
    fn sync_gated(
        &self,
        sync: impl FnOnce() -> Result<(), StorageError>,
    ) -> Result<ChainPoint, StorageError> {
        self.check_usable()?;
        let target = {
            let state = self.state.lock();
            if state.points.synced == state.points.journaled {
                return Ok(state.points.synced);
            }
            state.points.journaled
        };
        sync()?;
        let mut state = self.state.lock();
        state.points.synced = target;
        if !state.confirms {
            state.points.durable = target;
        }
        state.counters.syncs += 1;
        state.points.assert_ordered();
        Ok(target)
    }

    /// Makes the image durable up to what is applied, records that, and moves the tail.
    ///
    /// # Errors
    /// [`StorageError`]: final, the store is degraded.
    pub fn checkpoint(&self) -> Result<(), StorageError> {
        // Before any lock is taken: positions can be recorded by others meanwhile.
        self.write_back()?;
        let mut superblock = self.superblock.lock();
        self.check_usable()?;
        // Taken before the maps are written: a consumer that is cut loose meanwhile still holds the tail in this
        // checkpoint, because its map on disk lacks what the tail would give up.
        let (copied, maps) = {
            let mut state = self.state.lock();
            superblock.mirrored = state.points.applied;
            superblock.tail = state.next_tail(state.points.applied);
            superblock.consumers = state.consumers.iter().map(slot).collect();
            let changed = state.consumers.iter_mut();
            let maps: Vec<_> = changed
                .filter_map(|consumer| consumer.map.take_changes())
                .collect();
            (state.copy.written, maps)
        };
        self.sync_image(|image| image.sync())?;
        // Outside the lock, so that host I/O goes on meanwhile.
        for map in maps {
            self.guard(map.persist())?;
        }
        self.update_superblock(&mut superblock, copied);
        self.write_superblock(&mut superblock)?;
        self.adopt(&superblock);
        self.record_past();
        Ok(())
    }

    /// Decides what the ring needs and does it; consumers that hold the tail for too long are cut loose.
    /// Returns the names of those.
    ///
    /// # Errors
    /// [`StorageError`]: final, the store is degraded.
    pub fn relieve(&self) -> Result<Vec<String>, StorageError> {
        let decision = relief(&self.state.lock().space(self.journal.layout.ring_bytes()));
        match decision {
            Relief::None => Ok(Vec::new()),
            Relief::Checkpoint => self.checkpoint().map(|()| Vec::new()),
            Relief::CutLoose { below } => {
                let cut = self.cut_loose(below, None)?;
                self.checkpoint()?;
                Ok(cut)
            }
        }
    }

    /// Whether a checkpoint would change anything.
    #[must_use]
    pub fn checkpoint_due(&self) -> bool {
        let state = self.state.lock();
        let points = &state.points;
        let copying = state.copy.state == CopyState::Copying
            && (state.copy.written != state.copy.durable || state.copy_is_complete(self.volume_bytes()));
        points.mirrored != points.applied || state.next_tail(points.mirrored) != points.tail || copying
    }

    /// Ends the use of the store: everything durable, the superblock marked clean.
    ///
    /// # Errors
    /// [`StorageError`]; the next start then is an unclean one, and nothing is lost.
    pub fn shut_down(&self) -> Result<(), StorageError> {
        self.give_up_unconfirmed()?;
        self.sync()?;
        while self.drain()? {}
        self.checkpoint()?;
        let _appender = self.appender.lock();
        self.closed.store(true, Ordering::Release);
        // A change that slipped in between belongs to no clean end; it is recovered like after a crash.
        let points = self.points();
        let quiet = points.mirrored == points.journaled;
        self.persist(|superblock| superblock.clean = quiet)
    }

    /// Changes the superblock durably.
    pub(super) fn persist(&self, change: impl FnOnce(&mut Superblock)) -> Result<(), StorageError> {
        let mut superblock = self.superblock.lock();
        change(&mut superblock);
        self.write_superblock(&mut superblock)
    }

    pub(super) fn write_superblock(&self, superblock: &mut Superblock) -> Result<(), StorageError> {
        superblock.generation += 1;
        self.guard(store_superblock(self.journal.device.as_ref(), superblock))?;
        self.sync_journal()?;
        self.written_superblock.lock().clone_from(superblock);
        Ok(())
    }

    fn update_superblock(&self, superblock: &mut Superblock, copied: u64) {
        let state = self.state.lock();
        superblock.head = state.points.durable;
        superblock.totals = state.totals();
        if state.copy.state == CopyState::Copying {
            superblock.copy_offset = copied;
            superblock.consistent_from = state.copy.consistent_from;
            let whole = copied == superblock.volume_bytes && state.copy.consistent_from_known();
            if whole && superblock.mirrored.record >= state.copy.consistent_from {
                superblock.copy = CopyState::Complete;
            }
        }
    }

    /// Takes over into the state what the superblock now says durably.
    fn adopt(&self, superblock: &Superblock) {
        let mut state = self.state.lock();
        // Room comes with the tail and not before: a write that found none until now finds some, or says so again. A
        // wish that outlived the room would cost the slowest remote its place in the journal.
        state.space_wanted &= superblock.tail.address == state.points.tail.address;
        state.points.mirrored = superblock.mirrored;
        state.points.tail = superblock.tail;
        state.copy.durable = superblock.copy_offset;
        state.copy.state = superblock.copy;
        state.points.assert_ordered();
        self.tail_address
            .store(superblock.tail.address, Ordering::Release);
    }
}

fn slot(consumer: &super::Consumer) -> ConsumerSlot {
    ConsumerSlot {
        name: consumer.name.clone(),
        state: consumer.state,
        acked: consumer.acked,
        copy_id: consumer.copy_id,
    }
}

impl super::CopyProgress {
    /// Whether the sender has named the record from which the replica is consistent.
    fn consistent_from_known(&self) -> bool {
        self.consistent_from != u64::MAX
    }
}

impl super::state::State {
    /// Whether a copy has everything it needs to be declared complete at the next checkpoint.
    fn copy_is_complete(&self, volume_bytes: u64) -> bool {
        self.copy.written == volume_bytes
            && self.copy.consistent_from_known()
            && self.points.applied.record >= self.copy.consistent_from
    }
}

impl super::Consumer {
    /// Whether records are kept for it.
    #[must_use]
    pub fn is_held(&self) -> bool {
        self.state != ConsumerState::NeedsCopy
    }

    /// Whether records may be read for it.
    pub(super) fn follows(&self) -> bool {
        self.is_held() && !self.leaving
    }
}
