//! The units this one is paired with: a small file in the data directory.

use super::error::PairingError;
use super::fingerprint::Fingerprint;
use crate::config::{is_name, read_text, write_text};
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};
use uuid::Uuid;

const FILE: &str = "paired-units.toml";
const HEADER: &str = "# Units this one is paired with. Written by farside; see 'farside pair list'.\n";

/// A unit that is paired with this one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Peer {
    /// The name under which it is known here.
    pub name: String,
    /// Its UUID.
    pub unit: Uuid,
    /// Its key.
    pub key: Fingerprint,
    /// The key it said will follow.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_key: Option<Fingerprint>,
    /// Where it is dialled, if it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<String>,
    /// When it was paired (RFC 3339).
    pub paired_at: String,
}

impl Peer {
    /// Whether this is its key, or the one it said will follow.
    pub(super) fn has(&self, key: Fingerprint) -> bool {
        self.key == key || self.next_key == Some(key)
    }
}

#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Stored {
    #[serde(default)]
    unit: Vec<Peer>,
}

/// The file.
#[derive(Debug)]
pub(super) struct Peers(PathBuf);

impl Peers {
    pub(super) fn in_directory(directory: &Path) -> Self {
        Self(directory.join(FILE))
    }

    pub(super) fn read(&self) -> Result<Vec<Peer>, PairingError> {
        if !self.0.exists() {
            return Ok(Vec::new());
        }
        let text = read_text(&self.0)?;
        let refuse = |what: &str| PairingError::File {
            path: self.0.display().to_string(),
            message: format!(
                "is not a list of paired units ({what}); restore it from a backup, or remove it and pair them again"
            ),
        };
        let stored: Stored = toml::from_str(&text).map_err(|error| refuse(error.message()))?;
        match stored.unit.iter().find(|peer| !is_name(&peer.name)) {
            Some(peer) => Err(refuse(&format!("'{}' is no name", peer.name.escape_debug()))),
            None => Ok(stored.unit),
        }
    }

    pub(super) fn write(&self, peers: &[Peer]) -> Result<(), PairingError> {
        let stored = Stored { unit: peers.to_vec() };
        let table = toml::to_string(&stored).map_err(|error| PairingError::File {
            path: self.0.display().to_string(),
            message: error.to_string(),
        })?;
        Ok(write_text(&self.0, &format!("{HEADER}{table}"))?)
    }
}

/// Puts a unit among the peers, or what is new about it; says what it is there.
pub(super) fn admit(peers: &mut Vec<Peer>, mut new: Peer) -> Result<Peer, PairingError> {
    // At one address there is one unit: the one that was found there last.
    for other in peers.iter_mut().filter(|other| other.unit != new.unit) {
        other
            .address
            .take_if(|address| new.address.as_ref() == Some(address));
    }
    if let Some(known) = peers.iter_mut().find(|peer| peer.unit == new.unit) {
        if !known.has(new.key) {
            return Err(PairingError::OtherKey {
                unit: known.unit,
                name: known.name.clone(),
            });
        }
        if new.address.is_some() {
            known.address = new.address;
        }
        return Ok(known.clone());
    }
    let (wanted, mut number) = (new.name.clone(), 1);
    while peers.iter().any(|peer| peer.name == new.name) {
        number += 1;
        let suffix = format!("-{number}");
        let room = wanted.len().min(NAME_BYTES - suffix.len());
        new.name = format!("{}{suffix}", wanted.get(..room).unwrap_or(&wanted));
    }
    peers.push(new.clone());
    Ok(new)
}

const NAME_BYTES: usize = farside_protocol::journal::limits::NAME_BYTES;
