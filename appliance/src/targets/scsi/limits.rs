//! Every size and count of the SCSI disk.

/// Size of a logical block in bytes.
pub(in crate::targets) const BLOCK_BYTES: u32 = 512;
/// Logical blocks that are cheapest to write together: the journal and the mirror work in blocks of 4096 bytes.
///
/// Told as the granularity of transfers. A physical block is told to be as long as a logical one: initiators that know nothing
/// else refuse other disks, and any block can be written by itself without reading others.
pub(super) const GRANULARITY_BLOCKS: u16 = 8;
/// Most blocks read, written or compared by one command: 32 MiB, so that every command with a length of 16 bits fits.
pub(super) const TRANSFER_BLOCKS: u32 = 1 << 16;
/// The length of a transfer that is cheapest, in blocks.
pub(super) const OPTIMAL_BLOCKS: u32 = 256;
/// Most blocks that WRITE SAME repeats its block to: 128 MiB.
pub(super) const WRITE_SAME_BLOCKS: u32 = 1 << 18;
/// Bytes that WRITE SAME and verifications have in hand at once.
pub(super) const PIECE_BYTES: u32 = 1 << 20;
/// Most blocks on each side of COMPARE AND WRITE: what its length field can say.
pub(super) const COMPARE_BLOCKS: u8 = u8::MAX;
/// Most ranges of one UNMAP: what its length field can say is more.
pub(super) const UNMAP_RANGES: u32 = 256;
/// Most extents that GET LBA STATUS tells at once.
pub(super) const STATUS_EXTENTS: usize = 256;
/// Initiators that are registered for persistent reservations of a volume.
pub(super) const REGISTRANTS: usize = 256;
/// Unit attentions that wait for one initiator; the oldest give way.
pub(super) const ATTENTIONS: usize = 8;
