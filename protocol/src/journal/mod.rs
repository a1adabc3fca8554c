//! The on-disk format of a journal: superblock, chunks (meta-data block and data), records.
//!
//! The byte-by-byte description is `docs/on-disk-format.md`; the tables there and the constants here are kept
//! in step by golden-byte tests.

pub mod limits;
mod error;
mod record;
mod what;
mod place;
mod superblock;
mod block_map;
mod trail;
#[cfg(test)]
mod tests;

pub use block_map::{BLOCK_MAP_HEADER_BYTES, BlockMapHeader};
pub use error::FormatError;
pub use place::Place;
pub use record::{MARK_COPYING, MARK_MOMENT, MARK_POSITION, Record, RecordKind};
pub use superblock::{
    ChainPoint, ConsumerSlot, ConsumerState, CopyState, JOURNAL_VERSION, Role, Superblock, Totals,
};
pub use trail::{MAX_TRAIL_BYTES, MAX_TRAIL_POINTS, decode_trail, encode_trail};
pub use what::{
    CHUNK_VERSION, ChunkHeader, Merged, What, encode_merged, encode_what, stored_bytes, what_bytes,
};
