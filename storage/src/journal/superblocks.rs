//! Loading and storing the two copies of the superblock.

use crate::device::Device;
use crate::error::StorageError;
use farside_protocol::journal::limits::{BLOCK_BYTES, SUPERBLOCK_OFFSETS};
use farside_protocol::journal::{FormatError, JOURNAL_VERSION, Superblock};
use std::io::IoSlice;

/// The newest valid copy.
///
/// # Errors
/// [`StorageError`] when neither copy is valid: it names what is wrong and what to do.
pub fn load_superblock(device: &dyn Device) -> Result<Superblock, StorageError> {
    let mut newest: Option<Superblock> = None;
    let mut worst: Option<FormatError> = None;
    for offset in SUPERBLOCK_OFFSETS {
        let mut block = [0_u8; BLOCK_BYTES];
        device.read_at(&mut block, offset)?;
        match Superblock::decode(&block) {
            Ok(superblock)
                if newest
                    .as_ref()
                    .is_none_or(|found| found.generation < superblock.generation) =>
            {
                newest = Some(superblock);
            }
            Ok(_) => {}
            // An intact copy of a newer version: the other copy, even if ours, is out of date.
            Err(version @ FormatError::Version(..)) => {
                return Err(StorageError::format(device.name(), offset, version));
            }
            // A copy that once was ours says more than one that never was.
            Err(error) => {
                let error = claimed_version(&block).unwrap_or(error);
                worst = worst.filter(|worst| *worst != FormatError::Magic).or(Some(error));
            }
        }
    }
    match (newest, worst) {
        (None, Some(version @ FormatError::Version(..))) => {
            Err(StorageError::format(device.name(), 0, version))
        }
        (Some(superblock), _) => Ok(superblock),
        (None, Some(FormatError::Magic)) => Err(StorageError::refused(
            device.name(),
            "is not a Farside journal; give another path, or `--force` to overwrite what is there",
        )),
        (None, error) => Err(StorageError::damaged(
            device.name(),
            0,
            format!(
                "both copies of the superblock are unreadable ({}); restore the file, or remove the volume and \
                 create it again from the remote's copy",
                error.map_or_else(|| "empty".to_owned(), |error| error.to_string())
            ),
        )),
    }
}

fn claimed_version(block: &[u8]) -> Option<FormatError> {
    let version = Superblock::claimed_version(block).filter(|version| *version > JOURNAL_VERSION)?;
    Some(FormatError::Version(version, JOURNAL_VERSION))
}

/// Writes one copy, in turn with the other; the caller syncs.
///
/// # Errors
/// [`StorageError::Io`].
pub(crate) fn store_superblock(device: &dyn Device, superblock: &Superblock) -> Result<(), StorageError> {
    let block = superblock.encode();
    let copy = usize::from(superblock.generation % 2 == 1);
    device.write_at(&mut [IoSlice::new(block.as_slice())], SUPERBLOCK_OFFSETS[copy])
}
