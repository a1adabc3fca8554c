//! The status of one replica, as the unit that keeps it knows it.

use super::{CopyProgress, HistorySummary, ImageStatus, JournalStatus, RemoteStatus};
use serde::{Deserialize, Serialize};

/// What a replica is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ReplicaState {
    /// Being opened, or its journal is applied again after a crash: no state of the volume until that is done.
    Starting,
    /// Nothing has arrived yet.
    Empty,
    /// A copy is under way or was interrupted: not a state the volume ever had.
    Copying,
    /// A state the volume once had.
    Consistent,
    /// A fault that an operator has to clear.
    Degraded,
    /// Not in service.
    Failed,
    /// Its disk was handed over; nothing is received until it is taken back.
    Detached,
    /// Its image has content that was brought here; the first greeting of its volume finds out what of it is of use.
    Seeded,
}

impl ReplicaState {
    /// Whether this state needs an operator.
    pub fn is_faulty(self) -> bool {
        matches!(self, Self::Degraded | Self::Failed)
    }
}

/// One replica.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ReplicaStatus {
    /// Name of the volume it is a replica of.
    pub name: String,
    /// Identity of that volume.
    pub volume_uuid: String,
    /// Size of the disk.
    pub size_bytes: u64,
    /// What it is.
    pub state: ReplicaState,
    /// What is wrong and what to do, if something is.
    pub problem: Option<String>,
    /// Who sends it, or sent it last.
    pub source: Option<SourceStatus>,
    /// Whether the sender is connected.
    pub connected: bool,
    /// Last record durable in the journal here.
    pub received: u64,
    /// Last record in the image.
    pub applied: u64,
    /// Whether the replica is a state that the volume once had.
    pub consistent: bool,
    /// The time of that state (RFC 3339).
    pub consistent_up_to: Option<String>,
    /// Progress of a copy under way.
    pub copy: Option<CopyProgress>,
    /// The journal.
    pub journal: JournalStatus,
    /// The image.
    pub image: ImageStatus,
    /// What it keeps of its past.
    #[serde(default)]
    pub history: HistorySummary,
    /// Connections of hosts that have a moment of it attached.
    #[serde(default)]
    pub connections: u32,
    /// Whether the shutdown before this start was clean.
    pub clean_start: bool,
    /// Whom it is sent on to.
    #[serde(default)]
    pub remotes: Vec<RemoteStatus>,
}

impl ReplicaStatus {
    /// What is to be known of one that is set aside.
    #[must_use]
    pub fn aside(&self) -> Option<String> {
        match self.state {
            ReplicaState::Detached => Some(format!(
                "its disk was handed over after record {}; 'farside replica attach {}' takes it back",
                self.applied, self.name
            )),
            ReplicaState::Seeded => {
                Some("its image waits for its volume, whose unit compares and sends what differs".to_owned())
            }
            _ => None,
        }
    }
}

/// The unit that sends a replica.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SourceStatus {
    /// Its name.
    pub unit: String,
    /// The address it dialled from.
    pub address: String,
    /// The paired unit it proved to be; absent if the link is not encrypted.
    #[serde(default)]
    pub paired_with: Option<String>,
}
