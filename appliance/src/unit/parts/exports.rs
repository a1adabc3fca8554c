//! What hosts can attach now: the volumes, and moments of replicas.

use super::error::PartError;
use super::exported::Exported;
use super::moments;
use super::receiving::LinkServer;
use super::sending::{Links, Served};
use crate::config::Access;
use crate::past::Snapshot;
use crate::targets::{Export, Exports, InCommon, ScsiAddress};
use farside_protocol::control::human_bytes;
use farside_remote::Replica;
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::sync::Arc;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

/// Between the name of a replica and that of a moment.
const AT: char = '@';
/// The moment that is always there.
const NOW: &str = "now";

/// What the names of all moments of a replica begin with.
pub(super) fn moments_of(replica: &str) -> String {
    format!("{replica}{AT}")
}

/// A volume that hosts can attach.
#[derive(Debug)]
struct Offer {
    served: Served,
    disk: Arc<Exported>,
    access: Access,
}

/// Volumes by name, and the replicas if hosts may have them.
#[derive(Debug, Default)]
pub(super) struct UnitExports {
    volumes: Mutex<BTreeMap<String, Offer>>,
    replicas: Mutex<Option<Arc<LinkServer>>>,
    /// Cancelled when hosts may have replicas no longer; there is one while they may.
    open: Mutex<Option<CancellationToken>>,
}

impl UnitExports {
    pub(super) fn add(&self, served: Served, access: Access) {
        let name = served.volume.store().name().to_owned();
        served.volume.set_read_only(access.read_only);
        served.volume.set_skip_unchanged(access.skip_unchanged);
        let offer = Offer {
            disk: Arc::new(Exported::Volume(served.volume.clone())),
            served,
            access,
        };
        self.volumes.lock().insert(name, offer);
    }

    /// From now on hosts may do this; those that are attached stay attached.
    pub(super) fn set_access(&self, name: &str, access: Access) {
        if let Some(offer) = self.volumes.lock().get_mut(name) {
            offer.served.volume.set_read_only(access.read_only);
            offer.served.volume.set_skip_unchanged(access.skip_unchanged);
            offer.access = access;
        }
    }

    pub(super) fn remove(&self, name: &str) {
        self.volumes.lock().remove(name);
    }

    /// Where replicas are found, from now on.
    pub(super) fn set_replicas(&self, server: Option<Arc<LinkServer>>) {
        *self.replicas.lock() = server;
    }

    /// Whether hosts may attach replicas from now on; if not, those that have are detached.
    pub(super) fn open_replicas(&self, open: bool) {
        let mut known = self.open.lock();
        match (open, known.is_some()) {
            (true, false) => *known = Some(CancellationToken::new()),
            (false, true) => {
                if let Some(ended) = known.take() {
                    ended.cancel();
                }
            }
            _ => {}
        }
    }

    /// The links of all volumes.
    pub(super) fn links(&self) -> Vec<Arc<Links>> {
        let volumes = self.volumes.lock();
        volumes.values().map(|offer| offer.served.links.clone()).collect()
    }

    fn volume(&self, name: &str) -> Option<Export<Exported>> {
        let (served, disk, access) = {
            let volumes = self.volumes.lock();
            let offer = volumes.get(name)?;
            (
                offer.served.volume.clone(),
                offer.disk.clone(),
                offer.access.clone(),
            )
        };
        let description = format!("Farside volume, {}", human_bytes(served.store().volume_bytes()));
        Some(Export {
            name: name.to_owned(),
            description,
            requires_tls: access.require_tls,
            uuid: *served.opened_as().volume.as_bytes(),
            scsi: access.scsi,
            disk,
        })
    }

    /// A moment of a replica, `disk0@now`; `None` if that is not what the name is.
    fn moment(&self, name: &str) -> Option<Result<Export<Exported>, PartError>> {
        let (of, at) = name.split_once(AT)?;
        let open = self.open.lock().clone()?;
        let server = self.replicas.lock().clone()?;
        let replica = server.replica(of)?;
        Some(snapshot(&replica, at, &open).map(|disk| export(&replica, at, disk)))
    }

    /// What can be said of moments without being asked for one: the newest, and those with a name.
    fn moments(&self) -> Vec<String> {
        let (open, server) = (self.open.lock().is_some(), self.replicas.lock().clone());
        let replicas = server.filter(|_| open);
        let mut names = Vec::new();
        for replica in replicas.iter().flat_map(|server| server.set().replicas()) {
            let of = replica.store().name();
            names.push(format!("{of}{AT}{NOW}"));
            let bookmarks = replica.past().bookmarks();
            names.extend(
                bookmarks
                    .iter()
                    .map(|bookmark| format!("{of}{AT}{}", bookmark.name)),
            );
        }
        names
    }
}

fn snapshot(replica: &Arc<Replica>, at: &str, open: &CancellationToken) -> Result<Snapshot, PartError> {
    let view = moments::view(replica, at)?;
    let closing = open.child_token();
    let (ended, stopped) = (closing.clone(), replica.clone());
    tokio::spawn(async move {
        tokio::select! {
            () = stopped.until_stopped() => ended.cancel(),
            () = ended.cancelled() => {}
        }
    });
    Snapshot::new((view, replica.clone()), None, closing)
        .map_err(|error| PartError::failed(error.to_string()))
}

fn export(replica: &Replica, at: &str, snapshot: Snapshot) -> Export<Exported> {
    let (name, moment) = (replica.store().name(), *snapshot.view().moment());
    let size = human_bytes(snapshot.view().bytes());
    // Not that of the volume: a host that sees both must not take them for two ways to one disk.
    let told = format!("{} {}", moment.record, moment.time_us);
    let uuid = Uuid::new_v5(&replica.opened_as().volume, told.as_bytes());
    let in_common = match moments::is_fixed(replica, at) {
        true => InCommon::Content,
        false => InCommon::Nothing,
    };
    Export {
        name: format!("{name}{AT}{at}"),
        description: format!("replica of {name} after record {}, {size}", moment.record),
        requires_tls: false,
        uuid: uuid.into_bytes(),
        scsi: ScsiAddress::of_moment(name, at),
        disk: Arc::new(Exported::of_moment(snapshot, in_common)),
    }
}

impl Exports for UnitExports {
    type Disk = Exported;

    fn find(&self, name: &str) -> Option<Export<Exported>> {
        self.volume(name).or_else(|| self.moment(name)?.ok())
    }

    fn place(&self, name: &str) -> Option<(ScsiAddress, bool)> {
        if let Some((of, at)) = name.split_once(AT) {
            // Without looking for the moment: all of them are asked for again and again.
            return Some((ScsiAddress::of_moment(of, at), false));
        }
        let volumes = self.volumes.lock();
        let access = &volumes.get(name)?.access;
        Some((access.scsi.clone(), access.require_tls))
    }

    fn why_not(&self, name: &str) -> Option<String> {
        let refusal = self.moment(name)?.err()?;
        Some(refusal.message)
    }

    fn names(&self) -> Vec<String> {
        let mut names: Vec<String> = self.volumes.lock().keys().cloned().collect();
        names.extend(self.moments());
        names
    }
}
