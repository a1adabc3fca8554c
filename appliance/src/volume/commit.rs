//! Group commit: whoever finds no commit under way leads, takes all that is queued, and journals it together.
//!
//! At depth 1 that is one system call and no task hop. A group that has to wait for room is finished by a task
//! of its own, so that a connection that goes away takes nobody's changes with it.

use super::limits::{GROUP_CHANGES, LEADER_ROUNDS, ROOM_RETRY};
use super::shared::Shared;
use super::unchanged::drop_unchanged;
use crate::targets::{DiskError, Position};
use farside_storage::{AppendError, Change};
use parking_lot::Mutex;
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use tokio::sync::oneshot;
use tokio::time::timeout;

/// What became of a queued batch.
enum Outcome {
    /// It is journaled, or refused.
    Done(Result<Position, DiskError>),
    /// It is its turn to lead; here are its changes back.
    Lead(VecDeque<Change>, Leadership),
}

struct Waiting {
    changes: VecDeque<Change>,
    /// Wants to lead, and nothing to be journaled with it.
    alone: bool,
    done: oneshot::Sender<Outcome>,
}

/// A set of batches that is journaled together.
#[derive(Default)]
struct Group {
    changes: VecDeque<Change>,
    done: Vec<oneshot::Sender<Outcome>>,
}

#[derive(Default)]
struct Queue {
    waiting: VecDeque<Waiting>,
    led: bool,
}

/// The queue of changes in front of a journal.
#[derive(Default)]
pub(super) struct Commit {
    queue: Mutex<Queue>,
}

impl std::fmt::Debug for Commit {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let queue = self.queue.lock();
        write!(
            formatter,
            "Commit {{ waiting: {}, led: {} }}",
            queue.waiting.len(),
            queue.led
        )
    }
}

/// The right to append. Dropping it hands it on.
pub(super) struct Leadership(Option<Arc<Shared>>);

impl Leadership {
    fn new(shared: &Arc<Shared>) -> Self {
        Self(Some(shared.clone()))
    }

    /// Takes it apart without handing it on.
    fn dissolve(mut self) {
        self.0 = None;
    }
}

impl Drop for Leadership {
    fn drop(&mut self) {
        if let Some(shared) = self.0.take() {
            shared.commit.hand_on(&shared);
        }
    }
}

impl Commit {
    /// Gives leadership to the first waiting batch whose connection is still there, or to nobody.
    fn hand_on(&self, shared: &Arc<Shared>) {
        loop {
            let mut queue = self.queue.lock();
            let Some(next) = queue.waiting.pop_front() else {
                queue.led = false;
                return;
            };
            drop(queue);
            match next
                .done
                .send(Outcome::Lead(next.changes, Leadership::new(shared)))
            {
                Ok(()) => return,
                // That connection is gone; its leadership must not hand on from within itself.
                Err(Outcome::Lead(_, leadership)) => leadership.dissolve(),
                Err(Outcome::Done(_)) => {}
            }
        }
    }

    fn take_waiting(&self, group: &mut Group) {
        let mut queue = self.queue.lock();
        while group.changes.len() < GROUP_CHANGES
            && let Some(next) = queue.waiting.pop_front_if(|next| !next.alone)
        {
            group.changes.extend(next.changes);
            group.done.push(next.done);
        }
    }
}

/// Journals a batch, alone or together with others; resolves with the last position of its group.
pub(super) async fn commit(shared: &Arc<Shared>, changes: VecDeque<Change>) -> Result<Position, DiskError> {
    match take_turn(shared, changes, false).await {
        Outcome::Done(result) => result,
        Outcome::Lead(changes, leadership) => lead(shared, (changes, false), leadership).await,
    }
}

/// Takes the lead, or waits until the batch is journaled by others or leads.
async fn take_turn(shared: &Arc<Shared>, changes: VecDeque<Change>, alone: bool) -> Outcome {
    let outcome = {
        let mut queue = shared.commit.queue.lock();
        if !queue.led {
            queue.led = true;
            drop(queue);
            return Outcome::Lead(changes, Leadership::new(shared));
        }
        let (done, outcome) = oneshot::channel();
        queue.waiting.push_back(Waiting { changes, alone, done });
        outcome
    };
    outcome
        .await
        .unwrap_or(Outcome::Done(Err(DiskError::ShuttingDown)))
}

