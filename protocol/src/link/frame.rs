//! The frame around every message: 20 bytes that never change between versions.
//!
//! | offset | size | field |
//! | --- | --- | --- |
//! | 0 | 4 | magic `FSLK` |
//! | 4 | 1 | kind |
//! | 5 | 1 | version: 0 for the handshake, else the one agreed |
//! | 6 | 2 | zero |
//! | 8 | 4 | bytes of the head |
//! | 12 | 4 | bytes of the body |
//! | 16 | 4 | crc32c of bytes 0..16 and the head |
//!
//! The body is not covered here: its own checksums, which the head holds, are checked to the replica.

use super::error::LinkError;
use super::limits::{
    ACK_BYTES, BEGIN_COPY_BYTES, CHECKED_HEADER_BYTES, CONFIRM_BYTES, COPY_DATA_BYTES, COPY_END_BYTES,
    COPY_HOLES_BYTES, COPY_SKIP_BYTES, DIGEST_BYTES, HANDSHAKE_VERSION, HEADER_BYTES, HEARTBEAT_BYTES,
    HELD_BYTES, HELLO_BYTES, HIGHEST_VERSION, LOWEST_VERSION, MAGIC, MAX_BODY_BYTES, MAX_CHUNK_HEAD_BYTES,
    MAX_REFUSE_TEXT_BYTES, MAX_VERIFY_BYTES, MIN_CHUNK_HEAD_BYTES, PAIR_BYTES, PAIRED_BYTES,
    REFUSE_FIXED_BYTES, VERIFIED_BYTES, VERIFY_BLOCK_BYTES, VERIFY_BYTES, WELCOME_BYTES,
};
use crate::fields::{Reader, Writer};
use std::ops::RangeInclusive;

/// What a frame carries. Codes below 16 are the handshake.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FrameKind {
    /// Sender to receiver: who I am, what I have.
    Hello,
    /// Receiver to sender: who I am, what I hold.
    Welcome,
    /// Either way: why this ends here.
    Refuse,
    /// Instead of a link: the unit that was invited to be paired says who it is.
    Pair,
    /// The answer to that.
    Paired,
    /// Sender: start the replica afresh.
    BeginCopy,
    /// Sender: a range of the image.
    CopyData,
    /// Sender: a range of the image that reads as zeroes.
    CopyHoles,
    /// Sender: the whole image was sent.
    CopyEnd,
    /// Sender: a range of the image that the receiver has.
    CopySkip,
    /// Sender: digests of a range, to be compared.
    Verify,
    /// Sender: one chunk of the journal.
    Chunk,
    /// Sender: what the receiver holds is what was sent.
    Confirm,
    /// Receiver: positions.
    Ack,
    /// Sender: still here.
    Heartbeat,
    /// Receiver: what differs of a range.
    Verified,
    /// Receiver: a signature of what lies in its journal.
    Held,
}

impl FrameKind {
    /// Every kind, for tables and tests.
    pub const ALL: [Self; 17] = [
        Self::Hello,
        Self::Welcome,
        Self::Refuse,
        Self::Pair,
        Self::Paired,
        Self::BeginCopy,
        Self::CopyData,
        Self::CopyHoles,
        Self::CopyEnd,
        Self::CopySkip,
        Self::Verify,
        Self::Chunk,
        Self::Confirm,
        Self::Ack,
        Self::Heartbeat,
        Self::Verified,
        Self::Held,
    ];

    /// The code on the wire.
    #[must_use]
    pub fn code(self) -> u8 {
        match self {
            Self::Hello => 1,
            Self::Welcome => 2,
            Self::Refuse => 3,
            Self::Pair => 4,
            Self::Paired => 5,
            Self::BeginCopy => 16,
            Self::CopyData => 17,
            Self::CopyHoles => 18,
            Self::CopyEnd => 19,
            Self::CopySkip => 20,
            Self::Verify => 24,
            Self::Chunk => 32,
            Self::Confirm => 33,
            Self::Ack => 48,
            Self::Heartbeat => 49,
            Self::Verified => 50,
            Self::Held => 51,
        }
    }

