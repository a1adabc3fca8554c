//! Every size, count and time of the iSCSI target.

/// Longest sequence of data in one direction, in bytes.
pub(super) const MAX_BURST_BYTES: u32 = 1 << 20;
/// Most data that a write brings unasked for, in bytes.
pub(super) const FIRST_BURST_BYTES: u32 = 256 << 10;
/// Unanswered R2Ts of one command.
pub(super) const OUTSTANDING_R2T: u32 = 1;
