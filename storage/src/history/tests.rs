//! A moment reads as the volume was then: whatever came after it, through crashes, copies and dropped segments.

mod merging;

use super::{History, format_history};
use crate::clock::SystemClock;
use crate::device::Device;
use crate::store::{AppendError, Change, Store, StoreDevices, StoreParameters};
use crate::test_disk::{Random, TestDisk};
use crate::test_store::when_there_is_room;
use farside_protocol::journal::{ChainPoint, CopyState, RecordKind, Role};
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use uuid::Uuid;

pub(super) const VOLUME_BYTES: u64 = 256 << 10;
const JOURNAL_BYTES: u64 = 640 << 10;

pub(super) struct Disks {
    pub(super) journal: Arc<TestDisk>,
    pub(super) image: Arc<TestDisk>,
    pub(super) ring: Arc<TestDisk>,
}

impl Disks {
    pub(super) fn new(role: Role, ring_bytes: u64) -> Self {
        let disks = Self {
            journal: Arc::new(TestDisk::new(JOURNAL_BYTES)),
            image: Arc::new(TestDisk::new(VOLUME_BYTES)),
            ring: Arc::new(TestDisk::new(ring_bytes)),
        };
        let parameters = StoreParameters {
            role,
            name: "disk0".to_owned(),
            volume: Uuid::from_u128(7),
            journal: Uuid::from_u128(8),
            volume_bytes: VOLUME_BYTES,
            journal_bytes: JOURNAL_BYTES,
            segment_bytes: Some(16 << 10),
            source: Uuid::nil(),
        };
        Store::format(disks.journal.as_ref(), &parameters, 1).unwrap();
        let owner = crate::journal::load_superblock(disks.journal.as_ref()).unwrap();
        format_history(disks.ring.as_ref(), &owner, ring_bytes, 1).unwrap();
        disks
    }

    pub(super) fn open(&self) -> Store {
        self.open_with(self.ring.clone())
    }

    pub(super) fn open_without(&self) -> Store {
        let devices = StoreDevices {
            journal: self.journal.clone(),
            image: self.image.clone(),
            maps: Vec::new(),
        };
        Store::open(devices, Arc::new(SystemClock::new())).unwrap()
    }

    pub(super) fn open_with(&self, ring: Arc<dyn Device>) -> Store {
        let store = self.open_without();
        let history = History::open(ring, &store.superblock(), &store.points()).unwrap();
        store.keep_history(Arc::new(history)).unwrap();
        store
    }

    fn crash(&mut self, random: &mut Random) {
        let keep = [0, 30, 70, 100][usize::try_from(random.below(4)).unwrap()];
        self.journal = Arc::new(self.journal.crash(random, keep));
        self.image = Arc::new(self.image.crash(random, keep));
        self.ring = Arc::new(self.ring.crash(random, keep));
    }
}

/// What the volume was after each record that ended a chunk.
#[derive(Default)]
struct Model {
    now: Vec<u8>,
    states: BTreeMap<u64, Vec<u8>>,
}

impl Model {
    fn new() -> Self {
        let now = vec![0; usize::try_from(VOLUME_BYTES).unwrap()];
        let states = BTreeMap::from([(0, now.clone())]);
        Self { now, states }
    }

    fn lose_after(&mut self, record: u64) {
        self.states.retain(|known, _| *known <= record);
        self.now = self.states[&record].clone();
    }

    fn append(&mut self, store: &Store, random: &mut Random) -> Result<(), AppendError> {
        let mut pending: VecDeque<Change> = (0..=random.below(3)).map(|_| change(random)).collect();
        let all = pending.clone();
        store.append(&mut pending)?;
        for change in all.iter().take(all.len() - pending.len()) {
            let from = usize::try_from(change.offset).unwrap();
            let target = &mut self.now[from..from + change.length as usize];
            match change.kind {
                RecordKind::Write => target.copy_from_slice(&change.data),
                _ => target.fill(0),
            }
        }
        self.states
            .insert(store.points().journaled.record, self.now.clone());
        Ok(())
    }

