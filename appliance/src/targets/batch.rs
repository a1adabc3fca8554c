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
    /// How many of the changes it is for.
    updates: usize,
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
    pub(super) fn push(&mut self, update: Update, to: T, forced: bool) {
        self.note(&update);
        self.updates.push(update);
        self.owe(to, forced, 1);
    }

    /// Several changes that are owed one reply.
    pub(super) fn push_all(&mut self, updates: Vec<Update>, to: T, forced: bool) {
        let count = updates.len();
        for update in updates {
            self.note(&update);
            self.updates.push(update);
        }
        self.owe(to, forced, count);
    }

    fn owe(&mut self, to: T, forced: bool, updates: usize) {
        self.replies.push(Owed { to, forced, updates });
    }

    /// Takes out what is not wanted any more, changes and flushes; gives whom it was for.
    pub(super) fn take_out(&mut self, is_unwanted: impl Fn(&T) -> bool) -> Vec<T> {
        let changes = self.replies.iter().map(|owed| &owed.to);
        if !changes.chain(&self.flushes).any(&is_unwanted) {
            return Vec::new();
        }
        let mut unwanted = Vec::new();
        let mut updates = std::mem::take(&mut self.updates).into_iter();
        for owed in std::mem::take(&mut self.replies) {
            let own = updates.by_ref().take(owed.updates);
            if is_unwanted(&owed.to) {
                own.for_each(drop);
                unwanted.push(owed.to);
            } else {
                self.updates.extend(own);
                self.replies.push(owed);
            }
        }
        let flushes = std::mem::take(&mut self.flushes).into_iter();
        let (gone, kept): (Vec<T>, Vec<T>) = flushes.partition(&is_unwanted);
        self.flushes = kept;
        unwanted.extend(gone);
        unwanted
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

#[cfg(test)]
mod tests {
    use super::*;

    fn trims(offsets: &[u64]) -> Vec<Update> {
        let trim = |offset: &u64| Update::Trim {
            offset: *offset,
            length: 1,
        };
        offsets.iter().map(trim).collect()
    }

    #[test]
    fn what_is_taken_out_takes_all_its_changes_along_and_no_others() {
        let mut batch = Batch::default();
        batch.push_all(trims(&[1, 2]), 'a', false);
        batch.push_all(trims(&[3, 4, 5]), 'b', true);
        batch.push_all(Vec::new(), 'c', true);
        batch.push(trims(&[6]).remove(0), 'a', false);
        batch.flushes = vec!['b', 'd'];
        assert!(batch.take_out(|_| false).is_empty());
        assert_eq!(batch.updates.len(), 6);
        assert_eq!(batch.take_out(|to| matches!(to, 'b' | 'c')), ['b', 'c', 'b']);
        let left: Vec<u64> = batch
            .updates
            .iter()
            .map(|update| match update {
                Update::Trim { offset, .. } => *offset,
                _ => 0,
            })
            .collect();
        assert_eq!(left, [1, 2, 6]);
        let owed: Vec<(char, bool)> = batch.replies.iter().map(|owed| (owed.to, owed.forced)).collect();
        assert_eq!(
            (owed, batch.flushes),
            (vec![('a', false), ('a', false)], vec!['d'])
        );
    }
}
