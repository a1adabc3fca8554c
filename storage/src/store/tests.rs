//! The promises of a store, on a disk that loses what was not synced.

mod merging;

use super::*;
use crate::clock::SystemClock;
use crate::journal::{ReadError, load_superblock, recover, scan_all};
use crate::test_disk::{Random, TestDisk};
use crate::test_store::when_there_is_room;
use bytes::Bytes;
use farside_protocol::journal::{ConsumerState, CopyState, RecordKind, Role, What};
use std::collections::VecDeque;
use uuid::Uuid;

const VOLUME_BYTES: u64 = 96 << 10;
const JOURNAL_BYTES: u64 = (64 << 10) + 16 * (16 << 10);

struct World {
    journal: Arc<TestDisk>,
    image: Arc<TestDisk>,
    map: Arc<TestDisk>,
    store: Store,
    /// Every change ever journaled that has not been lost, in order: one per record.
    history: Vec<(u64, Vec<u8>)>,
}

fn parameters(role: Role, volume: Uuid) -> StoreParameters {
    StoreParameters {
        role,
        name: "disk0".to_owned(),
        volume,
        journal: Uuid::new_v4(),
        volume_bytes: VOLUME_BYTES,
        journal_bytes: JOURNAL_BYTES,
        segment_bytes: Some(16 << 10),
        source: Uuid::nil(),
    }
}

fn open(journal: &Arc<TestDisk>, image: &Arc<TestDisk>, map: &Arc<TestDisk>) -> Result<Store, StorageError> {
    let devices = StoreDevices {
        journal: journal.clone(),
        image: image.clone(),
        maps: vec![map.clone() as Arc<dyn Device>],
    };
    Store::open(devices, Arc::new(SystemClock::new()))
}

impl World {
    fn new(role: Role) -> Self {
        let (journal, image) = (TestDisk::new(JOURNAL_BYTES), TestDisk::new(VOLUME_BYTES));
        let map = Arc::new(TestDisk::new(1 << 20));
        Store::format(&journal, &parameters(role, Uuid::from_u128(7)), 1).unwrap();
        let (journal, image) = (Arc::new(journal), Arc::new(image));
        let store = open(&journal, &image, &map).unwrap();
        Self {
            journal,
            image,
            map,
            store,
            history: Vec::new(),
        }
    }

    /// One that was copied when the volume was empty.
    fn complete_replica() -> Self {
        let far = Self::new(Role::Replica);
        far.store
            .begin_copy(&ChainPoint::default(), Uuid::nil(), 1)
            .unwrap();
        far.store.zero_copy(0, VOLUME_BYTES).unwrap();
        far.store.end_copy(0).unwrap();
        far.store.checkpoint().unwrap();
        assert_eq!(far.store.copy_progress().state, CopyState::Complete);
        far
    }

    fn state_after(&self, records: u64) -> Vec<u8> {
        let mut state = vec![0; usize::try_from(VOLUME_BYTES).unwrap()];
        for (offset, bytes) in &self.history[..usize::try_from(records).unwrap()] {
            let from = usize::try_from(*offset).unwrap();
            state[from..from + bytes.len()].copy_from_slice(bytes);
        }
        state
    }

    fn random_changes(&self, random: &mut Random) -> VecDeque<Change> {
        (0..=random.below(4))
            .map(|_| {
                let align = [1, 512, 4096][usize::try_from(random.below(3)).unwrap()];
                let length = (random.below(9000) / align).max(1) * align;
                let offset = random.below((VOLUME_BYTES - length) / align + 1) * align;
                let fill = u8::try_from(random.below(255)).unwrap() + 1;
                let kind = match random.below(8) {
                    0 => RecordKind::Trim,
                    1 => RecordKind::Zero {
                        allocate: random.below(2) == 0,
                    },
                    _ => RecordKind::Write,
                };
                let data = if kind == RecordKind::Write {
                    vec![fill; usize::try_from(length).unwrap()]
                } else {
                    vec![]
                };
                Change {
                    offset,
                    length: u32::try_from(length).unwrap(),
                    kind,
                    data: data.into(),
                    arrived_us: 0,
                }
            })
            .collect()
    }

