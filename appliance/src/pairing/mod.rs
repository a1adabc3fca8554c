//! Who the units at the other ends of links are: keys, invitations, and TLS in which both sides prove who they are.
//!
//! Guarantees: a unit is known by its key, which is exchanged once, under an invitation that works once and for a short
//! time; a paired unit is neither dialled nor let in unencrypted; a unit cannot pass as another one. Private keys never leave
//! the data directory, and no secret is logged.
//! Never here: what is said on a link.
//!
//! Life of a pairing: `invitation.rs` (one unit invites), `greeting.rs` (the other accepts; both note the key), `way.rs`
//! (dialling) and `door.rs` (being dialled), `renewal.rs` (another key), until it is revoked.

mod fingerprint;
mod key;
mod token;
mod peers;
mod invitation;
mod tls;
mod frames;
mod greeting;
mod way;
mod door;
mod renewal;
mod error;
#[cfg(test)]
mod tests;

pub(crate) use door::LinkDoor;
pub use error::PairingError;
pub use fingerprint::Fingerprint;
pub use greeting::Invited;
pub use key::Shown;
pub use peers::{Peer, format as format_peers, parse as parse_peers};
pub use token::Token;
pub use way::{Link, PairedWay, Way};

use farside_remote::Notice;
use invitation::Invitations;
use key::UnitKey;
use parking_lot::Mutex;
use peers::Peers;
use rustls::ServerConfig;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio::sync::watch;
use uuid::Uuid;

/// Everything a unit knows about pairing.
#[derive(Debug)]
pub struct Pairing {
    unit: Uuid,
    unit_name: String,
    directory: PathBuf,
    /// Held by whoever changes what is on disk, and never together with waiting for the network.
    turn: Mutex<()>,
    /// Held by the one connection whose certificate is being noted: others wait without a thread.
    noting: Arc<tokio::sync::Mutex<()>>,
    /// Fires when a unit was paired.
    paired: watch::Sender<()>,
    state: Mutex<State>,
}

/// Locked for moments only.
#[derive(Debug)]
struct State {
    key: Arc<UnitKey>,
    /// The key that follows it, once all peers know it.
    next: Option<Arc<UnitKey>>,
    /// Counts the renewals, so that what a peer was told is told apart.
    generation: u64,
    /// Units that know of the next key.
    told: BTreeSet<Uuid>,
    server: Arc<ServerConfig>,
    peers: Vec<Peer>,
    notices: BTreeMap<Uuid, watch::Sender<Notice>>,
    invitations: Invitations,
}

/// What is shown of the pairing.
#[derive(Debug, Clone)]
pub struct Known {
    /// The key of this unit.
    pub key: Fingerprint,
    /// The units that were not told of the next key yet, while there is one.
    pub renewal: Option<Vec<String>>,
    /// The units it is paired with, by name.
    pub peers: Vec<Peer>,
}

impl Pairing {
    /// Reads the key of the unit and its peers from `directory`, or makes a key there.
    ///
    /// # Errors
    /// A file that cannot be used is named, and never replaced.
    pub fn open(directory: &Path, unit: Uuid, unit_name: &str) -> Result<Self, PairingError> {
        let next = UnitKey::find_next(directory, unit)?;
        let key = UnitKey::load_or_create(directory, unit, next.as_ref())?;
        let peers = Peers::in_directory(directory).read()?;
        let server = tls::server(&key)?;
        let state = State {
            key: Arc::new(key),
            next: next.map(Arc::new),
            generation: 1,
            told: BTreeSet::new(),
            server,
            peers,
            notices: BTreeMap::new(),
            invitations: Invitations::default(),
        };
        let pairing = Self {
            unit,
            unit_name: unit_name.to_owned(),
            directory: directory.to_owned(),
            turn: Mutex::default(),
            noting: Arc::default(),
            paired: watch::Sender::new(()),
            state: Mutex::new(state),
        };
        pairing.renew_if_all_know()?;
        Ok(pairing)
    }

    /// What it knows now.
    #[must_use]
    pub fn known(&self) -> Known {
        let state = self.state.lock();
        let untold = state.peers.iter().filter(|peer| !state.told.contains(&peer.unit));
        Known {
            key: state.key.fingerprint(),
            renewal: state
                .next
                .as_ref()
                .map(|_| untold.map(|peer| peer.name.clone()).collect()),
            peers: state.peers.clone(),
        }
    }

    /// Forgets a unit, and ends its links. It still knows this one until it is told the same there.
    ///
    /// # Errors
    /// There is no such unit, or the list cannot be written.
    pub fn revoke(&self, name: &str) -> Result<Peer, PairingError> {
        let gone = self.change(|peers| {
            let at = peers.iter().position(|peer| peer.name == name);
            at.map(|at| peers.remove(at))
                .ok_or_else(|| PairingError::Unknown(name.to_owned()))
        })?;
        let notice = {
            let mut state = self.state.lock();
            state.invitations.revoke(gone.unit);
            state.notices.remove(&gone.unit)
        };
        if let Some(notice) = notice {
            notice.send_replace(Notice::Revoked);
        }
        // The one that was waited for may be gone.
        if let Err(error) = self.renew_if_all_know() {
            tracing::error!("the next key could not be put into use: {error}");
        }
        Ok(gone)
    }

    /// Changes the peers, on disk first.
    fn change<T>(
        &self,
        change: impl FnOnce(&mut Vec<Peer>) -> Result<T, PairingError>,
    ) -> Result<T, PairingError> {
        let _turn = self.turn.lock();
        let mut peers = self.state.lock().peers.clone();
        let done = change(&mut peers)?;
        peers.sort_by(|one, other| one.name.cmp(&other.name));
        Peers::in_directory(&self.directory).write(&peers)?;
        self.state.lock().peers = peers;
        Ok(done)
    }

    /// Who has this key, and how they are given notice.
    ///
    /// It was shown a certificate that may have been replaced meanwhile, when nobody could give it notice yet.
    fn recognise(&self, key: Fingerprint, certificate: u64) -> Option<(Peer, watch::Receiver<Notice>)> {
        let mut state = self.state.lock();
        let peer = state.peers.iter().find(|peer| peer.has(key)).cloned()?;
        let notices = if certificate == state.generation {
            state.notices_for(peer.unit)
        } else {
            watch::channel(Notice::Renewed).1
        };
        Some((peer, notices))
    }

    /// Whether it has to prove who it is.
    fn is_paired(&self, unit: Uuid) -> bool {
        self.state.lock().peers.iter().any(|peer| peer.unit == unit)
    }

    /// With what this unit is dialled now, and which of its certificates that shows.
    fn server(&self) -> (Arc<ServerConfig>, u64) {
        let state = self.state.lock();
        (Arc::clone(&state.server), state.generation)
    }
}

impl State {
    fn notices_for(&mut self, unit: Uuid) -> watch::Receiver<Notice> {
        let notice = self
            .notices
            .entry(unit)
            .or_insert_with(|| watch::Sender::new(Notice::None));
        notice.subscribe()
    }
}
