//! The status of one volume: its files, its positions, its remotes.

use super::Forecast;
use super::verify::RoundsStatus;
use serde::{Deserialize, Serialize};

/// What a volume is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum VolumeState {
    /// Being opened or recovered; hosts cannot attach yet.
    Starting,
    /// In service.
    Healthy,
    /// In service with a fault that an operator has to clear.
    Degraded,
    /// Draining; hosts are being detached.
    Stopping,
    /// Not in service.
    Failed,
}

impl VolumeState {
    /// Whether this state needs an operator.
    pub fn is_faulty(self) -> bool {
        matches!(self, Self::Degraded | Self::Failed)
    }
}

/// One volume.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct VolumeStatus {
    /// Name, and name of the export that hosts attach to.
    pub name: String,
    /// Identity, made when the volume was created; empty while it is not known.
    pub uuid: String,
    /// What it is doing.
    pub state: VolumeState,
    /// What is wrong and what to do, if something is.
    pub problem: Option<String>,
    /// Size of the disk.
    pub size_bytes: u64,
    /// Size of the blocks counted below.
    pub block_bytes: u32,
    /// The period of writing this is: each unclean start opens a new one.
    pub epoch: u64,
    /// Whether the shutdown before this start was clean.
    pub clean_start: bool,
    /// The journal.
    pub journal: JournalStatus,
    /// The local image.
    pub mirror: ImageStatus,
    /// How far each stage is.
    pub positions: Positions,
    /// Work done.
    pub counters: CounterPair,
    /// What is journaled and not yet in the mirror and on every remote.
    pub buffer: BufferStatus,
    /// Whether hosts can read only.
    #[serde(default)]
    pub read_only: bool,
    /// The iSCSI target in which hosts find it, where there are portals; empty if it is not offered.
    #[serde(default)]
    pub iscsi_target: String,
    /// Its logical unit number there.
    #[serde(default)]
    pub iscsi_lun: u16,
    /// Hosts' connections open now.
    pub connections: u32,
    /// Where the volume is sent to, by name.
    pub remotes: Vec<RemoteStatus>,
}

impl VolumeStatus {
    /// A volume that is not in service, with what the configuration says of it and nothing else.
    pub fn out_of_service(name: &str, size_bytes: u64, problem: Option<String>) -> Self {
        let state = if problem.is_some() {
            VolumeState::Failed
        } else {
            VolumeState::Starting
        };
        Self {
            name: name.to_owned(),
            uuid: String::new(),
            state,
            problem,
            size_bytes,
            block_bytes: super::BLOCK_BYTES,
            epoch: 0,
            clean_start: false,
            journal: JournalStatus::default(),
            mirror: ImageStatus::default(),
            positions: Positions::default(),
            counters: CounterPair::default(),
            buffer: BufferStatus::default(),
            read_only: false,
            iscsi_target: String::new(),
            iscsi_lun: 0,
            connections: 0,
            remotes: Vec::new(),
        }
    }
}

/// A journal file and how full it is.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct JournalStatus {
    /// Where it is.
    pub path: String,
    /// Its size.
    pub size_bytes: u64,
    /// What still has to be kept.
    pub used_bytes: u64,
    /// Size of one segment.
    pub segment_bytes: u64,
}

/// An image file: a mirror or a replica.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageStatus {
    /// Where it is.
    pub path: String,
}

/// Positions in the history of a volume, each the last record included. Always
/// `tail <= acked <= sent <= durable <= journaled` and `mirrored <= durable`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Positions {
    /// Everything up to here is free to be overwritten in the journal.
    pub tail: u64,
    /// Every remote has confirmed it durable.
    pub acked: u64,
    /// Sent to every remote.
    pub sent: u64,
    /// On stable storage in the journal.
    pub durable: u64,
    /// In the journal: acknowledged to the host.
    pub journaled: u64,
    /// In the mirror.
    pub mirrored: u64,
}

/// Counters since the start of the process and since the volume was created.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CounterPair {
    /// Since this process started.
    pub since_start: Counters,
    /// Since the volume was created.
    pub total: Counters,
}

/// What a volume has done.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counters {
    /// Reads by hosts.
    pub host_reads: u64,
    /// Bytes read by hosts.
    pub host_read_bytes: u64,
    /// Writes by hosts.
    pub host_writes: u64,
    /// Bytes written by hosts.
    pub host_write_bytes: u64,
    /// Bytes of those that were there already and were left out of the journal.
    #[serde(default)]
    pub host_unchanged_bytes: u64,
    /// Trims and write-zeroes by hosts.
    pub host_trims: u64,
    /// Flushes by hosts, with those that a forced write implies.
    pub host_flushes: u64,
    /// Blocks put into the journal.
    pub blocks_journaled: u64,
    /// Blocks sent, summed over remotes.
    pub blocks_sent: u64,
    /// Blocks that remotes have confirmed durable, summed over remotes.
    pub blocks_received: u64,
}

