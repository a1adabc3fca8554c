//! Disks for tests in memory: each kind of access can be made to fail or to stand still.

use crate::volume::Volume;
use farside_protocol::journal::Role;
use farside_storage::{
    Device, Operation, StorageError, Store, StoreDevices, StoreParameters, SystemClock, SystemWorkers,
};
use parking_lot::{Condvar, Mutex};
use std::io::IoSlice;
use std::sync::Arc;
use uuid::Uuid;

pub(super) const VOLUME_BYTES: usize = 1 << 20;
/// Bytes of the volume that a test's task has to itself.
pub(super) const OWN_BYTES: u64 = 16 << 10;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Pass {
    Open,
    Closed,
    Fail,
}

/// What every access of one kind has to pass.
#[derive(Debug)]
pub(super) struct Gate {
    pass: Mutex<Pass>,
    changed: Condvar,
}

impl Gate {
    fn new() -> Self {
        Self {
            pass: Mutex::new(Pass::Open),
            changed: Condvar::new(),
        }
    }

    fn set(&self, pass: Pass) {
        *self.pass.lock() = pass;
        self.changed.notify_all();
    }

    pub(super) fn open(&self) {
        self.set(Pass::Open);
    }

    /// Whoever comes stands still until the gate is opened or fails.
    pub(super) fn close(&self) {
        self.set(Pass::Closed);
    }

    pub(super) fn fail(&self) {
        self.set(Pass::Fail);
    }

    fn pass(&self, operation: Operation) -> Result<(), StorageError> {
        let mut pass = self.pass.lock();
        self.changed.wait_while(&mut pass, |pass| *pass == Pass::Closed);
        if *pass == Pass::Open {
            return Ok(());
        }
        Err(StorageError::Io {
            operation,
            name: "fault disk".to_owned(),
            offset: 0,
            source: std::io::Error::other("as the test wants it"),
        })
    }
}

#[derive(Debug)]
pub(super) struct FaultDisk {
    bytes: Mutex<Vec<u8>>,
    pub(super) reads: Gate,
    pub(super) writes: Gate,
    pub(super) syncs: Gate,
}

impl FaultDisk {
    pub(super) fn new(bytes: u64) -> Arc<Self> {
        Arc::new(Self {
            bytes: Mutex::new(vec![0; usize::try_from(bytes).unwrap()]),
            reads: Gate::new(),
            writes: Gate::new(),
            syncs: Gate::new(),
        })
    }

    pub(super) fn bytes(&self) -> Vec<u8> {
        self.bytes.lock().clone()
    }
}

impl Device for FaultDisk {
    fn name(&self) -> &'static str {
        "fault disk"
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<(), StorageError> {
        self.reads.pass(Operation::Read)?;
        let from = usize::try_from(offset).unwrap();
        buffer.copy_from_slice(&self.bytes.lock()[from..from + buffer.len()]);
        Ok(())
    }

    fn write_at(&self, buffers: &mut [IoSlice<'_>], offset: u64) -> Result<(), StorageError> {
        self.writes.pass(Operation::Write)?;
        let (mut bytes, mut at) = (self.bytes.lock(), usize::try_from(offset).unwrap());
        for buffer in buffers {
            bytes[at..at + buffer.len()].copy_from_slice(buffer);
            at += buffer.len();
        }
        Ok(())
    }

    fn zero_at(&self, offset: u64, length: u64, _allocate: bool) -> Result<(), StorageError> {
        self.writes.pass(Operation::Zero)?;
        let from = usize::try_from(offset).unwrap();
        self.bytes.lock()[from..from + usize::try_from(length).unwrap()].fill(0);
        Ok(())
    }

    fn sync(&self) -> Result<(), StorageError> {
        self.syncs.pass(Operation::Sync)
    }
}

/// The disks of a volume.
pub(super) struct World {
    pub(super) journal: Arc<FaultDisk>,
    pub(super) image: Arc<FaultDisk>,
}

impl World {
    pub(super) fn new(journal_bytes: u64) -> Self {
        let parameters = StoreParameters {
            role: Role::Volume,
            name: "disk0".to_owned(),
            volume: Uuid::from_u128(7),
            journal: Uuid::from_u128(8),
            volume_bytes: VOLUME_BYTES as u64,
            journal_bytes,
            segment_bytes: None,
            source: Uuid::nil(),
        };
        let journal = FaultDisk::new(journal_bytes);
        Store::format(journal.as_ref(), &parameters, 1).unwrap();
        Self {
            journal,
            image: FaultDisk::new(VOLUME_BYTES as u64),
        }
    }

    pub(super) fn volume(&self) -> Arc<Volume> {
        let devices = StoreDevices {
            journal: self.journal.clone(),
            image: self.image.clone(),
            maps: Vec::new(),
        };
        let store = Store::open(devices, Arc::new(SystemClock::new())).unwrap();
        Volume::start(store, Arc::new(SystemWorkers)).unwrap()
    }
}

/// A test that fails must not hang in threads that stand still.
impl Drop for World {
    fn drop(&mut self) {
        for disk in [&self.journal, &self.image] {
            for gate in [&disk.reads, &disk.writes, &disk.syncs] {
                if *gate.pass.lock() == Pass::Closed {
                    gate.open();
                }
            }
        }
    }
}
