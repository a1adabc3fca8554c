//! Replies of the transmission phase, sections "Simple reply message" and "Structured reply chunk message".
//!
//! With structured replies negotiated a read is always answered by structured chunks; success of the other
//! commands stays a simple reply, which the section allows and which is the smaller message; every failure is
//! a structured error with a sentence in it.

use super::constants::{SIMPLE_REPLY_MAGIC, STRUCTURED_REPLY_MAGIC};
use super::error::Errno;
use bytes::BufMut;

/// `NBD_REPLY_FLAG_DONE`, section "Structured reply flags".
const FLAG_DONE: u16 = 1;
/// Types of chunks, section "Structured reply types".
const TYPE_NONE: u16 = 0;
const TYPE_OFFSET_DATA: u16 = 1;
const TYPE_ERROR: u16 = (1 << 15) | 1;
/// Size in bytes of a chunk without its payload.
const CHUNK_HEADER_BYTES: usize = 20;
/// Size in bytes of the offset before the data of an offset-data chunk.
const DATA_OFFSET_BYTES: u32 = 8;

/// Which kind of replies the client negotiated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReplyStyle {
    /// The only kind before `NBD_OPT_STRUCTURED_REPLY`.
    Simple,
    /// `NBD_OPT_STRUCTURED_REPLY` was acknowledged.
    Structured,
}

/// Size in bytes of what [`put_read_header`] appends for a read of `length` bytes.
#[must_use]
pub const fn read_header_bytes(style: ReplyStyle, length: u32) -> usize {
    match style {
        ReplyStyle::Simple => super::SIMPLE_REPLY_BYTES,
        ReplyStyle::Structured if length == 0 => CHUNK_HEADER_BYTES,
        ReplyStyle::Structured => CHUNK_HEADER_BYTES.saturating_add(DATA_OFFSET_BYTES as usize),
    }
}

/// Appends what stands before the `length` bytes of data of a successful read, which the caller appends next.
///
/// The data is one final chunk, so that `NBD_CMD_FLAG_DF` always holds. A read of nothing is answered by
/// `NBD_REPLY_TYPE_NONE`, because an offset-data chunk may not be empty.
pub fn put_read_header(out: &mut impl BufMut, style: ReplyStyle, cookie: u64, offset: u64, length: u32) {
    match style {
        ReplyStyle::Simple => put_simple(out, 0, cookie),
        ReplyStyle::Structured if length == 0 => put_chunk(out, TYPE_NONE, cookie, 0),
        ReplyStyle::Structured => {
            put_chunk(
                out,
                TYPE_OFFSET_DATA,
                cookie,
                length.saturating_add(DATA_OFFSET_BYTES),
            );
            out.put_u64(offset);
        }
    }
}

/// Appends the success of a command that returns no data.
pub fn put_done(out: &mut impl BufMut, cookie: u64) {
    put_simple(out, 0, cookie);
}

/// Appends the failure of any command.
pub fn put_failure(out: &mut impl BufMut, style: ReplyStyle, cookie: u64, errno: Errno) {
    match style {
        ReplyStyle::Simple => put_simple(out, errno.code(), cookie),
        ReplyStyle::Structured => {
            let message = errno.message();
            let message_bytes = u16::try_from(message.len()).expect("messages are short constants");
            put_chunk(
                out,
                TYPE_ERROR,
                cookie,
                u32::from(message_bytes).saturating_add(6),
            );
            out.put_u32(errno.code());
            out.put_u16(message_bytes);
            out.put_slice(message.as_bytes());
        }
    }
}

fn put_simple(out: &mut impl BufMut, error: u32, cookie: u64) {
    out.put_u32(SIMPLE_REPLY_MAGIC);
    out.put_u32(error);
    out.put_u64(cookie);
}

fn put_chunk(out: &mut impl BufMut, kind: u16, cookie: u64, payload_bytes: u32) {
    out.put_u32(STRUCTURED_REPLY_MAGIC);
    out.put_u16(FLAG_DONE);
    out.put_u16(kind);
    out.put_u64(cookie);
    out.put_u32(payload_bytes);
}
