//! A replica: a store fed by a link instead of a host.
//!
//! Contract: what is appended is journaled, made durable in groups by the store's own threads, counted as
//! received only then, and applied after that. After a crash the journal is replayed, so the image is again
//! exactly the state after the last record received.

mod past;
mod set;
#[cfg(test)]
mod tests;

pub use past::{Bookmark, Past};
pub use set::{AsideError, AsideReplica, FailedReplica, ReplicaSet, ReplicaSetConfig, SeedPlace, aside};

use crate::limits::SYNC_INTERVAL;
use crate::sink::{Sink, SinkError, SinkState};
use bytes::Bytes;
use farside_protocol::journal::{ChainPoint, CopyState, Superblock, What};
use farside_protocol::link::chunk_digest;
use farside_protocol::link::limits::SIGNATURE_BYTES;
use farside_storage::limits::EAGER_COPY_BYTES;
use farside_storage::{
    AppendError, Keeper, ReadBack, StorageError, Store, StoreEvent, StoreFiles, StoreObserver, Workers,
    done_elsewhere,
};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use tokio::sync::watch;

/// One replica in service.
#[derive(Debug)]
pub struct Replica {
    store: Arc<Store>,
    /// The superblock at the start, for what never changes in it: the store's own is locked while a disk syncs.
    opened_as: Superblock,
    files: StoreFiles,
    past: Past,
    changed: watch::Sender<u64>,
    keeper: OnceLock<Arc<Keeper>>,
    workers: Arc<dyn Workers>,
    stopping: AtomicBool,
}

#[derive(Debug)]
struct Observer(std::sync::Weak<Replica>);

impl StoreObserver for Observer {
    fn observe(&self, event: StoreEvent) {
        if let Some(replica) = self.0.upgrade() {
            if let StoreEvent::CutLoose(remotes) = event {
                tracing::warn!(
                    replica = replica.store.name(),
                    ?remotes,
                    "the journal of the replica is full of what these remotes have not confirmed; they are let go and get what changed \
                     when they return. A larger journal covers longer outages"
                );
            }
            replica.wake();
        }
    }
}

impl Replica {
    /// Takes an open store into service.
    ///
    /// # Errors
    /// The operating system's, when it gives no threads.
    pub fn start(
        (store, past): (Store, Past),
        files: StoreFiles,
        workers: Arc<dyn Workers>,
    ) -> std::io::Result<Arc<Self>> {
        let replica = Arc::new(Self {
            opened_as: store.superblock(),
            store: Arc::new(store),
            files,
            past,
            changed: watch::Sender::new(0),
            keeper: OnceLock::new(),
            workers,
            stopping: AtomicBool::new(false),
        });
        let keeper = replica.workers.keep(
            replica.store.clone(),
            Arc::new(Observer(Arc::downgrade(&replica))),
            SYNC_INTERVAL,
        )?;
        replica.keeper.set(keeper).expect("the keeper is set once, here");
        Ok(replica)
    }

    /// The store behind the replica.
    #[must_use]
    pub fn store(&self) -> &Arc<Store> {
        &self.store
    }

    /// The superblock at the start, for what never changes: identity, geometry, whose replica it is. Waits
    /// for nothing.
    #[must_use]
    pub fn opened_as(&self) -> &Superblock {
        &self.opened_as
    }

    /// What it knows of its past.
    #[must_use]
    pub fn past(&self) -> &Past {
        &self.past
    }

    /// Its files.
    #[must_use]
    pub fn files(&self) -> &StoreFiles {
        &self.files
    }

    /// Where its long steps are done.
    #[must_use]
    pub fn workers(&self) -> &dyn Workers {
        &*self.workers
    }

    /// A remote that it is sent on to has confirmed more, or was let go.
    pub fn remote_moved(&self) {
        self.with_keeper(Keeper::relieve);
        self.wake();
    }

