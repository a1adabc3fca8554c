//! What of a volume is to be compared with a remote, and what came of it: one run at a time, over any number of
//! connections.
//!
//! A range that is written while it is read is tried again in smaller pieces, in the end in such small ones that writes
//! can wait meanwhile. A range that differs may be written once more by the owner of the volume, and is then compared
//! again.

use super::events::Verdict;
use super::limits::{VERIFY_PIECE_BYTES, VERIFY_RANGES, VERIFY_STILL_BYTES};
use super::source::ComparedPiece;
use parking_lot::Mutex;
use std::collections::VecDeque;
use std::ops::Range;
use tokio::sync::watch;

/// What a verification is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum VerifyState {
    /// None was begun since the unit was started.
    #[default]
    Never,
    /// Under way.
    Running,
    /// Everything was looked at.
    Done,
    /// Ended before its end.
    Stopped,
}

/// How far a verification is, and what it found.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct VerifyProgress {
    /// What it is doing.
    pub state: VerifyState,
    /// When it began, microseconds since 1970.
    pub began_us: u64,
    /// When it ended, if it did.
    pub ended_us: Option<u64>,
    /// Bytes it is about.
    pub total_bytes: u64,
    /// Bytes compared.
    pub compared_bytes: u64,
    /// The records after which ranges were compared: first and last.
    pub records: Option<(u64, u64)>,
    /// Bytes that differed.
    pub differing_bytes: u64,
    /// Where, in order; not all of it if it is very much.
    pub differing: Vec<Range<u64>>,
    /// Bytes of them that are the same since they were written once more.
    pub repaired_bytes: u64,
}

impl VerifyProgress {
    /// Whether everything was compared and is the same.
    #[must_use]
    pub fn is_identical(&self) -> bool {
        self.state == VerifyState::Done && self.repaired_bytes == self.differing_bytes
    }
}

#[derive(Debug, Clone)]
struct Task {
    range: Range<u64>,
    /// Written once more because it differed.
    again: bool,
}

#[derive(Debug, Default)]
struct Run {
    progress: VerifyProgress,
    repairs: bool,
    todo: VecDeque<Task>,
    /// The piece that a session has.
    out: Option<Task>,
    /// To be written once more.
    to_repair: VecDeque<Range<u64>>,
    /// With its owner, to be written once more.
    repairing: Option<Range<u64>>,
    piece_bytes: u32,
}

/// The comparison of one volume with one remote.
#[derive(Debug, Default)]
pub struct Verification {
    run: Mutex<Run>,
    changed: watch::Sender<u64>,
}

impl Verification {
    /// Begins a run over `0..volume_bytes`.
    ///
    /// # Errors
    /// The progress of the one under way.
    pub fn start(&self, volume_bytes: u64, repairs: bool, now_us: u64) -> Result<(), Box<VerifyProgress>> {
        let mut run = self.run.lock();
        if run.progress.state == VerifyState::Running {
            return Err(Box::new(run.progress.clone()));
        }
        *run = Run {
            progress: VerifyProgress {
                state: VerifyState::Running,
                began_us: now_us,
                total_bytes: volume_bytes,
                ..VerifyProgress::default()
            },
            repairs,
            todo: VecDeque::from([Task {
                range: 0..volume_bytes,
                again: false,
            }]),
            piece_bytes: VERIFY_PIECE_BYTES,
            ..Run::default()
        };
        drop(run);
        self.wake();
        Ok(())
    }

    /// Ends a run under way; false if there is none.
    pub fn stop(&self, now_us: u64) -> bool {
        let mut run = self.run.lock();
        if run.progress.state != VerifyState::Running {
            return false;
        }
        run.progress.ended_us = Some(now_us);
        run.progress.state = VerifyState::Stopped;
        run.todo.clear();
        run.to_repair.clear();
        drop(run);
        self.wake();
        true
    }

    /// How far it is.
    #[must_use]
    pub fn progress(&self) -> VerifyProgress {
        self.run.lock().progress.clone()
    }

