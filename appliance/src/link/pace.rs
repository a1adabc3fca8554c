//! How fast a link may send: bytes that have become free since the last were used.
//!
//! A batch may take more than there is; the next one waits until that is made up for, so the mean is kept over any longer
//! time.

use super::limits::{PACE_LEAST_BYTES, PACE_PARTS};

/// The allowance of one connection. Times are milliseconds of any clock that only rises.
#[derive(Debug, Clone)]
pub(super) struct Pace {
    /// `None`: as fast as the line is.
    per_second: Option<u64>,
    free: u64,
    owed: u64,
    /// Thousandths of bytes that have become free besides.
    rest: u64,
    last_ms: u64,
}

impl Pace {
    pub(super) fn new(per_second: Option<u64>, now_ms: u64) -> Self {
        Self {
            per_second,
            free: per_second.map_or(0, |rate| rate / PACE_PARTS),
            owed: 0,
            rest: 0,
            last_ms: now_ms,
        }
    }

    pub(super) fn may_send(&mut self, now_ms: u64) -> bool {
        let Some(rate) = self.per_second else {
            return true;
        };
        let passed = now_ms.saturating_sub(self.last_ms);
        self.last_ms = now_ms.max(self.last_ms);
        let thousandths = rate.saturating_mul(passed).saturating_add(self.rest);
        self.rest = thousandths % 1000;
        let more = thousandths / 1000;
        let made_up = more.min(self.owed);
        self.owed = self.owed.saturating_sub(made_up);
        // What was not used in time is gone: a link that was idle does not burst.
        let most = (rate / PACE_PARTS).max(1);
        self.free = self.free.saturating_add(more.saturating_sub(made_up)).min(most);
        self.owed == 0 && self.free > 0
    }

    pub(super) fn sent(&mut self, bytes: u64) {
        if self.per_second.is_some() {
            self.owed = self.owed.saturating_add(bytes.saturating_sub(self.free));
            self.free = self.free.saturating_sub(bytes);
        }
    }

    /// Of what was counted as sent, so much was not.
    pub(super) fn not_sent(&mut self, bytes: u64) {
        if let Some(rate) = self.per_second {
            let owed = bytes.min(self.owed);
            self.owed = self.owed.saturating_sub(owed);
            let most = (rate / PACE_PARTS).max(1);
            self.free = self.free.saturating_add(bytes.saturating_sub(owed)).min(most);
        }
    }

    /// Most bytes of a batch.
    pub(super) fn most_bytes(&self) -> u64 {
        self.per_second
            .map_or(u64::MAX, |rate| (rate / PACE_PARTS).max(PACE_LEAST_BYTES))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Sends batches of `batch` whenever it may, looking every 250 ms; the bytes sent in `seconds`.
    fn sent_in(rate: u64, batch: u64, seconds: u64) -> u64 {
        let mut pace = Pace::new(Some(rate), 7);
        let mut sent = 0;
        for tick in 0..seconds * 4 {
            while pace.may_send(7 + tick * 250) {
                pace.sent(batch);
                sent += batch;
            }
        }
        sent
    }

    #[test]
    fn the_mean_is_the_rate_whatever_the_batches_are() {
        for (rate, batch) in [
            (180_000, 1 << 20),
            (180_000, 4000),
            (10 << 20, 1 << 18),
            (1000, 5000),
        ] {
            let (sent, allowed) = (sent_in(rate, batch, 200), rate * 200);
            assert!(
                sent <= allowed + batch + rate / 4,
                "{sent} of {allowed} in batches of {batch}"
            );
            assert!(
                sent + batch + rate >= allowed,
                "{sent} of {allowed} in batches of {batch}"
            );
        }
    }

    #[test]
    fn a_link_that_was_idle_does_not_burst() {
        let mut pace = Pace::new(Some(1 << 20), 0);
        assert!(pace.may_send(3_600_000));
        pace.sent(1 << 18);
        assert!(!pace.may_send(3_600_000));
    }

    #[test]
    fn what_compression_saved_is_not_counted() {
        let (mut pace, mut sent) = (Pace::new(Some(100_000), 0), 0);
        for tick in 0..2000_u64 {
            while pace.may_send(tick * 100) {
                pace.sent(40_000);
                pace.not_sent(30_000);
                sent += 10_000;
            }
        }
        let allowed = 100_000 * 200;
        assert!(sent <= allowed + 60_000 && sent + 60_000 >= allowed, "{sent}");
    }

    #[test]
    fn without_a_rate_nothing_waits() {
        let mut pace = Pace::new(None, 0);
        for _ in 0..3 {
            pace.sent(u64::MAX);
            assert!(pace.may_send(0));
        }
    }
}
