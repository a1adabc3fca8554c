//! The trail of a consumer that was cut loose: the ends of the chunks that may have reached it unconfirmed.
//!
//! When the journal no longer holds them, these are what proves that a replica has this volume's history and may be
//! replaced by a copy. Layout (version 1): magic `FARTRAIL` (8), version (2), zero (2), points (4), crc32c of the
//! points (4), crc32c of the 20 bytes before (4); then each point: sequence, record, epoch (8 each), *what* checksum (4).

use super::error::FormatError;
use super::superblock::ChainPoint;
use crate::fields::{Reader, Writer};

const MAGIC: &[u8; 8] = b"FARTRAIL";
const VERSION: u16 = 1;
/// Bytes before the points.
const TRAIL_HEADER_BYTES: usize = 24;
/// Bytes of one point.
const TRAIL_POINT_BYTES: usize = 28;
/// Most points of a trail: more than a link ever has under way unconfirmed.
pub const MAX_TRAIL_POINTS: usize = 16_384;
/// Bytes of the longest trail.
pub const MAX_TRAIL_BYTES: usize = TRAIL_HEADER_BYTES + MAX_TRAIL_POINTS * TRAIL_POINT_BYTES;

/// The trail as it stands on disk. What is beyond [`MAX_TRAIL_POINTS`] is left out.
#[must_use]
pub fn encode_trail(points: &[ChainPoint]) -> Vec<u8> {
    let points = points.get(..MAX_TRAIL_POINTS).unwrap_or(points);
    let mut bytes = vec![0; TRAIL_HEADER_BYTES];
    for point in points {
        let mut entry = [0; TRAIL_POINT_BYTES];
        let mut to = Writer::new(&mut entry);
        to.u64(point.sequence)
            .u64(point.record)
            .u64(point.epoch)
            .u32(point.checksum);
        bytes.extend_from_slice(&entry);
    }
    let (header, body) = bytes.split_at_mut(TRAIL_HEADER_BYTES);
    let (fields, checksum) = header.split_at_mut(TRAIL_HEADER_BYTES - 4);
    let count = u32::try_from(points.len()).unwrap_or(0);
    Writer::new(fields)
        .bytes(MAGIC)
        .u16(VERSION)
        .u16(0)
        .u32(count)
        .u32(crc32c::crc32c(body));
    Writer::new(checksum).u32(crc32c::crc32c(fields));
    bytes
}

/// Decodes a trail from the start of `bytes`; what follows it is not looked at. Addresses and times are left 0.
///
/// # Errors
/// [`FormatError`] naming the first thing that is wrong.
pub fn decode_trail(bytes: &[u8]) -> Result<Vec<ChainPoint>, FormatError> {
    let mut from = Reader::new(bytes);
    if from.bytes(8)? != MAGIC {
        return Err(FormatError::Magic);
    }
    let (version, zero, count) = (from.u16()?, from.u16()?, from.u32()?);
    let (body_checksum, checksum) = (from.u32()?, from.u32()?);
    if checksum != crc32c::crc32c(bytes.get(..TRAIL_HEADER_BYTES - 4).unwrap_or(&[])) {
        return Err(FormatError::Checksum);
    }
    if version != VERSION {
        return Err(FormatError::Version(version, VERSION));
    }
    let count = usize::try_from(count).unwrap_or(usize::MAX);
    if zero != 0 || count > MAX_TRAIL_POINTS {
        return Err(FormatError::Field("points of a trail"));
    }
    let body = from.bytes(count.saturating_mul(TRAIL_POINT_BYTES))?;
    if body_checksum != crc32c::crc32c(body) {
        return Err(FormatError::Checksum);
    }
    let mut from = Reader::new(body);
    (0..count).map(|_| take_point(&mut from)).collect()
}

fn take_point(from: &mut Reader<'_>) -> Result<ChainPoint, FormatError> {
    Ok(ChainPoint {
        sequence: from.u64()?,
        record: from.u64()?,
        epoch: from.u64()?,
        checksum: from.u32()?,
        ..ChainPoint::default()
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::{any, prop, proptest};

    fn point(number: u64) -> ChainPoint {
        ChainPoint {
            sequence: number,
            record: number * 2,
            epoch: 3,
            checksum: 0xA1B2_C3D4,
            ..ChainPoint::default()
        }
    }

    #[test]
    fn a_trail_has_its_golden_bytes() {
        let hex: String = encode_trail(&[point(1), point(2)])
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect();
        let golden = concat!(
            "464152545241494c", // magic
            "0001",
            "0000",
            "00000002", // version, zero, points
            "4cdb794d",
            "ce8e0362", // checksums of the points and of the header
            "0000000000000001",
            "0000000000000002",
            "0000000000000003",
            "a1b2c3d4",
            "0000000000000002",
            "0000000000000004",
            "0000000000000003",
            "a1b2c3d4",
        );
        assert_eq!(hex, golden);
    }

    #[test]
    fn every_flipped_bit_is_refused() {
        let bytes = encode_trail(&[point(1), point(2)]);
        assert_eq!(decode_trail(&bytes).unwrap(), vec![point(1), point(2)]);
        for bit in 0..bytes.len() * 8 {
            let mut damaged = bytes.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert!(decode_trail(&damaged).is_err(), "bit {bit}");
        }
        for length in 0..bytes.len() {
            assert!(decode_trail(&bytes[..length]).is_err());
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_judged_without_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = decode_trail(&bytes);
        }
    }
}
