//! What one receive brought and cannot be answered at once: changes to journal together, and flushes.

use super::limits::{BATCH_RANGE_BYTES, BATCH_UPDATES};
use crate::targets::Update;
use farside_protocol::nbd::ReplyTo;

/// Changes in the order received, with the replies they owe. Reused from receive to receive.
#[derive(Debug, Default)]
pub(super) struct Batch {
    pub(super) updates: Vec<Update>,
    pub(super) replies: Vec<Owed>,
    pub(super) flushes: Vec<ReplyTo>,
    /// Bytes of the ranges to trim or to zero.
    range_bytes: u64,
}

/// A reply owed for a change.
#[derive(Debug, Clone, Copy)]
pub(super) struct Owed {
    pub(super) to: ReplyTo,
    /// Only when durable.
    pub(super) forced: bool,
}

impl Batch {
    pub(super) fn push(&mut self, update: Update, reply: Owed) {
        if let Update::Trim { length, .. } | Update::Zero { length, .. } = update {
            self.range_bytes = self.range_bytes.saturating_add(length);
        }
        self.updates.push(update);
        self.replies.push(reply);
    }

    pub(super) fn is_full(&self) -> bool {
        self.updates.len() + self.flushes.len() >= BATCH_UPDATES || self.range_bytes >= BATCH_RANGE_BYTES
    }

    /// The updates have been carried out, or have failed.
    pub(super) fn forget_updates(&mut self) {
        self.updates.clear();
        self.range_bytes = 0;
    }

    pub(super) fn len(&self) -> usize {
        self.replies.len() + self.flushes.len()
    }
}
