//! What a volume has promised at a moment: the least that has to be there after a crash.

use crate::explore::Crash;
use crate::machine::mix;
use farside_protocol::journal::ConsumerState;
use std::sync::Arc;

/// Whether the superblock may say that the end was clean.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Clean {
    /// It must not.
    No,
    /// It may: the call that says so is under way.
    Possible,
    /// It must.
    Certain,
}

/// A stage of a consumer's life.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Phase {
    /// `None` before it was added.
    pub(crate) state: Option<ConsumerState>,
    /// Whether everything has to be marked in its map.
    pub(crate) full: bool,
    /// Records at which chunks end that may have reached it unconfirmed.
    pub(crate) trail: Arc<[u64]>,
}

/// What is known of a consumer.
#[derive(Clone, Debug)]
pub(crate) struct Known {
    /// Its name.
    pub(crate) name: &'static str,
    /// The stages in which a crash may leave it; the newest is the last.
    pub(crate) allowed: Vec<Phase>,
    /// The newest record it may be said to hold.
    pub(crate) confirmed: u64,
}

/// What a volume has promised.
#[derive(Clone, Debug)]
pub(crate) struct Promise {
    /// Survives loss of power.
    pub(crate) durable: u64,
    /// Survives the death of the process.
    pub(crate) acknowledged: u64,
    /// Newest epoch in which a chunk may have been written.
    pub(crate) epoch: u64,
    /// Whether the end may be a clean one.
    pub(crate) clean: Clean,
    /// The consumers in the order in which they were added.
    pub(crate) consumers: Vec<Known>,
    /// Counts the changes of what consumers are allowed.
    pub(crate) generation: u64,
}

impl Promise {
    /// Of a volume that was just made.
    pub(crate) fn new() -> Self {
        Self {
            durable: 0,
            acknowledged: 0,
            epoch: 1,
            clean: Clean::Possible,
            consumers: Vec::new(),
            generation: 0,
        }
    }

    /// The record that has to be there after such a crash.
    pub(crate) fn floor(&self, crash: Crash) -> u64 {
        match crash {
            Crash::Power => self.durable,
            Crash::Kill => self.acknowledged,
        }
    }

    /// A number for everything that the check after such a crash depends on.
    pub(crate) fn key(&self, crash: Crash) -> u64 {
        let clean = self.clean as u64;
        [
            self.floor(crash),
            self.epoch,
            clean,
            self.generation,
            crash as u64,
        ]
        .into_iter()
        .fold(7, mix)
    }

    /// What is known of a consumer.
    pub(crate) fn consumer(&mut self, name: &str) -> &mut Known {
        let found = self.consumers.iter_mut().find(|known| known.name == name);
        found.expect("workloads name consumers that they added")
    }

    /// A further stage becomes possible.
    pub(crate) fn allow(&mut self, name: &str, phase: Phase) {
        self.generation += 1;
        self.consumer(name).allowed.push(phase);
    }

    /// Every consumer is, durably, in the newest stage it can be in.
    pub(crate) fn settle(&mut self) {
        for known in &mut self.consumers {
            if known.allowed.len() > 1 {
                self.generation += 1;
                known.allowed.drain(..known.allowed.len() - 1);
            }
        }
    }
}

/// A stage without anything to prove.
pub(crate) fn phase(state: ConsumerState, full: bool) -> Phase {
    Phase {
        state: Some(state),
        full,
        trail: Arc::new([]),
    }
}