    /// Fires whenever something came of a range.
    #[must_use]
    pub fn changed(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    /// The next range to be compared, once there is one. Safe to drop: it is taken only when this resolves.
    pub(super) async fn next(&self) -> ComparedPiece {
        let mut changed = self.changed.subscribe();
        loop {
            changed.mark_unchanged();
            if let Some(piece) = self.take() {
                return piece;
            }
            // The channel lives as long as this.
            let _ = changed.changed().await;
        }
    }

    fn take(&self) -> Option<ComparedPiece> {
        let mut run = self.run.lock();
        // What waits to be written once more is bounded, too.
        if run.out.is_some() || run.to_repair.len() >= VERIFY_RANGES {
            return None;
        }
        let mut task = run.todo.pop_front()?;
        let length = (task.range.end - task.range.start).min(u64::from(run.piece_bytes));
        let end = task.range.start + length;
        if end < task.range.end {
            let rest = Task {
                range: end..task.range.end,
                again: task.again,
            };
            run.todo.push_front(rest);
        }
        task.range.end = end;
        let length = u32::try_from(length).unwrap_or(u32::MAX);
        let piece = ComparedPiece {
            offset: task.range.start,
            length,
            still: length <= VERIFY_STILL_BYTES,
        };
        run.out = Some(task);
        Some(piece)
    }

    /// The connection that had a range is gone: the next one gets it again.
    pub(super) fn interrupted(&self) {
        let mut run = self.run.lock();
        if let Some(task) = run.out.take().filter(|_| run.is_running()) {
            run.todo.push_front(task);
        }
    }

    /// Takes note of what came of the range that [`next`](Self::next) gave.
    pub(super) fn judged(&self, verdict: Verdict) {
        let mut run = self.run.lock();
        let Some(task) = run.out.take().filter(|_| run.is_running()) else {
            return;
        };
        match verdict {
            Verdict::Changed => run.changed_meanwhile(task),
            Verdict::Compared {
                record, differing, ..
            } => run.compared(&task, record, differing),
        }
        drop(run);
        self.wake();
    }

    /// A range that has to be written once more; [`repaired`](Self::repaired) has to follow.
    pub fn take_repair(&self) -> Option<Range<u64>> {
        let mut run = self.run.lock();
        if !run.is_running() || run.repairing.is_some() {
            return None;
        }
        let range = run.to_repair.pop_front()?;
        run.repairing = Some(range.clone());
        Some(range)
    }

    /// The range was written once more: it is compared again. Or it could not be.
    pub fn repaired(&self, done: bool) {
        let mut run = self.run.lock();
        if let Some(range) = run.repairing.take().filter(|_| done && run.is_running()) {
            run.todo.push_front(Task { range, again: true });
        }
        drop(run);
        self.wake();
    }

    /// Ends the run if nothing of it is left; true if it ended now.
    pub fn finish(&self, now_us: u64) -> bool {
        let mut run = self.run.lock();
        let over = run.is_running()
            && run.todo.is_empty()
            && run.out.is_none()
            && run.to_repair.is_empty()
            && run.repairing.is_none();
        if over {
            run.progress.state = VerifyState::Done;
            run.progress.ended_us = Some(now_us);
        }
        over
    }

    fn wake(&self) {
        self.changed.send_modify(|count| *count = count.wrapping_add(1));
    }
}

impl Run {
    fn is_running(&self) -> bool {
        self.progress.state == VerifyState::Running
    }

    /// Smaller pieces are read in less time.
    fn changed_meanwhile(&mut self, task: Task) {
        self.piece_bytes = (self.piece_bytes / 4).max(VERIFY_STILL_BYTES);
        self.todo.push_front(task);
    }

