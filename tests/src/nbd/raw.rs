//! NBD message by message (NBD specification, `doc/proto.md`): it sends whatever it is told to, valid or not.

use super::{Endpoint, Stream};
use crate::limits;
use std::io::{self, Read as _, Write as _};

/// "NBDMAGIC".
pub(crate) const GREETING: u64 = 0x4e42_444d_4147_4943;
/// "IHAVEOPT".
pub(crate) const OPTION_MAGIC: u64 = 0x4948_4156_454f_5054;
/// Start of an option reply.
pub(crate) const OPTION_REPLY_MAGIC: u64 = 0x0003_e889_0455_65a9;
/// Start of a request.
pub(crate) const REQUEST_MAGIC: u32 = 0x2560_9513;
/// Start of a simple reply.
pub(crate) const REPLY_MAGIC: u32 = 0x6744_6698;

/// Option numbers (NBD specification, "Option types").
pub mod option {
    /// Old way to choose an export.
    pub const EXPORT_NAME: u32 = 1;
    /// End the negotiation.
    pub const ABORT: u32 = 2;
    /// Name the exports.
    pub const LIST: u32 = 3;
    /// Describe an export.
    pub const INFO: u32 = 6;
    /// Describe an export and start to use it.
    pub const GO: u32 = 7;
    /// Structured replies, please.
    pub const STRUCTURED_REPLY: u32 = 8;
}

/// Option reply types (NBD specification, "Option reply types").
pub mod reply {
    /// Done.
    pub const ACK: u32 = 1;
    /// One export of the list.
    pub const SERVER: u32 = 2;
    /// One piece of information.
    pub const INFO: u32 = 3;
    /// The option is unknown.
    pub const ERR_UNSUP: u32 = 0x8000_0001;
    /// The option's data is malformed.
    pub const ERR_INVALID: u32 = 0x8000_0003;
    /// There is no such export.
    pub const ERR_UNKNOWN: u32 = 0x8000_0006;
}

/// Commands (NBD specification, "Request types").
pub mod command {
    /// Read.
    pub const READ: u16 = 0;
    /// Write.
    pub const WRITE: u16 = 1;
    /// Disconnect.
    pub const DISC: u16 = 2;
    /// Flush.
    pub const FLUSH: u16 = 3;
    /// Trim.
    pub const TRIM: u16 = 4;
    /// Cache.
    pub const CACHE: u16 = 5;
    /// Write zeroes.
    pub const WRITE_ZEROES: u16 = 6;
}

/// Command flags (NBD specification, "Command flags").
pub mod flags {
    /// Answer only when it is on stable storage.
    pub const FUA: u16 = 1;
    /// Zeroes keep their space.
    pub const NO_HOLE: u16 = 2;
    /// Zero quickly or not at all.
    pub const FAST_ZERO: u16 = 16;
}

/// One request header, any values.
#[derive(Debug, Clone, Copy, Default)]
pub struct Request {
    /// Command flags.
    pub flags: u16,
    /// Command.
    pub command: u16,
    /// What the reply carries back.
    pub cookie: u64,
    /// First byte.
    pub offset: u64,
    /// Number of bytes.
    pub length: u32,
}

impl Request {
    /// The header as it goes over the wire, 28 bytes.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = REQUEST_MAGIC.to_be_bytes().to_vec();
        bytes.extend_from_slice(&self.flags.to_be_bytes());
        bytes.extend_from_slice(&self.command.to_be_bytes());
        bytes.extend_from_slice(&self.cookie.to_be_bytes());
        bytes.extend_from_slice(&self.offset.to_be_bytes());
        bytes.extend_from_slice(&self.length.to_be_bytes());
        bytes
    }
}

/// The header of a simple reply.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReplyHeader {
    /// 0, or the error number.
    pub error: u32,
    /// The request's cookie.
    pub cookie: u64,
}

/// One option reply.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OptionReply {
    /// The option it answers.
    pub option: u32,
    /// Its type.
    pub kind: u32,
    /// Its content.
    pub data: Vec<u8>,
}

