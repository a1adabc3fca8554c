//! A process's hold on a medium: it dies with the process, between two calls or in the middle of one.

use crate::faults::{Fault, Lost};
use crate::platter::{PAGE, Platter, SECTOR, index};
use crate::process::Process;
use crate::schedule;
use crate::stats::happened;
use farside_storage::{Device, Extent, Operation, StorageError};
use std::io::{self, IoSlice};
use std::ops::Range;
use std::sync::Arc;

/// Longest extents that are reported at once, each as often as the others: a copy takes several steps, however small the
/// volume.
const EXTENT_BYTES: [u64; 4] = [4 << 10, 4 << 10, 4 << 10, 64 << 10];

/// Reads that memory cannot answer.
const COLD_PERCENT: u64 = 30;

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

    /// A sync, or the attempt to write what a later sync would have to write. An attempt that goes well promises nothing:
    /// what was written before may be on the platter or not, as at any time.
    fn bring_to_the_platter(&self, lasts: bool) -> Result<(), StorageError> {
        // What is written while a sync is under way may be durable after it, but nobody may rely on that.
        let begun = self.platter.content.lock().version;
        if !self.quiet {
            schedule::at_slow_call(true);
        }
        let life = self.enter(Operation::Sync, 0)?;
        let mut content = self.platter.content.lock();
        let fails = content.fault(&[Fault::Sync]).is_some();
        if matches!(life, Life::Ends(done) if done < Done::All) {
            return Err(self.io(Operation::Sync, 0, EIO));
        }
        let lost = if fails {
            Lost::draw(schedule::draw(6), schedule::draw(u64::MAX))
        } else {
            Lost::Nothing
        };
        if lasts || fails {
            content.settle(begun, lost);
        }
        drop(content);
        if fails {
            return Err(self.io(Operation::Sync, 0, EIO));
        }
        if let Some(tap) = self.platter.tap().filter(|_| lasts && !self.quiet) {
            tap.synced(&self.platter);
        }
        if life == Life::Goes {
            Ok(())
        } else {
            Err(self.io(Operation::Sync, 0, EIO))
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
        Ok(match self.process.call(matches!(operation, Operation::Write)) {
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

/// How much of a change is done, whole sectors from its front; `None` for all of it.
fn part_done(life: Life, fault: Option<Fault>, (at, length): (usize, usize)) -> Option<usize> {
    let half = ((at + length / 2).next_multiple_of(SECTOR) - at).min(length);
    match (life, fault) {
        (Life::Ends(Done::Nothing), _) => Some(0),
        (Life::Ends(Done::Half), _) | (_, Some(_)) => Some(half),
        (Life::Goes | Life::Ends(Done::All), None) => None,
    }
}

fn code(fault: Option<Fault>) -> i32 {
    if fault == Some(Fault::NoSpace) {
        ENOSPC
    } else {
        EIO
    }
}

impl Device for SimDisk {
    fn name(&self) -> &str {
        &self.platter.name
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<(), StorageError> {
        if !self.quiet {
            schedule::at_slow_call(false);
        }
        let life = self.enter(Operation::Read, offset)?;
        let at = self.check_range(Operation::Read, offset, buffer.len())?;
        let mut content = self.platter.content.lock();
        if life != Life::Goes || content.fault(&[Fault::Read]).is_some() {
            return Err(self.io(Operation::Read, offset, EIO));
        }
        content.read(at, buffer);
        Ok(())
    }

    /// Now and then the bytes are not in memory.
    fn read_cached_at(&self, buffer: &mut [u8], offset: u64) -> Result<bool, StorageError> {
        if !self.quiet && schedule::draw(100) < COLD_PERCENT {
            happened("reads that have to wait for a disk");
            return Ok(false);
        }
        self.read_at(buffer, offset).map(|()| true)
    }

    fn write_at(&self, buffers: &mut [IoSlice<'_>], offset: u64) -> Result<(), StorageError> {
        let life = self.enter(Operation::Write, offset)?;
        let mut bytes = Vec::with_capacity(buffers.iter().map(|buffer| buffer.len()).sum());
        buffers.iter().for_each(|buffer| bytes.extend_from_slice(buffer));
        let at = self.check_range(Operation::Write, offset, bytes.len())?;
        let mut content = self.platter.content.lock();
        let fault = content.fault(&[Fault::Write, Fault::NoSpace]);
        if let Some(part) = part_done(life, fault, (at, bytes.len())) {
            content.write(at, &bytes[..part]);
            let mut found = vec![0; bytes.len()];
            content.read(at, &mut found);
            drop(content);
            let begins = found
                .iter()
                .zip(&bytes)
                .take(PAGE)
                .all(|(found, byte)| found == byte);
            if let Some(tap) = self.platter.tap().filter(|_| begins && !self.quiet) {
                tap.left(offset, &found);
            }
            return Err(self.io(Operation::Write, offset, code(fault)));
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
        // A hole needs no space.
        let kinds = [Fault::Write, Fault::NoSpace];
        let fault = content.fault(if allocate { &kinds } else { &kinds[..1] });
        if let Some(part) = part_done(life, fault, (at, index(length))) {
            content.zero(at, part, allocate);
            return Err(self.io(Operation::Zero, offset, code(fault)));
        }
        content.zero(at, index(length), allocate);
        drop(content);
        if let Some(tap) = self.platter.tap().filter(|_| !self.quiet) {
            tap.zeroed(offset, length);
        }
        if life == Life::Goes {
            Ok(())
        } else {
            Err(self.io(Operation::Zero, offset, EIO))
        }
    }

    fn make_room(&self, volume_bytes: u64) -> Result<bool, StorageError> {
        self.enter(Operation::Allocate, 0)?;
        self.check_range(Operation::Allocate, volume_bytes, 0)?;
        Ok(schedule::draw(2) == 0)
    }

    fn write_back(&self, _range: Range<u64>) -> Result<(), StorageError> {
        self.bring_to_the_platter(false)
    }

    fn sync(&self) -> Result<(), StorageError> {
        self.bring_to_the_platter(true)
    }

    fn extent_at(&self, offset: u64, end: u64) -> Result<Extent, StorageError> {
        let life = self.enter(Operation::Read, offset)?;
        let mut content = self.platter.content.lock();
        if life != Life::Goes || content.fault(&[Fault::Read]).is_some() {
            return Err(self.io(Operation::Read, offset, EIO));
        }
        let has_data = |at: u64| content.pages.get(index(at) / PAGE).is_some_and(Option::is_some);
        let data = has_data(offset);
        let mut at = (offset / PAGE as u64 + 1) * PAGE as u64;
        let most = EXTENT_BYTES[index(schedule::draw(EXTENT_BYTES.len() as u64))];
        while at < end && at - offset < most && has_data(at) == data {
            at += PAGE as u64;
        }
        let length = at.min(end) - offset;
        Ok(Extent { offset, length, data })
    }
}
