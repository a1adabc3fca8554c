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
    /// The last chunk that was confirmed.
    confirmed: u64,
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

    /// The remote says that it counts.
    pub(super) fn counted(&mut self, chunk: &Unacked) -> Result<(), CloseReason> {
        if self.limit.is_some() && chunk.point.sequence > self.confirmed {
            return Err(protocol("the remote acknowledged chunks that were not confirmed"));
        }
        self.waiting_bytes = self.waiting_bytes.saturating_sub(chunk.stored_bytes);
        Ok(())
    }

    /// Bytes of chunks that may ever wait.
    pub(super) fn limit(&self) -> u64 {
        self.limit.unwrap_or(u64::MAX)
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
        if held.point.sequence <= self.confirming.confirmed {
            return Err(protocol("the remote tells once more what it holds"));
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
        self.confirming.confirmed = held.point.sequence;
        let confirm = Message::Confirm(Confirm { point: held.point });
        self.outbox.push_back(Outgoing::Message(confirm));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::link::events::{Input, Stage};
    use crate::link::source::Points;
    use farside_protocol::journal::CopyState;
    use farside_protocol::link::{Ack, Compression};

    /// A session that has sent one chunk, and is sending it still.
    fn session() -> (SessionCore, ChainPoint) {
        let limits = SessionLimits {
            window_bytes: 64 << 20,
            bytes_per_second: None,
            compression: Compression::None,
            merge: false,
            confirm: true,
            segment_bytes: 1 << 20,
            volume_bytes: 1 << 26,
            epoch: 1,
        };
        let point = ChainPoint {
            sequence: 1,
            record: 1,
            ..ChainPoint::default()
        };
        let points = Points {
            tail: ChainPoint::default(),
            image: point,
            durable: point,
            journaled: point,
        };
        let mut core = SessionCore::new(limits, points, 0);
        (core.stage, core.sent, core.writing) = (Stage::Streaming, point, true);
        core.confirming.limit = Some(4 << 20);
        core.unacked.push_back(Unacked {
            point,
            wire_bytes: 4096,
            stored_bytes: 8192,
            signature: Signature::default(),
        });
        (core, point)
    }

    #[test]
    fn a_remote_that_tells_one_point_again_and_again_fills_no_memory() {
        let (mut core, point) = session();
        let signature = Signature::default();
        for _ in 0..100 {
            core.apply(0, Input::Held(Held { point, signature }));
        }
        assert!(
            core.outbox.len() <= 1,
            "{} messages wait to be sent",
            core.outbox.len()
        );
        assert_eq!(core.stage, Stage::Closed);
    }

    #[test]
    fn what_was_not_confirmed_is_not_taken_for_acknowledged() {
        for confirmed in [false, true] {
            let (mut core, point) = session();
            if confirmed {
                let signature = Signature::default();
                core.apply(0, Input::Held(Held { point, signature }));
            }
            let ack = Ack {
                received: point,
                applied: 1,
                copy_offset: 0,
                copy: CopyState::Complete,
                begun: false,
            };
            core.apply(0, Input::Ack(ack));
            assert_eq!(core.acked.record, u64::from(confirmed));
            assert_eq!(core.stage == Stage::Closed, !confirmed);
        }
    }
}
