//! The volume of the target `link_sender`: it counts, and answers truthfully.

use super::{CHUNKS, VOLUME_BYTES};
use crate::draw::Draw;
use farside::link::events::{Effect, Input};
use farside::link::source::WantedChunks;
use farside::link::{ChunkSpan, Digests, Extent, InBatch, Located, Points, SourceError};
use farside_protocol::journal::{ChainPoint, ConsumerState, stored_bytes};
use farside_protocol::link::{chunk_digest, digest_bytes, same_place};

/// A volume that only counts.
pub(super) struct Volume {
    /// The ends of its chunks; the first is before all.
    pub(super) ends: Vec<ChainPoint>,
    /// Indices of tail, image, durable and journaled.
    at: [usize; 4],
    pub(super) consumer: (ConsumerState, ChainPoint),
}

impl Volume {
    pub(super) fn new() -> Self {
        let end = |number: u64| ChainPoint {
            address: number * 8192,
            sequence: number,
            record: number * 2,
            epoch: if number == 0 { 0 } else { 1 + number / 16 },
            sealed_at_us: number,
            checksum: if number == 0 {
                0
            } else {
                0x1000_0000 + u32::try_from(number).unwrap_or(0)
            },
            ..ChainPoint::default()
        };
        Self {
            ends: (0..CHUNKS as u64).map(end).collect(),
            at: [2, 8, 12, 14],
            consumer: (ConsumerState::Attached, end(6)),
        }
    }

    pub(super) fn points(&self) -> Points {
        let [tail, image, durable, journaled] = self.at.map(|at| self.ends[at]);
        Points {
            tail,
            image,
            durable,
            journaled,
        }
    }

    pub(super) fn advance(&mut self, which: usize, steps: usize) {
        let most = if which == 3 {
            CHUNKS - 1
        } else {
            self.at[which + 1]
        };
        self.at[which] = (self.at[which] + steps).min(most);
    }

    pub(super) fn is_ours(&self, point: &ChainPoint) -> bool {
        self.ends.iter().any(|end| same_place(end, point))
    }

    /// The truthful answer to a reading effect.
    pub(super) fn answer(&mut self, effect: &Effect, draw: &mut Draw<'_>) -> Input {
        let points = self.points();
        match effect {
            Effect::Locate(record) => {
                let known = self.ends.iter().find(|end| end.record == *record).copied();
                let known = known.filter(|end| end.record <= points.durable.record);
                let located = Located {
                    point: known,
                    marked_since: known.filter(|_| draw.u8() & 1 == 0),
                    copy_id: u32::from(draw.u8() & 1),
                };
                Input::Located(located, points, self.consumer)
            }
            Effect::StartCopy { .. } => {
                self.consumer = (ConsumerState::Copying, points.image);
                Input::CopyStarted((points.image, 1), points)
            }
            Effect::ReadChunks(wanted) => self.chunks(wanted, draw.u8() & 1 == 0),
            Effect::Digest(piece) => {
                let found = Digests {
                    after: points.durable.record,
                    until: points.journaled,
                    digests: vec![0; digest_bytes(piece.length as usize)],
                };
                Input::Digested((draw.u8() & 7 != 0).then_some(found))
            }
            Effect::ReadImage { offset, max_bytes } => {
                Input::ExtentRead(extent(draw, *offset, *max_bytes), points)
            }
            Effect::CompareImage { offset } => {
                let found = extent(draw, *offset, 1 << 20);
                let length = match found {
                    Extent::Data { length, .. } => length as usize,
                    _ => 0,
                };
                Input::ImageDigested(found, vec![0; digest_bytes(length)], points)
            }
            Effect::Send(_) | Effect::Judged(_) | Effect::SetConsumer(..) | Effect::Close(..) => {
                unreachable!("no reading effects")
            }
        }
    }

    fn chunks(&self, wanted: &WantedChunks, touches: bool) -> Input {
        let (from, up_to, max_bytes) = (&wanted.from, &wanted.up_to, wanted.max_bytes);
        assert!(self.is_ours(from) && self.is_ours(up_to));
        assert!(
            up_to.record <= self.points().durable.record,
            "only durable chunks are asked for"
        );
        if from.sequence < self.points().tail.sequence {
            return Input::Failed(SourceError::Behind);
        }
        let (mut spans, mut total) = (Vec::new(), 0);
        for end in self
            .ends
            .iter()
            .filter(|end| end.sequence > from.sequence && end.sequence <= up_to.sequence)
        {
            let data = data_bytes(end) as usize;
            total += stored_bytes(data_bytes(end));
            if total > max_bytes && !spans.is_empty() {
                break;
            }
            spans.push(ChunkSpan {
                what: 0..120,
                data: 120..120 + data,
                after: *end,
                batch: InBatch::No,
                reaches: end.record,
                blocks: 1,
                touches: touches && wanted.watched.is_some(),
            });
        }
        let digests = spans
            .iter()
            .map(|span| chunk_digest(&span.after.checksum.to_be_bytes(), &[]));
        let digests = digests.collect();
        Input::ChunksRead(spans, digests)
    }
}

/// Payload of the chunk that ends at a point.
pub(super) fn data_bytes(end: &ChainPoint) -> u32 {
    u32::try_from(end.sequence * 97 % 4000).unwrap_or(0)
}

/// What the image has at an offset.
fn extent(draw: &mut Draw<'_>, offset: u64, max_bytes: u32) -> Extent {
    let left = VOLUME_BYTES - offset;
    let most = u32::try_from(left).map_or(max_bytes, |left| left.min(max_bytes));
    match draw.u8() % 3 {
        0 => Extent::Hole {
            offset,
            length: left.min(1 + u64::from(draw.u16())),
        },
        1 => Extent::Same { offset, length: left },
        _ => Extent::Data {
            offset,
            length: most.min(1 + u32::from(draw.u16())),
        },
    }
}
