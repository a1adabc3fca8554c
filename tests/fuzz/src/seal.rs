//! Puts checksums, and the counts a decoder compares first, right in bytes that a fuzzer changed, so that the fields
//! behind them are tried too.
//!
//! Offsets are those of `docs/on-disk-format.md` and `docs/link-protocol.md`. Bytes too short for a structure stay as
//! they are.

use crc32c::{crc32c, crc32c_append};
use farside_protocol::journal::limits::{
    BLOCK_BYTES, MAX_RECORDS, RECORD_BYTES, WHAT_HEADER_BYTES, WHERE_BYTES, WHERE_OFFSET,
};

const WHAT_CHECKSUM: usize = 72;
const WRITE: u8 = 1;
/// Offset of a record's kind in its entry.
const RECORD_KIND: usize = 20;

fn put_u32(bytes: &mut [u8], at: usize, value: u32) {
    bytes[at..at + 4].copy_from_slice(&value.to_be_bytes());
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    bytes
        .get(at..)
        .and_then(|rest| rest.first_chunk::<4>())
        .map_or(0, |field| u32::from_be_bytes(*field))
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    bytes
        .get(at..)
        .and_then(|rest| rest.first_chunk::<2>())
        .map_or(0, |field| u16::from_be_bytes(*field))
}

/// A checksum over everything before it.
fn put_checksum_at(bytes: &mut [u8], at: usize) {
    if bytes.len() >= at + 4 {
        let checksum = crc32c(&bytes[..at]);
        put_u32(bytes, at, checksum);
    }
}

/// A superblock, at the start of `bytes`.
pub fn superblock(bytes: &mut [u8]) {
    put_checksum_at(bytes, BLOCK_BYTES - 4);
}

/// The header of a dirty-block map, at the start of `bytes`.
pub fn block_map(bytes: &mut [u8]) {
    put_checksum_at(bytes, 48);
}

/// A trail, at the start of `bytes`.
pub fn trail(bytes: &mut [u8]) {
    let points = usize::try_from(u32_at(bytes, 12)).unwrap_or(usize::MAX);
    let end = points.saturating_mul(28).saturating_add(24);
    if let Some(body) = bytes.get(24..end) {
        let checksum = crc32c(body);
        put_u32(bytes, 16, checksum);
        put_checksum_at(bytes, 20);
    }
}

/// The *where* part in a meta-data block.
pub fn place(block: &mut [u8]) {
    if let Some(part) = block.get_mut(WHERE_OFFSET..WHERE_OFFSET + WHERE_BYTES) {
        put_checksum_at(part, WHERE_BYTES - 4);
    }
}

/// The checksum of a *what* part of the length it names.
pub fn what(bytes: &mut [u8]) {
    let length = usize::from(u16_at(bytes, 10));
    if let Some(part) = bytes
        .get_mut(..length)
        .filter(|part| part.len() > WHAT_CHECKSUM + 4)
    {
        let before = crc32c(&part[..WHAT_CHECKSUM]);
        let checksum = crc32c_append(before, &part[WHAT_CHECKSUM + 4..]);
        put_u32(part, WHAT_CHECKSUM, checksum);
    }
}

/// As many records as are named, or fit: then the length of the *what* part fits them, the checksums of the payloads
/// fit `data`, and the data length is their sum. The checksum of the part itself is for [`what`].
pub fn table(bytes: &mut [u8], data: &[u8]) {
    let room = bytes.len().saturating_sub(WHAT_HEADER_BYTES) / RECORD_BYTES;
    if room == 0 {
        return;
    }
    let count = usize::from(u16_at(bytes, 12)).clamp(1, room.min(MAX_RECORDS));
    let length = WHAT_HEADER_BYTES + count * RECORD_BYTES;
    let (mut from, mut sum) = (0_usize, 0_u32);
    for entry in bytes[WHAT_HEADER_BYTES..length].as_chunks_mut::<RECORD_BYTES>().0 {
        let is_write = entry[RECORD_KIND] == WRITE;
        let bytes = if is_write { u32_at(entry, 8) } else { 0 };
        let end = from.saturating_add(bytes as usize);
        let checksum = data.get(from..end).filter(|_| is_write).map_or(0, crc32c);
        put_u32(entry, 12, checksum);
        (from, sum) = (end, sum.saturating_add(bytes));
    }
    let small = |value: usize| u16::try_from(value).unwrap_or(u16::MAX).to_be_bytes();
    bytes[10..12].copy_from_slice(&small(length));
    bytes[12..14].copy_from_slice(&small(count));
    put_u32(bytes, 64, sum);
}

/// A meta-data block: both parts, each with the other's name.
pub fn block(bytes: &mut [u8]) {
    what(bytes);
    if bytes.len() >= BLOCK_BYTES {
        let (sequence, checksum) = (
            bytes[40..48].to_vec(),
            bytes[WHAT_CHECKSUM..WHAT_CHECKSUM + 4].to_vec(),
        );
        bytes[WHERE_OFFSET + 32..WHERE_OFFSET + 40].copy_from_slice(&sequence);
        bytes[WHERE_OFFSET + 40..WHERE_OFFSET + 44].copy_from_slice(&checksum);
    }
    place(bytes);
}

/// A link frame whose head ends at `head_end`: its checksum.
pub fn frame(bytes: &mut [u8], head_end: usize) {
    if let Some(head) = bytes.get(20..head_end) {
        let checksum = crc32c_append(crc32c(&bytes[..16]), head);
        put_u32(bytes, 16, checksum);
    }
}
