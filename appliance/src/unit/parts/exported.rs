//! One disk that hosts attach: a volume, or a replica as it was at a moment.

use crate::past::Snapshot;
use crate::targets::{Disk, DiskError, DiskGeometry, InCommon, Position, Update};
use crate::volume::Volume;
use bytes::Bytes;
use farside_storage::Stretch;
use std::sync::Arc;
use tokio_util::sync::{CancellationToken, DropGuard};

/// What is served.
#[derive(Debug)]
pub(super) enum Exported {
    Volume(Arc<Volume>),
    Moment {
        snapshot: Arc<Snapshot>,
        in_common: InCommon,
        /// Ends what waits for the replica when nobody uses the moment any more.
        _end: DropGuard,
    },
}

impl Exported {
    pub(super) fn of_moment(snapshot: Snapshot, in_common: InCommon) -> Self {
        Self::Moment {
            _end: snapshot.closing().drop_guard(),
            snapshot: Arc::new(snapshot),
            in_common,
        }
    }
}

impl Disk for Exported {
    fn geometry(&self) -> DiskGeometry {
        match self {
            Self::Volume(volume) => volume.geometry(),
            Self::Moment { snapshot, .. } => snapshot.geometry(),
        }
    }

    async fn update(&self, batch: &mut Vec<Update>) -> Result<Position, DiskError> {
        match self {
            Self::Volume(volume) => volume.update(batch).await,
            Self::Moment { snapshot, .. } => snapshot.update(batch).await,
        }
    }

    fn read_cached(&self, offset: u64, into: &mut [u8]) -> Result<bool, DiskError> {
        match self {
            Self::Volume(volume) => volume.read_cached(offset, into),
            Self::Moment { snapshot, .. } => snapshot.read_cached(offset, into),
        }
    }

    async fn read(self: &Arc<Self>, offset: u64, length: u32, into: Vec<u8>) -> Result<Vec<u8>, DiskError> {
        match &**self {
            Self::Volume(volume) => volume.read(offset, length, into).await,
            Self::Moment { snapshot, .. } => snapshot.read(offset, length, into).await,
        }
    }

    async fn modify(
        self: &Arc<Self>,
        offset: u64,
        length: u64,
        judge: impl FnOnce(&[u8]) -> Option<Bytes> + Send,
    ) -> Result<Option<Position>, DiskError> {
        match &**self {
            Self::Volume(volume) => volume.modify(offset, length, judge).await,
            Self::Moment { snapshot, .. } => snapshot.modify(offset, length, judge).await,
        }
    }

    async fn allocation(
        self: &Arc<Self>,
        offset: u64,
        length: u64,
        most: usize,
    ) -> Result<Vec<Stretch>, DiskError> {
        match &**self {
            Self::Volume(volume) => volume.allocation(offset, length, most).await,
            Self::Moment { snapshot, .. } => snapshot.allocation(offset, length, most).await,
        }
    }

    fn journaled(&self) -> Position {
        match self {
            Self::Volume(volume) => volume.journaled(),
            Self::Moment { snapshot, .. } => snapshot.journaled(),
        }
    }

    fn flush_here(&self) {
        if let Self::Volume(volume) = self {
            volume.flush_here();
        }
    }

    async fn durable(&self, position: Position) -> Result<(), DiskError> {
        match self {
            Self::Volume(volume) => volume.durable(position).await,
            Self::Moment { snapshot, .. } => snapshot.durable(position).await,
        }
    }

    fn in_common(&self) -> InCommon {
        match self {
            Self::Volume(_) => InCommon::Disk,
            Self::Moment { in_common, .. } => *in_common,
        }
    }

    fn closing(&self) -> CancellationToken {
        match self {
            Self::Volume(volume) => volume.closing(),
            Self::Moment { snapshot, .. } => snapshot.closing(),
        }
    }
}
