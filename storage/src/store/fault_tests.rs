//! Disks that fail, lose power at the worst moment, or were damaged: nothing acknowledged is taken back silently.

mod confirming;
mod growth;
mod letting_go;
mod old_superblocks;
mod rot;

use super::*;
use crate::clock::SystemClock;
use crate::journal::load_superblock;
use crate::test_disk::{Random, TestDisk};
use crate::test_faults::FaultDisk;
use bytes::Bytes;
use farside_protocol::journal::limits::{MAX_CONSUMERS, MAX_POSITION};
use farside_protocol::journal::{ConsumerState, Place, RecordKind, Role};
use std::collections::VecDeque;
use std::time::Duration;
use uuid::Uuid;

const VOLUME_BYTES: u64 = 256 << 10;

struct World {
    journal: Arc<FaultDisk>,
    image: Arc<FaultDisk>,
    map: Arc<FaultDisk>,
    store: Store,
}

fn open(
    journal: &Arc<FaultDisk>,
    image: &Arc<FaultDisk>,
    map: &Arc<FaultDisk>,
) -> Result<Store, StorageError> {
    let devices = StoreDevices {
        journal: journal.clone(),
        image: image.clone(),
        maps: vec![map.clone() as Arc<dyn Device>; MAX_CONSUMERS],
    };
    Store::open(devices, Arc::new(SystemClock::new()))
}

impl World {
    fn new(role: Role, segment_bytes: u32) -> Self {
        let journal_bytes = (64 << 10) + 8 * u64::from(segment_bytes);
        let parameters = StoreParameters {
            role,
            name: "disk0".to_owned(),
            volume: Uuid::from_u128(7),
            journal: Uuid::from_u128(8),
            volume_bytes: VOLUME_BYTES,
            journal_bytes,
            segment_bytes: Some(segment_bytes),
            source: Uuid::nil(),
        };
        let disk = |bytes| FaultDisk::new(Arc::new(TestDisk::new(bytes)));
        let (journal, image, map) = (disk(journal_bytes), disk(VOLUME_BYTES), disk(1 << 20));
        Store::format(journal.as_ref(), &parameters, 1).unwrap();
        let store = open(&journal, &image, &map).unwrap();
        Self {
            journal,
            image,
            map,
            store,
        }
    }

    fn volume() -> Self {
        Self::new(Role::Volume, 64 << 10)
    }

    fn write(&self, block: u64, fill: u8) -> Result<Appended, AppendError> {
        self.store.append(&mut VecDeque::from([change(block, fill)]))
    }

    fn block(&self, block: u64) -> u8 {
        let mut buffer = [0; 4096];
        self.store.read(block * 4096, &mut buffer).unwrap();
        assert!(buffer.iter().all(|byte| *byte == buffer[0]));
        buffer[0]
    }

    fn lose_power(&self, keep: u64) {
        for disk in [&self.journal, &self.image, &self.map] {
            let after = disk.inner().crash(&mut Random::new(keep + 3), keep);
            *disk.inner.lock() = Some(Arc::new(after));
        }
    }

    fn open_again(&mut self) -> Result<(), StorageError> {
        self.store = open(&self.journal, &self.image, &self.map)?;
        Ok(())
    }
}

fn change(block: u64, fill: u8) -> Change {
    Change {
        offset: block * 4096,
        length: 4096,
        kind: RecordKind::Write,
        data: Bytes::from(vec![fill; 4096]),
        arrived_us: 0,
    }
}

#[test]
fn a_failed_journal_write_is_final_and_what_was_there_stays_readable() {
    let world = World::volume();
    world.write(1, 1).unwrap();
    world.journal.fail_write.store(1, Ordering::SeqCst);
    let mut pending = VecDeque::from([change(1, 2)]);
    let refused = world.store.append(&mut pending).unwrap_err();
    assert!(
        matches!(&refused, AppendError::Storage(error) if error.is_no_space()),
        "{refused}"
    );
    assert_eq!(pending.len(), 1, "nothing was taken");
    assert!(world.store.failure().unwrap().contains("cannot write fault disk"));
    // The disk works again; that changes nothing.
    assert!(matches!(
        world.write(2, 3),
        Err(AppendError::Storage(StorageError::Failed { .. }))
    ));
    let syncs = world.journal.syncs();
    assert!(matches!(world.store.sync(), Err(StorageError::Failed { .. })));
    assert!(
        world.store.drain().is_err() && world.store.checkpoint().is_err() && world.store.shut_down().is_err()
    );
    assert_eq!(world.journal.syncs(), syncs, "no second sync is tried");
    assert_eq!(world.block(1), 1);
    assert_eq!(world.store.points().durable.record, 0);
}

