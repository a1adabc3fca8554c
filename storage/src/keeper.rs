//! The two threads that keep a store moving: one makes the journal durable, one serves the image.
//!
//! What a thread does each time it wakes is a plain call, [`SyncSteps::step`] and [`ImageSteps::step`], so that
//! the simulator can make the same calls without threads. Both threads sleep while there is nothing to do, and end
//! at the first failure, which is final and latched in the store, so that whoever waits for them is answered. An event is told only when something moved: waiters may ask again at
//! every event without keeping the threads busy.

use crate::error::StorageError;
use crate::limits::{
    CHECKPOINT_INTERVAL, COPY_CHECKPOINT_INTERVAL, DRAIN_INTERVAL, EAGER_COPY_BYTES, EAGER_DRAIN_BYTES,
    EAGER_SYNC_BYTES, SYNC_LOOK_INTERVAL,
};
use crate::store::Store;
use farside_protocol::journal::{ChainPoint, CopyState};
use parking_lot::{Condvar, Mutex, MutexGuard};
use std::fmt::Debug;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

#[cfg(test)]
mod tests;

/// What a keeper tells its owner, from its own threads and from those that flush by themselves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StoreEvent {
    /// The durable position moved.
    Durable,
    /// The image or the ring moved; there may be room again.
    Image,
    /// These remotes held the tail too long and need a copy now.
    CutLoose(Vec<String>),
    /// The store failed; it acknowledges nothing any more.
    Failed,
}

/// Receives the events of a keeper; must not block.
pub trait StoreObserver: Debug + Send + Sync {
    /// Something happened.
    fn observe(&self, event: StoreEvent);
}

#[derive(Debug, Default)]
struct Wants {
    stop: bool,
    /// Something was journaled since the last sync began.
    dirty: bool,
    /// Somebody waits for durability.
    flush: bool,
    /// Somebody waits for room, or a position moved that a checkpoint should record.
    relief: bool,
    /// Something durable is not in the image yet.
    image: bool,
    /// The thread sleeps until it is told: one that only waits for more to do needs no telling, and a system call
    /// and a change of thread for each write would cost more than the write.
    sync_sleeps: bool,
    image_sleeps: bool,
}

impl Wants {
    fn a_sync(&self) -> bool {
        self.flush || self.dirty
    }

    fn an_image_step(&self) -> bool {
        self.relief || self.image
    }
}

#[derive(Debug)]
struct Shared {
    store: Arc<Store>,
    observer: Arc<dyn StoreObserver>,
    sync_interval: Duration,
    wants: Mutex<Wants>,
    /// The point up to which the journal is synced that was told last.
    told: Mutex<ChainPoint>,
    sync: Condvar,
    image: Condvar,
}

/// Keeps one store moving until it is stopped.
#[derive(Debug)]
pub struct Keeper {
    shared: Arc<Shared>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

impl Keeper {
    /// Starts the threads of `store`.
    ///
    /// # Errors
    /// The operating system's, when it gives no threads.
    ///
    /// `sync_interval` is how long a change may stay non-durable while nobody asks for a flush.
    pub fn start(
        store: Arc<Store>,
        observer: Arc<dyn StoreObserver>,
        sync_interval: Duration,
    ) -> std::io::Result<Self> {
        let (keeper, sync, image) = Self::apart(store, observer, sync_interval);
        keeper.spawn("sync", move |_| sync.run())?;
        keeper.spawn("image", move |_| image.run())?;
        Ok(keeper)
    }

    /// A keeper without threads, and the steps that its owner has to call in their place.
    #[must_use]
    pub fn apart(
        store: Arc<Store>,
        observer: Arc<dyn StoreObserver>,
        sync_interval: Duration,
    ) -> (Self, SyncSteps, ImageSteps) {
        let wants = Wants {
            dirty: true,
            image: true,
            ..Wants::default()
        };
        let shared = Shared {
            told: Mutex::new(store.points().synced),
            store,
            observer,
            sync_interval,
            wants: Mutex::new(wants),
            sync: Condvar::new(),
            image: Condvar::new(),
        };
        let shared = Arc::new(shared);
        let sync = SyncSteps {
            shared: shared.clone(),
        };
        let image = ImageSteps {
            last_checkpoint: shared.store.clock().monotonic(),
            told: shared.image_state(),
            shared: shared.clone(),
        };
        let keeper = Self {
            shared,
            threads: Mutex::new(Vec::new()),
        };
        (keeper, sync, image)
    }

    fn spawn(&self, what: &str, run: impl FnOnce(&Shared) + Send + 'static) -> std::io::Result<()> {
        let shared = self.shared.clone();
        let name = format!("{what} {}", self.shared.store.name());
        let thread = std::thread::Builder::new().name(name).spawn(move || {
            let seen = PanicIsFailure(&shared);
            run(seen.0);
        })?;
        self.threads.lock().push(thread);
        Ok(())
    }

