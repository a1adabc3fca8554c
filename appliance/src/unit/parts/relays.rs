//! Replicas that are sent on: A to B to C.
//!
//! The journal of a replica has the records of its volume's, so that a link reads it like that of a volume. One task sees to it that every
//! replica in service is sent on to those it should be, and no other: replicas come and go by greetings, reloads and hand-overs.

use super::sending::SendingAs;
use super::status::{KnownOf, sent_status};
use crate::config::{RemoteConfig, ReplicaConfig};
use crate::link::{LinkState, LinkStatus, Sender};
use crate::unit::limits::{RELAY_AGAIN, RELAY_LOOK};
use crate::volume::LinkSource;
use farside_protocol::control::RemoteStatus;
use farside_remote::{Replica, ReplicaSet};
use farside_storage::{StorageError, open_map, remove_map};
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::sync::Arc;
use tokio::sync::watch;
use tokio::time::{Instant, timeout};

/// One remote of a replica.
#[derive(Debug)]
struct Onward {
    config: RemoteConfig,
    source: Arc<LinkSource>,
    sender: Option<Sender>,
}

/// One that could not be begun.
#[derive(Debug)]
struct Failed {
    config: RemoteConfig,
    problem: String,
    again_at: Instant,
}

/// A replica in service and whom it is sent on to.
#[derive(Debug)]
struct Relay {
    replica: Arc<Replica>,
    onward: BTreeMap<String, Onward>,
    /// Remotes for which that failed, and why.
    failed: BTreeMap<String, Failed>,
}

/// What a unit sends on.
#[derive(Debug)]
pub(super) struct Relays {
    set: Arc<ReplicaSet>,
    sending: SendingAs,
    /// The remotes of each replica; `None`: the unit stops.
    wanted: watch::Sender<Option<BTreeMap<String, Vec<RemoteConfig>>>>,
    relays: Mutex<BTreeMap<String, Relay>>,
}

fn remotes_of(replicas: &[ReplicaConfig]) -> BTreeMap<String, Vec<RemoteConfig>> {
    let named = |replica: &ReplicaConfig| (replica.name.clone(), replica.remotes.clone());
    replicas.iter().map(named).collect()
}

impl Relays {
    pub(super) fn new(set: Arc<ReplicaSet>, sending: SendingAs, replicas: &[ReplicaConfig]) -> Self {
        Self {
            set,
            sending,
            wanted: watch::Sender::new(Some(remotes_of(replicas))),
            relays: Mutex::default(),
        }
    }

    /// From now on it is to be like this.
    pub(super) fn want(&self, replicas: &[ReplicaConfig]) {
        self.wanted.send_modify(|wanted| {
            if let Some(wanted) = wanted {
                *wanted = remotes_of(replicas);
            }
        });
    }

    /// Ends all of it; [`run`](Self::run) returns when that is done.
    pub(super) fn stop(&self) {
        self.wanted.send_replace(None);
    }

    /// What is sent on, until it is told to stop.
    pub(super) async fn run(self: Arc<Self>) {
        let mut told = self.wanted.subscribe();
        loop {
            let wanted = told.borrow_and_update().clone();
            let stops = wanted.is_none();
            self.see_to(&wanted.unwrap_or_default(), stops).await;
            if stops {
                return;
            }
            // Replicas come and go without a word to this.
            let _ = timeout(RELAY_LOOK, told.changed()).await;
        }
    }

    async fn see_to(&self, wanted: &BTreeMap<String, Vec<RemoteConfig>>, stops: bool) {
        let here = if stops { Vec::new() } else { self.set.replicas() };
        self.end(|relay| {
            let same = |replica: &Arc<Replica>| Arc::ptr_eq(replica, &relay.replica);
            !here.iter().any(same) || relay.replica.is_stopping()
        })
        .await;
        for replica in here.iter().filter(|replica| !replica.is_stopping()) {
            let name = replica.store().name().to_owned();
            let remotes = wanted.get(&name).map_or(&[][..], Vec::as_slice);
            self.end_remotes(&name, remotes).await;
            self.forget_others(replica, remotes).await;
            for remote in remotes {
                self.begin(&name, replica, remote).await;
            }
        }
    }

    /// Ends the links of replicas that are gone.
    async fn end(&self, is_gone: impl Fn(&Relay) -> bool) {
        let gone: Vec<Relay> = {
            let mut relays = self.relays.lock();
            relays
                .extract_if(.., |_, relay| is_gone(relay))
                .map(|(_, relay)| relay)
                .collect()
        };
        for onward in gone.into_iter().flat_map(|relay| relay.onward.into_values()) {
            onward.end().await;
        }
    }

    /// Ends the links of a replica that are not as they should be.
    async fn end_remotes(&self, name: &str, remotes: &[RemoteConfig]) {
        let ended: Vec<Onward> = {
            let mut relays = self.relays.lock();
            let Some(relay) = relays.get_mut(name) else { return };
            relay.failed.retain(|_, failed| remotes.contains(&failed.config));
            let other = relay
                .onward
                .extract_if(.., |_, onward| !remotes.contains(&onward.config));
            other.map(|(_, onward)| onward).collect()
        };
        for onward in ended {
            onward.end().await;
        }
    }