    fn from_code(code: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.code() == code)
    }

    /// Whether the layout is the same in all versions.
    #[must_use]
    pub fn is_handshake(self) -> bool {
        self.code() < 16
    }

    /// Lengths the head may have.
    #[must_use]
    pub fn head_bytes(self) -> RangeInclusive<usize> {
        let exactly = |bytes| bytes..=bytes;
        match self {
            Self::Hello => exactly(HELLO_BYTES),
            Self::Welcome => exactly(WELCOME_BYTES),
            Self::Refuse => REFUSE_FIXED_BYTES..=REFUSE_FIXED_BYTES.saturating_add(MAX_REFUSE_TEXT_BYTES),
            Self::Pair => exactly(PAIR_BYTES),
            Self::Paired => exactly(PAIRED_BYTES),
            Self::BeginCopy => exactly(BEGIN_COPY_BYTES),
            Self::CopyData => exactly(COPY_DATA_BYTES),
            Self::CopyHoles => exactly(COPY_HOLES_BYTES),
            Self::CopyEnd => exactly(COPY_END_BYTES),
            Self::CopySkip => exactly(COPY_SKIP_BYTES),
            Self::Verify => exactly(VERIFY_BYTES),
            Self::Chunk => MIN_CHUNK_HEAD_BYTES..=MAX_CHUNK_HEAD_BYTES,
            Self::Confirm => exactly(CONFIRM_BYTES),
            Self::Ack => exactly(ACK_BYTES),
            Self::Heartbeat => exactly(HEARTBEAT_BYTES),
            Self::Verified => exactly(VERIFIED_BYTES),
            Self::Held => exactly(HELD_BYTES),
        }
    }

    /// Lengths the body may have.
    #[must_use]
    pub fn body_bytes(self) -> RangeInclusive<u32> {
        match self {
            Self::CopyData => 1..=MAX_BODY_BYTES,
            Self::Verify => digests(1)..=digests(MAX_VERIFY_BYTES / VERIFY_BLOCK_BYTES),
            Self::Chunk => 0..=MAX_BODY_BYTES,
            _ => 0..=0,
        }
    }
}

fn digests(count: usize) -> u32 {
    u32::try_from(count.saturating_mul(DIGEST_BYTES)).unwrap_or(0)
}

/// A decoded header: the lengths are within the limits of the kind; the checksum is not yet compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FrameHeader {
    /// What the frame carries.
    pub kind: FrameKind,
    /// Bytes of the head.
    pub head_bytes: usize,
    /// Bytes of the body.
    pub body_bytes: u32,
    partial_checksum: u32,
    checksum: u32,
}

impl FrameHeader {
    /// Checks everything a header can be checked for before its head has arrived.
    ///
    /// # Errors
    /// [`LinkError`] naming the first thing that is wrong.
    pub fn decode(bytes: &[u8; HEADER_BYTES]) -> Result<Self, LinkError> {
        let mut from = Reader::new(bytes);
        if from.u32()? != MAGIC {
            return Err(LinkError::Magic);
        }
        let (code, version, zero) = (from.u8()?, from.u8()?, from.u16()?);
        let (head_bytes, body_bytes, checksum) = (from.u32()?, from.u32()?, from.u32()?);
        let kind = FrameKind::from_code(code).ok_or(LinkError::Kind(code))?;
        check_version(kind, version)?;
        if zero != 0 {
            return Err(LinkError::Field("reserved"));
        }
        let wrong = |part, bytes| LinkError::Length {
            kind: code,
            part,
            bytes,
        };
        let head = usize::try_from(head_bytes).map_err(|_| wrong("head", head_bytes))?;
        if !kind.head_bytes().contains(&head) {
            return Err(wrong("head", head_bytes));
        }
        if !kind.body_bytes().contains(&body_bytes) {
            return Err(wrong("body", body_bytes));
        }
        let checked = bytes.get(..CHECKED_HEADER_BYTES).unwrap_or(&[]);
        Ok(Self {
            kind,
            head_bytes: head,
            body_bytes,
            partial_checksum: crc32c::crc32c(checked),
            checksum,
        })
    }

    /// Whether header and `head` arrived as they were sent.
    ///
    /// # Errors
    /// [`LinkError::Checksum`].
    pub fn verify(&self, head: &[u8]) -> Result<(), LinkError> {
        if head.len() == self.head_bytes
            && crc32c::crc32c_append(self.partial_checksum, head) == self.checksum
        {
            Ok(())
        } else {
            Err(LinkError::Checksum)
        }
    }
}

fn check_version(kind: FrameKind, version: u8) -> Result<(), LinkError> {
    let known = if kind.is_handshake() {
        version == HANDSHAKE_VERSION
    } else {
        (LOWEST_VERSION..=HIGHEST_VERSION).contains(&u16::from(version))
    };
    if known {
        Ok(())
    } else {
        Err(LinkError::Version(version))
    }
}

/// The header of a frame of `kind` with this head and as many bytes of body.
///
/// # Panics
/// When the kind cannot have such a head or body: our own mistake.
#[must_use]
pub fn seal(kind: FrameKind, head: &[u8], body_bytes: u32) -> [u8; HEADER_BYTES] {
    let fits = kind.head_bytes().contains(&head.len()) && kind.body_bytes().contains(&body_bytes);
    assert!(fits, "{kind:?} cannot have this head or body");
    let version = if kind.is_handshake() {
        HANDSHAKE_VERSION
    } else {
        u8::try_from(HIGHEST_VERSION).expect("stream versions fit the header")
    };
    let head_bytes = u32::try_from(head.len()).expect("heads are limited to a few KiB");
    let mut header = [0; HEADER_BYTES];
    let (checked, sum) = header.split_at_mut(CHECKED_HEADER_BYTES);
    let mut to = Writer::new(checked);
    to.u32(MAGIC).u8(kind.code()).u8(version).u16(0);
    to.u32(head_bytes).u32(body_bytes);
    let checksum = crc32c::crc32c_append(crc32c::crc32c(checked), head);
    Writer::new(sum).u32(checksum);
    header
}
