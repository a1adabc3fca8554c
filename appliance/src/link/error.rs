//! Why a session of the sender ended.

use super::source::SourceError;
use farside_protocol::link::{LinkError, Refusal, RefuseCode};

/// What happened to a remote that fell out of the journal, and what to do.
pub(super) const OVERFLOWED: &str = "the journal no longer holds what the remote needs next: it is too small for this \
                                     write rate and link; make a larger one or lower the load";

/// Why. The texts are what the status shows.
#[derive(Debug, thiserror::Error)]
pub enum CloseReason {
    /// Nothing was heard for too long.
    #[error("no sign of life from the remote; dialling again")]
    Silence,
    /// The remote closed the connection.
    #[error("closed by the remote; dialling again")]
    Closed,
    /// The socket failed.
    #[error("connection lost: {0}")]
    Socket(#[source] std::io::Error),
    /// What arrived is no frame, or damaged.
    #[error("from the remote: {0}")]
    Frame(#[source] LinkError),
    /// The remote said something that does not fit.
    #[error("{0}")]
    Protocol(String),
    /// The remote refused.
    #[error("refused by the remote: {0}")]
    Refused(#[source] Refusal),
    /// The histories differ; nothing is overwritten.
    #[error("{0}")]
    Diverged(Refusal),
    /// What the remote holds is not what was sent.
    #[error("{0}")]
    Rejected(Refusal),
    /// What the remote holds cannot be compared with what is sent, and that is wanted.
    #[error(
        "the remote cannot confirm what it holds, and 'confirm' is set for it: give it a journal of at least 16 of this volume's \
         segments and this release, or take 'confirm' away"
    )]
    CannotConfirm,
    /// The journal of a replica has a merged batch that the remote does not take.
    #[error(
        "a merged batch of {bytes} bytes comes next, and the remote takes {limit} at most, an eighth of its journal or of its history: let it \
         make its replica anew with larger ones (link.journal_size, link.history_size), or take 'merge' away where the volume is"
    )]
    LongBatch {
        /// What it takes in a journal, with what is trimmed and zeroed.
        bytes: u64,
        /// The most that the remote takes.
        limit: u64,
    },
    /// What is sent is no state of the volume for now.
    #[error("{0}")]
    NotSentOn(String),
    /// The journal overflowed while the remote was behind.
    #[error("{OVERFLOWED}; the remote gets a resync")]
    CutLoose,
    /// Reading the volume failed.
    #[error("reading the volume: {0}")]
    Source(#[source] SourceError),
    /// The unit at the other end is not paired with this one any more.
    #[error("the pairing with the remote was revoked here")]
    Revoked,
    /// The unit at the other end was paired while the link was not encrypted.
    #[error("connecting anew, encrypted")]
    Paired,
    /// This unit has another certificate to show.
    #[error("connecting anew, to show another certificate")]
    Renewed,
    /// The sender is being stopped.
    #[error("stopped")]
    Stopped,
}

impl CloseReason {
    /// Whether what arrived at the remote, or what it holds, was refused as damaged: it is sent again.
    #[must_use]
    pub fn is_damage(&self) -> bool {
        match self {
            Self::Rejected(_) => true,
            Self::Refused(refusal) => refusal.code == RefuseCode::Damaged,
            _ => false,
        }
    }

    /// Whether dialling again soon is of no use until somebody does something.
    #[must_use]
    pub fn is_lasting(&self) -> bool {
        match self {
            Self::Diverged(_) | Self::CannotConfirm | Self::LongBatch { .. } => true,
            Self::Refused(refusal) => !refusal.code.is_passing(),
            _ => false,
        }
    }
}
