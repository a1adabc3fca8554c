//! Disks of the world: what was written stays in a volatile cache until it is synced, and a power loss keeps any
//! version of any unsynced sector.
//!
//! A [`Platter`] outlives processes; a [`SimDisk`] is one process's hold on it and dies with it. A sync that fails
//! forgets which sectors it should have written, as operating systems do: a later one that succeeds does not
//! bring them back.

use crate::process::Process;
use crate::schedule;
use farside_storage::{Device, Extent, Operation, StorageError};
use farside_tests::random::Random;
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::fmt::Debug;
use std::io::{self, IoSlice};
use std::sync::Arc;

/// What a device writes whole or not at all.
const SECTOR: usize = 512;
const PAGE: usize = 4096;
/// Longest extent that is reported at once: a copy takes several steps, however small the volume.
const EXTENT_BYTES: u64 = 12 << 10;
/// Versions of an unsynced sector that a power loss chooses from.
const VERSIONS: usize = 4;

/// Sees what reaches a disk, from inside the call.
pub trait Tap: Debug + Send + Sync {
    /// These bytes stand at `offset` now, in the cache.
    fn wrote(&self, offset: u64, bytes: &[u8]);
    /// This range reads as zeroes now.
    fn zeroed(&self, offset: u64, length: u64);
    /// A sync succeeded.
    fn synced(&self, platter: &Platter);
}

/// A fault that the next matching call meets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// A read fails; the next one succeeds.
    Read,
    /// A write fails, of which a part was done.
    Write,
    /// There is no space for a write.
    NoSpace,
    /// A sync fails, and what it should have written may be lost.
    Sync,
}

type Sector = [u8; SECTOR];

/// A sector whose newest content is not durable; that one is what reads give.
#[derive(Debug, Clone)]
struct Unsynced {
    durable: Box<Sector>,
    /// When the newest content was written, in versions of the medium.
    stamp: u64,
    /// What stood there in between, and since when; oldest first.
    older: Vec<(u64, Sector)>,
}

#[derive(Debug, Default)]
struct Content {
    pages: Vec<Option<Box<[u8; PAGE]>>>,
    unsynced: BTreeMap<usize, Unsynced>,
    /// What is durable of sectors that a failed sync gave up: reads give something else, no sync writes it.
    given_up: BTreeMap<usize, Sector>,
    /// Calls until the fault, and which.
    faults: Vec<(u64, Fault)>,
    /// Rises with every change.
    version: u64,
}

/// The medium itself.
#[derive(Debug)]
pub struct Platter {
    name: String,
    bytes: u64,
    content: Mutex<Content>,
    tap: Mutex<Option<Arc<dyn Tap>>>,
    /// Several sectors of a page survive together or not at all.
    whole_pages: bool,
}

impl Content {
    fn read(&self, offset: usize, buffer: &mut [u8]) {
        let mut at = offset;
        for part in split(buffer, offset) {
            let (page, inside) = (at / PAGE, at % PAGE);
            match self.pages.get(page).and_then(Option::as_ref) {
                Some(page) => part.copy_from_slice(&page[inside..inside + part.len()]),
                None => part.fill(0),
            }
            at += part.len();
        }
    }

    fn sector(&self, sector: usize) -> Sector {
        let mut bytes = [0; SECTOR];
        self.read(sector * SECTOR, &mut bytes);
        bytes
    }

    fn put(&mut self, offset: usize, bytes: &[u8]) {
        let mut at = offset;
        let mut rest = bytes;
        while !rest.is_empty() {
            let (page, inside) = (at / PAGE, at % PAGE);
            let length = rest.len().min(PAGE - inside);
            let page = self.pages[page].get_or_insert_with(|| Box::new([0; PAGE]));
            page[inside..inside + length].copy_from_slice(&rest[..length]);
            rest = &rest[length..];
            at += length;
        }
    }

    /// Writes into the cache.
    fn write(&mut self, offset: usize, bytes: &[u8]) {
        if bytes.is_empty() {
            return;
        }
        self.version += 1;
        let stamp = self.version;
        for sector in offset / SECTOR..(offset + bytes.len()).div_ceil(SECTOR) {
            let before = self.sector(sector);
            if let Some(unsynced) = self.unsynced.get_mut(&sector) {
                if unsynced.older.len() == VERSIONS {
                    unsynced.older.remove(0);
                }
                unsynced.older.push((unsynced.stamp, before));
                unsynced.stamp = stamp;
            } else {
                let durable = Box::new(self.given_up.remove(&sector).unwrap_or(before));
                let older = Vec::new();
                self.unsynced.insert(
                    sector,
                    Unsynced {
                        durable,
                        stamp,
                        older,
                    },
                );
            }
        }
        self.put(offset, bytes);
    }

