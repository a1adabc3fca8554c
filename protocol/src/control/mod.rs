//! Control types: what a unit says about itself and what it can be told to do.
//!
//! They travel as JSON over the control socket and the console, and are what `--json` prints. Guarantees:
//! names are stable within one [`SCHEMA`] (a golden test keeps them); new fields may appear, old ones keep
//! name, unit and meaning. Sizes and lengths are bytes (`_bytes`), positions are record numbers ("the last
//! record included", 0 is the empty history), times are RFC 3339 in UTC.
//! Never here: storage types, I/O, clocks.

mod status;
mod forecast;
mod verify;
mod volume;
mod replica;
mod history;
mod command;
mod pairing;
mod text;

pub use command::{
    Command, ControlError, CreateVolume, DiscardQueue, ErrorCode, RemoteAddress, RemoveVolume, Reply,
    ResizeVolume, SetFlow, VersionInfo,
};
pub use forecast::{Forecast, human_seconds};
pub use history::{
    AddBookmark, AskChanges, AskHistory, BookmarkStatus, ChangedRange, ChangesStatus, DetachAt,
    HistoryStatus, HistorySummary, MomentStatus, OpenView, Progress, RestoreFile, SeedFile,
};
pub use pairing::{AcceptInvitation, Invitation, PairingStatus, PeerStatus};
pub use replica::{ReplicaState, ReplicaStatus, SourceStatus};
pub use status::{Health, Status, UnitStatus};
pub use text::{copy_risk, counted, damage_text, human_bytes, likely_behind};
pub use verify::{RemoteVerify, RoundsStatus, StartVerify, VerifyPhase, VerifyStatus};
pub use volume::{
    BufferStatus, CompressionStatus, CopyProgress, CounterPair, Counters, ImageStatus, JournalStatus, Lag,
    Positions, RemoteState, RemoteStatus, VolumeState, VolumeStatus,
};

/// Version of this set of types. It changes only when a field changes its meaning or disappears.
pub const SCHEMA: u32 = 1;

/// Size of one block in the counters, in bytes.
pub const BLOCK_BYTES: u32 = 4096;
