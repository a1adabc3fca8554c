//! Why bytes are not a chunk or superblock of ours.

use crate::fields::{Reader, Truncated};

/// What is wrong with a meta-data block or superblock.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FormatError {
    /// Fewer bytes than the format needs.
    #[error("the data ends too early")]
    Truncated,
    /// The first bytes are not this format's.
    #[error("not written by Farside (wrong magic bytes)")]
    Magic,
    /// Written by a version this one cannot read.
    #[error("format version {0}, this program reads up to {1}; use a newer farside")]
    Version(u16, u16),
    /// The stored checksum does not fit the bytes.
    #[error("checksum mismatch (torn or damaged)")]
    Checksum,
    /// A field contradicts another or the limits.
    #[error("inconsistent field: {0}")]
    Field(&'static str),
}

impl From<Truncated> for FormatError {
    fn from(_: Truncated) -> Self {
        Self::Truncated
    }
}

/// Takes `count` reserved bytes, which every writer of version 1 leaves zero.
pub(super) fn take_zeroes(from: &mut Reader<'_>, count: usize) -> Result<(), FormatError> {
    if from.bytes(count)?.iter().all(|byte| *byte == 0) {
        Ok(())
    } else {
        Err(FormatError::Field("reserved bytes"))
    }
}
