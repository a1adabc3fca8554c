//! The narrow door to disks: one trait, and its implementation on files and block devices.
//!
//! Guarantees: a read or write is whole or an error; nothing is retried after a failed sync. The simulator
//! implements the same trait with a disk that loses, tears and reorders what was not synced.

use crate::error::{Operation, StorageError};
use crate::limits::ZERO_BUFFER_BYTES;
use std::fmt::Debug;
use std::fs::File;
use std::io::{self, IoSlice, IoSliceMut};
use std::ops::Range;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, FileTypeExt};
use std::path::{Path, PathBuf};

/// What lies behind a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A regular file.
    File,
    /// A whole disk or partition.
    BlockDevice,
}

/// A stretch of a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Extent {
    /// First byte.
    pub offset: u64,
    /// Number of bytes.
    pub length: u64,
    /// Whether it may hold anything but zeroes.
    pub data: bool,
}

/// A disk as the storage layer sees it. All methods may be called from many threads.
pub trait Device: Debug + Send + Sync {
    /// Name for messages, usually the path.
    fn name(&self) -> &str;

    /// Fills `buffer` from `offset`.
    ///
    /// # Errors
    /// [`StorageError::Io`], also when the device ends first.
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<(), StorageError>;

    /// Fills `buffer` if that needs no waiting for the disk; `Ok(false)` when it would.
    ///
    /// # Errors
    /// As [`read_at`](Self::read_at).
    fn read_cached_at(&self, buffer: &mut [u8], offset: u64) -> Result<bool, StorageError> {
        self.read_at(buffer, offset).map(|()| true)
    }

