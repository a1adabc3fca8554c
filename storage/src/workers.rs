//! The one door to threads: who keeps a store moving, and where work is done that may wait for a disk.
//!
//! The product's [`SystemWorkers`] uses the operating system's threads. The simulator brings its own, which does
//! everything on one thread, in an order that its seed decides.

use crate::keeper::{Keeper, StoreObserver};
use crate::store::Store;
use std::fmt::Debug;
use std::sync::Arc;
use std::time::Duration;
use tokio::runtime::{Handle, RuntimeFlavor};
use tokio::sync::oneshot;

/// A piece of work that may wait for a disk.
pub type Work = Box<dyn FnOnce() + Send>;

/// Where work goes that must not be done by whoever asks for it.
pub trait Workers: Debug + Send + Sync {
    /// Keeps a store moving from now on; see [`Keeper`].
    ///
    /// # Errors
    /// The operating system's, when it gives no threads.
    fn keep(
        &self,
        store: Arc<Store>,
        observer: Arc<dyn StoreObserver>,
        sync_interval: Duration,
    ) -> std::io::Result<Arc<Keeper>>;

    /// Does a piece of work elsewhere. It may be dropped undone when the process is ending.
    fn run(&self, work: Work);

    /// Does a piece of work that may wait for a disk right here, if that keeps nobody but the caller waiting; else it
    /// is not done.
    fn do_here(&self, work: &mut dyn FnMut());
}

/// The operating system's threads. [`run`](Workers::run) needs a tokio runtime around it.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemWorkers;

impl Workers for SystemWorkers {
    fn keep(
        &self,
        store: Arc<Store>,
        observer: Arc<dyn StoreObserver>,
        sync_interval: Duration,
    ) -> std::io::Result<Arc<Keeper>> {
        Keeper::start(store, observer, sync_interval).map(Arc::new)
    }

    fn run(&self, work: Work) {
        tokio::task::spawn_blocking(work);
    }

    fn do_here(&self, work: &mut dyn FnMut()) {
        let flavor = Handle::try_current().map(|runtime| runtime.runtime_flavor());
        if matches!(flavor, Ok(RuntimeFlavor::MultiThread)) {
            // The runtime's other tasks go on in another thread.
            tokio::task::block_in_place(work);
        }
    }
}

/// Does work elsewhere and waits for what it gives; `None` when the process is ending.
pub async fn done_elsewhere<T: Send + 'static>(
    workers: &dyn Workers,
    work: impl FnOnce() -> T + Send + 'static,
) -> Option<T> {
    let (tell, told) = oneshot::channel();
    workers.run(Box::new(move || {
        // Whoever asked may have gone.
        let _ = tell.send(work());
    }));
    told.await.ok()
}
