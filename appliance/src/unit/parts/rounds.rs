//! Comparing in the background: a volume is compared with a remote once in so much time, at an even pace, and how far that is
//! outlasts the unit.

use super::status::timestamp;
use crate::link::{Verification, VerifyProgress, VerifyState};
use crate::unit::limits::{ROUND_NOTE_INTERVAL, ROUND_SPARE_PERCENT, ROUND_TICK};
use crate::volume::Volume as Disk;
use farside_protocol::control::RoundsStatus;
use farside_storage::{StoreFiles, read_small_file, replace_file};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, MissedTickBehavior, interval};

const MILLIONTHS: u128 = 1_000_000;

/// What is kept of the rounds with one remote.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Kept {
    /// When the present round began, microseconds since 1970; 0: there was none yet.
    began_us: u64,
    /// Up to where it has compared.
    offset: u64,
    /// All of it was compared.
    ended: bool,
    /// Bytes that differed in it.
    differing_bytes: u64,
    /// Of them those that were found before this start of the unit.
    #[serde(skip)]
    found_before: u64,
    /// When the last round began that came to its end: nothing was compared longer ago.
    all_since_us: Option<u64>,
    /// How much of the volume that was.
    all_bytes: u64,
    /// Where the remote was: at another place it is another replica.
    addresses: Vec<String>,
}

/// The rounds with one remote.
#[derive(Debug)]
pub(super) struct Rounds {
    every: Duration,
    file: PathBuf,
    kept: Mutex<Kept>,
}

/// Where it is kept how far the rounds with a remote are.
pub(super) fn file_of(files: &StoreFiles, volume: &str, remote: &str) -> PathBuf {
    files.maps.join(format!("compared-{volume}@{remote}.json"))
}

impl Rounds {
    /// Those of a remote at these addresses, which go on where they were. Blocks.
    pub(super) fn open(file: PathBuf, every: Duration, addresses: Vec<String>) -> Arc<Self> {
        let read = read_small_file(&file).map(|bytes| bytes.unwrap_or_default());
        let kept = match read {
            Ok(bytes) if bytes.is_empty() => Ok(Kept::default()),
            Ok(bytes) => serde_json::from_slice(&bytes).map_err(|error| error.to_string()),
            Err(error) => Err(error.to_string()),
        };
        // Only how far it was is lost.
        let kept = kept.unwrap_or_else(|error| {
            tracing::warn!(file = %file.display(), "not read, comparing in the background begins anew: {error}");
            Kept::default()
        });
        let kept = match kept.addresses == addresses {
            true => kept,
            false => Kept {
                addresses,
                ..Kept::default()
            },
        };
        Arc::new(Self {
            every,
            file,
            kept: Mutex::new(kept),
        })
    }

