//! What of a replica's directory handing it over reads and changes. The simulator brings a directory of its own, which dies
//! with its unit in the middle.

use super::notes::Owner;
use crate::replica::set::IMAGE;
use crate::replica::set::places::NEW_IMAGE;
use farside_storage::{
    FileDevice, Operation, StorageError, load_superblock, read_small_file, remove_file_durably, replace_file,
    sync_directory,
};
use std::fs::File;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use uuid::Uuid;

/// Another one each time the machine is started (random(4)).
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

/// What a file system knows of a file that is left alone. Its times may be lost with power, what was written need not be: so they
/// tell something only until the machine is started again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stamp {
    /// When its content was changed last, in nanoseconds since 1970.
    pub modified_ns: i128,
    /// The same for what is known of it.
    pub changed_ns: i128,
    /// The start of the machine at which that was so.
    pub boot: Uuid,
}

/// Whether a replica has its image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Image {
    /// It is there.
    There,
    /// There is none.
    Missing,
    /// It is on a disk that is not there; what to do.
    Elsewhere(String),
}

/// The files of one replica. What is changed is durable, and whole, when the call returns.
pub trait Shelf {
    /// How a person finds a file.
    fn name_of(&self, file: &str) -> String;
    /// Whether a file is there. One that cannot be looked at is none of ours.
    fn has(&self, file: &str) -> bool;
    /// A small file; `None` if there is none.
    ///
    /// # Errors
    /// [`StorageError`].
    fn read(&self, file: &str) -> Result<Option<Vec<u8>>, StorageError>;
    /// Writes a small file anew.
    ///
    /// # Errors
    /// [`StorageError`]; the old one stands.
    fn replace(&self, file: &str, content: &[u8]) -> Result<(), StorageError>;
    /// Removes a file, if it is there.
    ///
    /// # Errors
    /// [`StorageError`].
    fn remove(&self, file: &str) -> Result<(), StorageError>;
    /// Makes durable which files are there: a process that was killed may have left that to be lost with power.
    ///
    /// # Errors
    /// [`StorageError`].
    fn settle(&self) -> Result<(), StorageError>;
    /// Whether the image is there.
    fn image(&self) -> Image;
    /// What the file system says of the image now; `None` for a block device, or if nobody knows when the machine was
    /// started.
    ///
    /// # Errors
    /// [`StorageError`] when it is not there.
    fn stamp(&self) -> Result<Option<Stamp>, StorageError>;
    /// Whose replica it is, by its journal.
    ///
    /// # Errors
    /// [`StorageError`].
    fn owner(&self) -> Result<Owner, StorageError>;
}

/// The directory of a replica.
#[derive(Debug)]
pub(in crate::replica::set) struct Directory(PathBuf);

impl Directory {
    pub(in crate::replica::set) fn new(directory: &Path) -> Self {
        Self(directory.to_owned())
    }

    /// Removes what an import that was interrupted left.
    pub(in crate::replica::set) fn tidy_up(&self) {
        let _ = std::fs::remove_file(self.0.join(NEW_IMAGE));
    }
}

impl Shelf for Directory {
    fn name_of(&self, file: &str) -> String {
        self.0.join(file).display().to_string()
    }

    fn has(&self, file: &str) -> bool {
        self.0.join(file).try_exists().unwrap_or(false)
    }

    fn read(&self, file: &str) -> Result<Option<Vec<u8>>, StorageError> {
        read_small_file(&self.0.join(file))
    }

    fn replace(&self, file: &str, content: &[u8]) -> Result<(), StorageError> {
        replace_file(&self.0.join(file), content)
    }

    fn remove(&self, file: &str) -> Result<(), StorageError> {
        remove_file_durably(&self.0.join(file))
    }

    fn settle(&self) -> Result<(), StorageError> {
        sync_directory(&self.0)
    }

    fn image(&self) -> Image {
        let image = self.0.join(IMAGE);
        if image.exists() {
            Image::There
        } else if image.is_symlink() {
            Image::Elsewhere(format!(
                "its image {} is not there; mount what holds it, and reload the unit (SIGHUP)",
                image.display()
            ))
        } else {
            Image::Missing
        }
    }

    fn stamp(&self) -> Result<Option<Stamp>, StorageError> {
        let image = self.0.join(IMAGE);
        let failed = |source| StorageError::Io {
            operation: Operation::Open,
            name: image.display().to_string(),
            offset: 0,
            source,
        };
        let found = std::fs::metadata(&image).map_err(failed)?;
        let boot = std::fs::read_to_string(BOOT_ID)
            .ok()
            .and_then(|text| text.trim().parse().ok());
        let Some(boot) = boot.filter(|_| found.is_file()) else {
            return Ok(None);
        };
        let nanos = |seconds: i64, nanos: i64| i128::from(seconds) * 1_000_000_000 + i128::from(nanos);
        Ok(Some(Stamp {
            modified_ns: nanos(found.mtime(), found.mtime_nsec()),
            changed_ns: nanos(found.ctime(), found.ctime_nsec()),
            boot,
        }))
    }

    fn owner(&self) -> Result<Owner, StorageError> {
        let path = self.0.join("journal");
        let opened = File::open(&path).map_err(|source| StorageError::Io {
            operation: Operation::Open,
            name: path.display().to_string(),
            offset: 0,
            source,
        });
        let superblock = load_superblock(&FileDevice::new(opened?, &path)?)?;
        Ok(Owner {
            volume: superblock.volume,
            unit: superblock.source,
            bytes: superblock.volume_bytes,
        })
    }
}
