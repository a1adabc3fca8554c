//! The disk itself: a file for what is durable, a list of writes for what is not.

use super::{Fate, SECTOR_BYTES, Switch};
use crate::world::lock;
use crate::{Random, limits};
use anyhow::{Context as _, Result};
use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

/// One write that no flush has covered yet.
#[derive(Debug)]
pub(super) struct Write {
    pub(super) offset: u64,
    pub(super) data: Vec<u8>,
}

impl Write {
    /// What of it is written whole or not at all: its parts within aligned units of so many bytes, by their offsets.
    pub(super) fn parts(&self, unit: usize) -> impl Iterator<Item = (u64, &[u8])> {
        let mut rest = (self.offset, self.data.as_slice());
        std::iter::from_fn(move || {
            let (offset, data) = rest;
            let unit = unit as u64;
            let length = usize::try_from(unit - offset % unit).unwrap_or(usize::MAX);
            let (part, behind) = data.split_at(length.min(data.len()));
            rest = (offset + part.len() as u64, behind);
            (!part.is_empty()).then_some((offset, part))
        })
    }
}

#[derive(Debug)]
struct Inner {
    file: File,
    switch: Arc<Switch>,
    unflushed: Vec<Write>,
    unflushed_bytes: usize,
    /// Sector number to the newest write that covers it.
    newest: HashMap<u64, usize>,
    lies: bool,
}

/// A disk with a volatile write cache. It can be served (see `DiskServer`), lose its power, and be served again.
#[derive(Debug)]
pub struct PowerDisk {
    path: PathBuf,
    size_bytes: u64,
    /// What is written whole or not at all.
    unit_bytes: usize,
    inner: Mutex<Inner>,
}

/// What was left of the unflushed writes after a power cut, in sectors.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Survived {
    /// Sectors written and not flushed.
    pub unflushed: u64,
    /// Those of them that reached the medium.
    pub kept: u64,
}

impl PowerDisk {
    /// A disk over this file, whose size is the disk's; everything in the file is durable. What a write covers of an aligned
    /// unit of so many bytes, a multiple of the sector's, is never torn.
    ///
    /// # Errors
    /// When the file cannot be opened.
    pub fn open(path: &Path, unit_bytes: usize) -> Result<Self> {
        let file = File::options().read(true).write(true).open(path);
        let file = file.with_context(|| format!("cannot open {}", path.display()))?;
        Ok(Self {
            path: path.to_owned(),
            size_bytes: file.metadata()?.len(),
            unit_bytes,
            inner: Mutex::new(Inner {
                file,
                switch: Switch::on(),
                unflushed: Vec::new(),
                unflushed_bytes: 0,
                newest: HashMap::new(),
                lies: false,
            }),
        })
    }

    /// The file with the durable content.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Size in bytes.
    #[must_use]
    pub fn size_bytes(&self) -> u64 {
        self.size_bytes
    }

    /// From now on it depends on this switch.
    pub fn plug_in(&self, switch: &Arc<Switch>) {
        lock(&self.inner).switch = Arc::clone(switch);
    }

    /// From now on it answers flushes and makes nothing durable: to see whether a test would notice.
    pub fn lie_about_flushes(&self) {
        lock(&self.inner).lies = true;
    }

    /// After the power went off: decides what of the unflushed writes is on the medium.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn settle(&self, fate: Fate, random: &mut Random) -> Result<Survived> {
        let mut inner = lock(&self.inner);
        inner.switch.off_now();
        let writes = inner.take_unflushed();
        let survivors = fate.survivors(&writes, self.unit_bytes, random);
        for (offset, data) in &survivors {
            inner.file.write_all_at(data, *offset)?;
        }
        let sectors = writes.iter().map(|write| write.data.len() / SECTOR_BYTES);
        Ok(Survived {
            unflushed: sectors.sum::<usize>() as u64,
            kept: survivors
                .iter()
                .map(|(_, data)| data.len() / SECTOR_BYTES)
                .sum::<usize>() as u64,
        })
    }

    /// Reads whole sectors; nothing when the power is off.
    pub(super) fn read(&self, offset: u64, length: usize) -> io::Result<Option<Vec<u8>>> {
        let inner = lock(&self.inner);
        if inner.switch.is_off() {
            return Ok(None);
        }
        let mut data = vec![0; length];
        inner.file.read_exact_at(&mut data, offset)?;
        let first = offset / SECTOR_BYTES as u64;
        for (sector, content) in (first..).zip(data.chunks_mut(SECTOR_BYTES)) {
            if let Some(cached) = inner.cached(sector) {
                content.copy_from_slice(cached);
            }
        }
        Ok(Some(data))
    }

    /// Takes a write of whole sectors into the cache; nothing when the power is off, or goes off in the middle of it.
    pub(super) fn write(&self, offset: u64, data: Vec<u8>) -> io::Result<Option<()>> {
        let mut inner = lock(&self.inner);
        if inner.switch.is_off() {
            return Ok(None);
        }
        inner.remember(Write { offset, data });
        inner.switch.count();
        if inner.switch.is_off() {
            return Ok(None);
        }
        if inner.unflushed_bytes > limits::DISK_CACHE_BYTES && !inner.lies {
            inner.make_durable()?;
        }
        Ok(Some(()))
    }

    /// Makes every write so far durable; nothing when the power is off or goes off before that.
    pub(super) fn flush(&self) -> io::Result<Option<()>> {
        let mut inner = lock(&self.inner);
        if !inner.switch.is_off() {
            inner.switch.count();
        }
        if inner.switch.is_off() {
            return Ok(None);
        }
        if !inner.lies {
            inner.make_durable()?;
        }
        Ok(Some(()))
    }
}

impl Inner {
    fn remember(&mut self, write: Write) {
        let first = write.offset / SECTOR_BYTES as u64;
        let sectors = write.data.len() / SECTOR_BYTES;
        for sector in (first..).take(sectors) {
            self.newest.insert(sector, self.unflushed.len());
        }
        self.unflushed_bytes += write.data.len();
        self.unflushed.push(write);
    }

    fn cached(&self, sector: u64) -> Option<&[u8]> {
        let write = self.unflushed.get(*self.newest.get(&sector)?)?;
        let start = usize::try_from(sector * SECTOR_BYTES as u64 - write.offset).ok()?;
        write.data.get(start..start + SECTOR_BYTES)
    }

    fn take_unflushed(&mut self) -> Vec<Write> {
        self.newest.clear();
        self.unflushed_bytes = 0;
        std::mem::take(&mut self.unflushed)
    }

    fn make_durable(&mut self) -> io::Result<()> {
        for write in self.take_unflushed() {
            self.file.write_all_at(&write.data, write.offset)?;
        }
        Ok(())
    }
}
