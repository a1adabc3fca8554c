//! Finding the head after a restart.
//!
//! Media assumptions: what was synced stays; what was not may be there whole, in part, or not, in any order,
//! per sector. At most the window of segments is ever non-durable, so everything before the window is in
//! order and binary search over the segments' first chunks lands inside it. From one window before that
//! place, but never before what the image holds durably, the chain is walked, payloads checked, to its end.
//! Sequence and checksums decide, never the clock. A merged batch that is not all there ends the chain before it.
//! Where chunks count only when they were confirmed, it ends at the head that the superblock names.
//!
//! | row | the chain ends where | and | then |
//! | --- | --- | --- | --- |
//! | clean | the superblock's head stands | it was shut down cleanly | the same epoch goes on |
//! | whole | anything | no sign of a lost durable record | what follows was never durable: a new epoch begins |
//! | short | before the superblock's head | | damaged: a durable chunk is unreadable |
//! | contradicted | before a record that a later chunk calls durable | | damaged, likewise |

use super::layout::Layout;
use super::reader::{Found, Ring, continues, point_after, point_before};
use crate::device::Device;
use crate::error::StorageError;
use farside_protocol::journal::limits::{BLOCK_BYTES, BLOCK_BYTES_U64, MAX_CHUNK_DATA_BYTES};
use farside_protocol::journal::{ChainPoint, Place, Superblock, What};

/// What recovery found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Recovered {
    /// The newest chunk of the chain.
    pub head: ChainPoint,
    /// Whether the journal was shut down cleanly and nothing contradicts that.
    pub clean: bool,
    /// Meta-data blocks that were read to find the head.
    pub blocks_read: u64,
}

/// How a recovery ends, decided from what was seen. Exactly one row fits every combination.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Outcome {
    Clean,
    Whole,
    Short,
    Contradicted,
}

/// The table of the module's description.
fn outcome(marked_clean: bool, head: u64, superblock_head: u64, contradicted: bool) -> Outcome {
    match (head.cmp(&superblock_head), contradicted, marked_clean) {
        (std::cmp::Ordering::Less, _, _) => Outcome::Short,
        (_, true, _) => Outcome::Contradicted,
        (std::cmp::Ordering::Equal, false, true) => Outcome::Clean,
        _ => Outcome::Whole,
    }
}

struct Search<'a> {
    ring: Ring<'a>,
    block: Box<[u8; BLOCK_BYTES]>,
    data: Vec<u8>,
    blocks_read: u64,
}

/// Finds the head of the journal that `superblock` describes.
///
/// # Errors
/// [`StorageError::Damaged`] when a chunk that was durable cannot be read, naming its place; [`StorageError::Io`].
pub fn recover(device: &dyn Device, superblock: &Superblock) -> Result<Recovered, StorageError> {
    let mut search = Search::new(device, superblock);
    // The chunks that the image has may rot, and only a remote that still wants them loses.
    let start = search.start(&superblock.mirrored)?;
    let limit = if superblock.confirms {
        superblock.head.record
    } else {
        u64::MAX
    };
    let head = search.walk(start, limit)?;
    let contradicted = search.contradiction(&head)?;
    let seen = outcome(
        superblock.clean,
        head.record,
        superblock.head.record,
        contradicted,
    );
    match seen {
        Outcome::Clean | Outcome::Whole => Ok(Recovered {
            head,
            clean: seen == Outcome::Clean,
            blocks_read: search.blocks_read,
        }),
        Outcome::Short | Outcome::Contradicted => Err(StorageError::damaged(
            device.name(),
            search.ring.layout.file_offset(head.address),
            format!(
                "the journal breaks off after record {} (chunk {}), but later records were durable; it was damaged \
                 outside Farside. Restore the file, or create the volume again from the remote's copy",
                head.record, head.sequence
            ),
        )),
    }
}

/// The head by walking the whole chain from the tail: what [`recover`] must agree with.
///
/// # Errors
/// [`StorageError::Io`].
pub fn scan_all(device: &dyn Device, superblock: &Superblock) -> Result<ChainPoint, StorageError> {
    let mut search = Search::new(device, superblock);
    let limit = if superblock.confirms {
        superblock.head.record
    } else {
        u64::MAX
    };
    search.walk(superblock.tail, limit)
}

impl<'a> Search<'a> {
    fn new(device: &'a dyn Device, superblock: &Superblock) -> Self {
        let ring = Ring {
            device,
            layout: Layout::of(superblock),
            journal: superblock.journal,
            volume: superblock.volume,
        };
        Self {
            ring,
            block: Box::new([0; BLOCK_BYTES]),
            data: Vec::new(),
            blocks_read: 0,
        }
    }

    /// A point of the chain at most one window and a segment before the head, and not before one that is known.
    fn start(&mut self, known: &ChainPoint) -> Result<ChainPoint, StorageError> {
        let layout = self.ring.layout;
        let first = layout.segment_of(known.address);
        // The newest segment with a chunk of this round: true up to the durable head, false after the window.
        let (mut low, mut high) = (first, first + layout.segment_count);
        while low < high {
            let middle = low + (high - low).div_ceil(2);
            if self.segment_is_live(middle, known)? {
                low = middle
            } else {
                high = middle - 1
            }
        }
        let mut segment = low.saturating_sub(layout.window_segments + 1);
        while segment > first {
            if let Some(point) = self.before_segment(segment, known)? {
                return Ok(point);
            }
            segment -= 1;
        }
        Ok(*known)
    }

