//! READ CAPACITY and GET LBA STATUS (SBC-3, sections 5.4 and 5.15).

use super::answer::Answer;
use super::limits::{BLOCK_BYTES, STATUS_EXTENTS};
use crate::targets::Disk;
use bytes::BufMut;
use farside_storage::{Allocation, Stretch};
use std::sync::Arc;

/// Bytes before the first extent, and of each extent.
const STATUS_HEADER_BYTES: u32 = 8;
const EXTENT_BYTES: u32 = 16;

pub(super) fn of_ten(blocks: u64) -> Answer {
    let mut data = Vec::new();
    // A larger disk says so, and READ CAPACITY (16) tells how large.
    data.put_u32(u32::try_from(blocks.saturating_sub(1)).unwrap_or(u32::MAX));
    data.put_u32(BLOCK_BYTES);
    Answer::with(data)
}

pub(super) fn of_sixteen(blocks: u64, allocation: u32) -> Answer {
    let mut data = Vec::new();
    data.put_u64(blocks.saturating_sub(1));
    data.put_u32(BLOCK_BYTES);
    // No protection; a logical block is a physical one; thin provisioned, and unmapped blocks read as zeroes.
    data.extend_from_slice(&[0, 0, 0xc0, 0]);
    data.resize(32, 0);
    Answer::cut(data, allocation)
}

/// Which blocks are provisioned, from `lba` on.
pub(super) async fn status<D: Disk>(disk: Arc<D>, lba: u64, blocks: u64, allocation: u32) -> Answer {
    let block = u64::from(BLOCK_BYTES);
    let room = allocation.saturating_sub(STATUS_HEADER_BYTES) / EXTENT_BYTES;
    let most = usize::try_from(room).unwrap_or(0).clamp(1, STATUS_EXTENTS);
    let (offset, length) = (lba * block, (blocks - lba) * block);
    match disk.allocation(offset, length, most).await {
        Ok(found) => Answer::cut(extents(lba, &in_blocks(&found), most), allocation),
        Err(error) => Answer::failed(error, false),
    }
}

/// Stretches in whole blocks: one that holds data anywhere holds data.
fn in_blocks(found: &[Stretch]) -> Vec<(u64, Allocation)> {
    let block = u64::from(BLOCK_BYTES);
    let mut runs: Vec<(u64, Allocation)> = Vec::new();
    let mut push = |blocks: u64, allocation| match runs.last_mut() {
        _ if blocks == 0 => {}
        Some((count, known)) if *known == allocation => *count += blocks,
        _ => runs.push((blocks, allocation)),
    };
    let mut begun = 0;
    let mut mixed = Allocation::Hole;
    for stretch in found {
        let allocation = stretch.allocation;
        let mut left = stretch.length;
        if begun > 0 {
            let rest = left.min(block - begun);
            (begun, left) = (begun + rest, left - rest);
            mixed = if mixed == allocation {
                mixed
            } else {
                Allocation::Data
            };
            if begun < block {
                continue;
            }
            push(1, mixed);
        }
        push(left / block, allocation);
        (begun, mixed) = (left % block, allocation);
    }
    // Nobody asked what the rest of a block that is only begun holds.
    if begun > 0 {
        push(1, Allocation::Data);
    }
    runs
}

fn extents(lba: u64, runs: &[(u64, Allocation)], most: usize) -> Vec<u8> {
    let mut data = vec![0; 8];
    let mut at = lba;
    for (blocks, allocation) in runs.iter().take(most) {
        let mut left = *blocks;
        while left > 0 && data.len() < most * 16 + 8 {
            let part = u32::try_from(left).unwrap_or(u32::MAX);
            data.put_u64(at);
            data.put_u32(part);
            let state = match allocation {
                Allocation::Data => 0,
                Allocation::Hole => 1,
                Allocation::Zero => 2,
            };
            data.extend_from_slice(&[state, 0, 0, 0]);
            (at, left) = (at + u64::from(part), left - u64::from(part));
        }
    }
    let following = u32::try_from(data.len() - 4).unwrap_or(u32::MAX);
    data[..4].copy_from_slice(&following.to_be_bytes());
    data
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_that_holds_data_anywhere_holds_data() {
        let stretch = |length, allocation| Stretch { length, allocation };
        let runs = |found: &[(u64, Allocation)]| {
            let found: Vec<_> = found
                .iter()
                .map(|(length, kind)| stretch(*length, *kind))
                .collect();
            in_blocks(&found)
        };
        use Allocation::{Data, Hole, Zero};
        assert_eq!(runs(&[(1024, Hole), (512, Data)]), [(2, Hole), (1, Data)]);
        assert_eq!(runs(&[(600, Hole), (424, Data)]), [(1, Hole), (1, Data)]);
        assert_eq!(
            runs(&[(100, Hole), (100, Zero), (312, Hole), (512, Hole)]),
            [(1, Data), (1, Hole)]
        );
        assert_eq!(runs(&[(512, Zero), (100, Zero)]), [(1, Zero), (1, Data)]);
        assert_eq!(runs(&[(300, Hole), (212, Hole), (1024, Hole)]), [(3, Hole)]);
    }
}
