//! What the image held before: told to the history by whoever is about to overwrite it.
//!
//! A history that fails is no fault of the store: it ends, and the store goes on without it. So nothing here returns an
//! error.

use super::Store;
use super::drain::{Drain, Reached};
use crate::error::StorageError;
use crate::history::{History, Mark, Moment, View};
use crate::limits::BEFORE_PIECE_BYTES;
use crate::overlay::{Overlay, Source};
use farside_protocol::journal::limits::BLOCK_BYTES;
use farside_protocol::journal::{ChainPoint, CopyState, RecordKind, What};
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// What a step of the image consumer has read so far: the image is going to hold it.
pub(super) struct Batch<'a> {
    pub(super) merged: &'a Overlay,
    pub(super) buffer: &'a [u8],
    /// Address at which the buffer begins.
    pub(super) base: u64,
}

impl Store {
    /// Keeps what the image holds before it is overwritten, from now on. Once, before anything moves. What the history holds
    /// is of no use if the image was written without it meanwhile.
    ///
    /// # Errors
    /// [`StorageError`] of the history: nothing is kept. One of the journal degrades the store.
    pub fn keep_history(&self, history: Arc<History>) -> Result<(), StorageError> {
        if !self.remembers.load(Ordering::Acquire) {
            history.forget(self.points().durable.address)?;
            self.remember(true)?;
        }
        let line = history.line();
        if self.superblock().history_line != line {
            // Before anything is overwritten: from now on copies made earlier are told from what is here.
            self.persist(|superblock| superblock.history_line = line)?;
        }
        let _ = self.history.set(history);
        Ok(())
    }

    fn remember(&self, does: bool) -> Result<(), StorageError> {
        self.persist(|superblock| superblock.remembers = does)?;
        self.remembers.store(does, Ordering::Release);
        Ok(())
    }

    /// Before the image is overwritten without a history: nothing that one holds is of use from now on.
    ///
    /// # Errors
    /// [`StorageError`]: final, the store is degraded.
    pub(super) fn go_on_without_past(&self) -> Result<(), StorageError> {
        if self.remembers.load(Ordering::Acquire) && self.past().is_none() {
            self.remember(false)?;
        }
        Ok(())
    }

    /// What the image held before, if that is kept.
    #[must_use]
    pub fn history(&self) -> Option<&Arc<History>> {
        self.history.get()
    }

    /// The image as it was at a moment. `None`: that moment is gone.
    #[must_use]
    pub fn view(&self, moment: &Moment) -> Option<View> {
        let pin = self.history()?.pin(moment)?;
        Some(View::new(self.image.clone(), pin, self.volume_bytes()))
    }

    fn past(&self) -> Option<&Arc<History>> {
        self.history.get().filter(|history| history.is_usable())
    }

    /// Whether what stands in the image is told: not while there is nothing yet that could be viewed.
    fn past_to_keep(&self) -> Option<&Arc<History>> {
        let is_complete = self.copy_progress().state == CopyState::Complete;
        self.past().filter(|history| is_complete || history.has_moments())
    }

    fn mark_of(&self, Reached { mut point, in_batch }: Reached) -> Mark {
        let settled = self.copy_progress().state == CopyState::Complete && !in_batch;
        // The empty disk is as old as its journal.
        if point.record == 0 {
            point.sealed_at_us = self.created_at_us;
        }
        Mark { point, settled }
    }

    /// The image is at `applied`, and nothing is under way: a moment, unless it is one already.
    pub(super) fn mark_past(&self, applied: ChainPoint) {
        let Some(history) = self
            .past_to_keep()
            .filter(|history| applied.address >= history.covered())
        else {
            return;
        };
        let mark = self.mark_of(Reached {
            point: applied,
            in_batch: false,
        });
        if !history.is_marked(&mark) {
            let marked = history.mark(mark).and_then(|()| history.commit());
            self.settle(history, marked);
            history.reveal();
        }
    }

    /// What a chunk is about to overwrite, on top of what the batch before it did.
    pub(super) fn keep_past(&self, before: &Reached, what: &What<'_>, batch: &Batch<'_>) {
        let Some(history) = self
            .past_to_keep()
            .filter(|history| before.point.address >= history.covered())
        else {
            return;
        };
        let kept = history.mark(self.mark_of(*before)).and_then(|()| {
            let changes = what
                .records()
                .filter(|record| !matches!(record.kind, RecordKind::Mark(_)));
            for record in changes {
                let range = record.offset..record.end().min(self.volume_bytes());
                self.tell(history, range, batch)?;
            }
            Ok(())
        });
        self.settle(history, kept);
    }

    fn tell(&self, history: &History, range: Range<u64>, batch: &Batch<'_>) -> Result<(), StorageError> {
        let mut at = range.start;
        for piece in batch.merged.pieces(range.start, range.end) {
            self.tell_image(history, at..piece.offset)?;
            match piece.source {
                Source::Zero { .. } => history.zeroes_before(piece.offset, piece.end - piece.offset)?,
                Source::Journal(address) => {
                    let from = usize::try_from(address - batch.base).unwrap_or(usize::MAX);
                    let length = usize::try_from(piece.end - piece.offset).unwrap_or(usize::MAX);
                    history.before(piece.offset, &batch.buffer[from..from + length])?;
                }
            }
            at = piece.end;
        }
        self.tell_image(history, at..range.end)
    }

