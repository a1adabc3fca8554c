//! Simulated time: the runtime's, which stands still while anything runs and jumps when nothing can.

use farside_storage::Clock;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;
use tokio::time::Instant;

/// Where the wall clock of every world begins: some day in 2026, in microseconds since 1970.
const BEGINNING_US: i64 = 1_780_000_000_000_000;

/// A unit's clocks. The wall clock jumps when told.
#[derive(Debug)]
pub struct SimClock {
    start: Instant,
    offset_us: AtomicI64,
}

impl SimClock {
    /// Clocks that are right.
    #[must_use]
    pub fn new() -> Self {
        Self {
            start: Instant::now(),
            offset_us: AtomicI64::new(0),
        }
    }

    /// The wall clock jumps, either way.
    pub fn jump(&self, by_us: i64) {
        self.offset_us.fetch_add(by_us, Ordering::Relaxed);
    }
}

impl Default for SimClock {
    fn default() -> Self {
        Self::new()
    }
}

impl Clock for SimClock {
    fn wall_us(&self) -> u64 {
        let passed = i64::try_from(self.start.elapsed().as_micros()).unwrap_or(i64::MAX);
        let now = BEGINNING_US
            .saturating_add(passed)
            .saturating_add(self.offset_us.load(Ordering::Relaxed));
        u64::try_from(now).unwrap_or(0)
    }

    fn monotonic(&self) -> Duration {
        self.start.elapsed()
    }
}

/// Waits for so many simulated microseconds.
pub async fn pause_us(us: u64) {
    tokio::time::sleep(Duration::from_micros(us)).await;
}