    /// Appends one chunk, making room as the threads around a store would.
    fn append(&mut self, pending: &mut VecDeque<Change>) {
        let before = pending.clone();
        loop {
            match self.store.append(pending) {
                Ok(appended) => return self.remember(&before, appended.point.record),
                Err(AppendError::NotDurable) => drop(self.store.sync().unwrap()),
                Err(AppendError::Full) => {
                    self.store.sync().unwrap();
                    self.store.drain().unwrap();
                    self.store.relieve().unwrap();
                }
                Err(error) => panic!("{error}"),
            }
        }
    }

    fn remember(&mut self, before: &VecDeque<Change>, last: u64) {
        let count = usize::try_from(last).unwrap() - self.history.len();
        for change in before.iter().take(count) {
            let length = change.length as usize;
            let bytes = if change.kind == RecordKind::Write {
                change.data.to_vec()
            } else {
                vec![0; length]
            };
            self.history.push((change.offset, bytes));
        }
        // Only a lone oversized change is split.
        if count == 1 && before[0].data.len() > 12288 {
            self.history.last_mut().unwrap().1.truncate(12288);
        }
    }

    fn read_all(&self) -> Vec<u8> {
        let mut bytes = vec![0; usize::try_from(VOLUME_BYTES).unwrap()];
        self.store.read(0, &mut bytes).unwrap();
        bytes
    }

    fn step(&mut self, random: &mut Random) {
        match random.below(10) {
            0 => drop(self.store.sync().unwrap()),
            1 | 2 => drop(self.store.drain().unwrap()),
            3 => self.store.checkpoint().unwrap(),
            4 => drop(self.store.relieve().unwrap()),
            _ => {
                let mut pending = self.random_changes(random);
                while !pending.is_empty() {
                    self.append(&mut pending);
                }
            }
        }
    }

    /// Loses power and starts again; what survives must be a whole prefix that holds all that was durable.
    fn crash(&mut self, random: &mut Random) {
        let durable = self.store.points().durable.record;
        let keep = [0, 30, 80, 100][usize::try_from(random.below(4)).unwrap()];
        self.journal = Arc::new(self.journal.crash(random, keep));
        self.image = Arc::new(self.image.crash(random, 50));
        self.map = Arc::new(self.map.crash(random, 50));
        let superblock = load_superblock(self.journal.as_ref()).unwrap();
        let searched = recover(self.journal.as_ref(), &superblock).unwrap().head;
        assert_eq!(
            searched,
            scan_all(self.journal.as_ref(), &superblock).unwrap(),
            "search and scan disagree"
        );
        let epoch = self.store.opened().epoch;
        self.store = open(&self.journal, &self.image, &self.map).unwrap();
        assert!(
            self.store.opened().epoch > epoch,
            "an unclean start opens a new epoch"
        );
        let head = self.store.points().journaled.record;
        assert!(head >= durable, "lost durable records: {head} < {durable}");
        self.history.truncate(usize::try_from(head).unwrap());
        assert_eq!(self.read_all(), self.state_after(head));
    }
}

#[test]
fn reads_show_every_journaled_change_while_the_ring_wraps() {
    for seed in 1..=40 {
        let (mut world, mut random) = (World::new(Role::Volume), Random::new(seed));
        for _ in 0..150 {
            world.step(&mut random);
            assert_eq!(
                world.read_all(),
                world.state_after(world.history.len() as u64),
                "seed {seed}"
            );
        }
        world.store.shut_down().unwrap();
        assert_eq!(world.image.bytes(), world.state_after(world.history.len() as u64));
    }
}

#[test]
fn after_power_loss_the_volume_is_a_prefix_that_holds_all_that_was_durable() {
    // The full length, 100,000 crash images, is for `make soak`.
    let seeds = if std::env::var_os("FARSIDE_SOAK").is_some() {
        10_000
    } else {
        200
    };
    for seed in 1..=seeds {
        let (mut world, mut random) = (World::new(Role::Volume), Random::new(seed));
        for _ in 0..10 {
            for _ in 0..random.below(25) {
                world.step(&mut random);
            }
            world.crash(&mut random);
        }
    }
}