    /// Something was journaled: make it durable soon.
    pub fn appended(&self) {
        let mut wants = self.shared.wants.lock();
        wants.dirty = true;
        if std::mem::take(&mut wants.sync_sleeps) {
            self.shared.sync.notify_one();
        }
    }

    /// Somebody waits for durability: make everything journaled durable now.
    pub fn flush(&self) {
        let mut wants = self.shared.wants.lock();
        if !wants.flush {
            wants.flush = true;
            self.shared.sync.notify_one();
        }
    }

    /// Makes everything journaled durable on the calling thread, unless somebody does so already: for a host that
    /// waits for nothing else this saves two changes of thread.
    pub fn flush_here(&self) {
        let shared = &self.shared;
        match shared.store.try_sync() {
            Some(Ok(synced)) => shared.tell_synced(synced),
            // A store that is only closed did not fail.
            Some(Err(_)) if shared.store.failure().is_some() => shared.observer.observe(StoreEvent::Failed),
            Some(Err(_)) | None => {}
        }
    }

    /// What counts of the journal has changed: more was confirmed, or what was not was given up.
    pub fn confirmed(&self) {
        *self.shared.told.lock() = ChainPoint::default();
        self.shared.tell_synced(self.shared.store.points().synced);
    }

    /// Somebody waits for room, or a remote confirmed more: see whether the tail can move.
    pub fn relieve(&self) {
        let mut wants = self.shared.wants.lock();
        wants.relief = true;
        self.shared.image.notify_one();
    }

    /// Ends both threads after the step they are in.
    pub fn stop(&self) {
        self.shared.wants.lock().stop = true;
        self.shared.sync.notify_one();
        self.shared.image.notify_one();
        let here = std::thread::current().id();
        let threads = std::mem::take(&mut *self.threads.lock());
        // An observer may hold the last reference to the keeper's owner: a thread cannot wait for itself, and ends
        // after its step anyway.
        for thread in threads.into_iter().filter(|thread| thread.thread().id() != here) {
            if thread.join().is_err() {
                tracing::error!(volume = %self.shared.store.name(), "a thread of the store panicked");
            }
        }
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        self.stop();
    }
}

/// A thread that ends by a mistake of ours must not leave hosts waiting for it.
struct PanicIsFailure<'a>(&'a Shared);

impl Drop for PanicIsFailure<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let text =
                "a thread of the store ended by an error in the program; the log has it. Restart the unit";
            self.0.give_up(StorageError::refused(self.0.store.name(), text));
        }
    }
}

/// What an event about the image is about.
#[derive(Debug, PartialEq, Eq)]
struct ImageState {
    tail: ChainPoint,
    mirrored: ChainPoint,
    applied: ChainPoint,
    copied: u64,
    copy: CopyState,
}

/// What the sync thread does.
#[derive(Debug)]
pub struct SyncSteps {
    shared: Arc<Shared>,
}

impl SyncSteps {
    /// Whether the thread was told of something to do: else it sleeps.
    #[must_use]
    pub fn has_work(&self) -> bool {
        self.shared.wants.lock().a_sync()
    }

    /// Whether the keeper was stopped: there is no next step.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.shared.wants.lock().stop
    }

    /// Makes everything journaled durable, and says so. False: the store failed, there is no next step.
    pub fn step(&mut self) -> bool {
        let shared = &self.shared;
        {
            let mut wants = shared.wants.lock();
            (wants.flush, wants.dirty) = (false, false);
        }
        match shared.store.sync() {
            Ok(synced) => shared.tell_synced(synced),
            Err(error) => {
                shared.give_up(error);
                return false;
            }
        }
        true
    }

    fn run(mut self) {
        while self.shared.wait_for_sync_work() && self.step() {}
    }
}

/// What the image thread does.
#[derive(Debug)]
pub struct ImageSteps {
    shared: Arc<Shared>,
    last_checkpoint: Duration,
    told: ImageState,
}

impl ImageSteps {
    /// Whether the thread was told of something to do: else it sleeps, for [`COPY_CHECKPOINT_INTERVAL`] at most.
    #[must_use]
    pub fn has_work(&self) -> bool {
        self.shared.wants.lock().an_image_step()
    }

    /// Whether the keeper was stopped: there is no next step.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.shared.wants.lock().stop
    }

    /// Brings the image forward until there is nothing left to drain, makes room, records positions when it is time.
    /// False: the store failed, there is no next step.
    pub fn step(&mut self) -> bool {
        {
            let mut wants = self.shared.wants.lock();
            (wants.image, wants.relief) = (false, false);
        }
        let stepped = self.shared.image_steps(&mut self.last_checkpoint, &mut self.told);
        if let Err(error) = stepped {
            self.shared.give_up(error);
            return false;
        }
        true
    }

    fn run(mut self) {
        while self.shared.wait_for_image_work() && self.step() {}
    }
}

