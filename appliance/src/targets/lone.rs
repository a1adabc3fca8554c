//! A host that asks for one thing at a time, and what it will ask for next.
//!
//! Its connection has nothing else to do than what it asks for, so it may wait for a disk itself. And one that flushes
//! after each change will do so again: the sync can begin before it asks, while it still handles the reply.

use super::limits::{LONE_REQUESTS, SLOW_SYNC};
use std::time::Duration;

/// What one round of a connection took.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Round {
    Nothing,
    /// More than one request, or one while replies were owed.
    Several,
    /// One change, and nothing else was owed.
    Change,
    /// One flush, likewise.
    Flush,
    /// One of anything else, likewise.
    Other,
}

/// What a connection has seen of its host.
#[derive(Debug, Default)]
pub(super) struct LoneHost {
    /// Requests in a row that came alone.
    requests: u32,
    /// Changes in a row that came alone, each with a flush after it.
    pairs: u32,
    last_was_change: bool,
}

impl LoneHost {
    pub(super) fn note(&mut self, round: Round) {
        match round {
            Round::Nothing => return,
            Round::Several => *self = Self::default(),
            Round::Flush if self.last_was_change => self.pairs = self.pairs.saturating_add(1),
            Round::Change if !self.last_was_change => {}
            Round::Flush | Round::Change | Round::Other => self.pairs = 0,
        }
        self.last_was_change = round == Round::Change;
        if round != Round::Several {
            self.requests = self.requests.saturating_add(1);
        }
    }

    /// A wait for the disk took so long. One that is slow has to prove itself again: who waits for it does nothing else.
    pub(super) fn waited(&mut self, time: Duration) {
        if time > SLOW_SYNC {
            *self = Self::default();
        }
    }

    /// Whether its connection may wait for a disk.
    pub(super) fn may_wait(&self) -> bool {
        self.requests > LONE_REQUESTS
    }

    /// Whether a flush will follow the change that came last.
    pub(super) fn will_flush(&self) -> bool {
        self.last_was_change && self.pairs >= LONE_REQUESTS
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(rounds: &[Round]) -> LoneHost {
        let mut host = LoneHost::default();
        rounds.iter().for_each(|round| host.note(*round));
        host
    }

    fn pairs() -> Vec<Round> {
        [Round::Change, Round::Flush].repeat(LONE_REQUESTS as usize)
    }

    #[test]
    fn only_a_host_that_always_flushed_after_a_change_is_believed_to_do_it_again() {
        assert!(!after(&pairs()).will_flush(), "it flushed already");
        let then = |more: &[Round]| after(&[&pairs(), more].concat());
        assert!(then(&[Round::Change]).will_flush());
        assert!(then(&[Round::Nothing, Round::Change, Round::Nothing]).will_flush());
        for other in [
            [Round::Change, Round::Change],
            [Round::Flush, Round::Change],
            [Round::Other, Round::Change],
            [Round::Several, Round::Change],
        ] {
            assert!(!then(&other).will_flush(), "{other:?}");
        }
        assert!(!after(&pairs()[2..]).will_flush());
    }

    #[test]
    fn a_disk_that_is_slow_is_not_waited_for_again_at_once() {
        let mut host = after(&pairs());
        host.waited(SLOW_SYNC);
        assert!(host.may_wait());
        host.waited(SLOW_SYNC * 2);
        assert!(!host.may_wait());
    }

    #[test]
    fn a_host_that_asks_for_several_things_at_once_is_not_waited_for() {
        assert!(after(&pairs()).may_wait());
        assert!(!after(&[&pairs()[..], &[Round::Several]].concat()).may_wait());
    }
}