    fn compared(&mut self, task: &Task, record: u64, differing: Vec<Range<u64>>) {
        self.piece_bytes = self.piece_bytes.saturating_mul(2).min(VERIFY_PIECE_BYTES);
        let length = task.range.end - task.range.start;
        let bytes = differing.iter().map(|range| range.end - range.start).sum();
        let progress = &mut self.progress;
        let first = progress.records.map_or(record, |(first, _)| first);
        progress.records = Some((first, record));
        if task.again {
            progress.repaired_bytes += length.saturating_sub(bytes);
            return;
        }
        progress.compared_bytes += length;
        progress.differing_bytes += bytes;
        for range in differing {
            add(&mut progress.differing, range.clone());
            if self.repairs {
                self.to_repair.push_back(range);
            }
        }
    }
}

/// Adds a range after all others; no more than are listed.
fn add(ranges: &mut Vec<Range<u64>>, range: Range<u64>) {
    if let Some(last) = ranges.last_mut().filter(|last| last.end == range.start) {
        last.end = range.end;
    } else if ranges.len() < VERIFY_RANGES {
        ranges.push(range);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STILL: u64 = VERIFY_STILL_BYTES as u64;

    fn compared(verification: &Verification, differing: Vec<Range<u64>>) -> Range<u64> {
        let piece = verification.take().unwrap();
        verification.judged(Verdict::Compared { record: 7, differing });
        piece.range()
    }

    #[test]
    fn every_byte_is_compared_once_and_what_differs_is_listed() {
        let verification = Verification::default();
        verification.start(3 << 20, false, 1).unwrap();
        assert!(verification.start(3 << 20, false, 1).is_err(), "one at a time");
        assert_eq!(compared(&verification, vec![]), 0..1 << 20);
        assert_eq!(verification.take().unwrap().range(), 1 << 20..2 << 20);
        verification.interrupted();
        let differing = vec![(1 << 20)..(1 << 20) + 4096, (2 << 20) - 4096..2 << 20];
        assert_eq!(compared(&verification, differing), 1 << 20..2 << 20);
        assert!(!verification.finish(5));
        let next = (2 << 20)..(2 << 20) + 8192;
        assert_eq!(compared(&verification, vec![next]), 2 << 20..3 << 20);
        assert!(verification.finish(5));
        let progress = verification.progress();
        assert_eq!(progress.compared_bytes, 3 << 20);
        assert_eq!(progress.differing_bytes, 4 * 4096);
        let joined = [(1 << 20)..(1 << 20) + 4096, (2 << 20) - 4096..(2 << 20) + 8192];
        assert_eq!(progress.differing, joined);
        assert!(!progress.is_identical());
        assert_eq!((progress.state, progress.ended_us), (VerifyState::Done, Some(5)));
    }

    #[test]
    fn a_range_that_is_written_all_the_time_is_read_while_writes_wait_and_the_rest_is_not() {
        let verification = Verification::default();
        verification.start(64 << 20, false, 1).unwrap();
        let hot = (40 << 20) + 40960;
        let mut still = 0;
        while !verification.finish(9) {
            let piece = verification.take().unwrap();
            still += u64::from(piece.still);
            verification.judged(if piece.range().contains(&hot) && !piece.still {
                Verdict::Changed
            } else {
                Verdict::Compared {
                    record: 1,
                    differing: vec![],
                }
            });
        }
        assert_eq!(verification.progress().compared_bytes, 64 << 20);
        // The range itself, and what is left at the end.
        assert!(still <= 2, "{still} pieces of {STILL} bytes");
    }

    #[test]
    fn what_is_repaired_is_compared_again() {
        let verification = Verification::default();
        verification.start(1 << 20, true, 1).unwrap();
        compared(&verification, vec![4096..8192, 65536..69632]);
        assert_eq!(verification.take_repair(), Some(4096..8192));
        assert_eq!(verification.take_repair(), None, "one after the other");
        verification.repaired(true);
        assert_eq!(compared(&verification, vec![]), 4096..8192);
        assert_eq!(verification.take_repair(), Some(65536..69632));
        verification.repaired(true);
        assert_eq!(compared(&verification, vec![]), 65536..69632, "the same now");
        assert!(verification.finish(3));
        assert!(verification.progress().is_identical());
    }
}
