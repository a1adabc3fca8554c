//! Every message of the link as one value, and how it becomes a frame.

use super::confirm::{Confirm, Held};
use super::error::LinkError;
use super::frame::{FrameHeader, FrameKind, seal};
use super::hello::{Hello, Welcome};
use super::limits::{
    ACK_BYTES, BEGIN_COPY_BYTES, COPY_DATA_BYTES, COPY_END_BYTES, COPY_HOLES_BYTES, COPY_SKIP_BYTES,
    HEADER_BYTES, HEARTBEAT_BYTES,
};
use super::pair::{Pair, Paired};
use super::refuse::Refusal;
use super::shared::{copy_code, put_point, take_copy_state, take_point, take_zeroes};
use super::verify::{Verified, Verify};
use crate::fields::{Reader, Writer};
use crate::journal::{ChainPoint, CopyState, What};

/// Start the replica afresh: nothing copied, the next chunk continues `base`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BeginCopy {
    /// The image that is copied holds everything up to here.
    pub base: ChainPoint,
    /// Size of the volume.
    pub volume_bytes: u64,
    /// Names the copy, through its interruptions; not 0.
    pub copy_id: u32,
}

/// A range of the image; the bytes are the body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CopyData {
    /// First byte of the range.
    pub offset: u64,
    /// Its length, which is that of the body.
    pub length: u32,
    /// crc32c of the body.
    pub checksum: u32,
}

/// A range of the image that reads as zeroes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CopyHoles {
    /// First byte of the range.
    pub offset: u64,
    /// Its length, not 0.
    pub length: u64,
}

/// A range of the image that the receiver's has as it is: nothing changed there since the two were last the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CopySkip {
    /// First byte of the range.
    pub offset: u64,
    /// Its length, not 0.
    pub length: u64,
}

/// All ranges were sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CopyEnd {
    /// The replica is consistent once this record is applied.
    pub consistent_from: u64,
    /// Size of the volume: where the copy must have arrived.
    pub volume_bytes: u64,
}

/// Where the receiver stands. Everything in it is durable there, except `applied`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ack {
    /// Newest chunk that is durable in the receiver's journal: a digest of all it holds.
    pub received: ChainPoint,
    /// Last record in its image.
    pub applied: u64,
    /// Bytes of the image copied durably.
    pub copy_offset: u64,
    /// Whether the replica is empty, being copied or complete.
    pub copy: CopyState,
    /// Whether a `BeginCopy` of this connection was carried out before the state was looked at.
    pub begun: bool,
}

/// Still here, and this is how far the volume is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Heartbeat {
    /// Last record durable in the sender's journal.
    pub durable: u64,
    /// Last record in the sender's journal.
    pub journaled: u64,
    /// The sender's clock in microseconds since 1970.
    pub time_us: u64,
}

/// A decoded message; the body, if the kind has one, is checked by [`Message::check_body`].
#[derive(Debug, Clone)]
pub enum Message<'a> {
    /// See [`Hello`].
    Hello(Box<Hello>),
    /// See [`Welcome`].
    Welcome(Box<Welcome>),
    /// See [`Refusal`].
    Refuse(Refusal),
    /// See [`Pair`].
    Pair(Pair),
    /// See [`Paired`].
    Paired(Paired),
    /// See [`BeginCopy`].
    BeginCopy(BeginCopy),
    /// See [`CopyData`].
    CopyData(CopyData),
    /// See [`CopyHoles`].
    CopyHoles(CopyHoles),
    /// See [`CopyEnd`].
    CopyEnd(CopyEnd),
    /// See [`CopySkip`].
    CopySkip(CopySkip),
    /// See [`Verify`]; the digests are the body.
    Verify(Verify),
    /// One chunk as it lies in the sender's journal; its data are the body.
    Chunk(What<'a>),
    /// See [`Confirm`].
    Confirm(Confirm),
    /// See [`Ack`].
    Ack(Ack),
    /// See [`Heartbeat`].
    Heartbeat(Heartbeat),
    /// See [`Verified`].
    Verified(Verified),
    /// See [`Held`].
    Held(Held),
}