#[test]
fn a_clean_shutdown_is_known_and_keeps_the_epoch() {
    let (mut world, mut random) = (World::new(Role::Volume), Random::new(5));
    for _ in 0..30 {
        world.step(&mut random);
    }
    let epoch = world.store.opened().epoch;
    world.store.shut_down().unwrap();
    let again = open(&world.journal, &world.image, &world.map).unwrap();
    assert!(again.opened().clean);
    assert_eq!(again.opened().epoch, epoch);
}

#[test]
fn damage_to_a_durable_chunk_is_reported_and_never_taken_for_the_end() {
    let mut world = World::new(Role::Volume);
    for n in 0..20_u64 {
        let data = Bytes::from(vec![1; 4096]);
        let change = Change {
            offset: n * 4096,
            length: 4096,
            kind: RecordKind::Write,
            data,
            arrived_us: 0,
        };
        world.append(&mut VecDeque::from([change]));
        world.store.sync().unwrap();
    }
    world.journal.flip((64 << 10) + 17 * 8192 + 5000);
    let error = open(&world.journal, &world.image, &world.map)
        .unwrap_err()
        .to_string();
    assert!(error.contains("breaks off after record 17"), "{error}");
}

#[test]
fn a_consumer_that_holds_the_tail_too_long_is_cut_loose_and_its_blocks_are_marked() {
    let (mut world, mut random) = (World::new(Role::Volume), Random::new(9));
    world.store.add_consumer("far", world.map.clone()).unwrap();
    assert_eq!(
        world.store.consumer("far").unwrap().state,
        ConsumerState::NeedsCopy
    );
    let base = world.store.begin_consumer_copy("far", true).unwrap().0;
    world.store.acknowledge("far", base, true).unwrap();
    assert_eq!(
        world.store.consumer("far").unwrap().state,
        ConsumerState::Attached
    );
    assert_eq!(world.store.consumer("far").unwrap().dirty_bytes, 0);
    let from = world.history.len();
    while world.store.consumer("far").unwrap().state == ConsumerState::Attached {
        world.step(&mut random);
    }
    let first = world.history[from].0;
    let state = world.store.state.lock();
    assert!(state.consumers[0].map.is_marked(first));
    drop(state);
    for _ in 0..200 {
        world.step(&mut random);
    }
    world.crash(&mut random);
    assert_eq!(
        world.store.consumer("far").unwrap().state,
        ConsumerState::NeedsCopy
    );
    assert!(world.store.consumer("far").unwrap().dirty_bytes > 0);
}

#[test]
fn what_may_have_reached_a_remote_unconfirmed_can_be_proved_after_the_journal_has_wrapped() {
    // Also a copy cut short: its end may have reached the remote before it was confirmed here.
    for complete in [true, false] {
        let (mut world, mut random) = (World::new(Role::Volume), Random::new(11));
        world.store.add_consumer("far", world.map.clone()).unwrap();
        let base = world.store.begin_consumer_copy("far", true).unwrap().0;
        world.store.acknowledge("far", base, complete).unwrap();
        let mut pending = world.random_changes(&mut random);
        while !pending.is_empty() {
            world.append(&mut pending);
        }
        let sent = world.store.sync().unwrap();
        while world.store.consumer("far").unwrap().state != ConsumerState::NeedsCopy {
            world.step(&mut random);
        }
        assert!(!world.store.may_send_to("far"), "its trail has an end");
        while world.store.locate(sent.record).unwrap().is_some() {
            world.step(&mut random);
        }
        world.crash(&mut random);
        let proved = world.store.trail_point("far", sent.record).unwrap();
        let key = |point: &ChainPoint| (point.sequence, point.record, point.epoch, point.checksum);
        assert_eq!(key(&proved), key(&sent), "complete: {complete}");
        let newest = world.store.points().journaled.record;
        assert!(
            world.store.trail_point("far", newest).is_none(),
            "a record it was never sent"
        );
    }
}

/// Sends everything durable from one store to another; false when the ring has moved on.
fn ship(from: &Store, point: &mut ChainPoint, to: &Store) -> bool {
    let mut buffer = Vec::new();
    let limit = from.points().durable;
    loop {
        let spans = match from.read_chunks(point, &limit, 64 << 10, &mut buffer) {
            Ok(spans) => spans,
            Err(ReadError::Behind(_)) => return false,
            Err(error) => panic!("{error}"),
        };
        let Some(last) = spans.last() else { return true };
        *point = last.after;
        for span in &spans {
            let what = What::decode(&buffer[span.what.clone()]).unwrap();
            while let Err(error) = to.append_sealed(&what, &buffer[span.data.clone()]) {
                assert!(
                    matches!(error, AppendError::Full | AppendError::NotDurable),
                    "{error}"
                );
                to.sync().unwrap();
                to.drain().unwrap();
                to.relieve().unwrap();
            }
        }
    }
}

