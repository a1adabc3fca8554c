//! Comparing a volume with its remotes: runs are begun, watched over and told about.

use super::error::PartError;
use super::sending::Link;
use super::status::timestamp;
use super::volume::Volume;
use crate::link::{LinkState, Verification, VerifyProgress, VerifyState};
use crate::targets::Disk as _;
use crate::unit::limits::REPAIR_BYTES;
use crate::volume::Volume as Disk;
use bytes::Bytes;
use farside_protocol::control::{
    ChangedRange, ErrorCode, RemoteVerify, StartVerify, VerifyPhase, VerifyStatus,
};
use std::ops::Range;
use std::sync::Arc;

impl Volume {
    /// Begins to compare, with one remote or all.
    pub(crate) fn start_verify(&self, start: &StartVerify) -> Result<VerifyStatus, PartError> {
        let disk = &self.disk().volume;
        let now_us = disk.store().clock().wall_us();
        let bytes = disk.store().volume_bytes();
        {
            let mut links = self.disk().links.links.lock();
            let wanted = |name: &str| start.remote.as_deref().is_none_or(|remote| remote == name);
            refuse_unfit(self.name(), start, links.iter().filter(|(name, _)| wanted(name)))?;
            for (name, link) in links.iter_mut().filter(|(name, _)| wanted(name)) {
                let verification = link.verification.clone();
                // Nobody else begins one: the links are locked, and none was under way.
                if verification.start(bytes, start.repair, now_us).is_ok() {
                    tracing::info!(
                        volume = self.name(),
                        remote = name,
                        repair = start.repair,
                        "verify begins"
                    );
                    let watched = watch(disk.clone(), verification, name.clone());
                    // One of a run that was stopped may still be at a repair.
                    if let Some(before) = link.verifying.replace(tokio::spawn(watched)) {
                        before.abort();
                    }
                }
            }
        }
        self.verify_status(start.remote.as_deref())
    }

    /// Ends what is under way.
    pub(crate) fn stop_verify(&self, remote: Option<&str>) -> Result<VerifyStatus, PartError> {
        let now_us = self.disk().volume.store().clock().wall_us();
        let mut stopped = 0;
        for (name, link) in self.disk().links.links.lock().iter() {
            let wanted = remote.is_none_or(|remote| remote == name);
            stopped += u32::from(wanted && link.verification.stop(now_us));
        }
        if stopped == 0 {
            let message = format!("no verify of volume {} is under way", self.name());
            return Err(PartError {
                code: ErrorCode::Conflict,
                message,
            });
        }
        self.verify_status(remote)
    }

    /// What was found, and what is under way.
    pub(crate) fn verify_status(&self, remote: Option<&str>) -> Result<VerifyStatus, PartError> {
        let now_us = self.disk().volume.store().clock().wall_us();
        let links = self.disk().links.links.lock();
        let wanted = links
            .iter()
            .filter(|(name, _)| remote.is_none_or(|remote| remote == *name));
        let remotes: Vec<RemoteVerify> = wanted
            .map(|(name, link)| remote_verify(name, link, now_us))
            .collect();
        if remotes.is_empty() {
            return Err(nothing_to_compare(self.name(), remote));
        }
        let all = remotes.iter().map(|remote| remote.identical);
        Ok(VerifyStatus {
            volume: self.name().to_owned(),
            identical: all
                .collect::<Option<Vec<bool>>>()
                .map(|all| !all.contains(&false)),
            remotes,
        })
    }
}

fn refuse_unfit<'a>(
    volume: &str,
    start: &StartVerify,
    links: impl Iterator<Item = (&'a String, &'a Link)>,
) -> Result<(), PartError> {
    let mut any = false;
    let conflict = |message: String| {
        Err(PartError {
            code: ErrorCode::Conflict,
            message,
        })
    };
    for (name, link) in links {
        any = true;
        if link.sender.is_none() {
            return conflict(format!(
                "remote {name} of volume {volume}: {}",
                link.status().detail
            ));
        }
        if link.verification.progress().state == VerifyState::Running {
            return conflict(format!(
                "a verify of volume {volume} with remote {name} is under way; 'farside verify --status' shows it, \
                 'farside verify --stop' ends it"
            ));
        }
    }
    if any {
        return Ok(());
    }
    Err(nothing_to_compare(volume, start.remote.as_deref()))
}

