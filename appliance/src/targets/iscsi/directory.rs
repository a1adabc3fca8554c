//! Targets and logical units, made of the exports.

use crate::targets::scsi::LogicalUnit;
use crate::targets::{Disk, Exports, InCommon, ScsiAddress};
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Weak};

/// A logical unit with the name of its volume.
pub(super) struct Found<D> {
    pub(super) volume: String,
    pub(super) unit: Arc<LogicalUnit<D>>,
}

/// A unit that is known.
enum Known<D> {
    /// As long as its disk is there.
    Lasting(Arc<LogicalUnit<D>>),
    /// As long as somebody uses it; then another disk may be found under its name.
    Passing(Weak<LogicalUnit<D>>),
}

/// Units by the name of their volume.
type Units<D> = BTreeMap<String, Known<D>>;

/// What can be logged in to.
pub(super) struct Directory<E: Exports> {
    exports: Arc<E>,
    /// Where persistent reservations are kept.
    reservations: PathBuf,
    units: Arc<Mutex<Units<E::Disk>>>,
}

impl<E: Exports> Directory<E> {
    pub(super) fn new(exports: Arc<E>, reservations: PathBuf) -> Self {
        Self {
            exports,
            reservations,
            units: Arc::default(),
        }
    }

    /// All disks but those that have to be attached with TLS, which iSCSI does not have.
    fn exported(&self) -> impl Iterator<Item = (String, ScsiAddress)> {
        let names = self.exports.names().into_iter();
        names.filter_map(|name| {
            let (place, requires_tls) = self.exports.place(&name)?;
            (!requires_tls).then_some((name, place))
        })
    }

    /// Names of targets, each once.
    pub(super) fn targets(&self) -> Vec<String> {
        let mut names: Vec<String> = self.exported().map(|(_, place)| place.target).collect();
        names.sort();
        names.dedup();
        names
    }

    /// The number of each logical unit of a target with its volume's name, in order.
    pub(super) fn luns(&self, target: &str) -> Vec<(u16, String)> {
        let mut luns: Vec<(u16, String)> = self
            .exported()
            .filter(|(_, place)| place.target == target)
            .map(|(name, place)| (place.lun, name))
            .collect();
        luns.sort();
        luns
    }

    /// A logical unit of a target.
    pub(super) fn find(&self, target: &str, lun: u16) -> Option<Found<E::Disk>> {
        let is_meant = |(_, place): &(_, ScsiAddress)| place.target == target && place.lun == lun;
        let (name, _) = self.exported().find(is_meant)?;
        let export = self.exports.find(&name)?;
        let volume = export.name;
        let lasts = export.disk.in_common() == InCommon::Disk;
        let mut units = self.units.lock();
        let known = match units.get(&volume) {
            Some(Known::Lasting(unit)) if unit.is(&export.uuid, &export.disk) => Some(Arc::clone(unit)),
            // All sessions see one unit, whatever is found under its name by now.
            Some(Known::Passing(unit)) if !lasts => unit.upgrade(),
            _ => None,
        };
        if let Some(unit) = known {
            return Some(Found { volume, unit });
        }
        let file = self.reservations.join(format!("{volume}.json"));
        let unit = Arc::new(LogicalUnit::new(export.uuid, export.disk, file));
        if lasts {
            units.insert(volume.clone(), Known::Lasting(Arc::clone(&unit)));
            self.forget_when_closed(volume.clone(), &unit);
        } else {
            units.retain(|_, known| !matches!(known, Known::Passing(unit) if unit.strong_count() == 0));
            units.insert(volume.clone(), Known::Passing(Arc::downgrade(&unit)));
        }
        Some(Found { volume, unit })
    }

    /// A unit must not outlive its disk's service: the files may be somebody else's next.
    fn forget_when_closed(&self, volume: String, unit: &Arc<LogicalUnit<E::Disk>>) {
        let (units, closing) = (Arc::clone(&self.units), unit.disk().closing());
        let unit = Arc::downgrade(unit);
        tokio::spawn(async move {
            closing.cancelled().await;
            let mut units = units.lock();
            let is_it = |known: &Known<_>| matches!(known, Known::Lasting(known) if Arc::downgrade(known).ptr_eq(&unit));
            if units.get(&volume).is_some_and(is_it) {
                units.remove(&volume);
            }
        });
    }
}
