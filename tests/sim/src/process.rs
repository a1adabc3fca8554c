//! A process of a unit: it lives until the world kills it, between any two calls to a disk or in the middle of one.

use crate::stats::happened;
use farside_storage::{Store, UnderWay};
use parking_lot::Mutex;
use std::sync::Arc;
use std::sync::Weak;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// How a process ends against its will.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Death {
    /// The process is killed; what it wrote is still in the page cache.
    Killed,
    /// The machine loses power; what was not synced may be lost.
    PowerLost,
}

/// One life of a unit.
#[derive(Debug)]
pub struct Process {
    name: String,
    dead: AtomicBool,
    /// Calls to disks so far, and those of them that write.
    calls: AtomicU64,
    writes: AtomicU64,
    /// The call in which it dies, and how.
    dies_at: Mutex<Option<(u64, Death)>>,
    /// The same, counting writes only.
    dies_in_write: Mutex<Option<(u64, Death)>>,
    how: Mutex<Option<Death>>,
    stores: Mutex<Vec<Weak<Store>>>,
}

impl Process {
    /// A process that has just started.
    #[must_use]
    pub fn new(name: &str) -> Arc<Self> {
        Arc::new(Self {
            name: name.to_owned(),
            dead: AtomicBool::new(false),
            calls: AtomicU64::new(0),
            writes: AtomicU64::new(0),
            dies_at: Mutex::default(),
            dies_in_write: Mutex::default(),
            how: Mutex::default(),
            stores: Mutex::default(),
        })
    }

    /// Its name in the trace.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Whether it ended. Nothing it does from then on has an effect.
    #[must_use]
    pub fn is_dead(&self) -> bool {
        self.dead.load(Ordering::Acquire)
    }

    /// How it died; `None` while it lives, or if it was shut down.
    #[must_use]
    pub fn how_it_died(&self) -> Option<Death> {
        *self.how.lock()
    }

    /// It dies in the call to a disk that comes so many calls from now.
    pub fn dies_after(&self, calls: u64, how: Death) {
        *self.dies_at.lock() = Some((self.calls.load(Ordering::Relaxed) + calls, how));
    }

    /// It dies in the write to a disk that comes so many writes from now.
    pub fn dies_in_write(&self, writes: u64, how: Death) {
        *self.dies_in_write.lock() = Some((self.writes.load(Ordering::Relaxed) + writes, how));
    }

    /// Nothing further is planned for it.
    pub fn spare(&self) {
        *self.dies_at.lock() = None;
        *self.dies_in_write.lock() = None;
    }

    /// It dies now.
    pub fn die(&self, how: Death) {
        if !self.dead.swap(true, Ordering::AcqRel) {
            *self.how.lock() = Some(how);
        }
    }

    /// It has ended by itself.
    pub fn leave(&self) {
        self.dead.store(true, Ordering::Release);
    }

    /// A call to a disk begins; its number, if it is the one in which the process dies.
    pub(crate) fn call(&self, writes: bool) -> Option<u64> {
        let number = self.calls.fetch_add(1, Ordering::Relaxed) + 1;
        let due = |planned: &Mutex<Option<(u64, Death)>>, number| {
            let planned = *planned.lock();
            planned.filter(|(at, _)| *at <= number).map(|(_, how)| how)
        };
        let mut how = due(&self.dies_at, number);
        if writes {
            let number = self.writes.fetch_add(1, Ordering::Relaxed) + 1;
            how = how.or(due(&self.dies_in_write, number));
        }
        self.die(how?);
        happened("deaths inside a call to a disk");
        Some(number)
    }

    /// It works on this store, too.
    pub fn holds(&self, store: &Arc<Store>) {
        self.stores.lock().push(Arc::downgrade(store));
    }

    /// What any of its stores is doing.
    pub(crate) fn under_way(&self) -> UnderWay {
        let mut all = UnderWay::default();
        for store in self.stores.lock().iter().filter_map(Weak::upgrade) {
            let one = store.under_way();
            all.appending |= one.appending;
            all.syncing |= one.syncing;
            all.draining |= one.draining;
            all.recording |= one.recording;
            all.remembering |= one.remembering;
        }
        all
    }
}
