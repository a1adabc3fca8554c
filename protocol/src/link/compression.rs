//! How what a sender says after the handshake is compressed: agreed by feature bits, as one stream, so that what repeats from
//! one frame to the next is sent once.

use super::limits::{FEATURE_LZ4, FEATURE_ZSTD};

/// The algorithm of one direction of a link.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Compression {
    /// Frames as they are.
    #[default]
    None,
    /// LZ4 frames (the LZ4 frame format 1.6): little processor time.
    Lz4,
    /// Zstandard (RFC 8878): fewer bytes.
    Zstd,
}

impl Compression {
    /// The bit that is offered in `Hello` for it.
    #[must_use]
    pub fn feature(self) -> u64 {
        match self {
            Self::None => 0,
            Self::Lz4 => FEATURE_LZ4,
            Self::Zstd => FEATURE_ZSTD,
        }
    }

    /// What a receiver answers to an offer: one algorithm at most.
    #[must_use]
    pub fn choose(offered: u64) -> Self {
        match (offered & FEATURE_ZSTD != 0, offered & FEATURE_LZ4 != 0) {
            (true, _) => Self::Zstd,
            (false, true) => Self::Lz4,
            (false, false) => Self::None,
        }
    }

    /// Its name in configuration and status.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Lz4 => "lz4",
            Self::Zstd => "zstd",
        }
    }

    /// The one of this name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        [Self::None, Self::Lz4, Self::Zstd]
            .into_iter()
            .find(|compression| compression.name() == name)
    }
}
