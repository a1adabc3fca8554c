//! Requests of the transmission phase, section "Request message".

use super::constants::{
    CommandFlags, EXTENDED_REQUEST_HEADER_BYTES, EXTENDED_REQUEST_MAGIC, REQUEST_HEADER_BYTES, REQUEST_MAGIC,
};
use super::error::ProtocolError;
use super::reply::{MessageStyle, ReplyTo};

/// The command of a request, section "Request types".
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Command {
    /// `NBD_CMD_READ`.
    Read,
    /// `NBD_CMD_WRITE`; without extended headers the only one with a payload.
    Write,
    /// `NBD_CMD_DISC`; has no reply.
    Disconnect,
    /// `NBD_CMD_FLUSH`.
    Flush,
    /// `NBD_CMD_TRIM`.
    Trim,
    /// `NBD_CMD_CACHE`.
    Cache,
    /// `NBD_CMD_WRITE_ZEROES`.
    WriteZeroes,
    /// `NBD_CMD_BLOCK_STATUS`.
    BlockStatus,
    /// Anything else, with its number.
    Unknown(u16),
}

impl Command {
    const fn from_code(code: u16) -> Self {
        match code {
            0 => Self::Read,
            1 => Self::Write,
            2 => Self::Disconnect,
            3 => Self::Flush,
            4 => Self::Trim,
            5 => Self::Cache,
            6 => Self::WriteZeroes,
            7 => Self::BlockStatus,
            other => Self::Unknown(other),
        }
    }
}

/// The fixed part of a request. Nothing is checked against an export here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Request {
    /// Bits of [`CommandFlags`](super::CommandFlags), possibly unknown ones.
    pub flags: u16,
    /// What is asked.
    pub command: Command,
    /// Chosen by the client, returned in the reply.
    pub cookie: u64,
    /// First byte of the range.
    pub offset: u64,
    /// Length of the payload in bytes if there is one, which is the range of a write; else of the range.
    pub length: u64,
    /// Whether a payload follows the header.
    pub has_payload: bool,
}

impl Request {
    /// Reads the request `bytes` start with; `None` when there are fewer of them than [`MessageStyle::request_bytes`].
    ///
    /// # Errors
    /// [`ProtocolError::RequestMagic`] when this is no request.
    pub fn decode(bytes: &[u8], style: MessageStyle) -> Result<Option<Self>, ProtocolError> {
        match style {
            MessageStyle::Extended => Self::decode_extended(bytes),
            MessageStyle::Simple | MessageStyle::Structured => Self::decode_compact(bytes),
        }
    }

    fn decode_compact(bytes: &[u8]) -> Result<Option<Self>, ProtocolError> {
        let Some(header) = bytes.first_chunk::<REQUEST_HEADER_BYTES>() else {
            return Ok(None);
        };
        let [magic @ .., l0, l1, l2, l3] = *header;
        let request = Self::decode_fields(
            &magic,
            REQUEST_MAGIC,
            u64::from(u32::from_be_bytes([l0, l1, l2, l3])),
        )?;
        Ok(Some(Self {
            has_payload: request.command == Command::Write,
            ..request
        }))
    }

    fn decode_extended(bytes: &[u8]) -> Result<Option<Self>, ProtocolError> {
        let Some(header) = bytes.first_chunk::<EXTENDED_REQUEST_HEADER_BYTES>() else {
            return Ok(None);
        };
        let [fields @ .., l0, l1, l2, l3, l4, l5, l6, l7] = *header;
        let length = u64::from_be_bytes([l0, l1, l2, l3, l4, l5, l6, l7]);
        let request = Self::decode_fields(&fields, EXTENDED_REQUEST_MAGIC, length)?;
        Ok(Some(Self {
            has_payload: request.has(CommandFlags::PAYLOAD_LEN),
            ..request
        }))
    }

    /// What both kinds of header begin with.
    fn decode_fields(fields: &[u8; 24], wanted: u32, length: u64) -> Result<Self, ProtocolError> {
        let [m0, m1, m2, m3, f0, f1, t0, t1, rest @ ..] = *fields;
        let [c0, c1, c2, c3, c4, c5, c6, c7, o0, o1, o2, o3, o4, o5, o6, o7] = rest;
        let magic = u32::from_be_bytes([m0, m1, m2, m3]);
        if magic != wanted {
            return Err(ProtocolError::RequestMagic(magic));
        }
        Ok(Self {
            flags: u16::from_be_bytes([f0, f1]),
            command: Command::from_code(u16::from_be_bytes([t0, t1])),
            cookie: u64::from_be_bytes([c0, c1, c2, c3, c4, c5, c6, c7]),
            offset: u64::from_be_bytes([o0, o1, o2, o3, o4, o5, o6, o7]),
            length,
            has_payload: false,
        })
    }

    /// Bytes that follow the header on the wire.
    #[must_use]
    pub const fn payload_bytes(&self) -> u64 {
        if self.has_payload { self.length } else { 0 }
    }

    /// Whether all bits of `flags` are set.
    #[must_use]
    pub const fn has(&self, flags: u16) -> bool {
        self.flags & flags == flags
    }

    /// What its replies carry.
    #[must_use]
    pub const fn reply_to(&self) -> ReplyTo {
        ReplyTo {
            cookie: self.cookie,
            offset: self.offset,
        }
    }
}
