//! A disk for tests that fails when told to, and calls back at each sync.

use crate::device::Device;
use crate::error::{Operation, StorageError};
use crate::test_disk::TestDisk;
use parking_lot::Mutex;
use std::io::{self, IoSlice};
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

const ENOSPC: i32 = 28;
const EIO: i32 = 5;

type Hook = Box<dyn Fn(u64) + Send + Sync>;

/// Passes everything on to a [`TestDisk`] but for what it was told.
#[derive(Default)]
pub(crate) struct FaultDisk {
    pub(crate) inner: Mutex<Option<Arc<TestDisk>>>,
    /// Calls until the one that fails, 0 for none; counted down.
    pub(crate) fail_write: AtomicU64,
    pub(crate) fail_zero: AtomicU64,
    pub(crate) fail_sync: AtomicU64,
    pub(crate) fail_write_back: AtomicU64,
    written_back: AtomicU64,
    pub(crate) fail_read: AtomicU64,
    syncs: AtomicU64,
    /// Called before each sync has an effect, with its number from 1.
    hook: Mutex<Option<Arc<Hook>>>,
    /// Called before each part that is written back has an effect, with its offset.
    write_back_hook: Mutex<Option<Arc<Hook>>>,
}

impl std::fmt::Debug for FaultDisk {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("FaultDisk")
    }
}

impl FaultDisk {
    pub(crate) fn new(inner: Arc<TestDisk>) -> Arc<Self> {
        Arc::new(Self {
            inner: Mutex::new(Some(inner)),
            ..Self::default()
        })
    }

    pub(crate) fn inner(&self) -> Arc<TestDisk> {
        self.inner.lock().clone().unwrap()
    }

    pub(crate) fn on_sync(&self, hook: impl Fn(u64) + Send + Sync + 'static) {
        *self.hook.lock() = Some(Arc::new(Box::new(hook)));
    }

    pub(crate) fn syncs(&self) -> u64 {
        self.syncs.load(Ordering::SeqCst)
    }

    pub(crate) fn on_write_back(&self, hook: impl Fn(u64) + Send + Sync + 'static) {
        *self.write_back_hook.lock() = Some(Arc::new(Box::new(hook)));
    }

    /// Bytes that were brought back in parts.
    pub(crate) fn written_back(&self) -> u64 {
        self.written_back.load(Ordering::SeqCst)
    }

    fn count(counter: &AtomicU64, operation: Operation, error: i32) -> Result<(), StorageError> {
        let before = counter.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1));
        if before == Ok(1) {
            let source = io::Error::from_raw_os_error(error);
            return Err(StorageError::io(operation, "fault disk", 0, source));
        }
        Ok(())
    }
}

impl Device for FaultDisk {
    fn name(&self) -> &'static str {
        "fault disk"
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<(), StorageError> {
        Self::count(&self.fail_read, Operation::Read, EIO)?;
        self.inner().read_at(buffer, offset)
    }

    fn write_at(&self, buffers: &mut [IoSlice<'_>], offset: u64) -> Result<(), StorageError> {
        Self::count(&self.fail_write, Operation::Write, ENOSPC)?;
        self.inner().write_at(buffers, offset)
    }

    fn zero_at(&self, offset: u64, length: u64, allocate: bool) -> Result<(), StorageError> {
        Self::count(&self.fail_zero, Operation::Zero, EIO)?;
        self.inner().zero_at(offset, length, allocate)
    }

    fn make_room(&self, volume_bytes: u64) -> Result<bool, StorageError> {
        self.inner().make_room(volume_bytes)
    }

    fn write_back(&self, range: Range<u64>) -> Result<(), StorageError> {
        let hook = self.write_back_hook.lock().clone();
        if let Some(hook) = hook {
            hook(range.start);
        }
        Self::count(&self.fail_write_back, Operation::Sync, EIO)?;
        self.written_back
            .fetch_add(range.end - range.start, Ordering::SeqCst);
        Ok(())
    }

    fn sync(&self) -> Result<(), StorageError> {
        let number = self.syncs.fetch_add(1, Ordering::SeqCst) + 1;
        let fails = Self::count(&self.fail_sync, Operation::Sync, EIO);
        let hook = self.hook.lock().clone();
        if let Some(hook) = hook {
            hook(number);
        }
        fails?;
        self.inner().sync()
    }
}
