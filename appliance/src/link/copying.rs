//! Progress of a copy: how far the image was sent, how far that is confirmed.

use super::limits::MAX_UNACKED;
use std::collections::VecDeque;

/// A range that was sent.
#[derive(Debug, Clone, Copy)]
struct Range {
    end: u64,
    wire_bytes: u64,
    /// Bytes of it that are copied.
    copied: u64,
}

/// Ranges are sent in ascending order without gaps, so each of the two is one number.
#[derive(Debug, Clone)]
pub(super) struct Copying {
    pub(super) sent_offset: u64,
    pub(super) acked_offset: u64,
    /// Whether the end was announced.
    pub(super) end_sent: bool,
    /// Bytes confirmed over this connection that are part of the copy: sent, or found to be the same.
    pub(super) copied: u64,
    unacked: VecDeque<Range>,
}

impl Copying {
    pub(super) fn new(offset: u64) -> Self {
        Self {
            sent_offset: offset,
            acked_offset: offset,
            end_sent: false,
            copied: 0,
            unacked: VecDeque::new(),
        }
    }

    pub(super) fn has_room(&self) -> bool {
        self.unacked.len() < MAX_UNACKED
    }

    pub(super) fn sent(&mut self, end: u64, wire_bytes: u64, copied: u64) {
        self.sent_offset = end;
        self.unacked.push_back(Range {
            end,
            wire_bytes,
            copied,
        });
    }

    /// Takes note of a confirmed offset; the bytes on the wire that are confirmed with it, or `None` when it
    /// cannot be.
    pub(super) fn acked(&mut self, offset: u64) -> Option<u64> {
        if offset < self.acked_offset || offset > self.sent_offset {
            return None;
        }
        self.acked_offset = offset;
        let mut confirmed: u64 = 0;
        while let Some(range) = self.unacked.pop_front_if(|range| range.end <= offset) {
            confirmed = confirmed.saturating_add(range.wire_bytes);
            self.copied = self.copied.saturating_add(range.copied);
        }
        Some(confirmed)
    }
}
