//! A store: an image behind a journal, with the overlay between them. Volumes and replicas are both stores.
//!
//! Contract: [`Store::append`] puts changes into the journal, visible at once; [`Store::sync`] makes them
//! durable; [`Store::drain`] brings durable ones into the image; [`Store::checkpoint`] makes the image durable
//! and gives ring space back; [`Store::relieve`] decides when. Each is a plain call that blocks on its device
//! only; who calls them, and on which threads, is decided outside. Any of them may run at the same time.
//!
//! Order of locks: drain, sync gate, appender, superblock, journal sync, history, state. A failed write or sync is
//! final: it is latched, and every later call says so.

mod core;
mod state;
mod append;
mod read;
mod allocation;
mod drain;
mod merging;
mod checkpoint;
mod write_back;
mod written;
mod past;
mod consumers;
mod replica;
mod confirming;
mod grow;
mod open;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod fault_tests;
#[cfg(test)]
mod stress_tests;

use crate::clock::Clock;
use crate::device::Device;
use crate::error::StorageError;
use crate::history::History;
use crate::journal::{Journal, Recovered};
use append::Appender;
use drain::Drain;
use farside_protocol::journal::{ChainPoint, Superblock};
use parking_lot::{Mutex, MutexGuard};
use state::State;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

pub use self::confirming::ReadBack;
pub use self::core::Relief;
pub use allocation::{Allocation, Stretch};
pub use append::{AppendError, Appended, Change};
pub use consumers::ConsumerView;
pub use merging::{MergePlan, MergedBatch};
pub(crate) use open::window_segments;
pub use open::{StoreDevices, StoreParameters};
pub use read::ReadOutcome;
pub use state::{Consumer, CopyProgress, Counters, Points};

/// An image behind a journal.
#[derive(Debug)]
pub struct Store {
    name: String,
    journal: Journal,
    image: Arc<dyn Device>,
    clock: Arc<dyn Clock>,
    /// Grows, and only after the superblock says so.
    volume_bytes: AtomicU64,
    opened: Snapshot,
    created_at_us: u64,
    /// What the superblock says durably.
    remembers: AtomicBool,
    appender: Mutex<Appender>,
    drain: Mutex<Drain>,
    sync_gate: Mutex<()>,
    /// Held while remotes are let go.
    cutting: Mutex<()>,
    /// Held from the beginning of a journal sync until its failure, if any, is latched.
    journal_sync: Mutex<()>,
    /// The same for the image.
    image_sync: Mutex<()>,
    superblock: Mutex<Superblock>,
    /// The same as last written, for readers that must not wait for a checkpoint.
    written_superblock: Mutex<Superblock>,
    state: Mutex<State>,
    /// How often a host asked for durability.
    flushes_wanted: AtomicU64,
    /// Odd while the image is being written; changes with every batch.
    image_generation: AtomicU64,
    tail_address: AtomicU64,
    failure: Mutex<Option<String>>,
    failed: AtomicBool,
    closed: AtomicBool,
    growth_given_up: AtomicBool,
    /// What the image held before, if that is kept.
    history: OnceLock<Arc<History>>,
}

/// What was found when the store was opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Snapshot {
    /// Whether the last use ended cleanly.
    pub clean: bool,
    /// The epoch that writes belong to now.
    pub epoch: u64,
    /// What recovery found.
    pub recovered: Recovered,
}

/// Which of a store's long steps are under way at this moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct UnderWay {
    /// A chunk is being written to the journal, or the end of the journal is held still.
    pub appending: bool,
    /// The journal is being made durable.
    pub syncing: bool,
    /// The image is being written.
    pub draining: bool,
    /// Positions are being recorded, or the image is being brought to its disk for that.
    pub recording: bool,
    /// What the image holds is being put into the history before it is overwritten.
    pub remembering: bool,
}

impl Store {
    /// What the store is doing now: whoever wonders why nothing moves sees here what is waited for.
    #[must_use]
    pub fn under_way(&self) -> UnderWay {
        UnderWay {
            appending: self.appender.is_locked(),
            syncing: self.sync_gate.is_locked() || self.journal_sync.is_locked(),
            draining: self.drain.is_locked(),
            recording: self.superblock.is_locked() || self.image_sync.is_locked(),
            remembering: self.history.get().is_some_and(|history| history.is_busy()),
        }
    }

    /// Whether the image is still being brought to where it may have been before a crash: until then older writes go over
    /// newer ones, and what lies there is no state of the volume.
    #[must_use]
    pub fn is_replaying(&self) -> bool {
        self.points().applied.address < self.opened.recovered.head.address
    }

