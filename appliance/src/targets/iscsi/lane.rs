//! What a session has under way in one logical unit: a batch that is being gathered, one on its way to the journal, and
//! answers that wait for it to be durable. Units do not wait for each other.

use super::task::Task;
use crate::targets::batch::Batch;
use crate::targets::deferred::Deferred;
use crate::targets::scsi::{Answer, Caller, LogicalUnit, Seat};
use crate::targets::{AttachGuard, Disk, DiskError, Position, Update};
use farside_protocol::scsi::Status;
use std::collections::VecDeque;
use std::future::pending;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use tokio_util::sync::ReusableBoxFuture;

/// A batch that the journal has, or has refused.
struct Committed {
    batch: Batch<Task>,
    /// Commands that were aborted before their changes began.
    aborted: Vec<Task>,
    /// The last record, if there were changes.
    result: Result<Option<Position>, DiskError>,
}

/// What becomes of a command that the lane had.
pub(super) type Settled = (Task, Answer);

/// A logical unit that a session uses.
pub(super) struct Lane<D: Disk> {
    pub(super) unit: Arc<LogicalUnit<D>>,
    pub(super) seat: Arc<Seat>,
    /// The number of the unit, as it is addressed and as it is.
    number: u16,
    port: String,
    target: String,
    batch: Batch<Task>,
    /// Changes that the batch has no room for.
    more: VecDeque<(Vec<Update>, Task, bool)>,
    journal: ReusableBoxFuture<'static, Committed>,
    is_committing: bool,
    /// Room of an earlier batch.
    spare: Batch<Task>,
    deferred: Deferred<Settled>,
    /// The disk goes away: nothing new is begun.
    pub(super) is_closing: bool,
    _counted: AttachGuard,
}

impl<D: Disk> Drop for Lane<D> {
    fn drop(&mut self) {
        self.unit.detach(&self.port, &self.seat);
    }
}

impl<D: Disk> Lane<D> {
    /// `port` of an initiator begins to use `unit`, which is `number` of `target`.
    pub(super) fn new(
        unit: Arc<LogicalUnit<D>>,
        number: u16,
        (port, target): (&str, &str),
        counted: AttachGuard,
    ) -> Self {
        Self {
            seat: unit.attach(port),
            unit,
            number,
            port: port.to_owned(),
            target: target.to_owned(),
            batch: Batch::default(),
            more: VecDeque::new(),
            journal: ReusableBoxFuture::new(pending()),
            is_committing: false,
            spare: Batch::default(),
            deferred: Deferred::default(),
            is_closing: false,
            _counted: counted,
        }
    }