    /// Zeroes in the cache; whole pages become holes unless their space is to be kept.
    fn zero(&mut self, offset: usize, length: usize, allocate: bool) {
        self.write(offset, &vec![0; length]);
        let (first, end) = (offset.div_ceil(PAGE), (offset + length) / PAGE);
        if let Some(pages) = self.pages.get_mut(first..end).filter(|_| !allocate) {
            pages.fill(None);
        }
    }

    /// Everything written up to the version `begun` is durable. If the sync failed, every other sector is given up
    /// instead, and nothing will ever write it.
    fn settle(&mut self, begun: u64, failed: bool) {
        let mut unsynced = std::mem::take(&mut self.unsynced);
        let mut number = 0;
        unsynced.retain(|sector, unsynced| {
            number += 1;
            let is_lost = failed && number % 2 == 0;
            if unsynced.stamp <= begun {
                if is_lost {
                    self.given_up.insert(*sector, *unsynced.durable);
                }
                return false;
            }
            let synced = unsynced.older.iter().rev().find(|(stamp, _)| *stamp <= begun);
            if let Some((_, bytes)) = synced.filter(|_| !is_lost) {
                *unsynced.durable = *bytes;
            }
            unsynced.older.retain(|(stamp, _)| *stamp > begun);
            true
        });
        self.unsynced = unsynced;
    }

    /// Whether the next call of a kind fails, and how.
    fn fault(&mut self, kinds: &[Fault]) -> Option<Fault> {
        let at = self.faults.iter().position(|(_, fault)| kinds.contains(fault))?;
        if self.faults[at].0 > 0 {
            self.faults[at].0 -= 1;
            return None;
        }
        Some(self.faults.remove(at).1)
    }
}

/// The pieces of a buffer that lie on one page each.
fn split(buffer: &mut [u8], offset: usize) -> impl Iterator<Item = &mut [u8]> {
    let first = (PAGE - offset % PAGE).min(buffer.len());
    let (head, rest) = buffer.split_at_mut(first);
    std::iter::once(head).chain(rest.chunks_mut(PAGE))
}