    /// Why nothing of it is to be sent on for now: what its image holds is no state of the volume.
    #[must_use]
    pub fn not_sent_on(&self) -> Option<&'static str> {
        match self.store.copy_progress().state {
            CopyState::Complete if self.store.is_replaying() => {
                Some("what was received here before a crash is being applied; then it is sent on")
            }
            CopyState::Complete => None,
            CopyState::Empty | CopyState::Copying => {
                Some("the replica here is not complete itself; what changed is sent on when it is")
            }
        }
    }

    /// Applies what was received, makes everything durable and marks the journal clean. Blocks.
    ///
    /// # Errors
    /// [`StorageError`]; nothing confirmed is lost, but the next start is an unclean one.
    pub fn shut_down(&self) -> Result<(), StorageError> {
        self.stopping.store(true, Ordering::Release);
        self.wake();
        if let Some(keeper) = self.keeper.get() {
            keeper.stop();
        }
        let result = self.store.shut_down();
        self.wake();
        result
    }

    /// Whether it goes out of service, or has.
    #[must_use]
    pub fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::Acquire)
    }

    /// Resolves when it goes out of service.
    pub async fn until_stopped(&self) {
        let mut changed = self.changed();
        while !self.is_stopping() && changed.changed().await.is_ok() {}
    }

    fn wake(&self) {
        self.changed.send_modify(|count| *count = count.wrapping_add(1));
    }

    fn with_keeper(&self, act: impl FnOnce(&Keeper)) {
        if let Some(keeper) = self.keeper.get() {
            act(keeper);
        }
    }

    /// Waits until everything that was appended is in the image. Nothing must be appended meanwhile.
    async fn applied(&self) -> Result<(), SinkError> {
        let mut changed = self.changed();
        loop {
            self.check()?;
            changed.mark_unchanged();
            let points = self.store.points();
            if points.applied == points.journaled {
                return Ok(());
            }
            self.with_keeper(Keeper::flush);
            self.with_keeper(Keeper::relieve);
            if changed.changed().await.is_err() {
                return Err(SinkError::ShuttingDown);
            }
        }
    }

    /// What its journal takes as one batch, and its history, in which small ranges cost more than they have, as what lies between two moments.
    fn largest_batch(&self) -> u64 {
        let kept = self.store.history().map(|history| history.ring_bytes() / 8);
        self.store.batch_bytes().min(kept.unwrap_or(u64::MAX))
    }

    fn check(&self) -> Result<(), SinkError> {
        if self.stopping.load(Ordering::Acquire) {
            return Err(SinkError::ShuttingDown);
        }
        match self.store.failure() {
            Some(problem) => Err(SinkError::Degraded(problem)),
            None => Ok(()),
        }
    }

    fn degraded(&self, error: &StorageError) -> SinkError {
        if self.stopping.load(Ordering::Acquire) {
            return SinkError::ShuttingDown;
        }
        SinkError::Degraded(error.to_string())
    }
}

impl Sink for Replica {
    fn state(&self) -> SinkState {
        let points = self.store.points();
        let copy = self.store.copy_progress();
        SinkState {
            copy: copy.state,
            copy_id: copy.id,
            received: points.durable,
            applied: points.applied.record,
            copy_offset: copy.durable,
            consistent_from: if copy.consistent_from == u64::MAX {
                0
            } else {
                copy.consistent_from
            },
            history_bytes: self.store.history().map_or(0, |history| history.ring_bytes()),
            batch_bytes: self.largest_batch(),
            synced: points.synced,
            unconfirmed_bytes: self.store.batch_bytes(),
        }
    }