#[test]
fn a_failed_sync_acknowledges_nothing_ever_after() {
    let world = World::volume();
    world.write(1, 1).unwrap();
    world.store.sync().unwrap();
    world.write(2, 2).unwrap();
    world.journal.fail_sync.store(1, Ordering::SeqCst);
    assert!(matches!(world.store.sync(), Err(StorageError::Io { .. })));
    for _ in 0..3 {
        assert!(matches!(world.store.sync(), Err(StorageError::Failed { .. })));
    }
    assert_eq!(world.store.points().durable.record, 1);
    assert_eq!((world.block(1), world.block(2)), (1, 2));
}

#[test]
fn a_failed_image_write_zero_or_sync_is_final_and_reads_still_show_what_was_acknowledged() {
    for fault in 0..5 {
        let world = World::volume();
        world.write(1, 1).unwrap();
        let mut zero = change(2, 0);
        (zero.kind, zero.data) = (RecordKind::Trim, Bytes::new());
        world.store.append(&mut VecDeque::from([zero])).unwrap();
        world.store.sync().unwrap();
        let counter = [
            &world.image.fail_write,
            &world.image.fail_zero,
            &world.image.fail_sync,
            &world.image.fail_write_back,
            &world.journal.fail_read,
        ][fault];
        counter.store(1, Ordering::SeqCst);
        world.store.flush_wanted();
        let (drained, checked) = (world.store.drain(), world.store.checkpoint());
        assert!(drained.is_err() || checked.is_err(), "fault {fault}");
        assert!(world.store.failure().is_some(), "fault {fault}");
        assert!(
            world.store.sync().is_err() && world.write(3, 3).is_err(),
            "fault {fault}"
        );
        assert_eq!(world.store.points().tail.record, 0, "fault {fault}");
        assert_eq!((world.block(1), world.block(2)), (1, 0), "fault {fault}");
    }
}

#[test]
fn what_was_written_to_the_image_goes_to_the_disk_in_parts_once_and_unless_somebody_waits_for_room() {
    let world = World::volume();
    let checkpoint = |fill, wanted| {
        world.write(1, fill).unwrap();
        world.store.flush_wanted();
        world.store.sync().unwrap();
        while world.store.drain().unwrap() {}
        world.store.state.lock().space_wanted = wanted;
        let before = world.image.written_back();
        world.store.checkpoint().unwrap();
        world.image.written_back() - before
    };
    assert_eq!(checkpoint(1, false), 64 << 10);
    assert_eq!(checkpoint(2, true), 0);
    assert_eq!(checkpoint(3, false), 64 << 10);
    world.write(1, 4).unwrap();
    world.store.sync().unwrap();
    while world.store.drain().unwrap() {}
    world.store.checkpoint().unwrap();
    assert_eq!(world.image.written_back(), 2 * (64 << 10), "no host flushed");
}

#[test]
fn a_checkpoint_beside_a_part_that_fails_records_nothing() {
    // The part is told of the lost write; a sync of the same file beside it would not be.
    let world = World::volume();
    world.write(1, 1).unwrap();
    world.store.flush_wanted();
    world.store.sync().unwrap();
    while world.store.drain().unwrap() {}
    let (reached, seen) = std::sync::mpsc::sync_channel(1);
    world.image.on_write_back(move |_| {
        reached.send(()).unwrap();
        std::thread::sleep(Duration::from_millis(300));
    });
    world.image.fail_write_back.store(1, Ordering::SeqCst);
    let generation = world.store.superblock().generation;
    std::thread::scope(|scope| {
        let first = scope.spawn(|| world.store.checkpoint());
        seen.recv().unwrap();
        assert!(world.store.checkpoint().is_err());
        assert!(first.join().unwrap().is_err());
    });
    assert_eq!(world.store.superblock().generation, generation);
    assert_eq!(
        load_superblock(world.journal.as_ref()).unwrap().generation,
        generation
    );
}

#[test]
fn a_failed_map_write_keeps_the_tail_where_it_is() {
    let world = World::volume();
    world.store.add_consumer("far", world.map.clone()).unwrap();
    world.write(1, 1).unwrap();
    world.store.sync().unwrap();
    while world.store.drain().unwrap() {}
    // The header and the first blocks of a new map are written already; this mark is new.
    world.store.state.lock().consumers[0].map.clear();
    world.map.fail_write.store(1, Ordering::SeqCst);
    assert!(world.store.checkpoint().is_err());
    assert_eq!(world.store.points().tail.record, 0);
    assert!(world.store.failure().is_some());
}

