//! Places for connections, counted in two ways: those that said who they are, and those that have not yet.
//!
//! Guarantees: connections that say nothing never hold the places of senders, and among themselves the oldest of
//! whoever has most gives way to the newest; a connection that has a session's place is never displaced.

use crate::limits::{MAX_GREETINGS, MAX_SESSIONS};
use parking_lot::Mutex;
use std::net::IpAddr;
use std::sync::Arc;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};

#[derive(Debug, Default)]
struct Waiting {
    /// Oldest first.
    all: Vec<Waiter>,
    next: u64,
}

#[derive(Debug)]
struct Waiter {
    number: u64,
    from: IpAddr,
    displace: oneshot::Sender<()>,
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

    /// A place for a new connection; if there are too many, the oldest from whichever address has most of them is told to
    /// go: many from one place do not keep others out. The receiver fires when it is this one's turn, and never once it has
    /// a session's place.
    pub(super) fn enter(&self, from: IpAddr) -> (Greeting, oneshot::Receiver<()>) {
        let mut waiting = self.waiting.lock();
        if waiting.all.len() >= MAX_GREETINGS
            && let Some(at) = waiting.most()
        {
            let _ = waiting.all.remove(at).displace.send(());
        }
        let number = waiting.next;
        waiting.next = number.wrapping_add(1);
        let (displace, displaced) = oneshot::channel();
        waiting.all.push(Waiter {
            number,
            from,
            displace,
        });
        let greeting = Greeting {
            places: self.clone(),
            number,
        };
        (greeting, displaced)
    }
}

impl Waiting {
    /// The oldest from whichever address has most; of several such addresses, the one that has it longest.
    fn most(&self) -> Option<usize> {
        let of = |from: IpAddr| self.all.iter().filter(|waiter| waiter.from == from).count();
        let counted = self.all.iter().enumerate();
        counted
            .rev()
            .max_by_key(|(_, waiter)| of(waiter.from))
            .map(|(at, _)| at)
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
            .position(|waiter| waiter.number == self.number)?;
        let place = Arc::clone(&self.places.sessions).try_acquire_owned().ok()?;
        waiting.all.remove(at);
        Some(place)
    }
}

impl Drop for Greeting {
    fn drop(&mut self) {
        let mut waiting = self.places.waiting.lock();
        waiting.all.retain(|waiter| waiter.number != self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Ipv4Addr;

    const HERE: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

    #[test]
    fn a_connection_that_was_admitted_is_never_displaced_and_one_that_was_displaced_never_admitted() {
        let places = Places::new();
        let (first, mut first_told) = places.enter(HERE);
        let place = first.admit();
        let (second, mut second_told) = places.enter(HERE);
        let rest: Vec<_> = (0..MAX_GREETINGS).map(|_| places.enter(HERE)).collect();
        assert!(place.is_some() && first_told.try_recv().is_err());
        assert!(second_told.try_recv().is_ok() && second.admit().is_none());
        drop(rest);
        let all: Vec<_> = (1..MAX_SESSIONS)
            .map(|_| places.enter(HERE).0.admit().expect("there are so many places"))
            .collect();
        let (late, mut late_told) = places.enter(HERE);
        assert!(late.admit().is_none(), "all places are taken");
        drop(all);
        assert!(late.admit().is_some() && late_told.try_recv().is_err());
    }

    #[test]
    fn many_from_one_address_do_not_displace_one_from_another() {
        let places = Places::new();
        let (honest, mut told) = places.enter(IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)));
        let flood: Vec<_> = (0..3 * MAX_GREETINGS).map(|_| places.enter(HERE)).collect();
        assert!(told.try_recv().is_err() && honest.admit().is_some());
        let gone = flood.into_iter().filter_map(|(_, mut told)| told.try_recv().ok());
        assert_eq!(gone.count(), 2 * MAX_GREETINGS + 1);
    }
}
