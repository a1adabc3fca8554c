//! A volume: a store with hosts in front of it and remotes behind it.
//!
//! Contract: a change is acknowledged when it is in the journal; a flush when everything journaled before it is
//! durable; neither ever waits for a remote. After a failed write or sync the volume answers with errors and
//! acknowledges nothing until it is started again by an operator. Once it is being stopped, hosts are refused,
//! also reads: its files may be somebody else's next.

mod limits;
mod timeline;
mod shared;
mod unchanged;
mod commit;
mod origin;
mod merging;
mod source;
#[cfg(test)]
mod tests;

pub use source::LinkSource;

use crate::targets::{Disk, DiskError, DiskGeometry, Position, Update};
use bytes::Bytes;
use farside_protocol::journal::{RecordKind, Superblock};
use farside_storage::{Change, ReadOutcome, StorageError, Store, Stretch, Workers, done_elsewhere};
use limits::{CHANGE_BYTES, COLD_READ_BYTES, SYNC_INTERVAL};
use parking_lot::Mutex;
use shared::{HostCounters, Observer, Shared};
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// What hosts did since the volume was opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct HostActivity {
    /// Writes, trims and zeroings.
    pub writes: u64,
    /// Bytes of the ranges they changed.
    pub write_bytes: u64,
    /// Reads.
    pub reads: u64,
    /// Bytes read.
    pub read_bytes: u64,
    /// Those of the writes that were trims.
    pub trims: u64,
    /// Waits for durability: flushes and FUA.
    pub flushes: u64,
    /// Bytes written that were there already, and are not in the journal.
    pub unchanged_bytes: u64,
}

/// A disk that hosts attach and remotes follow.
#[derive(Debug)]
pub struct Volume {
    shared: Arc<Shared>,
    /// Bytes that merging has saved, by remote: their links come and go.
    merged: Mutex<BTreeMap<String, Arc<AtomicU64>>>,
}

impl Volume {
    /// Takes an open store into service.
    ///
    /// # Errors
    /// [`StorageError`] when its threads cannot be started.
    pub fn start(store: Store, workers: Arc<dyn Workers>) -> Result<Arc<Self>, StorageError> {
        let shared = Arc::new(Shared::new(Arc::new(store), workers));
        let observer = Arc::new(Observer(Arc::downgrade(&shared)));
        let kept = shared.workers.keep(shared.store.clone(), observer, SYNC_INTERVAL);
        let keeper = kept.map_err(|source| StorageError::Io {
            operation: farside_storage::Operation::Open,
            name: shared.store.name().to_owned(),
            offset: 0,
            source,
        })?;
        shared.keeper.set(keeper).expect("the keeper is set once, here");
        Ok(Arc::new(Self {
            shared,
            merged: Mutex::default(),
        }))
    }

    /// The store behind the volume.
    #[must_use]
    pub fn store(&self) -> &Arc<Store> {
        &self.shared.store
    }

    /// What counts the bytes that were not sent to a remote since the volume is open, because they were overwritten in the same
    /// backlog.
    fn merged(&self, remote: &str) -> Arc<AtomicU64> {
        self.merged.lock().entry(remote.to_owned()).or_default().clone()
    }

    /// The superblock at the start, for what never changes: identity, geometry. Waits for nothing.
    #[must_use]
    pub fn opened_as(&self) -> &Superblock {
        &self.shared.opened_as
    }

    /// The latest known time at which the volume had no record after `record`, in microseconds since 1970.
    #[must_use]
    pub fn all_until_us(&self, record: u64) -> Option<u64> {
        self.shared.timeline.all_until_us(record)
    }

    /// Changes whenever a position moves or a remote's state changes.
    #[must_use]
    pub fn changed(&self) -> watch::Receiver<u64> {
        self.shared.changed.subscribe()
    }

    /// A remote confirmed more: the ring may have room.
    pub fn remote_moved(&self) {
        self.shared.remote_moved();
    }

