//! A volume's links to its remotes.

use crate::link::{LinkState, LinkStatus, Sender};
use crate::unit::limits::DRAIN_POLL;
use crate::volume::{LinkSource, Volume as Disk};
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::sync::Arc;

/// A volume with its links, as exports and status know it.
#[derive(Debug, Clone)]
pub(super) struct Served {
    pub(super) volume: Arc<Disk>,
    pub(super) links: Arc<Links>,
}

/// One remote of a volume.
#[derive(Debug)]
pub(super) struct Link {
    pub(super) address: String,
    pub(super) source: Arc<LinkSource>,
    pub(super) sender: Option<Sender>,
}

impl Link {
    pub(super) fn status(&self) -> LinkStatus {
        self.sender.as_ref().map(Sender::status).unwrap_or_default()
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
                status.state == LinkState::Streaming && status.applied_record < journaled
            });
            if !behind {
                return;
            }
            tokio::time::sleep(DRAIN_POLL).await;
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