fn nothing_to_compare(volume: &str, remote: Option<&str>) -> PartError {
    let message = match remote {
        Some(remote) => format!(
            "volume {volume} has no remote '{}'; see 'farside status'",
            remote.escape_default()
        ),
        None => format!("volume {volume} has no remote to be compared with"),
    };
    PartError {
        code: ErrorCode::NotFound,
        message,
    }
}

/// Writes once more what has to be, and ends the run when there is nothing left to do.
async fn watch(disk: Arc<Disk>, verification: Arc<Verification>, remote: String) {
    let mut changed = verification.changed();
    loop {
        changed.mark_unchanged();
        while let Some(range) = verification.take_repair() {
            let rewritten = rewrite(&disk, range.clone()).await;
            if let Err(error) = &rewritten {
                tracing::error!(
                    volume = disk.store().name(),
                    remote,
                    offset = range.start,
                    "not repaired: {error}"
                );
            }
            verification.repaired(rewritten.is_ok());
        }
        if verification.finish(disk.store().clock().wall_us()) {
            report(&disk, &remote, &verification.progress());
        }
        if verification.progress().state != VerifyState::Running {
            return;
        }
        // The channel lives as long as what it belongs to, which is held here.
        let _ = changed.changed().await;
    }
}

fn report(disk: &Disk, remote: &str, found: &VerifyProgress) {
    let volume = disk.store().name();
    let (compared, differing) = (found.compared_bytes, found.differing_bytes);
    if found.is_identical() {
        let repaired = found.repaired_bytes;
        tracing::info!(
            volume,
            remote,
            compared,
            repaired,
            "verified: both sides are the same"
        );
    } else {
        tracing::error!(
            volume,
            remote,
            compared,
            differing,
            repaired = found.repaired_bytes,
            "verified: the sides differ; 'farside verify --status' names the ranges, 'farside verify --repair' sends \
             them again"
        );
    }
}

/// Writes what is there once more: as a record like any other it reaches every remote in its place.
async fn rewrite(disk: &Arc<Disk>, range: Range<u64>) -> Result<(), crate::targets::DiskError> {
    let mut at = range.start;
    while at < range.end {
        let length = (range.end - at).min(REPAIR_BYTES);
        disk.modify(at, length, |found| Some(Bytes::copy_from_slice(found)))
            .await?;
        at += length;
    }
    Ok(())
}

fn remote_verify(name: &str, link: &Link, now_us: u64) -> RemoteVerify {
    let status = link.status();
    let found = link.verification.progress();
    let running = found.state == VerifyState::Running;
    let waits = running && status.state != LinkState::Streaming;
    let micros = found
        .ended_us
        .unwrap_or(now_us)
        .saturating_sub(found.began_us)
        .max(1);
    let speed = u128::from(found.compared_bytes) * 1_000_000 / u128::from(micros);
    let begun = found.state != VerifyState::Never;
    RemoteVerify {
        remote: name.to_owned(),
        state: match found.state {
            VerifyState::Never => VerifyPhase::Never,
            VerifyState::Running => VerifyPhase::Running,
            VerifyState::Done => VerifyPhase::Done,
            VerifyState::Stopped => VerifyPhase::Stopped,
        },
        detail: if waits {
            Some(format!(
                "waits until the remote follows: the link is {}",
                status.state.word()
            ))
        } else {
            Some(status.detail).filter(|_| link.sender.is_none())
        },
        identical: match found.state {
            VerifyState::Done => Some(found.is_identical()),
            // What was found stays found, also of one that was stopped.
            VerifyState::Stopped if found.repaired_bytes < found.differing_bytes => Some(false),
            _ => None,
        },
        began: timestamp(found.began_us).filter(|_| begun),
        ended: found.ended_us.and_then(timestamp),
        total_bytes: found.total_bytes,
        compared_bytes: found.compared_bytes,
        bytes_per_second: u64::try_from(speed).unwrap_or(u64::MAX),
        first_record: found.records.map(|(first, _)| first),
        last_record: found.records.map(|(_, last)| last),
        differing_bytes: found.differing_bytes,
        differing: found.differing.iter().map(ranges).collect(),
        repaired_bytes: found.repaired_bytes,
    }
}

fn ranges(range: &Range<u64>) -> ChangedRange {
    ChangedRange {
        offset: range.start,
        length: range.end - range.start,
    }
}