    /// Who a command comes from, whose tasks had been aborted so often.
    pub(super) fn caller(&self, aborted: u64) -> Caller<'_> {
        Caller {
            port: &self.port,
            seat: &self.seat,
            aborted,
            target: &self.target,
            lun: self.number,
        }
    }

    /// Collects changes.
    pub(super) fn change(&mut self, updates: Vec<Update>, task: Task, forced: bool) {
        if self.batch.is_full() {
            self.more.push_back((updates, task, forced));
        } else {
            self.batch.push_all(updates, task, forced);
        }
    }

    /// Collects a flush.
    pub(super) fn flush(&mut self, task: Task) {
        self.batch.flushes.push(task);
    }

    /// Whether a batch can be [committed](Self::commit) now.
    pub(super) fn is_ready(&self) -> bool {
        self.batch.len() > 0 && !self.is_committing
    }

    /// Sends what was collected on its way to the journal as one batch, if none is.
    pub(super) fn commit(&mut self) {
        if self.is_ready() {
            let batch = std::mem::replace(&mut self.batch, std::mem::take(&mut self.spare));
            let (unit, seat) = (Arc::clone(&self.unit), Arc::clone(&self.seat));
            self.journal.set(commit(unit, seat, batch));
            self.is_committing = true;
            while !self.batch.is_full()
                && let Some((updates, task, forced)) = self.more.pop_front()
            {
                self.batch.push_all(updates, task, forced);
            }
        }
    }

    /// Answers `answer` when the journal is durable up to `position`.
    pub(super) fn defer(&mut self, position: Position, task: Task, answer: Answer) {
        self.deferred.push(position, (task, answer));
    }

    /// How many answers wait for the journal to be durable.
    pub(super) fn owed(&self) -> usize {
        self.deferred.len()
    }

    /// The same; a command that was aborted is over at once.
    fn owe(&mut self, position: Position, task: Task, settled: &mut Vec<Settled>) {
        if task.is_aborted() {
            settled.push((task, Answer::status(Status::TaskAborted)));
        } else {
            self.defer(position, task, Answer::good());
        }
    }

    /// Collects what is journaled.
    pub(super) fn poll_journaled(&mut self, context: &mut Context<'_>, settled: &mut Vec<Settled>) {
        if self.is_committing
            && let Poll::Ready(committed) = self.journal.poll(context)
        {
            self.settle(committed, settled);
        }
    }

    /// Collects what is journaled or durable.
    pub(super) fn poll(&mut self, context: &mut Context<'_>, settled: &mut Vec<Settled>) {
        self.poll_journaled(context, settled);
        if self.deferred.len() > 0 {
            self.deferred
                .poll(self.unit.disk(), context, |(task, answer), result| {
                    let answer = match result {
                        Ok(()) => answer,
                        Err(error) => Answer::failed(error, true),
                    };
                    settled.push((task, answer));
                });
        }
    }

    fn settle(&mut self, committed: Committed, settled: &mut Vec<Settled>) {
        self.is_committing = false;
        let mut batch = committed.batch;
        for owed in batch.replies.drain(..) {
            match committed.result {
                Ok(Some(position)) if owed.forced => self.owe(position, owed.to, settled),
                Ok(_) => settled.push((owed.to, Answer::good())),
                Err(error) => settled.push((owed.to, Answer::failed(error, true))),
            }
        }
        // Covers what every session has had acknowledged.
        let journaled = self.unit.disk().journaled();
        for task in batch.flushes.drain(..) {
            self.owe(journaled, task, settled);
        }
        let status = Answer::status(Status::TaskAborted);
        let aborted = committed.aborted.into_iter();
        settled.extend(aborted.map(|task| (task, status.clone())));
        batch.forget_updates();
        self.spare = batch;
    }

    /// Takes out the answers that wait and nobody waits for any more.
    pub(super) fn take_aborted(&mut self) -> Vec<Task> {
        let aborted = self.deferred.take_out(|(task, _)| task.is_aborted());
        aborted.into_iter().map(|(task, _)| task).collect()
    }

    /// Takes out the commands that are not on their way to the journal yet.
    pub(super) fn take_batch(&mut self) -> Vec<Task> {
        let mut tasks = self.batch.take_out(|_| true);
        self.batch.forget_updates();
        tasks.extend(self.more.drain(..).map(|(_, task, _)| task));
        tasks
    }

    /// Resolves when nothing of the session is on its way to the journal, for a session that answers nothing any more.
    pub(super) fn poll_through(&mut self, context: &mut Context<'_>) -> Poll<()> {
        if self.is_committing {
            ready!(self.journal.poll(context));
            self.is_committing = false;
        }
        Poll::Ready(())
    }
}

/// Journals a batch, without what was aborted while it waited.
async fn commit<D: Disk>(unit: Arc<LogicalUnit<D>>, seat: Arc<Seat>, mut batch: Batch<Task>) -> Committed {
    let (mut aborted, mut result) = (Vec::new(), Ok(None));
    if !batch.updates.is_empty() {
        let _under_way = unit.enter(&seat).await;
        aborted = batch.take_out(Task::is_aborted);
        if !batch.updates.is_empty() {
            result = unit.disk().update(&mut batch.updates).await.map(Some);
        }
    }
    Committed {
        batch,
        aborted,
        result,
    }
}
