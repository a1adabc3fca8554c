//! Target: the header of a dirty-block map, and the trail behind its bits.
//!
//! Promises: no panic; what is accepted encodes to the same bytes; a map is of a volume that can exist; a trail costs
//! memory in proportion to its bytes.

use crate::allocation::measured;
use crate::draw::Draw;
use crate::{golden, seal};
use farside_protocol::journal::limits::MAX_VOLUME_BYTES;
use farside_protocol::journal::{
    BLOCK_MAP_HEADER_BYTES, BlockMapHeader, ChainPoint, MAX_TRAIL_POINTS, decode_trail, encode_trail,
};

pub(crate) fn run(input: &[u8]) -> bool {
    let mut draw = Draw::new(input);
    let how = draw.u8();
    let mut bytes = draw.rest().to_vec();
    if how & 1 != 0 {
        seal::block_map(&mut bytes);
        header(&bytes)
    } else if how & 2 != 0 {
        seal::trail(&mut bytes);
        trail(&bytes)
    } else {
        header(&bytes) | trail(&bytes)
    }
}

fn header(bytes: &[u8]) -> bool {
    let (decoded, held) = measured(|| BlockMapHeader::decode(bytes));
    assert_eq!(held, 0, "decoding a header takes no memory");
    let Ok(header) = decoded else { return false };
    assert_eq!(header.encode(), bytes[..BLOCK_MAP_HEADER_BYTES]);
    assert!(header.bits > 0 && header.block_bytes.is_power_of_two());
    let covered = header.bits.checked_mul(header.block_bytes);
    assert!(covered.is_some_and(|covered| covered - header.block_bytes < 2 * MAX_VOLUME_BYTES));
    true
}

fn trail(bytes: &[u8]) -> bool {
    let (decoded, held) = measured(|| decode_trail(bytes));
    // A point takes 28 bytes on disk and more in memory; a vector that grows holds its old half meanwhile.
    let most = bytes.len() / 28 * 3 * size_of::<ChainPoint>() + 512;
    assert!(held <= most, "{held} bytes for a trail of {}", bytes.len());
    let Ok(points) = decoded else { return false };
    assert!(points.len() <= MAX_TRAIL_POINTS);
    let again = encode_trail(&points);
    assert_eq!(again, bytes[..again.len()]);
    true
}

pub(crate) fn seeds() -> Vec<Vec<u8>> {
    let point = |number| ChainPoint {
        sequence: number,
        record: number * 3,
        epoch: 2,
        checksum: 0xA1B2_C3D4,
        ..ChainPoint::default()
    };
    let points: Vec<_> = (1..9).map(point).collect();
    let with = |how: u8, bytes: &[u8]| [&[how], bytes].concat();
    vec![
        with(0, &golden::block_map()),
        with(1, &golden::block_map()),
        with(0, &encode_trail(&points)),
        with(2, &encode_trail(&points)),
        with(2, &encode_trail(&[])),
    ]
}
