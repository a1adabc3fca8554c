//! The receiving side's additions: a first copy that is written straight into the image while chunks arrive.
//!
//! A copied range holds every record the sender's image had when it was read; all later ones follow as chunks
//! and are applied after it. So the image is a state of the volume once every range is copied and the record
//! that the sender named at the end is applied, and not before.

use super::Store;
use super::state::CopyProgress;
use crate::error::StorageError;
use farside_protocol::journal::limits::MAX_REACHED;
use farside_protocol::journal::{ChainPoint, CopyState};
use std::io::IoSlice;
use std::sync::atomic::Ordering;
use uuid::Uuid;

/// `consistent_from` while the sender has not named it.
const UNKNOWN: u64 = u64::MAX;

impl Store {
    /// How far the copy has come.
    #[must_use]
    pub fn copy_progress(&self) -> CopyProgress {
        self.state.lock().copy
    }

    /// Sets the copy back to what of it is durable: a new sender session copies from there. Waits for a checkpoint
    /// under way, which may be about to make more of it durable.
    pub fn rewind_copy(&self) {
        let _superblock = self.superblock.lock();
        let mut state = self.state.lock();
        if state.copy.state == CopyState::Copying {
            state.copy.written = state.copy.durable;
        }
    }

    /// Whether anything was ever written into the image, as far as its disk can tell.
    ///
    /// # Errors
    /// [`StorageError`].
    pub fn image_has_content(&self) -> Result<bool, StorageError> {
        let end = self.volume_bytes();
        let first = self.image.extent_at(0, end)?;
        Ok(first.data || first.length < end)
    }

    /// Gives up what the replica holds and begins a copy whose first chunk follows `base` of the sender's chain. Remotes that it is sent
    /// on to are let go: they get what the copy changes when it is complete.
    ///
    /// # Errors
    /// [`StorageError`].
    pub fn begin_copy(&self, base: &ChainPoint, source: Uuid, id: u32) -> Result<(), StorageError> {
        // From here on no copy for them is begun either: it would be of an image that is no state, from a point that is gone.
        self.state.lock().is_reset = true;
        let begun = self.reset(base, source, id);
        self.state.lock().is_reset = false;
        begun
    }

    fn reset(&self, base: &ChainPoint, source: Uuid, id: u32) -> Result<(), StorageError> {
        if self.acked_by_any() {
            self.cut_loose(u64::MAX, None)?;
            self.checkpoint()?;
        }
        let mut drain = self.drain.lock();
        self.end_replay(&mut drain)?;
        let _gate = self.sync_gate.lock();
        let mut appender = self.appender.lock();
        let mut superblock = self.superblock.lock();
        self.check_usable()?;
        if base.sequence > base.record || base.record > MAX_REACHED || base.epoch > MAX_REACHED {
            let text =
                "the sender named a position that no journal can have; check that both run the same version";
            return Err(StorageError::refused(self.name(), text));
        }
        // Addresses only grow, so that nothing of the old history can ever pass for the new one. Chunks that
        // survived an earlier crash beyond its end reach a window further at most: the new history begins after
        // those too, because they may call records durable that it does not have.
        let layout = &self.journal.layout;
        let address =
            layout.segment_start(layout.segment_of(appender.head.address) + layout.window_segments + 2);
        let start = ChainPoint { address, ..*base };
        // Nothing is applied again from here on, so what was applied has to be in the image for good: ranges of it may be
        // left as they are.
        self.sync_image(|image| image.sync())?;
        if self.keeps_past() {
            // Before the superblock says so: what is applied or copied next is not covered by any earlier mark.
            self.begin_past(&start);
        }
        superblock.head = start;
        superblock.tail = start;
        superblock.mirrored = start;
        superblock.copy = CopyState::Copying;
        superblock.copy_id = id;
        superblock.copy_offset = 0;
        superblock.consistent_from = UNKNOWN;
        superblock.source = source;
        self.write_superblock(&mut superblock)?;
        // Over the older copy, too: should this one be lost, that one would call an image complete which is not.
        self.write_superblock(&mut superblock)?;
        appender.go_to(start);
        let mut state = self.state.lock();
        state.points = super::Points {
            tail: start,
            mirrored: start,
            applied: start,
            durable: start,
            synced: start,
            journaled: start,
        };
        state.overlay.clear();
        state.copy = CopyProgress {
            state: CopyState::Copying,
            id,
            written: 0,
            durable: 0,
            consistent_from: UNKNOWN,
        };
        self.tail_address.store(start.address, Ordering::Release);
        Ok(())
    }

