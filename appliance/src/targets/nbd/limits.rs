//! Every size, count and time of the NBD target.

/// Longest payload of a read or write, in bytes; announced as the maximum payload size.
pub(super) const MAX_PAYLOAD_BYTES: u32 = 64 << 20;
/// A write announcing more than this ends the connection instead of being skipped.
pub(super) const MAX_SKIPPED_BYTES: usize = 256 << 20;
/// Reads of at least this length that have to wait for the disk are asked first for zeroes that need not be sent.
pub(super) const SPARSE_READ_BYTES: u32 = 64 << 10;
/// Pieces of which the reply to such a read consists at most, and extents of one block status.
pub(super) const EXTENTS: usize = 4096;
/// The only metadata context has this id.
pub(super) const ALLOCATION_CONTEXT: u32 = 1;
/// Lengths of the payload of a query of the block status: a length, and no or one metadata context. Longer ones name a
/// context twice, or one that does not exist.
pub(super) const STATUS_PAYLOADS: [u64; 2] = [8, 12];

/// Options longer than this are not looked at.
pub(super) const OPTION_BYTES: u32 = 16 << 10;
/// Options longer than this are not even skipped: the connection ends.
pub(super) const SKIPPED_OPTION_BYTES: u32 = 1 << 20;
/// Options before transmission begins.
pub(super) const OPTIONS: u32 = 1024;
/// Smallest and largest preferred block size the protocol allows us to announce, in bytes.
pub(super) const PREFERRED_BLOCK_BYTES: (u32, u32) = (512, MAX_PAYLOAD_BYTES);

/// Longest text of a refusal.
pub(super) const ERROR_TEXT_BYTES: usize = 1024;
