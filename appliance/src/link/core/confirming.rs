//! Confirmed mode: whether the remote holds what was sent, and how much may wait for that.

use super::super::error::CloseReason;
use super::super::events::{ChunkDigest, Outgoing, SessionLimits};
use super::super::source::ChunkSpan;
use super::SessionCore;
use super::reasons::protocol;
use farside_protocol::journal::{ChainPoint, stored_bytes};
use farside_protocol::link::limits::FEATURE_CONFIRM;
use farside_protocol::link::{Confirm, Held, Message, Refusal, RefuseCode, Signature, Welcome, same_place};

/// A chunk that was sent and does not count at the remote yet.
#[derive(Debug)]
pub(super) struct Unacked {
    pub(super) point: ChainPoint,
    pub(super) wire_bytes: u64,
    /// What it takes in the journal of the remote, while that has yet to be confirmed.
    stored_bytes: u64,
    /// Of all chunks of the connection up to this one.
    signature: Signature,
}

/// What the remote has yet to be told is right.
#[derive(Debug, Default)]
pub(super) struct Confirming {
    /// How much may wait for that; nothing is confirmed without it.
    limit: Option<u64>,
    segment_bytes: u64,
    signature: Signature,
    waiting_bytes: u64,
}

impl Confirming {
    /// What sender and remote agreed on. A sender that is to confirm does not do without.
    pub(super) fn agreed(limits: &SessionLimits, welcome: &Welcome) -> Result<Self, CloseReason> {
        if !limits.confirm {
            return Ok(Self::default());
        }
        let (segment_bytes, log2) = (u64::from(limits.segment_bytes), welcome.unconfirmed_log2);
        let limit = 1_u64.checked_shl(log2.into()).unwrap_or(0);
        if welcome.features & FEATURE_CONFIRM == 0 || limit < segment_bytes {
            return Err(CloseReason::CannotConfirm);
        }
        Ok(Self {
            limit: Some(limit),
            segment_bytes,
            ..Self::default()
        })
    }

    pub(super) fn sent(
        &mut self,
        span: &ChunkSpan,
        wire_bytes: u64,
        digest: Option<&ChunkDigest>,
    ) -> Unacked {
        if let Some(digest) = digest {
            self.signature.take(digest);
        }
        let stored_bytes = stored_bytes(u32::try_from(span.data.len()).unwrap_or(u32::MAX));
        self.waiting_bytes = self.waiting_bytes.saturating_add(stored_bytes);
        Unacked {
            point: span.after,
            wire_bytes,
            stored_bytes,
            signature: self.signature,
        }
    }

    pub(super) fn counted(&mut self, chunk: &Unacked) {
        self.waiting_bytes = self.waiting_bytes.saturating_sub(chunk.stored_bytes);
    }

    /// Bytes of chunks that may be sent now: no fewer than the largest chunk takes, or none.
    pub(super) fn room(&self) -> u64 {
        let Some(limit) = self.limit else {
            return u64::MAX;
        };
        let room = limit.saturating_sub(self.waiting_bytes);
        if room < self.segment_bytes { 0 } else { room }
    }

    /// Whether a question about everything that was sent can be answered while so many chunks do not count yet.
    pub(super) fn may_ask(&self, unacked: usize) -> bool {
        self.limit.is_none() || unacked == 0
    }
}

impl SessionCore {
    /// The remote tells what it holds.
    pub(super) fn held(&mut self, held: &Held) -> Result<(), CloseReason> {
        if self.confirming.limit.is_none() {
            return Err(protocol("the remote tells what it holds and was not asked to"));
        }
        let mut chunks = self.unacked.iter();
        let Some(chunk) = chunks.find(|chunk| same_place(&chunk.point, &held.point)) else {
            return Err(protocol(
                "the remote holds chunks that were not sent, or count already",
            ));
        };
        if chunk.signature != held.signature {
            let text = format!(
                "the journal of the remote does not hold what was sent up to chunk {}: look at its disk and memory; nothing of it was \
                 applied, it is sent again",
                held.point.sequence
            );
            let refusal = Refusal::new(RefuseCode::Damaged, held.point.sequence, &text);
            return Err(CloseReason::Rejected(refusal));
        }
        let confirm = Message::Confirm(Confirm { point: held.point });
        self.outbox.push_back(Outgoing::Message(confirm));
        Ok(())
    }
}