    /// Writes copied data; `offset` must be where the copy stands.
    ///
    /// # Errors
    /// [`StorageError`].
    pub fn write_copy(&self, offset: u64, data: &[u8]) -> Result<(), StorageError> {
        self.check_copy(offset, data.len() as u64)?;
        self.keep_copied_past(offset, data);
        self.go_on_without_past()?;
        self.guard(self.image.write_at(&mut [IoSlice::new(data)], offset))?;
        let end = offset + data.len() as u64;
        self.mark_copied(offset, end);
        self.step_copy(end);
        Ok(())
    }

    /// Zeroes a copied range that is a hole at the sender; `offset` must be where the copy stands.
    ///
    /// # Errors
    /// [`StorageError`].
    pub fn zero_copy(&self, offset: u64, length: u64) -> Result<(), StorageError> {
        self.check_copy(offset, length)?;
        let end = offset + length;
        let mut at = offset;
        while at < end {
            let extent = self.image.extent_at(at, end)?;
            if extent.data {
                self.keep_zeroed_past(at, extent.length);
                self.go_on_without_past()?;
                self.guard(self.image.zero_at(at, extent.length, false))?;
                self.mark_copied(at, at + extent.length);
            }
            at += extent.length.max(1);
        }
        self.step_copy(end);
        Ok(())
    }

    /// Leaves a range as it is: the sender knows that it holds what it has to; `offset` must be where the copy stands.
    ///
    /// # Errors
    /// [`StorageError`].
    pub fn skip_copy(&self, offset: u64, length: u64) -> Result<(), StorageError> {
        self.check_copy(offset, length)?;
        self.step_copy(offset + length);
        Ok(())
    }

    /// What a copy changes is missing to the remotes that this replica is sent on to.
    fn mark_copied(&self, offset: u64, end: u64) {
        for consumer in &mut self.state.lock().consumers {
            consumer.map.mark(offset, end);
        }
    }

    /// A range copied after the sender named its record holds later ones: what it named no longer counts.
    fn step_copy(&self, written: u64) {
        let mut state = self.state.lock();
        state.copy.written = written;
        state.copy.consistent_from = UNKNOWN;
    }

    /// The sender has copied everything: the replica is consistent once `record` is applied. A sender that had said so
    /// before its connection was lost says so once more; by then the replica may be complete, and it stays so.
    ///
    /// # Errors
    /// [`StorageError`] when not everything was copied.
    pub fn end_copy(&self, record: u64) -> Result<(), StorageError> {
        self.check_usable()?;
        if self.copy_progress().state == CopyState::Complete {
            return Ok(());
        }
        self.check_copy(self.volume_bytes(), 0)?;
        self.state.lock().copy.consistent_from = record;
        Ok(())
    }

    fn check_copy(&self, offset: u64, length: u64) -> Result<(), StorageError> {
        self.check_usable()?;
        let copy = self.copy_progress();
        let fits = offset
            .checked_add(length)
            .is_some_and(|end| end <= self.volume_bytes());
        if copy.state != CopyState::Copying || copy.written != offset || !fits {
            let text = format!(
                "copied range {offset}+{length} does not follow {} ({:?})",
                copy.written, copy.state
            );
            return Err(StorageError::refused(self.name(), text));
        }
        Ok(())
    }
}
