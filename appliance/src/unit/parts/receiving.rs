//! The receiving side of the unit: replicas, and the listeners through which they are fed.

use super::Surroundings;
use super::error::PartError;
use super::relays::Relays;
use super::sending::SendingAs;
use super::status::{aside_status, idle_replica_status, replica_status};
use crate::config::ReplicaConfig;
use crate::pairing::LinkDoor;
use farside_protocol::control::ReplicaStatus;
use farside_remote::{Receiver, ReceiverConfig, Replica, ReplicaSet, ReplicaSetConfig};
use farside_storage::Clock;
use std::sync::Arc;
use tokio::net::TcpListener;
use tokio_util::task::TaskTracker;

fn place_images(set: &ReplicaSet, replicas: &[ReplicaConfig]) {
    let place = |replica: &ReplicaConfig| Some((replica.name.clone(), replica.image.clone()?));
    set.place_images(replicas.iter().filter_map(place).collect());
}

/// Replicas and their receiver.
#[derive(Debug)]
pub(super) struct LinkServer {
    set: Arc<ReplicaSet>,
    receiver: Arc<Receiver<Arc<ReplicaSet>>>,
    door: Arc<LinkDoor>,
    relays: Arc<Relays>,
    tasks: TaskTracker,
}

impl LinkServer {
    /// Finds the replicas; nothing is open yet and nobody let in.
    pub(super) fn new(
        surroundings: &Surroundings,
        sending: SendingAs,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, PartError> {
        let config = &surroundings.config;
        let directory = config.unit.replicas_dir.clone();
        let set_config = ReplicaSetConfig {
            unit_name: config.unit.name.clone(),
            directory: directory.clone(),
            journal_bytes: config.link.journal_size_bytes,
            history_bytes: config.link.history_size_bytes,
            accept: config.link.accept.clone(),
        };
        let found = ReplicaSet::find_in_directory(set_config, clock);
        let set = Arc::new(found.map_err(|error| {
            let place = directory.display();
            PartError::failed(format!(
                "{place}: {error}; set unit.replicas_dir to a usable directory"
            ))
        })?);
        place_images(&set, &config.replicas);
        let receiver_config = ReceiverConfig {
            unit: surroundings.uuid,
            unit_name: config.unit.name.clone(),
        };
        let door = LinkDoor {
            pairing: surroundings.pairing.clone(),
            trust_network: config.link.trust_network,
        };
        let receiver = Arc::new(Receiver::new(Arc::new(set.clone()), receiver_config));
        Ok(Self {
            relays: Arc::new(Relays::new(set.clone(), sending, &config.replicas)),
            set,
            receiver,
            door: Arc::new(door),
            tasks: TaskTracker::new(),
        })
    }

    /// Opens and recovers the replicas, then lets senders in.
    pub(super) async fn start(&self, listeners: Vec<TcpListener>) -> Result<(), PartError> {
        let set = self.set.clone();
        let opened = tokio::task::spawn_blocking(move || set.open_all()).await;
        opened.map_err(|error| PartError::failed(error.to_string()))?;
        self.warn_of_misplaced();
        for listener in listeners {
            let (receiver, door) = (self.receiver.clone(), self.door.clone());
            self.tasks
                .spawn(async move { receiver.run(listener, door).await });
        }
        self.tasks.spawn(self.relays.clone().run());
        self.tasks.close();
        Ok(())
    }

    /// Images of replicas that come from now on are to lie there.
    pub(super) fn place_images(&self, replicas: &[ReplicaConfig]) {
        place_images(&self.set, replicas);
        self.warn_of_misplaced();
        self.relays.want(replicas);
    }

    /// Tries once more to open what could not be opened.
    pub(super) async fn open_failed(&self) {
        let set = self.set.clone();
        // A panic there is logged, and the replica stays as it was.
        let _ = tokio::task::spawn_blocking(move || set.open_failed()).await;
    }

    fn warn_of_misplaced(&self) {
        for replica in self.set.replicas() {
            let name = replica.store().name();
            if let Some(problem) = self.set.misplaced(name, &replica.files().image) {
                tracing::warn!(replica = name, "{problem}");
            }
        }
    }

    /// The replicas.
    pub(super) fn set(&self) -> &Arc<ReplicaSet> {
        &self.set
    }

    /// The replica of this name, if it is in service.
    pub(super) fn replica(&self, name: &str) -> Option<Arc<Replica>> {
        let mut replicas = self.set.replicas().into_iter();
        replicas.find(|replica| replica.store().name() == name)
    }

    pub(super) fn status(&self) -> Vec<ReplicaStatus> {
        let links = self.receiver.links();
        let mut all: Vec<ReplicaStatus> = self
            .set
            .replicas()
            .iter()
            .map(|replica| {
                let link = links.iter().find(|link| link.replica == replica.store().name());
                let mut status = replica_status(replica, link);
                let misplaced = || self.set.misplaced(&status.name, &replica.files().image);
                status.problem = status.problem.take().or_else(misplaced);
                status.remotes = self.relays.status(&status.name);
                status
            })
            .collect();
        all.extend(
            self.set
                .failed()
                .iter()
                .map(|failed| idle_replica_status(&failed.name, Some(&failed.problem))),
        );
        all.extend(
            self.set
                .starting()
                .iter()
                .map(|name| idle_replica_status(name, None)),
        );
        all.extend(self.set.aside().iter().map(aside_status));
        all.sort_by(|one, other| one.name.cmp(&other.name));
        all
    }

    pub(super) async fn stop(&self) {
        self.receiver.shut_down();
        self.relays.stop();
        self.tasks.close();
        self.tasks.wait().await;
        let set = self.set.clone();
        // Nothing to do about a panic here: it is logged, and the next start recovers.
        let _ = tokio::task::spawn_blocking(move || set.shut_down()).await;
    }
}
