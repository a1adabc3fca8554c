//! Bringing the image to its disk in small parts, before a checkpoint syncs it.
//!
//! A sync of all that was written in seconds fills the queue of the disk for hundreds of milliseconds, and each flush
//! of a host waits behind it. So as long as hosts flush, the image goes to the disk part by part, each as large as
//! what takes [`PART_TIME`]. If nobody flushed since the last checkpoint, or somebody waits for room, one sync is faster;
//! and after [`PARTS_TIME`] too, because nothing is applied meanwhile.

use super::Store;
use crate::error::StorageError;
use crate::limits::{FLUSHES_STOPPED, PART_MAX_BYTES, PART_MIN_BYTES, PART_TIME, PARTS_TIME};
use std::sync::atomic::Ordering;
use std::time::Duration;

impl Store {
    /// A host waits for durability now.
    pub fn flush_wanted(&self) {
        self.flushes_wanted.fetch_add(1, Ordering::Relaxed);
    }

    /// Brings to the disk what waits for it, as long as that helps a host. What is left is the next sync's to do.
    ///
    /// # Errors
    /// [`StorageError`]: final, as that of a sync.
    pub(super) fn write_back(&self) -> Result<(), StorageError> {
        let flushes = self.flushes_wanted.load(Ordering::Relaxed);
        let (known, mut parts) = {
            let mut drain = self.drain.lock();
            (
                std::mem::replace(&mut drain.flushes_known, flushes),
                drain.written.take(),
            )
        };
        if known == flushes {
            return Ok(());
        }
        let mut now = self.clock.monotonic();
        let mut pace = Pace::new(flushes, now);
        while pace.goes_on(self.flushes_wanted.load(Ordering::Relaxed), now)
            && !self.state.lock().image_is_waited_for()
            && let Some(part) = parts.next(pace.part_bytes)
        {
            self.sync_image(|image| image.write_back(part))?;
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
    begun: Duration,
}

impl Pace {
    fn new(flushes: u64, now: Duration) -> Self {
        Self {
            part_bytes: PART_MIN_BYTES,
            flushes,
            last_flush: now,
            begun: now,
        }
    }

    /// Whether flushes, of which there were so many by now, still come, and the image has not been held up for long.
    fn goes_on(&mut self, flushes: u64, now: Duration) -> bool {
        if flushes != self.flushes {
            (self.flushes, self.last_flush) = (flushes, now);
        }
        now.saturating_sub(self.last_flush) < FLUSHES_STOPPED && now.saturating_sub(self.begun) < PARTS_TIME
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

    #[test]
    fn the_image_is_not_held_up_for_ever() {
        let mut pace = Pace::new(0, Duration::ZERO);
        let steps = (PARTS_TIME.as_millis() / FLUSHES_STOPPED.as_millis() * 2)
            .try_into()
            .unwrap();
        for flushes in 1..steps {
            let now = FLUSHES_STOPPED / 2 * u32::try_from(flushes).unwrap();
            assert!(pace.goes_on(flushes, now), "{now:?}");
        }
        assert!(!pace.goes_on(steps, PARTS_TIME));
    }
}