    /// Every moment that is offered reads as it should; returns how many there are.
    fn check(&self, store: &Store, random: &mut Random, about: &str) -> usize {
        let moments = store.history().unwrap().newest(None, usize::MAX);
        let some = random.below(12) + 1;
        for moment in moments.iter().step_by(usize::try_from(some).unwrap()) {
            let view = store.view(moment).unwrap();
            let mut found = vec![1; self.now.len()];
            let cut = usize::try_from(random.below(VOLUME_BYTES)).unwrap();
            let (one, two) = found.split_at_mut(cut);
            view.read(0, one).unwrap();
            view.read(cut as u64, two).unwrap();
            let expected = &self.states[&moment.record];
            assert!(
                *expected == found,
                "{about}: state after record {}",
                moment.record
            );
        }
        moments.len()
    }
}

/// Writes of one sector to some blocks, also over granules; sometimes zeroes, sometimes of half the volume.
fn change(random: &mut Random) -> Change {
    let kind = match random.below(10) {
        0 => RecordKind::Trim,
        1 => RecordKind::Zero { allocate: true },
        _ => RecordKind::Write,
    };
    let most = if kind == RecordKind::Write { 12 } else { 300 };
    let length = 512 * (1 + random.below(most)).min(VOLUME_BYTES / 1024);
    let offset = random.below((VOLUME_BYTES - length) / 512 + 1) * 512;
    let mut data = vec![
        0;
        if kind == RecordKind::Write {
            usize::try_from(length).unwrap()
        } else {
            0
        }
    ];
    for sector in data.chunks_mut(512) {
        sector.fill(u8::try_from(random.below(200)).unwrap());
    }
    Change {
        offset,
        length: u32::try_from(length).unwrap(),
        kind,
        data: data.into(),
        arrived_us: 0,
    }
}

fn step(store: &Store, model: &mut Model, random: &mut Random) {
    match random.below(9) {
        0..=4 => when_there_is_room(store, || model.append(store, random)),
        5 | 6 => drop(store.sync().unwrap()),
        7 => drop(store.drain().unwrap()),
        _ => store.checkpoint().unwrap(),
    }
}

/// Runs a store through random steps and crashes; says how many moments were kept at the end.
fn live(seed: u64, ring_bytes: u64) -> (usize, usize) {
    let mut random = Random::new(seed);
    let (mut disks, mut model) = (Disks::new(Role::Volume, ring_bytes), Model::new());
    let mut known = 0;
    for life in 0..6 {
        let store = disks.open();
        model.lose_after(store.points().journaled.record);
        // Before anything was applied again nothing is offered that the image does not hold yet.
        model.check(&store, &mut random, &format!("seed {seed} life {life} opened"));
        while store.drain().unwrap() {}
        let applied = store.points().applied.record;
        assert_eq!(store.history().unwrap().newest(None, 1)[0].record, applied);
        known = model.check(&store, &mut random, &format!("seed {seed} life {life} recovered"));
        for number in 0..40 {
            step(&store, &mut model, &mut random);
            if number % 8 == 0 {
                model.check(
                    &store,
                    &mut random,
                    &format!("seed {seed} life {life} step {number}"),
                );
            }
        }
        drop(store);
        disks.crash(&mut random);
    }
    (known, model.states.len())
}

#[test]
fn a_moment_reads_as_the_volume_was_through_crashes() {
    let mut fewer = 0;
    for seed in 1..=12 {
        let (known, all) = live(seed, 6 << 20);
        // Each end of a chunk is one, and none is lost while there is room.
        fewer += all - known.min(all);
        assert!(known > 20, "seed {seed}: {known} of {all}");
    }
    assert!(fewer < 12 * 40, "{fewer} moments are missing");
}

