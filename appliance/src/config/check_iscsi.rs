//! What of a configuration concerns iSCSI.

use super::check::Checker;
use super::names::is_name;
use super::raw::{RawChap, RawIscsi, RawVolume};
use super::{ChapFiles, IscsiConfig};
use crate::targets::ScsiAddress;
use std::collections::BTreeMap;
use std::path::PathBuf;
use toml::Spanned;

/// Longest name of a target (RFC 7143, section 4.2.7.2).
const NAME_BYTES: usize = 223;
/// Logical unit numbers of one level that flat addressing can say (SAM-5, section 4.7.7.1).
const LAST_LUN: i64 = 16_383;

/// Targets and numbers that are taken, with the volume that has them.
pub(super) type TakenLuns = BTreeMap<ScsiAddress, String>;

impl Checker<'_> {
    pub(super) fn iscsi(&mut self, raw: &RawIscsi) -> IscsiConfig {
        let chap = raw.chap.as_ref().and_then(|chap| self.chap(chap));
        let listen = self.addresses(&raw.listen, "iscsi", raw.trust_network || chap.is_some());
        let mut initiators = Vec::new();
        for setting in &raw.initiators {
            if self.is_target_name(setting) {
                initiators.push(setting.get_ref().clone());
            }
        }
        IscsiConfig {
            listen,
            chap,
            initiators,
        }
    }

    /// Whether secrets can be used is seen when they are read.
    fn chap(&mut self, raw: &RawChap) -> Option<ChapFiles> {
        let user = self.chap_name(&raw.user)?;
        let secret_file = self.path(&raw.secret_file);
        let own = match (&raw.own_user, &raw.own_secret_file) {
            (None, None) => None,
            (Some(name), Some(file)) => Some((self.chap_name(name)?, self.path(file))),
            (Some(one), None) | (None, Some(one)) => {
                let remedy = "give both own_user and own_secret_file, or none of them";
                self.refuse(&one.span(), "mutual CHAP needs a name and a secret", remedy);
                return None;
            }
        };
        if own.as_ref().map(|(_, file): &(String, PathBuf)| file) == Some(&secret_file) {
            let message = "the secrets of initiators and of the target itself are the same file";
            self.refuse(&raw.secret_file.span(), message, "give each side its own secret");
        }
        Some(ChapFiles {
            user,
            secret_file,
            own,
        })
    }

    fn chap_name(&mut self, setting: &Spanned<String>) -> Option<String> {
        let name = setting.get_ref();
        if name.is_empty() || name.len() > 255 || name.chars().any(char::is_control) {
            let message = format!("'{}' cannot be a CHAP name", name.escape_debug());
            self.refuse(&setting.span(), message, "use 1 to 255 bytes of text");
            return None;
        }
        Some(name.clone())
    }

    /// Names as iSCSI has them, with a type in front.
    fn is_target_name(&mut self, setting: &Spanned<String>) -> bool {
        let name = setting.get_ref();
        let known = ["iqn.", "eui.", "naa."];
        let is_allowed = |letter: char| letter.is_ascii_alphanumeric() || "-.:_".contains(letter);
        let right = known.iter().any(|kind| name.starts_with(kind))
            && name.len() <= NAME_BYTES
            && name.chars().all(is_allowed);
        if !right {
            let message = format!("'{}' is not an iSCSI name", name.escape_debug());
            let remedy =
                "write a name such as iqn.2026-11.com.example:storage, of letters, digits, '-', '.' and ':'";
            self.refuse(&setting.span(), message, remedy);
        }
        right
    }

    /// Where initiators find a volume: a target of its own unless it says otherwise.
    pub(super) fn scsi_address(&mut self, raw: &RawVolume, taken: &mut TakenLuns) -> ScsiAddress {
        let name = raw.name.get_ref();
        let mut address = ScsiAddress::of_its_own(name);
        let mut span = raw.name.span();
        if let Some(scsi) = &raw.iscsi {
            if let Some(target) = &scsi.target {
                span = target.span();
                address.target = if is_name(target.get_ref()) && !target.get_ref().contains("iqn.") {
                    ScsiAddress::of_its_own(target.get_ref()).target
                } else {
                    self.is_target_name(target);
                    target.get_ref().clone()
                };
            }
            if let Some(lun) = &scsi.lun {
                span = lun.span();
                match u16::try_from(*lun.get_ref())
                    .ok()
                    .filter(|_| *lun.get_ref() <= LAST_LUN)
                {
                    Some(lun) => address.lun = lun,
                    None => self.refuse(
                        &lun.span(),
                        format!("{} is no logical unit number", lun.get_ref()),
                        "give one from 0 to 16383",
                    ),
                }
            }
        }
        if let Some(other) = taken.insert(address.clone(), name.clone()) {
            let message = format!(
                "volume {name} and volume {other} are both logical unit {} of {}",
                address.lun, address.target
            );
            self.refuse(&span, message, "give each volume of a target its own iscsi.lun");
        }
        address
    }
}
