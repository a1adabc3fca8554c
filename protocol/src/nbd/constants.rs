//! Numbers of the NBD protocol: magics, sizes of fixed messages, flag bits, option codes.
//!
//! Each comes from the section "Values" or "Protocol phases" of the NBD protocol document.

/// First eight bytes a server sends, `NBDMAGIC` ("Newstyle negotiation").
pub const INIT_MAGIC: u64 = 0x4e42_444d_4147_4943;
/// `IHAVEOPT`: in the greeting and before every option ("Newstyle negotiation").
pub const OPTION_MAGIC: u64 = 0x4948_4156_454f_5054;
/// Before every reply to an option ("Fixed newstyle negotiation").
pub const OPTION_REPLY_MAGIC: u64 = 0x0003_e889_0455_65a9;
/// Before every request ("Request message").
pub const REQUEST_MAGIC: u32 = 0x2560_9513;
/// Before every request once extended headers are negotiated ("Request message", extension `EXTENDED_HEADERS`).
pub const EXTENDED_REQUEST_MAGIC: u32 = 0x21e4_1c71;
/// Before every simple reply ("Simple reply message").
pub const SIMPLE_REPLY_MAGIC: u32 = 0x6744_6698;
/// Before every chunk of a structured reply ("Structured reply chunk message").
pub const STRUCTURED_REPLY_MAGIC: u32 = 0x668e_33ef;
/// Before every chunk of an extended reply ("Extended reply chunk message").
pub const EXTENDED_REPLY_MAGIC: u32 = 0x6e8a_278c;

/// Size in bytes of an option without its data.
pub const OPTION_HEADER_BYTES: usize = 16;
/// Size in bytes of a request without its payload.
pub const REQUEST_HEADER_BYTES: usize = 28;
/// Size in bytes of an extended request without its payload.
pub const EXTENDED_REQUEST_HEADER_BYTES: usize = 32;
/// Size in bytes of a simple reply without its payload.
pub const SIMPLE_REPLY_BYTES: usize = 16;
/// Longest string the protocol allows, in bytes ("Conventions").
pub const MAX_STRING_BYTES: usize = 4096;
/// Zero bytes after the answer to `NBD_OPT_EXPORT_NAME` unless both sides agreed to leave them out.
pub(super) const EXPORT_NAME_PADDING_BYTES: usize = 124;

/// Handshake flags, section "Handshake flags"; the client's flags have the same bits.
#[derive(Debug)]
pub struct HandshakeFlags;

impl HandshakeFlags {
    /// `NBD_FLAG_FIXED_NEWSTYLE`.
    pub const FIXED_NEWSTYLE: u16 = 1 << 0;
    /// `NBD_FLAG_NO_ZEROES`.
    pub const NO_ZEROES: u16 = 1 << 1;
}

/// What an export can do, section "Transmission flags".
#[derive(Debug)]
pub struct TransmissionFlags;

impl TransmissionFlags {
    /// Always set.
    pub const HAS_FLAGS: u16 = 1 << 0;
    /// The export refuses changes.
    pub const READ_ONLY: u16 = 1 << 1;
    /// Flush is understood.
    pub const SEND_FLUSH: u16 = 1 << 2;
    /// Forced unit access is understood.
    pub const SEND_FUA: u16 = 1 << 3;
    /// Trim is understood.
    pub const SEND_TRIM: u16 = 1 << 5;
    /// Write zeroes is understood.
    pub const SEND_WRITE_ZEROES: u16 = 1 << 6;
    /// Unfragmented structured reads are understood; only with structured replies.
    pub const SEND_DF: u16 = 1 << 7;
    /// A flush on one connection covers what was completed on all.
    pub const CAN_MULTI_CONN: u16 = 1 << 8;
    /// The cache command is understood.
    pub const SEND_CACHE: u16 = 1 << 10;
    /// Write zeroes is refused rather than slow, if asked for so.
    pub const SEND_FAST_ZERO: u16 = 1 << 11;
    /// A query of the block status may name the contexts it is about; only with extended headers.
    pub const BLOCK_STATUS_PAYLOAD: u16 = 1 << 12;
}

/// Flags of a request, section "Command flags".
#[derive(Debug)]
pub struct CommandFlags;

impl CommandFlags {
    /// Answer only when the data is on stable storage.
    pub const FUA: u16 = 1 << 0;
    /// Write zeroes without giving space back.
    pub const NO_HOLE: u16 = 1 << 1;
    /// At most one content chunk in the reply.
    pub const DF: u16 = 1 << 2;
    /// One extent only, no longer than the request.
    pub const REQ_ONE: u16 = 1 << 3;
    /// Write zeroes only if that is faster than writing them.
    pub const FAST_ZERO: u16 = 1 << 4;
    /// The length is that of a payload; only with extended headers.
    pub const PAYLOAD_LEN: u16 = 1 << 5;
}

/// Codes of the options, section "Option types".
pub mod option_code {
    /// `NBD_OPT_EXPORT_NAME`.
    pub const EXPORT_NAME: u32 = 1;
    /// `NBD_OPT_ABORT`.
    pub const ABORT: u32 = 2;
    /// `NBD_OPT_LIST`.
    pub const LIST: u32 = 3;
    /// `NBD_OPT_STARTTLS`.
    pub const STARTTLS: u32 = 5;
    /// `NBD_OPT_INFO`.
    pub const INFO: u32 = 6;
    /// `NBD_OPT_GO`.
    pub const GO: u32 = 7;
    /// `NBD_OPT_STRUCTURED_REPLY`.
    pub const STRUCTURED_REPLY: u32 = 8;
    /// `NBD_OPT_LIST_META_CONTEXT`.
    pub const LIST_META_CONTEXT: u32 = 9;
    /// `NBD_OPT_SET_META_CONTEXT`.
    pub const SET_META_CONTEXT: u32 = 10;
    /// `NBD_OPT_EXTENDED_HEADERS`.
    pub const EXTENDED_HEADERS: u32 = 11;
}
