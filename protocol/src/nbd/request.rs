//! Requests of the transmission phase, section "Request message".

use super::constants::{REQUEST_HEADER_BYTES, REQUEST_MAGIC};
use super::error::ProtocolError;

/// The command of a request, section "Request types".
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Command {
    /// `NBD_CMD_READ`.
    Read,
    /// `NBD_CMD_WRITE`; the only one with a payload.
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
    /// Length of the range in bytes, and of the payload if the command is a write.
    pub length: u32,
}

impl Request {
    /// Reads the request `bytes` start with; `None` when there are fewer than
    /// [`REQUEST_HEADER_BYTES`] of them.
    ///
    /// # Errors
    /// [`ProtocolError::RequestMagic`] when this is no request.
    pub fn decode(bytes: &[u8]) -> Result<Option<Self>, ProtocolError> {
        let Some(header) = bytes.first_chunk::<REQUEST_HEADER_BYTES>() else {
            return Ok(None);
        };
        let [m0, m1, m2, m3, f0, f1, t0, t1, rest @ ..] = *header;
        let [c0, c1, c2, c3, c4, c5, c6, c7, rest @ ..] = rest;
        let [o0, o1, o2, o3, o4, o5, o6, o7, l0, l1, l2, l3] = rest;
        let magic = u32::from_be_bytes([m0, m1, m2, m3]);
        if magic != REQUEST_MAGIC {
            return Err(ProtocolError::RequestMagic(magic));
        }
        Ok(Some(Self {
            flags: u16::from_be_bytes([f0, f1]),
            command: Command::from_code(u16::from_be_bytes([t0, t1])),
            cookie: u64::from_be_bytes([c0, c1, c2, c3, c4, c5, c6, c7]),
            offset: u64::from_be_bytes([o0, o1, o2, o3, o4, o5, o6, o7]),
            length: u32::from_be_bytes([l0, l1, l2, l3]),
        }))
    }

    /// Bytes that follow the header on the wire.
    #[must_use]
    pub const fn payload_bytes(&self) -> u32 {
        match self.command {
            Command::Write => self.length,
            _ => 0,
        }
    }

    /// Whether all bits of `flags` are set.
    #[must_use]
    pub const fn has(&self, flags: u16) -> bool {
        self.flags & flags == flags
    }
}