impl Shared {
    /// Without this thread nothing moves any more, whatever the cause: that has to be seen.
    fn give_up(&self, error: StorageError) {
        self.store.fail(error);
        self.observer.observe(StoreEvent::Failed);
    }

    /// Waits until a flush is wanted, or for a while after something was journaled. False: stop.
    fn wait_for_sync_work(&self) -> bool {
        let mut wants = self.wants.lock();
        while !wants.stop && !wants.a_sync() {
            wants.sync_sleeps = true;
            self.sync.wait(&mut wants);
        }
        wants.sync_sleeps = false;
        let mut waited = Duration::ZERO;
        let step = SYNC_LOOK_INTERVAL.min(self.sync_interval);
        while !wants.stop
            && !wants.flush
            && waited < self.sync_interval
            && self.unsynced_bytes() < EAGER_SYNC_BYTES
        {
            self.sync.wait_for(&mut wants, step);
            waited += step;
        }
        !wants.stop
    }

    /// The journal is durable up to here: if that is news it is told, and what counts of it is to be brought into the image.
    fn tell_synced(&self, synced: ChainPoint) {
        if std::mem::replace(&mut *self.told.lock(), synced) == synced {
            return;
        }
        self.observer.observe(StoreEvent::Durable);
        let mut wants = self.wants.lock();
        wants.image = true;
        if std::mem::take(&mut wants.image_sleeps) {
            self.image.notify_one();
        }
    }

    fn unsynced_bytes(&self) -> u64 {
        let points = self.store.points();
        points.journaled.address - points.synced.address
    }

    fn image_state(&self) -> ImageState {
        let (points, copy) = (self.store.points(), self.store.copy_progress());
        ImageState {
            tail: points.tail,
            mirrored: points.mirrored,
            applied: points.applied,
            copied: copy.durable,
            copy: copy.state,
        }
    }

    /// Waits for something to do, but no longer than the shortest checkpoint interval. False: stop.
    fn wait_for_image_work(&self) -> bool {
        let mut wants = self.wants.lock();
        if !wants.stop && !wants.an_image_step() {
            wants.image_sleeps = true;
            self.image.wait_for(&mut wants, COPY_CHECKPOINT_INTERVAL);
            wants.image_sleeps = false;
        }
        let points = self.store.points();
        if !wants.stop && !wants.relief && points.durable.address - points.applied.address < EAGER_DRAIN_BYTES
        {
            // A little patience lets neighbouring and overlapping writes meet in one batch.
            self.wait_for_company(&mut wants);
        }
        !wants.stop
    }

    /// Waits for the drain interval, whatever becomes durable meanwhile, unless somebody needs room.
    fn wait_for_company(&self, wants: &mut MutexGuard<'_, Wants>) {
        let (clock, start) = (self.store.clock(), self.store.clock().monotonic());
        while !wants.stop && !wants.relief {
            let waited = clock.monotonic().saturating_sub(start);
            if waited >= DRAIN_INTERVAL {
                return;
            }
            self.image.wait_for(wants, DRAIN_INTERVAL - waited);
        }
    }

    /// Steps until there is nothing left to drain. Positions are recorded in between, too: under a steady stream
    /// the end may be far away.
    fn image_steps(&self, last_checkpoint: &mut Duration, told: &mut ImageState) -> Result<(), StorageError> {
        loop {
            let drained = self.store.drain()?;
            self.relieve()?;
            self.checkpoint_if_due(last_checkpoint)?;
            let now = self.image_state();
            if now != *told {
                *told = now;
                self.observer.observe(StoreEvent::Image);
            }
            if !drained || self.wants.lock().stop {
                return Ok(());
            }
        }
    }

    fn checkpoint_if_due(&self, last_checkpoint: &mut Duration) -> Result<(), StorageError> {
        let now = self.store.clock().monotonic();
        let copy = self.store.copy_progress();
        let interval = match copy.state {
            CopyState::Copying if copy.written - copy.durable >= EAGER_COPY_BYTES => Duration::ZERO,
            CopyState::Copying => COPY_CHECKPOINT_INTERVAL,
            CopyState::Empty | CopyState::Complete => CHECKPOINT_INTERVAL,
        };
        if now.saturating_sub(*last_checkpoint) >= interval && self.store.checkpoint_due() {
            self.store.checkpoint()?;
            *last_checkpoint = self.store.clock().monotonic();
        }
        Ok(())
    }

    fn relieve(&self) -> Result<(), StorageError> {
        let cut = self.store.relieve()?;
        if !cut.is_empty() {
            self.observer.observe(StoreEvent::CutLoose(cut));
        }
        Ok(())
    }
}
