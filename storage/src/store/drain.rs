//! The image consumer: takes durable chunks, merges what overlaps, writes the image in order of offset.
//!
//! Nothing that is not durable in the journal ever reaches the image. Payload checksums are checked here
//! again. A crash in the middle is repaired by doing the same once more.

use super::Store;
use super::past::Batch;
use super::written::Written;
use crate::error::StorageError;
use crate::journal::ChunkSpan;
use crate::limits::DRAIN_BATCH_BYTES;
use crate::overlay::{Overlay, Piece, Source, sources};
use farside_protocol::journal::limits::BLOCK_BYTES;
use farside_protocol::journal::{ChainPoint, What};
use std::io::IoSlice;
use std::sync::atomic::Ordering;

/// Buffers of the image consumer, kept between steps.
#[derive(Debug)]
pub(super) struct Drain {
    buffer: Vec<u8>,
    merged: Overlay,
    /// What was written to the image since the last checkpoint.
    pub(super) written: Written,
    /// How often a host had asked for durability at the last checkpoint.
    pub(super) flushes_known: u64,
}

/// How far a step has come.
#[derive(Debug, Clone, Copy)]
pub(super) struct Reached {
    pub(super) point: ChainPoint,
    /// In the middle of a merged batch: that is no state of the volume.
    pub(super) in_batch: bool,
}

impl Drain {
    pub(super) fn new(volume_bytes: u64) -> Self {
        Self {
            buffer: Vec::new(),
            merged: Overlay::default(),
            written: Written::new(volume_bytes),
            flushes_known: 0,
        }
    }
}

/// Leaves away what does not end at a point of the chain. True: nothing in it does, all of it is in the middle of a batch.
fn end_at_a_point(spans: &mut Vec<ChunkSpan>) -> bool {
    match spans.iter().rposition(|span| !span.has_more) {
        Some(at) => {
            spans.truncate(at + 1);
            false
        }
        None => true,
    }
}

impl Store {
    /// Brings the image forward by up to one batch of durable chunks. `Ok(false)`: there was nothing to do.
    ///
    /// # Errors
    /// [`StorageError`] of the journal or the image; after a failed write the store is degraded for good.
    pub fn drain(&self) -> Result<bool, StorageError> {
        self.drain_step(&mut self.drain.lock())
    }

    /// The same for who holds the image already.
    pub(super) fn drain_step(&self, drain: &mut Drain) -> Result<bool, StorageError> {
        self.check_usable()?;
        let (from, limit) = {
            let state = self.state.lock();
            (state.points.applied, state.points.durable)
        };
        self.mark_past(from);
        if from.address >= limit.address {
            return Ok(false);
        }
        // A merged batch may be longer than a run: the image is at no point of the chain until all of it is there.
        let mut reached = Reached {
            point: from,
            in_batch: false,
        };
        loop {
            reached = self.drain_run(drain, &reached, limit.address)?;
            if !reached.in_batch {
                return Ok(true);
            }
        }
    }

    /// One run of chunks; ends after a batch, if there is the end of one in it.
    fn drain_run(&self, drain: &mut Drain, from: &Reached, limit: u64) -> Result<Reached, StorageError> {
        let Drain {
            buffer,
            merged,
            written,
            ..
        } = drain;
        // A durable chunk that cannot be read ends the way of the image for good, like a failed write.
        let read = self
            .journal
            .read_run(&from.point, limit, DRAIN_BATCH_BYTES, buffer);
        let mut spans = self.guard(read)?;
        let in_batch = end_at_a_point(&mut spans);
        let Some(last) = spans.last().map(|span| span.after) else {
            return Err(self.fail(self.lost_chunk(&from.point)));
        };
        if in_batch && !from.in_batch {
            // The image stays at a state if the batch turns out to be damaged.
            self.guard(self.check_rest_of_batch(last, limit))?;
        }
        let base = spans[0].address;
        self.guard(self.merge(from, &spans, buffer, merged))?;
        self.commit_past(&last, in_batch);
        self.go_on_without_past()?;
        self.image_generation.fetch_add(1, Ordering::AcqRel);
        let result = self.guard(self.write_image(merged, buffer, base));
        if result.is_ok() {
            merged
                .iter()
                .for_each(|piece| written.mark(&(piece.offset..piece.end)));
            if !in_batch {
                self.step_applied(merged, last);
                self.reveal_past(&last);
            }
        }
        self.image_generation.fetch_add(1, Ordering::AcqRel);
        merged.clear();
        result.map(|()| Reached {
            point: last,
            in_batch,
        })
    }

