//! Writes that change nothing are left out, block by block, if the operator wants that.
//!
//! A write is compared with what hosts would read now, while nobody else journals, and only if nothing that is journaled
//! together with it, before it, touches the same place: so the outcome is that of the order in which writes came.

use super::shared::Shared;
use farside_protocol::journal::RecordKind;
use farside_storage::{Change, ReadOutcome};
use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::Ordering;

const BLOCK: usize = 4096;

/// Takes out of `changes`, from the one at `first` on, what is there already.
pub(super) fn drop_unchanged(shared: &Shared, changes: &mut VecDeque<Change>, first: usize) {
    if !shared.skip_unchanged.load(Ordering::Relaxed) {
        return;
    }
    let mut touched = Touched::default();
    let mut kept = VecDeque::with_capacity(changes.len());
    let mut unchanged = 0;
    for (index, change) in changes.drain(..).enumerate() {
        let range = (change.offset, change.offset + u64::from(change.length));
        let is_judged = index >= first && change.kind == RecordKind::Write && !touched.has(range);
        touched.add(range);
        if is_judged {
            let whole = u64::from(change.length);
            let before: usize = kept.len();
            keep_what_differs(shared, change, &mut kept);
            let left: u64 = kept.iter().skip(before).map(|part| u64::from(part.length)).sum();
            unchanged += whole - left;
        } else {
            kept.push_back(change);
        }
    }
    *changes = kept;
    shared
        .counters
        .unchanged_bytes
        .fetch_add(unchanged, Ordering::Relaxed);
}

/// Whether a write that is going to be compared has to be read from a disk first: then that is done before anybody has to
/// wait for it.
pub(super) fn is_cold(shared: &Shared, offset: u64, data: &[u8]) -> bool {
    let mut found = vec![0; data.len()];
    matches!(
        shared.store.read_cached(offset, &mut found),
        Ok(ReadOutcome::WouldWait)
    )
}

fn keep_what_differs(shared: &Shared, change: Change, kept: &mut VecDeque<Change>) {
    let mut found = vec![0; change.data.len()];
    // What is not at hand is taken for different.
    if !matches!(
        shared.store.read_cached(change.offset, &mut found),
        Ok(ReadOutcome::Done)
    ) {
        kept.push_back(change);
        return;
    }
    let mut run: Option<(usize, usize)> = None;
    let mut at = 0;
    while at < found.len() {
        // Blocks of the volume, not of the write.
        let into_block = usize::try_from((change.offset + at as u64) % BLOCK as u64).unwrap_or(0);
        let end = found.len().min(at + BLOCK - into_block);
        if change.data[at..end] != found[at..end] {
            run = Some((run.map_or(at, |(start, _)| start), end));
        } else if let Some(run) = run.take() {
            kept.push_back(part(&change, run));
        }
        at = end;
    }
    if let Some(run) = run {
        kept.push_back(part(&change, run));
    }
}

fn part(change: &Change, (start, end): (usize, usize)) -> Change {
    Change {
        offset: change.offset + start as u64,
        length: u32::try_from(end - start).unwrap_or(u32::MAX),
        kind: change.kind,
        data: change.data.slice(start..end),
        arrived_us: change.arrived_us,
    }
}

/// Ranges without overlaps, by their start.
#[derive(Debug, Default)]
struct Touched(BTreeMap<u64, u64>);

impl Touched {
    fn has(&self, (start, end): (u64, u64)) -> bool {
        let last = self.0.range(..end).next_back();
        last.is_some_and(|(_, last_end)| *last_end > start)
    }

    fn add(&mut self, (mut start, mut end): (u64, u64)) {
        while let Some((other, other_end)) = self.0.range(..=end).next_back().map(|(a, b)| (*a, *b)) {
            if other_end < start {
                break;
            }
            self.0.remove(&other);
            (start, end) = (start.min(other), end.max(other_end));
        }
        self.0.insert(start, end);
    }
}

#[cfg(test)]
mod tests {
    use super::Touched;

    #[test]
    fn ranges_that_touch_are_one_and_overlaps_are_found() {
        let mut touched = Touched::default();
        for range in [(10, 20), (30, 40), (20, 25), (50, 60), (38, 55)] {
            touched.add(range);
        }
        assert_eq!(touched.0.into_iter().collect::<Vec<_>>(), [(10, 25), (30, 60)]);
        let mut touched = Touched::default();
        touched.add((10, 20));
        for (range, has) in [
            ((0, 10), false),
            ((20, 30), false),
            ((0, 11), true),
            ((19, 30), true),
            ((12, 13), true),
        ] {
            assert_eq!(touched.has(range), has, "{range:?}");
        }
    }
}
