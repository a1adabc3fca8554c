//! A volume as one of its link senders sees it.

use super::limits::WARM_BYTES;
use super::merging::Merging;
use super::origin::Origin;
use super::{Volume, commit};
use crate::link::limits::{BATCH_CHUNKS, VERIFY_STILL_MS};
use crate::link::source::WantedChunks;
use crate::link::{
    ChunkSpan, ComparedPiece, Digests, Extent, Identity, InBatch, Located, Points, Source, SourceError,
};
use farside_protocol::journal::limits::MAX_CONSUMERS;
use farside_protocol::journal::{ChainPoint, ConsumerState, Merged, Superblock, What};
use farside_protocol::link::{digest_bytes, digests};
use farside_remote::Replica;
use farside_storage::{Device, ReadError, StorageError, Store, Workers, done_elsewhere};
use parking_lot::Mutex;
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::timeout;
use uuid::Uuid;

/// Chunks read for a remote and not yet confirmed by it, at most, whose blocks are counted on confirmation.
const MAX_UNCONFIRMED: usize = 1 << 16;

/// One remote's view of a volume.
#[derive(Debug)]
pub struct LinkSource {
    pub(super) remote: String,
    pub(super) origin: Origin,
    identity: Identity,
    /// (last record, blocks) of chunks that were read and are not confirmed.
    unconfirmed: Mutex<VecDeque<(u64, u64)>>,
    pub(super) merging: Merging,
    /// When the remote was last known to have everything, in microseconds since 1970.
    caught_up_us: AtomicU64,
}

impl LinkSource {
    /// The view of a remote, which is added to the volume's consumers if it is new, then with the device for its
    /// dirty-block map that `map` gives.
    ///
    /// # Errors
    /// [`StorageError`], also when the volume has too many remotes.
    pub fn new(
        volume: Arc<Volume>,
        unit: (Uuid, String),
        remote: &str,
        map: impl FnOnce(&Superblock) -> Result<Arc<dyn Device>, StorageError>,
    ) -> Result<Self, StorageError> {
        let merging = Merging::new(volume.merged(remote));
        Self::of(Origin::Volume(volume), merging, unit, (remote, map))
    }

