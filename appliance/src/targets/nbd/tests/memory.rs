//! A disk in memory for tests and for trying the target alone: durability, cold reads and failures on command.

use super::targets::{Disk, DiskError, DiskGeometry, Position, Update};
use super::targets::{Export, Exports, ScsiAddress};
use bytes::Bytes;
use farside_storage::{Allocation, Stretch};
use parking_lot::{Mutex, RwLock};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::SeqCst};
use std::time::Duration;
use tokio::sync::{Notify, Semaphore};
use tokio_util::sync::CancellationToken;

/// Size of what can be a hole.
const HOLE_BYTES: u64 = 4096;

/// Content and switches of a memory disk.
#[derive(Debug)]
pub(crate) struct MemoryDisk {
    content: RwLock<Vec<u8>>,
    journaled: AtomicU64,
    durable: AtomicU64,
    /// Durable only when [`sync`](Self::sync) is called.
    pub(crate) manual_sync: AtomicBool,
    synced: Notify,
    pub(crate) read_only: AtomicBool,
    /// Reads at or above this offset are cold.
    pub(crate) cold_from: AtomicU64,
    /// One permit lets one cold read finish.
    pub(crate) cold_permits: Semaphore,
    /// One permit lets one update finish; closed when updates are free.
    pub(crate) update_permits: Semaphore,
    pub(crate) fail: Mutex<Option<DiskError>>,
    pub(crate) fail_durable: Mutex<Option<DiskError>>,
    /// Number of calls of `update`, and the updates they carried.
    pub(crate) batches: AtomicUsize,
    pub(crate) updates: AtomicUsize,
    /// Number of calls of `read_cached` and `read`.
    pub(crate) reads: AtomicUsize,
    /// Number of calls of `flush_here`.
    pub(crate) flushes_here: AtomicUsize,
    /// How long one of these keeps its thread, in milliseconds.
    pub(crate) flush_here_ms: AtomicU64,
    /// Where initiators find it, if not in a target of its own.
    pub(crate) scsi: Mutex<Option<ScsiAddress>>,
    /// Cancelled when the disk goes away.
    pub(crate) closing: CancellationToken,
}

impl MemoryDisk {
    pub(crate) fn new(size_bytes: usize) -> Arc<Self> {
        let free = Semaphore::new(0);
        free.close();
        Arc::new(Self {
            content: RwLock::new(vec![0; size_bytes]),
            journaled: AtomicU64::new(0),
            durable: AtomicU64::new(0),
            manual_sync: AtomicBool::new(false),
            synced: Notify::new(),
            read_only: AtomicBool::new(false),
            cold_from: AtomicU64::new(u64::MAX),
            cold_permits: Semaphore::new(0),
            update_permits: free,
            fail: Mutex::new(None),
            fail_durable: Mutex::new(None),
            batches: AtomicUsize::new(0),
            updates: AtomicUsize::new(0),
            reads: AtomicUsize::new(0),
            flushes_here: AtomicUsize::new(0),
            flush_here_ms: AtomicU64::new(0),
            scsi: Mutex::new(None),
            closing: CancellationToken::new(),
        })
    }

    /// A disk whose updates wait for a permit each.
    #[allow(dead_code, reason = "the example does not hold updates back")]
    pub(crate) fn with_held_updates(size_bytes: usize) -> Arc<Self> {
        let mut disk = Self::new(size_bytes);
        Arc::get_mut(&mut disk).expect("not shared yet").update_permits = Semaphore::new(0);
        disk
    }

    /// Makes everything journaled so far durable.
    pub(crate) fn sync(&self) {
        self.durable.fetch_max(self.journaled.load(SeqCst), SeqCst);
        self.synced.notify_waiters();
    }

    #[allow(dead_code, reason = "the example looks at nothing")]
    pub(crate) fn content(&self, range: std::ops::Range<usize>) -> Vec<u8> {
        self.content.read()[range].to_vec()
    }

    fn failure(&self) -> Result<(), DiskError> {
        self.fail.lock().map_or(Ok(()), Err)
    }

    fn copy(&self, offset: u64, into: &mut [u8]) {
        let start = usize::try_from(offset).expect("inside the disk");
        into.copy_from_slice(&self.content.read()[start..start + into.len()]);
    }
}

impl Disk for MemoryDisk {
    fn geometry(&self) -> DiskGeometry {
        DiskGeometry {
            size_bytes: self.content.read().len() as u64,
            preferred_block_bytes: 4096,
            read_only: self.read_only.load(SeqCst),
        }
    }

