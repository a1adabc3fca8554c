//! Replies that wait for the journal to be durable: flushes and forced writes.
//!
//! They are kept in the order of their positions, and only the first is waited for: one journal sync
//! serves all that wait, so the next is mostly ready when the first is. The waiting future is kept until it resolves,
//! because it may be the one that carries out the sync for others.

use super::{Disk, DiskError, Position};
use std::collections::VecDeque;
use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

type Waiting = Pin<Box<dyn Future<Output = Result<(), DiskError>> + Send>>;

/// Replies in the order of the positions they wait for; `T` is what a reply is told by.
pub(super) struct Deferred<T> {
    replies: VecDeque<(Position, T)>,
    waiting: Option<(Position, Waiting)>,
}

impl<T> Default for Deferred<T> {
    fn default() -> Self {
        Self {
            replies: VecDeque::new(),
            waiting: None,
        }
    }
}

impl<T: fmt::Debug> fmt::Debug for Deferred<T> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Deferred")
            .field("replies", &self.replies)
            .finish_non_exhaustive()
    }
}

impl<T> Deferred<T> {
    pub(super) fn len(&self) -> usize {
        self.replies.len()
    }

    /// Owes the reply `to` a request when `position` is durable. A position below its predecessor's, which no disk
    /// should give, waits with it.
    pub(super) fn push(&mut self, position: Position, to: T) {
        let position = self
            .replies
            .back()
            .map_or(position, |(last, _)| position.max(*last));
        self.replies.push_back((position, to));
    }

    /// Takes out what is not wanted any more.
    pub(super) fn take_out(&mut self, is_unwanted: impl Fn(&T) -> bool) -> Vec<T> {
        let (gone, kept): (VecDeque<_>, VecDeque<_>) = std::mem::take(&mut self.replies)
            .into_iter()
            .partition(|(_, to)| is_unwanted(to));
        self.replies = kept;
        gone.into_iter().map(|(_, to)| to).collect()
    }

    /// Hands every reply that is due now to `reply`.
    pub(super) fn poll<D: Disk>(
        &mut self,
        disk: &Arc<D>,
        context: &mut Context<'_>,
        mut reply: impl FnMut(T, Result<(), DiskError>),
    ) {
        while let Some((front, _)) = self.replies.front() {
            let (position, future) = self.waiting.get_or_insert_with(|| (*front, wait(disk, *front)));
            let Poll::Ready(result) = future.as_mut().poll(context) else {
                return;
            };
            let reached = *position;
            self.waiting = None;
            while let Some((_, to)) = self.replies.pop_front_if(|(position, _)| *position <= reached) {
                reply(to, result);
            }
        }
    }
}

fn wait<D: Disk>(disk: &Arc<D>, position: Position) -> Waiting {
    let disk = Arc::clone(disk);
    Box::pin(async move { disk.durable(position).await })
}
