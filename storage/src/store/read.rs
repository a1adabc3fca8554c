//! Reads of the volume: what is pending from the journal, the rest from the image, without holding a lock
//! during I/O.
//!
//! A read looks up its pieces, reads them, and then checks that neither the ring overwrote a piece (the tail
//! passed it) nor the image consumer changed the image meanwhile (its generation moved). Everything the image
//! consumer is writing is still in the overlay, so an unchanged generation means that no byte taken from the
//! image was being written. If the check fails the read is tried again, and at last done while the image
//! consumer is held.

use super::Store;
use crate::error::StorageError;
use crate::limits::{READ_ATTEMPTS, READ_PIECE_BYTES};
use crate::overlay::{Piece, Source};
use std::sync::atomic::Ordering;

/// What became of a read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReadOutcome {
    /// The buffer is filled.
    Done,
    /// It would have had to wait for a disk or another thread.
    WouldWait,
}

impl Store {
    /// Fills `buffer` from `offset`, waiting for the disk if need be.
    ///
    /// # Errors
    /// [`StorageError`] of the journal or the image.
    pub fn read(&self, offset: u64, buffer: &mut [u8]) -> Result<(), StorageError> {
        self.read_pieces(offset, buffer, true).map(|_| ())
    }

    /// Fills `buffer` from `offset` if nothing has to be waited for.
    ///
    /// # Errors
    /// [`StorageError`] of the journal or the image.
    pub fn read_cached(&self, offset: u64, buffer: &mut [u8]) -> Result<ReadOutcome, StorageError> {
        self.read_pieces(offset, buffer, false)
    }

    fn read_pieces(&self, offset: u64, buffer: &mut [u8], wait: bool) -> Result<ReadOutcome, StorageError> {
        let mut at = offset;
        for part in buffer.chunks_mut(READ_PIECE_BYTES) {
            if self.read_part(at, part, wait)? == ReadOutcome::WouldWait {
                return Ok(ReadOutcome::WouldWait);
            }
            at += part.len() as u64;
        }
        Ok(ReadOutcome::Done)
    }

    fn read_part(&self, offset: u64, buffer: &mut [u8], wait: bool) -> Result<ReadOutcome, StorageError> {
        for _ in 0..READ_ATTEMPTS {
            let generation = self.image_generation.load(Ordering::Acquire);
            match self.try_read(offset, buffer, wait)? {
                Some(lowest) if self.still_true(generation, lowest) => return Ok(ReadOutcome::Done),
                Some(_) => {}
                None => return Ok(ReadOutcome::WouldWait),
            }
        }
        if !wait {
            return Ok(ReadOutcome::WouldWait);
        }
        // Holding the image consumer keeps the image and the tail where they are.
        let _drain = self.drain.lock();
        let _tail = self.superblock.lock();
        self.try_read(offset, buffer, true)?;
        Ok(ReadOutcome::Done)
    }

    /// `lowest` is the lowest journal address that was read, `u64::MAX` if none.
    fn still_true(&self, generation: u64, lowest: u64) -> bool {
        std::sync::atomic::fence(Ordering::Acquire);
        self.image_generation.load(Ordering::Acquire) == generation
            && self.tail_address.load(Ordering::Acquire) <= lowest
    }

    /// One attempt; returns the lowest journal address read, or `None` if it would have had to wait.
    fn try_read(&self, offset: u64, buffer: &mut [u8], wait: bool) -> Result<Option<u64>, StorageError> {
        let end = offset + buffer.len() as u64;
        let pieces: Vec<Piece> = {
            let state = self.state.lock();
            if state.overlay.is_empty() {
                Vec::new()
            } else {
                state.overlay.pieces(offset, end).collect()
            }
        };
        let (mut at, mut lowest) = (offset, u64::MAX);
        self.refuse_damaged(&pieces)?;
        for piece in &pieces {
            if piece.offset > at && !self.read_image(at, slice(buffer, offset, at, piece.offset), wait)? {
                return Ok(None);
            }
            let target = slice(buffer, offset, piece.offset, piece.end);
            match piece.source {
                Source::Zero { .. } => target.fill(0),
                Source::Journal(address) => {
                    lowest = lowest.min(address);
                    if !self.read_journal(address, target, wait)? {
                        return Ok(None);
                    }
                }
            }
            at = piece.end;
        }
        if at < end && !self.read_image(at, slice(buffer, offset, at, end), wait)? {
            return Ok(None);
        }
        Ok(Some(lowest))
    }

    /// A piece of a chunk that is known to be damaged is an error, never its bytes.
    fn refuse_damaged(&self, pieces: &[Piece]) -> Result<(), StorageError> {
        if pieces.is_empty() || !self.failed.load(Ordering::Acquire) {
            return Ok(());
        }
        let state = self.state.lock();
        let bad = |piece: &&Piece| matches!(piece.source, Source::Journal(address) if state.damaged.iter().any(|range| range.contains(&address)));
        match pieces.iter().find(bad) {
            None => Ok(()),
            Some(piece) => {
                let offset = self.journal.layout.file_offset(piece.source.address());
                let text = format!(
                    "the only copy of volume bytes {}..{} is damaged",
                    piece.offset, piece.end
                );
                Err(StorageError::damaged(self.journal.device.name(), offset, text))
            }
        }
    }

    fn read_image(&self, offset: u64, buffer: &mut [u8], wait: bool) -> Result<bool, StorageError> {
        if wait {
            self.image.read_at(buffer, offset).map(|()| true)
        } else {
            self.image.read_cached_at(buffer, offset)
        }
    }

    fn read_journal(&self, address: u64, buffer: &mut [u8], wait: bool) -> Result<bool, StorageError> {
        let (device, offset) = (&self.journal.device, self.journal.layout.file_offset(address));
        if wait {
            device.read_at(buffer, offset).map(|()| true)
        } else {
            device.read_cached_at(buffer, offset)
        }
    }
}

/// The part of a buffer that stands for `from..to` of the volume; the buffer itself starts at `start`.
fn slice(buffer: &mut [u8], start: u64, from: u64, to: u64) -> &mut [u8] {
    let index = |offset: u64| usize::try_from(offset - start).unwrap_or(usize::MAX);
    &mut buffer[index(from)..index(to)]
}
