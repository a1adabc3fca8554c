//! A device in memory whose bytes a target can change behind its user's back, and a clock that only counts.

use farside_storage::{Clock, Device, Operation, StorageError};
use parking_lot::Mutex;
use std::io::{self, IoSlice};
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// A disk of a fixed size. Nothing is ever lost of it.
pub(crate) struct Memory(Mutex<Vec<u8>>);

impl std::fmt::Debug for Memory {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("Memory")
    }
}

impl Memory {
    pub(crate) fn new(bytes: Vec<u8>) -> Arc<Self> {
        Arc::new(Self(Mutex::new(bytes)))
    }

    pub(crate) fn bytes(&self) -> Vec<u8> {
        self.0.lock().clone()
    }

    pub(crate) fn change(&self, change: impl FnOnce(&mut [u8])) {
        change(&mut self.0.lock());
    }
}

fn range(
    length: usize,
    offset: u64,
    size: usize,
    operation: Operation,
) -> Result<Range<usize>, StorageError> {
    let start = usize::try_from(offset).unwrap_or(usize::MAX);
    let end = start.checked_add(length).filter(|end| *end <= size);
    end.map(|end| start..end).ok_or_else(|| StorageError::Io {
        operation,
        name: "memory".to_owned(),
        offset,
        source: io::ErrorKind::UnexpectedEof.into(),
    })
}

impl Device for Memory {
    fn name(&self) -> &'static str {
        "memory"
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<(), StorageError> {
        let bytes = self.0.lock();
        let range = range(buffer.len(), offset, bytes.len(), Operation::Read)?;
        buffer.copy_from_slice(&bytes[range]);
        Ok(())
    }

    fn write_at(&self, buffers: &mut [IoSlice<'_>], offset: u64) -> Result<(), StorageError> {
        let mut bytes = self.0.lock();
        let length = buffers.iter().map(|buffer| buffer.len()).sum();
        let mut at = range(length, offset, bytes.len(), Operation::Write)?.start;
        for buffer in buffers {
            bytes[at..at + buffer.len()].copy_from_slice(buffer);
            at += buffer.len();
        }
        Ok(())
    }

    fn zero_at(&self, offset: u64, length: u64, _allocate: bool) -> Result<(), StorageError> {
        let mut bytes = self.0.lock();
        let length = usize::try_from(length).unwrap_or(usize::MAX);
        let range = range(length, offset, bytes.len(), Operation::Zero)?;
        bytes[range].fill(0);
        Ok(())
    }

    fn sync(&self) -> Result<(), StorageError> {
        Ok(())
    }
}

/// Counts how often it was asked.
#[derive(Debug, Default)]
pub(crate) struct Counter(AtomicU64);

impl Clock for Counter {
    fn wall_us(&self) -> u64 {
        1_000_000 + self.0.fetch_add(1, Ordering::Relaxed)
    }

    fn monotonic(&self) -> Duration {
        Duration::from_micros(self.wall_us())
    }
}
