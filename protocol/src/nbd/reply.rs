//! Replies of the transmission phase, sections "Simple reply message", "Structured reply chunk message" and "Extended
//! reply chunk message".
//!
//! With structured replies negotiated a read is always answered by structured chunks; success of the commands without
//! data stays a simple reply, which the section allows and which is the smaller message; every failure is
//! a structured error with a sentence in it. With extended headers every reply is an extended one.

use super::constants::{
    EXTENDED_REPLY_MAGIC, EXTENDED_REQUEST_HEADER_BYTES, REQUEST_HEADER_BYTES, SIMPLE_REPLY_BYTES,
    SIMPLE_REPLY_MAGIC, STRUCTURED_REPLY_MAGIC,
};
use super::error::Errno;
use bytes::BufMut;

/// `NBD_REPLY_FLAG_DONE`, section "Structured reply flags".
const FLAG_DONE: u16 = 1;
/// Types of chunks, section "Structured reply types".
const TYPE_NONE: u16 = 0;
const TYPE_OFFSET_DATA: u16 = 1;
const TYPE_OFFSET_HOLE: u16 = 2;
const TYPE_BLOCK_STATUS: u16 = 5;
const TYPE_BLOCK_STATUS_EXT: u16 = 6;
const TYPE_ERROR: u16 = (1 << 15) | 1;
/// Sizes in bytes of a structured and of an extended chunk without their payload.
const STRUCTURED_BYTES: usize = 20;
const EXTENDED_BYTES: usize = 32;
/// Size in bytes of the offset before the data of an offset-data chunk.
const DATA_OFFSET_BYTES: u32 = 8;
/// Size in bytes of the payload of an offset-hole chunk.
const HOLE_BYTES: u32 = 12;

/// Which kind of messages the client negotiated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MessageStyle {
    /// The only kind before `NBD_OPT_STRUCTURED_REPLY`.
    Simple,
    /// `NBD_OPT_STRUCTURED_REPLY` was acknowledged.
    Structured,
    /// `NBD_OPT_EXTENDED_HEADERS` was acknowledged: requests too have the other header.
    Extended,
}

impl MessageStyle {
    /// Size in bytes of the header of a request.
    #[must_use]
    pub const fn request_bytes(self) -> usize {
        match self {
            Self::Simple | Self::Structured => REQUEST_HEADER_BYTES,
            Self::Extended => EXTENDED_REQUEST_HEADER_BYTES,
        }
    }

    /// Whether replies consist of chunks.
    #[must_use]
    pub const fn has_chunks(self) -> bool {
        matches!(self, Self::Structured | Self::Extended)
    }

    /// Size in bytes of the answer to a command that returns no data.
    #[must_use]
    pub const fn done_bytes(self) -> usize {
        match self {
            Self::Simple | Self::Structured => SIMPLE_REPLY_BYTES,
            Self::Extended => EXTENDED_BYTES,
        }
    }
}

/// What a reply repeats of its request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReplyTo {
    /// Chosen by the client.
    pub cookie: u64,
    /// First byte of the range; only extended replies carry it.
    pub offset: u64,
}

/// One extent of a block status, section "`base:allocation` metadata context".
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BlockStatus {
    /// Length in bytes, not zero.
    pub length: u64,
    /// `NBD_STATE_HOLE`: takes no space.
    pub hole: bool,
    /// `NBD_STATE_ZERO`: reads as zeroes.
    pub zero: bool,
}

impl BlockStatus {
    const fn flags(self) -> u32 {
        self.hole as u32 | ((self.zero as u32) << 1)
    }
}

/// Size in bytes of a chunk with a payload of so many bytes.
#[must_use]
pub const fn chunk_bytes(style: MessageStyle, payload_bytes: u32) -> usize {
    let header_bytes = match style {
        MessageStyle::Simple | MessageStyle::Structured => STRUCTURED_BYTES,
        MessageStyle::Extended => EXTENDED_BYTES,
    };
    header_bytes.saturating_add(payload_bytes as usize)
}

/// Size in bytes of what [`put_read_header`] appends for a read of `length` bytes.
#[must_use]
pub const fn read_header_bytes(style: MessageStyle, length: u32) -> usize {
    match style {
        MessageStyle::Simple => SIMPLE_REPLY_BYTES,
        _ if length == 0 => chunk_bytes(style, 0),
        _ => chunk_bytes(style, DATA_OFFSET_BYTES),
    }
}

/// Appends what stands before the `length` bytes of data of a successful read, which the caller appends next.
///
/// The data is one final chunk, so that `NBD_CMD_FLAG_DF` always holds. A read of nothing is answered by
/// `NBD_REPLY_TYPE_NONE`, because an offset-data chunk may not be empty.
pub fn put_read_header(out: &mut impl BufMut, style: MessageStyle, to: ReplyTo, length: u32) {
    match style {
        MessageStyle::Simple => put_simple(out, 0, to.cookie),
        _ if length == 0 => put_chunk(out, style, to, (TYPE_NONE, FLAG_DONE), 0),
        _ => put_data_header(out, style, to, (to.offset, length), true),
    }
}

