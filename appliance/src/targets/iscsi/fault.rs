//! Why a connection ends without anybody wanting it to.

use farside_protocol::iscsi::MalformedText;
use std::io;

/// Reasons, for the log.
#[derive(Debug, thiserror::Error)]
pub(super) enum Fault {
    /// The stream failed.
    #[error("connection lost: {0}")]
    Lost(#[from] io::Error),
    /// The client left in the middle of its login.
    #[error("the initiator left")]
    Left,
    /// The login was refused, and the initiator told so.
    #[error("login refused: {0}")]
    Refused(String),
    /// A message is longer than was agreed.
    #[error("a message with {0} bytes of data, which is more than was agreed")]
    SegmentTooLong(usize),
    /// A header is damaged.
    #[error("a header does not have its digest")]
    HeaderDigest,
    /// What was sent makes no sense.
    #[error("protocol error: {0}")]
    Protocol(&'static str),
    /// Text that is no text.
    #[error("protocol error: {0}")]
    Text(#[from] MalformedText),
    /// It does not answer.
    #[error("the initiator does not answer")]
    Silent,
    /// A task panicked: its initiator has to start again.
    #[error("a command was lost by a defect")]
    TaskLost,
}