    /// What the image itself holds there.
    fn tell_image(&self, history: &History, range: Range<u64>) -> Result<(), StorageError> {
        let (mut at, mut buffer) = (range.start, Vec::new());
        while at < range.end {
            let length = range.end - at;
            // Short ranges are read without asking whether they are holes: one call, not two.
            if length > BEFORE_PIECE_BYTES as u64 {
                let extent = self.image.extent_at(at, range.end)?;
                if !extent.data {
                    history.zeroes_before(at, extent.length)?;
                    at += extent.length;
                    continue;
                }
            }
            let length = usize::try_from(length)
                .unwrap_or(usize::MAX)
                .min(BEFORE_PIECE_BYTES);
            buffer.resize(length, 0);
            self.image.read_at(&mut buffer, at)?;
            history.before(at, &buffer)?;
            at += length as u64;
        }
        Ok(())
    }

    /// What was told is durable, and the image goes to `last` next.
    pub(super) fn commit_past(&self, last: &ChainPoint, in_batch: bool) {
        let Some(history) = self
            .past_to_keep()
            .filter(|history| last.address >= history.covered())
        else {
            return;
        };
        let reached = Reached {
            point: *last,
            in_batch,
        };
        let committed = history
            .mark(self.mark_of(reached))
            .and_then(|()| history.commit());
        self.settle(history, committed);
    }

    /// The image is at `last`.
    pub(super) fn reveal_past(&self, last: &ChainPoint) {
        if let Some(history) = self.past().filter(|history| last.address >= history.covered()) {
            history.reveal();
        }
    }

    /// The image is brought to where the history knows it, if it was not since the start: the last consistent state is
    /// there to be viewed then.
    ///
    /// # Errors
    /// As [`drain`](Store::drain).
    pub(super) fn end_replay(&self, drain: &mut Drain) -> Result<(), StorageError> {
        if let Some(history) = self.past().filter(|history| history.has_moments()) {
            while self.points().applied.address < history.covered() && self.drain_step(drain)? {}
            self.mark_past(self.points().applied);
        }
        Ok(())
    }

    /// Positions were recorded: those of the history are, too.
    pub(super) fn record_past(&self) {
        if let Some(history) = self.past() {
            self.settle(history, history.record_head());
        }
    }

    /// Whether something may have to be made durable before the image is overwritten.
    #[must_use]
    pub fn has_past_to_heed(&self) -> bool {
        match self.past() {
            Some(history) => history.has_moments(),
            None => self.remembers.load(Ordering::Acquire),
        }
    }

    /// Whether there is a state of before that can be viewed.
    pub(super) fn keeps_past(&self) -> bool {
        self.past().is_some_and(|history| history.has_moments())
    }

    /// A copy begins; the next chunk follows `start`.
    pub(super) fn begin_past(&self, start: &ChainPoint) {
        let Some(history) = self.past() else {
            return;
        };
        let mark = Mark {
            point: *start,
            settled: false,
        };
        self.settle(history, history.mark(mark).and_then(|()| history.commit()));
    }

    /// What a copied range is about to overwrite, as far as it differs.
    pub(super) fn keep_copied_past(&self, offset: u64, data: &[u8]) {
        let Some(history) = self.past_to_keep() else {
            return;
        };
        let mut old = vec![0; data.len().min(BEFORE_PIECE_BYTES)];
        let mut at = offset;
        let mut tell = || {
            for new in data.chunks(BEFORE_PIECE_BYTES) {
                let old = &mut old[..new.len()];
                self.image.read_at(old, at)?;
                for (old, new) in old.chunks(BLOCK_BYTES).zip(new.chunks(BLOCK_BYTES)) {
                    if old != new {
                        history.before(at, old)?;
                    }
                    at += old.len() as u64;
                }
            }
            history.commit()
        };
        let told = tell();
        self.settle(history, told);
    }

    /// What a range that is about to be zeroed holds.
    pub(super) fn keep_zeroed_past(&self, offset: u64, length: u64) {
        let Some(history) = self.past_to_keep() else {
            return;
        };
        let told = self
            .tell_image(history, offset..offset + length)
            .and_then(|()| history.commit());
        self.settle(history, told);
    }

    /// A history that has no room for what one moment needs begins anew after it; one that fails ends.
    fn settle(&self, history: &History, done: Result<(), StorageError>) {
        let Err(error) = done else { return };
        if !history.has_overflowed() {
            return history.fail(&error);
        }
        tracing::warn!(volume = %self.name(), "{error}; what was kept is given up, the history begins anew");
        if let Err(error) = history.forget(self.points().durable.address) {
            history.fail(&error);
        }
    }
}
