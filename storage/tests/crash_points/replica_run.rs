//! What a crash left of a replica, opened and held against the volume it follows.

use crate::disk::Disk;
use crate::explore::{Crash, Subject, explore};
use crate::machine::{IMAGE, Machine, mix};
use crate::recorder::Recorder;
use crate::replica::{Replica, Source, Stage};
use crate::run::{check_order, require};
use crate::subsets::Effort;
use crate::volume::open;
use farside_protocol::journal::{ChainPoint, CopyState};
use farside_storage::Store;
use std::sync::Arc;

/// A recorded run of a replica.
pub(crate) struct ReplicaRun {
    pub(crate) source: Arc<Source>,
    pub(crate) promises: Vec<Vec<Stage>>,
    /// How thoroughly a recovery is followed.
    pub(crate) nested: Effort,
}

impl Stage {
    fn floor(&self, crash: Crash) -> u64 {
        match crash {
            Crash::Power => self.durable,
            Crash::Kill => self.journaled,
        }
    }
}

impl Subject for ReplicaRun {
    fn key(&self, promise: usize, crash: Crash) -> u64 {
        let stages = &self.promises[promise];
        stages.iter().fold(crash as u64, |key, stage| {
            mix(
                mix(mix(key, stage.state as u64), stage.floor(crash)),
                stage.copied,
            )
        })
    }

    fn check(&self, machine: &Machine, promise: usize, crash: Crash, deep: bool) -> Result<u64, String> {
        let stages = &self.promises[promise];
        let recorder = Recorder::new(machine.clone());
        let store = open(&recorder)?;
        let head = self.check_opened(&store, stages, crash)?;
        if store.copy_progress().state == CopyState::Complete {
            while store.drain().map_err(|error| error.to_string())? {}
            let expected = self.source.history.state(head.record);
            check_image(recorder.machine().current(IMAGE), &expected, head.record)?;
        }
        drop(store);
        let mut replica = Replica::resume(recorder.machine(), &self.source, stages.clone());
        replica.catch_up();
        self.check_caught_up(&replica.store, &replica.recorder.machine())?;
        let after = replica.recorder.machine();
        let lost = after.lose_power(&vec![false; after.pending()]);
        let recorder = Recorder::new(lost.clone());
        let store = open(&recorder).map_err(|problem| format!("caught up and lost power: {problem}"))?;
        self.check_caught_up(&store, &lost)
            .map_err(|problem| format!("and lost power: {problem}"))?;
        if deep {
            self.follow(machine, stages, head, crash).map(|states| states + 1)
        } else {
            Ok(1)
        }
    }
}

impl ReplicaRun {
    fn check_opened(&self, store: &Store, stages: &[Stage], crash: Crash) -> Result<ChainPoint, String> {
        let (points, copy) = (store.points(), store.copy_progress());
        check_order(&points)?;
        let head = points.journaled;
        require(points.durable == head, || {
            format!("it does not begin at its head: {points:?}")
        })?;
        let known = self.source.point(head.sequence);
        let same = (head.record, head.checksum, head.epoch) == (known.record, known.checksum, known.epoch);
        require(same, || {
            format!("the head {head:?} is none of the volume's chunks: {known:?}")
        })?;
        let fits = |stage: &Stage| {
            stage.state == copy.state && head.record >= stage.floor(crash) && copy.durable >= stage.copied
        };
        require(stages.iter().any(fits), || {
            format!("it is {copy:?} at record {}; promised is {stages:?}", head.record)
        })?;
        Ok(head)
    }

    fn check_caught_up(&self, store: &Store, machine: &Machine) -> Result<(), String> {
        let (copy, points, last) = (store.copy_progress(), store.points(), self.source.last());
        require(copy.state == CopyState::Complete, || {
            format!("caught up, and {copy:?}")
        })?;
        let expected = self.source.point(last).record;
        require(points.applied.record == expected, || {
            format!("caught up to {expected}: {points:?}")
        })?;
        let state = self.source.history.state(expected);
        check_image(machine.durable(IMAGE), &state, expected)
            .map_err(|problem| format!("caught up: {problem}"))
    }

    /// Crashes again at every event of the recovery and of catching up after it.
    fn follow(
        &self,
        machine: &Machine,
        stages: &[Stage],
        head: ChainPoint,
        crash: Crash,
    ) -> Result<u64, String> {
        let mut first = stages.to_vec();
        for stage in &mut first {
            stage.journaled = stage.journaled.min(head.record);
            if crash == Crash::Power {
                // All that is left is durable; a process that dies now loses nothing of it.
                stage.journaled = stage.durable.min(head.record);
            }
        }
        let mut replica = Replica::resume(machine.clone(), &self.source, first);
        if replica.store.copy_progress().state == CopyState::Copying && !head.sequence.is_multiple_of(2) {
            // The sender begins anew, from a place that the replica had already passed.
            replica.begin(head.sequence / 2);
        }
        replica.catch_up();
        let (tape, run) = replica.finish_run(self.nested);
        let counts = explore(&tape, &run, self.nested, None).map_err(|problem| {
            format!(
                "second crash after a recovery to record {}: {problem}",
                head.record
            )
        })?;
        Ok(counts.power + counts.kill)
    }
}

fn check_image(image: &Disk, expected: &Disk, record: u64) -> Result<(), String> {
    match image.differs_from(expected) {
        Some(at) => Err(format!("the image is wrong at byte {at} after record {record}")),
        None => Ok(()),
    }
}
