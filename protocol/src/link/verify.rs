//! Comparing a range of the volume with the replica, in the order of the stream.
//!
//! The sender tells a digest of every block of a range as it was after a record, just after it sent that record, and the
//! receiver answers which of its own blocks differ.

use super::error::LinkError;
use super::frame::FrameHeader;
use super::limits::{DIGEST_BYTES, MAX_VERIFY_BYTES, VERIFIED_BYTES, VERIFY_BLOCK_BYTES, VERIFY_BYTES};
use super::message::Message;
use super::shared::take_zeroes;
use crate::fields::{Reader, Writer};
use std::ops::Range;

/// Bytes of a map with one bit for each block of the longest range.
const MAP_BYTES: usize = MAX_VERIFY_BYTES / VERIFY_BLOCK_BYTES / 8;

/// What the sender's volume holds in a range; the digests are the body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Verify {
    /// The range is that of the volume after this record, which is the last one sent.
    pub record: u64,
    /// First byte of the range.
    pub offset: u64,
    /// Its length.
    pub length: u32,
    /// crc32c of the body.
    pub checksum: u32,
}

/// Which blocks of a range differ at the receiver.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Verified {
    /// As in the question.
    pub record: u64,
    /// As in the question.
    pub offset: u64,
    /// As in the question.
    pub length: u32,
    /// A bit for each block, the first block the lowest bit of the first byte.
    differing: [u8; MAP_BYTES],
}

/// A digest of each block of `data`: the first 16 bytes of its BLAKE3.
#[must_use]
pub fn digests(data: &[u8]) -> Vec<u8> {
    let mut digests = Vec::with_capacity(digest_bytes(data.len()));
    for block in data.chunks(VERIFY_BLOCK_BYTES) {
        let digest = blake3::hash(block);
        digests.extend(digest.as_bytes().iter().take(DIGEST_BYTES));
    }
    digests
}

/// Bytes of the digests of a range.
#[must_use]
pub fn digest_bytes(length: usize) -> usize {
    length.div_ceil(VERIFY_BLOCK_BYTES).saturating_mul(DIGEST_BYTES)
}

impl Verify {
    /// The question for digests that [`digests`] made.
    #[must_use]
    pub fn new(record: u64, (offset, length): (u64, u32), digests: &[u8]) -> Self {
        Self {
            record,
            offset,
            length,
            checksum: crc32c::crc32c(digests),
        }
    }

    /// The answer of a receiver that holds `data` there, to digests of the right length. What it cannot read differs.
    #[must_use]
    pub fn answer(&self, told: &[u8], data: Option<&[u8]>) -> Verified {
        let mut differing = [0; MAP_BYTES];
        let own = data.map_or_else(|| vec![0xff; told.len()], digests);
        let pairs = told.chunks(DIGEST_BYTES).zip(own.chunks(DIGEST_BYTES));
        for (block, _) in pairs.enumerate().filter(|(_, (one, other))| one != other) {
            if let Some(byte) = differing.get_mut(block / 8) {
                *byte |= 1 << (block % 8);
            }
        }
        Verified {
            record: self.record,
            offset: self.offset,
            length: self.length,
            differing,
        }
    }

    pub(super) fn encode(&self) -> Vec<u8> {
        let mut head = vec![0; VERIFY_BYTES];
        let mut to = Writer::new(&mut head);
        to.u64(self.record).u64(self.offset);
        to.u32(self.length).u32(self.checksum);
        head
    }

    pub(super) fn decode<'a>(header: &FrameHeader, head: &[u8]) -> Result<Message<'a>, LinkError> {
        let mut from = Reader::new(head);
        let verify = Self {
            record: from.u64()?,
            offset: from.u64()?,
            length: from.u32()?,
            checksum: from.u32()?,
        };
        check_range(verify.offset, verify.length)?;
        if verify.body_bytes() != header.body_bytes {
            return Err(LinkError::Field("number of digests"));
        }
        Ok(Message::Verify(verify))
    }

