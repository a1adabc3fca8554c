//! What a link sends: a volume, or a replica that is sent on.

use super::Volume;
use farside_protocol::journal::Superblock;
use farside_remote::{Replica, Sink as _};
use farside_storage::{Store, Workers};
use std::sync::Arc;
use tokio::sync::watch;

/// The store behind a link, and who keeps it.
#[derive(Debug, Clone)]
pub(super) enum Origin {
    Volume(Arc<Volume>),
    Replica(Arc<Replica>),
}

impl Origin {
    pub(super) fn store(&self) -> &Arc<Store> {
        match self {
            Self::Volume(volume) => volume.store(),
            Self::Replica(replica) => replica.store(),
        }
    }

    /// The superblock at the start, for what never changes.
    pub(super) fn opened_as(&self) -> &Superblock {
        match self {
            Self::Volume(volume) => volume.opened_as(),
            Self::Replica(replica) => replica.opened_as(),
        }
    }

    pub(super) fn workers(&self) -> &dyn Workers {
        match self {
            Self::Volume(volume) => &*volume.shared.workers,
            Self::Replica(replica) => replica.workers(),
        }
    }

    /// A remote has confirmed more.
    pub(super) fn remote_moved(&self) {
        match self {
            Self::Volume(volume) => volume.remote_moved(),
            Self::Replica(replica) => replica.remote_moved(),
        }
    }

    pub(super) fn changed(&self) -> watch::Receiver<u64> {
        match self {
            Self::Volume(volume) => volume.changed(),
            Self::Replica(replica) => replica.changed(),
        }
    }

    /// Size and epoch of the volume as they are now. A replica learns both from its sender.
    pub(super) fn size_and_epoch(&self) -> (u64, u64) {
        let store = self.store();
        let epoch = match self {
            Self::Volume(_) => store.opened().epoch,
            Self::Replica(_) => store.points().durable.epoch.max(1),
        };
        (store.volume_bytes(), epoch)
    }
}