    /// The same for a replica that is sent on.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub fn of_replica(
        replica: Arc<Replica>,
        unit: (Uuid, String),
        remote: &str,
        map: impl FnOnce(&Superblock) -> Result<Arc<dyn Device>, StorageError>,
    ) -> Result<Self, StorageError> {
        let merging = Merging::new(Arc::default());
        Self::of(Origin::Replica(replica), merging, unit, (remote, map))
    }

    fn of(
        origin: Origin,
        merging: Merging,
        unit: (Uuid, String),
        (remote, map): (
            &str,
            impl FnOnce(&Superblock) -> Result<Arc<dyn Device>, StorageError>,
        ),
    ) -> Result<Self, StorageError> {
        let store = origin.store();
        if store.consumer(remote).is_none() {
            if store.superblock().consumers.len() >= MAX_CONSUMERS {
                return Err(StorageError::Refused {
                    name: store.name().to_owned(),
                    problem: format!(
                        "has {MAX_CONSUMERS} remotes already, which is the most; remove one first"
                    ),
                });
            }
            store.add_consumer(remote, map(&store.superblock())?)?;
        }
        let (superblock, (volume_bytes, epoch)) = (origin.opened_as(), origin.size_and_epoch());
        let identity = Identity {
            unit: unit.0,
            unit_name: unit.1,
            volume: superblock.volume,
            volume_name: superblock.name.clone(),
            volume_bytes,
            segment_bytes: superblock.segment_bytes,
            epoch,
        };
        Ok(Self {
            remote: remote.to_owned(),
            identity,
            unconfirmed: Mutex::default(),
            merging,
            origin,
            caught_up_us: AtomicU64::new(0),
        })
    }

    /// When the remote was last known to have everything, in microseconds since 1970; 0 if never.
    #[must_use]
    pub fn caught_up_us(&self) -> u64 {
        self.caught_up_us.load(Ordering::Relaxed)
    }

    /// Bytes that did not have to be sent, because what was written there was written over in the same backlog.
    #[must_use]
    pub fn merged_bytes(&self) -> u64 {
        self.merging.saved_bytes()
    }

    fn count_confirmed(&self, record: u64) {
        let mut unconfirmed = self.unconfirmed.lock();
        let mut blocks = 0;
        while let Some((_, more)) = unconfirmed.front().copied().filter(|(last, _)| *last <= record) {
            blocks += more;
            unconfirmed.pop_front();
        }
        drop(unconfirmed);
        if blocks > 0 {
            self.origin.store().count_link(0, blocks);
        }
    }

    /// What is to be known of chunks that were read.
    fn described(
        &self,
        wanted: &WantedChunks,
        spans: Vec<farside_storage::ChunkSpan>,
        buffer: &[u8],
    ) -> Result<Vec<ChunkSpan>, SourceError> {
        if !self.origin.store().may_send_to(&self.remote) {
            return Err(SourceError::Behind);
        }
        let mut sent_blocks = 0;
        let mut chunks = Vec::with_capacity(spans.len().min(BATCH_CHUNKS));
        let mut unconfirmed = self.unconfirmed.lock();
        for span in spans.into_iter().take(BATCH_CHUNKS) {
            // The remote would refuse it, and blame the line.
            let what = What::decode(&buffer[span.what.clone()])
                .ok()
                .filter(|what| what.data_is_intact(&buffer[span.data.clone()]))
                .ok_or_else(|| damaged(self.origin.store().name(), &span))?;
            let blocks = what.records().map(|record| record.blocks()).sum();
            let touches = wanted.watched.as_ref().is_some_and(|watched| {
                let mut records = what.records();
                records.any(|record| record.offset < watched.end && record.end() > watched.start)
            });
            sent_blocks += blocks;
            if unconfirmed.len() < MAX_UNCONFIRMED {
                unconfirmed.push_back((span.after.record, blocks));
            }
            let batch = match what.merged() {
                None => InBatch::No,
                Some(Merged::More) => InBatch::More,
                Some(Merged::End(_)) => InBatch::Last,
            };
            chunks.push(ChunkSpan {
                reaches: match batch {
                    InBatch::No => span.after.record,
                    InBatch::More | InBatch::Last => wanted.up_to.record,
                },
                batch,
                what: span.what,
                data: span.data,
                after: span.after,
                blocks,
                touches,
            });
        }
        drop(unconfirmed);
        self.origin.store().count_link(sent_blocks, 0);
        Ok(chunks)
    }

    pub(super) fn workers(&self) -> &dyn Workers {
        self.origin.workers()
    }

    /// Runs a step that may wait for a disk.
    pub(super) async fn waiting<T: Send + 'static>(
        &self,
        step: impl FnOnce(&Store) -> Result<T, StorageError> + Send + 'static,
    ) -> Result<T, SourceError> {
        let store = self.origin.store().clone();
        let done = done_elsewhere(self.workers(), move || step(&store)).await;
        done.ok_or_else(shutting_down)?.map_err(storage_error)
    }
}

pub(super) fn shutting_down() -> SourceError {
    SourceError::Storage("the unit is shutting down".to_owned())
}

#[expect(clippy::needless_pass_by_value, reason = "it stands in map_err")]
pub(super) fn storage_error(error: StorageError) -> SourceError {
    SourceError::Storage(error.to_string())
}

fn damaged(volume: &str, span: &farside_storage::ChunkSpan) -> SourceError {
    SourceError::Storage(format!(
        "chunk {} in the journal of {volume} is damaged and is not sent; restore the journal, or remove the remote and add \
         it again, so that it gets a full copy",
        span.after.sequence
    ))
}

