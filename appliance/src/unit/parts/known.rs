//! Which volumes this unit has made, so that one whose files are gone (a disk that is not mounted) is reported
//! and not silently made anew, empty.

use super::error::PartError;
use crate::config::{read_text, write_text};
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use uuid::Uuid;

const FILE: &str = "known-volumes.toml";
const HEADER: &str = "# Volumes made by this unit and their identities. Written by farside.\n";

/// The list, in a small file in the data directory.
#[derive(Debug)]
pub(super) struct KnownVolumes {
    path: PathBuf,
    turn: Mutex<()>,
}

impl KnownVolumes {
    pub(super) fn in_directory(data_dir: &Path) -> Self {
        Self {
            path: data_dir.join(FILE),
            turn: Mutex::new(()),
        }
    }

    /// Whether a volume of this name was made and not removed.
    pub(super) fn knows(&self, name: &str) -> Result<bool, PartError> {
        Ok(self.read()?.contains_key(name))
    }

    pub(super) fn remember(&self, name: &str, uuid: Uuid) -> Result<(), PartError> {
        self.change(|known| {
            known.insert(name.to_owned(), uuid);
        })
    }

    pub(super) fn forget(&self, name: &str) -> Result<(), PartError> {
        self.change(|known| {
            known.remove(name);
        })
    }

    fn change(&self, change: impl FnOnce(&mut BTreeMap<String, Uuid>)) -> Result<(), PartError> {
        let _turn = self.turn.lock();
        let mut known = self.read()?;
        let before = known.clone();
        change(&mut known);
        if known == before {
            return Ok(());
        }
        let table = toml::to_string(&known).map_err(|error| PartError::failed(error.to_string()))?;
        write_text(&self.path, &format!("{HEADER}{table}"))
            .map_err(|error| PartError::failed(error.to_string()))
    }

    fn read(&self) -> Result<BTreeMap<String, Uuid>, PartError> {
        if !self.path.exists() {
            return Ok(BTreeMap::new());
        }
        let text = read_text(&self.path).map_err(|error| PartError::failed(error.to_string()))?;
        toml::from_str(&text).map_err(|error| {
            let path = self.path.display();
            PartError::failed(format!(
                "{path} is not a list of volumes ({}); restore it or delete it",
                error.message()
            ))
        })
    }
}
