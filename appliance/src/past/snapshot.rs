//! The disk itself, as the NBD target sees it.

use super::scratch::{Scratch, ScratchError};
use crate::targets::{Disk, DiskError, DiskGeometry, Export, Exports, Position, ScsiAddress, Update};
use bytes::Bytes;
use farside_remote::Replica;
use farside_storage::{Allocation, Stretch, View};
use std::io;
use std::path::Path;
use std::sync::Arc;
use tokio_util::sync::CancellationToken;

/// A replica as it was at one moment.
#[derive(Debug)]
pub struct Snapshot {
    view: View,
    scratch: Option<Scratch>,
    closing: CancellationToken,
    /// In use until nothing of the above is: whoever takes the replica out of service waits for it.
    _replica: Arc<Replica>,
}

impl Snapshot {
    /// Read-only, or with a scratch in a directory. Hosts are detached when `closing` is cancelled.
    ///
    /// # Errors
    /// The operating system's, when there can be no scratch.
    pub fn new(
        (view, replica): (View, Arc<Replica>),
        scratch: Option<&Path>,
        closing: CancellationToken,
    ) -> io::Result<Self> {
        let scratch = scratch.map(|directory| Scratch::new(directory, view.bytes()));
        Ok(Self {
            view,
            scratch: scratch.transpose()?,
            closing,
            _replica: replica,
        })
    }

    /// The moment behind it.
    #[must_use]
    pub fn view(&self) -> &View {
        &self.view
    }

    fn read_now(&self, offset: u64, buffer: &mut [u8]) -> Result<(), DiskError> {
        let read = match &self.scratch {
            None => self.view.read(offset, buffer).map_err(ScratchError::View),
            Some(scratch) => scratch.read(&self.view, offset, buffer),
        };
        read.map_err(|error| failed(&error))
    }

    fn write_now(&self, updates: &[Update]) -> Result<(), DiskError> {
        let scratch = self.scratch.as_ref().ok_or(DiskError::ReadOnly)?;
        for update in updates {
            let written = match update {
                Update::Write { offset, data } => {
                    scratch.write(&self.view, (*offset, data.len() as u64), Some(data))
                }
                Update::Trim { offset, length } | Update::Zero { offset, length, .. } => {
                    scratch.write(&self.view, (*offset, *length), None)
                }
            };
            written.map_err(|error| failed(&error))?;
        }
        Ok(())
    }

    /// Runs what may wait for a disk where it may.
    async fn elsewhere<T: Send + 'static>(
        self: &Arc<Self>,
        work: impl FnOnce(&Self) -> Result<T, DiskError> + Send + 'static,
    ) -> Result<T, DiskError> {
        let snapshot = Arc::clone(self);
        let done = tokio::task::spawn_blocking(move || work(&snapshot)).await;
        done.unwrap_or(Err(DiskError::Io))
    }
}

fn failed(error: &ScratchError) -> DiskError {
    tracing::warn!("view of a moment: {error}");
    match error {
        ScratchError::File(error) if error.kind() == io::ErrorKind::StorageFull => DiskError::NoSpace,
        _ => DiskError::Io,
    }
}

impl Disk for Snapshot {
    fn geometry(&self) -> DiskGeometry {
        DiskGeometry {
            size_bytes: self.view.bytes(),
            preferred_block_bytes: 4096,
            read_only: self.scratch.is_none(),
        }
    }

    async fn update(&self, batch: &mut Vec<Update>) -> Result<Position, DiskError> {
        let updates = std::mem::take(batch);
        // As a write to the page cache: it waits for a disk only when memory is short.
        self.write_now(&updates).map(|()| 0)
    }

    fn read_cached(&self, _offset: u64, _into: &mut [u8]) -> Result<bool, DiskError> {
        Ok(false)
    }

    async fn read(
        self: &Arc<Self>,
        offset: u64,
        length: u32,
        mut into: Vec<u8>,
    ) -> Result<Vec<u8>, DiskError> {
        self.elsewhere(move |snapshot| {
            let start = into.len();
            into.resize(start + length as usize, 0);
            snapshot.read_now(offset, &mut into[start..])?;
            Ok(into)
        })
        .await
    }

    async fn modify(
        self: &Arc<Self>,
        _offset: u64,
        _length: u64,
        _judge: impl FnOnce(&[u8]) -> Option<Bytes> + Send,
    ) -> Result<Option<Position>, DiskError> {
        // Only SCSI asks for this, and moments are not offered there.
        Err(DiskError::ReadOnly)
    }

    async fn allocation(
        self: &Arc<Self>,
        _offset: u64,
        length: u64,
        _most: usize,
    ) -> Result<Vec<Stretch>, DiskError> {
        Ok(vec![Stretch {
            length,
            allocation: Allocation::Data,
        }])
    }

    fn journaled(&self) -> Position {
        0
    }

    async fn durable(&self, _position: Position) -> Result<(), DiskError> {
        Ok(())
    }

    fn closing(&self) -> CancellationToken {
        self.closing.clone()
    }
}

/// One disk under one name, which is also what the empty name stands for.
#[derive(Debug)]
pub struct OneExport {
    /// The name.
    pub name: String,
    /// What it is, for people.
    pub description: String,
    /// The disk.
    pub disk: Arc<Snapshot>,
}

impl Exports for OneExport {
    type Disk = Snapshot;

    fn find(&self, name: &str) -> Option<Export<Snapshot>> {
        (name == self.name).then(|| Export {
            name: self.name.clone(),
            description: self.description.clone(),
            requires_tls: false,
            uuid: [0; 16],
            scsi: ScsiAddress::of_its_own(&self.name),
            disk: Arc::clone(&self.disk),
        })
    }

    fn names(&self) -> Vec<String> {
        vec![self.name.clone()]
    }
}