#[test]
fn a_sync_beside_a_failing_one_does_not_succeed() {
    // The operating system reports a lost write to one of two syncs; the other one returns without error.
    let world = World::volume();
    world.write(1, 1).unwrap();
    world.store.sync().unwrap();
    while world.store.drain().unwrap() {}
    world.write(2, 2).unwrap();
    let failing = world.journal.syncs() + 1;
    world.journal.on_sync(move |number| {
        if number == failing {
            std::thread::sleep(Duration::from_millis(300));
        }
    });
    world.journal.fail_sync.store(1, Ordering::SeqCst);
    std::thread::scope(|scope| {
        let checkpoint = scope.spawn(|| world.store.checkpoint());
        while world.journal.syncs() < failing {
            std::thread::yield_now();
        }
        assert!(
            world.store.sync().is_err(),
            "a flush was acknowledged over a failed sync"
        );
        assert!(checkpoint.join().unwrap().is_err());
    });
    assert_eq!(world.store.points().durable.record, 1);
}

#[test]
fn power_loss_while_a_killed_unit_starts_again_loses_no_more_than_what_was_never_flushed() {
    for keep in [0, 20, 40, 60, 80, 100] {
        for fail_at in 1..=2 {
            let mut world = World::volume();
            for n in 1..=20_u8 {
                world.write(n.into(), n).unwrap();
                if n == 5 {
                    world.store.sync().unwrap();
                }
            }
            // Killed: the page cache has everything. The power goes during the next start, at one of its syncs.
            world.journal.fail_sync.store(fail_at, Ordering::SeqCst);
            assert!(world.open_again().is_err());
            world.lose_power(keep);
            world
                .open_again()
                .unwrap_or_else(|error| panic!("keep {keep}, sync {fail_at}: {error}"));
            assert!(world.store.points().durable.record >= 5);
            assert_eq!(world.block(5), 5);
        }
    }
}

#[test]
fn damage_in_the_middle_of_the_newest_segment_is_no_end_of_the_journal() {
    for byte in [0, 60, 4096 - 100, 4096 + 17] {
        let mut world = World::new(Role::Volume, 1 << 20);
        for n in 1..=40_u8 {
            world.write(u64::from(n) % 60, n).unwrap();
            world.store.sync().unwrap();
        }
        world.journal.inner().flip((64 << 10) + 20 * 8192 + byte);
        let refused = world.open_again().unwrap_err().to_string();
        assert!(
            refused.contains("breaks off after record 20"),
            "byte {byte}: {refused}"
        );
        assert!(refused.contains("Restore the file"), "{refused}");
    }
}

#[test]
fn damaged_bytes_are_never_handed_to_a_reader() {
    let world = World::volume();
    world.write(1, 1).unwrap();
    world.write(2, 2).unwrap();
    world.store.sync().unwrap();
    world.journal.inner().flip((64 << 10) + 4096 + 100);
    let refused = world.store.drain().unwrap_err().to_string();
    assert!(
        refused.contains("payload checksum mismatch in chunk 1"),
        "{refused}"
    );
    let refused = world.store.read(4096, &mut [0; 4096]).unwrap_err().to_string();
    assert!(refused.contains("is damaged"), "{refused}");
    assert_eq!(world.block(2), 2, "what is whole stays readable");
}

#[test]
fn a_new_copy_is_not_confused_by_what_an_older_history_left_in_the_ring() {
    // A chunk of the old history that survived a crash beyond its end, at the start of the segment after next.
    let mut world = World::new(Role::Replica, 16 << 10);
    let source = World::new(Role::Volume, 16 << 10);
    for n in 1..=4 {
        source.write(n, 1).unwrap();
    }
    source.store.sync().unwrap();
    let base = |record, sequence| ChainPoint {
        sequence,
        record,
        epoch: 1,
        ..ChainPoint::default()
    };
    world.store.begin_copy(&base(100, 100), Uuid::nil(), 1).unwrap();
    let head = world.store.points().journaled;
    let layout = world.store.journal.layout;
    let address = layout.segment_start(layout.segment_of(head.address) + 2);
    let mut block = vec![0; 4096];
    let (from, inner) = (64 << 10, source.journal.inner());
    inner.read_at(&mut block, from).unwrap();
    let what = farside_protocol::journal::What::decode(&block).unwrap();
    let (mut header, records) = (what.header, what.records().collect::<Vec<_>>());
    (header.sequence, header.first_record) = (130, 130);
    let (_, what_checksum) = farside_protocol::journal::encode_what(&mut block, &header, &records);
    let stale = Place {
        journal: Uuid::from_u128(8),
        address,
        sequence: 130,
        what_checksum,
        tail: 100,
        mirrored: 100,
        durable: 120,
        acked: 0,
    };
    stale.encode(&mut block);
    let at = usize::try_from(layout.file_offset(address)).unwrap();
    world.journal.inner().plant(at, &block);
    world.store.begin_copy(&base(110, 110), Uuid::nil(), 1).unwrap();
    world.open_again().unwrap();
    assert_eq!(world.store.points().journaled.record, 110);
}

