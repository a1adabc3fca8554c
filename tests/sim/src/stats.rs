//! What a world did: counted, so that a run can show that it did something.

use parking_lot::Mutex;
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use tokio::time::Instant;

thread_local! {
    /// What places without a hold on the world's [`Stats`] counted: a world runs on one thread.
    static HAPPENED: RefCell<BTreeMap<&'static str, u64>> = const { RefCell::new(BTreeMap::new()) };
}

/// One more of these, in the world on this thread.
pub fn happened(what: &'static str) {
    HAPPENED.with(|counts| *counts.borrow_mut().entry(what).or_default() += 1);
}

/// Counters by name, and the trace.
#[derive(Debug)]
pub struct Stats {
    counts: Mutex<BTreeMap<&'static str, u64>>,
    /// Operations whose outcome was checked.
    operations: AtomicU64,
    traces: AtomicBool,
    start: Instant,
}

impl Stats {
    /// Nothing counted yet.
    #[must_use]
    pub fn new(traces: bool) -> Self {
        HAPPENED.with(RefCell::take);
        Self {
            counts: Mutex::default(),
            operations: AtomicU64::new(0),
            traces: AtomicBool::new(traces),
            start: Instant::now(),
        }
    }

    /// One more of these.
    pub fn count(&self, what: &'static str) {
        self.trace(what, String::new);
        *self.counts.lock().entry(what).or_default() += 1;
    }

    /// One more operation was checked.
    pub fn checked(&self) {
        self.operations.fetch_add(1, Ordering::Relaxed);
    }

    /// Shows a step, if the world is traced.
    #[expect(clippy::print_stdout, reason = "the trace is what was asked for")]
    pub fn trace(&self, who: &str, what: impl FnOnce() -> String) {
        if self.traces.load(Ordering::Relaxed) {
            println!("{:12.6} {who}: {}", self.start.elapsed().as_secs_f64(), what());
        }
    }

    /// All counts, and the operations checked.
    #[must_use]
    pub fn totals(&self) -> (BTreeMap<&'static str, u64>, u64) {
        let mut counts = self.counts.lock().clone();
        for (what, count) in HAPPENED.with(RefCell::take) {
            *counts.entry(what).or_default() += count;
        }
        (counts, self.operations.load(Ordering::Relaxed))
    }
}
