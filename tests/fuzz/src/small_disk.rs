//! A small disk in memory that says when something is outside of it, and what a target needs to serve it to one client.

use bytes::Bytes;
use farside::targets::{Disk, DiskError, DiskGeometry, Position, Update};
use farside::targets::{Export, Exports, Listener, ScsiAddress, Stream};
use farside_storage::{Allocation, Stretch};
use parking_lot::Mutex;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Size of the disk.
pub(crate) const DISK_BYTES: usize = 64 << 10;

/// A disk in memory.
#[derive(Debug)]
pub(crate) struct Small {
    content: Mutex<Vec<u8>>,
    journaled: AtomicU64,
}

impl Disk for Small {
    fn geometry(&self) -> DiskGeometry {
        DiskGeometry {
            size_bytes: DISK_BYTES as u64,
            preferred_block_bytes: 4096,
            read_only: false,
        }
    }

    async fn update(&self, batch: &mut Vec<Update>) -> Result<Position, DiskError> {
        let mut content = self.content.lock();
        let count = batch.len() as u64;
        for update in batch.drain(..) {
            let (offset, length, data) = match update {
                Update::Write { offset, data } => (offset, data.len(), Some(data)),
                Update::Trim { offset, length } | Update::Zero { offset, length, .. } => {
                    (offset, usize::try_from(length).expect("inside the disk"), None)
                }
            };
            let start = usize::try_from(offset).expect("inside the disk");
            let part = content.get_mut(start..start + length).expect("inside the disk");
            match data {
                Some(data) => part.copy_from_slice(&data),
                None => part.fill(0),
            }
        }
        Ok(self.journaled.fetch_add(count, Ordering::Relaxed) + count)
    }

    fn read_cached(&self, offset: u64, into: &mut [u8]) -> Result<bool, DiskError> {
        // Some reads have to wait, as those of a disk do.
        if offset & 512 != 0 {
            return Ok(false);
        }
        let start = usize::try_from(offset).expect("inside the disk");
        let content = self.content.lock();
        let part = content.get(start..start + into.len());
        into.copy_from_slice(part.expect("inside the disk"));
        Ok(true)
    }

    async fn read(
        self: &Arc<Self>,
        offset: u64,
        length: u32,
        mut into: Vec<u8>,
    ) -> Result<Vec<u8>, DiskError> {
        tokio::task::yield_now().await;
        let start = usize::try_from(offset).expect("inside the disk");
        let content = self.content.lock();
        into.extend_from_slice(
            content
                .get(start..start + length as usize)
                .expect("inside the disk"),
        );
        Ok(into)
    }

    async fn modify(
        self: &Arc<Self>,
        offset: u64,
        length: u64,
        judge: impl FnOnce(&[u8]) -> Option<Bytes> + Send,
    ) -> Result<Option<Position>, DiskError> {
        tokio::task::yield_now().await;
        let mut content = self.content.lock();
        let start = usize::try_from(offset).expect("inside the disk");
        let length = usize::try_from(length).expect("inside the disk");
        let part = content.get_mut(start..start + length).expect("inside the disk");
        let Some(data) = judge(part) else { return Ok(None) };
        part.get_mut(..data.len())
            .expect("inside the range")
            .copy_from_slice(&data);
        Ok(Some(self.journaled.fetch_add(1, Ordering::Relaxed) + 1))
    }

    async fn allocation(
        self: &Arc<Self>,
        offset: u64,
        length: u64,
        most: usize,
    ) -> Result<Vec<Stretch>, DiskError> {
        tokio::task::yield_now().await;
        assert!(offset + length <= DISK_BYTES as u64, "inside the disk");
        // Of every four KiB the last is said to be zero, though it may not be: what the messages look like is at stake.
        let (mut found, mut at) = (Vec::new(), offset);
        while at < offset + length && found.len() < most {
            let next = (at / 1024 * 1024 + 1024).min(offset + length);
            let allocation = match at / 1024 % 4 {
                3 => Allocation::Hole,
                2 => Allocation::Zero,
                _ => Allocation::Data,
            };
            found.push(Stretch {
                length: next - at,
                allocation,
            });
            at = next;
        }
        Ok(found)
    }

    fn journaled(&self) -> Position {
        self.journaled.load(Ordering::Relaxed)
    }

    async fn durable(&self, _position: Position) -> Result<(), DiskError> {
        tokio::task::yield_now().await;
        Ok(())
    }
}

/// The one disk there is, `disk0`.
#[derive(Debug)]
pub(crate) struct One(Arc<Small>);

impl Default for One {
    fn default() -> Self {
        Self(Arc::new(Small {
            content: Mutex::new(vec![0; DISK_BYTES]),
            journaled: AtomicU64::new(0),
        }))
    }
}

impl Exports for One {
    type Disk = Small;

    fn find(&self, name: &str) -> Option<Export<Small>> {
        let found = name == "disk0";
        found.then(|| Export {
            name: name.to_owned(),
            description: "small".to_owned(),
            requires_tls: false,
            uuid: [1; 16],
            scsi: ScsiAddress::of_its_own("disk0"),
            disk: Arc::clone(&self.0),
        })
    }

    fn names(&self) -> Vec<String> {
        vec!["disk0".to_owned()]
    }
}

/// One connection, and never another.
pub(crate) struct Once<S>(Mutex<Option<S>>);

impl<S> Once<S> {
    pub(crate) fn new(stream: S) -> Self {
        Self(Mutex::new(Some(stream)))
    }
}

impl<S: Stream> Listener for Once<S> {
    type Stream = S;

    async fn accept(&self) -> io::Result<(S, String)> {
        let wire = self.0.lock().take();
        match wire {
            Some(wire) => Ok((wire, "the fuzzer".to_owned())),
            None => std::future::pending().await,
        }
    }
}
