//! The handshake: greeting, options and their replies, sections "Newstyle negotiation",
//! "Fixed newstyle negotiation", "Option types" and "Option reply types".

use super::constants::{
    EXPORT_NAME_PADDING_BYTES, HandshakeFlags, INIT_MAGIC, MAX_STRING_BYTES, OPTION_HEADER_BYTES,
    OPTION_MAGIC, OPTION_REPLY_MAGIC, option_code,
};
use super::error::ProtocolError;
use super::meta_context::{MetaContextRequest, string};
use bytes::BufMut;

/// Size in bytes of the client's answer to the greeting.
pub const CLIENT_FLAGS_BYTES: usize = 4;

/// Kinds of information in `NBD_REP_INFO`.
const INFO_EXPORT: u16 = 0;
const INFO_NAME: u16 = 1;
const INFO_DESCRIPTION: u16 = 2;
const INFO_BLOCK_SIZE: u16 = 3;

/// What the client chose after the greeting.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClientFlags {
    /// The answer to `NBD_OPT_EXPORT_NAME` ends without padding.
    pub no_zeroes: bool,
}

impl ClientFlags {
    /// Reads the client's four bytes.
    ///
    /// # Errors
    /// [`ProtocolError::ClientFlags`] when a flag is set that was not offered.
    pub fn decode(bytes: [u8; CLIENT_FLAGS_BYTES]) -> Result<Self, ProtocolError> {
        let flags = u32::from_be_bytes(bytes);
        let offered = u32::from(HandshakeFlags::FIXED_NEWSTYLE | HandshakeFlags::NO_ZEROES);
        if flags & !offered != 0 {
            return Err(ProtocolError::ClientFlags(flags));
        }
        Ok(Self {
            no_zeroes: flags & u32::from(HandshakeFlags::NO_ZEROES) != 0,
        })
    }
}

/// The fixed part of an option.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OptionHeader {
    /// Which option; see [`option_code`].
    pub code: u32,
    /// Bytes of data that follow.
    pub length: u32,
}

impl OptionHeader {
    /// Reads the header of an option.
    ///
    /// # Errors
    /// [`ProtocolError::OptionMagic`] when this is no option.
    pub fn decode(bytes: &[u8; OPTION_HEADER_BYTES]) -> Result<Self, ProtocolError> {
        let [m0, m1, m2, m3, m4, m5, m6, m7, c0, c1, c2, c3, l0, l1, l2, l3] = *bytes;
        let magic = u64::from_be_bytes([m0, m1, m2, m3, m4, m5, m6, m7]);
        if magic != OPTION_MAGIC {
            return Err(ProtocolError::OptionMagic(magic));
        }
        let code = u32::from_be_bytes([c0, c1, c2, c3]);
        Ok(Self {
            code,
            length: u32::from_be_bytes([l0, l1, l2, l3]),
        })
    }
}

/// An option with its data understood.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ClientOption<'a> {
    /// Attach to this export; cannot be refused but by closing.
    ExportName(&'a str),
    /// End the negotiation.
    Abort,
    /// Name the exports.
    List,
    /// Describe an export.
    Info(InfoRequest<'a>),
    /// Describe an export and attach to it.
    Go(InfoRequest<'a>),
    /// Use structured replies.
    StructuredReply,
    /// Use extended headers, and with them structured replies.
    ExtendedHeaders,
    /// Name the metadata contexts of an export.
    ListMetaContext(MetaContextRequest<'a>),
    /// Choose metadata contexts of an export.
    SetMetaContext(MetaContextRequest<'a>),
    /// Begin TLS.
    StartTls,
    /// An option this server does not implement.
    Unsupported,
}

/// Data of `NBD_OPT_INFO` and `NBD_OPT_GO`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct InfoRequest<'a> {
    /// Which export; empty for the default one.
    pub name: &'a str,
    /// The canonical name is asked for.
    pub wants_name: bool,
    /// A description is asked for.
    pub wants_description: bool,
    /// The block sizes are asked for.
    pub wants_block_size: bool,
}

/// The data of an option breaks the protocol; the answer is [`OptionReply::Invalid`] with this text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct MalformedOption(pub &'static str);

impl<'a> ClientOption<'a> {
    /// Understands the `data` of the option with this `code`.
    ///
    /// # Errors
    /// [`MalformedOption`] when the data contradicts itself or the option has none.
    pub fn decode(code: u32, data: &'a [u8]) -> Result<Self, MalformedOption> {
        match code {
            option_code::EXPORT_NAME => Ok(Self::ExportName(export_name(data)?)),
            option_code::ABORT => Ok(Self::Abort),
            option_code::LIST => without_data(Self::List, data),
            option_code::STARTTLS => without_data(Self::StartTls, data),
            option_code::STRUCTURED_REPLY => without_data(Self::StructuredReply, data),
            option_code::EXTENDED_HEADERS => without_data(Self::ExtendedHeaders, data),
            option_code::LIST_META_CONTEXT => {
                Ok(Self::ListMetaContext(MetaContextRequest::decode(code, data)?))
            }
            option_code::SET_META_CONTEXT => {
                Ok(Self::SetMetaContext(MetaContextRequest::decode(code, data)?))
            }
            option_code::INFO => Ok(Self::Info(InfoRequest::decode(data)?)),
            option_code::GO => Ok(Self::Go(InfoRequest::decode(data)?)),
            _ => Ok(Self::Unsupported),
        }
    }
}

fn without_data<'a>(option: ClientOption<'a>, data: &[u8]) -> Result<ClientOption<'a>, MalformedOption> {
    if data.is_empty() {
        Ok(option)
    } else {
        Err(MalformedOption("this option carries no data"))
    }
}

fn export_name(bytes: &[u8]) -> Result<&str, MalformedOption> {
    if bytes.len() > MAX_STRING_BYTES {
        return Err(MalformedOption("export name is longer than 4096 bytes"));
    }
    std::str::from_utf8(bytes).map_err(|_| MalformedOption("export name is not UTF-8"))
}

impl<'a> InfoRequest<'a> {
    fn decode(data: &'a [u8]) -> Result<Self, MalformedOption> {
        const SHORT: MalformedOption = MalformedOption("option data ends too early");
        let (name, rest) = string(data)?;
        let (count, kinds) = rest.split_first_chunk::<2>().ok_or(SHORT)?;
        let (kinds, odd) = kinds.as_chunks::<2>();
        if kinds.len() != usize::from(u16::from_be_bytes(*count)) || !odd.is_empty() {
            return Err(MalformedOption(
                "number of information requests does not match the option length",
            ));
        }
        let wants = |kind: u16| kinds.contains(&kind.to_be_bytes());
        Ok(Self {
            name,
            wants_name: wants(INFO_NAME),
            wants_description: wants(INFO_DESCRIPTION),
            wants_block_size: wants(INFO_BLOCK_SIZE),
        })
    }
}

/// Type of a reply to an option.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum OptionReply {
    /// Accepted, and nothing more follows.
    Ack = 1,
    /// One export of a list.
    Server = 2,
    /// One piece of information.
    Info = 3,
    /// One metadata context.
    MetaContext = 4,
    /// The option is not implemented.
    Unsupported = (1 << 31) + 1,
    /// The option breaks the protocol.
    Invalid = (1 << 31) + 3,
    /// Only after TLS has begun.
    TlsRequired = (1 << 31) + 5,
    /// There is no such export.
    Unknown = (1 << 31) + 6,
    /// The option's data is too long.
    TooBig = (1 << 31) + 9,
    /// Extended headers are in use, and what is asked for would be a step back.
    ExtendedHeadersRequired = (1 << 31) + 10,
}

