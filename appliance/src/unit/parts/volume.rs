//! A volume in service: its store opened or made, its remotes linked, hosts let in.

use super::Parts;
use super::error::PartError;
use super::exports::UnitExports;
use super::files::{Opening, discard, files_of, open_or_create, report_start};
use super::rounds::{Rounds, file_of};
use super::sending::{Link, Links, SendingAs, Served};
use super::status::volume_status;
use crate::config::{RemoteConfig, VolumeConfig};
use crate::link::Sender;
use crate::targets::Counters;
use crate::unit::limits::{DETACH_TIMEOUT, DRAIN_POLL};
use crate::volume::{LinkSource, Volume as Disk};
use farside_protocol::control::VolumeStatus;
use farside_protocol::journal::ConsumerState;
use farside_storage::{
    OpenMode, Store, StoreFiles, SystemWorkers, open_map, prepare_growth, remove_file_durably, remove_map,
};
use parking_lot::Mutex;
use std::sync::Arc;

/// A volume in service.
#[derive(Debug)]
pub(crate) struct Volume {
    name: String,
    files: StoreFiles,
    /// Its files were made at this opening, not found.
    made: bool,
    served: Served,
    exports: Arc<UnitExports>,
    counters: Arc<Counters>,
    sending: SendingAs,
}

impl Volume {
    pub(super) async fn open(
        parts: &Parts,
        config: &VolumeConfig,
        mode: OpenMode,
    ) -> Result<Arc<Self>, PartError> {
        let files = files_of(config, &parts.surroundings.config.unit.data_dir);
        let opening = Opening {
            made_before: parts.known.knows(&config.name)?,
            mode,
            volumes_dir: parts.surroundings.config.unit.volumes_dir.clone(),
        };
        let (clock, to_open, wanted) = (parts.clock.clone(), files.clone(), config.clone());
        let opened =
            tokio::task::spawn_blocking(move || open_or_create(&to_open, &wanted, &opening, &clock)).await;
        let (store, made) = opened
            .map_err(|error| PartError::failed(format!("the volume could not be opened: {error}")))??;
        report_start(&store);
        let volume = Arc::new(Self::around(parts, config, files, (store, made))?);
        if let Err(error) = volume.begin(parts, &config.remotes).await {
            // Nothing half open stays behind: the next attempt finds the files free, and none that only this one made.
            let files = volume.files.clone();
            volume.close().await;
            drop(volume);
            if made {
                discard(&files, mode);
            }
            return Err(error);
        }
        Ok(volume)
    }

    fn around(
        parts: &Parts,
        config: &VolumeConfig,
        files: StoreFiles,
        (store, made): (Store, bool),
    ) -> Result<Self, PartError> {
        let disk = Disk::start(store, Arc::new(SystemWorkers))?;
        let links = Arc::new(Links {
            disk: disk.clone(),
            links: Mutex::default(),
        });
        Ok(Self {
            name: config.name.clone(),
            files,
            made,
            served: Served { volume: disk, links },
            exports: parts.exports.clone(),
            counters: parts.nbd.service.counters.clone(),
            sending: parts.sending(),
        })
    }

