//! Progress of a full copy: how far the image was sent, how far that is confirmed.

use super::limits::MAX_UNACKED;
use std::collections::VecDeque;

/// Ranges are sent in ascending order without gaps, so each of the two is one number.
#[derive(Debug, Clone)]
pub(super) struct Copying {
    pub(super) sent_offset: u64,
    pub(super) acked_offset: u64,
    /// Whether the end was announced.
    pub(super) end_sent: bool,
    /// End of a range sent, and the bytes it was on the wire.
    unacked: VecDeque<(u64, u64)>,
}

impl Copying {
    pub(super) fn new(offset: u64) -> Self {
        Self {
            sent_offset: offset,
            acked_offset: offset,
            end_sent: false,
            unacked: VecDeque::new(),
        }
    }

    pub(super) fn has_room(&self) -> bool {
        self.unacked.len() < MAX_UNACKED
    }

    pub(super) fn sent(&mut self, end: u64, wire_bytes: u64) {
        self.sent_offset = end;
        self.unacked.push_back((end, wire_bytes));
    }

    /// Takes note of a confirmed offset; the bytes on the wire that are confirmed with it, or `None` when it
    /// cannot be.
    pub(super) fn acked(&mut self, offset: u64) -> Option<u64> {
        if offset < self.acked_offset || offset > self.sent_offset {
            return None;
        }
        self.acked_offset = offset;
        let mut confirmed: u64 = 0;
        while let Some((_, bytes)) = self.unacked.pop_front_if(|(end, _)| *end <= offset) {
            confirmed = confirmed.saturating_add(bytes);
        }
        Some(confirmed)
    }
}