    /// Writes all buffers one after another from `offset`.
    ///
    /// # Errors
    /// [`StorageError::Io`]; an unknown part may have been written.
    fn write_at(&self, buffers: &mut [IoSlice<'_>], offset: u64) -> Result<(), StorageError>;

    /// Makes the range read as zeroes; with `allocate` its space stays reserved.
    ///
    /// # Errors
    /// [`StorageError::Io`]; an unknown part may have been zeroed.
    fn zero_at(&self, offset: u64, length: u64, allocate: bool) -> Result<(), StorageError>;

    /// Takes the size of a volume of so many bytes; durable with the next sync. False: whatever is there stays there, and
    /// zeroes have to be written to what is new.
    ///
    /// # Errors
    /// [`StorageError`], also when there is not so much room.
    fn make_room(&self, volume_bytes: u64) -> Result<bool, StorageError> {
        let text = format!("cannot take the size of a volume of {volume_bytes} bytes");
        Err(StorageError::refused(self.name(), text))
    }

    /// Brings what was written to the range to the disk, if it can, without making it durable: so that a later
    /// [`sync`](Self::sync) has less to do.
    ///
    /// # Errors
    /// [`StorageError::Io`]: as that of a sync, which would not report it any more.
    fn write_back(&self, _range: Range<u64>) -> Result<(), StorageError> {
        Ok(())
    }

    /// What is kept in memory of a range that is durable need not be: the next read should be of the disk itself.
    fn forget(&self, _range: Range<u64>) {}

    /// Makes everything written before durable.
    ///
    /// # Errors
    /// [`StorageError::Io`]: what was written since the last success may be lost, for good.
    fn sync(&self) -> Result<(), StorageError>;

    /// The stretch of data or hole that starts at `offset`, at most to `end`.
    ///
    /// # Errors
    /// [`StorageError::Io`].
    fn extent_at(&self, offset: u64, end: u64) -> Result<Extent, StorageError> {
        Ok(Extent {
            offset,
            length: end.saturating_sub(offset),
            data: true,
        })
    }
}

/// A regular file or block device.
#[derive(Debug)]
pub struct FileDevice {
    file: File,
    path: PathBuf,
    name: String,
    kind: Kind,
    /// Whether the system has the call that writes back a range.
    writes_back: bool,
}

impl FileDevice {
    /// Wraps an open file.
    ///
    /// # Errors
    /// [`StorageError`] when it is neither a regular file nor a block device.
    pub fn new(file: File, path: &Path) -> Result<Self, StorageError> {
        let name = path.display().to_string();
        let kind = file
            .metadata()
            .map_err(|error| StorageError::io(Operation::Open, &name, 0, error))?
            .file_type();
        let kind = match (kind.is_file(), kind.is_block_device()) {
            (true, _) => Kind::File,
            (_, true) => Kind::BlockDevice,
            _ => {
                return Err(StorageError::refused(
                    &name,
                    "is neither a regular file nor a block device",
                ));
            }
        };
        let ask = || sync_file_range(&file, &(0..1), libc::SYNC_FILE_RANGE_WAIT_BEFORE);
        // A lost write of whoever used the file before is reported to the next who opens it. It says nothing about what is
        // written from now on, and a store writes anew what was not synced before.
        let earlier = ask();
        // Sandboxes may lack the call. Asked once, here: later an error is one of the disk.
        let writes_back = ask().is_ok();
        if writes_back && let Err(error) = earlier {
            tracing::warn!("{name} lost something that was written before it was opened: {error}");
        }
        Ok(Self {
            writes_back,
            file,
            path: path.to_owned(),
            name,
            kind,
        })
    }

    /// File or block device.
    #[must_use]
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// The open file, for locks and attributes.
    #[must_use]
    pub fn file(&self) -> &File {
        &self.file
    }

    /// The path it was opened by.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Size in bytes.
    ///
    /// # Errors
    /// [`StorageError::Io`].
    pub fn size_bytes(&self) -> Result<u64, StorageError> {
        let size = rustix::fs::seek(&self.file, rustix::fs::SeekFrom::End(0));
        size.map_err(|error| self.error(Operation::Read, 0, error.into()))
    }

    /// Makes content, size and attributes durable; [`Device::sync`] leaves attributes out.
    ///
    /// # Errors
    /// [`StorageError::Io`].
    pub fn sync_with_attributes(&self) -> Result<(), StorageError> {
        rustix::fs::fsync(&self.file).map_err(|error| self.error(Operation::Sync, 0, error.into()))
    }

    fn error(&self, operation: Operation, offset: u64, source: io::Error) -> StorageError {
        StorageError::io(operation, &self.name, offset, source)
    }

    /// Refuses a device that is too small.
    pub fn check_holds(&self, needed: u64) -> Result<(), StorageError> {
        let size = self.size_bytes()?;
        if size < needed {
            let text = format!(
                "has {size} bytes, the volume needs {needed}; give a larger device or a smaller size"
            );
            return Err(StorageError::refused(self.name(), text));
        }
        Ok(())
    }

    pub(crate) fn write_zeroes(&self, mut offset: u64, mut length: u64) -> Result<(), StorageError> {
        let zeroes = vec![
            0_u8;
            usize::try_from(length)
                .unwrap_or(usize::MAX)
                .min(ZERO_BUFFER_BYTES)
        ];
        while length > 0 {
            let count = usize::try_from(length).unwrap_or(usize::MAX).min(zeroes.len());
            self.file
                .write_all_at(&zeroes[..count], offset)
                .map_err(|error| self.error(Operation::Zero, offset, error))?;
            offset += count as u64;
            length -= count as u64;
        }
        Ok(())
    }
}

/// Writes the dirty pages of a range and waits for them, as `flags` say. The kernel reports an error of writing once for each
/// open file, wherever in it, so whoever is told here is the only one, whatever error it is.
#[expect(unsafe_code, reason = "no crate wraps this call")]
fn sync_file_range(file: &File, range: &Range<u64>, flags: u32) -> io::Result<()> {
    let (Ok(start), Ok(length)) = (range.start.try_into(), (range.end - range.start).try_into()) else {
        return Ok(());
    };
    // SAFETY: the call takes numbers only, and the file is open.
    match unsafe { libc::sync_file_range(file.as_raw_fd(), start, length, flags) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

impl Device for FileDevice {
    fn name(&self) -> &str {
        &self.name
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<(), StorageError> {
        self.file
            .read_exact_at(buffer, offset)
            .map_err(|error| self.error(Operation::Read, offset, error))
    }

    fn read_cached_at(&self, buffer: &mut [u8], offset: u64) -> Result<bool, StorageError> {
        let flags = rustix::io::ReadWriteFlags::NOWAIT;
        let wanted = buffer.len();
        match rustix::io::preadv2(&self.file, &mut [IoSliceMut::new(buffer)], offset, flags) {
            Ok(count) => Ok(count == wanted),
            Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => Ok(false),
            // Not every file system knows RWF_NOWAIT; then an ordinary read has to do.
            Err(rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::INVAL) => {
                self.read_at(buffer, offset).map(|()| true)
            }
            Err(error) => Err(self.error(Operation::Read, offset, error.into())),
        }
    }

    fn write_at(&self, mut buffers: &mut [IoSlice<'_>], mut offset: u64) -> Result<(), StorageError> {
        IoSlice::advance_slices(&mut buffers, 0);
        while !buffers.is_empty() {
            let batch = &buffers[..buffers.len().min(1024)];
            match rustix::io::pwritev(&self.file, batch, offset) {
                Ok(0) => return Err(self.error(Operation::Write, offset, io::ErrorKind::WriteZero.into())),
                Ok(count) => {
                    offset += count as u64;
                    IoSlice::advance_slices(&mut buffers, count);
                }
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(self.error(Operation::Write, offset, error.into())),
            }
        }
        Ok(())
    }

    fn zero_at(&self, offset: u64, length: u64, allocate: bool) -> Result<(), StorageError> {
        use rustix::fs::FallocateFlags as Flags;
        let flags = if allocate {
            Flags::ZERO_RANGE
        } else {
            Flags::PUNCH_HOLE
        } | Flags::KEEP_SIZE;
        match rustix::fs::fallocate(&self.file, flags, offset, length) {
            Ok(()) => Ok(()),
            // Also block devices with a range that is not a multiple of their sectors.
            Err(rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::INVAL | rustix::io::Errno::NOSYS) => {
                self.write_zeroes(offset, length)
            }
            Err(error) => Err(self.error(Operation::Zero, offset, error.into())),
        }
    }

    fn make_room(&self, volume_bytes: u64) -> Result<bool, StorageError> {
        if self.kind == Kind::BlockDevice {
            self.check_holds(volume_bytes)?;
            return Ok(false);
        }
        let sized = self.file.set_len(volume_bytes);
        sized.map_err(|error| self.error(Operation::Allocate, volume_bytes, error))?;
        Ok(true)
    }

    fn write_back(&self, range: Range<u64>) -> Result<(), StorageError> {
        if !self.writes_back {
            return Ok(());
        }
        let flags = libc::SYNC_FILE_RANGE_WAIT_BEFORE
            | libc::SYNC_FILE_RANGE_WRITE
            | libc::SYNC_FILE_RANGE_WAIT_AFTER;
        sync_file_range(&self.file, &range, flags)
            .map_err(|error| self.error(Operation::Sync, range.start, error))
    }

    fn forget(&self, range: Range<u64>) {
        // It is a wish: where the system does not grant it, what it holds is read.
        let length = std::num::NonZeroU64::new(range.end.saturating_sub(range.start));
        let _ = rustix::fs::fadvise(&self.file, range.start, length, rustix::fs::Advice::DontNeed);
    }

    fn sync(&self) -> Result<(), StorageError> {
        rustix::fs::fdatasync(&self.file).map_err(|error| self.error(Operation::Sync, 0, error.into()))
    }

    fn extent_at(&self, offset: u64, end: u64) -> Result<Extent, StorageError> {
        use rustix::fs::SeekFrom;
        let length = end.saturating_sub(offset);
        if self.kind == Kind::BlockDevice {
            return Ok(Extent {
                offset,
                length,
                data: true,
            });
        }
        let seek = |from| rustix::fs::seek(&self.file, from);
        match seek(SeekFrom::Data(offset)) {
            Ok(data) if data > offset => Ok(Extent {
                offset,
                length: data.min(end) - offset,
                data: false,
            }),
            Ok(_) => {
                let hole = seek(SeekFrom::Hole(offset)).unwrap_or(end);
                Ok(Extent {
                    offset,
                    length: hole.min(end) - offset,
                    data: true,
                })
            }
            Err(rustix::io::Errno::NXIO) => Ok(Extent {
                offset,
                length,
                data: false,
            }),
            Err(rustix::io::Errno::INVAL | rustix::io::Errno::OPNOTSUPP) => Ok(Extent {
                offset,
                length,
                data: true,
            }),
            Err(error) => Err(self.error(Operation::Read, offset, error.into())),
        }
    }
}
