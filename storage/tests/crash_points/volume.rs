//! Drives a store as the product's threads would, one call at a time, and notes what each call promises.

use crate::history::{History, VOLUME_BYTES, change};
use crate::machine::{Event, IMAGE, JOURNAL, MAPS, Machine};
use crate::promise::{Clean, Known, Phase, Promise, phase};
use crate::recorder::{Recorder, StepClock, Tape};
use crate::run::Run;
use crate::subsets::Effort;
use farside_protocol::journal::limits::{MIN_SEGMENT_BYTES, RING_OFFSET};
use farside_protocol::journal::{ConsumerState, RecordKind, Role};
use farside_storage::{AppendError, Change, Store, StoreDevices, StoreParameters};
use std::collections::VecDeque;
use std::sync::Arc;
use uuid::Uuid;

/// Room for a dirty-block map and its trail.
const MAP_BYTES: u64 = 480 << 10;

/// Shorthand for a change: kind, offset, length.
pub(crate) type Wanted = (RecordKind, u64, u64);

/// A volume in use.
pub(crate) struct Volume {
    pub(crate) recorder: Recorder,
    pub(crate) store: Store,
    pub(crate) history: History,
    pub(crate) promise: Promise,
    promises: Vec<Promise>,
    /// Makes the content of every change another.
    number: u64,
}

/// A machine with a store that was just made, durably, and disks for so many dirty-block maps.
pub(crate) fn formatted(role: Role, segments: u64, maps: usize) -> Machine {
    let journal_bytes = RING_OFFSET + segments * u64::from(MIN_SEGMENT_BYTES);
    let mut sizes = vec![journal_bytes, VOLUME_BYTES];
    sizes.extend(std::iter::repeat_n(MAP_BYTES, maps));
    let recorder = Recorder::new(Machine::new(&sizes));
    let parameters = StoreParameters {
        role,
        name: "disk".to_owned(),
        volume: Uuid::from_u128(7),
        journal: Uuid::from_u128(8 + u128::from(role == Role::Replica)),
        volume_bytes: VOLUME_BYTES,
        journal_bytes,
        segment_bytes: Some(MIN_SEGMENT_BYTES),
        source: Uuid::nil(),
    };
    Store::format(recorder.device(JOURNAL).as_ref(), &parameters, 1).expect("nothing fails here");
    recorder.machine()
}

/// Opens the store of a recorded machine.
pub(crate) fn open(recorder: &Recorder) -> Result<Store, String> {
    let devices = StoreDevices {
        journal: recorder.device(JOURNAL),
        image: recorder.device(IMAGE),
        maps: recorder.devices_from(MAPS),
    };
    Store::open(devices, Arc::new(StepClock::default())).map_err(|error| format!("does not open: {error}"))
}

impl Volume {
    /// Opens what a machine holds. `number` begins the content of its changes.
    pub(crate) fn resume(machine: Machine, history: History, first: Promise, number: u64) -> Self {
        let recorder = Recorder::new(machine);
        let store = open(&recorder).expect("it was opened before");
        let mut volume = Self {
            recorder,
            store,
            history,
            promises: vec![first.clone()],
            promise: first,
            number,
        };
        volume.opened();
        volume
    }

    /// A new one with a ring of so many segments, and as many consumers at most.
    pub(crate) fn new(segments: u64, consumers: usize) -> Self {
        Self::resume(
            formatted(Role::Volume, segments, consumers),
            History::new(),
            Promise::new(),
            0,
        )
    }

    /// What was recorded, and what checks it.
    pub(crate) fn finish(self, nested: Effort) -> (Tape, Run) {
        let run = Run {
            history: Arc::new(self.history),
            promises: self.promises,
            nested,
        };
        (self.recorder.tape(), run)
    }

    fn note(&mut self) {
        self.recorder.event(Event::Promise(self.promises.len()));
        self.promises.push(self.promise.clone());
    }

    fn opened(&mut self) {
        let head = self.store.points().journaled.record;
        self.promise.durable = head;
        self.promise.acknowledged = head;
        self.promise.epoch = self.store.opened().epoch;
        self.promise.clean = Clean::No;
        // Opening settles in which stage each consumer is.
        for known in &mut self.promise.consumers {
            let state = self.store.consumer(known.name).map(|view| view.state);
            known.allowed.retain(|phase| phase.state == state);
        }
        self.promise.generation += 1;
        self.note();
    }

    /// One write.
    pub(crate) fn write(&mut self, offset: u64, length: u64) {
        self.group(&[(RecordKind::Write, offset, length)]);
    }

    /// Changes that come together.
    pub(crate) fn group(&mut self, wanted: &[Wanted]) {
        let mut pending = VecDeque::new();
        for (kind, offset, length) in wanted {
            self.number += 1;
            pending.push_back(change(self.number, *kind, *offset, *length));
        }
        while !pending.is_empty() {
            self.append(&mut pending);
        }
    }