impl<'a> Message<'a> {
    /// Decodes `head`, which must be the one `header` was verified with.
    ///
    /// # Errors
    /// [`LinkError`] naming the first thing that is wrong.
    pub fn decode(header: &FrameHeader, head: &'a [u8]) -> Result<Self, LinkError> {
        if !header.kind.head_bytes().contains(&head.len()) {
            return Err(LinkError::Field("length of the head"));
        }
        match header.kind {
            FrameKind::Hello => Ok(Self::Hello(Box::new(Hello::decode(head)?))),
            FrameKind::Welcome => Ok(Self::Welcome(Box::new(Welcome::decode(head)?))),
            FrameKind::Refuse => Ok(Self::Refuse(Refusal::decode(head)?)),
            FrameKind::Pair => Ok(Self::Pair(Pair::decode(head)?)),
            FrameKind::Paired => Ok(Self::Paired(Paired::decode(head)?)),
            FrameKind::BeginCopy => decode_begin_copy(head),
            FrameKind::CopyData => decode_copy_data(header, head),
            FrameKind::CopyHoles => {
                let (offset, length) = decode_range(head)?;
                Ok(Self::CopyHoles(CopyHoles { offset, length }))
            }
            FrameKind::CopySkip => {
                let (offset, length) = decode_range(head)?;
                Ok(Self::CopySkip(CopySkip { offset, length }))
            }
            FrameKind::CopyEnd => decode_copy_end(head),
            FrameKind::Verify => Verify::decode(header, head),
            FrameKind::Chunk => decode_chunk(header, head),
            FrameKind::Confirm => Ok(Self::Confirm(Confirm::decode(head)?)),
            FrameKind::Ack => decode_ack(head),
            FrameKind::Heartbeat => decode_heartbeat(head),
            FrameKind::Verified => Verified::decode(head),
            FrameKind::Held => Ok(Self::Held(Held::decode(head)?)),
        }
    }

    /// Whether `body` has the length and checksums the head names.
    ///
    /// # Errors
    /// [`LinkError::Payload`].
    pub fn check_body(&self, body: &[u8]) -> Result<(), LinkError> {
        let length = u32::try_from(body.len()).unwrap_or(u32::MAX);
        let intact = match self {
            Self::CopyData(copy) => length == copy.length && crc32c::crc32c(body) == copy.checksum,
            Self::Verify(verify) => length == verify.body_bytes() && crc32c::crc32c(body) == verify.checksum,
            Self::Chunk(what) => length == what.data_bytes && what.data_is_intact(body),
            _ => length == 0,
        };
        if intact { Ok(()) } else { Err(LinkError::Payload) }
    }

    /// The kind of frame it travels in.
    #[must_use]
    pub fn kind(&self) -> FrameKind {
        match self {
            Self::Hello(_) => FrameKind::Hello,
            Self::Welcome(_) => FrameKind::Welcome,
            Self::Refuse(_) => FrameKind::Refuse,
            Self::Pair(_) => FrameKind::Pair,
            Self::Paired(_) => FrameKind::Paired,
            Self::BeginCopy(_) => FrameKind::BeginCopy,
            Self::CopyData(_) => FrameKind::CopyData,
            Self::CopyHoles(_) => FrameKind::CopyHoles,
            Self::CopyEnd(_) => FrameKind::CopyEnd,
            Self::CopySkip(_) => FrameKind::CopySkip,
            Self::Verify(_) => FrameKind::Verify,
            Self::Chunk(_) => FrameKind::Chunk,
            Self::Confirm(_) => FrameKind::Confirm,
            Self::Ack(_) => FrameKind::Ack,
            Self::Heartbeat(_) => FrameKind::Heartbeat,
            Self::Verified(_) => FrameKind::Verified,
            Self::Held(_) => FrameKind::Held,
        }
    }

    /// Header and head; the body, if the kind has one, follows them on the wire.
    #[must_use]
    pub fn to_frame(&self) -> Vec<u8> {
        let (head, body_bytes) = match self {
            Self::Hello(hello) => (hello.encode(), 0),
            Self::Welcome(welcome) => (welcome.encode(), 0),
            Self::Refuse(refusal) => (refusal.encode(), 0),
            Self::Pair(pair) => (pair.encode(), 0),
            Self::Paired(paired) => (paired.encode(), 0),
            Self::BeginCopy(begin) => (encode_begin_copy(begin), 0),
            Self::CopyData(copy) => (encode_copy_data(copy), copy.length),
            Self::CopyHoles(holes) => (encode_pair(COPY_HOLES_BYTES, holes.offset, holes.length), 0),
            Self::CopyEnd(end) => (
                encode_pair(COPY_END_BYTES, end.consistent_from, end.volume_bytes),
                0,
            ),
            Self::CopySkip(skip) => (encode_pair(COPY_SKIP_BYTES, skip.offset, skip.length), 0),
            Self::Verify(verify) => (verify.encode(), verify.body_bytes()),
            Self::Chunk(what) => (what.as_bytes().to_vec(), what.data_bytes),
            Self::Confirm(confirm) => (confirm.encode(), 0),
            Self::Ack(ack) => (encode_ack(ack), 0),
            Self::Heartbeat(beat) => (encode_heartbeat(beat), 0),
            Self::Verified(verified) => (verified.encode(), 0),
            Self::Held(held) => (held.encode(), 0),
        };
        let mut frame = Vec::with_capacity(HEADER_BYTES.saturating_add(head.len()));
        frame.extend_from_slice(&seal(self.kind(), &head, body_bytes));
        frame.extend_from_slice(&head);
        frame
    }
}

