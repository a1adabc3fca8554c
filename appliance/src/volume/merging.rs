//! The backlog of a remote as merged batches: when one is made, and what is left of it to be sent.

use super::origin::Origin;
use super::source::{LinkSource, shutting_down, storage_error};
use crate::link::source::WantedChunks;
use crate::link::{MergeLimits, SourceError};
use farside_protocol::link::same_place;
use farside_storage::{ChunkSpan, MergePlan, MergedBatch, ReadError, done_elsewhere};
use parking_lot::Mutex;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// What a link knows of merging.
#[derive(Debug)]
pub(super) struct Merging {
    /// The batch on its way.
    batch: Mutex<Option<Box<MergedBatch>>>,
    /// Up to this address of the journal it was found that merging is not worth it.
    not_worth: AtomicU64,
    saved_bytes: Arc<AtomicU64>,
}

impl Merging {
    pub(super) fn new(saved_bytes: Arc<AtomicU64>) -> Self {
        Self {
            batch: Mutex::default(),
            not_worth: AtomicU64::new(0),
            saved_bytes,
        }
    }

    pub(super) fn saved_bytes(&self) -> u64 {
        self.saved_bytes.load(Ordering::Relaxed)
    }

    /// The link begins anew.
    pub(super) fn give_up(&self) {
        *self.batch.lock() = None;
        self.not_worth.store(0, Ordering::Relaxed);
    }
}

impl LinkSource {
    /// The next chunks of the batch on its way, or of a new one; `None`: those of the journal are to be sent as they are.
    pub(super) async fn read_merged(
        &self,
        wanted: &WantedChunks,
        buffer: &mut Vec<u8>,
    ) -> Result<Option<Vec<ChunkSpan>>, SourceError> {
        // What a replica received as a batch is sent on as it is, and no batch is made of that.
        let (Some(limits), Origin::Volume(_)) = (wanted.merge, &self.origin) else {
            return Ok(None);
        };
        let begun = self.merging.batch.lock().take();
        let begun = begun.filter(|batch| same_place(batch.at(), &wanted.from));
        let Some(mut batch) = (match begun {
            Some(batch) => Some(batch),
            None => self.plan(wanted, limits).await?,
        }) else {
            return Ok(None);
        };
        let max_bytes = usize::try_from(wanted.max_bytes).unwrap_or(usize::MAX);
        let (store, mut lent) = (self.origin.store().clone(), std::mem::take(buffer));
        let reading = done_elsewhere(self.workers(), move || {
            let read = store.read_merged(&mut batch, max_bytes, &mut lent);
            (read, batch, lent)
        });
        let (read, batch, lent) = reading.await.ok_or_else(shutting_down)?;
        *buffer = lent;
        let spans = read.map_err(|error| match error {
            ReadError::Behind(_) => SourceError::Behind,
            ReadError::Storage(error) => storage_error(error),
        })?;
        if batch.is_done() {
            let saved = batch.saved_bytes();
            self.merging.saved_bytes.fetch_add(saved, Ordering::Relaxed);
        } else {
            *self.merging.batch.lock() = Some(batch);
        }
        Ok(Some(spans))
    }

    async fn plan(
        &self,
        wanted: &WantedChunks,
        limits: MergeLimits,
    ) -> Result<Option<Box<MergedBatch>>, SourceError> {
        let (from, up_to) = (wanted.from, wanted.up_to);
        if from.address < self.merging.not_worth.load(Ordering::Relaxed) {
            return Ok(None);
        }
        let found = self
            .waiting(move |store| {
                let most = (limits.bytes, limits.chunks);
                store.plan_merge(&from, &up_to, most)
            })
            .await?;
        Ok(match found {
            Some(MergePlan::Batch(batch)) => Some(batch),
            Some(MergePlan::NotWorth(until)) => {
                self.merging.not_worth.store(until.address, Ordering::Relaxed);
                None
            }
            None => None,
        })
    }
}