    /// Begins rounds, lets them go on, and notes how far they are.
    pub(super) async fn go(
        self: Arc<Self>,
        disk: Arc<Disk>,
        verification: Arc<Verification>,
        remote: String,
    ) {
        let mut tick = interval(ROUND_TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let (mut last, mut noted) = (Instant::now(), Instant::now());
        let mut allowed = 0;
        loop {
            tick.tick().await;
            let (now_us, passed) = (disk.store().clock().wall_us(), last.elapsed());
            last = Instant::now();
            let progress = verification.round();
            if progress.state != VerifyState::Running {
                if let Some(offset) = self.due(now_us) {
                    verification.start_round(offset, disk.store().volume_bytes(), now_us);
                    allowed = u128::from(offset) * MILLIONTHS;
                }
                continue;
            }
            allowed = self.allowed(allowed, &progress, passed);
            verification.allow(u64::try_from(allowed / MILLIONTHS).unwrap_or(u64::MAX));
            let ended = verification.finish_round(now_us);
            // Not what it was before: the last range may have been compared in between.
            let differed = self.note(&verification.round(), ended);
            if differed > 0 {
                tracing::error!(
                    volume = disk.store().name(),
                    remote,
                    bytes = differed,
                    "compared in the background: the sides differ; 'farside verify' names the ranges, 'farside verify --repair' \
                     sends them again"
                );
            }
            if ended || noted.elapsed() >= ROUND_NOTE_INTERVAL {
                noted = Instant::now();
                self.keep().await;
            }
        }
    }

    /// How much of a round may be compared, in millionths of bytes, after some time has passed.
    fn allowed(&self, before: u128, progress: &VerifyProgress, passed: Duration) -> u128 {
        let in_time = |time: Duration| {
            let whole = u128::from(progress.total_bytes) * MILLIONTHS * ROUND_SPARE_PERCENT / 100;
            whole * time.as_micros() / self.every.as_micros().max(1)
        };
        // What could not be compared while the remote was away is not made good in a burst.
        let most = u128::from(progress.compared_bytes) * MILLIONTHS + in_time(2 * ROUND_TICK) + MILLIONTHS;
        (before + in_time(passed)).min(most)
    }

    /// From where on a round has to begin now, if one has.
    fn due(&self, now_us: u64) -> Option<u64> {
        let mut kept = self.kept.lock();
        if kept.began_us > 0 && !kept.ended {
            kept.found_before = kept.differing_bytes;
            return Some(kept.offset);
        }
        let every_us = u64::try_from(self.every.as_micros()).unwrap_or(u64::MAX);
        let passed = now_us
            .checked_sub(kept.began_us)
            .is_none_or(|passed| passed >= every_us);
        passed.then(|| {
            kept.began_us = now_us;
            (kept.offset, kept.ended) = (0, false);
            (kept.differing_bytes, kept.found_before) = (0, 0);
            0
        })
    }

    /// Takes note of how far the round is; the bytes that were found to differ since it was noted last.
    fn note(&self, round: &VerifyProgress, ended: bool) -> u64 {
        let mut kept = self.kept.lock();
        let before = kept.differing_bytes;
        kept.differing_bytes = kept.found_before + round.differing_bytes;
        (kept.offset, kept.ended) = (round.compared_bytes, ended);
        if ended {
            (kept.all_since_us, kept.all_bytes) = (Some(kept.began_us), round.total_bytes);
        }
        kept.differing_bytes.saturating_sub(before)
    }

    async fn keep(&self) {
        let (kept, file) = (self.kept.lock().clone(), self.file.clone());
        let written = tokio::task::spawn_blocking(move || {
            let text = serde_json::to_vec(&kept).unwrap_or_default();
            replace_file(&file, &text)
        });
        if let Ok(Err(error)) = written.await {
            tracing::warn!("how far comparing in the background is was not kept: {error}");
        }
    }

    pub(super) fn status(&self, volume_bytes: u64) -> RoundsStatus {
        let kept = self.kept.lock().clone();
        RoundsStatus {
            every_seconds: self.every.as_secs(),
            // What was added since was not compared then.
            all_since: kept
                .all_since_us
                .filter(|_| kept.all_bytes >= volume_bytes)
                .and_then(timestamp),
            began: timestamp(kept.began_us).filter(|_| kept.began_us > 0),
            compared_bytes: kept.offset.min(volume_bytes),
            total_bytes: volume_bytes,
            differing_bytes: kept.differing_bytes,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000;
    const MIB: u64 = 1 << 20;

    fn rounds(file: &std::path::Path, address: &str) -> Arc<Rounds> {
        Rounds::open(
            file.to_owned(),
            Duration::from_secs(100),
            vec![address.to_owned()],
        )
    }

    fn progress(compared_bytes: u64, differing_bytes: u64) -> VerifyProgress {
        VerifyProgress {
            total_bytes: 8 * MIB,
            compared_bytes,
            differing_bytes,
            ..VerifyProgress::default()
        }
    }

    #[tokio::test]
    async fn a_round_goes_on_after_a_restart_and_the_next_begins_in_time() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("compared");
        let first = rounds(&file, "a:1");
        assert_eq!(first.due(1000 * SECOND), Some(0));
        assert_eq!(first.note(&progress(2 * MIB, 4096), false), 4096);
        assert_eq!(first.note(&progress(3 * MIB, 4096), false), 0, "told once");
        first.keep().await;
        let again = rounds(&file, "a:1");
        assert_eq!(again.due(1200 * SECOND), Some(3 * MIB));
        assert_eq!(again.status(8 * MIB).all_since, None);
        // What this start finds comes on top of what the one before it found.
        assert_eq!(again.note(&progress(8 * MIB, 512), true), 512);
        let status = again.status(8 * MIB);
        assert_eq!((status.differing_bytes, status.compared_bytes), (4608, 8 * MIB));
        assert_eq!(status.all_since.as_deref(), Some("1970-01-01T00:16:40.000Z"));
        assert_eq!(again.status(9 * MIB).all_since, None, "it has grown");
        again.keep().await;
        let third = rounds(&file, "a:1");
        assert_eq!(third.due(1099 * SECOND), None);
        assert_eq!(
            third.due(1100 * SECOND),
            Some(0),
            "a hundred seconds after the last began"
        );
        let status = third.status(8 * MIB);
        assert_eq!((status.differing_bytes, status.compared_bytes), (0, 0));
        assert!(status.all_since.is_some(), "what was compared stays so");
    }

    #[tokio::test]
    async fn at_another_address_nothing_was_compared() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("compared");
        let here = rounds(&file, "a:1");
        here.due(1000 * SECOND);
        here.note(&progress(8 * MIB, 0), true);
        here.keep().await;
        assert!(rounds(&file, "a:1").status(8 * MIB).all_since.is_some());
        let elsewhere = rounds(&file, "b:1");
        assert_eq!(elsewhere.status(8 * MIB).all_since, None);
        assert_eq!(elsewhere.due(1001 * SECOND), Some(0));
        std::fs::write(&file, "no JSON").unwrap();
        assert_eq!(rounds(&file, "a:1").due(1001 * SECOND), Some(0));
    }

    #[test]
    fn the_pace_is_even_and_a_pause_is_not_made_good_in_a_burst() {
        let rounds = rounds(std::path::Path::new("/nowhere"), "a:1");
        let mut allowed = 0;
        for _ in 0..40 {
            let compared = u64::try_from(allowed / MILLIONTHS).unwrap();
            allowed = rounds.allowed(allowed, &progress(compared, 0), Duration::from_secs(1));
        }
        // 40 of 100 seconds, a quarter faster than it has to be.
        let expected = u128::from(4 * MIB) * MILLIONTHS;
        assert!(allowed.abs_diff(expected) < 100 * MILLIONTHS, "{allowed}");
        let stuck = progress(MIB, 0);
        for _ in 0..1000 {
            allowed = rounds.allowed(allowed, &stuck, Duration::from_secs(1));
        }
        let ahead = allowed / MILLIONTHS - u128::from(MIB);
        assert!(ahead <= u128::from(8 * MIB * 125 / 100 * 2 / 100) + 1, "{ahead}");
    }
}
