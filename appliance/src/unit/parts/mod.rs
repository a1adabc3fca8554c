//! The seam between the unit's life cycle and what it is made of: volumes, replicas, targets, links.
//!
//! The unit calls these functions in this order: [`Parts::new`], [`Parts::start_link`], [`Parts::open_volume`]
//! for each volume, [`Parts::start_targets`]; later volumes come and go; at the end [`Parts::stop_targets`],
//! [`Parts::stop_link`], [`Volume::close`] for each volume. A signal while the unit starts drops the call under
//! way and goes straight to that end, so the stopping calls may come without the starting ones. Nothing else of
//! the unit knows storage.

mod aside;
mod copying;
mod error;
mod exported;
mod exports;
mod files;
mod iscsi;
mod known;
mod moments;
mod past;
mod receiving;
mod relays;
mod rounds;
mod sending;
mod status;
mod trend;
mod verifying;
mod volume;
#[cfg(test)]
mod tests;

pub(crate) use error::PartError;
pub(crate) use files::{files_of, size_to_adopt};
pub(crate) use past::PastOf;
pub(crate) use volume::Volume;

use super::limits::DRAIN_TIMEOUT;
use super::listeners::{NbdListeners, SocketFile};
use crate::config::{Access, Config, VolumeConfig};
use crate::pairing::Pairing;
use crate::targets::nbd::{Service, serve};
use crate::tls::{self, TlsError};
use exports::{UnitExports, moments_of};
use farside_protocol::control::{ErrorCode, ReplicaStatus};
use farside_storage::{Clock, OpenMode, SystemClock};
use iscsi::IscsiServer;
use known::KnownVolumes;
use parking_lot::Mutex;
use past::House;
use receiving::LinkServer;
use sending::SendingAs;
use std::sync::Arc;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use uuid::Uuid;

/// What the parts have to know of the unit around them.
#[derive(Debug, Clone)]
pub(crate) struct Surroundings {
    /// The configuration at the start; of it, what cannot change live.
    pub(crate) config: Config,
    /// Identity of the unit.
    pub(crate) uuid: Uuid,
    /// Its key, and the units it knows.
    pub(crate) pairing: Arc<Pairing>,
}

/// Everything that serves data.
#[derive(Debug)]
pub(crate) struct Parts {
    surroundings: Surroundings,
    clock: Arc<dyn Clock>,
    /// Random for this start of the process: tells two senders with one identity apart.
    instance: Uuid,
    known: KnownVolumes,
    exports: Arc<UnitExports>,
    nbd: NbdServer,
    iscsi: IscsiServer,
    link: Mutex<Option<Arc<LinkServer>>>,
}

/// The NBD listeners in service.
#[derive(Debug)]
struct NbdServer {
    service: Service<UnitExports>,
    stop: CancellationToken,
    tasks: TaskTracker,
    socket: Mutex<Option<SocketFile>>,
}

impl Parts {
    /// Parts that serve nothing yet.
    pub(crate) fn new(surroundings: Surroundings) -> Self {
        let exports = Arc::new(UnitExports::default());
        let mut service = Service::new(exports.clone());
        let connections = surroundings.config.limits.nbd_connections;
        service.settings.connections = usize::try_from(connections).unwrap_or(usize::MAX);
        let tls = surroundings.config.nbd.tls.as_ref();
        service.security.required = tls.is_some_and(|tls| tls.required);
        let nbd = NbdServer {
            service,
            stop: CancellationToken::new(),
            tasks: TaskTracker::new(),
            socket: Mutex::default(),
        };
        Self {
            known: KnownVolumes::in_directory(&surroundings.config.unit.data_dir),
            surroundings,
            clock: Arc::new(SystemClock::new()),
            instance: Uuid::new_v4(),
            exports,
            iscsi: IscsiServer::new(nbd.service.counters.clone()),
            nbd,
            link: Mutex::default(),
        }
    }

    /// What links of this unit say of it.
    fn sending(&self) -> SendingAs {
        let unit = &self.surroundings;
        SendingAs {
            unit: (unit.uuid, unit.config.unit.name.clone()),
            instance: self.instance,
            window_bytes: unit.config.link.window_bytes,
            pairing: unit.pairing.clone(),
            trust_network: unit.config.link.trust_network,
        }
    }

    /// Opens the replicas found in the replicas directory and accepts links on `listeners`.
    pub(crate) async fn start_link(&self, listeners: Vec<TcpListener>) -> Result<(), PartError> {
        if listeners.is_empty() {
            return Ok(());
        }
        let server = LinkServer::new(&self.surroundings, self.sending(), self.clock.clone())?;
        let server = Arc::new(server);
        *self.link.lock() = Some(server.clone());
        self.exports.set_replicas(Some(server.clone()));
        self.exports
            .open_replicas(self.surroundings.config.link.export_replicas);
        server.start(listeners).await
    }

