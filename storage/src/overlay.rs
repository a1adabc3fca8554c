//! The overlay: which ranges of the volume are journaled and not yet in the image, and where they lie.
//!
//! Costs memory per pending range, never per byte. Sources are journal addresses, which only grow; a piece
//! whose source is below an address is older than it.

use farside_protocol::journal::limits::BLOCK_BYTES_U64;
use farside_protocol::journal::{Record, RecordKind, What};
use std::collections::BTreeMap;

/// Where the content of a range comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// Bytes in the journal from this address on.
    Journal(u64),
    /// Zeroes, recorded in the chunk at this address; `allocate` keeps the space reserved.
    Zero {
        /// Address of the chunk.
        address: u64,
        /// Keep the space reserved.
        allocate: bool,
    },
}

impl Source {
    /// Address in the journal that decides its age.
    #[must_use]
    pub fn address(self) -> u64 {
        match self {
            Self::Journal(address) | Self::Zero { address, .. } => address,
        }
    }
}

/// The changes of a chunk that lies at this address of a journal, in order, each with where its content is.
pub(crate) fn sources(what: &What<'_>, address: u64) -> impl Iterator<Item = (Record, Source)> {
    let mut data = address + BLOCK_BYTES_U64;
    what.records().filter_map(move |record| {
        let here = data;
        data += u64::from(record.payload_bytes());
        let source = match record.kind {
            RecordKind::Write => Source::Journal(here),
            RecordKind::Trim => Source::Zero {
                address,
                allocate: false,
            },
            RecordKind::Zero { allocate } => Source::Zero { address, allocate },
            RecordKind::Mark(_) => return None,
        };
        Some((record, source))
    })
}

/// A range and its source.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Piece {
    /// First byte of the volume.
    pub offset: u64,
    /// First byte after it.
    pub end: u64,
    /// Where its first byte lies.
    pub source: Source,
}

const ZERO: u64 = 1 << 63;
const ALLOCATE: u64 = 1 << 62;
const ADDRESS: u64 = ALLOCATE - 1;

/// A source in eight bytes, so that a pending range costs no more than three words and the tree around them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Packed(u64);

impl Packed {
    fn new(source: Source) -> Self {
        match source {
            Source::Journal(address) => Self(address & ADDRESS),
            Source::Zero { address, allocate } => {
                Self((address & ADDRESS) | ZERO | if allocate { ALLOCATE } else { 0 })
            }
        }
    }

    fn source(self) -> Source {
        let address = self.0 & ADDRESS;
        if self.0 & ZERO == 0 {
            Source::Journal(address)
        } else {
            Source::Zero {
                address,
                allocate: self.0 & ALLOCATE != 0,
            }
        }
    }

    fn advanced(self, bytes: u64) -> Self {
        if self.0 & ZERO == 0 {
            Self(self.0 + bytes)
        } else {
            self
        }
    }
}

#[derive(Debug, Clone, Copy)]
struct Entry {
    end: u64,
    source: Packed,
}

/// Ordered, non-overlapping ranges; the newest insertion wins.
#[derive(Debug, Default)]
pub struct Overlay {
    pieces: BTreeMap<u64, Entry>,
}

impl Overlay {
    /// Without any range.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Number of ranges held.
    #[must_use]
    pub fn len(&self) -> usize {
        self.pieces.len()
    }