    fn append(&mut self, pending: &mut VecDeque<Change>) {
        for _ in 0..20 {
            let before = pending.clone();
            match self.store.append(pending) {
                Ok(appended) => {
                    self.history.remember(&before, pending, appended.point);
                    self.promise.acknowledged = appended.point.record;
                    assert_eq!(
                        appended.point.epoch, self.promise.epoch,
                        "of the epoch that opening began"
                    );
                    return self.note();
                }
                Err(AppendError::NotDurable) => self.sync(),
                Err(AppendError::Full) => {
                    self.sync();
                    self.drain();
                    self.relieve();
                }
                Err(error) => panic!("append: {error}"),
            }
        }
        panic!("no room after 20 attempts: {:?}", self.store.points());
    }

    /// Makes the journal durable.
    pub(crate) fn sync(&mut self) {
        self.promise.durable = self.store.sync().expect("nothing fails here").record;
        assert_eq!(
            self.promise.durable,
            self.history.records(),
            "a sync covers everything"
        );
        self.note();
    }

    /// Brings the image up to what is durable.
    pub(crate) fn drain(&mut self) {
        while self.store.drain().expect("nothing fails here") {}
    }

    /// Records positions and moves the tail.
    pub(crate) fn checkpoint(&mut self) {
        self.store.checkpoint().expect("nothing fails here");
        self.promise.settle();
        self.note();
    }

    /// Makes room; consumers may be cut loose. Returns those that were.
    pub(crate) fn relieve(&mut self) -> Vec<String> {
        let held = self.cut_phases();
        let before = self.promise.clone();
        for (name, cut) in held {
            self.promise.allow(name, cut);
        }
        self.note();
        let generation = self.store.superblock().generation;
        let cut = self.store.relieve().expect("nothing fails here");
        for (known, old) in self.promise.consumers.iter_mut().zip(&before.consumers) {
            if !cut.iter().any(|name| name == known.name) {
                known.allowed.clone_from(&old.allowed);
            }
        }
        self.promise.generation += 1;
        if self.store.superblock().generation != generation {
            self.promise.settle();
        }
        self.note();
        cut
    }

    /// The stage in which each consumer would be if it were cut loose now.
    fn cut_phases(&self) -> Vec<(&'static str, Phase)> {
        let cut = |known: &Known| {
            let view = self.store.consumer(known.name)?;
            (view.state != ConsumerState::NeedsCopy).then(|| {
                let sent = self
                    .history
                    .chunks_between(view.acked.record, self.promise.durable);
                let full = view.state == ConsumerState::Copying;
                let state = Some(ConsumerState::NeedsCopy);
                let trail = sent.iter().map(|point| point.record).collect();
                (known.name, Phase { state, full, trail })
            })
        };
        self.promise.consumers.iter().filter_map(cut).collect()
    }

    /// Adds a consumer; its map is the next disk.
    pub(crate) fn add_consumer(&mut self, name: &'static str) {
        let absent = Phase {
            state: None,
            ..phase(ConsumerState::NeedsCopy, false)
        };
        let map = self.recorder.device(MAPS + self.promise.consumers.len());
        self.promise.consumers.push(Known {
            name,
            allowed: vec![absent],
            confirmed: 0,
        });
        self.promise.allow(name, phase(ConsumerState::NeedsCopy, true));
        self.note();
        self.store.add_consumer(name, map).expect("there are few");
        self.promise.settle();
        self.note();
    }

    /// Begins a copy for a consumer.
    pub(crate) fn begin_copy(&mut self, name: &'static str) {
        self.promise.allow(name, phase(ConsumerState::Copying, true));
        self.promise.consumer(name).confirmed = self.store.points().applied.record;
        self.note();
        self.store.begin_consumer_copy(name, true).expect("it was added");
        self.promise.settle();
        self.note();
    }

    /// A consumer confirms all but the last `behind` durable chunks; `complete`: its copy has ended, too.
    pub(crate) fn acknowledge(&mut self, name: &'static str, behind: u64, complete: bool) {
        let durable = self.store.points().durable;
        let point = self
            .history
            .chunk(durable.sequence.saturating_sub(behind))
            .unwrap_or_default();
        let state = self.store.consumer(name).map(|view| view.state);
        if complete && state == Some(ConsumerState::Copying) {
            self.promise.allow(name, phase(ConsumerState::Attached, false));
        }
        let confirmed = &mut self.promise.consumer(name).confirmed;
        *confirmed = point.record.max(*confirmed);
        self.store
            .acknowledge(name, point, complete)
            .expect("it is durable");
        self.note();
    }

    /// Ends cleanly, and starts again.
    pub(crate) fn shut_down_and_open(&mut self) {
        self.promise.clean = Clean::Possible;
        self.note();
        self.store.shut_down().expect("nothing fails here");
        self.promise.durable = self.promise.acknowledged;
        self.promise.clean = Clean::Certain;
        self.promise.settle();
        self.note();
        self.promise.clean = Clean::Possible;
        self.reopen();
        assert!(self.store.opened().clean, "a clean end is known");
    }

    /// Is killed, and starts again.
    pub(crate) fn die_and_open(&mut self) {
        self.promise.clean = Clean::No;
        self.reopen();
    }

    fn reopen(&mut self) {
        self.note();
        self.store = open(&self.recorder).expect("nothing was lost");
        let head = self.store.points().journaled.record;
        assert_eq!(head, self.history.records(), "nothing was lost");
        self.opened();
    }
}
