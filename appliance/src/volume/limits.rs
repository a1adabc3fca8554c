//! Limits of a volume.

use std::time::Duration;

/// How long a change may stay non-durable while no host asks for a flush: bounds the lag of remotes.
pub(super) const SYNC_INTERVAL: Duration = Duration::from_millis(40);
/// How many groups one leader commits before it hands leadership to a waiting connection.
pub(super) const LEADER_ROUNDS: usize = 4;
/// Host changes that one group takes together; the rest waits for the next.
pub(super) const GROUP_CHANGES: usize = 1024;
/// Bytes of one cold read at a time on a waiting thread.
pub(super) const COLD_READ_BYTES: u32 = 64 << 20;
/// A group that waits for room asks again after this long at the latest.
pub(super) const ROOM_RETRY: Duration = Duration::from_millis(100);
/// A remote further behind the head than this is read for on a waiting thread: what it needs may have left the
/// page cache.
pub(super) const WARM_BYTES: u64 = 64 << 20;
/// Marks of when records were journaled, at most; 16 bytes each.
pub(super) const MARKS: usize = 4096;
/// Shortest time between two of them.
pub(super) const MARK_INTERVAL_US: u64 = 50_000;
/// Longest trim or zeroing in one record; writes are shorter, by the limits of the targets.
pub(super) const CHANGE_BYTES: u64 = 2 << 30;