/// Appends what stands before the data of one piece of a read, which the caller appends next; `last` ends the reply.
pub fn put_data_header(
    out: &mut impl BufMut,
    style: MessageStyle,
    to: ReplyTo,
    (offset, length): (u64, u32),
    last: bool,
) {
    let payload_bytes = length.saturating_add(DATA_OFFSET_BYTES);
    put_chunk(out, style, to, (TYPE_OFFSET_DATA, u16::from(last)), payload_bytes);
    out.put_u64(offset);
}

/// Appends one piece of a read that is all zeroes; `last` ends the reply.
pub fn put_hole(
    out: &mut impl BufMut,
    style: MessageStyle,
    to: ReplyTo,
    (offset, length): (u64, u32),
    last: bool,
) {
    put_chunk(out, style, to, (TYPE_OFFSET_HOLE, u16::from(last)), HOLE_BYTES);
    out.put_u64(offset);
    out.put_u32(length);
}

/// Size in bytes of what [`put_block_status`] appends for so many extents.
#[must_use]
pub const fn block_status_bytes(style: MessageStyle, extents: u32) -> usize {
    chunk_bytes(style, status_payload_bytes(style, extents))
}

const fn status_payload_bytes(style: MessageStyle, extents: u32) -> u32 {
    match style {
        MessageStyle::Simple | MessageStyle::Structured => extents.saturating_mul(8).saturating_add(4),
        MessageStyle::Extended => extents.saturating_mul(16).saturating_add(8),
    }
}

/// Appends the whole answer to a query of the block status in one `context`. Without extended headers an extent ends at
/// 4 GiB at most: what a longer one is, the caller has to say in several.
pub fn put_block_status(
    out: &mut impl BufMut,
    style: MessageStyle,
    to: ReplyTo,
    context: u32,
    extents: &[BlockStatus],
) {
    let count = u32::try_from(extents.len()).expect("a server limits the extents of a reply");
    let payload_bytes = status_payload_bytes(style, count);
    if style == MessageStyle::Extended {
        put_chunk(out, style, to, (TYPE_BLOCK_STATUS_EXT, FLAG_DONE), payload_bytes);
        out.put_u32(context);
        out.put_u32(count);
        for extent in extents {
            out.put_u64(extent.length);
            out.put_u64(u64::from(extent.flags()));
        }
    } else {
        put_chunk(out, style, to, (TYPE_BLOCK_STATUS, FLAG_DONE), payload_bytes);
        out.put_u32(context);
        for extent in extents {
            out.put_u32(u32::try_from(extent.length).unwrap_or(u32::MAX));
            out.put_u32(extent.flags());
        }
    }
}

/// Appends the success of a command that returns no data.
pub fn put_done(out: &mut impl BufMut, style: MessageStyle, to: ReplyTo) {
    match style {
        MessageStyle::Simple | MessageStyle::Structured => put_simple(out, 0, to.cookie),
        MessageStyle::Extended => put_chunk(out, style, to, (TYPE_NONE, FLAG_DONE), 0),
    }
}

/// Appends the failure of any command.
pub fn put_failure(out: &mut impl BufMut, style: MessageStyle, to: ReplyTo, errno: Errno) {
    if style == MessageStyle::Simple {
        return put_simple(out, errno.code(), to.cookie);
    }
    let message = errno.message();
    let message_bytes = u16::try_from(message.len()).expect("messages are short constants");
    let payload_bytes = u32::from(message_bytes).saturating_add(6);
    put_chunk(out, style, to, (TYPE_ERROR, FLAG_DONE), payload_bytes);
    out.put_u32(errno.code());
    out.put_u16(message_bytes);
    out.put_slice(message.as_bytes());
}

fn put_simple(out: &mut impl BufMut, error: u32, cookie: u64) {
    out.put_u32(SIMPLE_REPLY_MAGIC);
    out.put_u32(error);
    out.put_u64(cookie);
}

fn put_chunk(
    out: &mut impl BufMut,
    style: MessageStyle,
    to: ReplyTo,
    (kind, flags): (u16, u16),
    payload_bytes: u32,
) {
    let extended = style == MessageStyle::Extended;
    out.put_u32(if extended {
        EXTENDED_REPLY_MAGIC
    } else {
        STRUCTURED_REPLY_MAGIC
    });
    out.put_u16(flags);
    out.put_u16(kind);
    out.put_u64(to.cookie);
    if extended {
        out.put_u64(to.offset);
        out.put_u64(u64::from(payload_bytes));
    } else {
        out.put_u32(payload_bytes);
    }
}
