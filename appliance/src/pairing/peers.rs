//! The units this one is paired with: a small file in the data directory.

use super::error::PairingError;
use super::fingerprint::Fingerprint;
use crate::config::{is_name, read_text, write_text};
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};
use uuid::Uuid;

const FILE: &str = "paired-units.toml";
const HEADER: &str = "# Units this one is paired with. Written by farside, also over changes made by hand; see 'farside pair list'.\n";

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
        let there = self.0.try_exists();
        if !there.map_err(|error| PairingError::file(&self.0, "read", &error))? {
            return Ok(Vec::new());
        }
        let text = read_text(&self.0)?;
        parse(&text).map_err(|what| PairingError::File {
            path: self.0.display().to_string(),
            message: format!(
                "is not a list of paired units ({what}); restore it from a backup, or remove it and pair them again"
            ),
        })
    }

    pub(super) fn write(&self, peers: &[Peer]) -> Result<(), PairingError> {
        Ok(write_text(&self.0, &format(peers))?)
    }
}

/// The text of the list.
#[must_use]
pub fn format(peers: &[Peer]) -> String {
    let stored = Stored { unit: peers.to_vec() };
    let table = toml::to_string(&stored).expect("names, numbers and times can be written as TOML");
    format!("{HEADER}{table}")
}

/// Reads the list.
///
/// # Errors
/// What is wrong with it.
pub fn parse(text: &str) -> Result<Vec<Peer>, String> {
    let stored: Stored = toml::from_str(text).map_err(|error| error.message().to_owned())?;
    let mut seen = std::collections::HashSet::new();
    for Peer { name, unit, .. } in &stored.unit {
        if !is_name(name) {
            return Err(format!("'{}' is no name", name.escape_debug()));
        }
        if !seen.insert(name.clone()) || !seen.insert(unit.to_string()) {
            return Err(format!("unit {name} is in it twice"));
        }
    }
    Ok(stored.unit)
}

/// Puts a unit among the peers, or what is new about it; says what it is there.
pub(super) fn admit(peers: &mut Vec<Peer>, mut new: Peer) -> Result<Peer, PairingError> {
    refuse_key_of_another(peers, new.unit, new.key)?;
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

/// A key is of one unit, or that unit could be kept out, or be taken for another.
pub(super) fn refuse_key_of_another(
    peers: &[Peer],
    unit: Uuid,
    key: Fingerprint,
) -> Result<(), PairingError> {
    let mut others = peers.iter().filter(|peer| peer.unit != unit);
    match others.find(|peer| peer.has(key)) {
        Some(other) => Err(PairingError::KeyOfAnother(other.name.clone())),
        None => Ok(()),
    }
}

const NAME_BYTES: usize = farside_protocol::journal::limits::NAME_BYTES;
