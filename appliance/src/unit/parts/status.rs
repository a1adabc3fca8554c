//! From what the parts know to what the control interface says.

use super::sending::{Link, Served};
use crate::config::RemoteConfig;
use crate::link::{LinkState, LinkStatus};
use crate::volume::{LinkSource, Volume};
use farside_protocol::control::{
    BLOCK_BYTES, BufferStatus, CompressionStatus, CopyProgress, CounterPair, Counters, HistorySummary,
    ImageStatus, JournalStatus, Lag, MomentStatus, Positions, RemoteState, RemoteStatus, ReplicaState,
    ReplicaStatus, SourceStatus, VolumeState, VolumeStatus, likely_behind,
};
use farside_protocol::journal::{ChainPoint, ConsumerState, CopyState, Superblock};
use farside_remote::{AsideReplica, Replica, ReplicaLink};
use farside_storage::{Moment, Store, StoreFiles};

/// A point in time as RFC 3339, from microseconds since 1970.
pub(super) fn timestamp(at_us: u64) -> Option<String> {
    let at = jiff::Timestamp::from_microsecond(i64::try_from(at_us).ok()?).ok()?;
    Some(at.strftime("%Y-%m-%dT%H:%M:%S%.3fZ").to_string())
}

/// The same as fine as moments are told apart.
pub(super) fn fine_timestamp(at_us: u64) -> String {
    let at = i64::try_from(at_us)
        .ok()
        .and_then(|at| jiff::Timestamp::from_microsecond(at).ok());
    at.unwrap_or_default()
        .strftime("%Y-%m-%dT%H:%M:%S%.6fZ")
        .to_string()
}

pub(super) fn moment_status(moment: &Moment) -> MomentStatus {
    MomentStatus {
        sequence: moment.record,
        time: fine_timestamp(moment.time_us),
    }
}

pub(super) fn history_summary(replica: &Replica) -> HistorySummary {
    let past = replica.past();
    let bookmarks = past.bookmarks().len() as u64;
    let Some(history) = replica.store().history() else {
        return HistorySummary {
            bookmarks,
            problem: past.problem().map(str::to_owned),
            ..HistorySummary::default()
        };
    };
    let state = history.state();
    HistorySummary {
        size_bytes: state.ring_bytes,
        used_bytes: state.used_bytes,
        oldest: state.oldest.as_ref().map(moment_status),
        newest: state.newest.as_ref().map(moment_status),
        bookmarks,
        problem: state
            .failure
            .or_else(|| past.problem().map(str::to_owned))
            .map(|problem| {
                format!("{problem}; mirroring goes on without it, a restart of the unit begins a new one")
            }),
    }
}

// The store's own superblock is locked while a disk syncs; status waits for nothing, so it takes the one read at
// the start, of which it needs what never changes.
fn journal_status(store: &Store, superblock: &Superblock, files: &StoreFiles) -> JournalStatus {
    JournalStatus {
        path: files.journal.display().to_string(),
        size_bytes: std::fs::metadata(&files.journal)
            .map_or(0, |found| found.len())
            .max(superblock.journal_bytes()),
        used_bytes: store.ring_use().0,
        segment_bytes: u64::from(superblock.segment_bytes),
    }
}

pub(super) fn volume_status(served: &Served, files: &StoreFiles, connections: u32) -> VolumeStatus {
    let (store, superblock) = (served.volume.store(), served.volume.opened_as());
    let (points, opened) = (store.points(), store.opened());
    let problem = store.failure().map(|failure| {
        format!("{failure}; nothing is acknowledged. Check the disk, then restart the unit: it recovers what is readable")
    });
    let remotes: Vec<RemoteStatus> = served
        .links
        .links
        .lock()
        .iter()
        .map(|(name, link)| remote_status(&served.volume, name, link))
        .collect();
    let durable = points.durable.record;
    let sent = remotes
        .iter()
        .filter(|remote| remote.state != RemoteState::NeedsCopy)
        .map(|remote| remote.sent)
        .min();
    // Read at another moment than the points, which may have moved.
    let acked = store.acked().max(points.tail.record).min(durable);
    VolumeStatus {
        name: store.name().to_owned(),
        uuid: superblock.volume.to_string(),
        state: if problem.is_some() {
            VolumeState::Degraded
        } else {
            VolumeState::Healthy
        },
        problem,
        size_bytes: store.volume_bytes(),
        block_bytes: BLOCK_BYTES,
        epoch: opened.epoch,
        clean_start: opened.clean,
        journal: journal_status(store, superblock, files),
        mirror: ImageStatus {
            path: files.image.display().to_string(),
        },
        positions: Positions {
            tail: points.tail.record,
            acked,
            sent: sent.unwrap_or(durable).max(acked).min(durable),
            durable,
            journaled: points.journaled.record,
            mirrored: points.applied.record,
        },
        counters: counters(served),
        buffer: buffer(&points.tail, &points.journaled),
        read_only: served.volume.is_read_only(),
        // What the configuration says is the unit's to add.
        iscsi_target: String::new(),
        iscsi_lun: 0,
        connections,
        remotes,
    }
}