#[test]
fn a_full_ring_drops_the_oldest_and_nothing_else() {
    for seed in 100..=112 {
        let (known, all) = live(seed, 768 << 10);
        assert!(known < all, "seed {seed}");
    }
}

#[test]
fn what_one_batch_needs_beyond_the_ring_ends_the_history_and_nothing_else() {
    let disks = Disks::new(Role::Volume, 192 << 10);
    let store = disks.open();
    let mut random = Random::new(3);
    let write = |fill: u8| {
        let data = vec![fill; usize::try_from(VOLUME_BYTES).unwrap()];
        let mut pending = VecDeque::from([Change {
            offset: 0,
            length: u32::try_from(VOLUME_BYTES).unwrap(),
            kind: RecordKind::Write,
            data: data.into(),
            arrived_us: 0,
        }]);
        while !pending.is_empty() {
            if store.append(&mut pending).is_err() {
                store.sync().unwrap();
                while store.drain().unwrap() {}
                store.relieve().unwrap();
            }
        }
        store.sync().unwrap();
        while store.drain().unwrap() {}
    };
    let _ = &mut random;
    write(1);
    write(2);
    assert_eq!(disks.image.bytes()[0], 2);
    drop(store);
    let store = disks.open();
    while store.drain().unwrap() {}
    assert!(store.history().unwrap().state().newest.is_some());
}

/// A copy goes over a replica in pieces, is cut by crashes and begun again; the state before it can be viewed all the time.
#[test]
fn the_last_consistent_state_can_be_viewed_throughout_a_copy() {
    for seed in 1..=20 {
        let mut random = Random::new(seed);
        let (mut disks, mut model) = (Disks::new(Role::Replica, 6 << 20), Model::new());
        let store = disks.open();
        store.begin_copy(&ChainPoint::default(), Uuid::nil(), 1).unwrap();
        store.zero_copy(0, VOLUME_BYTES).unwrap();
        store.end_copy(0).unwrap();
        store.checkpoint().unwrap();
        assert_eq!(store.copy_progress().state, CopyState::Complete);
        for _ in 0..60 {
            step(&store, &mut model, &mut random);
        }
        store.sync().unwrap();
        while store.drain().unwrap() {}
        let kept = store.points().applied;
        model.check(&store, &mut random, "before the copy");
        if random.below(2) == 0 {
            drop(store);
            disks.crash(&mut random);
        }
        for _ in 0..3 {
            let store = disks.open();
            while store.drain().unwrap() {}
            let base = ChainPoint {
                sequence: kept.sequence + 5,
                record: kept.record + 10,
                ..kept
            };
            store.begin_copy(&base, Uuid::nil(), 1).unwrap();
            let mut at = 0;
            while at < VOLUME_BYTES && random.below(30) > 0 {
                let length = (4096 * (1 + random.below(20))).min(VOLUME_BYTES - at);
                if random.below(3) == 0 {
                    store.zero_copy(at, length).unwrap();
                } else {
                    let from = usize::try_from(at).unwrap();
                    let mut data =
                        model.states[&kept.record][from..from + usize::try_from(length).unwrap()].to_vec();
                    if random.below(2) == 0 {
                        data.fill(u8::try_from(random.below(256)).unwrap());
                    }
                    store.write_copy(at, &data).unwrap();
                }
                at += length;
                if random.below(4) == 0 {
                    store.checkpoint().unwrap();
                }
            }
            assert_eq!(
                store.history().unwrap().newest(None, 1)[0].record,
                kept.record,
                "seed {seed}"
            );
            model.check(&store, &mut random, &format!("seed {seed} in the copy"));
            drop(store);
            disks.crash(&mut random);
        }
        let store = disks.open();
        store.rewind_copy();
        while store.drain().unwrap() {}
        assert_eq!(
            store.history().unwrap().newest(None, 1)[0].record,
            kept.record,
            "seed {seed}"
        );
        model.check(&store, &mut random, &format!("seed {seed} after the crash"));
    }
}