    /// Opens or creates a volume, recovers it, starts its remotes and lets hosts attach. The mode counts if it is created.
    pub(crate) async fn open_volume(
        &self,
        config: &VolumeConfig,
        mode: OpenMode,
    ) -> Result<Arc<Volume>, PartError> {
        let volume = Volume::open(self, config, mode).await?;
        self.exports.add(volume.disk().clone(), config.access.clone());
        Ok(volume)
    }

    /// From now on hosts may do this with a volume, if it is open.
    pub(crate) fn set_access(&self, name: &str, access: Access) {
        self.exports.set_access(name, access);
    }

    /// Whether hosts may attach replicas from now on.
    pub(crate) fn open_replicas(&self, open: bool) {
        self.exports.open_replicas(open);
    }

    /// Reads certificates and secrets again; connections that exist keep what they have.
    ///
    /// # Errors
    /// When one cannot be used: what was in use of its kind stays in use.
    pub(crate) fn read_credentials(&self) -> Result<(), PartError> {
        self.iscsi.read_secrets(&self.surroundings.config)?;
        let certificates = self.read_certificates();
        certificates.map_err(|error| PartError::failed(format!("nbd.tls: {error}")))
    }

    fn read_certificates(&self) -> Result<(), TlsError> {
        if let Some(tls) = &self.surroundings.config.nbd.tls {
            let config = tls::load(&tls.files)?;
            self.nbd.service.security.tls.set(Some(config));
        }
        Ok(())
    }

    /// Forgets a volume that was removed on purpose.
    pub(crate) fn forget_volume(&self, name: &str) -> Result<(), PartError> {
        self.known.forget(name)
    }

    /// Accepts hosts on `listeners`, for volumes open now and later.
    pub(crate) async fn start_targets(
        &self,
        listeners: NbdListeners,
        portals: Vec<TcpListener>,
    ) -> Result<(), PartError> {
        self.iscsi
            .start(&self.surroundings.config, self.exports.clone(), portals)?;
        self.read_credentials()?;
        for listener in listeners.tcp {
            self.nbd
                .tasks
                .spawn(serve(listener, self.nbd.service.clone(), self.nbd.stop.clone()));
        }
        if let Some(unix) = listeners.unix {
            *self.nbd.socket.lock() = Some(unix.file);
            let mut service = self.nbd.service.clone();
            service.security.local = true;
            self.nbd
                .tasks
                .spawn(serve(unix.listener, service, self.nbd.stop.clone()));
        }
        self.nbd.tasks.close();
        Ok(())
    }

    /// The state of every replica; waits for nothing.
    pub(crate) fn replicas(&self) -> Vec<ReplicaStatus> {
        let link = self.link.lock().clone();
        let mut all = link.map_or_else(Vec::new, |link| link.status());
        for replica in &mut all {
            let attached = self
                .nbd
                .service
                .counters
                .attached_below(&moments_of(&replica.name));
            replica.connections = u32::try_from(attached).unwrap_or(u32::MAX);
        }
        all
    }

    /// The past of a replica in service.
    pub(crate) fn past(&self, name: &str) -> Result<PastOf, PartError> {
        let link = self.link.lock().clone();
        let replica = link.as_ref().and_then(|link| link.replica(name));
        replica.map(|replica| PastOf::new(replica, self.house())).ok_or_else(|| PartError {
            code: ErrorCode::NotFound,
            message: format!(
                "there is no replica of '{}' in service here; ask the unit that keeps it, and see 'farside status'",
                name.escape_default()
            ),
        })
    }

    fn house(&self) -> House {
        House {
            scratch_dir: self.surroundings.config.unit.data_dir.clone(),
            stop: self.nbd.stop.clone(),
            tasks: self.nbd.tasks.clone(),
        }
    }

    /// Stops accepting hosts and lets requests under way finish.
    pub(crate) async fn stop_targets(&self) {
        self.nbd.stop.cancel();
        self.iscsi.stop().await;
        self.nbd.tasks.close();
        self.nbd.tasks.wait().await;
        self.nbd.socket.lock().take();
    }

    /// Gives remotes that are connected a moment to receive the rest, then ends all links, applies what has been
    /// received here and closes the replicas.
    pub(crate) async fn stop_link(&self) {
        let volumes = self.exports.links();
        // What is not sent by then is sent after the next start.
        let _ = tokio::time::timeout(DRAIN_TIMEOUT, async {
            for links in &volumes {
                links.drained().await;
            }
        })
        .await;
        for links in &volumes {
            links.stop_all().await;
        }
        let link = self.link.lock().take();
        self.exports.set_replicas(None);
        if let Some(link) = link {
            link.stop().await;
        }
    }
}