    /// Whether nothing is pending.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.pieces.is_empty()
    }

    /// Forgets everything.
    pub fn clear(&mut self) {
        self.pieces.clear();
    }

    /// From now on `offset..end` comes from `source`.
    pub fn insert(&mut self, offset: u64, end: u64, source: Source) {
        if offset < end {
            self.cut(offset, end, u64::MAX);
            self.pieces.insert(
                offset,
                Entry {
                    end,
                    source: Packed::new(source),
                },
            );
        }
    }

    /// Forgets what `offset..end` held from before the journal address `older_than`.
    pub fn remove(&mut self, offset: u64, end: u64, older_than: u64) {
        if offset < end {
            self.cut(offset, end, older_than);
        }
    }

    /// Removes `start..end` from all pieces older than the address, keeping what sticks out on either side.
    fn cut(&mut self, start: u64, end: u64, older_than: u64) {
        let is_old = |entry: &Entry| entry.source.source().address() < older_than;
        if let Some((&offset, entry)) = self.pieces.range_mut(..start).next_back()
            && entry.end > start
            && is_old(entry)
        {
            let old = *entry;
            entry.end = start;
            if old.end > end {
                self.pieces.insert(
                    end,
                    Entry {
                        end: old.end,
                        source: old.source.advanced(end - offset),
                    },
                );
                return;
            }
        }
        let mut from = start;
        while let Some((&offset, &entry)) = self.pieces.range(from..end).next() {
            from = offset + 1;
            if !is_old(&entry) {
                continue;
            }
            self.pieces.remove(&offset);
            if entry.end > end {
                self.pieces.insert(
                    end,
                    Entry {
                        end: entry.end,
                        source: entry.source.advanced(end - offset),
                    },
                );
                return;
            }
        }
    }

    /// The pieces that lie in `start..end`, cut to it, in order; what no piece covers is in the image.
    pub fn pieces(&self, start: u64, end: u64) -> impl Iterator<Item = Piece> + '_ {
        let before = self
            .pieces
            .range(..start)
            .next_back()
            .filter(move |(_, entry)| entry.end > start);
        before
            .into_iter()
            .chain(self.pieces.range(start..end))
            .map(move |(&offset, entry)| {
                let from = offset.max(start);
                let source = entry.source.advanced(from - offset).source();
                Piece {
                    offset: from,
                    end: entry.end.min(end),
                    source,
                }
            })
    }

    /// All pieces in order.
    pub fn iter(&self) -> impl Iterator<Item = Piece> + '_ {
        self.pieces.iter().map(|(&offset, entry)| Piece {
            offset,
            end: entry.end,
            source: entry.source.source(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The promise in its simplest form: one source per byte.
    #[derive(Default)]
    struct Model(BTreeMap<u64, Source>);

    impl Model {
        fn insert(&mut self, offset: u64, end: u64, source: Source) {
            for byte in offset..end {
                let source = match source {
                    Source::Journal(address) => Source::Journal(address + byte - offset),
                    zero @ Source::Zero { .. } => zero,
                };
                self.0.insert(byte, source);
            }
        }

        fn remove(&mut self, offset: u64, end: u64, older_than: u64) {
            for byte in offset..end {
                if self
                    .0
                    .get(&byte)
                    .is_some_and(|source| source.address() < older_than)
                {
                    self.0.remove(&byte);
                }
            }
        }
    }

    fn bytes_of(overlay: &Overlay, start: u64, end: u64) -> BTreeMap<u64, Source> {
        let mut model = Model::default();
        for piece in overlay.pieces(start, end) {
            model.insert(piece.offset, piece.end, piece.source);
        }
        model.0
    }

    proptest! {
        #[test]
        fn newest_insertion_wins_for_every_byte(
            steps in prop::collection::vec((0_u64..200, 1_u64..60, 0_u8..4), 1..60), look in (0_u64..200, 1_u64..80)
        ) {
            let (mut overlay, mut model) = (Overlay::new(), Model::default());
            for (number, (offset, length, what)) in steps.into_iter().enumerate() {
                let address = (number as u64 + 1) * 1000;
                let end = offset + length;
                match what {
                    0 => { overlay.insert(offset, end, Source::Zero { address, allocate: length % 2 == 0 });
                           model.insert(offset, end, Source::Zero { address, allocate: length % 2 == 0 }); }
                    1 => { let old = address / 2000 * 1000;
                           overlay.remove(offset, end, old); model.remove(offset, end, old); }
                    _ => { overlay.insert(offset, end, Source::Journal(address)); model.insert(offset, end, Source::Journal(address)); }
                }
            }
            prop_assert_eq!(&bytes_of(&overlay, 0, 1000), &model.0);
            let (start, end) = (look.0, look.0 + look.1);
            let expected: BTreeMap<_, _> = model.0.range(start..end).map(|(k, v)| (*k, *v)).collect();
            prop_assert_eq!(bytes_of(&overlay, start, end), expected);
        }
    }
}