    fn look(&mut self, address: u64) -> Result<Found, StorageError> {
        self.blocks_read += 1;
        self.ring.look(address, &mut self.block)
    }

    fn segment_is_live(&mut self, segment: u64, known: &ChainPoint) -> Result<bool, StorageError> {
        let found = self.look(self.ring.layout.segment_start(segment))?;
        Ok(matches!(found, Found::Chunk(place) if place.sequence > known.sequence))
    }

    /// The point before the first chunk of a segment, as that chunk itself names it. Not of one that may be in the middle of
    /// a merged batch: there the chain must not end.
    fn before_segment(
        &mut self,
        segment: u64,
        known: &ChainPoint,
    ) -> Result<Option<ChainPoint>, StorageError> {
        let address = self.ring.layout.segment_start(segment);
        if !self.segment_is_live(segment, known)? {
            return Ok(None);
        }
        Ok(What::decode(self.block.as_slice())
            .ok()
            .filter(|what| what.merged().is_none())
            .map(|what| point_before(&what, address)))
    }

    /// Follows the chain from `point` to the last chunk that is whole, and does not belong to a batch whose end is missing; not
    /// beyond the record `limit`.
    fn walk(&mut self, point: ChainPoint, limit: u64) -> Result<ChainPoint, StorageError> {
        let (mut head, mut at) = (point, point);
        while head.record < limit
            && let Some((next, has_more)) = self.step(&at)?
        {
            at = next;
            if !has_more {
                head = next;
            }
        }
        Ok(head)
    }

    /// The point after the next chunk, and whether a batch goes on there.
    fn step(&mut self, point: &ChainPoint) -> Result<Option<(ChainPoint, bool)>, StorageError> {
        for address in self.ring.candidates(point) {
            if !matches!(self.look(address)?, Found::Chunk(_)) {
                continue;
            }
            let Ok(what) = What::decode(self.block.as_slice()) else {
                continue;
            };
            if !continues(point, &what) {
                continue;
            }
            self.data.resize(what.data_bytes as usize, 0);
            let offset = self.ring.layout.file_offset(address) + BLOCK_BYTES as u64;
            self.ring.device.read_at(&mut self.data, offset)?;
            if what.data_is_intact(&self.data) {
                return Ok(Some((point_after(&what, address), what.has_more())));
            }
        }
        Ok(None)
    }

    /// Whether a chunk beyond the head says that more was durable than the head holds, also one of a later lap: then
    /// the superblock is an old copy, the newer one was lost, and the ring may have gone on beyond where it ends by
    /// that superblock. One that says so stands within a window of the head, if there is any. Every block of the two
    /// segments in which the next chunk may stand is looked at, and of each later one that begins with a newer chunk.
    fn contradiction(&mut self, head: &ChainPoint) -> Result<bool, StorageError> {
        let layout = self.ring.layout;
        let here = layout.segment_of(head.address);
        if self.segment_contradicts(head.address, head)?
            || self.segment_contradicts(layout.segment_start(here + 1), head)?
        {
            return Ok(true);
        }
        for segment in here + 2..=here + layout.window_segments + 2 {
            let start = layout.segment_start(segment);
            self.look(start)?;
            let place = self.ring.place_of_any_lap(self.block.as_slice(), start);
            let goes_on = place.is_some_and(|place| place.sequence > head.sequence);
            if goes_on && self.segment_contradicts(start, head)? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Looks at every block from `address` to the end of its segment.
    fn segment_contradicts(&mut self, address: u64, head: &ChainPoint) -> Result<bool, StorageError> {
        let (layout, end) = (self.ring.layout, self.ring.layout.segment_end(address));
        let mut at = address;
        while at < end {
            let length = (end - at).min(u64::from(MAX_CHUNK_DATA_BYTES));
            self.data.resize(usize::try_from(length).unwrap_or(0), 0);
            self.ring.device.read_at(&mut self.data, layout.file_offset(at))?;
            for block in self.data.as_chunks::<BLOCK_BYTES>().0 {
                self.blocks_read += 1;
                if self
                    .ring
                    .place_of_any_lap(block, at)
                    .is_some_and(|place| contradicts(&place, head))
                {
                    return Ok(true);
                }
                at += BLOCK_BYTES_U64;
            }
        }
        Ok(false)
    }
}

fn contradicts(place: &Place, head: &ChainPoint) -> bool {
    place.sequence > head.sequence && place.durable > head.record
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exactly_one_row_fits_every_combination() {
        for head in [1_u64, 2, 3] {
            for contradicted in [false, true] {
                for clean in [false, true] {
                    let expected = match (head, contradicted, clean) {
                        (1, _, _) => Outcome::Short,
                        (_, true, _) => Outcome::Contradicted,
                        (2, false, true) => Outcome::Clean,
                        _ => Outcome::Whole,
                    };
                    assert_eq!(outcome(clean, head, 2, contradicted), expected);
                }
            }
        }
    }
}