    pub(super) fn body_bytes(&self) -> u32 {
        let length = usize::try_from(self.length).unwrap_or(usize::MAX);
        u32::try_from(digest_bytes(length)).unwrap_or(u32::MAX)
    }
}

impl Verified {
    /// The parts of the range that differ, in order; neighbours are one.
    #[must_use]
    pub fn differing(&self) -> Vec<Range<u64>> {
        let block_bytes = VERIFY_BLOCK_BYTES as u64;
        let end = self.offset.saturating_add(u64::from(self.length));
        let mut ranges: Vec<Range<u64>> = Vec::new();
        let mut at = self.offset;
        for block in 0..self.blocks() {
            let next = at.saturating_add(block_bytes).min(end);
            if self.differs(block) {
                match ranges.last_mut().filter(|last| last.end == at) {
                    Some(last) => last.end = next,
                    None => ranges.push(at..next),
                }
            }
            at = next;
        }
        ranges
    }

    fn differs(&self, block: usize) -> bool {
        let byte = self.differing.get(block / 8).copied().unwrap_or(0);
        byte & (1 << (block % 8)) != 0
    }

    fn blocks(&self) -> usize {
        let length = usize::try_from(self.length).unwrap_or(usize::MAX);
        length.div_ceil(VERIFY_BLOCK_BYTES)
    }

    pub(super) fn encode(&self) -> Vec<u8> {
        let mut head = vec![0; VERIFIED_BYTES];
        let mut to = Writer::new(&mut head);
        to.u64(self.record).u64(self.offset).u32(self.length).u32(0);
        to.bytes(&self.differing);
        head
    }

    pub(super) fn decode<'a>(head: &[u8]) -> Result<Message<'a>, LinkError> {
        let mut from = Reader::new(head);
        let (record, offset, length) = (from.u64()?, from.u64()?, from.u32()?);
        take_zeroes(&mut from, 4)?;
        check_range(offset, length)?;
        let mut differing = [0; MAP_BYTES];
        differing.copy_from_slice(from.bytes(MAP_BYTES)?);
        let verified = Self {
            record,
            offset,
            length,
            differing,
        };
        let all = MAP_BYTES.saturating_mul(8);
        if (verified.blocks()..all).any(|block| verified.differs(block)) {
            return Err(LinkError::Field("blocks that differ"));
        }
        Ok(Message::Verified(verified))
    }
}

fn check_range(offset: u64, length: u32) -> Result<(), LinkError> {
    let fits = usize::try_from(length).is_ok_and(|length| (1..=MAX_VERIFY_BYTES).contains(&length));
    if fits && offset.checked_add(u64::from(length)).is_some() {
        Ok(())
    } else {
        Err(LinkError::Field("compared range"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_that_differ_are_named_and_neighbours_are_one_range() {
        let data = vec![7_u8; 10 * VERIFY_BLOCK_BYTES + 100];
        let length = u32::try_from(data.len()).unwrap();
        let told = digests(&data);
        let question = Verify::new(5, (1 << 20, length), &told);
        assert!(question.answer(&told, Some(&data)).differing().is_empty());
        let whole = (1 << 20)..(1 << 20) + u64::from(length);
        assert_eq!(question.answer(&told, None).differing(), vec![whole]);
        let mut other = data;
        for at in [
            3 * VERIFY_BLOCK_BYTES,
            5 * VERIFY_BLOCK_BYTES - 1,
            10 * VERIFY_BLOCK_BYTES + 99,
        ] {
            *other.get_mut(at).unwrap() ^= 1;
        }
        let answer = question.answer(&told, Some(&other));
        let base = 1 << 20;
        let expected = [base + 3 * 4096..base + 5 * 4096, base + 40960..base + 40960 + 100];
        assert_eq!(answer.differing(), expected);
    }
}
