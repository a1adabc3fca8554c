//! The product's threads as steps that the path takes itself, so that what it counts does not depend on a scheduler.

use farside_storage::{ImageSteps, Keeper, Store, StoreObserver, SyncSteps, Work, Workers};
use parking_lot::Mutex;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

/// Does everything when it is told to, on the thread that tells it.
#[derive(Default)]
pub(crate) struct ByHand(Mutex<Vec<(SyncSteps, ImageSteps)>>);

impl fmt::Debug for ByHand {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "ByHand({})", self.0.lock().len())
    }
}

impl ByHand {
    /// Makes durable what is journaled, if somebody asked for it.
    pub(crate) fn sync(&self) {
        for (sync, _) in &mut *self.0.lock() {
            if sync.has_work() {
                assert!(sync.step(), "the journal is synced");
            }
        }
    }

    /// The same, and brings the images forward.
    pub(crate) fn step(&self) {
        self.sync();
        for (_, image) in &mut *self.0.lock() {
            if image.has_work() {
                assert!(image.step(), "the image is written");
            }
        }
    }
}

impl Workers for ByHand {
    fn keep(
        &self,
        store: Arc<Store>,
        observer: Arc<dyn StoreObserver>,
        sync_interval: Duration,
    ) -> std::io::Result<Arc<Keeper>> {
        let (keeper, sync, image) = Keeper::apart(store, observer, sync_interval);
        self.0.lock().push((sync, image));
        Ok(Arc::new(keeper))
    }

    fn run(&self, work: Work) {
        work();
    }

    fn do_here(&self, work: &mut dyn FnMut()) {
        work();
    }
}
