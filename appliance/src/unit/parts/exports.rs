//! The volumes that hosts can attach now.

use super::sending::{Links, Served};
use crate::config::Access;
use crate::targets::{Export, Exports};
use crate::volume::Volume;
use farside_protocol::control::human_bytes;
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Volumes by name.
#[derive(Debug, Default)]
pub(super) struct VolumeExports {
    volumes: Mutex<BTreeMap<String, (Served, Access)>>,
}

impl VolumeExports {
    pub(super) fn add(&self, served: Served, access: Access) {
        let name = served.volume.store().name().to_owned();
        served.volume.set_read_only(access.read_only);
        served.volume.set_skip_unchanged(access.skip_unchanged);
        self.volumes.lock().insert(name, (served, access));
    }

    /// From now on hosts may do this; those that are attached stay attached.
    pub(super) fn set_access(&self, name: &str, access: Access) {
        if let Some((served, known)) = self.volumes.lock().get_mut(name) {
            served.volume.set_read_only(access.read_only);
            served.volume.set_skip_unchanged(access.skip_unchanged);
            *known = access;
        }
    }

    pub(super) fn remove(&self, name: &str) {
        self.volumes.lock().remove(name);
    }

    /// The links of all volumes.
    pub(super) fn links(&self) -> Vec<Arc<Links>> {
        self.volumes
            .lock()
            .values()
            .map(|(served, _)| served.links.clone())
            .collect()
    }
}

impl Exports for VolumeExports {
    type Disk = Volume;

    fn find(&self, name: &str) -> Option<Export<Volume>> {
        let (disk, access) = {
            let volumes = self.volumes.lock();
            let (served, access) = volumes.get(name)?;
            (served.volume.clone(), access.clone())
        };
        let description = format!("Farside volume, {}", human_bytes(disk.store().volume_bytes()));
        Some(Export {
            name: name.to_owned(),
            description,
            requires_tls: access.require_tls,
            uuid: *disk.opened_as().volume.as_bytes(),
            scsi: access.scsi,
            disk,
        })
    }

    fn names(&self) -> Vec<String> {
        self.volumes.lock().keys().cloned().collect()
    }
}