/// What `GO` and `INFO` say about an export.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct InfoReply {
    /// Size in bytes.
    pub size_bytes: u64,
    /// Transmission flags.
    pub flags: u16,
    /// Minimum, preferred and maximum block size in bytes, if announced.
    pub blocks: Option<[u32; 3]>,
}

/// A connection on which every message is sent and read by hand.
#[derive(Debug)]
pub struct RawNbd {
    stream: Stream,
}

impl RawNbd {
    /// Connects and sends nothing.
    ///
    /// # Errors
    /// When nobody listens.
    pub fn connect(endpoint: &Endpoint) -> io::Result<Self> {
        Ok(Self {
            stream: endpoint.connect(limits::NBD_REPLY)?,
        })
    }

    /// Connects and answers the greeting with fixed newstyle and without zeroes.
    ///
    /// # Errors
    /// When nobody listens or the greeting is none.
    pub fn greeted(endpoint: &Endpoint) -> io::Result<Self> {
        let mut raw = Self::connect(endpoint)?;
        raw.greet(3)?;
        Ok(raw)
    }

    /// Reads the greeting and answers with these client flags.
    ///
    /// # Errors
    /// When the greeting is none.
    pub fn greet(&mut self, client_flags: u32) -> io::Result<u16> {
        let magic = self.read_u64()?;
        let second = self.read_u64()?;
        if (magic, second) != (GREETING, OPTION_MAGIC) {
            return Err(wrong(format!("no newstyle greeting: {magic:016x} {second:016x}")));
        }
        let offered = self.read_u16()?;
        self.send(&client_flags.to_be_bytes())?;
        Ok(offered)
    }

