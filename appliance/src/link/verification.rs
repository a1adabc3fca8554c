//! What of a volume is to be compared with a remote, and what came of it, over any number of connections: a run that somebody asked
//! for, and rounds in the background, which wait for it and go no faster than they are allowed.
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
    /// How much of it may be compared by now.
    allowed_bytes: u64,
}

#[derive(Debug, Default)]
struct Runs {
    /// What somebody asked for.
    asked: Run,
    /// In the background.
    round: Run,
}

/// The comparison of one volume with one remote.
#[derive(Debug, Default)]
pub struct Verification {
    runs: Mutex<Runs>,
    changed: watch::Sender<u64>,
}

impl Verification {
    /// Begins a run over `0..volume_bytes`.
    ///
    /// # Errors
    /// The progress of the one under way.
    pub fn start(&self, volume_bytes: u64, repairs: bool, now_us: u64) -> Result<(), Box<VerifyProgress>> {
        let run = &mut self.runs.lock().asked;
        if run.is_running() {
            return Err(Box::new(run.progress.clone()));
        }
        *run = Run::over(0..volume_bytes, now_us);
        (run.repairs, run.allowed_bytes) = (repairs, u64::MAX);
        self.wake();
        Ok(())
    }

    /// Begins a round over what is left of the volume from `from` on, of which nothing may be compared yet.
    pub fn start_round(&self, from: u64, volume_bytes: u64, now_us: u64) {
        self.runs.lock().round = Run::over(from.min(volume_bytes)..volume_bytes, now_us);
    }

    /// So many bytes of the round may be compared by now, those before its beginning included.
    pub fn allow(&self, bytes: u64) {
        self.runs.lock().round.allowed_bytes = bytes;
        self.wake();
    }

    /// How far the round is; what lay before its beginning counts as compared.
    #[must_use]
    pub fn round(&self) -> VerifyProgress {
        self.runs.lock().round.progress.clone()
    }

    /// Ends the round if nothing of it is left; true if it ended now.
    pub fn finish_round(&self, now_us: u64) -> bool {
        self.runs.lock().round.finish(now_us)
    }

    /// There are no rounds any more.
    pub fn end_rounds(&self) {
        self.runs.lock().round = Run::default();
    }

    /// Ends a run under way; false if there is none.
    pub fn stop(&self, now_us: u64) -> bool {
        let run = &mut self.runs.lock().asked;
        if !run.is_running() {
            return false;
        }
        run.progress.ended_us = Some(now_us);
        run.progress.state = VerifyState::Stopped;
        run.todo.clear();
        run.to_repair.clear();
        self.wake();
        true
    }

    /// How far it is.
    #[must_use]
    pub fn progress(&self) -> VerifyProgress {
        self.runs.lock().asked.progress.clone()
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
        let Runs { asked, round } = &mut *self.runs.lock();
        if asked.out.is_some() || round.out.is_some() {
            return None;
        }
        // The one in the background waits for the other.
        if asked.is_running() {
            asked.take()
        } else {
            round.take()
        }
    }

    /// The connection that had a range is gone: the next one gets it again.
    pub(super) fn interrupted(&self) {
        let Runs { asked, round } = &mut *self.runs.lock();
        for run in [asked, round] {
            if let Some(task) = run.out.take().filter(|_| run.is_running()) {
                run.todo.push_front(task);
            }
        }
    }

    /// Takes note of what came of the range that [`next`](Self::next) gave.
    pub(super) fn judged(&self, verdict: Verdict) {
        {
            let Runs { asked, round } = &mut *self.runs.lock();
            let run = if asked.out.is_some() { asked } else { round };
            let Some(task) = run.out.take().filter(|_| run.is_running()) else {
                return;
            };
            match verdict {
                Verdict::Changed => run.changed_meanwhile(task),
                Verdict::Compared {
                    record, differing, ..
                } => run.compared(&task, record, differing),
            }
        }
        self.wake();
    }

    /// A range that has to be written once more; [`repaired`](Self::repaired) has to follow.
    pub fn take_repair(&self) -> Option<Range<u64>> {
        let run = &mut self.runs.lock().asked;
        if !run.is_running() || run.repairing.is_some() {
            return None;
        }
        let range = run.to_repair.pop_front()?;
        run.repairing = Some(range.clone());
        Some(range)
    }