/// Sizes in bytes a server announces, section "Size constraints".
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BlockSizes {
    /// Smallest addressable length.
    pub minimum: u32,
    /// Cheapest length, a power of two of at least 512.
    pub preferred: u32,
    /// Longest payload accepted.
    pub maximum: u32,
}

/// Appends what a server sends first.
pub fn put_greeting<B: BufMut>(out: &mut B) {
    out.put_u64(INIT_MAGIC);
    out.put_u64(OPTION_MAGIC);
    out.put_u16(HandshakeFlags::FIXED_NEWSTYLE | HandshakeFlags::NO_ZEROES);
}

/// Appends the answer to `NBD_OPT_EXPORT_NAME`, after which transmission begins.
pub fn put_export_name_reply(out: &mut impl BufMut, size_bytes: u64, flags: u16, no_zeroes: bool) {
    out.put_u64(size_bytes);
    out.put_u16(flags);
    if !no_zeroes {
        out.put_bytes(0, EXPORT_NAME_PADDING_BYTES);
    }
}

/// Appends a reply to the option `code`; `text` is empty or, for an error, a sentence for a human.
pub fn put_option_reply(out: &mut impl BufMut, code: u32, reply: OptionReply, text: &str) {
    put_reply_header(out, code, reply, text.len());
    out.put_slice(text.as_bytes());
}

/// Appends one export of the answer to `NBD_OPT_LIST`.
pub fn put_server(out: &mut impl BufMut, name: &str) {
    put_reply_header(
        out,
        option_code::LIST,
        OptionReply::Server,
        name.len().saturating_add(4),
    );
    out.put_u32(wire_length(name.len()));
    out.put_slice(name.as_bytes());
}

/// Appends `NBD_INFO_EXPORT` in answer to the option `code`.
pub fn put_info_export(out: &mut impl BufMut, code: u32, size_bytes: u64, flags: u16) {
    put_info_header(out, code, INFO_EXPORT, 10);
    out.put_u64(size_bytes);
    out.put_u16(flags);
}

/// Appends `NBD_INFO_NAME` in answer to the option `code`.
pub fn put_info_name(out: &mut impl BufMut, code: u32, name: &str) {
    put_info_header(out, code, INFO_NAME, name.len());
    out.put_slice(name.as_bytes());
}

/// Appends `NBD_INFO_DESCRIPTION` in answer to the option `code`.
pub fn put_info_description(out: &mut impl BufMut, code: u32, description: &str) {
    put_info_header(out, code, INFO_DESCRIPTION, description.len());
    out.put_slice(description.as_bytes());
}

/// Appends `NBD_INFO_BLOCK_SIZE` in answer to the option `code`.
pub fn put_info_block_size(out: &mut impl BufMut, code: u32, sizes: BlockSizes) {
    put_info_header(out, code, INFO_BLOCK_SIZE, 12);
    out.put_u32(sizes.minimum);
    out.put_u32(sizes.preferred);
    out.put_u32(sizes.maximum);
}

fn put_info_header(out: &mut impl BufMut, code: u32, kind: u16, payload_bytes: usize) {
    put_reply_header(out, code, OptionReply::Info, payload_bytes.saturating_add(2));
    out.put_u16(kind);
}

pub(super) fn put_reply_header(out: &mut impl BufMut, code: u32, reply: OptionReply, data_bytes: usize) {
    out.put_u64(OPTION_REPLY_MAGIC);
    out.put_u32(code);
    out.put_u32(reply as u32);
    out.put_u32(wire_length(data_bytes));
}

/// Callers pass names and sentences of a few kilobytes at most.
fn wire_length(bytes: usize) -> u32 {
    u32::try_from(bytes).expect("names and texts are far below 4 GiB")
}
