//! How a target finds the disks it serves.

use super::Disk;
use std::sync::Arc;

/// The disks that can be attached now. They may appear and vanish while the target runs: a connection keeps
/// the disk it attached to, and ends when that disk answers [`ShuttingDown`](super::DiskError).
pub trait Exports: Send + Sync + 'static {
    /// The disks served.
    type Disk: Disk;

    /// The export of this name.
    fn find(&self, name: &str) -> Option<Export<Self::Disk>>;

    /// Where initiators find the export of this name, and whether it is only for encrypted connections. It may turn out not to
    /// be there.
    fn place(&self, name: &str) -> Option<(ScsiAddress, bool)> {
        let export = self.find(name)?;
        Some((export.scsi, export.requires_tls))
    }

    /// Why there is no export of this name, if there is more to say than that.
    fn why_not(&self, _name: &str) -> Option<String> {
        None
    }

    /// Names in the order they are listed. The protocol allows 4096 bytes for each.
    fn names(&self) -> Vec<String>;

    /// What the empty name stands for (NBD spec, `NBD_OPT_EXPORT_NAME`: the default export).
    fn default_name(&self) -> Option<String> {
        self.names().into_iter().next()
    }
}

/// A disk under its name.
#[derive(Debug)]
pub struct Export<D> {
    /// The canonical name.
    pub name: String,
    /// A sentence for people, empty if there is none.
    pub description: String,
    /// Only for hosts whose connection is encrypted, or cannot leave the machine.
    pub requires_tls: bool,
    /// Identity of the disk, which stays when its name changes.
    pub uuid: [u8; 16],
    /// Where initiators find it.
    pub scsi: ScsiAddress,
    /// What is served.
    pub disk: Arc<D>,
}

/// The iSCSI target of a disk, and its number there.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct ScsiAddress {
    /// Name of the target.
    pub target: String,
    /// Logical unit number.
    pub lun: u16,
}

impl ScsiAddress {
    /// That of a disk of which nothing else is said: a target of its own.
    #[must_use]
    pub fn of_its_own(name: &str) -> Self {
        Self {
            target: format!("{TARGETS}:{name}"),
            lun: 1,
        }
    }

    /// That of a moment of a replica.
    #[must_use]
    pub fn of_moment(replica: &str, moment: &str) -> Self {
        Self {
            target: format!("{TARGETS}:replica:{replica}:{moment}"),
            lun: 1,
        }
    }
}

/// What names of targets begin with: the naming authority, and when it had that name (RFC 7143, section 4.2.7.3).
const TARGETS: &str = "iqn.2026-11.dev.farside";

/// Finds `name`, or the default export if it is empty.
pub(super) fn resolve<E: Exports>(exports: &E, name: &str) -> Option<Export<E::Disk>> {
    if name.is_empty() {
        exports.find(&exports.default_name()?)
    } else {
        exports.find(name)
    }
}
