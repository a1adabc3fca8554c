//! What one receive brought and cannot be answered at once: changes to journal together, and flushes.

use super::Update;
use super::limits::{BATCH_RANGE_BYTES, BATCH_UPDATES};

/// Changes in the order received, with the replies they owe. Reused from receive to receive.
#[derive(Debug)]
pub(super) struct Batch<T> {
    pub(super) updates: Vec<Update>,
    pub(super) replies: Vec<Owed<T>>,
    pub(super) flushes: Vec<T>,
    /// Bytes of the ranges to trim or to zero.
    range_bytes: u64,
}

/// A reply owed for a change.
#[derive(Debug, Clone, Copy)]
pub(super) struct Owed<T> {
    pub(super) to: T,
    /// Only when durable.
    pub(super) forced: bool,
}

impl<T> Default for Batch<T> {
    fn default() -> Self {
        Self {
            updates: Vec::new(),
            replies: Vec::new(),
            flushes: Vec::new(),
            range_bytes: 0,
        }
    }
}

impl<T> Batch<T> {
    pub(super) fn push(&mut self, update: Update, reply: Owed<T>) {
        self.note(&update);
        self.updates.push(update);
        self.replies.push(reply);
    }

    /// Several changes that are owed one reply.
    pub(super) fn push_all(&mut self, updates: Vec<Update>, reply: Owed<T>) {
        for update in updates {
            self.note(&update);
            self.updates.push(update);
        }
        self.replies.push(reply);
    }

    fn note(&mut self, update: &Update) {
        if let Update::Trim { length, .. } | Update::Zero { length, .. } = update {
            self.range_bytes = self.range_bytes.saturating_add(*length);
        }
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