fn counters(served: &Served) -> CounterPair {
    let (activity, counted, totals) = (
        served.volume.activity(),
        served.volume.store().counters(),
        served.volume.store().totals(),
    );
    let since_start = Counters {
        host_reads: activity.reads,
        host_read_bytes: activity.read_bytes,
        host_writes: activity.writes,
        host_write_bytes: activity.write_bytes,
        host_unchanged_bytes: activity.unchanged_bytes,
        host_trims: activity.trims,
        host_flushes: activity.flushes,
        blocks_journaled: counted.blocks,
        blocks_sent: counted.sent_blocks,
        blocks_received: counted.received_blocks,
    };
    let total = Counters {
        blocks_journaled: totals.written,
        blocks_sent: totals.sent,
        blocks_received: totals.received,
        ..since_start
    };
    CounterPair { since_start, total }
}

fn buffer(tail: &ChainPoint, head: &ChainPoint) -> BufferStatus {
    BufferStatus {
        blocks: head.blocks.saturating_sub(tail.blocks),
        bytes: head.bytes.saturating_sub(tail.bytes),
    }
}

fn remote_status(volume: &Volume, name: &str, link: &Link) -> RemoteStatus {
    let store = volume.store();
    let status = link.status();
    let acked = store.consumer(name).map(|view| view.acked).unwrap_or_default();
    let known = KnownOf {
        created_at_us: volume.opened_as().created_at_us,
        had_all_us: volume.all_until_us(acked.record).unwrap_or(0),
    };
    let rounds = link.rounds.as_ref();
    RemoteStatus {
        rounds: rounds.map(|(rounds, _)| rounds.status(store.volume_bytes())),
        forecast: link.trends.forecast(volume, name, is_connected(&status)),
        ..sent_status(store, &link.config, (&link.source, &status), known)
    }
}

/// What else is known of what is sent.
#[derive(Debug, Clone, Copy)]
pub(super) struct KnownOf {
    /// When it was made.
    pub(super) created_at_us: u64,
    /// When the last record that a remote has confirmed was the newest.
    pub(super) had_all_us: u64,
}

/// A remote of a volume, or of a replica that is sent on.
pub(super) fn sent_status(
    store: &Store,
    config: &RemoteConfig,
    (source, status): (&LinkSource, &LinkStatus),
    known: KnownOf,
) -> RemoteStatus {
    let now_us = store.clock().wall_us();
    let view = store.consumer(&config.name);
    let acked = view.as_ref().map(|view| view.acked).unwrap_or_default();
    // A remote that is away since before the start: its confirmed position was kept, and says as much.
    let kept = view
        .as_ref()
        .filter(|view| view.state == ConsumerState::Attached)
        .map(|view| view.acked.sealed_at_us);
    let consistent_up_to_us = status.consistent_up_to_us.or(kept);
    let had_all_us = known.had_all_us.min(now_us);
    let consistent_up_to_us = consistent_up_to_us.map(|at| at.max(had_all_us));
    let caught_up_us = had_all_us
        .max(source.caught_up_us())
        .max(consistent_up_to_us.unwrap_or(0));
    let lag = lag(
        &store.points().journaled,
        &acked,
        caught_up_us.max(known.created_at_us),
        now_us,
    );
    let copied = consistent_up_to_us.is_some();
    let caught_up = copied && lag.records == 0 && is_connected(status);
    let consistent_up_to_us = if caught_up {
        Some(now_us)
    } else {
        consistent_up_to_us.filter(|at| *at > 0)
    };
    RemoteStatus {
        name: config.name.clone(),
        address: status.dialled.clone().unwrap_or_else(|| config.address.clone()),
        paired_with: status.paired_with.clone(),
        state: status.state,
        detail: Some(status.detail.clone()).filter(|detail| !detail.is_empty()),
        sent: status.sent_record.max(acked.record),
        received: status.received_record.max(acked.record),
        applied: status.applied_record,
        likely_behind: if copied {
            likely_behind(is_connected(status), store.opened().clean, &lag)
        } else if is_connected(status) {
            "yes: the copy is not complete".to_owned()
        } else {
            "certain: it has no complete copy and is not connected".to_owned()
        },
        rounds: None,
        merged_bytes: source.merged_bytes(),
        damaged: status.damaged,
        compression: status.compressed.map(|done| CompressionStatus {
            algorithm: done.algorithm.name().to_owned(),
            stream_bytes: done.before,
            wire_bytes: done.after,
        }),
        lag,
        consistent_up_to: consistent_up_to_us.and_then(timestamp),
        consistent: copied,
        copy: status.copy.map(|copy| CopyProgress {
            done_bytes: copy.done_bytes,
            total_bytes: copy.total_bytes,
            bytes_per_second: copy.rate_bytes_per_s,
        }),
        dirty_bytes: view.map_or(0, |view| view.dirty_bytes),
        history_room_bytes: status.history_room,
        forecast: None,
    }
}