    /// Sends bytes as they are.
    ///
    /// # Errors
    /// When the connection is gone.
    pub fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(bytes)
    }

    /// Sends an option.
    ///
    /// # Errors
    /// When the connection is gone.
    pub fn send_option(&mut self, option: u32, data: &[u8]) -> io::Result<()> {
        let length = u32::try_from(data.len()).map_err(|_| wrong("option data is too long".to_owned()))?;
        self.send_option_claiming(option, length, data)
    }

    /// Sends an option whose length field says `claimed`, whatever follows.
    ///
    /// # Errors
    /// When the connection is gone.
    pub fn send_option_claiming(&mut self, option: u32, claimed: u32, data: &[u8]) -> io::Result<()> {
        let mut bytes = OPTION_MAGIC.to_be_bytes().to_vec();
        bytes.extend_from_slice(&option.to_be_bytes());
        bytes.extend_from_slice(&claimed.to_be_bytes());
        bytes.extend_from_slice(data);
        self.send(&bytes)
    }

    /// Reads one option reply.
    ///
    /// # Errors
    /// When the connection ends or the reply is malformed.
    pub fn option_reply(&mut self) -> io::Result<OptionReply> {
        let magic = self.read_u64()?;
        if magic != OPTION_REPLY_MAGIC {
            return Err(wrong(format!("an option reply starts with {magic:016x}")));
        }
        let option = self.read_u32()?;
        let kind = self.read_u32()?;
        let length = self.read_u32()?;
        if length > limits::NBD_OPTION_REPLY_BYTES {
            return Err(wrong(format!("an option reply of {length} bytes")));
        }
        let data = self.read_bytes(length)?;
        Ok(OptionReply { option, kind, data })
    }

    /// Sends `GO` or `INFO` for an export and reads all replies.
    ///
    /// # Errors
    /// When the server refuses (the message names the reply type) or the connection ends.
    pub fn ask(&mut self, option: u32, export: &str) -> io::Result<InfoReply> {
        self.send_option(option, &export_request(export))?;
        let mut info = InfoReply::default();
        loop {
            let reply = self.option_reply()?;
            match reply.kind {
                reply::ACK => return Ok(info),
                reply::INFO => read_info(&reply.data, &mut info),
                refused => {
                    let reason = String::from_utf8_lossy(&reply.data).into_owned();
                    return Err(wrong(format!(
                        "export {export:?} refused with {refused:#x}: {reason}"
                    )));
                }
            }
        }
    }

    /// Sends a request header and what belongs behind it.
    ///
    /// # Errors
    /// When the connection is gone.
    pub fn request(&mut self, request: Request, payload: &[u8]) -> io::Result<()> {
        let mut bytes = request.encode();
        bytes.extend_from_slice(payload);
        self.send(&bytes)
    }

    /// Reads the header of a simple reply.
    ///
    /// # Errors
    /// When the connection ends or something else arrives.
    pub fn reply_header(&mut self) -> io::Result<ReplyHeader> {
        let magic = self.read_u32()?;
        if magic != REPLY_MAGIC {
            return Err(wrong(format!("a reply starts with {magic:08x}")));
        }
        Ok(ReplyHeader {
            error: self.read_u32()?,
            cookie: self.read_u64()?,
        })
    }

    /// Reads exactly this many bytes.
    ///
    /// # Errors
    /// When the connection ends before.
    pub fn read_bytes(&mut self, length: u32) -> io::Result<Vec<u8>> {
        let length = usize::try_from(length).map_err(|_| wrong("too long for this machine".to_owned()))?;
        let mut bytes = vec![0; length];
        self.stream.read_exact(&mut bytes).map_err(name_silence)?;
        Ok(bytes)
    }

    /// Whether the server has closed the connection; waits for it up to the reply limit.
    ///
    /// # Errors
    /// When it sends data instead, or stays silent and open.
    pub fn expect_closed(&mut self) -> io::Result<()> {
        let mut byte = [0];
        match self.stream.read(&mut byte) {
            Ok(0) => Ok(()),
            Ok(_) => Err(wrong(format!(
                "data ({:02x}) instead of a closed connection",
                byte[0]
            ))),
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// The stream itself.
    pub fn stream(&mut self) -> &mut Stream {
        &mut self.stream
    }

    fn read_u16(&mut self) -> io::Result<u16> {
        self.read_array().map(u16::from_be_bytes)
    }

    fn read_u32(&mut self) -> io::Result<u32> {
        self.read_array().map(u32::from_be_bytes)
    }

    fn read_u64(&mut self) -> io::Result<u64> {
        self.read_array().map(u64::from_be_bytes)
    }

    fn read_array<const N: usize>(&mut self) -> io::Result<[u8; N]> {
        let mut bytes = [0; N];
        self.stream.read_exact(&mut bytes).map_err(name_silence)?;
        Ok(bytes)
    }
}

/// The data of `GO` and `INFO`: name and no information requests but the block sizes.
fn export_request(export: &str) -> Vec<u8> {
    let length = u32::try_from(export.len()).unwrap_or(u32::MAX);
    let mut data = length.to_be_bytes().to_vec();
    data.extend_from_slice(export.as_bytes());
    data.extend_from_slice(&[0, 1, 0, 3]);
    data
}

fn read_info(data: &[u8], info: &mut InfoReply) {
    let (Some(kind), body) = (data.first_chunk::<2>(), data.get(2..).unwrap_or_default()) else {
        return;
    };
    match u16::from_be_bytes(*kind) {
        0 => {
            info.size_bytes = body
                .first_chunk::<8>()
                .map_or(0, |bytes| u64::from_be_bytes(*bytes));
            info.flags = body
                .last_chunk::<2>()
                .map_or(0, |bytes| u16::from_be_bytes(*bytes));
        }
        3 => {
            let word = |at: usize| body.get(at..).and_then(|rest| rest.first_chunk::<4>());
            if let (Some(low), Some(mid), Some(high)) = (word(0), word(4), word(8)) {
                info.blocks = Some([low, mid, high].map(|bytes| u32::from_be_bytes(*bytes)));
            }
        }
        _ => {}
    }
}

/// The system calls a time limit on a socket "temporarily unavailable", which helps nobody.
fn name_silence(error: io::Error) -> io::Error {
    match error.kind() {
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => {
            let message = format!("the server was silent for {} s", limits::NBD_REPLY.as_secs());
            io::Error::new(io::ErrorKind::TimedOut, message)
        }
        _ => error,
    }
}

fn wrong(message: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, message)
}
