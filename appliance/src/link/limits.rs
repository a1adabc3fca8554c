//! Every size, time and count of the link sender that is not part of the protocol.

use farside_protocol::journal::MAX_TRAIL_POINTS;

/// Bytes sent and not yet acknowledged, unless configured.
pub const DEFAULT_WINDOW_BYTES: u64 = 64 << 20;
/// Smallest window that can be configured: one chunk on its way while another is acknowledged.
pub const MIN_WINDOW_BYTES: u64 = 2 << 20;
/// Bytes read from the journal and written to the socket at once.
pub const BATCH_BYTES: u64 = 1 << 20;
/// Chunks written to the socket at once (three pieces each, of 1024 that one system call takes).
pub const BATCH_CHUNKS: usize = 256;
/// Longest piece of the image copied at once: the body of one frame.
pub const COPY_PIECE_BYTES: u32 = 1 << 20;
/// Pieces that are compared ahead of what a copy sends: enough for a line of 100 ms.
pub const MAX_COMPARED: usize = 64;
/// Parts of a copy that differ are sent as one if no more than this is between them.
pub const COMPARE_GAP_BYTES: u64 = 16 << 10;
/// A link with a rate sends batches of what is free in this part of a second, if that is not less than
/// [`PACE_LEAST_BYTES`].
pub const PACE_PARTS: u64 = 4;
/// Batches are no smaller for a rate.
pub const PACE_LEAST_BYTES: u64 = 64 << 10;
/// Chunks sent, merged or not, and not yet acknowledged. All of them, and those read after them, have a place on the trail of a remote
/// that is let go.
pub const MAX_UNACKED: usize = MAX_TRAIL_POINTS - BATCH_CHUNKS - 1;
/// How long a range waits to be compared while there are records to be sent.
pub const VERIFY_PATIENCE_MS: u64 = 1_000;
/// A range is compared only while the remote has applied all but so many of the records that were sent.
pub const VERIFY_LEAD_RECORDS: u64 = 4_096;
/// Longest range compared at once.
pub const VERIFY_PIECE_BYTES: u32 = 1 << 20;
/// Longest range that is read while writes wait, because it is written all the time.
pub const VERIFY_STILL_BYTES: u32 = 64 << 10;
/// How long it is waited for writes to wait. While they wait for room in the journal they cannot, and chunks have to be
/// sent meanwhile.
pub const VERIFY_STILL_MS: u64 = 20;
/// Ranges that are listed of those that differ.
pub const VERIFY_RANGES: usize = 1_000;
/// Time for one address to accept a connection.
pub const CONNECT_TIMEOUT_MS: u64 = 5_000;
/// Time to find the addresses of a name.
pub const RESOLVE_TIMEOUT_MS: u64 = 5_000;
/// Addresses tried of one name.
pub const MAX_ADDRESSES: usize = 8;
/// First pause before dialling again; it doubles.
pub const BACKOFF_FIRST_MS: u64 = 200;
/// Longest pause before dialling again.
pub const BACKOFF_LAST_MS: u64 = 5_000;
/// Pause after a refusal that somebody has to do something about.
pub const BACKOFF_REFUSED_MS: u64 = 10_000;
/// How often a session looks at the time.
pub const TICK_MS: u64 = 250;
/// A session looks for what became durable so long after it looked last, at the earliest: flushes that follow each other closely then share a
/// read of the journal, a send, and the remote's write.
pub const CHANGE_INTERVAL_MS: u64 = 1;
/// A session that lasted so long counts as a good one, even if nothing was written meanwhile.
pub const STABLE_SESSION_MS: u64 = 10_000;
/// Time to say why before closing.
pub const FAREWELL_MS: u64 = 1_000;
/// Silence after which TCP itself probes the peer.
pub const KEEPALIVE_MS: u64 = 10_000;
/// Read buffer of a connection; only small frames come this way.
pub const READ_BUFFER_BYTES: usize = 8 << 10;
