//! Target: the file of a dirty-block map, and the image of a mark-and-trail that it becomes.
//!
//! Promises: no panic; memory in proportion to the volume; a map that cannot be read marks every block; marks are
//! never lost by writing and reading; a block outside the volume is never marked.

use crate::allocation::measured;
use crate::draw::Draw;
use crate::memory::Memory;
use crate::seal;
use farside_protocol::journal::limits::BLOCK_BYTES;
use farside_protocol::journal::{BLOCK_MAP_HEADER_BYTES, BlockMapHeader, ChainPoint, encode_trail};
use farside_storage::BlockMap;
use uuid::Uuid;

const VOLUME: Uuid = Uuid::from_u128(3);
/// The trail as read, decoded, and as it may be; the bits of the volumes tried here are few.
const MOST_BYTES: usize = 4 << 20;

pub(crate) fn run(input: &[u8]) -> bool {
    let mut draw = Draw::new(input);
    let how = draw.u8();
    let volume_bytes = (1 + u64::from(draw.u16())) * 512 + (u64::from(draw.u8()) << 20);
    let header = BlockMap::header_for(VOLUME, volume_bytes);
    let mut file = vec![0; usize::try_from(BlockMap::file_bytes(&header)).unwrap_or(0)];
    fill(&mut file, &header, how, &mut draw);
    let known = BlockMapHeader::decode(&file).is_ok_and(|found| found == header);
    let file_before = file[..BLOCK_MAP_HEADER_BYTES].to_vec();
    let device = Memory::new(file);
    let open = || BlockMap::open(device.clone(), VOLUME, volume_bytes).expect("memory does not fail");
    let (mut map, held) = measured(open);
    assert!(held < MOST_BYTES, "{held} bytes for a map");
    let covers = BlockMapHeader::decode(&file_before).is_ok_and(|found| found.volume == VOLUME);
    if !covers {
        let all = (0..header.bits).all(|bit| map.is_marked(bit * header.block_bytes));
        assert!(all, "an unreadable map marks everything");
    }
    assert!(map.marked_bytes() <= header.bits * header.block_bytes);
    let offset = draw.near(0);
    let end = offset.saturating_add(draw.near(65536));
    map.mark(offset, end);
    assert!(offset >= end || offset >= volume_bytes || map.is_marked(offset));
    assert!(!map.is_marked(header.bits * header.block_bytes));
    map.set_trail(points(draw.below(40)), draw.below(2) == 0);
    map.take_changes()
        .expect("the trail changed")
        .persist()
        .expect("memory does not fail");
    let again = open();
    assert_eq!(again.marked_bytes(), map.marked_bytes());
    for bit in 0..header.bits {
        let at = bit * header.block_bytes;
        assert_eq!(again.is_marked(at), map.is_marked(at));
    }
    for record in 0..130 {
        assert_eq!(again.trail_point(record), map.trail_point(record));
    }
    known
}

fn points(count: u64) -> Vec<ChainPoint> {
    let point = |number| ChainPoint {
        sequence: number,
        record: number * 3,
        epoch: 1,
        checksum: 7,
        ..ChainPoint::default()
    };
    (1..=count).map(point).collect()
}

/// How: 1 the header is changed, 2 it is sealed again, 4 the bits, 8 the trail is changed, 16 it is sealed again.
fn fill(file: &mut [u8], header: &BlockMapHeader, how: u8, draw: &mut Draw<'_>) {
    file[..BLOCK_MAP_HEADER_BYTES].copy_from_slice(&header.encode());
    if how & 1 != 0 {
        let at = usize::from(draw.u8()) % BLOCK_MAP_HEADER_BYTES;
        file[at] ^= draw.u8();
    }
    if how & 2 != 0 {
        seal::block_map(file);
    }
    let bits = usize::try_from(header.bits.div_ceil(8)).unwrap_or(0);
    if how & 4 != 0 {
        let part = draw.bytes(bits.min(64));
        file[BLOCK_BYTES..BLOCK_BYTES + part.len()].copy_from_slice(part);
    }
    let trail = &mut file[BLOCK_BYTES + bits.next_multiple_of(BLOCK_BYTES)..];
    let encoded = encode_trail(&points(draw.below(20)));
    trail[..encoded.len()].copy_from_slice(&encoded);
    if how & 8 != 0 {
        for _ in 0..draw.u8() % 8 {
            let at = usize::from(draw.u16()) % 600;
            trail[at] = draw.u8();
        }
    }
    if how & 16 != 0 {
        seal::trail(trail);
    }
}

pub(crate) fn seeds() -> Vec<Vec<u8>> {
    vec![
        vec![0, 1, 0],
        vec![0, 255, 255, 3, 9, 8, 0, 0, 12],
        [&[4, 255, 255, 200], [0x5A; 64].as_slice(), &[19, 16, 200, 5, 39]].concat(),
        vec![
            28, 0, 9, 0, 1, 2, 3, 4, 10, 3, 0, 30, 99, 0, 40, 98, 0, 50, 97, 1, 1, 7,
        ],
    ]
}