impl Platter {
    /// A medium full of zeroes.
    #[must_use]
    pub fn new(name: &str, bytes: u64, whole_pages: bool) -> Arc<Self> {
        let pages = index(bytes).div_ceil(PAGE);
        Arc::new(Self {
            name: name.to_owned(),
            bytes,
            content: Mutex::new(Content {
                pages: (0..pages).map(|_| None).collect(),
                ..Content::default()
            }),
            tap: Mutex::default(),
            whole_pages,
        })
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Whoever sees what happens here.
    pub fn watch(&self, tap: Arc<dyn Tap>) {
        *self.tap.lock() = Some(tap);
    }

    fn tap(&self) -> Option<Arc<dyn Tap>> {
        self.tap.lock().clone()
    }

    /// A call from now on meets a fault.
    pub fn plan(&self, fault: Fault, calls: u64) {
        self.content.lock().faults.push((calls, fault));
    }

    /// No call meets a fault any more.
    pub fn heal(&self) {
        self.content.lock().faults.clear();
    }

    /// Loses power: of each unsynced sector any version survives.
    pub fn lose_power(&self, random: &mut Random) {
        let mut content = self.content.lock();
        content.version += 1;
        let unsynced = std::mem::take(&mut content.unsynced);
        // Some power losses keep nearly all, some nearly nothing, some exactly one thing.
        let keep_percent = *random.pick(&[0, 10, 50, 90, 100, 50]);
        let (mut page, mut fate) = (usize::MAX, true);
        for (sector, lost) in unsynced {
            let same_page = self.whole_pages && sector * SECTOR / PAGE == page;
            page = sector * SECTOR / PAGE;
            if !same_page {
                fate = random.below(100) < keep_percent;
            }
            let survivor = if !fate {
                Some(*lost.durable)
            } else if self.whole_pages || random.below(2) == 0 {
                None
            } else {
                // The newest stands there already.
                let version = index(random.below(lost.older.len() as u64 + 1));
                lost.older.get(version).map(|(_, bytes)| *bytes)
            };
            if let Some(survivor) = survivor {
                content.put(sector * SECTOR, &survivor);
            }
        }
        for (sector, durable) in std::mem::take(&mut content.given_up) {
            content.put(sector * SECTOR, &durable);
        }
    }

    /// Whether nothing of this range can be lost.
    #[must_use]
    pub fn is_durable(&self, range: std::ops::Range<u64>) -> bool {
        let content = self.content.lock();
        let sectors = index(range.start) / SECTOR..index(range.end).div_ceil(SECTOR);
        content.unsynced.range(sectors.clone()).next().is_none()
            && content.given_up.range(sectors).next().is_none()
    }

    /// A copy of what is on it, as it would be after a power loss now.
    #[must_use]
    pub fn fork(&self, power_lost: bool, random: &mut Random) -> Arc<Self> {
        let content = self.content.lock();
        let copy = Arc::new(Self {
            name: format!("a copy of {}", self.name),
            bytes: self.bytes,
            content: Mutex::new(Content {
                pages: content.pages.clone(),
                unsynced: content.unsynced.clone(),
                given_up: content.given_up.clone(),
                faults: Vec::new(),
                version: 0,
            }),
            tap: Mutex::default(),
            whole_pages: self.whole_pages,
        });
        drop(content);
        if power_lost {
            copy.lose_power(random);
        }
        copy
    }

    /// Takes over what is on another medium of this size, durably.
    pub fn restore(&self, from: &Self) {
        let pages = from.content.lock().pages.clone();
        let mut content = self.content.lock();
        content.pages = pages;
        content.version += 1;
        content.unsynced.clear();
        content.given_up.clear();
    }

    /// Flips a bit in a range of the medium, if anything was ever written there. True if a bit was flipped.
    pub fn flip_bit(&self, random: &mut Random, range: std::ops::Range<u64>) -> bool {
        let mut content = self.content.lock();
        let at = index(random.between(range.start, range.end.saturating_sub(1)));
        let Some(Some(page)) = content.pages.get_mut(at / PAGE) else {
            return false;
        };
        if page.iter().all(|byte| *byte == 0) {
            return false;
        }
        page[at % PAGE] ^= 1 << random.below(8);
        true
    }

    /// A number that rises with every change.
    #[must_use]
    pub fn version(&self) -> u64 {
        self.content.lock().version
    }

    /// What reads give now.
    #[must_use]
    pub fn content(&self) -> Vec<u8> {
        let mut bytes = vec![0; index(self.bytes)];
        self.content.lock().read(0, &mut bytes);
        bytes
    }
}

fn index(number: u64) -> usize {
    usize::try_from(number).expect("simulated disks are small")
}

/// One process's hold on a medium.
#[derive(Debug)]
pub struct SimDisk {
    platter: Arc<Platter>,
    process: Arc<Process>,
    /// Calls are not interrupted and do not count: for checks.
    quiet: bool,
}

impl SimDisk {
    /// The medium as `process` opens it.
    #[must_use]
    pub fn open(platter: &Arc<Platter>, process: &Arc<Process>) -> Arc<Self> {
        Arc::new(Self {
            platter: platter.clone(),
            process: process.clone(),
            quiet: false,
        })
    }

    /// The same for a check that must not change the course of the world.
    #[must_use]
    pub fn quietly(platter: &Arc<Platter>) -> Arc<Self> {
        Arc::new(Self {
            platter: platter.clone(),
            process: Process::new("check"),
            quiet: true,
        })
    }

    fn io(&self, operation: Operation, offset: u64, code: i32) -> StorageError {
        StorageError::Io {
            operation,
            name: self.platter.name.clone(),
            offset,
            source: io::Error::from_raw_os_error(code),
        }
    }

    /// A call begins: others may go first, and the process may die in it.
    fn enter(&self, operation: Operation, offset: u64) -> Result<Life, StorageError> {
        if self.quiet {
            return Ok(Life::Goes);
        }
        schedule::at_device();
        if self.process.is_dead() {
            return Err(self.io(operation, offset, EIO));
        }
        Ok(match self.process.call() {
            None => Life::Goes,
            Some(number) => Life::Ends([Done::Nothing, Done::Half, Done::All][index(number % 3)]),
        })
    }

    fn check_range(&self, operation: Operation, offset: u64, length: usize) -> Result<usize, StorageError> {
        if offset.saturating_add(length as u64) > self.platter.bytes {
            return Err(self.io(operation, offset, EINVAL));
        }
        Ok(index(offset))
    }
}

/// Whether the process lives on after a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Life {
    Goes,
    Ends(Done),
}

