//! Why bytes on a link are not a frame of this protocol.

use crate::fields::Truncated;
use crate::journal::FormatError;

/// What is wrong with a frame. All of them end the connection; the stream cannot be trusted after one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum LinkError {
    /// The first bytes are not a frame's.
    #[error("not a Farside link frame; is something else using this port?")]
    Magic,
    /// A kind this version does not have.
    #[error("unknown frame kind {0}")]
    Kind(u8),
    /// A frame of another version than agreed.
    #[error("frame version {0} was not agreed; use the same farside release on both units")]
    Version(u8),
    /// A head or body length outside what the kind allows.
    #[error("frame kind {kind} cannot have {bytes} bytes of {part}")]
    Length {
        /// Kind code of the frame.
        kind: u8,
        /// `head` or `body`.
        part: &'static str,
        /// Announced length.
        bytes: u32,
    },
    /// Header or head do not fit their checksum.
    #[error("frame checksum mismatch (damaged on the way)")]
    Checksum,
    /// The body does not fit the checksums in the head.
    #[error("payload checksum mismatch (damaged on the way)")]
    Payload,
    /// A field has a value it cannot have.
    #[error("inconsistent field: {0}")]
    Field(&'static str),
    /// The head of a chunk is no *what* part.
    #[error("chunk: {0}")]
    Chunk(#[from] FormatError),
}

impl From<Truncated> for LinkError {
    fn from(_: Truncated) -> Self {
        Self::Field("length of the head")
    }
}
