//! When records were journaled, to within a moment: how long a remote that lacks some has been behind.
//!
//! Bounded: with age the marks lie further apart, so a long outage is told less exactly, never too short.

use super::limits::{MARK_INTERVAL_US, MARKS};
use parking_lot::Mutex;

/// Marks of (last record journaled before, time in microseconds since 1970), both rising.
#[derive(Debug, Default)]
pub(super) struct Timeline {
    marks: Mutex<Vec<(u64, u64)>>,
}

impl Timeline {
    /// Records after `before` were journaled at `now_us`.
    pub(super) fn mark(&self, before: u64, now_us: u64) {
        let mut marks = self.marks.lock();
        let due = marks
            .last()
            .is_none_or(|(record, at)| before > *record && now_us >= at.saturating_add(MARK_INTERVAL_US));
        if !due {
            return;
        }
        if marks.len() >= MARKS {
            let mut keep = false;
            marks.retain(|_| {
                keep = !keep;
                keep
            });
        }
        marks.push((before, now_us));
    }

    /// A time at which nothing after `record` was journaled yet; the latest known.
    pub(super) fn all_until_us(&self, record: u64) -> Option<u64> {
        let marks = self.marks.lock();
        let known = marks.partition_point(|(before, _)| *before <= record);
        let (_, at) = marks.get(known.checked_sub(1)?)?;
        Some(*at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_remote_is_behind_since_the_first_record_it_lacks_and_not_since_the_last_it_has() {
        let (line, hour) = (Timeline::default(), 3_600_000_000);
        line.mark(0, 1_000_000);
        // An hour of silence, then one write.
        line.mark(5, hour);
        assert_eq!(line.all_until_us(5), Some(hour));
        assert_eq!(line.all_until_us(4), Some(1_000_000));
        let unknown = Timeline::default();
        unknown.mark(7, hour);
        assert_eq!(unknown.all_until_us(6), None);
    }

    #[test]
    fn marks_stay_few_and_never_tell_too_little() {
        let line = Timeline::default();
        for record in 0..100_000_u64 {
            line.mark(record, record * MARK_INTERVAL_US);
        }
        assert!(line.marks.lock().len() <= MARKS);
        for record in [0, 10, 50_000, 99_998] {
            // Record number record + 1 came at this time.
            assert!(line.all_until_us(record).unwrap() <= record * MARK_INTERVAL_US);
        }
    }
}