    /// Name of the volume.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Largest merged batch that the journal takes, in bytes of its chunks; 0 for none.
    #[must_use]
    pub fn batch_bytes(&self) -> u64 {
        self.journal.layout.batch_bytes()
    }

    /// Size of the volume in bytes.
    #[must_use]
    pub fn volume_bytes(&self) -> u64 {
        self.volume_bytes.load(Ordering::Acquire)
    }

    /// What was found when the store was opened.
    #[must_use]
    pub fn opened(&self) -> Snapshot {
        self.opened
    }

    /// A copy of the superblock as last written.
    #[must_use]
    pub fn superblock(&self) -> Superblock {
        self.written_superblock.lock().clone()
    }

    /// All points at one moment.
    #[must_use]
    pub fn points(&self) -> Points {
        self.state.lock().points
    }

    /// Counters since the store was opened.
    #[must_use]
    pub fn counters(&self) -> Counters {
        self.state.lock().counters
    }

    /// Blocks written, sent and received over the journal's whole life.
    #[must_use]
    pub fn totals(&self) -> farside_protocol::journal::Totals {
        self.state.lock().totals()
    }

    /// Ranges that wait for the image.
    #[must_use]
    pub fn pending_pieces(&self) -> usize {
        self.state.lock().overlay.len()
    }

    /// Bytes of the ring in use, and of the whole ring.
    #[must_use]
    pub fn ring_use(&self) -> (u64, u64) {
        let points = self.points();
        (
            points.journaled.address - points.tail.address,
            self.journal.layout.ring_bytes(),
        )
    }

    /// The image's position when no write to the image is under way: what a copy that has just read the image
    /// is at most ahead of.
    #[must_use]
    pub fn settled(&self) -> ChainPoint {
        let _drain = self.drain.lock();
        self.points().applied
    }

    /// The clock the store goes by.
    #[must_use]
    pub fn clock(&self) -> &Arc<dyn Clock> {
        &self.clock
    }

    /// The image, to copy from. Holds durable records only.
    #[must_use]
    pub fn image(&self) -> &Arc<dyn Device> {
        &self.image
    }

    /// The failure that degraded the store, if any.
    #[must_use]
    pub fn failure(&self) -> Option<String> {
        self.failure.lock().clone()
    }

    /// Latches a failed write or sync of the journal or image: it is final.
    fn guard<T>(&self, result: Result<T, StorageError>) -> Result<T, StorageError> {
        result.map_err(|error| self.fail(error))
    }

    pub(crate) fn fail(&self, error: StorageError) -> StorageError {
        let mut failure = self.failure.lock();
        if failure.is_none() {
            tracing::error!(volume = %self.name, "degraded: {error}; nothing is acknowledged until it is cleared");
            *failure = Some(error.to_string());
            self.failed.store(true, Ordering::Release);
        }
        error
    }

    /// Makes the journal durable. One at a time, and none after a failure: the operating system reports a lost
    /// write once for each open file, so that a second sync beside the first would succeed and acknowledge what is lost.
    fn sync_journal(&self) -> Result<(), StorageError> {
        self.sync_journal_as(&self.journal_sync.lock())
    }

    /// The same for the one who may.
    fn sync_journal_as(&self, _one: &MutexGuard<'_, ()>) -> Result<(), StorageError> {
        self.refuse_after_failure()?;
        self.guard(self.journal.device.sync())
    }

    /// Syncs the image, or brings a part of it to the disk: in the same way, and for the same reason.
    fn sync_image(
        &self,
        sync: impl FnOnce(&dyn Device) -> Result<(), StorageError>,
    ) -> Result<(), StorageError> {
        let _one = self.image_sync.lock();
        self.refuse_after_failure()?;
        self.guard(sync(self.image.as_ref()))
    }

    fn refuse_after_failure(&self) -> Result<(), StorageError> {
        self.failure().map_or(Ok(()), |problem| {
            let name = self.name.clone();
            Err(StorageError::Failed { name, problem })
        })
    }

    fn check_usable(&self) -> Result<(), StorageError> {
        let closed = self.closed.load(Ordering::Acquire);
        if !self.failed.load(Ordering::Acquire) && !closed {
            return Ok(());
        }
        let problem = if closed {
            "it was shut down".to_owned()
        } else {
            self.failure().unwrap_or_default()
        };
        Err(StorageError::Failed {
            name: self.name.clone(),
            problem,
        })
    }
}