    /// What hosts did since the volume was opened.
    #[must_use]
    pub fn activity(&self) -> HostActivity {
        let HostCounters {
            writes,
            write_bytes,
            trims,
            reads,
            read_bytes,
            flushes,
            unchanged_bytes,
        } = &self.shared.counters;
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        HostActivity {
            writes: get(writes),
            write_bytes: get(write_bytes),
            trims: get(trims),
            reads: get(reads),
            read_bytes: get(read_bytes),
            flushes: get(flushes),
            unchanged_bytes: get(unchanged_bytes),
        }
    }

    /// Whether hosts can read only.
    #[must_use]
    pub fn is_read_only(&self) -> bool {
        self.shared.read_only.load(Ordering::Relaxed)
    }

    /// Whether hosts can read only from now on; what is under way is finished.
    pub fn set_read_only(&self, read_only: bool) {
        self.shared.read_only.store(read_only, Ordering::Relaxed);
    }

    /// Whether writes, or blocks of them, that change nothing are left out of the journal from now on.
    pub fn set_skip_unchanged(&self, skip: bool) {
        self.shared.skip_unchanged.store(skip, Ordering::Relaxed);
    }

    /// Refuses new work from now on; what waits is answered.
    pub fn begin_stop(&self) {
        self.shared.stopping.cancel();
        self.shared.wake_all();
    }

    /// Ends the volume: its threads stop, everything is made durable, the journal is marked clean. Blocks.
    ///
    /// # Errors
    /// [`StorageError`]; nothing acknowledged is lost, but the next start is an unclean one.
    pub fn shut_down(&self) -> Result<(), StorageError> {
        self.begin_stop();
        if let Some(keeper) = self.shared.keeper.get() {
            keeper.stop();
        }
        let result = self.shared.store.shut_down();
        self.shared.ended.store(true, Ordering::Release);
        self.shared.wake_all();
        result
    }

    fn take(&self, batch: &mut Vec<Update>) -> VecDeque<Change> {
        let arrived_us = self.shared.store.clock().wall_us();
        let changes: VecDeque<Change> = batch
            .drain(..)
            .flat_map(|update| changes(update, arrived_us))
            .collect();
        let bytes = changes.iter().map(|change| u64::from(change.length)).sum();
        self.shared
            .counters
            .writes
            .fetch_add(changes.len() as u64, Ordering::Relaxed);
        self.shared
            .counters
            .write_bytes
            .fetch_add(bytes, Ordering::Relaxed);
        changes
    }

    /// Brings what writes are going to be compared with into memory.
    async fn warm(&self, batch: &[Update]) {
        for update in batch {
            let Update::Write { offset, data } = update else {
                continue;
            };
            if unchanged::is_cold(&self.shared, *offset, data) {
                let (shared, offset, length) = (self.shared.clone(), *offset, data.len());
                // If it cannot be read, the write counts as a change, and says so itself if it fails.
                done_elsewhere(&*self.shared.workers, move || {
                    let _ = shared.store.read(offset, &mut vec![0; length]);
                })
                .await;
            }
        }
    }

    fn count_read(&self, length: usize) {
        self.shared.counters.reads.fetch_add(1, Ordering::Relaxed);
        self.shared
            .counters
            .read_bytes
            .fetch_add(length as u64, Ordering::Relaxed);
    }

    fn io_error(&self, error: &StorageError) -> DiskError {
        tracing::debug!(volume = %self.shared.store.name(), "read failed: {error}");
        DiskError::Io
    }
}

/// An update as changes: a range too long for one record is several.
fn changes(update: Update, arrived_us: u64) -> impl Iterator<Item = Change> {
    let (offset, length, kind, data) = match update {
        Update::Write { offset, data } => (offset, data.len() as u64, RecordKind::Write, data),
        Update::Trim { offset, length } => (offset, length, RecordKind::Trim, Bytes::new()),
        Update::Zero {
            offset,
            length,
            allocate,
        } => (offset, length, RecordKind::Zero { allocate }, Bytes::new()),
    };
    let pieces = (0..length.div_ceil(CHANGE_BYTES)).map(|piece| piece * CHANGE_BYTES);
    pieces.map(move |from| Change {
        offset: offset + from,
        length: u32::try_from((length - from).min(CHANGE_BYTES)).unwrap_or(u32::MAX),
        kind,
        data: data.clone(),
        arrived_us,
    })
}

