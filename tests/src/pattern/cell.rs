//! The content of pattern writes: one 32-byte cell per 32 bytes of disk, at absolute multiples of 32.
//!
//! A write that begins or ends inside a cell carries the bytes of that cell it covers. Layout, big-endian: crc32c of
//! the rest (4), magic (4), operation (8), cell index on the disk (8), seed of the writer (8).

use super::history::OperationId;

/// Size of one cell in bytes.
pub const CELL_BYTES: u64 = 32;
const CELL: usize = 32;
const MAGIC: u32 = 0xFA25_1DE0;

/// The cell at `index` as operation `id` of the writer with `seed` writes it.
#[must_use]
pub(crate) fn cell(seed: u64, id: OperationId, index: u64) -> [u8; CELL] {
    let mut bytes = [0; CELL];
    let (sum, body) = bytes.split_at_mut(4);
    let fields = [
        &MAGIC.to_be_bytes()[..],
        &id.to_be_bytes(),
        &index.to_be_bytes(),
        &seed.to_be_bytes(),
    ];
    body.copy_from_slice(&fields.concat());
    sum.copy_from_slice(&crc32c::crc32c(body).to_be_bytes());
    bytes
}

/// Who wrote this cell, if it is whole, of this writer, and belongs at `index`.
#[must_use]
pub fn read_cell(seed: u64, index: u64, bytes: &[u8]) -> Option<OperationId> {
    let id = bytes
        .get(8..16)
        .and_then(|field| field.first_chunk::<8>())
        .map(|field| u64::from_be_bytes(*field))?;
    (bytes == cell(seed, id, index)).then_some(id)
}

/// The bytes of operation `id` from `offset` on.
#[must_use]
pub fn fill(seed: u64, id: OperationId, offset: u64, length: u32) -> Vec<u8> {
    let end = offset + u64::from(length);
    let first = offset / CELL_BYTES;
    let mut bytes = Vec::with_capacity(to_index(u64::from(length) + 2 * CELL_BYTES));
    for index in first..end.div_ceil(CELL_BYTES) {
        bytes.extend_from_slice(&cell(seed, id, index));
    }
    let skip = to_index(offset - first * CELL_BYTES);
    bytes.drain(..skip);
    bytes.truncate(to_index(u64::from(length)));
    bytes
}

/// A byte count as an index; images in tests fit into memory.
pub(crate) fn to_index(bytes: u64) -> usize {
    usize::try_from(bytes).expect("test images are far smaller than the address space")
}
