//! `Refuse`: why a connection ends, in a code for programs and a sentence for people that says what to do.
//!
//! | offset | size | field |
//! | --- | --- | --- |
//! | 0 | 2 | code |
//! | 2 | 2 | bytes of text |
//! | 4 | 4 | zero |
//! | 8 | 8 | the sequence or record it is about, or 0 |
//! | 16 | n | text, UTF-8, at most 512 bytes |

use super::error::LinkError;
use super::limits::{MAX_REFUSE_TEXT_BYTES, REFUSE_FIXED_BYTES};
use super::shared::take_zeroes;
use crate::fields::{Reader, Writer};

/// Why. Later versions may add codes, so an unknown one is kept as it came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RefuseCode {
    /// No version of the stream is spoken by both.
    UnsupportedVersion,
    /// The replica of this name belongs to another volume or unit.
    ForeignVolume,
    /// The replica has another size.
    SizeDiffers,
    /// Another unit is sending to this replica.
    SecondSender,
    /// Chunks could be larger than the receiver's segments.
    SegmentTooLarge,
    /// The receiver's configuration does not accept this sender or volume.
    NotAccepted,
    /// Receiver and sender have different histories.
    Diverged,
    /// A frame or chunk arrived damaged.
    Damaged,
    /// A chunk or copied range does not continue what was received.
    Gap,
    /// The receiver's storage failed.
    Degraded,
    /// The unit is shutting down.
    ShuttingDown,
    /// Too many connections.
    Busy,
    /// A message that does not belong here.
    Protocol,
    /// Something else went wrong.
    Internal,
    /// A code of a later version.
    Unknown(u16),
}

const CODES: [(RefuseCode, u16); 14] = [
    (RefuseCode::UnsupportedVersion, 1),
    (RefuseCode::ForeignVolume, 2),
    (RefuseCode::SizeDiffers, 3),
    (RefuseCode::SecondSender, 4),
    (RefuseCode::SegmentTooLarge, 5),
    (RefuseCode::NotAccepted, 6),
    (RefuseCode::Diverged, 7),
    (RefuseCode::Damaged, 8),
    (RefuseCode::Gap, 9),
    (RefuseCode::Degraded, 10),
    (RefuseCode::ShuttingDown, 11),
    (RefuseCode::Busy, 12),
    (RefuseCode::Protocol, 13),
    (RefuseCode::Internal, 14),
];

impl RefuseCode {
    /// The code on the wire.
    #[must_use]
    pub fn code(self) -> u16 {
        if let Self::Unknown(code) = self {
            return code;
        }
        CODES
            .iter()
            .find(|(known, _)| *known == self)
            .map_or(0, |(_, code)| *code)
    }

    /// The meaning of a code from the wire.
    #[must_use]
    pub fn from_code(code: u16) -> Self {
        CODES
            .iter()
            .find(|(_, known)| *known == code)
            .map_or(Self::Unknown(code), |(known, _)| *known)
    }

    /// Whether a new connection may well succeed without anybody doing something.
    #[must_use]
    pub fn is_passing(self) -> bool {
        matches!(
            self,
            Self::Damaged | Self::Gap | Self::ShuttingDown | Self::Busy | Self::Protocol
        )
    }
}

/// A refusal: code, what it is about, and a sentence that says what to do.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text}")]
pub struct Refusal {
    /// Why.
    pub code: RefuseCode,
    /// The sequence or record it is about, or 0.
    pub about: u64,
    text: String,
}

impl Refusal {
    /// A refusal; control characters in `text` are replaced and what is too long is cut.
    #[must_use]
    pub fn new(code: RefuseCode, about: u64, text: &str) -> Self {
        let mut text: String = text
            .chars()
            .map(|letter| if letter.is_control() { '?' } else { letter })
            .collect();
        while text.len() > MAX_REFUSE_TEXT_BYTES {
            text.pop();
        }
        Self { code, about, text }
    }

    /// The sentence, without control characters.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.text
    }

    pub(super) fn encode(&self) -> Vec<u8> {
        let text = self.text.as_bytes();
        let mut head = vec![0; REFUSE_FIXED_BYTES.saturating_add(text.len())];
        let mut to = Writer::new(&mut head);
        to.u16(self.code.code())
            .u16(u16::try_from(text.len()).unwrap_or(0))
            .u32(0);
        to.u64(self.about).bytes(text);
        head
    }

    pub(super) fn decode(head: &[u8]) -> Result<Self, LinkError> {
        let mut from = Reader::new(head);
        let (code, length) = (RefuseCode::from_code(from.u16()?), usize::from(from.u16()?));
        take_zeroes(&mut from, 4)?;
        let about = from.u64()?;
        let text = from.rest();
        if text.len() != length || length > MAX_REFUSE_TEXT_BYTES {
            return Err(LinkError::Field("text"));
        }
        let text = std::str::from_utf8(text).map_err(|_| LinkError::Field("text"))?;
        Ok(Self::new(code, about, text))
    }
}
