//! What one receive brought and cannot be answered at once: changes to journal together, and flushes.

use super::limits::BATCH_UPDATES;
use crate::targets::Update;

/// Changes in the order received, with the replies they owe. Reused from receive to receive.
#[derive(Debug, Default)]
pub(super) struct Batch {
    pub(super) updates: Vec<Update>,
    pub(super) replies: Vec<Owed>,
    pub(super) flushes: Vec<u64>,
}

/// A reply owed for a change.
#[derive(Debug, Clone, Copy)]
pub(super) struct Owed {
    pub(super) cookie: u64,
    /// Only when durable.
    pub(super) forced: bool,
}

impl Batch {
    pub(super) fn push(&mut self, update: Update, reply: Owed) {
        self.updates.push(update);
        self.replies.push(reply);
    }

    pub(super) fn is_full(&self) -> bool {
        self.updates.len() + self.flushes.len() >= BATCH_UPDATES
    }

    pub(super) fn len(&self) -> usize {
        self.replies.len() + self.flushes.len()
    }
}
