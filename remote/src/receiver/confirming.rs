//! Confirmed mode at the receiver: what waits for the sender's word.

use crate::limits::MAX_UNANSWERED;
use farside_protocol::journal::{ChainPoint, What};
use farside_protocol::link::{Refusal, RefuseCode, same_place};
use parking_lot::Mutex;
use std::collections::VecDeque;

/// Points that were told and not answered, in order, as the replica's journal knows them.
#[derive(Debug, Default)]
pub(super) struct Unanswered(Mutex<VecDeque<ChainPoint>>);

impl Unanswered {
    /// The newest one, if more may be told; `None` if that has to wait.
    pub(super) fn newest(&self) -> Option<Option<ChainPoint>> {
        let points = self.0.lock();
        (points.len() < MAX_UNANSWERED).then(|| points.back().copied())
    }

    pub(super) fn told(&self, point: ChainPoint) {
        self.0.lock().push_back(point);
    }

    /// The one that the sender means.
    pub(super) fn find(&self, named: &ChainPoint) -> Option<ChainPoint> {
        let points = self.0.lock();
        points.iter().find(|point| same_place(point, named)).copied()
    }

    /// It counts now, with all before it.
    pub(super) fn answered(&self, point: &ChainPoint) {
        self.0.lock().retain(|waiting| waiting.sequence > point.sequence);
    }
}

/// Chunks that were accepted and are not confirmed.
#[derive(Debug)]
pub(super) struct Waiting {
    limit: u64,
    bytes: u64,
    chunks: VecDeque<(u64, u64)>,
}

impl Waiting {
    pub(super) fn new(limit: u64) -> Self {
        Self {
            limit,
            bytes: 0,
            chunks: VecDeque::new(),
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.chunks.is_empty()
    }

    /// One more. Nothing makes room for it in the journal, so there must not be too many.
    pub(super) fn add(&mut self, what: &What<'_>) -> Result<(), Refusal> {
        let stored = what.stored_bytes();
        self.bytes = self.bytes.saturating_add(stored);
        self.chunks.push_back((what.header.sequence, stored));
        if self.bytes <= self.limit {
            return Ok(());
        }
        let text = format!(
            "more than {} bytes were sent before what is here was confirmed; reconnect",
            self.limit
        );
        Err(Refusal::new(RefuseCode::Protocol, what.header.sequence, &text))
    }

    pub(super) fn confirmed(&mut self, sequence: u64) {
        while let Some((_, stored)) = self.chunks.pop_front_if(|(waiting, _)| *waiting <= sequence) {
            self.bytes = self.bytes.saturating_sub(stored);
        }
    }
}
