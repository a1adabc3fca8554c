//! A journal of another size that holds what the old one held.
//!
//! Addresses count the bytes of the ring since its creation and segments stay as large as they are, so that only the place of a segment in
//! the file changes: every position, here and at remotes, means what it meant. The new file is complete and durable before it gets the
//! name of the old.

use crate::FileDevice;
use crate::device::{Device, Kind};
use crate::error::{Operation, StorageError};
use crate::files::{create_file, lock, open_device, reserve};
use crate::journal::{Layout, load_superblock_for_use, recover, store_superblock};
use crate::limits::{FILL_JOURNAL_BYTES, HIGH_WATER_PERCENT, REWRITE_BYTES};
use crate::small_file::sync_directory;
use crate::store::window_segments;
use farside_protocol::journal::limits::{MIN_SEGMENTS, RING_OFFSET};
use farside_protocol::journal::{ChainPoint, Role, Superblock};
use std::io::IoSlice;
use std::path::{Path, PathBuf};

/// What became of a wish for another size.
#[derive(Debug)]
pub enum Resized {
    /// The journal has it now.
    Done,
    /// It had it already; or it is not that volume's, which is for whoever opens it to say.
    AsItWas,
    /// It is as it was, and cannot have that size now; the error names the file and the remedy.
    Refused(StorageError),
}

/// Gives the journal of a volume that is not in use another size, rounded down to whole segments. Blocks for as long as it takes to
/// copy what it holds, and to reserve the rest.
///
/// # Errors
/// [`StorageError`]: it is not known which of the two will be found after a loss of power. It must not be used before that is.
pub fn resize_journal(path: &Path, volume: &str, bytes: u64) -> Result<Resized, StorageError> {
    match replace_journal(path, volume, bytes) {
        Ok(None) => Ok(Resized::AsItWas),
        Ok(Some(path)) => {
            sync_directory(path.parent().unwrap_or(Path::new(".")))?;
            Ok(Resized::Done)
        }
        Err(error) => Ok(Resized::Refused(error)),
    }
}

/// The journal, which may be a symbolic link, if there is another in its place now.
fn replace_journal(path: &Path, volume: &str, bytes: u64) -> Result<Option<PathBuf>, StorageError> {
    let found = path.canonicalize();
    let path =
        found.map_err(|error| StorageError::io(Operation::Open, &path.display().to_string(), 0, error))?;
    let resized = beside(&path);
    let old = open_device(&path, true)?;
    lock(&old)?;
    let superblock = load_superblock_for_use(&old)?;
    if superblock.role != Role::Volume || superblock.name != volume {
        return Ok(None);
    }
    // What an attempt left that was cut short.
    if resized.exists() {
        remove(&resized)?;
    }
    let mut wanted = superblock.clone();
    let segments = bytes.saturating_sub(RING_OFFSET) / u64::from(superblock.segment_bytes);
    wanted.segment_count = u32::try_from(segments).unwrap_or(u32::MAX);
    wanted.window_segments = window_segments(wanted.segment_bytes, wanted.segment_count);
    if wanted.segment_count == superblock.segment_count {
        return Ok(None);
    }
    if old.kind() == Kind::BlockDevice {
        let text = "is a block device: a journal there keeps the size it was made with";
        return Err(StorageError::refused(old.name(), text));
    }
    let head = recover(&old, &superblock)?.head;
    check_room(&old, &wanted, &head)?;
    let made = make(&resized, (&old, &superblock), wanted, &head).and_then(|()| {
        std::fs::rename(&resized, &path)
            .map_err(|error| StorageError::io(Operation::Open, old.name(), 0, error))
    });
    if made.is_err() {
        let _ = std::fs::remove_file(&resized);
    }
    made.map(|()| Some(path))
}

fn beside(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".resized");
    PathBuf::from(name)
}

fn remove(path: &Path) -> Result<(), StorageError> {
    let removed = std::fs::remove_file(path);
    removed.map_err(|error| StorageError::io(Operation::Open, &path.display().to_string(), 0, error))
}

/// Less room than would let go of remotes at once is refused: what is held for them is not to be lost.
fn check_room(old: &FileDevice, wanted: &Superblock, head: &ChainPoint) -> Result<(), StorageError> {
    let layout = Layout::of(wanted);
    let held = head.address - wanted.tail.address;
    // The segments in which it begins and ends count whole, and one is written next.
    let needed = (held + 3 * layout.segment_bytes) * 100 / HIGH_WATER_PERCENT;
    if needed <= layout.ring_bytes() && wanted.segment_count >= MIN_SEGMENTS {
        return Ok(());
    }
    let least = needed.max(layout.segment_bytes * u64::from(MIN_SEGMENTS)) + RING_OFFSET;
    let text = format!(
        "keeps its size: it holds {held} bytes that are still needed, and has to have {} at least; set journal_size to that, or \
         try again when the remotes have more of it",
        least.next_multiple_of(1 << 20)
    );
    Err(StorageError::refused(old.name(), text))
}

/// The new file, with everything between tail and head in its new place.
fn make(
    path: &Path,
    (old, superblock): (&FileDevice, &Superblock),
    mut wanted: Superblock,
    head: &ChainPoint,
) -> Result<(), StorageError> {
    let new = FileDevice::new(create_file(path)?, path)?;
    lock(&new)?;
    let bytes = wanted.journal_bytes();
    reserve(&new, bytes)?;
    if bytes <= FILL_JOURNAL_BYTES {
        new.write_zeroes(0, bytes)?;
    }
    let (from, to) = (Layout::of(superblock), Layout::of(&wanted));
    let mut buffer = vec![0; REWRITE_BYTES.min(usize::try_from(from.segment_bytes).unwrap_or(REWRITE_BYTES))];
    for segment in from.segment_of(wanted.tail.address)..=from.segment_of(head.address) {
        let (mut at, end) = (from.segment_start(segment), from.segment_start(segment + 1));
        while at < end {
            let length = usize::try_from(end - at).unwrap_or(usize::MAX).min(buffer.len());
            let part = &mut buffer[..length];
            old.read_at(part, from.file_offset(at))?;
            new.write_at(&mut [IoSlice::new(part)], to.file_offset(at))?;
            at += length as u64;
        }
    }
    for _ in 0..2 {
        wanted.generation += 1;
        store_superblock(&new, &wanted)?;
    }
    new.sync_with_attributes()
}
