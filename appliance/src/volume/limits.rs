//! Limits of a volume.

/// How many groups one leader commits before it hands leadership to a waiting connection.
pub(super) const LEADER_ROUNDS: usize = 4;
/// Host changes that one group takes together; the rest waits for the next.
pub(super) const GROUP_CHANGES: usize = 1024;
/// Bytes of one cold read at a time on a waiting thread.
pub(super) const COLD_READ_BYTES: u32 = 64 << 20;
