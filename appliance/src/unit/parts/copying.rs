//! Copies of disks into files, with holes where they are zero, told about as they go on.

use super::error::PartError;
use super::past::House;
use crate::unit::limits::COPY_STEP_BYTES;
use farside_protocol::control::{ErrorCode, Progress};
use std::fs::{File, OpenOptions};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

/// What can be copied.
pub(super) trait Content: Send + 'static {
    fn bytes(&self) -> u64;

    fn read(&self, offset: u64, buffer: &mut [u8]) -> Result<(), anyhow::Error>;

    /// Up to where nothing but zeroes is known to be; `offset` if that is not known.
    fn zero_until(&self, offset: u64) -> Result<u64, anyhow::Error> {
        Ok(offset)
    }

    /// Why it cannot be read any more.
    fn is_gone(&self) -> Option<&'static str> {
        None
    }
}

/// Copies in the background until `told` is dropped or the unit stops. What `finish` makes of the outcome is told last; it may
/// wait for disks.
pub(super) fn copy_out<C: Content>(
    house: &House,
    content: C,
    file: File,
    finish: impl FnOnce(Result<(), anyhow::Error>, &C) -> Progress + Send + 'static,
) -> mpsc::Receiver<Progress> {
    let (tell, told) = mpsc::channel(4);
    let stop = house.stop.clone();
    house.tasks.spawn(async move {
        let (teller, stopped) = (tell.clone(), stop.clone());
        let copied = tokio::task::spawn_blocking(move || {
            let copied = copy(&content, &file, &teller, &stopped);
            drop(file);
            finish(copied, &content)
        });
        let last = copied.await.unwrap_or_else(|error| Progress::Failed {
            message: error.to_string(),
        });
        // Whoever listens and does not read holds up nothing.
        tokio::select! {
            _ = tell.send(last) => {}
            () = stop.cancelled() => {}
        }
    });
    told
}

fn copy<C: Content>(
    content: &C,
    file: &File,
    tell: &mpsc::Sender<Progress>,
    stop: &CancellationToken,
) -> Result<(), anyhow::Error> {
    let total_bytes = content.bytes();
    if file.metadata()?.is_file() {
        file.set_len(total_bytes)?;
    }
    let mut buffer = vec![0; COPY_STEP_BYTES];
    let mut at = 0;
    while at < total_bytes {
        if tell.is_closed() || stop.is_cancelled() {
            anyhow::bail!("it was interrupted");
        }
        if let Some(why) = content.is_gone() {
            anyhow::bail!(why);
        }
        let zero = content.zero_until(at)?.min(total_bytes);
        if zero > at {
            at = zero;
            continue;
        }
        let length = usize::try_from(total_bytes - at)
            .unwrap_or(usize::MAX)
            .min(buffer.len());
        let part = &mut buffer[..length];
        content.read(at, part)?;
        for (block, offset) in part.chunks(4096).zip((at..).step_by(4096)) {
            // What is zero stays a hole.
            if block.iter().any(|byte| *byte != 0) {
                file.write_all_at(block, offset)?;
            }
        }
        at += length as u64;
        // Somebody who reads slowly misses some of it.
        let _ = tell.try_send(Progress::Copied {
            done_bytes: at,
            total_bytes,
        });
    }
    rustix::fs::fsync(file)?;
    Ok(())
}

/// A file that was not there before.
pub(super) fn new_file(path: &str) -> Result<(PathBuf, File), PartError> {
    let path = absolute(path)?;
    let made = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&path);
    let file = made.map_err(|error| {
        PartError::conflict(format!(
            "{} cannot be made: {error}; name a new file",
            path.display()
        ))
    })?;
    Ok((path, file))
}

/// What is told of a file that did not come about, which is removed.
pub(super) fn not_made(path: &Path, error: &anyhow::Error) -> Progress {
    std::fs::remove_file(path).ok();
    let message = format!("{} is not made: {error}", path.display());
    Progress::Failed { message }
}

pub(super) fn absolute(path: &str) -> Result<PathBuf, PartError> {
    let path = PathBuf::from(path);
    if path.is_absolute() {
        return Ok(path);
    }
    Err(PartError {
        code: ErrorCode::BadRequest,
        message: format!(
            "{} is no absolute path; the unit runs elsewhere than you",
            path.display()
        ),
    })
}
