//! Confirmed mode of a replica: what was journaled and synced is read back, and counts only when the sender has found it right.
//!
//! The head that the superblock names is exact then, and is written with every confirmation, before anything up to it is
//! applied: after a crash nothing that was not confirmed is left.

use super::Store;
use crate::error::StorageError;
use farside_protocol::journal::ChainPoint;

/// Read at once, in whole chunks and batches.
const READ_BACK_BYTES: usize = 1 << 20;
/// Read back in one call, give or take a batch.
const ENOUGH_BYTES: u64 = 8 << 20;

/// A stretch of the journal as it was read back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReadBack<T> {
    /// It ends here, at a point of the chain.
    pub point: ChainPoint,
    /// What was made of each of its chunks.
    pub chunks: Vec<T>,
}

impl Store {
    /// Whether what is synced counts only when it is confirmed. Nothing may be appended meanwhile, and what has yet to be confirmed is
    /// given up.
    ///
    /// # Errors
    /// [`StorageError`]: final, the store is degraded.
    pub fn set_confirms(&self, confirms: bool) -> Result<(), StorageError> {
        self.give_up_unconfirmed()?;
        self.sync()?;
        let mut superblock = self.superblock.lock();
        self.check_usable()?;
        if superblock.confirms != confirms {
            superblock.head = self.points().durable;
            superblock.confirms = confirms;
            self.write_superblock(&mut superblock)?;
        }
        self.state.lock().confirms = confirms;
        Ok(())
    }

    /// What lies in the journal after `from`, which is one of its points, up to where it is synced or a part of that: what `make` makes
    /// of the *what* part and the data of each chunk. `None`: it cannot be read, or is not the chunks that were written.
    pub fn read_back<T>(&self, from: &ChainPoint, make: impl Fn(&[u8], &[u8]) -> T) -> Option<ReadBack<T>> {
        let limit = self.points().synced.address;
        let (first, last) = (
            self.journal.layout.segment_of(from.address),
            self.journal.layout.segment_of(limit),
        );
        for segment in first..=last {
            let start = self
                .journal
                .layout
                .file_offset(self.journal.layout.segment_start(segment));
            self.journal
                .device
                .forget(start..start + self.journal.layout.segment_bytes);
        }
        let (mut at, mut buffer) = (*from, Vec::new());
        let mut read = ReadBack {
            point: *from,
            chunks: Vec::new(),
        };
        while at.address < limit && at.address - from.address < ENOUGH_BYTES || at != read.point {
            let spans = match self.journal.read_run(&at, limit, READ_BACK_BYTES, &mut buffer) {
                Ok(spans) => spans,
                Err(error) => {
                    tracing::error!(
                        replica = self.name(),
                        "what was journaled cannot be read back: {error}"
                    );
                    return None;
                }
            };
            at = spans.last()?.after;
            for span in spans {
                read.chunks.push(make(&buffer[span.what], &buffer[span.data]));
                if !span.has_more {
                    read.point = span.after;
                }
            }
        }
        Some(read)
    }

    /// Everything up to a point that was read back counts from now on, durably.
    ///
    /// # Errors
    /// [`StorageError`]: final, the store is degraded.
    pub fn confirm(&self, point: &ChainPoint) -> Result<(), StorageError> {
        let mut superblock = self.superblock.lock();
        self.check_usable()?;
        let points = self.points();
        let follows = (points.durable.address..=points.synced.address).contains(&point.address);
        if !superblock.confirms || !follows {
            let text = "a point was confirmed that is not waiting for it";
            return Err(StorageError::refused(self.name(), text));
        }
        superblock.head = *point;
        self.write_superblock(&mut superblock)?;
        let mut state = self.state.lock();
        state.points.durable = *point;
        state.points.assert_ordered();
        Ok(())
    }

    /// Forgets what has yet to be confirmed, if something has: it never was.
    ///
    /// # Errors
    /// [`StorageError`]: final, the store is degraded.
    pub fn give_up_unconfirmed(&self) -> Result<(), StorageError> {
        let _gate = self.sync_gate.lock();
        let mut appender = self.appender.lock();
        // What is being confirmed at this moment counts, or does not: nothing in between.
        let _superblock = self.superblock.lock();
        let durable = {
            let state = self.state.lock();
            if !state.confirms || state.points.durable == state.points.journaled {
                return Ok(());
            }
            state.points.durable
        };
        self.check_usable()?;
        self.guard(self.journal.erase_successors(&durable))?;
        appender.go_to(durable);
        let mut state = self.state.lock();
        (state.points.synced, state.points.journaled) = (durable, durable);
        state.points.assert_ordered();
        Ok(())
    }
}