/// How much of the call in which it dies has an effect.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Done {
    Nothing,
    Half,
    All,
}

const EIO: i32 = 5;
const EINVAL: i32 = 22;
const ENOSPC: i32 = 28;

impl Device for SimDisk {
    fn name(&self) -> &str {
        &self.platter.name
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<(), StorageError> {
        let life = self.enter(Operation::Read, offset)?;
        let at = self.check_range(Operation::Read, offset, buffer.len())?;
        let mut content = self.platter.content.lock();
        if life != Life::Goes || content.fault(&[Fault::Read]).is_some() {
            return Err(self.io(Operation::Read, offset, EIO));
        }
        content.read(at, buffer);
        Ok(())
    }

    fn write_at(&self, buffers: &mut [IoSlice<'_>], offset: u64) -> Result<(), StorageError> {
        let life = self.enter(Operation::Write, offset)?;
        let mut bytes = Vec::with_capacity(buffers.iter().map(|buffer| buffer.len()).sum());
        buffers.iter().for_each(|buffer| bytes.extend_from_slice(buffer));
        let at = self.check_range(Operation::Write, offset, bytes.len())?;
        let mut content = self.platter.content.lock();
        let fault = content.fault(&[Fault::Write, Fault::NoSpace]);
        if fault.is_some() || matches!(life, Life::Ends(done) if done < Done::All) {
            // A part of it, whole sectors from the front.
            let part = match life {
                Life::Ends(Done::Nothing) => 0,
                _ => (bytes.len() / 2).next_multiple_of(SECTOR).min(bytes.len()),
            };
            content.write(at, &bytes[..part]);
            let code = if fault == Some(Fault::NoSpace) {
                ENOSPC
            } else {
                EIO
            };
            return Err(self.io(Operation::Write, offset, code));
        }
        content.write(at, &bytes);
        drop(content);
        if let Some(tap) = self.platter.tap().filter(|_| !self.quiet) {
            tap.wrote(offset, &bytes);
        }
        if life == Life::Goes {
            Ok(())
        } else {
            Err(self.io(Operation::Write, offset, EIO))
        }
    }

    fn zero_at(&self, offset: u64, length: u64, allocate: bool) -> Result<(), StorageError> {
        let life = self.enter(Operation::Zero, offset)?;
        let at = self.check_range(Operation::Zero, offset, index(length))?;
        let mut content = self.platter.content.lock();
        let no_space = allocate && content.fault(&[Fault::NoSpace]).is_some();
        if life != Life::Goes || no_space {
            let code = if no_space { ENOSPC } else { EIO };
            return Err(self.io(Operation::Zero, offset, code));
        }
        content.zero(at, index(length), allocate);
        drop(content);
        if let Some(tap) = self.platter.tap().filter(|_| !self.quiet) {
            tap.zeroed(offset, length);
        }
        Ok(())
    }

    fn sync(&self) -> Result<(), StorageError> {
        // What is written while a sync is under way may be durable after it, but nobody may rely on that.
        let begun = self.platter.content.lock().version;
        let life = self.enter(Operation::Sync, 0)?;
        let mut content = self.platter.content.lock();
        let fails = content.fault(&[Fault::Sync]).is_some();
        if matches!(life, Life::Ends(done) if done < Done::All) {
            return Err(self.io(Operation::Sync, 0, EIO));
        }
        content.settle(begun, fails);
        drop(content);
        if fails {
            return Err(self.io(Operation::Sync, 0, EIO));
        }
        if let Some(tap) = self.platter.tap().filter(|_| !self.quiet) {
            tap.synced(&self.platter);
        }
        if life == Life::Goes {
            Ok(())
        } else {
            Err(self.io(Operation::Sync, 0, EIO))
        }
    }

    fn extent_at(&self, offset: u64, end: u64) -> Result<Extent, StorageError> {
        let content = self.platter.content.lock();
        let has_data = |at: u64| content.pages.get(index(at) / PAGE).is_some_and(Option::is_some);
        let data = has_data(offset);
        let mut at = (offset / PAGE as u64 + 1) * PAGE as u64;
        while at < end && at - offset < EXTENT_BYTES && has_data(at) == data {
            at += PAGE as u64;
        }
        let length = at.min(end) - offset;
        Ok(Extent { offset, length, data })
    }
}
