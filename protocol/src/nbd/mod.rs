//! The NBD protocol as a server speaks it: what a client may send is decoded, what a server may answer is encoded.
//!
//! Rules come from the NBD protocol document (`doc/proto.md` of the NetworkBlockDevice project); the comments
//! name its sections. Guarantees: decoders look only at the bytes they are given, never panic, and give values
//! that are valid by construction. Never here: what a server decides (bounds of a disk, limits, which export).

mod constants;
mod error;
mod negotiation;
mod meta_context;
mod request;
mod reply;

pub use constants::{
    CommandFlags, EXTENDED_REPLY_MAGIC, EXTENDED_REQUEST_HEADER_BYTES, EXTENDED_REQUEST_MAGIC,
    HandshakeFlags, INIT_MAGIC, MAX_STRING_BYTES, OPTION_HEADER_BYTES, OPTION_MAGIC, OPTION_REPLY_MAGIC,
    REQUEST_HEADER_BYTES, REQUEST_MAGIC, SIMPLE_REPLY_BYTES, SIMPLE_REPLY_MAGIC, STRUCTURED_REPLY_MAGIC,
    TransmissionFlags, option_code,
};
pub use error::{Errno, ProtocolError};
pub use meta_context::{BASE_ALLOCATION, MetaContextRequest, put_meta_context};
pub use negotiation::{
    BlockSizes, CLIENT_FLAGS_BYTES, ClientFlags, ClientOption, InfoRequest, MalformedOption, OptionHeader,
    OptionReply, put_export_name_reply, put_greeting, put_info_block_size, put_info_description,
    put_info_export, put_info_name, put_option_reply, put_server,
};
pub use reply::{
    BlockStatus, MessageStyle, ReplyTo, block_status_bytes, chunk_bytes, put_block_status, put_data_header,
    put_done, put_failure, put_hole, put_read_header, read_header_bytes,
};
pub use request::{Command, Request};

#[cfg(test)]
mod tests;