    /// The range was written once more: it is compared again. Or it could not be.
    pub fn repaired(&self, done: bool) {
        {
            let run = &mut self.runs.lock().asked;
            if let Some(range) = run.repairing.take().filter(|_| done && run.is_running()) {
                run.todo.push_front(Task { range, again: true });
            }
        }
        self.wake();
    }

    /// Ends the run if nothing of it is left; true if it ended now.
    pub fn finish(&self, now_us: u64) -> bool {
        self.runs.lock().asked.finish(now_us)
    }

    fn wake(&self) {
        self.changed.send_modify(|count| *count = count.wrapping_add(1));
    }
}

impl Run {
    /// A run over this part of a volume, which ends where that ends.
    fn over(range: Range<u64>, now_us: u64) -> Self {
        Self {
            progress: VerifyProgress {
                state: VerifyState::Running,
                began_us: now_us,
                total_bytes: range.end,
                compared_bytes: range.start,
                ..VerifyProgress::default()
            },
            todo: VecDeque::from_iter((!range.is_empty()).then_some(Task { range, again: false })),
            piece_bytes: VERIFY_PIECE_BYTES,
            ..Self::default()
        }
    }

    fn is_running(&self) -> bool {
        self.progress.state == VerifyState::Running
    }

    fn take(&mut self) -> Option<ComparedPiece> {
        // What waits to be written once more is bounded, too.
        if self.to_repair.len() >= VERIFY_RANGES || self.progress.compared_bytes >= self.allowed_bytes {
            return None;
        }
        let mut task = self.todo.pop_front()?;
        let length = (task.range.end - task.range.start).min(u64::from(self.piece_bytes));
        let end = task.range.start + length;
        if end < task.range.end {
            let rest = Task {
                range: end..task.range.end,
                again: task.again,
            };
            self.todo.push_front(rest);
        }
        task.range.end = end;
        let length = u32::try_from(length).unwrap_or(u32::MAX);
        let piece = ComparedPiece {
            offset: task.range.start,
            length,
            still: length <= VERIFY_STILL_BYTES,
        };
        self.out = Some(task);
        Some(piece)
    }

    /// True if nothing is left, and the run is over by that.
    fn finish(&mut self, now_us: u64) -> bool {
        let over = self.is_running()
            && self.todo.is_empty()
            && self.out.is_none()
            && self.to_repair.is_empty()
            && self.repairing.is_none();
        if over {
            self.progress.state = VerifyState::Done;
            self.progress.ended_us = Some(now_us);
        }
        over
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

    #[test]
    fn rounds_go_as_far_as_they_are_allowed_and_wait_for_what_somebody_asks_for() {
        let verification = Verification::default();
        assert!(verification.take().is_none());
        verification.start_round(1 << 20, 4 << 20, 1);
        assert!(verification.take().is_none(), "nothing is allowed yet");
        verification.allow((1 << 20) + 1);
        assert_eq!(compared(&verification, vec![]), 1 << 20..2 << 20);
        assert!(verification.take().is_none());
        verification.allow(u64::MAX);
        let piece = verification.take().unwrap();
        verification.start(2 << 20, false, 5).unwrap();
        assert!(verification.take().is_none(), "one range at a time");
        verification.judged(Verdict::Changed);
        assert_eq!(compared(&verification, vec![]), 0..1 << 20, "what was asked for");
        let first: Vec<_> = std::iter::once(0..4096).collect();
        assert_eq!(compared(&verification, first), 1 << 20..2 << 20);
        assert!(!verification.finish_round(6) && verification.finish(6));
        let again = verification.take().unwrap();
        assert_eq!(again.offset, piece.offset, "the round goes on where it was");
        verification.interrupted();
        while let Some(piece) = verification.take() {
            let differing = std::iter::once(piece.offset..piece.offset + 4096).collect();
            verification.judged(Verdict::Compared { record: 8, differing });
        }
        assert!(verification.finish_round(7) && !verification.finish_round(8));
        let round = verification.round();
        assert_eq!((round.compared_bytes, round.total_bytes), (4 << 20, 4 << 20));
        assert!(round.differing_bytes > 0 && verification.progress().differing_bytes == 4096);
        verification.end_rounds();
        assert_eq!(verification.round(), VerifyProgress::default());
    }
}