impl LinkSource {
    /// A replica has batches in its journal. Each is begun with a reading of its own, if there is room for all of it.
    async fn up_to_batch(
        &self,
        wanted: &WantedChunks,
        mut spans: Vec<farside_storage::ChunkSpan>,
        buffer: &[u8],
    ) -> Result<Vec<farside_storage::ChunkSpan>, SourceError> {
        if !matches!(self.origin, Origin::Replica(_)) {
            return Ok(spans);
        }
        let Some(most) = wanted.batch else {
            // The rest of one. What follows it is looked at by itself.
            let ends = spans.iter().position(|span| !span.has_more);
            spans.truncate(ends.map_or(spans.len(), |ends| ends + 1));
            return Ok(spans);
        };
        let is_batch = |span: &farside_storage::ChunkSpan| {
            What::decode(&buffer[span.what.clone()]).is_ok_and(|what| what.merged().is_some())
        };
        let Some(begins) = spans.iter().position(is_batch) else {
            return Ok(spans);
        };
        if begins == 0 {
            let from = wanted.from;
            let bytes = self.waiting(move |store| store.batch_size(&from)).await?;
            if bytes > most {
                return Err(SourceError::LongBatch(bytes));
            }
        }
        spans.truncate(begins.max(1));
        Ok(spans)
    }
}

impl Source for LinkSource {
    fn identity(&self) -> Identity {
        let (volume_bytes, epoch) = self.origin.size_and_epoch();
        Identity {
            volume_bytes,
            epoch,
            ..self.identity.clone()
        }
    }

    fn held(&self) -> Option<String> {
        match &self.origin {
            Origin::Volume(_) => None,
            Origin::Replica(replica) => replica.not_sent_on().map(str::to_owned),
        }
    }

    fn points(&self) -> Points {
        let points = self.origin.store().points();
        Points {
            tail: points.tail,
            image: points.applied,
            durable: points.durable,
            journaled: points.journaled,
        }
    }

    fn now_us(&self) -> u64 {
        self.origin.store().clock().wall_us()
    }

    fn consumer(&self, remote: &str) -> (ConsumerState, ChainPoint) {
        let view = self.origin.store().consumer(remote);
        view.map_or((ConsumerState::NeedsCopy, ChainPoint::default()), |view| {
            (view.state, view.acked)
        })
    }

    fn set_consumer(&self, remote: &str, state: ConsumerState, acked: ChainPoint) {
        self.count_confirmed(acked.record);
        let complete = state == ConsumerState::Attached;
        if complete && acked.record == self.origin.store().points().journaled.record {
            self.caught_up_us.store(self.now_us(), Ordering::Relaxed);
        }
        if let Err(error) = self.origin.store().acknowledge(remote, acked, complete) {
            tracing::warn!(volume = %self.origin.store().name(), remote, "position not taken: {error}");
        }
        self.origin.remote_moved();
    }

    async fn start_copy(&self, remote: &str, all: bool) -> Result<(ChainPoint, u32), SourceError> {
        self.unconfirmed.lock().clear();
        if let Some(why) = self.held() {
            return Err(SourceError::Storage(why));
        }
        let remote = remote.to_owned();
        self.waiting(move |store| store.begin_consumer_copy(&remote, all))
            .await
    }

    async fn locate(&self, record: u64) -> Result<Located, SourceError> {
        self.unconfirmed.lock().clear();
        self.merging.give_up();
        let remote = self.remote.clone();
        self.waiting(move |store| {
            let in_journal = store.locate(record)?;
            let marked_since = store.trail_point(&remote, record);
            Ok(Located {
                point: in_journal.or(marked_since),
                marked_since,
                copy_id: store.consumer(&remote).map_or(0, |view| view.copy_id),
            })
        })
        .await
    }