/// Keeps everybody else from journaling until the leadership is used or dropped.
pub(super) async fn lead_alone(shared: &Arc<Shared>) -> Result<Leadership, DiskError> {
    match take_turn(shared, VecDeque::new(), true).await {
        Outcome::Lead(_, leadership) => Ok(leadership),
        Outcome::Done(result) => Err(result.err().unwrap_or(DiskError::ShuttingDown)),
    }
}

/// Commits the leader's own batch with all that is queued, then up to a few groups more for others. A batch that is
/// `meant` is journaled as it is, although it may change nothing.
pub(super) async fn lead(
    shared: &Arc<Shared>,
    (changes, meant): (VecDeque<Change>, bool),
    leadership: Leadership,
) -> Result<Position, DiskError> {
    let first = if meant { changes.len() } else { 0 };
    let mut group = Group {
        changes,
        done: Vec::new(),
    };
    shared.commit.take_waiting(&mut group);
    drop_unchanged(shared, &mut group.changes, first);
    let own = match append_now(shared, &mut group) {
        Some(result) => finish(group, result),
        None => return append_later(shared, group, leadership).await,
    };
    for _ in 1..LEADER_ROUNDS {
        let mut group = Group::default();
        shared.commit.take_waiting(&mut group);
        if group.done.is_empty() {
            break;
        }
        drop_unchanged(shared, &mut group.changes, 0);
        match append_now(shared, &mut group) {
            Some(result) => _ = finish(group, result),
            None => {
                tokio::spawn(finish_later(shared.clone(), group, leadership));
                return own;
            }
        }
    }
    drop(leadership);
    own
}

/// Appends the whole group; `None` when room has to be waited for.
fn append_now(shared: &Shared, group: &mut Group) -> Option<Result<Position, DiskError>> {
    if group.changes.is_empty() && shared.store.failure().is_some() {
        return Some(Err(DiskError::Io));
    }
    let mut position = shared.store.points().journaled.record;
    while let Some(first) = group.changes.front() {
        let (before, arrived_us) = (shared.store.points().journaled.record, first.arrived_us);
        match shared.store.append(&mut group.changes) {
            Ok(appended) => {
                shared.timeline.mark(before, arrived_us);
                position = appended.point.record;
            }
            Err(AppendError::Full | AppendError::NotDurable | AppendError::Pending) => return None,
            Err(error) => return Some(Err(shared.disk_error(&error))),
        }
    }
    shared.appended();
    Some(Ok(position))
}

fn finish(group: Group, result: Result<Position, DiskError>) -> Result<Position, DiskError> {
    for done in group.done {
        // A connection that went away does not need its answer.
        let _ = done.send(Outcome::Done(result));
    }
    result
}

/// Hands the group to a task of its own and waits for it as one of its members.
async fn append_later(
    shared: &Arc<Shared>,
    mut group: Group,
    leadership: Leadership,
) -> Result<Position, DiskError> {
    let (done, outcome) = oneshot::channel();
    group.done.push(done);
    tokio::spawn(finish_later(shared.clone(), group, leadership));
    match outcome.await {
        Ok(Outcome::Done(result)) => result,
        Ok(Outcome::Lead(..)) | Err(_) => Err(DiskError::ShuttingDown),
    }
}

async fn finish_later(shared: Arc<Shared>, mut group: Group, leadership: Leadership) {
    let result = loop {
        let room = shared.room.notified();
        tokio::pin!(room);
        // Registered before the attempt, so that room made in between is not missed.
        room.as_mut().enable();
        if let Some(result) = append_now(&shared, &mut group) {
            break result;
        }
        if shared.is_stopping() {
            break Err(DiskError::ShuttingDown);
        }
        shared.want_room();
        // A wish can cross with a checkpoint that fulfils an earlier one and moves nothing, so it is repeated.
        let _ = timeout(ROOM_RETRY, room).await;
    };
    shared.starving.store(false, Ordering::Release);
    let _ = finish(group, result);
    drop(leadership);
}
