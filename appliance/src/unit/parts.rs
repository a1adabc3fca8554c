//! The seam between the unit's life cycle and what it is made of: volumes, replicas, targets, links.
//!
//! The unit calls these functions in this order: [`Parts::new`], [`Parts::start_link`], [`Parts::open_volume`]
//! for each volume, [`Parts::start_nbd`]; later volumes come and go; at the end [`Parts::stop_nbd`],
//! [`Parts::stop_link`], [`Volume::close`] for each volume. A signal while the unit starts drops the call under
//! way and goes straight to that end, so the stopping calls may come without the starting ones. Nothing else of
//! the unit knows storage.

use super::listeners::NbdListeners;
use crate::config::{Config, RemoteConfig, VolumeConfig};
use farside_protocol::control::{ErrorCode, ReplicaStatus, VolumeStatus};
use parking_lot::Mutex;
use std::sync::Arc;
use tokio::net::TcpListener;
use uuid::Uuid;

/// Why a part could not do what was asked.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{message}")]
pub(crate) struct PartError {
    /// The kind of refusal, as the control interface reports it.
    pub(crate) code: ErrorCode,
    /// What failed, where, and what to do.
    pub(crate) message: String,
}

impl PartError {
    fn not_built(what: &str) -> Self {
        let message = format!("{what} is not built yet; this version has the control side only");
        Self {
            code: ErrorCode::Failed,
            message,
        }
    }
}

/// What the parts have to know of the unit around them.
#[derive(Debug, Clone)]
pub(crate) struct Surroundings {
    /// The configuration at the start; of it, what cannot change live.
    pub(crate) config: Config,
    /// Identity of the unit.
    pub(crate) uuid: Uuid,
}

/// Everything that serves data.
#[derive(Debug)]
pub(crate) struct Parts {
    surroundings: Surroundings,
    nbd: Mutex<Option<NbdListeners>>,
    link: Mutex<Vec<TcpListener>>,
}

impl Parts {
    /// Parts that serve nothing yet.
    pub(crate) fn new(surroundings: Surroundings) -> Self {
        Self {
            surroundings,
            nbd: Mutex::default(),
            link: Mutex::default(),
        }
    }

    /// Opens the replicas found in the replicas directory and accepts links on `listeners`.
    pub(crate) async fn start_link(&self, listeners: Vec<TcpListener>) -> Result<(), PartError> {
        tracing::debug!(unit = %self.surroundings.uuid, name = self.surroundings.config.unit.name, "link listening");
        *self.link.lock() = listeners;
        Ok(())
    }

    /// Opens or creates a volume, recovers it, starts its remotes and lets hosts attach. With `force`, files
    /// that hold data which is not Farside's are taken.
    pub(crate) async fn open_volume(
        &self,
        config: &VolumeConfig,
        force: bool,
    ) -> Result<Arc<Volume>, PartError> {
        let what = if force {
            "taking over a volume's files"
        } else {
            "the volume"
        };
        Err(PartError::not_built(&format!("{what} ({})", config.name)))
    }

    /// Accepts hosts on `listeners`, for volumes open now and later.
    pub(crate) async fn start_nbd(&self, listeners: NbdListeners) -> Result<(), PartError> {
        *self.nbd.lock() = Some(listeners);
        Ok(())
    }

    /// The state of every replica; waits for nothing.
    pub(crate) fn replicas(&self) -> Vec<ReplicaStatus> {
        Vec::new()
    }

    /// Stops accepting hosts and lets requests under way finish.
    pub(crate) async fn stop_nbd(&self) {
        self.nbd.lock().take();
    }

    /// Stops accepting links, applies what has been received and closes the replicas.
    pub(crate) async fn stop_link(&self) {
        self.link.lock().clear();
    }
}

/// A volume in service.
#[derive(Debug)]
pub(crate) struct Volume {
    config: Mutex<VolumeConfig>,
}

impl Volume {
    /// The state of the volume and its remotes; waits for nothing.
    pub(crate) fn status(&self) -> VolumeStatus {
        let config = self.config.lock();
        VolumeStatus::out_of_service(&config.name, config.size_bytes, None)
    }

    /// Hosts' connections open now.
    pub(crate) fn connections(&self) -> u32 {
        0
    }

    /// Starts sending to one more remote.
    pub(crate) async fn add_remote(&self, remote: &RemoteConfig) -> Result<(), PartError> {
        Err(PartError::not_built(&format!("the link to {}", remote.name)))
    }

    /// Stops sending to a remote and forgets how far it was.
    pub(crate) async fn remove_remote(&self, name: &str) {
        self.config.lock().remotes.retain(|remote| remote.name != name);
    }

    /// Detaches hosts, writes a clean end into the journal, brings the mirror up to it and lets go of the files.
    pub(crate) async fn close(&self) {}
}