    async fn read_chunks(
        &self,
        wanted: &WantedChunks,
        buffer: &mut Vec<u8>,
    ) -> Result<Vec<ChunkSpan>, SourceError> {
        if let Some(spans) = self.read_merged(wanted, buffer).await? {
            return self.described(wanted, spans, buffer);
        }
        let (from, up_to) = (wanted.from, wanted.up_to);
        let max_bytes = usize::try_from(wanted.max_bytes).unwrap_or(usize::MAX);
        let store = self.origin.store();
        if store.volume_bytes() != wanted.volume_bytes {
            let text = "it grew; the remote is greeted anew, with its new size";
            return Err(SourceError::Storage(text.to_owned()));
        }
        let behind = store.points().journaled.address.saturating_sub(from.address);
        let read = if behind <= WARM_BYTES {
            store.read_chunks(&from, &up_to, max_bytes, buffer)
        } else {
            let (store, mut lent) = (store.clone(), std::mem::take(buffer));
            let reading = done_elsewhere(self.workers(), move || {
                let read = store.read_chunks(&from, &up_to, max_bytes, &mut lent);
                (read, lent)
            });
            let (read, lent) = reading.await.ok_or_else(shutting_down)?;
            *buffer = lent;
            read
        };
        let spans = read.map_err(|error| match error {
            ReadError::Behind(_) => SourceError::Behind,
            ReadError::Storage(error) => storage_error(error),
        })?;
        let spans = self.up_to_batch(wanted, spans, buffer).await?;
        self.described(wanted, spans, buffer)
    }

    async fn read_image(
        &self,
        offset: u64,
        max_bytes: u32,
        buffer: &mut Vec<u8>,
    ) -> Result<Extent, SourceError> {
        let end = self.origin.store().volume_bytes();
        if offset >= end {
            // What the image consumer was writing during the last read is durable, so the sender's `durable`
            // taken after this covers it.
            return Ok(Extent::End);
        }
        let (until, copied) = self.origin.store().copy_extent(&self.remote, offset);
        if !copied {
            let length = until - offset;
            return Ok(Extent::Same { offset, length });
        }
        let (image, mut lent) = (self.origin.store().image().clone(), std::mem::take(buffer));
        let reading = done_elsewhere(self.workers(), move || {
            let read = read_extent(&*image, (offset, until), max_bytes, &mut lent);
            (read, lent)
        });
        let (read, lent) = reading.await.ok_or_else(shutting_down)?;
        *buffer = lent;
        let extent = read.map_err(storage_error)?;
        Ok(extent)
    }

    fn copy_bytes(&self, from: u64) -> u64 {
        self.origin.store().copy_bytes(&self.remote, from)
    }

    async fn digests(&self, piece: ComparedPiece) -> Result<Option<Digests>, SourceError> {
        let ComparedPiece {
            offset,
            length,
            still,
        } = piece;
        let Origin::Volume(volume) = &self.origin else {
            // Nobody asks: both are compared with the volume.
            return Ok(None);
        };
        // Held until it was read.
        let _writes_wait = if still {
            let patience = Duration::from_millis(VERIFY_STILL_MS);
            let Ok(waiting) = timeout(patience, commit::lead_alone(&volume.shared)).await else {
                return Ok(None);
            };
            Some(waiting.map_err(|_| shutting_down())?)
        } else {
            None
        };
        self.waiting(move |store| {
            let after = store.points().journaled.record;
            let mut data = vec![0; length as usize];
            let digests = digests_of(store, store.read(offset, &mut data), &data);
            // What was journaled while it was read may be in it, in part.
            let until = store.points().journaled;
            Ok(Some(Digests {
                after,
                until,
                digests,
            }))
        })
        .await
    }

    fn changed(&self) -> watch::Receiver<u64> {
        self.origin.changed()
    }
}

/// What cannot be read here is not what the remote has: its digests are those of nothing.
fn digests_of(store: &Store, read: Result<(), StorageError>, data: &[u8]) -> Vec<u8> {
    match read {
        Ok(()) => digests(data),
        Err(error) => {
            let volume = store.name();
            tracing::error!(volume, "a range to be compared cannot be read: {error}");
            vec![0; digest_bytes(data.len())]
        }
    }
}

/// The extent at the first of two offsets, and its data, if it has any.
fn read_extent(
    image: &dyn Device,
    (offset, end): (u64, u64),
    max_bytes: u32,
    data: &mut Vec<u8>,
) -> Result<Extent, StorageError> {
    let extent = image.extent_at(offset, end)?;
    if !extent.data {
        let length = extent.length;
        return Ok(Extent::Hole { offset, length });
    }
    let length = u32::try_from(extent.length).unwrap_or(u32::MAX).min(max_bytes);
    data.resize(length as usize, 0);
    image.read_at(data, offset)?;
    Ok(Extent::Data { offset, length })
}