    fn changed(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    fn is_closing(&self) -> bool {
        self.is_stopping()
    }

    async fn settle(&self) -> Result<SinkState, SinkError> {
        let store = self.store.clone();
        // May have to wait for a checkpoint that is recording how far the copy was.
        let given_up = done_elsewhere(&*self.workers, move || {
            store.rewind_copy();
            store.give_up_unconfirmed()
        });
        let given_up = given_up.await.ok_or(SinkError::ShuttingDown)?;
        given_up.map_err(|error| self.degraded(&error))?;
        self.with_keeper(Keeper::confirmed);
        let mut changed = self.changed();
        loop {
            self.check()?;
            let points = self.store.points();
            if points.durable == points.journaled {
                return Ok(self.state());
            }
            self.with_keeper(Keeper::flush);
            if changed.changed().await.is_err() {
                return Err(SinkError::ShuttingDown);
            }
        }
    }

    async fn set_confirms(&self, confirms: bool) -> Result<(), SinkError> {
        let store = self.store.clone();
        let set = done_elsewhere(&*self.workers, move || store.set_confirms(confirms)).await;
        set.ok_or(SinkError::ShuttingDown)?
            .map_err(|error| self.degraded(&error))
    }

    async fn read_back(
        &self,
        after: ChainPoint,
    ) -> Result<Option<ReadBack<[u8; SIGNATURE_BYTES]>>, SinkError> {
        self.check()?;
        let store = self.store.clone();
        let read = done_elsewhere(&*self.workers, move || store.read_back(&after, chunk_digest)).await;
        // What is given up at the end cannot be read, and is not damaged.
        self.check()?;
        read.ok_or(SinkError::ShuttingDown)
    }

    async fn confirm(&self, point: ChainPoint) -> Result<(), SinkError> {
        let store = self.store.clone();
        let confirmed = done_elsewhere(&*self.workers, move || store.confirm(&point)).await;
        confirmed
            .ok_or(SinkError::ShuttingDown)?
            .map_err(|error| self.degraded(&error))?;
        self.with_keeper(Keeper::confirmed);
        Ok(())
    }

    async fn has_content(&self) -> Result<bool, SinkError> {
        if self.store.copy_progress().state != CopyState::Empty {
            return Ok(true);
        }
        let store = self.store.clone();
        let found = done_elsewhere(&*self.workers, move || store.image_has_content()).await;
        found
            .ok_or(SinkError::ShuttingDown)?
            .map_err(|error| self.degraded(&error))
    }

    async fn begin_copy(&self, base: ChainPoint, copy_id: u32) -> Result<(), SinkError> {
        self.applied().await?;
        let (store, source) = (self.store.clone(), self.opened_as.source);
        let begun = done_elsewhere(&*self.workers, move || store.begin_copy(&base, source, copy_id)).await;
        begun
            .ok_or(SinkError::ShuttingDown)?
            .map_err(|error| self.degraded(&error))?;
        self.wake();
        Ok(())
    }

    async fn append(&self, what: &[u8], data: &[u8]) -> Result<(), SinkError> {
        let what = What::decode(what).map_err(|error| SinkError::Degraded(error.to_string()))?;
        let mut changed = self.changed();
        loop {
            self.check()?;
            changed.mark_unchanged();
            match self.store.append_sealed(&what, data) {
                Ok(_) => {
                    self.with_keeper(Keeper::appended);
                    return Ok(());
                }
                Err(AppendError::Full | AppendError::NotDurable | AppendError::Pending) => {
                    self.with_keeper(Keeper::flush);
                    self.with_keeper(Keeper::relieve);
                    if changed.changed().await.is_err() {
                        return Err(SinkError::ShuttingDown);
                    }
                }
                Err(AppendError::Storage(error)) => return Err(self.degraded(&error)),
                Err(wrong @ (AppendError::Gap { .. } | AppendError::Impossible(_))) => {
                    return Err(SinkError::Degraded(wrong.to_string()));
                }
            }
        }
    }

    async fn write_copy(&self, offset: u64, data: &[u8]) -> Result<(), SinkError> {
        self.check()?;
        if self.store.has_past_to_heed() {
            // What stands there is read and made durable elsewhere first.
            let (store, data) = (self.store.clone(), Bytes::copy_from_slice(data));
            let written = done_elsewhere(&*self.workers, move || store.write_copy(offset, &data)).await;
            let written = written.ok_or(SinkError::ShuttingDown)?;
            written.map_err(|error| self.degraded(&error))?;
        } else {
            let written = self.store.write_copy(offset, data);
            written.map_err(|error| self.degraded(&error))?;
        }
        let copy = self.store.copy_progress();
        if copy.written - copy.durable >= EAGER_COPY_BYTES {
            self.with_keeper(Keeper::relieve);
        }
        Ok(())
    }

    async fn zero_copy(&self, offset: u64, length: u64) -> Result<(), SinkError> {
        self.check()?;
        let store = self.store.clone();
        // Without holes at the receiver this writes zeroes, which can take long.
        let zeroed = done_elsewhere(&*self.workers, move || store.zero_copy(offset, length)).await;
        zeroed
            .ok_or(SinkError::ShuttingDown)?
            .map_err(|error| self.degraded(&error))
    }

    async fn skip_copy(&self, offset: u64, length: u64) -> Result<(), SinkError> {
        self.check()?;
        self.store
            .skip_copy(offset, length)
            .map_err(|error| self.degraded(&error))
    }

    async fn read(&self, offset: u64, length: u32, as_it_lies: bool) -> Result<Option<Vec<u8>>, SinkError> {
        if !as_it_lies {
            self.applied().await?;
        }
        let store = self.store.clone();
        let reading = done_elsewhere(&*self.workers, move || {
            let mut data = vec![0; length as usize];
            store.image().read_at(&mut data, offset).map(|()| data)
        });
        match reading.await.ok_or(SinkError::ShuttingDown)? {
            Ok(data) => Ok(Some(data)),
            // Mirroring does without it, and whoever compares is told.
            Err(error) => {
                tracing::error!(
                    replica = self.store.name(),
                    "a range to be compared cannot be read: {error}"
                );
                Ok(None)
            }
        }
    }

    async fn end_copy(&self, consistent_from: u64) -> Result<(), SinkError> {
        self.check()?;
        self.store
            .end_copy(consistent_from)
            .map_err(|error| self.degraded(&error))?;
        self.with_keeper(Keeper::relieve);
        Ok(())
    }
}
