//! What a volume's connections, threads and remotes share.

use super::commit::Commit;
use super::timeline::Timeline;
use crate::targets::DiskError;
use farside_protocol::journal::Superblock;
use farside_storage::{AppendError, Keeper, Store, StoreEvent, StoreObserver, Workers};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;

/// How often hosts asked for what, since the start.
#[derive(Debug, Default)]
pub(super) struct HostCounters {
    pub(super) writes: AtomicU64,
    pub(super) write_bytes: AtomicU64,
    pub(super) trims: AtomicU64,
    pub(super) reads: AtomicU64,
    pub(super) read_bytes: AtomicU64,
    pub(super) flushes: AtomicU64,
    pub(super) unchanged_bytes: AtomicU64,
}

#[derive(Debug)]
pub(super) struct Shared {
    pub(super) store: Arc<Store>,
    /// The superblock at the start, for what never changes in it: the store's own is locked while a disk syncs.
    pub(super) opened_as: Superblock,
    pub(super) commit: Commit,
    pub(super) counters: HostCounters,
    pub(super) timeline: Timeline,
    /// Fires when there may be room in the ring again.
    pub(super) room: Notify,
    /// A group waits for room.
    pub(super) starving: AtomicBool,
    /// Fires when the durable record may have risen, and when the store fails or stops. No `watch`: that wakes those who
    /// wait in random order, and here these are tasks of the runtime, so that a seed would not decide its world.
    pub(super) durable_moved: Notify,
    /// Rises whenever a position or a remote's state changed: what the link waits for.
    pub(super) changed: watch::Sender<u64>,
    pub(super) keeper: OnceLock<Arc<Keeper>>,
    pub(super) workers: Arc<dyn Workers>,
    /// Hosts may not change anything.
    pub(super) read_only: AtomicBool,
    /// Writes that change nothing are not journaled.
    pub(super) skip_unchanged: AtomicBool,
    /// Cancelled: no new work.
    pub(super) stopping: CancellationToken,
    /// Nothing becomes durable any more.
    pub(super) ended: AtomicBool,
}

impl Shared {
    pub(super) fn new(store: Arc<Store>, workers: Arc<dyn Workers>) -> Self {
        Self {
            opened_as: store.superblock(),
            store,
            commit: Commit::default(),
            counters: HostCounters::default(),
            timeline: Timeline::default(),
            room: Notify::new(),
            starving: AtomicBool::new(false),
            durable_moved: Notify::new(),
            changed: watch::Sender::new(0),
            keeper: OnceLock::new(),
            workers,
            read_only: AtomicBool::new(false),
            skip_unchanged: AtomicBool::default(),
            stopping: CancellationToken::new(),
            ended: AtomicBool::new(false),
        }
    }

    fn with_keeper(&self, act: impl FnOnce(&Keeper)) {
        if let Some(keeper) = self.keeper.get() {
            act(keeper);
        }
    }

    pub(super) fn appended(&self) {
        self.with_keeper(Keeper::appended);
    }

    pub(super) fn flush(&self) {
        self.with_keeper(Keeper::flush);
    }

    /// Makes everything journaled durable on this thread, if it may wait and nobody does so already.
    pub(super) fn flush_here(&self) {
        let points = self.store.points();
        // To be allowed to wait costs something: not for nothing.
        if points.durable != points.journaled && !self.store.under_way().syncing {
            self.with_keeper(|keeper| self.workers.do_here(&mut || keeper.flush_here()));
        }
    }

    /// A remote confirmed more. Only worth a step of the image's own when somebody waits for it: else it would
    /// not have the time to gather neighbouring writes.
    pub(super) fn remote_moved(&self) {
        if self.starving.load(Ordering::Acquire) {
            self.with_keeper(Keeper::relieve);
        }
    }

    /// Room is needed: whatever is in its way has to move.
    pub(super) fn want_room(&self) {
        self.starving.store(true, Ordering::Release);
        self.with_keeper(Keeper::flush);
        self.with_keeper(Keeper::relieve);
    }

    pub(super) fn is_stopping(&self) -> bool {
        self.stopping.is_cancelled()
    }

    pub(super) fn has_ended(&self) -> bool {
        self.ended.load(Ordering::Acquire)
    }

    /// Wakes everybody who waits, to look again.
    pub(super) fn wake_all(&self) {
        self.durable_moved.notify_waiters();
        self.tell_moved();
    }

    /// Not for those who wait for durability, who are many.
    fn tell_moved(&self) {
        self.changed.send_modify(|count| *count = count.wrapping_add(1));
        self.room.notify_waiters();
    }

    /// What a host is told; the store has logged the cause.
    pub(super) fn disk_error(&self, error: &AppendError) -> DiskError {
        match error {
            AppendError::Storage(error) if error.is_no_space() => DiskError::NoSpace,
            _ if self.is_stopping() && self.store.failure().is_none() => DiskError::ShuttingDown,
            _ => DiskError::Io,
        }
    }
}

/// Passes the events of the store on to those who wait.
#[derive(Debug)]
pub(super) struct Observer(pub(super) std::sync::Weak<Shared>);

impl StoreObserver for Observer {
    fn observe(&self, event: StoreEvent) {
        let Some(shared) = self.0.upgrade() else { return };
        match event {
            StoreEvent::Image => shared.tell_moved(),
            StoreEvent::Durable | StoreEvent::Failed => shared.wake_all(),
            StoreEvent::CutLoose(remotes) => {
                tracing::warn!(
                    volume = %shared.store.name(), ?remotes,
                    "the journal is full of what these remotes have not confirmed; they are let go and need a copy \
                     when they return. A larger journal covers longer outages"
                );
                shared.tell_moved();
            }
        }
    }
}
