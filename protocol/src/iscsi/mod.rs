//! The iSCSI protocol as a target speaks it: what an initiator may send is decoded, what a target may answer is encoded.
//!
//! Rules come from RFC 7143; the comments name its sections. Guarantees: decoders look only at the bytes they are given, never
//! panic, and take no memory. Never here: sessions, sequence numbers, what a key is negotiated to, SCSI.

mod request;
mod response;
mod text;
#[cfg(test)]
mod tests;

pub use request::{
    Command, DataOut, Header, Login, LogoutReason, Request, RequestKind, Stage, TaskFunction, TaskManagement,
    Text,
};
pub use response::{
    AsyncEvent, LoginStatus, LogoutResponse, RejectReason, Residual, Response, Serial, TaskResponse,
    async_message, data_in, login_response, logout_response, nop_in, ready_to_transfer, reject,
    scsi_response, task_response, text_response,
};
pub use text::{MalformedText, Pairs, put_pair};

/// Size in bytes of a basic header segment (section 11.2.1).
pub const HEADER_BYTES: usize = 48;
/// Size in bytes of a digest (section 11.2.3).
pub const DIGEST_BYTES: usize = 4;
/// The tag that stands for none (section 11.2.1.8).
pub const NO_TAG: u32 = u32::MAX;
/// The port of targets (section 4.2.7).
pub const PORT: u16 = 3260;

/// A basic header segment, in words of four bytes.
pub(crate) type Words = [[u8; 4]; HEADER_BYTES / 4];

/// Bytes that follow data of this length so that it ends on a word (section 11.1).
#[must_use]
pub const fn padding(data_bytes: usize) -> usize {
    data_bytes.wrapping_neg() & 3
}