#[test]
fn a_meta_data_block_holds_nothing_of_the_chunk_before_it() {
    use farside_protocol::journal::limits::{BLOCK_BYTES, WHERE_OFFSET};
    let (mut near, far) = (World::new(Role::Volume), World::complete_replica());
    let mut sent = near.store.locate(0).unwrap().unwrap();
    // Long tables and short ones by turns.
    for count in [1, 30, 2, 20, 3, 1] {
        let change = |at: u64| Change {
            offset: at * 512,
            length: 512,
            kind: RecordKind::Write,
            data: vec![9; 512].into(),
            arrived_us: 0,
        };
        near.append(&mut (0..count).map(change).collect());
        near.store.sync().unwrap();
        ship(&near.store, &mut sent, &far.store);
    }
    for world in [&near, &far] {
        let journal = world.journal.bytes();
        let first = world.store.points().tail.address;
        let first = world.store.journal.layout.file_offset(first);
        let (mut at, mut blocks) = (usize::try_from(first).unwrap(), 0);
        while let Ok(what) = What::decode(&journal[at..at + BLOCK_BYTES]) {
            let length = what.as_bytes().len();
            let behind = &journal[at + length..at + WHERE_OFFSET];
            assert!(behind.iter().all(|byte| *byte == 0), "block {blocks}");
            at += usize::try_from(what.stored_bytes()).unwrap();
            blocks += 1;
        }
        assert!(blocks >= 3, "{blocks} blocks were found");
    }
}

#[test]
fn a_replica_of_shipped_chunks_is_a_prefix_through_crashes() {
    let mut between = 0;
    for seed in 1..=60 {
        let (mut world, mut random) = (World::new(Role::Volume), Random::new(seed));
        let mut far = World::complete_replica();
        for _ in 0..12 {
            let Some(mut sent) = world.store.locate(far.store.points().journaled.record).unwrap() else {
                break;
            };
            for _ in 0..6 {
                world.step(&mut random);
                if !ship(&world.store, &mut sent, &far.store) {
                    break;
                }
            }
            let confirmed = far.store.points().durable.record;
            far.journal = Arc::new(far.journal.crash(&mut random, 50));
            far.image = Arc::new(far.image.crash(&mut random, 50));
            far.store = open(&far.journal, &far.image, &far.map).unwrap();
            loop {
                let applied = far.store.points().applied.record;
                let is_a_state = far.image.bytes() == world.state_after(applied);
                assert!(is_a_state || far.store.is_replaying(), "seed {seed}");
                between += usize::from(!is_a_state);
                if !far.store.drain().unwrap() {
                    break;
                }
            }
            let received = far.store.points().applied.record;
            assert!(received >= confirmed && !far.store.is_replaying(), "seed {seed}");
            assert_eq!(far.image.bytes(), world.state_after(received), "seed {seed}");
        }
    }
    assert!(
        between > 0,
        "every crash left the image at the point that it was known to have reached"
    );
}

#[test]
fn an_end_of_copy_that_is_repeated_when_the_replica_is_complete_is_no_failure() {
    let far = World::new(Role::Replica);
    far.store
        .begin_copy(&ChainPoint::default(), Uuid::nil(), 1)
        .unwrap();
    far.store.zero_copy(0, VOLUME_BYTES).unwrap();
    far.store.end_copy(0).unwrap();
    // The connection is lost, and the next session finds a copy under way; then it becomes complete.
    far.store.rewind_copy();
    far.store
        .zero_copy(far.store.copy_progress().written, VOLUME_BYTES)
        .unwrap();
    far.store.end_copy(0).unwrap();
    far.store.checkpoint().unwrap();
    assert_eq!(far.store.copy_progress().state, CopyState::Complete);
    far.store.end_copy(5).unwrap();
    far.store.checkpoint().unwrap();
    assert_eq!(far.store.copy_progress().state, CopyState::Complete);
}
