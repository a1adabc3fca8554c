//! Sizes of the journal format. Everything that is laid out on disk is derived from these.

/// One meta-data block, and the unit to which chunks are padded.
pub const BLOCK_BYTES: usize = 4096;
/// The same as a file offset.
pub const BLOCK_BYTES_U64: u64 = 4096;
/// Fixed part of the *what* part, before the table of records.
pub const WHAT_HEADER_BYTES: usize = 96;
/// One entry of the table of records.
pub const RECORD_BYTES: usize = 24;
/// The *where* part stands at the end of the meta-data block.
pub const WHERE_BYTES: usize = 128;
/// Offset of the *where* part in the meta-data block.
pub const WHERE_OFFSET: usize = BLOCK_BYTES - WHERE_BYTES;
/// How many records one chunk can describe.
pub const MAX_RECORDS: usize = (WHERE_OFFSET - WHAT_HEADER_BYTES) / RECORD_BYTES;
/// What follows the fixed part in a chunk of a merged batch.
pub const MERGED_BYTES: usize = 40;
/// How many records such a chunk can describe.
pub const MAX_MERGED_RECORDS: usize = (WHERE_OFFSET - WHAT_HEADER_BYTES - MERGED_BYTES) / RECORD_BYTES;
/// The longest *what* part.
pub const MAX_WHAT_BYTES: usize = WHAT_HEADER_BYTES + MAX_RECORDS * RECORD_BYTES;
/// Payload of one chunk. A larger host write becomes several records.
pub const MAX_CHUNK_DATA_BYTES: u32 = 1 << 20;
/// Where the first segment begins; the two superblocks stand before it.
pub const RING_OFFSET: u64 = 64 << 10;
/// Offsets of the two copies of the superblock, far enough apart not to share a torn device sector.
pub const SUPERBLOCK_OFFSETS: [u64; 2] = [0, 32 << 10];
/// Smallest segment: one meta-data block and some data.
pub const MIN_SEGMENT_BYTES: u32 = 16 << 10;
/// Largest segment.
pub const MAX_SEGMENT_BYTES: u32 = 64 << 20;
/// Fewest segments of a ring.
pub const MIN_SEGMENTS: u32 = 4;
/// Consumers (remotes) a journal can keep a position for.
pub const MAX_CONSUMERS: usize = 8;
/// Largest volume.
pub const MAX_VOLUME_BYTES: u64 = 1 << 50;
/// Largest ring.
pub const MAX_RING_BYTES: u64 = 1 << 50;
/// Addresses, sequences, record numbers, epochs and starts stay below this: no journal lives long enough to get
/// there, and arithmetic on what a decoder accepted cannot overflow.
pub const MAX_POSITION: u64 = 1 << 61;
/// Positions above this no journal can have reached: they are refused at a start, and from a link.
pub const MAX_REACHED: u64 = MAX_POSITION / 2;
/// Longest name of a volume or consumer in bytes.
pub const NAME_BYTES: usize = 32;

const _: () = assert!(MAX_RECORDS == 161);
const _: () = assert!(MAX_WHAT_BYTES <= WHERE_OFFSET);
const _: () = assert!(SUPERBLOCK_OFFSETS[1] + BLOCK_BYTES_U64 <= RING_OFFSET);
