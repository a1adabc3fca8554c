//! Sizes, counts and times that all targets have in common.

use std::time::Duration;

/// A reply longer than this is sent from its own buffer instead of being copied behind the others.
pub(super) const COPIED_REPLY_BYTES: usize = 32 << 10;
/// Longest single send.
pub(super) const SEND_BYTES: usize = 1 << 20;
/// First and longest pause after a failed accept (too many open files, for example).
pub(super) const ACCEPT_PAUSE: (Duration, Duration) = (Duration::from_millis(20), Duration::from_secs(1));
/// How long a closed connection is read on, so that the peer gets the last replies and not a reset.
pub(super) const LINGER: Duration = Duration::from_secs(1);
/// TCP keep-alive: a host that vanished is noticed after about idle + probes * interval.
pub(super) const KEEPALIVE_IDLE: Duration = Duration::from_secs(60);
/// Time between keep-alive probes.
pub(super) const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);
/// Probes without an answer that end the connection.
pub(super) const KEEPALIVE_PROBES: u32 = 6;
/// Attach messages per [`ATTACH_LOG_PERIOD`] logged at info; more go to debug.
pub(super) const ATTACH_LOG_BURST: u32 = 100;
/// See [`ATTACH_LOG_BURST`].
pub(super) const ATTACH_LOG_PERIOD: Duration = Duration::from_secs(60);
/// A receive buffer larger than this is given back when the write that needed it is done, one of replies when they are
/// sent.
pub(super) const RETAINED_BYTES: usize = (1 << 20) + (64 << 10);
/// Longer reads go to the disk's own threads even when cached, so that copying them delays nobody else.
pub(super) const INLINE_READ_BYTES: u32 = 1 << 20;
/// Reads of one connection that wait for the disk.
pub(super) const COLD_READS: usize = 64;
/// Bytes of one connection's waiting reads; one read may exceed it.
pub(super) const COLD_READ_BYTES: u64 = 16 << 20;
/// Replies of one connection that wait for durability.
pub(super) const DEFERRED_REPLIES: usize = 4096;
/// Changes journaled together at most.
pub(super) const BATCH_UPDATES: usize = 1024;
/// Bytes of the ranges to trim or to zero that are journaled together at most; one range may exceed it.
pub(super) const BATCH_RANGE_BYTES: u64 = 1 << 40;
/// No request is taken while more than this waits to be sent.
pub(super) const OUTPUT_BYTES: usize = 256 << 10;
/// Room for one receive.
pub(super) const RECEIVE_BYTES: usize = 256 << 10;
/// With less room than this a new receive buffer is taken rather than receiving into what is left.
pub(super) const RECEIVE_MIN_BYTES: usize = 64 << 10;
/// A write longer than this is received alone, straight into its place.
pub(super) const LARGE_WRITE_BYTES: usize = 64 << 10;
/// After so many requests that came one at a time, with nothing owed before, a connection makes its flushes durable
/// itself: the host will hardly send anything else meanwhile. After so many changes with a flush after each, the next
/// flush is expected.
pub(super) const LONE_REQUESTS: u32 = 16;
/// A connection that waited longer than this for a disk leaves it to others for a while.
pub(super) const SLOW_SYNC: Duration = Duration::from_millis(50);

/// The limits a unit may set itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settings {
    /// Connections of one listener at the same time; further ones are closed at once.
    pub connections: usize,
    /// Time from accept to the end of the negotiation or login.
    pub negotiation: Duration,
    /// Time that connections have at shutdown to answer what they received.
    pub drain: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            connections: 1024,
            negotiation: Duration::from_secs(30),
            drain: Duration::from_secs(10),
        }
    }
}
