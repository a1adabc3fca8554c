//! What a crash left of a volume, opened and held against its history.

use crate::consumers::check_consumers;
use crate::disk::{Disk, index};
use crate::explore::{Crash, Subject, explore};
use crate::history::{History, VOLUME_BYTES};
use crate::machine::{IMAGE, Machine};
use crate::promise::{Clean, Promise};
use crate::recorder::Recorder;
use crate::subsets::Effort;
use crate::volume::{Volume, open};
use farside_protocol::journal::{ChainPoint, RecordKind};
use farside_storage::{Points, Store};
use std::sync::Arc;

/// A recorded run of a volume.
pub(crate) struct Run {
    pub(crate) history: Arc<History>,
    pub(crate) promises: Vec<Promise>,
    /// How thoroughly a recovery is followed.
    pub(crate) nested: Effort,
}

/// An error with words unless `holds`.
pub(crate) fn require(holds: bool, words: impl FnOnce() -> String) -> Result<(), String> {
    if holds { Ok(()) } else { Err(words()) }
}

impl Subject for Run {
    fn key(&self, promise: usize, crash: Crash) -> u64 {
        self.promises[promise].key(crash)
    }

    fn check(&self, machine: &Machine, promise: usize, crash: Crash, deep: bool) -> Result<u64, String> {
        let promise = &self.promises[promise];
        let (head, after) = self.reopen(machine, promise, promise.floor(crash))?;
        let again = Promise {
            durable: head.record,
            acknowledged: head.record,
            clean: Clean::No,
            ..promise.clone()
        };
        // Everything was durable when that ended: without any of the rest it is the same.
        let lost = after.lose_power(&vec![false; after.pending()]);
        let (second, _) = self
            .reopen(&lost, &again, head.record)
            .map_err(|problem| format!("opened a second time: {problem}"))?;
        require(second == head, || {
            format!("opened a second time: {second:?} after {head:?}")
        })?;
        if !deep {
            return Ok(1);
        }
        let first = Promise {
            durable: if crash == Crash::Power {
                head.record
            } else {
                promise.durable
            },
            acknowledged: head.record,
            clean: if promise.clean == Clean::No {
                Clean::No
            } else {
                Clean::Possible
            },
            ..promise.clone()
        };
        self.follow(machine, head, first).map(|states| states + 1)
    }
}

impl Run {
    /// Opens, checks everything, and leaves the store checkpointed. Returns the head and the machine.
    fn reopen(
        &self,
        machine: &Machine,
        promise: &Promise,
        floor: u64,
    ) -> Result<(ChainPoint, Machine), String> {
        let recorder = Recorder::new(machine.clone());
        let store = open(&recorder)?;
        let head = self.check_opened(&store, promise, floor)?;
        let expected = self.history.state(head.record);
        check_reads(&store, &expected)?;
        check_consumers(&store, &recorder, promise, &self.history)?;
        let failed = |error| format!("after the crash: {error}");
        while store.drain().map_err(failed)? {}
        check_order(&store.points())?;
        check_reads(&store, &expected).map_err(|problem| format!("drained: {problem}"))?;
        store.checkpoint().map_err(failed)?;
        check_order(&store.points())?;
        let machine = recorder.machine();
        for (disk, words) in [
            (machine.current(IMAGE), "the image"),
            (machine.durable(IMAGE), "the durable image"),
        ] {
            if let Some(at) = disk.differs_from(&expected) {
                return Err(format!(
                    "{words} is wrong at byte {at} after record {}",
                    head.record
                ));
            }
        }
        Ok((head, machine))
    }

    fn check_opened(&self, store: &Store, promise: &Promise, floor: u64) -> Result<ChainPoint, String> {
        let (points, opened) = (store.points(), store.opened());
        check_order(&points)?;
        let head = points.journaled;
        require(points.durable == head && opened.recovered.head == head, || {
            format!("it does not begin at what it recovered: {points:?}")
        })?;
        require(head.record >= floor, || {
            format!("record {floor} is lost, {} is the head", head.record)
        })?;
        require(head.record <= self.history.records(), || {
            format!("record {} never was", head.record)
        })?;
        let known = self.history.chunk(head.sequence).unwrap_or_default();
        let same = (head.record, head.checksum, head.epoch) == (known.record, known.checksum, known.epoch);
        require(same, || {
            format!("the head {head:?} is not of this history: {known:?}")
        })?;
        match (opened.clean, promise.clean) {
            (true, Clean::No) => return Err("an unclean end was called clean".to_owned()),
            (false, Clean::Certain) => return Err("a clean end was not known".to_owned()),
            (true, _) => require(
                head.record == promise.acknowledged && opened.epoch == promise.epoch,
                || {
                    format!(
                        "clean at record {} of epoch {}: {promise:?}",
                        head.record, opened.epoch
                    )
                },
            )?,
            (false, _) => require(opened.epoch > promise.epoch, || {
                format!("epoch {} was used before the crash", opened.epoch)
            })?,
        }
        Ok(head)
    }

    /// Crashes again at every event of the recovery and of a little use after it, whose changes are others than
    /// those that were lost.
    fn follow(&self, machine: &Machine, head: ChainPoint, first: Promise) -> Result<u64, String> {
        let branch = History::branch(&self.history, head);
        let mut volume = Volume::resume(machine.clone(), branch, first, 1 << 20);
        // At the head if the segment has room, or in the next segment: what was torn may stand at either place.
        volume.write(
            8192,
            if head.sequence.is_multiple_of(2) {
                3000
            } else {
                12 << 10
            },
        );
        volume.group(&[
            (RecordKind::Write, 4096, 6000),
            (RecordKind::Trim, 60_000, 70_000),
            (RecordKind::Write, 64 << 10, 512),
        ]);
        volume.sync();
        volume.drain();
        volume.write(10_000, 12 << 10);
        volume.checkpoint();
        volume.write(100_000, 4096);
        let (tape, run) = volume.finish(self.nested);
        let counts = explore(&tape, &run, self.nested, None).map_err(|problem| {
            format!(
                "second crash after a recovery to record {}: {problem}",
                head.record
            )
        })?;
        Ok(counts.power + counts.kill)
    }
}

fn check_reads(store: &Store, expected: &Disk) -> Result<(), String> {
    let mut bytes = vec![0; index(VOLUME_BYTES)];
    store
        .read(0, &mut bytes)
        .map_err(|error| format!("cannot be read: {error}"))?;
    match expected.difference(&bytes) {
        Some(at) => Err(format!("byte {at} of the volume is wrong")),
        None => Ok(()),
    }
}

/// Positions stay in their order.
pub(crate) fn check_order(points: &Points) -> Result<(), String> {
    let order = [
        points.tail,
        points.mirrored,
        points.applied,
        points.durable,
        points.journaled,
    ];
    let sorted =
        order.is_sorted_by(|a, b| a.address <= b.address && a.record <= b.record && a.sequence <= b.sequence);
    require(sorted, || format!("positions out of order: {points:?}"))
}
