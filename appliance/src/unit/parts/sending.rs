//! A volume's links to its remotes.

use super::rounds::Rounds;
use super::trend::Trends;
use crate::config::RemoteConfig;
use crate::link::{LinkState, LinkStatus, Sender, SenderConfig, Verification};
use crate::pairing::Pairing;
use crate::unit::limits::{DRAIN_POLL, QUEUE_POLL};
use crate::volume::{LinkSource, Volume as Disk};
use farside_protocol::journal::ConsumerState;
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::sync::Arc;
use tokio::task::JoinHandle;
use uuid::Uuid;

/// What the links of this unit say of it.
#[derive(Debug, Clone)]
pub(super) struct SendingAs {
    pub(super) unit: (Uuid, String),
    pub(super) instance: Uuid,
    pub(super) window_bytes: u64,
    pub(super) pairing: Arc<Pairing>,
    pub(super) trust_network: bool,
}

impl SendingAs {
    /// A sender to a remote.
    pub(super) fn to(&self, remote: &RemoteConfig, verification: Arc<Verification>) -> SenderConfig {
        SenderConfig {
            window_bytes: self.window_bytes,
            bytes_per_second: remote.rate_bytes,
            compression: remote.compression,
            merge: remote.merge,
            confirm: remote.confirm,
            windows: remote.send_windows.clone(),
            pairing: Some(self.pairing.clone()),
            peer: remote.peer.clone(),
            allow_beyond_loopback: self.trust_network,
            verification,
            other_addresses: remote.other_addresses.clone(),
            ..SenderConfig::new(&remote.name, &remote.address, self.instance)
        }
    }
}

/// A volume with its links, as exports and status know it.
#[derive(Debug, Clone)]
pub(super) struct Served {
    pub(super) volume: Arc<Disk>,
    pub(super) links: Arc<Links>,
}

/// One remote of a volume.
#[derive(Debug)]
pub(super) struct Link {
    pub(super) config: RemoteConfig,
    pub(super) source: Arc<LinkSource>,
    pub(super) sender: Option<Sender>,
    /// What its history can keep, as it said last: known also while nothing is sent to it.
    room: Option<u64>,
    /// What is compared with it, through every sender.
    pub(super) verification: Arc<Verification>,
    /// Waits until everything that was queued is sent.
    pub(super) ending: Option<JoinHandle<()>>,
    /// Watches over a comparison with it.
    pub(super) verifying: Option<JoinHandle<()>>,
    /// Compares in the background, and how far that is.
    pub(super) rounds: Option<(Arc<Rounds>, JoinHandle<()>)>,
    pub(super) trends: Arc<Trends>,
    /// Watches the rates.
    pub(super) sampling: JoinHandle<()>,
}

impl Drop for Link {
    fn drop(&mut self) {
        for task in [&self.ending, &self.verifying].into_iter().flatten() {
            task.abort();
        }
        self.end_rounds();
        self.sampling.abort();
    }
}

impl Link {
    /// A link that sends nothing yet, for what `source` gives.
    pub(super) fn new(config: RemoteConfig, source: Arc<LinkSource>, volume: &Arc<Disk>) -> Self {
        let trends = Arc::new(Trends::default());
        let watching = trends.clone().watch(volume.clone(), config.name.clone());
        Self {
            config,
            source,
            sender: None,
            room: None,
            verification: Arc::default(),
            ending: None,
            verifying: None,
            rounds: None,
            trends,
            sampling: tokio::spawn(watching),
        }
    }

    /// Compares in the background no more.
    pub(super) fn end_rounds(&mut self) {
        if let Some((_, task)) = self.rounds.take() {
            task.abort();
        }
        self.verification.end_rounds();
    }

    /// Takes the sender out; what it knew of the remote's history is kept.
    pub(super) fn take_sender(&mut self) -> Option<Sender> {
        let sender = self.sender.take()?;
        self.room = sender.status().history_room.or(self.room);
        Some(sender)
    }

    pub(super) fn status(&self) -> LinkStatus {
        let mut status = self
            .sender
            .as_ref()
            .map_or_else(|| self.status_at_rest(), Sender::status);
        status.history_room = status.history_room.or(self.room);
        status
    }

    fn status_at_rest(&self) -> LinkStatus {
        if self.config.send && self.config.queue {
            return LinkStatus {
                detail: "the link is set up anew".to_owned(),
                ..LinkStatus::default()
            };
        }
        let detail = if self.config.send {
            "queuing was stopped: nothing is kept for it; 'farside journal start-queue' sends what changed, and then follows"
        } else {
            "sending was stopped: the journal keeps everything for it as long as there is room; 'farside journal start-send' \
             goes on"
        };
        LinkStatus {
            state: LinkState::Held,
            detail: detail.to_owned(),
            ..LinkStatus::default()
        }
    }
}

/// The remotes of a volume by name.
#[derive(Debug)]
pub(super) struct Links {
    pub(super) disk: Arc<Disk>,
    pub(super) links: Mutex<BTreeMap<String, Link>>,
}

impl Links {
    /// Resolves when every remote that is following has everything in its image.
    pub(super) async fn drained(&self) {
        // What a degraded volume still holds back never becomes durable, and nothing else is ever sent.
        while self.disk.store().failure().is_none() {
            let journaled = self.disk.store().points().journaled.record;
            let behind = self.links.lock().values().any(|link| {
                let status = link.status();
                status.state == LinkState::Streaming && !status.is_held && status.applied_record < journaled
            });
            if !behind {
                return;
            }
            tokio::time::sleep(DRAIN_POLL).await;
        }
    }

    /// Lets a remote go when it has confirmed everything that is journaled now: nothing more is kept for it then.
    pub(super) async fn end_queue(self: Arc<Self>, remote: String) {
        let store = self.disk.store().clone();
        let last = store.points().journaled.record;
        loop {
            let Some(view) = store.consumer(&remote) else {
                return;
            };
            if view.state == ConsumerState::NeedsCopy || view.acked.record >= last {
                break;
            }
            tokio::time::sleep(QUEUE_POLL).await;
        }
        // First the link, or it would begin a copy at once.
        let sender = self.links.lock().get_mut(&remote).and_then(Link::take_sender);
        if let Some(sender) = sender {
            sender.stop().await;
        }
        let (name, volume) = (remote.clone(), store.name().to_owned());
        match tokio::task::spawn_blocking(move || store.let_go(&name)).await {
            Ok(Ok(())) => tracing::info!(volume, remote, "nothing is queued for it any more, as was told"),
            Ok(Err(error)) => tracing::error!(volume, remote, "not let go: {error}"),
            Err(error) => tracing::error!(volume, remote, "not let go: {error}"),
        }
    }

    pub(super) async fn stop_all(&self) {
        let senders: Vec<Sender> = self
            .links
            .lock()
            .values_mut()
            .filter_map(|link| link.sender.take())
            .collect();
        for sender in senders {
            sender.stop().await;
        }
    }
}