#[test]
fn a_position_that_no_journal_can_have_is_refused_before_it_is_stored() {
    let mut world = World::new(Role::Replica, 16 << 10);
    let base = ChainPoint {
        record: MAX_POSITION + 1,
        sequence: 1,
        ..ChainPoint::default()
    };
    let refused = world.store.begin_copy(&base, Uuid::nil(), 1).unwrap_err();
    assert!(refused.to_string().contains("no journal can have"), "{refused}");
    assert!(world.store.failure().is_none());
    world.open_again().unwrap();
}

#[test]
fn reading_gives_at_least_one_chunk_however_little_was_asked_for() {
    let world = World::volume();
    for n in 0..3 {
        world.write(n, 1).unwrap();
    }
    world.store.sync().unwrap();
    let (mut point, mut buffer) = (ChainPoint::default(), Vec::new());
    let durable = world.store.points().durable;
    while point.record < durable.record {
        let spans = world.store.read_chunks(&point, &durable, 1, &mut buffer).unwrap();
        point = spans.last().unwrap().after;
    }
}

#[test]
fn a_consumer_cut_loose_during_a_checkpoint_keeps_its_records_until_its_map_is_durable() {
    let world = World::volume();
    for name in ["far", "other"] {
        world.store.add_consumer(name, world.map.clone()).unwrap();
    }
    let base = world.store.begin_consumer_copy("far", true).unwrap().0;
    world.store.acknowledge("far", base, true).unwrap();
    world.store.checkpoint().unwrap();
    for n in 1..=5 {
        world.write(n, 1).unwrap();
    }
    world.store.sync().unwrap();
    while world.store.drain().unwrap() {}
    // The image's sync comes first in a checkpoint: cut the consumer loose right there.
    let store = Arc::new(world.store);
    let inside = Arc::downgrade(&store);
    world.image.on_sync(move |_| {
        if let Some(store) = inside.upgrade() {
            store.cut_loose(u64::MAX, None).unwrap();
        }
    });
    store.checkpoint().unwrap();
    assert_eq!(store.consumer("far").unwrap().state, ConsumerState::NeedsCopy);
    let on_disk = load_superblock(world.journal.as_ref()).unwrap();
    assert_eq!(
        on_disk.tail.record, 0,
        "the tail moved before the map was durable"
    );
    store.checkpoint().unwrap();
    assert_eq!(load_superblock(world.journal.as_ref()).unwrap().tail.record, 5);
}

#[test]
fn host_writes_go_on_while_a_map_is_written() {
    let world = World::volume();
    world.store.add_consumer("far", world.map.clone()).unwrap();
    world.write(1, 1).unwrap();
    world.store.sync().unwrap();
    while world.store.drain().unwrap() {}
    world.store.state.lock().consumers[0].map.clear();
    let store = Arc::new(world.store);
    let inside = Arc::downgrade(&store);
    world.map.on_sync(move |_| {
        if let Some(store) = inside.upgrade() {
            store.append(&mut VecDeque::from([change(9, 9)])).unwrap();
        }
    });
    store.checkpoint().unwrap();
    assert_eq!(store.points().journaled.record, 2);
}

#[test]
fn a_remote_too_many_or_twice_is_refused() {
    let world = World::volume();
    for n in 0..MAX_CONSUMERS {
        world
            .store
            .add_consumer(&format!("far{n}"), world.map.clone())
            .unwrap();
    }
    for name in ["far0", "one-more"] {
        let refused = world.store.add_consumer(name, world.map.clone()).unwrap_err();
        assert!(refused.to_string().contains("has 8 remotes"), "{refused}");
    }
    assert!(world.store.failure().is_none());
    world.store.checkpoint().unwrap();
}

#[test]
fn a_newer_journal_is_refused_and_a_single_bad_superblock_is_survived() {
    let mut world = World::volume();
    world.write(1, 1).unwrap();
    world.store.sync().unwrap();
    let generation = load_superblock(world.journal.as_ref()).unwrap().generation;
    // The older copy may be torn at any time; the newer one must do.
    world.journal.inner().flip(if generation % 2 == 1 {
        100
    } else {
        (32 << 10) + 100
    });
    world.open_again().unwrap();
    assert_eq!(world.block(1), 1);
    let mut superblock = load_superblock(world.journal.as_ref()).unwrap().encode();
    superblock[9] = 2;
    let checksum = crc32c::crc32c(&superblock[..4092]).to_be_bytes();
    superblock[4092..].copy_from_slice(&checksum);
    world.journal.inner().plant(0, superblock.as_slice());
    let refused = world.open_again().unwrap_err().to_string();
    assert!(
        refused.contains("format version 2") && refused.contains("newer farside"),
        "{refused}"
    );
}