    async fn update(&self, batch: &mut Vec<Update>) -> Result<Position, DiskError> {
        if let Ok(permit) = self.update_permits.acquire().await {
            permit.forget();
        }
        self.failure()?;
        self.batches.fetch_add(1, SeqCst);
        self.updates.fetch_add(batch.len(), SeqCst);
        let count = batch.len() as u64;
        let mut content = self.content.write();
        for update in batch.drain(..) {
            let (offset, length, data) = match update {
                Update::Write { offset, data } => (offset, data.len(), Some(data)),
                Update::Trim { offset, length } | Update::Zero { offset, length, .. } => {
                    (offset, usize::try_from(length).expect("inside the disk"), None)
                }
            };
            let start = usize::try_from(offset).expect("inside the disk");
            let target = &mut content[start..start + length];
            match data {
                Some(data) => target.copy_from_slice(&data),
                None => target.fill(0),
            }
        }
        Ok(self.journaled.fetch_add(count, SeqCst) + count)
    }

    fn read_cached(&self, offset: u64, into: &mut [u8]) -> Result<bool, DiskError> {
        self.reads.fetch_add(1, SeqCst);
        self.failure()?;
        if offset >= self.cold_from.load(SeqCst) {
            return Ok(false);
        }
        self.copy(offset, into);
        Ok(true)
    }

    async fn read(
        self: &Arc<Self>,
        offset: u64,
        length: u32,
        mut into: Vec<u8>,
    ) -> Result<Vec<u8>, DiskError> {
        if offset >= self.cold_from.load(SeqCst) {
            self.cold_permits.acquire().await.expect("never closed").forget();
        }
        self.failure()?;
        let start = into.len();
        into.resize(start + length as usize, 0);
        self.copy(offset, &mut into[start..]);
        Ok(into)
    }

    async fn modify(
        self: &Arc<Self>,
        offset: u64,
        length: u64,
        judge: impl FnOnce(&[u8]) -> Option<Bytes> + Send,
    ) -> Result<Option<Position>, DiskError> {
        self.failure()?;
        let mut content = self.content.write();
        let start = usize::try_from(offset).expect("inside the disk");
        let length = usize::try_from(length).expect("inside the disk");
        let part = &mut content[start..start + length];
        let Some(data) = judge(part) else { return Ok(None) };
        part[..data.len()].copy_from_slice(&data);
        Ok(Some(self.journaled.fetch_add(1, SeqCst) + 1))
    }

    /// Blocks of 4 KiB that are all zeroes are holes.
    async fn allocation(
        self: &Arc<Self>,
        offset: u64,
        length: u64,
        most: usize,
    ) -> Result<Vec<Stretch>, DiskError> {
        self.failure()?;
        let content = self.content.read();
        let mut found: Vec<Stretch> = Vec::new();
        let (mut at, end) = (offset, offset + length);
        while at < end {
            let next = (at / HOLE_BYTES * HOLE_BYTES + HOLE_BYTES).min(end);
            let index = |offset: u64| usize::try_from(offset).expect("inside the disk");
            let block = index(at / HOLE_BYTES * HOLE_BYTES)
                ..index(next.next_multiple_of(HOLE_BYTES)).min(content.len());
            let allocation = if content[block].iter().all(|byte| *byte == 0) {
                Allocation::Hole
            } else {
                Allocation::Data
            };
            let full = found.len() == most;
            match found.last_mut() {
                Some(last) if last.allocation == allocation => last.length += next - at,
                _ if full => break,
                _ => found.push(Stretch {
                    length: next - at,
                    allocation,
                }),
            }
            at = next;
        }
        Ok(found)
    }

    fn closing(&self) -> CancellationToken {
        self.closing.clone()
    }

    fn flush_here(&self) {
        self.flushes_here.fetch_add(1, SeqCst);
        let hangs = Duration::from_millis(self.flush_here_ms.load(SeqCst));
        if !hangs.is_zero() {
            tokio::task::block_in_place(|| std::thread::sleep(hangs));
        }
    }

    fn journaled(&self) -> Position {
        self.journaled.load(SeqCst)
    }

    async fn durable(&self, position: Position) -> Result<(), DiskError> {
        loop {
            let synced = self.synced.notified();
            self.fail_durable.lock().map_or(Ok(()), Err)?;
            if !self.manual_sync.load(SeqCst) {
                self.sync();
            }
            if self.durable.load(SeqCst) >= position {
                return Ok(());
            }
            synced.await;
        }
    }
}

/// Named memory disks that come and go.
#[derive(Debug, Default)]
pub(crate) struct MemoryExports(pub(crate) Mutex<BTreeMap<String, Arc<MemoryDisk>>>);

impl Exports for MemoryExports {
    type Disk = MemoryDisk;

    fn find(&self, name: &str) -> Option<Export<MemoryDisk>> {
        let disk = Arc::clone(self.0.lock().get(name)?);
        let scsi = disk.scsi.lock().clone();
        Some(Export {
            name: name.to_owned(),
            description: format!("memory disk {name}"),
            requires_tls: name.starts_with("secret"),
            uuid: [1; 16],
            scsi: scsi.unwrap_or_else(|| ScsiAddress::of_its_own(name)),
            disk,
        })
    }

    fn names(&self) -> Vec<String> {
        self.0.lock().keys().cloned().collect()
    }
}