    fn lost_chunk(&self, after: &ChainPoint) -> StorageError {
        let offset = self.journal.layout.file_offset(after.address);
        let text = format!(
            "chunk {} was durable and is no longer readable",
            after.sequence + 1
        );
        StorageError::damaged(self.journal.device.name(), offset, text)
    }

    /// Whether what follows of a merged batch can be applied.
    fn check_rest_of_batch(&self, from: ChainPoint, limit: u64) -> Result<(), StorageError> {
        let (mut at, mut buffer) = (from, Vec::new());
        loop {
            let mut spans = self
                .journal
                .read_run(&at, limit, DRAIN_BATCH_BYTES, &mut buffer)?;
            let goes_on = end_at_a_point(&mut spans);
            at = spans
                .last()
                .map(|span| span.after)
                .ok_or_else(|| self.lost_chunk(&at))?;
            for span in &spans {
                self.intact(span, &buffer)?;
            }
            if !goes_on {
                return Ok(());
            }
        }
    }

    /// A chunk whose payloads have their checksums, and which lies inside the volume.
    fn intact<'a>(&self, span: &ChunkSpan, buffer: &'a [u8]) -> Result<What<'a>, StorageError> {
        let damaged = |problem: String| {
            let offset = self.journal.layout.file_offset(span.address);
            StorageError::damaged(self.journal.device.name(), offset, problem)
        };
        let what = What::decode(&buffer[span.what.clone()]).map_err(|error| damaged(error.to_string()))?;
        if !what.data_is_intact(&buffer[span.data.clone()]) {
            self.state.lock().damaged.push(span.address..span.after.address);
            return Err(damaged(format!(
                "payload checksum mismatch in chunk {}; restore the journal, or create the volume again from the \
                 remote's copy",
                what.header.sequence
            )));
        }
        if let Some(record) = what.records().find(|record| record.end() > self.volume_bytes()) {
            return Err(damaged(format!(
                "chunk {} changes byte {} of a volume of {} bytes",
                what.header.sequence,
                record.end(),
                self.volume_bytes()
            )));
        }
        Ok(what)
    }

    /// Collects what a batch changes, later records over earlier ones, payloads verified.
    fn merge(
        &self,
        from: &Reached,
        spans: &[ChunkSpan],
        buffer: &[u8],
        merged: &mut Overlay,
    ) -> Result<(), StorageError> {
        let (mut before, base) = (*from, spans.first().map_or(0, |span| span.address));
        for span in spans {
            let what = self.intact(span, buffer)?;
            self.keep_past(&before, &what, &Batch { merged, buffer, base });
            before = Reached {
                point: span.after,
                in_batch: span.has_more,
            };
            for (record, source) in sources(&what, span.address) {
                merged.insert(record.offset, record.end(), source);
            }
        }
        Ok(())
    }

    /// Writes the merged pieces; neighbours go out with one call.
    fn write_image(&self, merged: &Overlay, buffer: &[u8], base: u64) -> Result<(), StorageError> {
        let bytes = |piece: &Piece, address: u64| {
            let at = usize::try_from(address - base).unwrap_or(usize::MAX);
            &buffer[at..at + usize::try_from(piece.end - piece.offset).unwrap_or(usize::MAX)]
        };
        let mut run: Vec<IoSlice<'_>> = Vec::new();
        let (mut start, mut end) = (0, 0);
        for piece in merged.iter() {
            if piece.offset != end || run.len() >= BLOCK_BYTES / 16 {
                self.write_run(&mut run, start)?;
            }
            if run.is_empty() {
                start = piece.offset;
            }
            match piece.source {
                Source::Journal(address) => run.push(IoSlice::new(bytes(&piece, address))),
                Source::Zero { allocate, .. } => {
                    self.write_run(&mut run, start)?;
                    self.image
                        .zero_at(piece.offset, piece.end - piece.offset, allocate)?;
                }
            }
            end = piece.end;
        }
        self.write_run(&mut run, start)
    }

    fn write_run(&self, run: &mut Vec<IoSlice<'_>>, offset: u64) -> Result<(), StorageError> {
        if run.is_empty() {
            return Ok(());
        }
        self.image.write_at(run, offset)?;
        run.clear();
        Ok(())
    }

    fn step_applied(&self, merged: &Overlay, last: ChainPoint) {
        let mut state = self.state.lock();
        if state.keeps_overlay {
            for piece in merged.iter() {
                state.overlay.remove(piece.offset, piece.end, last.address);
            }
        }
        state.points.applied = last;
        state.points.assert_ordered();
    }
}
