//! Places for connections, counted in two ways: those that said who they are, and those that have not yet.
//!
//! Guarantees: connections that say nothing never hold the places of senders, and among themselves the oldest
//! gives way to the newest; a connection that has a session's place is never displaced.

use crate::limits::{MAX_GREETINGS, MAX_SESSIONS};
use parking_lot::Mutex;
use std::collections::VecDeque;
use std::sync::Arc;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};

#[derive(Debug, Default)]
struct Waiting {
    /// Oldest first.
    all: VecDeque<(u64, oneshot::Sender<()>)>,
    next: u64,
}

/// The places of one receiver.
#[derive(Debug, Clone)]
pub(super) struct Places {
    waiting: Arc<Mutex<Waiting>>,
    sessions: Arc<Semaphore>,
}

/// A connection that has not said who it is.
#[derive(Debug)]
pub(super) struct Greeting {
    places: Places,
    number: u64,
}

impl Places {
    pub(super) fn new() -> Self {
        Self {
            waiting: Arc::default(),
            sessions: Arc::new(Semaphore::new(MAX_SESSIONS)),
        }
    }

    /// A place for a new connection; if there are too many the oldest is told to go. The receiver fires when it
    /// is this one's turn, and never once it has a session's place.
    pub(super) fn enter(&self) -> (Greeting, oneshot::Receiver<()>) {
        let mut waiting = self.waiting.lock();
        if waiting.all.len() >= MAX_GREETINGS
            && let Some((_, oldest)) = waiting.all.pop_front()
        {
            let _ = oldest.send(());
        }
        let number = waiting.next;
        waiting.next = number.wrapping_add(1);
        let (displace, displaced) = oneshot::channel();
        waiting.all.push_back((number, displace));
        let greeting = Greeting {
            places: self.clone(),
            number,
        };
        (greeting, displaced)
    }
}

impl Greeting {
    /// The place of a session, now that the connection said who it is. `None`: all are taken, or it was displaced
    /// just now.
    pub(super) fn admit(&self) -> Option<OwnedSemaphorePermit> {
        let mut waiting = self.places.waiting.lock();
        let at = waiting
            .all
            .iter()
            .position(|(number, _)| *number == self.number)?;
        let place = Arc::clone(&self.places.sessions).try_acquire_owned().ok()?;
        waiting.all.remove(at);
        Some(place)
    }
}

impl Drop for Greeting {
    fn drop(&mut self) {
        let mut waiting = self.places.waiting.lock();
        waiting.all.retain(|(number, _)| *number != self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_that_was_admitted_is_never_displaced_and_one_that_was_displaced_never_admitted() {
        let places = Places::new();
        let (first, mut first_told) = places.enter();
        let place = first.admit();
        let (second, mut second_told) = places.enter();
        let rest: Vec<_> = (0..MAX_GREETINGS).map(|_| places.enter()).collect();
        assert!(place.is_some() && first_told.try_recv().is_err());
        assert!(second_told.try_recv().is_ok() && second.admit().is_none());
        drop(rest);
        let all: Vec<_> = (1..MAX_SESSIONS)
            .map(|_| places.enter().0.admit().expect("there are so many places"))
            .collect();
        let (late, mut late_told) = places.enter();
        assert!(late.admit().is_none(), "all places are taken");
        drop(all);
        assert!(late.admit().is_some() && late_told.try_recv().is_err());
    }
}
