//! Bringing the image to its disk in small parts, before a checkpoint syncs it.
//!
//! A sync of all that was written in seconds fills the queue of the disk for hundreds of milliseconds, and each flush
//! of a host waits behind it. So as long as hosts flush, the image goes to the disk part by part, each as large as
//! what takes [`PART_TIME`]. While nobody flushes, or somebody waits for room, one sync is faster.

use super::Store;
use crate::error::StorageError;
use crate::limits::{FLUSHES_STOPPED, PART_MAX_BYTES, PART_MIN_BYTES, PART_TIME};
use std::sync::atomic::Ordering;
use std::time::Duration;

impl Store {
    /// Somebody waits for durability now.
    pub(crate) fn flush_wanted(&self) {
        self.flushes_wanted.fetch_add(1, Ordering::Relaxed);
    }

    /// Brings to the disk what waits for it, as long as that helps anybody. What is left is the next sync's to do.
    ///
    /// # Errors
    /// [`StorageError`]: final, as that of a sync.
    pub(super) fn write_back(&self) -> Result<(), StorageError> {
        let mut parts = self.drain.lock().written.take();
        let mut now = self.clock.monotonic();
        let mut pace = Pace::new(self.flushes_wanted.load(Ordering::Relaxed), now);
        while pace.goes_on(self.flushes_wanted.load(Ordering::Relaxed), now)
            && !self.state.lock().space_wanted
            && let Some(part) = parts.next(pace.part_bytes)
        {
            self.check_usable()?;
            self.guard(self.image.write_back(part))?;
            let after = self.clock.monotonic();
            pace.took(after - now);
            now = after;
        }
        Ok(())
    }
}

/// How large the next part is, and whether there is one.
#[derive(Debug)]
struct Pace {
    part_bytes: u64,
    flushes: u64,
    last_flush: Duration,
}

impl Pace {
    fn new(flushes: u64, now: Duration) -> Self {
        Self {
            part_bytes: PART_MIN_BYTES,
            flushes,
            last_flush: now,
        }
    }

    /// Whether flushes, of which there were so many by now, still come.
    fn goes_on(&mut self, flushes: u64, now: Duration) -> bool {
        if flushes != self.flushes {
            (self.flushes, self.last_flush) = (flushes, now);
        }
        now.saturating_sub(self.last_flush) < FLUSHES_STOPPED
    }

    fn took(&mut self, time: Duration) {
        self.part_bytes = if time < PART_TIME / 2 {
            (self.part_bytes * 2).min(PART_MAX_BYTES)
        } else if time > PART_TIME {
            (self.part_bytes / 2).max(PART_MIN_BYTES)
        } else {
            self.part_bytes
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_as_large_as_the_disk_is_fast() {
        let mut pace = Pace::new(0, Duration::ZERO);
        (0..20).for_each(|_| pace.took(PART_TIME / 3));
        assert_eq!(pace.part_bytes, PART_MAX_BYTES);
        pace.took(PART_TIME);
        assert_eq!(pace.part_bytes, PART_MAX_BYTES);
        (0..20).for_each(|_| pace.took(PART_TIME * 2));
        assert_eq!(pace.part_bytes, PART_MIN_BYTES);
    }

    #[test]
    fn it_goes_on_while_flushes_come() {
        let mut pace = Pace::new(7, Duration::ZERO);
        assert!(pace.goes_on(7, FLUSHES_STOPPED / 2));
        assert!(!pace.goes_on(7, FLUSHES_STOPPED));
        assert!(pace.goes_on(8, FLUSHES_STOPPED));
        assert!(pace.goes_on(8, FLUSHES_STOPPED * 3 / 2));
        assert!(!pace.goes_on(8, FLUSHES_STOPPED * 2));
    }
}