fn is_connected(status: &LinkStatus) -> bool {
    matches!(status.state, LinkState::Streaming | LinkState::Copying)
}

/// What the remote has not confirmed; the time is since it was last known to have everything, at worst since the
/// volume was made.
fn lag(journaled: &ChainPoint, acked: &ChainPoint, caught_up_us: u64, now_us: u64) -> Lag {
    let records = journaled.record.saturating_sub(acked.record);
    let behind_us = if records == 0 {
        0
    } else {
        now_us.saturating_sub(caught_up_us.max(acked.sealed_at_us))
    };
    Lag {
        records,
        blocks: journaled.blocks.saturating_sub(acked.blocks),
        bytes: journaled.bytes.saturating_sub(acked.bytes),
        seconds: std::time::Duration::from_micros(behind_us).as_secs_f64(),
    }
}

pub(super) fn replica_status(replica: &Replica, link: Option<&ReplicaLink>) -> ReplicaStatus {
    let store = replica.store();
    let (points, copy, superblock) = (store.points(), store.copy_progress(), replica.opened_as());
    let problem = store
        .failure()
        .map(|failure| format!("{failure}; nothing more is received. Check the disk, then restart the unit"));
    let consistent = copy.state == CopyState::Complete && !store.is_replaying();
    let state = match (copy.state, problem.is_some()) {
        (_, true) => ReplicaState::Degraded,
        (CopyState::Empty, _) => ReplicaState::Empty,
        (CopyState::Copying, _) => ReplicaState::Copying,
        (CopyState::Complete, _) if consistent => ReplicaState::Consistent,
        (CopyState::Complete, _) => ReplicaState::Starting,
    };
    let copying = copy.state == CopyState::Copying;
    ReplicaStatus {
        name: store.name().to_owned(),
        volume_uuid: superblock.volume.to_string(),
        size_bytes: store.volume_bytes(),
        state,
        problem,
        source: link.map(|link| SourceStatus {
            unit: link.source_name.clone(),
            address: link.source_address.to_string(),
            paired_with: link.paired_with.clone(),
        }),
        connected: link.is_some(),
        received: points.durable.record,
        applied: points.applied.record,
        consistent,
        consistent_up_to: Some(points.applied.sealed_at_us)
            .filter(|at| consistent && *at > 0)
            .and_then(timestamp),
        copy: copying.then(|| CopyProgress {
            done_bytes: copy.durable,
            total_bytes: store.volume_bytes(),
            bytes_per_second: 0,
        }),
        journal: journal_status(store, superblock, replica.files()),
        image: ImageStatus {
            path: replica.files().image.display().to_string(),
        },
        history: history_summary(replica),
        connections: 0,
        clean_start: store.opened().clean,
        remotes: Vec::new(),
    }
}

/// A replica that is set aside.
pub(super) fn aside_status(aside: &AsideReplica) -> ReplicaStatus {
    let (record, time_us) = aside.detached_after.unwrap_or_default();
    ReplicaStatus {
        size_bytes: aside.bytes,
        consistent: aside.detached_after.is_some(),
        state: if aside.detached_after.is_some() {
            ReplicaState::Detached
        } else {
            ReplicaState::Seeded
        },
        received: record,
        applied: record,
        consistent_up_to: Some(time_us).filter(|at| *at > 0).and_then(timestamp),
        image: ImageStatus {
            path: aside.image.display().to_string(),
        },
        ..idle_replica_status(&aside.name, None)
    }
}

/// A replica that is being opened, or could not be.
pub(super) fn idle_replica_status(name: &str, problem: Option<&String>) -> ReplicaStatus {
    ReplicaStatus {
        name: name.to_owned(),
        volume_uuid: String::new(),
        size_bytes: 0,
        state: if problem.is_some() {
            ReplicaState::Failed
        } else {
            ReplicaState::Starting
        },
        problem: problem.cloned(),
        source: None,
        connected: false,
        received: 0,
        applied: 0,
        consistent: false,
        consistent_up_to: None,
        copy: None,
        journal: JournalStatus::default(),
        image: ImageStatus::default(),
        history: HistorySummary::default(),
        connections: 0,
        clean_start: false,
        remotes: Vec::new(),
    }
}