/// What lies between the journal and its consumers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BufferStatus {
    /// Blocks.
    pub blocks: u64,
    /// The same in bytes.
    pub bytes: u64,
}

/// What the link to a remote is doing.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RemoteState {
    /// Dialling or in the handshake.
    #[default]
    Connecting,
    /// Sending a full copy while hosts go on writing.
    Copying,
    /// Sending the journal as it grows.
    Streaming,
    /// Not connected; the next attempt is waiting for its time.
    Waiting,
    /// The remote, or this unit, refused the pairing; no attempt helps until an operator acts.
    Refused,
    /// The journal no longer holds what the remote lacks; a copy starts when it answers.
    NeedsCopy,
    /// The operator has stopped sending, or queuing.
    Held,
}

impl RemoteState {
    /// The word for people and programs, as in JSON.
    pub fn word(self) -> &'static str {
        match self {
            Self::Connecting => "connecting",
            Self::Copying => "copying",
            Self::Streaming => "streaming",
            Self::Waiting => "waiting",
            Self::Refused => "refused",
            Self::NeedsCopy => "needs_copy",
            Self::Held => "held",
        }
    }

    /// Whether this state needs an operator.
    pub fn is_faulty(self) -> bool {
        matches!(self, Self::Refused)
    }

    /// Whether a connection is up.
    pub fn is_connected(self) -> bool {
        matches!(self, Self::Copying | Self::Streaming)
    }
}

/// One remote of a volume, as the sender knows it.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct RemoteStatus {
    /// Name of the remote in the configuration.
    pub name: String,
    /// Where it is dialled, `host:port`.
    pub address: String,
    /// The paired unit it proved to be, while connected; absent if the link is not encrypted.
    #[serde(default)]
    pub paired_with: Option<String>,
    /// What the link is doing.
    pub state: RemoteState,
    /// The last error, or why it was refused.
    pub detail: Option<String>,
    /// What is compared in the background; absent if nothing is.
    #[serde(default)]
    pub rounds: Option<RoundsStatus>,
    /// Bytes that did not have to be sent since the unit was started, because they were overwritten in the same backlog.
    #[serde(default)]
    pub merged_bytes: u64,
    /// How often what arrived or was held there was refused as damaged, and sent again, since the link was set up.
    #[serde(default)]
    pub damaged: u64,
    /// What compression saves on the way, since the connection was made; absent if nothing is compressed.
    #[serde(default)]
    pub compression: Option<CompressionStatus>,
    /// Last record sent.
    pub sent: u64,
    /// Last record durable in the remote's journal.
    pub received: u64,
    /// Last record in the remote's image.
    pub applied: u64,
    /// How far it is behind what this unit has journaled.
    pub lag: Lag,
    /// The replica is the volume as it was at this time (RFC 3339).
    pub consistent_up_to: Option<String>,
    /// Whether the replica is a state that the volume once had.
    pub consistent: bool,
    /// A few words on how likely it is that the remote is behind; see [`likely_behind`](super::likely_behind).
    pub likely_behind: String,
    /// Progress of a copy under way.
    pub copy: Option<CopyProgress>,
    /// What a copy would have to send, from the dirty-block map.
    pub dirty_bytes: u64,
    /// What the remote's history can keep of what a copy overwrites, as it said last; absent before the first contact.
    #[serde(default)]
    pub history_room_bytes: Option<u64>,
    /// What becomes of the journal and the remote as things go; absent while the journal keeps nothing for it.
    #[serde(default)]
    pub forecast: Option<Forecast>,
}

/// What compression does for a link.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CompressionStatus {
    /// `lz4` or `zstd`.
    pub algorithm: String,
    /// Bytes of the stream before it.
    pub stream_bytes: u64,
    /// Bytes of it on the wire.
    pub wire_bytes: u64,
}

impl CompressionStatus {
    /// For people: the algorithm, and how many times fewer bytes there are.
    pub fn text(&self) -> String {
        match u128::from(self.stream_bytes)
            .saturating_mul(100)
            .checked_div(self.wire_bytes.into())
        {
            Some(hundredths) => format!(
                "{} 1:{}.{:02}",
                self.algorithm,
                hundredths / 100,
                hundredths % 100
            ),
            None => self.algorithm.clone(),
        }
    }
}

/// How far a remote is behind.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Lag {
    /// Records journaled here and not applied there.
    pub records: u64,
    /// Blocks in them.
    pub blocks: u64,
    /// Bytes in them.
    pub bytes: u64,
    /// Age of the oldest of them.
    pub seconds: f64,
}

/// Progress of a copy.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CopyProgress {
    /// Bytes dealt with, holes included.
    pub done_bytes: u64,
    /// Bytes in all.
    pub total_bytes: u64,
    /// Present speed.
    pub bytes_per_second: u64,
}
