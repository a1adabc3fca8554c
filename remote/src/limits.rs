//! Every size, time and count of the remote unit that is not part of a format.

use std::time::Duration;

/// How long a received chunk may stay non-durable, and so unconfirmed: long enough for chunks to share a sync.
pub const SYNC_INTERVAL: Duration = Duration::from_millis(4);
/// Senders a receiver serves at once; one more is refused as busy.
pub const MAX_SESSIONS: usize = 64;
/// Connections besides them that have not said who they are; for one more the oldest of the address with most has to go.
pub const MAX_GREETINGS: usize = 128;
/// Chunks of a session whose checksums are remembered, to tell a repeat from another history.
pub const REMEMBERED_CHUNKS: usize = 1024;
/// Ranges that were compared and are the same, remembered so that a copy may leave them out: more than a sender compares ahead of what it
/// copies.
pub const REMEMBERED_RANGES: usize = 1 << 14;
/// Stretches of the journal that were read back and told, and wait for the sender's word.
pub const MAX_UNANSWERED: usize = 16;
/// Shortest time between two acknowledgements, so that a busy link is not answered chunk by chunk.
pub const ACK_INTERVAL_MS: u64 = 2;
/// How long a sender of the same unit waits for its older session to end before it is told to come again.
pub const TAKE_OVER_WAIT_MS: u64 = 5_000;
/// A sender that was not heard for so long gives way to another process of its unit: three heartbeats.
pub const HOLDER_SILENT_MS: u64 = 3_000;
/// How long a refused connection is read on, so that the refusal is not lost to a reset, and how long one that
/// takes no answers any more, so that what had arrived before is heard.
pub const LINGER_MS: u64 = 1_000;
/// Read buffer of a connection; bodies go past it.
pub const READ_BUFFER_BYTES: usize = 64 << 10;
/// At most one warning about bad connections is logged in this time; the rest are debug messages and counted.
pub const LOG_INTERVAL_MS: u64 = 1_000;
/// Pause after an accept failed (usually: no file descriptors left).
pub const ACCEPT_PAUSE_MS: u64 = 100;
