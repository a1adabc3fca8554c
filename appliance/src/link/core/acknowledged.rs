//! What an acknowledgement says, and whether it can be true.

use super::super::error::CloseReason;
use super::super::events::{Effect, Stage};
use super::SessionCore;
use super::reasons::protocol;
use farside_protocol::journal::{ChainPoint, ConsumerState, CopyState};
use farside_protocol::link::{Ack, same_place};

impl SessionCore {
    pub(super) fn acknowledged(&mut self, ack: &Ack, effects: &mut Vec<Effect>) -> Result<(), CloseReason> {
        if matches!(self.stage, Stage::Greeting) {
            return Err(protocol("an acknowledgement before Welcome"));
        }
        let stale = self.stage == Stage::Preparing || ack.begun != self.expect_begun;
        if stale {
            return Ok(());
        }
        self.progress.last_ack_ms = Some(self.now_ms);
        let before = self.acked;
        self.acknowledged_chunks(&ack.received)?;
        self.progress.applied = ack.applied;
        let copied_before = self.copying.as_ref().map(|copying| copying.acked_offset);
        let state_changed = self.acknowledged_copy(ack)?;
        let copied = self.copying.as_ref().map(|copying| copying.acked_offset);
        self.progress.advanced |= copied != copied_before || before != self.acked;
        if state_changed || before != self.acked {
            let state = match self.stage {
                Stage::Copying => ConsumerState::Copying,
                _ => ConsumerState::Attached,
            };
            effects.push(Effect::SetConsumer(state, self.acked));
        }
        Ok(())
    }

    fn acknowledged_chunks(&mut self, received: &ChainPoint) -> Result<(), CloseReason> {
        while self.acked.sequence < received.sequence {
            let Some(chunk) = self.unacked.pop_front() else {
                return Err(protocol("the remote acknowledged chunks that were not sent"));
            };
            self.in_flight_bytes = self.in_flight_bytes.saturating_sub(chunk.wire_bytes);
            self.confirming.counted(&chunk)?;
            self.acked = chunk.point;
        }
        if same_place(&self.acked, received) {
            Ok(())
        } else {
            Err(protocol("the remote acknowledged other chunks than were sent"))
        }
    }

    /// True when the replica became complete.
    fn acknowledged_copy(&mut self, ack: &Ack) -> Result<bool, CloseReason> {
        let Some(copying) = self.copying.as_mut() else {
            return if ack.copy == CopyState::Complete {
                Ok(false)
            } else {
                Err(protocol("the replica is no longer complete"))
            };
        };
        // A copy that had arrived before this connection may become complete before its end is told again.
        let may_be_complete =
            copying.end_sent || (!self.expect_begun && copying.sent_offset == self.limits.volume_bytes);
        match ack.copy {
            CopyState::Empty => Err(protocol("the copy was forgotten by the remote")),
            CopyState::Complete if !may_be_complete => {
                Err(protocol("the copy was called complete too early"))
            }
            CopyState::Complete => {
                let rest = copying.acked(copying.sent_offset).unwrap_or(0);
                self.in_flight_bytes = self.in_flight_bytes.saturating_sub(rest);
                self.copying = None;
                self.stage = Stage::Streaming;
                Ok(true)
            }
            CopyState::Copying => {
                let confirmed = copying.acked(ack.copy_offset);
                let confirmed = confirmed.ok_or_else(|| protocol("the copy is elsewhere than was sent"))?;
                self.in_flight_bytes = self.in_flight_bytes.saturating_sub(confirmed);
                Ok(false)
            }
        }
    }
}
