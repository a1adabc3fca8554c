//! Refusals that need nothing but what they are about.

use crate::sink::SinkError;
use farside_protocol::journal::ChainPoint;
use farside_protocol::journal::limits::MAX_REACHED;
use farside_protocol::link::{LinkError, Refusal, RefuseCode};

/// How a damaged or malformed frame is refused.
#[must_use]
pub fn refuse_frame(error: &LinkError, after_sequence: u64) -> Refusal {
    let code = match error {
        // A version was agreed on, so another one in a frame is damage like any other.
        LinkError::Checksum | LinkError::Payload | LinkError::Version(_) => RefuseCode::Damaged,
        _ => RefuseCode::Protocol,
    };
    let text = format!(
        "frame after chunk {after_sequence}: {error}; nothing of it was applied, the sender should reconnect"
    );
    Refusal::new(code, after_sequence, &text)
}

/// How a failure of the replica's storage is refused.
#[must_use]
pub fn refuse_sink(error: &SinkError) -> Refusal {
    let code = match error {
        SinkError::Degraded(_) => RefuseCode::Degraded,
        SinkError::ShuttingDown => RefuseCode::ShuttingDown,
    };
    Refusal::new(code, 0, &error.to_string())
}

/// A point that no journal can have reached would make that of the replica one that cannot be opened.
pub(super) fn check_reach(point: &ChainPoint) -> Result<(), Refusal> {
    let most = point.sequence.max(point.record).max(point.epoch);
    if point.sequence <= point.record && most <= MAX_REACHED {
        return Ok(());
    }
    let text = "the sender names a position that no journal can have; check that both run the same version";
    Err(Refusal::new(RefuseCode::Protocol, point.sequence, text))
}

pub(super) fn unfinished(sequence: u64) -> Refusal {
    let text = "something else came before the end of a merged batch; nothing of that was applied, reconnect";
    Refusal::new(RefuseCode::Protocol, sequence, text)
}

pub(super) fn gap(sequence: u64, what: &str) -> Refusal {
    let text = format!("chunk {sequence} {what}; nothing of it was applied, the sender should reconnect");
    Refusal::new(RefuseCode::Gap, sequence, &text)
}

/// What lies in the journal is not what was sent.
pub(super) fn damaged(after_sequence: u64) -> Refusal {
    let text = format!(
        "what was journaled after chunk {after_sequence} cannot be read back as it was written: look at the disk of the replica's \
         journal; nothing of it was applied, the sender should send it again"
    );
    Refusal::new(RefuseCode::Damaged, after_sequence, &text)
}

/// The sender confirmed what it was not told.
pub(super) fn unknown(point: &ChainPoint) -> Refusal {
    let text = "a point was confirmed that was not told, or was told before; reconnect";
    Refusal::new(RefuseCode::Protocol, point.sequence, text)
}
