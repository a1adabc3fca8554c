//! Where an initiator port stands with a unit.

use super::limits::ATTENTIONS;
use farside_protocol::scsi::Additional;
use parking_lot::Mutex;
use std::collections::VecDeque;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use tokio::sync::{Notify, OwnedRwLockReadGuard, RwLock};

/// What an initiator port has to be told of a unit, and whether its tasks there were aborted.
#[derive(Debug, Default)]
pub(crate) struct Seat {
    /// Rises when all its tasks are aborted: what was begun before is not answered, and changes nothing any more.
    aborted: AtomicU64,
    swept: Notify,
    /// Held shared while its tasks change something.
    gate: Arc<RwLock<()>>,
    attentions: Mutex<VecDeque<Additional>>,
}

impl Seat {
    /// How often its tasks were aborted.
    pub(crate) fn aborted(&self) -> u64 {
        self.aborted.load(Ordering::Acquire)
    }

    /// Aborts all its tasks.
    pub(crate) fn abort(&self) {
        self.aborted.fetch_add(1, Ordering::AcqRel);
        self.swept.notify_waiters();
    }

    /// Held while one of its tasks changes something.
    pub(super) async fn enter(&self) -> OwnedRwLockReadGuard<()> {
        Arc::clone(&self.gate).read_owned().await
    }

    /// Waits for changes that its tasks have under way. What was aborted before changes nothing once this is over.
    pub(crate) async fn settle(&self) {
        drop(self.gate.write().await);
    }

    /// Resolves once its tasks were aborted more often than that.
    pub(crate) async fn aborted_after(&self, times: u64) {
        let mut swept = pin!(self.swept.notified());
        loop {
            // From now on no notice is missed.
            swept.as_mut().enable();
            if self.aborted() != times {
                return;
            }
            swept.as_mut().await;
            swept.set(self.swept.notified());
        }
    }

    /// Has something told with the next command.
    pub(super) fn attend(&self, what: Additional) {
        let mut attentions = self.attentions.lock();
        if attentions.contains(&what) {
            return;
        }
        if attentions.len() >= ATTENTIONS {
            attentions.pop_front();
        }
        attentions.push_back(what);
    }

    /// What is to be told first.
    pub(super) fn take_attention(&self) -> Option<Additional> {
        self.attentions.lock().pop_front()
    }
}
