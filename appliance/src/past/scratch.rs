//! What is written over a moment: a file without a name, gone with whoever holds it.
//!
//! Blocks of 4 KiB are taken over whole when something of them is written. Costs a bit of memory for each block that the disk
//! has, and space for those that were written.

use farside_storage::{StorageError, View};
use fixedbitset::FixedBitSet;
use parking_lot::Mutex;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

const BLOCK: u64 = 4096;

/// The blocks that were written.
#[derive(Debug)]
pub(super) struct Scratch {
    file: File,
    blocks: Mutex<FixedBitSet>,
}

/// What went wrong: with the moment below, or with the file.
#[derive(Debug, thiserror::Error)]
pub(super) enum ScratchError {
    #[error(transparent)]
    View(#[from] StorageError),
    #[error("scratch file: {0}")]
    File(#[from] io::Error),
}

impl Scratch {
    /// A scratch for a disk of so many bytes, in `directory`.
    pub(super) fn new(directory: &Path, bytes: u64) -> io::Result<Self> {
        let file = open_unnamed(directory)?;
        file.set_len(bytes.next_multiple_of(BLOCK))?;
        let count = usize::try_from(bytes.div_ceil(BLOCK)).unwrap_or(0);
        Ok(Self {
            file,
            blocks: Mutex::new(FixedBitSet::with_capacity(count)),
        })
    }

    /// Fills `buffer` from `offset`.
    pub(super) fn read(&self, view: &View, offset: u64, buffer: &mut [u8]) -> Result<(), ScratchError> {
        let blocks = self.blocks.lock();
        let mut at = offset;
        let mut rest = buffer;
        while !rest.is_empty() {
            let written = blocks.contains(index(at / BLOCK));
            // As many blocks as are alike.
            let mut end = (at / BLOCK + 1) * BLOCK;
            let limit = at + rest.len() as u64;
            while end < limit && blocks.contains(index(end / BLOCK)) == written {
                end += BLOCK;
            }
            let length = usize::try_from(end.min(limit) - at).unwrap_or(usize::MAX);
            let (part, later) = rest.split_at_mut(length);
            if written {
                self.file.read_exact_at(part, at)?;
            } else {
                view.read(at, part)?;
            }
            at += part.len() as u64;
            rest = later;
        }
        Ok(())
    }

    /// Stores `data`, or zeroes where there is none.
    pub(super) fn write(
        &self,
        view: &View,
        (offset, length): (u64, u64),
        data: Option<&[u8]>,
    ) -> Result<(), ScratchError> {
        let end = offset + length;
        let mut blocks = self.blocks.lock();
        for block in [offset / BLOCK, end.saturating_sub(1) / BLOCK] {
            let is_partial = block * BLOCK < offset || (block + 1) * BLOCK > end;
            if is_partial && length > 0 && !blocks.contains(index(block)) {
                let start = block * BLOCK;
                let size = usize::try_from(BLOCK.min(view.bytes() - start)).unwrap_or(0);
                let mut old = vec![0; size];
                view.read(start, &mut old)?;
                self.file.write_all_at(&old, start)?;
                blocks.insert(index(block));
            }
        }
        match data {
            Some(data) => self.file.write_all_at(data, offset)?,
            None => self.zero(offset, end)?,
        }
        if length > 0 {
            blocks.insert_range(index(offset / BLOCK)..index((end - 1) / BLOCK) + 1);
        }
        Ok(())
    }

    fn zero(&self, offset: u64, end: u64) -> io::Result<()> {
        use rustix::fs::{FallocateFlags as Flags, fallocate};
        let flags = Flags::PUNCH_HOLE | Flags::KEEP_SIZE;
        if offset < end && fallocate(&self.file, flags, offset, end - offset).is_ok() {
            return Ok(());
        }
        let zeroes = vec![0; 1 << 20];
        let mut at = offset;
        while at < end {
            let length = usize::try_from(end - at).unwrap_or(usize::MAX).min(zeroes.len());
            self.file.write_all_at(&zeroes[..length], at)?;
            at += length as u64;
        }
        Ok(())
    }
}

fn index(block: u64) -> usize {
    usize::try_from(block).unwrap_or(usize::MAX)
}

/// A file that nobody else can open and that is gone when it is closed.
fn open_unnamed(directory: &Path) -> io::Result<File> {
    use rustix::fs::{Mode, OFlags, open};
    let mode = Mode::RUSR | Mode::WUSR;
    let unnamed = open(directory, OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC, mode);
    if let Ok(file) = unnamed {
        return Ok(file.into());
    }
    // Not every file system can do that.
    let path = directory.join(format!(".scratch-{}", uuid::Uuid::new_v4()));
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
    let file = open(&path, flags, mode)?;
    std::fs::remove_file(&path)?;
    Ok(file.into())
}