    /// The journal keeps nothing for remotes that are not there any more.
    async fn forget_others(&self, replica: &Arc<Replica>, remotes: &[RemoteConfig]) {
        // What a degraded one keeps cannot be taken away.
        let is_well = replica.store().failure().is_none();
        for slot in replica
            .store()
            .superblock()
            .consumers
            .into_iter()
            .filter(|_| is_well)
        {
            if remotes.iter().any(|remote| remote.name == slot.name) {
                continue;
            }
            let (replica, name) = (replica.clone(), slot.name.clone());
            let volume = replica.store().name().to_owned();
            let forgotten = tokio::task::spawn_blocking(move || {
                replica.store().remove_consumer(&name)?;
                remove_map(replica.files(), replica.store().name(), &name)
            });
            match forgotten.await {
                Ok(Ok(())) => {
                    tracing::info!(replica = volume, remote = slot.name, "not sent on to it any more")
                }
                Ok(Err(error)) => {
                    tracing::error!(replica = volume, remote = slot.name, "not forgotten: {error}")
                }
                Err(error) => tracing::error!(replica = volume, remote = slot.name, "not forgotten: {error}"),
            }
        }
    }

    /// Begins to send a replica on, unless that is being done, or failed.
    async fn begin(&self, name: &str, replica: &Arc<Replica>, remote: &RemoteConfig) {
        let is_known = self.relays.lock().get(name).is_some_and(|relay| {
            let waits = |failed: &Failed| Instant::now() < failed.again_at;
            relay.onward.contains_key(&remote.name) || relay.failed.get(&remote.name).is_some_and(waits)
        });
        if is_known {
            return;
        }
        let made = self.source(replica, &remote.name).await;
        let mut relays = self.relays.lock();
        let relay = relays.entry(name.to_owned()).or_insert_with(|| Relay {
            replica: replica.clone(),
            onward: BTreeMap::new(),
            failed: BTreeMap::new(),
        });
        match made {
            Ok(source) => {
                let mut config = self.sending.to(remote, Arc::default());
                // What was merged before it came here is in its journal like that.
                config.merge = true;
                let sender = remote.send.then(|| Sender::spawn(source.clone(), config));
                let onward = Onward {
                    config: remote.clone(),
                    source,
                    sender,
                };
                relay.failed.remove(&remote.name);
                relay.onward.insert(remote.name.clone(), onward);
            }
            Err(problem) => {
                let failed = Failed {
                    config: remote.clone(),
                    problem,
                    again_at: Instant::now() + RELAY_AGAIN,
                };
                let known = relay.failed.get(&remote.name);
                if known.is_none_or(|known| known.problem != failed.problem) {
                    tracing::error!(
                        replica = name,
                        remote = remote.name,
                        "not sent on: {}",
                        failed.problem
                    );
                }
                relay.failed.insert(remote.name.clone(), failed);
            }
        }
    }

    async fn source(&self, replica: &Arc<Replica>, remote: &str) -> Result<Arc<LinkSource>, String> {
        let (replica, unit, remote) = (replica.clone(), self.sending.unit.clone(), remote.to_owned());
        let making = tokio::task::spawn_blocking(move || {
            let files = replica.files().clone();
            LinkSource::of_replica(replica, unit, &remote, |superblock| {
                open_map(&files, &remote, superblock)
            })
        });
        let made: Result<_, StorageError> = making.await.map_err(|error| error.to_string())?;
        made.map(Arc::new).map_err(|error| error.to_string())
    }

    /// The remotes of a replica.
    pub(super) fn status(&self, name: &str) -> Vec<RemoteStatus> {
        let relays = self.relays.lock();
        let Some(relay) = relays.get(name) else {
            return Vec::new();
        };
        let known = KnownOf {
            created_at_us: relay.replica.opened_as().created_at_us,
            had_all_us: 0,
        };
        let onward = relay.onward.values();
        let mut all: Vec<RemoteStatus> = onward
            .map(|onward| {
                let status = onward.status();
                sent_status(
                    relay.replica.store(),
                    &onward.config,
                    (&onward.source, &status),
                    known,
                )
            })
            .collect();
        all.extend(relay.failed.values().map(|failed| RemoteStatus {
            name: failed.config.name.clone(),
            address: failed.config.address.clone(),
            detail: Some(failed.problem.clone()),
            ..RemoteStatus::default()
        }));
        all.sort_by(|one, other| one.name.cmp(&other.name));
        all
    }
}

impl Onward {
    fn status(&self) -> LinkStatus {
        self.sender.as_ref().map_or_else(
            || LinkStatus {
                state: LinkState::Held,
                detail: "sending on was stopped ('send = false'): the journal of the replica keeps everything for it as long as there is room"
                    .to_owned(),
                ..LinkStatus::default()
            },
            Sender::status,
        )
    }

    async fn end(self) {
        if let Some(sender) = self.sender {
            sender.stop().await;
        }
    }
}
