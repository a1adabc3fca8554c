//! The file of a ring: made whole or not at all, locked while it is in use.

use super::{History, format_history};
use crate::device::FileDevice;
use crate::error::{Operation, StorageError};
use crate::files::{create_file, lock, open_device, reserve};
use crate::limits::{MAX_JOURNAL_BYTES, MIN_HISTORY_BYTES};
use crate::small_file::sync_directory;
use crate::store::Store;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Keeps what the image of `store` held before in the ring at `path`, which is made with `bytes` if it is not there, and anew if it
/// cannot be used. Once, before anything moves.
///
/// # Errors
/// [`StorageError`]: nothing is kept.
pub fn keep_history(store: &Store, path: &Path, bytes: u64) -> Result<(), StorageError> {
    if !path.exists() {
        make(store, path, bytes)?;
    }
    let opened = open(store, path).or_else(|error| {
        if !error.is_lost_content() {
            return Err(error);
        }
        tracing::warn!("{error}; the history begins anew");
        make(store, path, bytes)?;
        open(store, path)
    });
    store.keep_history(Arc::new(opened?))
}

fn open(store: &Store, path: &Path) -> Result<History, StorageError> {
    let device = open_device(path, true)?;
    lock(&device)?;
    History::open(Arc::new(device), &store.superblock(), &store.points())
}

fn make(store: &Store, path: &Path, bytes: u64) -> Result<(), StorageError> {
    let name = path.display().to_string();
    if !(MIN_HISTORY_BYTES..=MAX_JOURNAL_BYTES).contains(&bytes) {
        let text = format!("a history of {bytes} bytes; use {MIN_HISTORY_BYTES} to {MAX_JOURNAL_BYTES}");
        return Err(StorageError::refused(&name, text));
    }
    let mut new = path.as_os_str().to_owned();
    new.push(".new");
    let new = PathBuf::from(new);
    let _ = std::fs::remove_file(&new);
    let made = fill(store, &new, bytes).and_then(|()| {
        let renamed = std::fs::rename(&new, path);
        renamed.map_err(|error| StorageError::io(Operation::Open, &name, 0, error))?;
        sync_directory(path.parent().unwrap_or(Path::new(".")))
    });
    if made.is_err() {
        let _ = std::fs::remove_file(&new);
    }
    made
}

fn fill(store: &Store, path: &Path, bytes: u64) -> Result<(), StorageError> {
    let device = FileDevice::new(create_file(path)?, path)?;
    reserve(&device, bytes)?;
    format_history(&device, &store.superblock(), bytes, store.clock().wall_us())
}
