//! Comparing one range after the other with the replica, while records flow.
//!
//! A range is read between two points of the journal. The question goes out just when everything up to the second is
//! sent, if no record after the first changed the range: then what was read is what the range is at the second point,
//! and the replica has to hold the same there. Never here: which ranges, sockets, clocks.

use super::events::Verdict;
use super::limits::VERIFY_PATIENCE_MS;
use super::source::{ComparedPiece, Digests};
use farside_protocol::journal::ChainPoint;
use farside_protocol::link::{Verified, Verify};
use std::ops::Range;

/// The range in hand.
#[derive(Debug, Clone, Default)]
pub(super) enum Verifying {
    /// None.
    #[default]
    Idle,
    /// To be read when nothing else is to be done, or after a while.
    Wanted { piece: ComparedPiece, since_ms: u64 },
    /// Being read.
    Reading { piece: ComparedPiece },
    /// Until what was journaled when it was read is sent.
    Read {
        piece: ComparedPiece,
        found: Box<Digests>,
        changed: bool,
    },
    /// Until the remote answers.
    Asked(Verify),
}

impl Verifying {
    pub(super) fn want(&mut self, piece: ComparedPiece, now_ms: u64) {
        *self = Self::Wanted {
            piece,
            since_ms: now_ms,
        };
    }

    pub(super) fn is_idle(&self) -> bool {
        matches!(self, Self::Idle)
    }

    /// The range to be read now. Records come first, but not for ever.
    pub(super) fn begin(&mut self, now_ms: u64, others_wait: bool) -> Option<ComparedPiece> {
        let Self::Wanted { piece, since_ms } = *self else {
            return None;
        };
        if others_wait && now_ms.saturating_sub(since_ms) < VERIFY_PATIENCE_MS {
            return None;
        }
        *self = Self::Reading { piece };
        Some(piece)
    }

    /// False: the range could not be read now.
    pub(super) fn read(&mut self, found: Option<Digests>) -> bool {
        let Self::Reading { piece } = *self else {
            return true;
        };
        let could = found.is_some();
        *self = found.map_or(Self::Idle, |found| Self::Read {
            piece,
            found: Box::new(found),
            changed: false,
        });
        could
    }

    /// What records that are sent now must not change.
    pub(super) fn watched(&self) -> Option<Range<u64>> {
        match self {
            Self::Read { piece, .. } => Some(piece.range()),
            _ => None,
        }
    }

    /// Chunks are sent up to here at most before the question is asked.
    pub(super) fn limit(&self) -> Option<ChainPoint> {
        match self {
            Self::Read { found, .. } => Some(found.until),
            _ => None,
        }
    }

    /// A chunk goes out that holds nothing of a later record than this; whether it changes what is watched.
    pub(super) fn sending(&mut self, reaches: u64, touches: bool) {
        if let Self::Read { found, changed, .. } = self
            && reaches > found.after
        {
            *changed |= touches;
        }
    }

    /// The question, or that there is none to ask, once everything up to `sent` is on its way.
    pub(super) fn ask(&mut self, sent: u64) -> Option<Result<(Verify, Vec<u8>), Verdict>> {
        let is_sent = matches!(self, Self::Read { found, .. } if sent >= found.until.record);
        if !is_sent {
            return None;
        }
        let Self::Read {
            piece,
            found,
            changed,
        } = std::mem::take(self)
        else {
            return None;
        };
        if changed {
            return Some(Err(Verdict::Changed));
        }
        let question = Verify::new(sent, (piece.offset, piece.length), &found.digests);
        *self = Self::Asked(question);
        Some(Ok((question, found.digests)))
    }

    /// The verdict, if the answer is one to the question asked.
    pub(super) fn answered(&mut self, answer: &Verified) -> Option<Verdict> {
        let Self::Asked(question) = self else {
            return None;
        };
        let same = (question.record, question.offset, question.length)
            == (answer.record, answer.offset, answer.length);
        if !same {
            return None;
        }
        *self = Self::Idle;
        Some(Verdict::Compared {
            record: answer.record,
            differing: answer.differing(),
        })
    }
}
