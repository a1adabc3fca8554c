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
        read_block(device, &mut block, offset)?;
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
        (None, Some(FormatError::Magic)) => {
            Err(StorageError::lost(device.name(), "is not a Farside journal"))
        }
        (None, error) => Err(StorageError::damaged(
            device.name(),
            0,
            format!(
                "both copies of the superblock are unreadable ({}); restore the file",
                error.map_or_else(|| "empty".to_owned(), |error| error.to_string())
            ),
        )),
    }
}

/// As [`load_superblock`], for a store that goes into service: a copy that cannot be read is reported, because the
/// other one is all that is left until the next checkpoint.
///
/// # Errors
/// As [`load_superblock`].
pub(crate) fn load_superblock_for_use(device: &dyn Device) -> Result<Superblock, StorageError> {
    let superblock = load_superblock(device)?;
    for (copy, offset, problem) in damaged_copies(device)? {
        tracing::warn!(
            "{}: the {copy} copy of the superblock, at byte {offset}, is damaged ({problem}); the other one is used and \
             the damaged one is written anew. After a power loss that is in order, otherwise check the disk",
            device.name()
        );
    }
    Ok(superblock)
}

/// Which copies cannot be read: their name, place and problem.
fn damaged_copies(device: &dyn Device) -> Result<Vec<(&'static str, u64, FormatError)>, StorageError> {
    let mut damaged = Vec::new();
    for (copy, offset) in ["first", "second"].into_iter().zip(SUPERBLOCK_OFFSETS) {
        let mut block = [0_u8; BLOCK_BYTES];
        read_block(device, &mut block, offset)?;
        if let Err(problem) = Superblock::decode(&block) {
            damaged.push((copy, offset, problem));
        }
    }
    Ok(damaged)
}

fn read_block(device: &dyn Device, block: &mut [u8], offset: u64) -> Result<(), StorageError> {
    device.read_at(block, offset).map_err(|error| match error {
        StorageError::Io { source, .. } if source.kind() == std::io::ErrorKind::UnexpectedEof => {
            StorageError::lost(device.name(), "is too short for a journal; restore it")
        }
        error => error,
    })
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::FileDevice;
    use crate::store::{Store, StoreParameters};
    use farside_protocol::journal::Role;
    use std::os::unix::fs::FileExt;
    use uuid::Uuid;

    #[test]
    fn a_damaged_copy_is_found_and_told_apart_and_a_short_file_is_called_short() {
        let parameters = StoreParameters {
            role: Role::Volume,
            name: "disk".to_owned(),
            volume: Uuid::from_u128(1),
            journal: Uuid::from_u128(2),
            volume_bytes: 1 << 20,
            journal_bytes: 2 << 20,
            segment_bytes: None,
            source: Uuid::nil(),
        };
        for (bad, word) in [(0, "first"), (1, "second")] {
            let file = tempfile::tempfile().unwrap();
            file.set_len(2 << 20).unwrap();
            let device = FileDevice::new(file.try_clone().unwrap(), "journal".as_ref()).unwrap();
            Store::format(&device, &parameters, 1).unwrap();
            assert!(damaged_copies(&device).unwrap().is_empty());
            file.write_all_at(&[0xa5; 4096], SUPERBLOCK_OFFSETS[bad]).unwrap();
            let found = damaged_copies(&device).unwrap();
            assert_eq!(found.len(), 1);
            assert_eq!((found[0].0, found[0].1), (word, SUPERBLOCK_OFFSETS[bad]));
            load_superblock_for_use(&device).unwrap();
            file.set_len(100).unwrap();
            let short = load_superblock(&device).unwrap_err().to_string();
            assert_eq!(short, "journal: is too short for a journal; restore it");
        }
    }
}