impl Disk for Volume {
    fn geometry(&self) -> DiskGeometry {
        let size_bytes = self.shared.store.volume_bytes();
        DiskGeometry {
            size_bytes,
            preferred_block_bytes: 4096,
            read_only: self.is_read_only(),
        }
    }

    async fn update(&self, batch: &mut Vec<Update>) -> Result<Position, DiskError> {
        if self.shared.is_stopping() {
            batch.clear();
            return Err(DiskError::ShuttingDown);
        }
        if self.shared.skip_unchanged.load(Ordering::Relaxed) {
            self.warm(batch).await;
        }
        let changes = self.take(batch);
        if changes.is_empty() {
            return Ok(self.journaled());
        }
        commit::commit(&self.shared, changes).await
    }

    fn read_cached(&self, offset: u64, into: &mut [u8]) -> Result<bool, DiskError> {
        if self.shared.is_stopping() {
            return Err(DiskError::ShuttingDown);
        }
        match self.shared.store.read_cached(offset, into) {
            Ok(ReadOutcome::Done) => {
                self.count_read(into.len());
                Ok(true)
            }
            Ok(ReadOutcome::WouldWait) => Ok(false),
            Err(error) => Err(self.io_error(&error)),
        }
    }

    async fn read(
        self: &Arc<Self>,
        offset: u64,
        length: u32,
        mut into: Vec<u8>,
    ) -> Result<Vec<u8>, DiskError> {
        if length > COLD_READ_BYTES {
            return Err(DiskError::Io);
        }
        if self.shared.is_stopping() {
            return Err(DiskError::ShuttingDown);
        }
        let volume = self.clone();
        let workers = self.shared.workers.clone();
        let reading = done_elsewhere(&*workers, move || {
            let start = into.len();
            into.resize(start + length as usize, 0);
            volume
                .shared
                .store
                .read(offset, &mut into[start..])
                .map_err(|error| volume.io_error(&error))?;
            volume.count_read(length as usize);
            Ok(into)
        });
        reading.await.unwrap_or(Err(DiskError::ShuttingDown))
    }

    async fn modify(
        self: &Arc<Self>,
        offset: u64,
        length: u64,
        judge: impl FnOnce(&[u8]) -> Option<Bytes> + Send,
    ) -> Result<Option<Position>, DiskError> {
        let leadership = commit::lead_alone(&self.shared).await?;
        let length = u32::try_from(length).map_err(|_| DiskError::Io)?;
        let found = self.read(offset, length, Vec::new()).await?;
        let Some(data) = judge(&found) else {
            return Ok(None);
        };
        let changes = self.take(&mut vec![Update::Write { offset, data }]);
        commit::lead(&self.shared, (changes, true), leadership)
            .await
            .map(Some)
    }

    async fn allocation(
        self: &Arc<Self>,
        offset: u64,
        length: u64,
        most: usize,
    ) -> Result<Vec<Stretch>, DiskError> {
        if self.shared.is_stopping() {
            return Err(DiskError::ShuttingDown);
        }
        let volume = self.clone();
        let looking = done_elsewhere(&*self.shared.workers, move || {
            let found = volume.shared.store.allocation(offset, offset + length, most);
            found.map_err(|error| volume.io_error(&error))
        });
        looking.await.unwrap_or(Err(DiskError::ShuttingDown))
    }

    fn journaled(&self) -> Position {
        self.shared.store.points().journaled.record
    }

    fn flush_here(&self) {
        self.shared.store.flush_wanted();
        self.shared.flush_here();
    }

    async fn durable(&self, position: Position) -> Result<(), DiskError> {
        self.shared.counters.flushes.fetch_add(1, Ordering::Relaxed);
        self.shared.store.flush_wanted();
        loop {
            // Before anything is looked at: what happens from here on wakes it.
            let moved = self.shared.durable_moved.notified();
            let store = &self.shared.store;
            let reached = store.points().durable.record >= position;
            if store.failure().is_some() {
                return Err(DiskError::Io);
            }
            if reached {
                return Ok(());
            }
            if self.shared.has_ended() {
                return Err(DiskError::ShuttingDown);
            }
            self.shared.flush();
            moved.await;
        }
    }

    fn closing(&self) -> CancellationToken {
        self.shared.stopping.clone()
    }
}
