//! UNMAP and WRITE SAME (SBC-3, sections 5.28 and 5.42 to 5.44).

use super::limits::{BLOCK_BYTES, PIECE_BYTES, UNMAP_RANGES, WRITE_SAME_BLOCKS};
use crate::targets::Update;
use bytes::Bytes;
use farside_protocol::scsi::{Additional, Extent, Sense};

/// Bytes before the first range, and of each range.
const HEADER_BYTES: usize = 8;
const RANGE_BYTES: usize = 16;

/// The ranges of an UNMAP of a disk with so many blocks.
pub(super) fn unmap(parameters: &[u8], blocks: u64) -> Result<Vec<Update>, Sense> {
    if parameters.is_empty() {
        return Ok(Vec::new());
    }
    let (header, rest) = parameters
        .split_first_chunk::<HEADER_BYTES>()
        .ok_or(Sense::illegal(Additional::ParameterListLengthError))?;
    let [_, _, high, low, ..] = *header;
    let listed = usize::from(u16::from_be_bytes([high, low]));
    // Ranges that are cut off do not count.
    let ranges = rest.get(..listed).unwrap_or(rest).as_chunks::<RANGE_BYTES>().0;
    if ranges.len() > UNMAP_RANGES as usize {
        return Err(Sense::in_parameters(2, None));
    }
    let mut updates = Vec::new();
    for range in ranges {
        let [l0, l1, l2, l3, l4, l5, l6, l7, n0, n1, n2, n3, ..] = *range;
        let lba = u64::from_be_bytes([l0, l1, l2, l3, l4, l5, l6, l7]);
        let count = u64::from(u32::from_be_bytes([n0, n1, n2, n3]));
        if lba.checked_add(count).is_none_or(|end| end > blocks) {
            return Err(Sense::illegal(Additional::LbaOutOfRange));
        }
        if count > 0 {
            updates.push(Update::Trim {
                offset: lba * u64::from(BLOCK_BYTES),
                length: count * u64::from(BLOCK_BYTES),
            });
        }
    }
    Ok(updates)
}

/// The changes of a WRITE SAME: of the extent, which is inside the disk, every block becomes `block`, zeroes if there is
/// none; with `unmap` blocks of zeroes may be given back.
pub(super) fn write_same(extent: Extent, block: Option<&Bytes>, unmap: bool) -> Result<Vec<Update>, Sense> {
    if extent.blocks == 0 || extent.blocks > WRITE_SAME_BLOCKS {
        return Err(Sense::illegal(Additional::InvalidFieldInCdb));
    }
    let (offset, length) = super::media::bytes_of(extent);
    let is_zero = block.is_none_or(|block| block.iter().all(|byte| *byte == 0));
    Ok(match block {
        _ if is_zero && unmap => vec![Update::Trim { offset, length }],
        Some(block) if !is_zero => repeated(offset, length, block),
        _ => vec![Update::Zero {
            offset,
            length,
            allocate: false,
        }],
    })
}

/// Writes of a bounded length that share their data.
fn repeated(offset: u64, length: u64, block: &Bytes) -> Vec<Update> {
    let piece = u64::from(PIECE_BYTES).min(length);
    let copies = usize::try_from(piece / u64::from(BLOCK_BYTES)).unwrap_or(1);
    let data = Bytes::from(block.repeat(copies));
    (0..length.div_ceil(piece))
        .map(|number| number * piece)
        .map(|from| Update::Write {
            offset: offset + from,
            data: data.slice(..usize::try_from((length - from).min(piece)).unwrap_or(0)),
        })
        .collect()
}