    /// Starts the remotes, and takes note that the volume is there.
    async fn begin(&self, parts: &Parts, remotes: &[RemoteConfig]) -> Result<(), PartError> {
        self.forget_other_remotes(remotes).await;
        for remote in remotes {
            self.add_remote(remote).await?;
        }
        let uuid = self.served.volume.opened_as().volume;
        parts.known.remember(&self.name, uuid)
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    pub(super) fn disk(&self) -> &Served {
        &self.served
    }

    /// The state of the volume and its remotes; waits for nothing.
    pub(crate) fn status(&self) -> VolumeStatus {
        volume_status(&self.served, &self.files, self.connections())
    }

    /// Whether the volume is new; otherwise its files were there and their content is in service.
    pub(crate) fn was_made(&self) -> bool {
        self.made
    }

    /// Hosts' connections open now.
    pub(crate) fn connections(&self) -> u32 {
        u32::try_from(self.counters.attached(&self.name)).unwrap_or(u32::MAX)
    }

    /// Starts sending to one more remote, or again to one that was paused. If that fails it is not listed.
    pub(crate) async fn add_remote(&self, remote: &RemoteConfig) -> Result<(), PartError> {
        let (disk, unit) = (self.served.volume.clone(), self.sending.unit.clone());
        let (name, files) = (remote.name.clone(), self.files.clone());
        let made = tokio::task::spawn_blocking(move || {
            LinkSource::new(disk, unit, &name, |superblock| {
                open_map(&files, &name, superblock)
            })
        })
        .await;
        let made = made.map_err(|error| PartError::failed(error.to_string()));
        let rounds = self.rounds_with(remote).await;
        let source = match made.and_then(|made| Ok(made?)) {
            Ok(source) => Arc::new(source),
            Err(error) => {
                self.served.links.links.lock().remove(&remote.name);
                return Err(error);
            }
        };
        let view = self.served.volume.store().consumer(&remote.name);
        let is_loose = view.is_none_or(|view| view.state == ConsumerState::NeedsCopy);
        let sends = remote.send && (remote.queue || !is_loose);
        let links = self.served.links.clone();
        let mut listed = links.links.lock();
        let link = listed
            .entry(remote.name.clone())
            .or_insert_with(|| Link::new(remote.clone(), source.clone(), &self.served.volume));
        let led = |to: &RemoteConfig| (to.address.clone(), to.other_addresses.clone());
        if led(&link.config) != led(remote) {
            // What was found was found elsewhere.
            link.verification = Arc::default();
        }
        (link.config, link.source) = (remote.clone(), source.clone());
        let config = self.sending.to(remote, link.verification.clone());
        link.sender = sends.then(|| Sender::spawn(source, config));
        link.end_rounds();
        link.rounds = rounds.map(|rounds| {
            let disk = self.served.volume.clone();
            let going = rounds
                .clone()
                .go(disk, link.verification.clone(), remote.name.clone());
            (rounds, tokio::spawn(going))
        });
        if !remote.queue && !is_loose {
            link.ending = Some(tokio::spawn(links.clone().end_queue(remote.name.clone())));
        }
        Ok(())
    }

    /// What is compared in the background, if that is told.
    async fn rounds_with(&self, remote: &RemoteConfig) -> Option<Arc<Rounds>> {
        let (file, every) = (
            file_of(&self.files, &self.name, &remote.name),
            remote.verify_every?,
        );
        let addresses = std::iter::once(&remote.address).chain(&remote.other_addresses);
        let addresses = addresses.cloned().collect();
        tokio::task::spawn_blocking(move || Rounds::open(file, every, addresses))
            .await
            .ok()
    }

    /// Stops sending to a remote, which stays listed; how far it was is kept for [`add_remote`](Self::add_remote), say
    /// at another address.
    pub(crate) async fn pause_remote(&self, name: &str) {
        let sender = {
            let mut links = self.served.links.links.lock();
            let Some(link) = links.get_mut(name) else { return };
            link.end_rounds();
            if let Some(ending) = link.ending.take() {
                ending.abort();
            }
            // At another address, or with another size, it would be said of something else.
            if link
                .verification
                .stop(self.served.volume.store().clock().wall_us())
            {
                tracing::warn!(
                    volume = self.name,
                    remote = name,
                    "verify stopped: the link is set up anew"
                );
            }
            link.take_sender()
        };
        if let Some(sender) = sender {
            sender.stop().await;
        }
    }

    /// Stops sending to a remote and forgets how far it was.
    pub(crate) async fn remove_remote(&self, name: &str) {
        self.pause_remote(name).await;
        self.served.links.links.lock().remove(name);
        self.forget(name).await;
    }

    /// The names of its remotes.
    pub(crate) fn remotes(&self) -> Vec<String> {
        self.served.links.links.lock().keys().cloned().collect()
    }

    /// Gives up what is queued for a remote, which gets what that changed as it is by then. How many records; `None`: there is
    /// no such remote.
    pub(crate) async fn discard_queue(&self, remote: &str) -> Result<Option<u64>, PartError> {
        let store = self.served.volume.store().clone();
        let Some(view) = store.consumer(remote) else {
            return Ok(None);
        };
        let queued = store.points().journaled.record.saturating_sub(view.acked.record);
        if view.state == ConsumerState::NeedsCopy || queued == 0 {
            return Ok(Some(0));
        }
        let name = remote.to_owned();
        let done = tokio::task::spawn_blocking(move || store.let_go(&name)).await;
        done.map_err(|error| PartError::failed(error.to_string()))??;
        // The link notices that it cannot go on, and begins anew.
        self.served.volume.remote_moved();
        Ok(Some(queued))
    }

    /// Makes the volume larger while hosts use it; remotes are greeted anew, with the new size.
    pub(crate) async fn grow(&self, bytes: u64) -> Result<(), PartError> {
        let (store, files) = (self.served.volume.store().clone(), self.files.clone());
        let old = store.volume_bytes();
        if old == bytes {
            return Ok(());
        }
        // What may take long, or fail, interrupts nothing.
        let prepare = {
            let store = store.clone();
            move || prepare_growth(&store, &files, bytes)
        };
        let prepared = tokio::task::spawn_blocking(prepare).await;
        let growth = prepared.map_err(|error| PartError::failed(error.to_string()))??;
        let remotes: Vec<RemoteConfig> = {
            let links = self.served.links.links.lock();
            links.values().map(|link| link.config.clone()).collect()
        };
        // A record beyond the end that a remote knows would be an error to it.
        for remote in &remotes {
            self.pause_remote(&remote.name).await;
        }
        let grown = tokio::task::spawn_blocking(move || growth.carry_out(&store)).await;
        for remote in &remotes {
            if let Err(error) = self.add_remote(remote).await {
                tracing::error!(
                    volume = self.name,
                    remote = remote.name,
                    "remote not started again: {error}"
                );
            }
        }
        grown.map_err(|error| PartError::failed(error.to_string()))??;
        tracing::info!(volume = self.name, from = old, bytes, "volume grown");
        Ok(())
    }

    /// A growth under way ends as soon as it can: the unit stops.
    pub(crate) fn give_up_growth(&self) {
        self.served.volume.store().give_up_growth();
    }

    /// Its size.
    pub(crate) fn size_bytes(&self) -> u64 {
        self.served.volume.store().volume_bytes()
    }

    /// Whether a growth that failed may have reached the disk all the same: a failed write says nothing about what is there.
    pub(crate) fn may_have_grown(&self) -> bool {
        self.served.volume.store().failure().is_some()
    }

    /// Drops the positions of remotes that are no longer configured: they would hold the journal for ever.
    async fn forget_other_remotes(&self, remotes: &[RemoteConfig]) {
        for slot in &self.served.volume.opened_as().consumers {
            if !remotes.iter().any(|remote| remote.name == slot.name) {
                self.forget(&slot.name).await;
            }
        }
    }

    async fn forget(&self, remote: &str) {
        let (store, name) = (self.served.volume.store().clone(), remote.to_owned());
        let files = self.files.clone();
        let rounds = file_of(&self.files, &self.name, remote);
        let forgotten = tokio::task::spawn_blocking(move || {
            store.remove_consumer(&name)?;
            remove_file_durably(&rounds)?;
            remove_map(&files, store.name(), &name)
        })
        .await;
        match forgotten {
            Ok(Ok(())) => tracing::info!(
                volume = self.name,
                remote,
                "remote forgotten: if it returns after the journal went on, its replica has to be given up on the remote first"
            ),
            Ok(Err(error)) => tracing::error!(volume = self.name, remote, "remote not forgotten: {error}"),
            Err(error) => tracing::error!(volume = self.name, remote, "remote not forgotten: {error}"),
        }
    }

    /// Hosts are told to go as soon as they are answered; one that does not read its answers is waited for no longer.
    /// Until they are gone, they keep the files from being opened again.
    async fn detached(&self) {
        let gone = async {
            while self.counters.attached(&self.name) > 0 {
                tokio::time::sleep(DRAIN_POLL).await;
            }
        };
        if tokio::time::timeout(DETACH_TIMEOUT, gone).await.is_err() {
            tracing::warn!(
                volume = self.name,
                "hosts that do not read their answers are left behind"
            );
        }
    }

    /// Detaches hosts, writes a clean end into the journal, brings the mirror up to it and lets go of the files.
    /// False: the end is not clean, as the log says, and the next start recovers.
    pub(crate) async fn close(&self) -> bool {
        self.exports.remove(&self.name);
        self.served.volume.begin_stop();
        self.served.links.stop_all().await;
        self.detached().await;
        let disk = self.served.volume.clone();
        match tokio::task::spawn_blocking(move || disk.shut_down()).await {
            Ok(Ok(())) => return true,
            Ok(Err(error)) => tracing::error!(volume = self.name, "not shut down cleanly: {error}"),
            Err(error) => tracing::error!(volume = self.name, "not shut down cleanly: {error}"),
        }
        false
    }
}
