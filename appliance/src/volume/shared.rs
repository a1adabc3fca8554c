//! What a volume's connections, threads and remotes share.

use super::commit::Commit;
use crate::targets::DiskError;
use farside_storage::{AppendError, Keeper, Store, StoreEvent, StoreObserver};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use tokio::sync::{Notify, watch};

/// How often hosts asked for what, since the start.
#[derive(Debug, Default)]
pub(super) struct HostCounters {
    pub(super) writes: AtomicU64,
    pub(super) write_bytes: AtomicU64,
    pub(super) trims: AtomicU64,
    pub(super) reads: AtomicU64,
    pub(super) read_bytes: AtomicU64,
    pub(super) flushes: AtomicU64,
}

#[derive(Debug)]
pub(super) struct Shared {
    pub(super) store: Arc<Store>,
    pub(super) commit: Commit,
    pub(super) counters: HostCounters,
    /// Fires when there may be room in the ring again.
    pub(super) room: Notify,
    /// The durable record; sent anew also when the store fails or stops.
    pub(super) durable: watch::Sender<u64>,
    /// Rises whenever a position or a remote's state changed: what the link waits for.
    pub(super) changed: watch::Sender<u64>,
    pub(super) keeper: OnceLock<Keeper>,
    pub(super) stopping: AtomicBool,
}

impl Shared {
    pub(super) fn new(store: Arc<Store>) -> Self {
        let durable = store.points().durable.record;
        Self {
            store,
            commit: Commit::default(),
            counters: HostCounters::default(),
            room: Notify::new(),
            durable: watch::Sender::new(durable),
            changed: watch::Sender::new(0),
            keeper: OnceLock::new(),
            stopping: AtomicBool::new(false),
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

    pub(super) fn relieve(&self) {
        self.with_keeper(Keeper::relieve);
    }

    /// Room is needed: whatever is in its way has to move.
    pub(super) fn want_room(&self) {
        self.flush();
        self.relieve();
    }

    pub(super) fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::Acquire)
    }

    /// Wakes everybody who waits, to look again.
    pub(super) fn wake_all(&self) {
        self.durable.send_replace(self.store.points().durable.record);
        self.changed.send_modify(|count| *count = count.wrapping_add(1));
        self.room.notify_waiters();
    }

    /// What a host is told; the store has logged the cause.
    pub(super) fn disk_error(&self, error: &AppendError) -> DiskError {
        match error {
            AppendError::Storage(error) if error.is_no_space() => DiskError::NoSpace,
            _ => DiskError::Io,
        }
    }
}

/// Passes the events of the store's threads on to those who wait.
#[derive(Debug)]
pub(super) struct Observer(pub(super) std::sync::Weak<Shared>);

impl StoreObserver for Observer {
    fn observe(&self, event: StoreEvent) {
        let Some(shared) = self.0.upgrade() else { return };
        if let StoreEvent::CutLoose(names) = &event {
            tracing::warn!(
                volume = %shared.store.name(), remotes = ?names,
                "the journal is full of what these remotes have not confirmed; they are let go and need a copy when \
                 they return. A larger journal covers longer outages"
            );
        }
        shared.wake_all();
    }
}
