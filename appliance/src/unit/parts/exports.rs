//! The volumes that hosts can attach now.

use super::sending::{Links, Served};
use crate::targets::nbd::{Export, Exports};
use crate::volume::Volume;
use farside_protocol::control::human_bytes;
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Volumes by name.
#[derive(Debug, Default)]
pub(super) struct VolumeExports {
    volumes: Mutex<BTreeMap<String, Served>>,
}

impl VolumeExports {
    pub(super) fn add(&self, served: Served) {
        self.volumes
            .lock()
            .insert(served.volume.store().name().to_owned(), served);
    }

    pub(super) fn remove(&self, name: &str) {
        self.volumes.lock().remove(name);
    }

    /// The links of all volumes.
    pub(super) fn links(&self) -> Vec<Arc<Links>> {
        self.volumes
            .lock()
            .values()
            .map(|served| served.links.clone())
            .collect()
    }
}

impl Exports for VolumeExports {
    type Disk = Volume;

    fn find(&self, name: &str) -> Option<Export<Volume>> {
        let disk = self.volumes.lock().get(name)?.volume.clone();
        let description = format!("Farside volume, {}", human_bytes(disk.store().volume_bytes()));
        Some(Export {
            name: name.to_owned(),
            description,
            disk,
        })
    }

    fn names(&self) -> Vec<String> {
        self.volumes.lock().keys().cloned().collect()
    }
}
