//! What the target counts for status, and the brake on its log.

use super::limits::{ATTACH_LOG_BURST, ATTACH_LOG_PERIOD};
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use tokio::time::Instant;

/// Counts of one process; shared by its listeners.
#[derive(Debug, Default)]
pub struct Counters {
    accepted: AtomicU64,
    refused: AtomicU64,
    open: AtomicU64,
    attached: Mutex<BTreeMap<String, u64>>,
    log: Mutex<LogBudget>,
}

#[derive(Debug, Default)]
struct LogBudget {
    period_start: Option<Instant>,
    used: u32,
}

impl Counters {
    /// Connections accepted since the start.
    #[must_use]
    pub fn accepted(&self) -> u64 {
        self.accepted.load(Relaxed)
    }

    /// Connections closed at once because there were too many.
    #[must_use]
    pub fn refused(&self) -> u64 {
        self.refused.load(Relaxed)
    }

    /// Connections open now, those in negotiation included.
    #[must_use]
    pub fn open(&self) -> u64 {
        self.open.load(Relaxed)
    }

    /// Connections attached now to the export of this name.
    #[must_use]
    pub fn attached(&self, name: &str) -> u64 {
        self.attached.lock().get(name).copied().unwrap_or(0)
    }

    /// Connections attached now to exports whose name begins so.
    #[must_use]
    pub fn attached_below(&self, prefix: &str) -> u64 {
        let attached = self.attached.lock();
        let named = attached.range::<str, _>((std::ops::Bound::Included(prefix), std::ops::Bound::Unbounded));
        named
            .take_while(|(name, _)| name.starts_with(prefix))
            .map(|(_, count)| count)
            .sum()
    }

    pub(super) fn count_refused(&self) {
        self.refused.fetch_add(1, Relaxed);
    }

    /// Counts a connection until the guard is dropped.
    pub(super) fn connection(self: &Arc<Self>) -> OpenGuard {
        self.accepted.fetch_add(1, Relaxed);
        self.open.fetch_add(1, Relaxed);
        OpenGuard(Arc::clone(self))
    }

    /// Counts an attachment until the guard is dropped.
    pub(super) fn attach(self: &Arc<Self>, name: &str) -> AttachGuard {
        *self.attached.lock().entry(name.to_owned()).or_default() += 1;
        AttachGuard {
            counters: Arc::clone(self),
            name: name.to_owned(),
        }
    }

    /// Whether one more attach may be logged at info, so that a client attaching in a loop cannot fill the log.
    pub(super) fn may_log(&self) -> bool {
        let mut log = self.log.lock();
        let now = Instant::now();
        if log
            .period_start
            .is_none_or(|start| now.duration_since(start) >= ATTACH_LOG_PERIOD)
        {
            *log = LogBudget {
                period_start: Some(now),
                used: 0,
            };
        }
        log.used = log.used.saturating_add(1);
        log.used <= ATTACH_LOG_BURST
    }
}

/// One open connection.
#[derive(Debug)]
pub(super) struct OpenGuard(Arc<Counters>);

impl Drop for OpenGuard {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Relaxed);
    }
}

/// One attached connection.
#[derive(Debug)]
pub(super) struct AttachGuard {
    counters: Arc<Counters>,
    name: String,
}

impl Drop for AttachGuard {
    fn drop(&mut self) {
        let mut attached = self.counters.attached.lock();
        if let Some(count) = attached.get_mut(&self.name) {
            *count -= 1;
            if *count == 0 {
                attached.remove(&self.name);
            }
        }
    }
}
