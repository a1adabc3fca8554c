//! The power of one machine: on, counting down, or off. It never comes back; a new start has a new switch.

use crate::world::lock;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

/// No end is planned.
const NEVER: u64 = u64::MAX;

/// The power of one machine from its start to its end.
#[derive(Debug)]
pub struct Switch {
    off: AtomicBool,
    left: AtomicU64,
    together: Mutex<Vec<Arc<Switch>>>,
}

impl Switch {
    /// Power that is on.
    #[must_use]
    pub fn on() -> Arc<Self> {
        Arc::new(Self {
            off: AtomicBool::new(false),
            left: AtomicU64::new(NEVER),
            together: Mutex::default(),
        })
    }

    /// Whether it is off.
    #[must_use]
    pub fn is_off(&self) -> bool {
        self.off.load(Ordering::SeqCst)
    }

    /// The power goes off at the `requests`-th write or flush from now (at least 1), and that of `others` with it.
    pub fn off_after(&self, requests: u64, others: &[Arc<Self>]) {
        others.clone_into(&mut lock(&self.together));
        self.left.store(requests.max(1), Ordering::SeqCst);
    }

    /// The power goes off now.
    pub fn off_now(&self) {
        self.off.store(true, Ordering::SeqCst);
        for other in lock(&self.together).iter() {
            other.off.store(true, Ordering::SeqCst);
        }
    }

    /// Counts one write or flush; called by the disk, one request at a time.
    pub(super) fn count(&self) {
        let left = self.left.load(Ordering::SeqCst);
        if left == NEVER {
            return;
        }
        self.left.store(left.saturating_sub(1), Ordering::SeqCst);
        if left <= 1 {
            self.off_now();
        }
    }
}
