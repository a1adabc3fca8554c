//! The units a unit is paired with, and how it is paired with one more.

use serde::{Deserialize, Serialize};

/// Who a unit is to the others, and who it knows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PairingStatus {
    /// Identity of this unit.
    pub unit_uuid: String,
    /// SHA-256 of its public key, 64 hexadecimal digits.
    pub key: String,
    /// Names of the units that have not heard yet of the key that follows; absent if none follows.
    pub renewal_waits_for: Option<Vec<String>>,
    /// The units it is paired with, by name.
    pub peers: Vec<PeerStatus>,
}

/// A unit that is paired with this one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PeerStatus {
    /// The name under which it is known here.
    pub name: String,
    /// Its identity.
    pub unit_uuid: String,
    /// SHA-256 of its public key, 64 hexadecimal digits.
    pub key: String,
    /// The key that it said will follow.
    pub next_key: Option<String>,
    /// Where it was paired, if this unit went there: links to this address are for it alone.
    pub address: Option<String>,
    /// When it was paired (RFC 3339).
    pub paired_at: String,
}

/// An invitation, good for one unit and for a short time.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Invitation {
    /// What the other unit has to be told. Whoever has it can pair a unit with this one.
    pub token: String,
    /// Until when (RFC 3339).
    pub expires_at: String,
    /// Where this unit can be reached for it: the addresses of its link.
    pub link_listen: Vec<String>,
}

impl std::fmt::Debug for Invitation {
    fn fmt(&self, to: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // The token belongs in no log.
        to.debug_struct("Invitation")
            .field("expires_at", &self.expires_at)
            .finish_non_exhaustive()
    }
}

/// An invitation to be accepted.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AcceptInvitation {
    /// `host:port` of the link of the unit that invites.
    pub address: String,
    /// What it printed.
    pub token: String,
}

impl std::fmt::Debug for AcceptInvitation {
    fn fmt(&self, to: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        to.debug_struct("AcceptInvitation")
            .field("address", &self.address)
            .finish_non_exhaustive()
    }
}
