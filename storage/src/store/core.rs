//! The store's decisions, pure: how the next chunk is cut, and what to do about space.

use crate::journal::Layout;
use crate::limits::{CHECKPOINT_PERCENT, HIGH_WATER_PERCENT};
use farside_protocol::journal::limits::{BLOCK_BYTES_U64, MAX_RECORDS};
use farside_protocol::journal::stored_bytes;

/// A rest of a segment this large is filled with part of a large write rather than skipped.
const SPLIT_BYTES: u64 = 128 << 10;

/// How the next chunk is laid out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Plan {
    /// Where it goes.
    pub(super) address: u64,
    /// How many changes it takes.
    pub(super) changes: usize,
    /// Bytes of payload; less than the first change's when that one has to be split.
    pub(super) data_bytes: u32,
}

/// Cuts the next chunk after the address `head` from changes with these payload lengths.
pub(super) fn plan(layout: &Layout, head: u64, lengths: impl Iterator<Item = u64> + Clone) -> Plan {
    let first = lengths.clone().next().unwrap_or(0);
    let max = u64::from(layout.max_data_bytes());
    let segment_rest = layout.segment_end(head) - head;
    let room = segment_rest.saturating_sub(BLOCK_BYTES_U64).min(max);
    let fits_here = segment_rest >= BLOCK_BYTES_U64 && (first.min(max) <= room || room >= SPLIT_BYTES);
    let (address, budget) = if fits_here {
        (head, room)
    } else {
        (layout.segment_end(head), max)
    };
    let mut plan = Plan {
        address,
        changes: 0,
        data_bytes: 0,
    };
    let mut data_bytes = 0;
    for length in lengths.take(MAX_RECORDS) {
        if data_bytes + length > budget {
            break;
        }
        data_bytes += length;
        plan.changes += 1;
    }
    if plan.changes == 0 {
        (plan.changes, data_bytes) = (1, budget);
    }
    plan.data_bytes = u32::try_from(data_bytes).expect("a chunk's payload is limited to 1 MiB");
    plan
}

impl Plan {
    /// Address of the first byte after the chunk.
    pub(super) fn end(&self) -> u64 {
        self.address + stored_bytes(self.data_bytes)
    }
}

/// Addresses that decide about space.
#[derive(Debug, Clone)]
pub(super) struct Space {
    pub(super) ring_bytes: u64,
    pub(super) head: u64,
    pub(super) tail: u64,
    /// The image holds everything before it, not yet durably.
    pub(super) applied: u64,
    /// Confirmed addresses of the consumers that still hold the tail.
    pub(super) consumers: Vec<u64>,
    /// A write is waiting for space.
    pub(super) wanted: bool,
}

/// What to do about space.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Relief {
    /// Nothing.
    None,
    /// Make the image durable and move the tail.
    Checkpoint,
    /// Stop holding the tail for the consumers that are furthest behind, then as above.
    CutLoose {
        /// Consumers confirmed up to an address below this are cut loose.
        below: u64,
    },
}

/// Decides what to do about space.
pub(super) fn relief(space: &Space) -> Relief {
    let slowest = space.consumers.iter().copied().min().unwrap_or(space.applied);
    let reachable = slowest.min(space.applied).max(space.tail);
    let (used, held) = (space.head - space.tail, space.head - reachable);
    let gain = reachable - space.tail;
    let percent = |bytes: u64| bytes.saturating_mul(100) / space.ring_bytes;
    // Every checkpoint costs a sync of the image: small gains are taken only by whoever cannot go on without.
    let due =
        percent(gain) >= CHECKPOINT_PERCENT || (percent(used) >= HIGH_WATER_PERCENT && percent(gain) >= 1);
    if due || (space.wanted && gain > 0) {
        return Relief::Checkpoint;
    }
    let pressed = space.wanted || percent(held) >= HIGH_WATER_PERCENT;
    if pressed && slowest < space.applied {
        // Everything that is as far behind as the slowest goes with it: otherwise the next write waits again.
        let below = (slowest + space.ring_bytes * (100 - HIGH_WATER_PERCENT) / 100).min(space.applied);
        return Relief::CutLoose { below };
    }
    Relief::None
}

#[cfg(test)]
mod tests {
    use super::*;

    const LAYOUT: Layout = Layout {
        segment_bytes: 1 << 20,
        segment_count: 8,
        window_segments: 2,
    };

    fn planned(head: u64, lengths: &[u64]) -> Plan {
        plan(&LAYOUT, head, lengths.iter().copied())
    }

    #[test]
    fn a_chunk_takes_what_fits_and_never_crosses_its_segment() {
        let end = 1 << 20;
        assert_eq!(
            planned(0, &[4096; 3]),
            Plan {
                address: 0,
                changes: 3,
                data_bytes: 12288
            }
        );
        assert_eq!(planned(0, &[512; 200]).changes, MAX_RECORDS);
        assert_eq!(
            planned(end - 8192, &[4096, 4096]),
            Plan {
                address: end - 8192,
                changes: 1,
                data_bytes: 4096
            }
        );
        assert_eq!(
            planned(end - 4096, &[4096]),
            Plan {
                address: end,
                changes: 1,
                data_bytes: 4096
            }
        );
        assert_eq!(
            planned(end - 4096, &[0]),
            Plan {
                address: end - 4096,
                changes: 1,
                data_bytes: 0
            }
        );
        let large = planned(end - (300 << 10), &[1 << 20]);
        assert_eq!(
            large,
            Plan {
                address: end - (300 << 10),
                changes: 1,
                data_bytes: (300 << 10) - 4096
            }
        );
        assert_eq!(planned(end - (100 << 10), &[1 << 20]).address, end);
    }

    fn space(head: u64, tail: u64, applied: u64, consumers: &[u64], wanted: bool) -> Relief {
        relief(&Space {
            ring_bytes: 1000,
            head,
            tail,
            applied,
            consumers: consumers.to_vec(),
            wanted,
        })
    }

    #[test]
    fn space_is_made_by_checkpoint_first_and_by_cutting_loose_last() {
        assert_eq!(space(100, 0, 100, &[], false), Relief::None);
        assert_eq!(space(300, 0, 300, &[], false), Relief::Checkpoint);
        assert_eq!(space(300, 0, 300, &[10], false), Relief::None);
        assert_eq!(space(950, 0, 950, &[10], false), Relief::Checkpoint);
        assert_eq!(space(950, 10, 950, &[10], false), Relief::CutLoose { below: 110 });
        assert_eq!(space(950, 10, 10, &[10], false), Relief::None);
        assert_eq!(
            space(500, 10, 500, &[10, 400], true),
            Relief::CutLoose { below: 110 }
        );
        assert_eq!(space(500, 10, 10, &[400], true), Relief::None);
    }
}
