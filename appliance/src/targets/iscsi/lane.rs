//! What a session has under way in one logical unit: a batch that is being gathered, one on its way to the journal, and
//! answers that wait for it to be durable. Units do not wait for each other.

use super::task::Task;
use crate::targets::batch::Batch;
use crate::targets::deferred::Deferred;
use crate::targets::scsi::{Answer, Caller, LogicalUnit, Seat};
use crate::targets::{AttachGuard, Disk, DiskError, Position, Update};
use farside_protocol::scsi::Status;
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
            journal: ReusableBoxFuture::new(pending()),
            is_committing: false,
            spare: Batch::default(),
            deferred: Deferred::default(),
            is_closing: false,
            _counted: counted,
        }
    }

    /// Who commands come from.
    pub(super) fn caller(&self) -> Caller<'_> {
        Caller {
            port: &self.port,
            seat: &self.seat,
            target: &self.target,
            lun: self.number,
        }
    }

    /// Collects changes. True: that is enough for one batch.
    pub(super) fn change(&mut self, updates: Vec<Update>, task: Task, forced: bool) -> bool {
        self.batch.push_all(updates, task, forced);
        self.is_full()
    }

    /// Collects a flush. True: that is enough for one batch.
    pub(super) fn flush(&mut self, task: Task) -> bool {
        self.batch.flushes.push(task);
        self.is_full()
    }

    pub(super) fn is_full(&self) -> bool {
        self.batch.is_full()
    }

    /// Whether a batch can be [committed](Self::commit) now.
    pub(super) fn is_ready(&self) -> bool {
        self.batch.len() > 0 && !self.is_committing
    }

    /// Whether changes are on their way to the journal.
    pub(super) fn is_committing(&self) -> bool {
        self.is_committing
    }

    /// Sends what was collected on its way to the journal as one batch, if none is.
    pub(super) fn commit(&mut self) {
        if self.is_ready() {
            let batch = std::mem::replace(&mut self.batch, std::mem::take(&mut self.spare));
            self.journal.set(commit(Arc::clone(&self.unit), batch));
            self.is_committing = true;
        }
    }

    /// Answers `answer` when the journal is durable up to `position`.
    pub(super) fn defer(&mut self, position: Position, task: Task, answer: Answer) {
        self.deferred.push(position, (task, answer));
    }

    /// Collects what is journaled or durable.
    pub(super) fn poll(&mut self, context: &mut Context<'_>, settled: &mut Vec<Settled>) {
        if self.is_committing
            && let Poll::Ready(committed) = self.journal.poll(context)
        {
            self.settle(committed, settled);
        }
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
                Ok(Some(position)) if owed.forced => self.deferred.push(position, (owed.to, Answer::good())),
                Ok(_) => settled.push((owed.to, Answer::good())),
                Err(error) => settled.push((owed.to, Answer::failed(error, true))),
            }
        }
        // Covers what every session has had acknowledged.
        let journaled = self.unit.disk().journaled();
        for task in batch.flushes.drain(..) {
            self.deferred.push(journaled, (task, Answer::good()));
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

    /// Takes out all commands but those on their way to the journal.
    pub(super) fn take_all(&mut self) -> Vec<Task> {
        let deferred = self.deferred.take_out(|_| true);
        let mut tasks: Vec<Task> = deferred.into_iter().map(|(task, _)| task).collect();
        tasks.extend(self.batch.take_out(|_| true));
        self.batch.forget_updates();
        tasks
    }

    /// Resolves when nothing of this session is on its way to the journal, for a session that answers nothing any more.
    pub(super) fn poll_through(&mut self, context: &mut Context<'_>) -> Poll<()> {
        if self.is_committing {
            ready!(self.journal.poll(context));
            self.is_committing = false;
        }
        Poll::Ready(())
    }
}

/// Journals a batch, without what was aborted while it waited.
async fn commit<D: Disk>(unit: Arc<LogicalUnit<D>>, mut batch: Batch<Task>) -> Committed {
    let (mut aborted, mut result) = (Vec::new(), Ok(None));
    if !batch.updates.is_empty() {
        let _under_way = unit.enter().await;
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
