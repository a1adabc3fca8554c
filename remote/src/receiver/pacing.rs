//! When an acknowledgement is sent: soon after something changed, never more often than every few
//! milliseconds, and as a sign of life every second.

use crate::limits::ACK_INTERVAL_MS;
use crate::sink::SinkState;
use farside_protocol::link::Ack;
use farside_protocol::link::limits::HEARTBEAT_INTERVAL_MS;

/// Remembers what was said last. Times are milliseconds of any clock that only rises.
#[derive(Debug, Default)]
pub struct Pacing {
    last: Option<(Ack, u64)>,
}

/// The acknowledgement for a state.
#[must_use]
pub fn ack(state: &SinkState, begun: bool) -> Ack {
    Ack {
        received: state.received,
        applied: state.applied.min(state.received.record),
        copy_offset: state.copy_offset,
        copy: state.copy,
        begun,
    }
}

impl Pacing {
    /// Milliseconds until `ack` is due; 0 means now.
    #[must_use]
    pub fn wait_ms(&self, ack: &Ack, now_ms: u64) -> u64 {
        let Some((last, at_ms)) = self.last else {
            return 0;
        };
        let interval = if last == *ack {
            HEARTBEAT_INTERVAL_MS
        } else {
            ACK_INTERVAL_MS
        };
        at_ms.saturating_add(interval).saturating_sub(now_ms)
    }

    /// Takes note that `ack` was sent.
    pub fn sent(&mut self, ack: Ack, now_ms: u64) {
        self.last = Some((ack, now_ms));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use farside_protocol::journal::{ChainPoint, CopyState};

    fn state(applied: u64) -> SinkState {
        SinkState {
            history_bytes: 0,
            batch_bytes: 0,
            synced: ChainPoint::default(),
            unconfirmed_bytes: 0,
            copy_id: 0,
            copy: CopyState::Complete,
            received: ChainPoint {
                record: 9,
                sequence: 3,
                ..ChainPoint::default()
            },
            applied,
            copy_offset: 0,
            consistent_from: 0,
        }
    }

    #[test]
    fn changes_are_told_within_milliseconds_and_silence_is_broken_every_second() {
        let (one, other) = (ack(&state(1), false), ack(&state(2), false));
        let mut pacing = Pacing::default();
        assert_eq!(pacing.wait_ms(&one, 50), 0, "the first is told at once");
        pacing.sent(one, 50);
        assert_eq!(pacing.wait_ms(&other, 50), ACK_INTERVAL_MS);
        assert_eq!(pacing.wait_ms(&other, 50 + ACK_INTERVAL_MS), 0);
        assert_eq!(pacing.wait_ms(&one, 50), HEARTBEAT_INTERVAL_MS);
        assert_eq!(pacing.wait_ms(&one, 50 + HEARTBEAT_INTERVAL_MS), 0);
    }

    #[test]
    fn applied_is_never_told_above_received() {
        assert_eq!(ack(&state(12), false).applied, 9);
    }
}