fn encode_begin_copy(begin: &BeginCopy) -> Vec<u8> {
    let mut head = vec![0; BEGIN_COPY_BYTES];
    let mut to = Writer::new(&mut head);
    put_point(&mut to, &begin.base);
    to.u64(begin.volume_bytes).u32(begin.copy_id).u32(0);
    head
}

fn decode_begin_copy(head: &[u8]) -> Result<Message<'_>, LinkError> {
    let mut from = Reader::new(head);
    let (base, volume_bytes, copy_id) = (take_point(&mut from)?, from.u64()?, from.u32()?);
    take_zeroes(&mut from, 4)?;
    if copy_id == 0 {
        return Err(LinkError::Field("id of the copy"));
    }
    Ok(Message::BeginCopy(BeginCopy {
        base,
        volume_bytes,
        copy_id,
    }))
}

fn encode_copy_data(copy: &CopyData) -> Vec<u8> {
    let mut head = vec![0; COPY_DATA_BYTES];
    Writer::new(&mut head)
        .u64(copy.offset)
        .u32(copy.length)
        .u32(copy.checksum);
    head
}

fn decode_copy_data<'a>(header: &FrameHeader, head: &[u8]) -> Result<Message<'a>, LinkError> {
    let mut from = Reader::new(head);
    let copy = CopyData {
        offset: from.u64()?,
        length: from.u32()?,
        checksum: from.u32()?,
    };
    let fits = copy.offset.checked_add(u64::from(copy.length)).is_some();
    if copy.length != header.body_bytes || !fits {
        return Err(LinkError::Field("copied range"));
    }
    Ok(Message::CopyData(copy))
}

fn encode_pair(bytes: usize, first: u64, second: u64) -> Vec<u8> {
    let mut head = vec![0; bytes];
    Writer::new(&mut head).u64(first).u64(second);
    head
}

fn decode_range(head: &[u8]) -> Result<(u64, u64), LinkError> {
    let mut from = Reader::new(head);
    let (offset, length) = (from.u64()?, from.u64()?);
    if length == 0 || offset.checked_add(length).is_none() {
        return Err(LinkError::Field("copied range"));
    }
    Ok((offset, length))
}

fn decode_copy_end(head: &[u8]) -> Result<Message<'_>, LinkError> {
    let mut from = Reader::new(head);
    Ok(Message::CopyEnd(CopyEnd {
        consistent_from: from.u64()?,
        volume_bytes: from.u64()?,
    }))
}

fn decode_chunk<'a>(header: &FrameHeader, head: &'a [u8]) -> Result<Message<'a>, LinkError> {
    let what = What::decode(head)?;
    if what.as_bytes().len() != head.len() || what.data_bytes != header.body_bytes {
        return Err(LinkError::Field("length of the chunk"));
    }
    Ok(Message::Chunk(what))
}

fn encode_ack(ack: &Ack) -> Vec<u8> {
    let mut head = vec![0; ACK_BYTES];
    let mut to = Writer::new(&mut head);
    put_point(&mut to, &ack.received);
    to.u64(ack.applied).u64(ack.copy_offset);
    to.u8(copy_code(ack.copy)).u8(u8::from(ack.begun));
    head
}

fn decode_ack(head: &[u8]) -> Result<Message<'_>, LinkError> {
    let mut from = Reader::new(head);
    let (received, applied, copy_offset) = (take_point(&mut from)?, from.u64()?, from.u64()?);
    let copy = take_copy_state(&mut from)?;
    let begun = match from.u8()? {
        0 => false,
        1 => true,
        _ => return Err(LinkError::Field("begun")),
    };
    take_zeroes(&mut from, 6)?;
    if applied > received.record {
        return Err(LinkError::Field("positions"));
    }
    Ok(Message::Ack(Ack {
        received,
        applied,
        copy_offset,
        copy,
        begun,
    }))
}

fn encode_heartbeat(beat: &Heartbeat) -> Vec<u8> {
    let mut head = vec![0; HEARTBEAT_BYTES];
    Writer::new(&mut head)
        .u64(beat.durable)
        .u64(beat.journaled)
        .u64(beat.time_us);
    head
}

fn decode_heartbeat(head: &[u8]) -> Result<Message<'_>, LinkError> {
    let mut from = Reader::new(head);
    Ok(Message::Heartbeat(Heartbeat {
        durable: from.u64()?,
        journaled: from.u64()?,
        time_us: from.u64()?,
    }))
}
