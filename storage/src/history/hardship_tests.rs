//! Lives in which the history is interrupted: what it offers afterwards is right, or it offers nothing.

use super::tests::{Disks, VOLUME_BYTES};
use super::{History, Mark};
use crate::device::Device;
use crate::error::StorageError;
use crate::store::{Change, Store};
use crate::test_disk::Random;
use crate::test_faults::FaultDisk;
use farside_protocol::journal::{ChainPoint, RecordKind, Role};
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use uuid::Uuid;

const RING: u64 = 768 << 10;

/// One record that fills a range with a byte, durable in the journal.
fn put(store: &Store, offset: u64, length: usize, fill: u8) {
    let mut pending = VecDeque::from([Change {
        offset,
        length: u32::try_from(length).unwrap(),
        kind: RecordKind::Write,
        data: vec![fill; length].into(),
        arrived_us: 0,
    }]);
    store.append(&mut pending).unwrap();
    assert!(pending.is_empty());
    store.sync().unwrap();
}

fn put_and_apply(store: &Store, fill: u8) {
    put(store, 0, 4096, fill);
    apply(store);
}

fn apply(store: &Store) {
    while store.drain().unwrap() {}
}

/// The first byte of the disk after a record, if that moment is offered.
fn byte_after(store: &Store, record: u64) -> Option<u8> {
    let moments = store.history()?.newest(None, usize::MAX);
    let moment = moments.into_iter().find(|moment| moment.record == record)?;
    let mut found = [0xee];
    store.view(&moment)?.read(0, &mut found).unwrap();
    Some(found[0])
}

/// Record N wrote N to the first byte, and whatever is offered says so.
fn expect_honest(store: &Store) {
    for record in 0..=store.points().applied.record {
        let found = byte_after(store, record);
        assert!(
            found.is_none_or(|byte| u64::from(byte) == record),
            "after {record}: {found:?}"
        );
    }
}

/// A complete replica that holds zeroes.
fn replica(disks: &Disks) -> Store {
    let store = disks.open();
    store.begin_copy(&ChainPoint::default(), Uuid::nil(), 1).unwrap();
    store.zero_copy(0, VOLUME_BYTES).unwrap();
    store.end_copy(0).unwrap();
    store.checkpoint().unwrap();
    apply(&store);
    store
}

fn base() -> ChainPoint {
    ChainPoint {
        sequence: 100,
        record: 100,
        ..ChainPoint::default()
    }
}

#[test]
fn a_history_that_ended_is_not_believed_by_the_next_start() {
    for without in [false, true] {
        let disks = Disks::new(Role::Volume, RING);
        let ring = FaultDisk::new(disks.ring.clone());
        let store = disks.open_with(ring.clone());
        put_and_apply(&store, 1);
        store.checkpoint().unwrap();
        put_and_apply(&store, 2);
        let store = if without {
            drop(store);
            disks.open_without()
        } else {
            ring.fail_write.store(1, Ordering::SeqCst);
            store
        };
        // Killed before the next checkpoint: only the superblock can know that the image went on alone.
        put_and_apply(&store, 3);
        assert!(store.history().is_none_or(|history| !history.is_usable()));
        put_and_apply(&store, 4);
        drop(store);
        let store = disks.open();
        apply(&store);
        assert_eq!(byte_after(&store, 1), None);
        put_and_apply(&store, 5);
        expect_honest(&store);
        assert_eq!((byte_after(&store, 4), byte_after(&store, 5)), (Some(4), Some(5)));
    }
}

#[test]
fn a_new_history_knows_nothing_of_an_image_that_is_still_being_recovered() {
    let disks = Disks::new(Role::Volume, RING);
    let store = disks.open_without();
    put_and_apply(&store, 1);
    store.checkpoint().unwrap();
    put_and_apply(&store, 2);
    put_and_apply(&store, 3);
    drop(store);
    let store = disks.open();
    apply(&store);
    expect_honest(&store);
    assert_eq!(byte_after(&store, 3), Some(3));
}

#[test]
fn a_copy_that_is_larger_than_the_ring_costs_the_past_and_nothing_else() {
    let disks = Disks::new(Role::Replica, 256 << 10);
    let store = disks.open();
    store.begin_copy(&ChainPoint::default(), Uuid::nil(), 1).unwrap();
    for at in (0..VOLUME_BYTES).step_by(64 << 10) {
        store.write_copy(at, &[5; 64 << 10]).unwrap();
    }
    store.end_copy(0).unwrap();
    store.checkpoint().unwrap();
    apply(&store);
    store.begin_copy(&base(), Uuid::nil(), 1).unwrap();
    assert_eq!(byte_after(&store, 0), Some(5));
    for at in (0..VOLUME_BYTES).step_by(32 << 10) {
        store.write_copy(at, &vec![6; 32 << 10]).unwrap();
    }
    assert!(store.history().unwrap().newest(None, 1).is_empty());
    store.end_copy(100).unwrap();
    store.checkpoint().unwrap();
    apply(&store);
    assert_eq!(byte_after(&store, 100), Some(6));
    put_and_apply(&store, 101);
    store.shut_down().unwrap();
    drop(store);
    let store = disks.open();
    apply(&store);
    assert_eq!(
        (byte_after(&store, 100), byte_after(&store, 101)),
        (Some(6), Some(101))
    );
}

#[test]
fn a_copy_begins_after_the_image_is_where_the_history_knows_it() {
    let mut disks = Disks::new(Role::Replica, RING);
    let store = replica(&disks);
    put_and_apply(&store, 1);
    store.checkpoint().unwrap();
    put_and_apply(&store, 2);
    drop(store);
    // The power fails, and a copy is begun before anything is applied again.
    disks.image = Arc::new(disks.image.crash(&mut Random::new(1), 0));
    let store = disks.open();
    store.begin_copy(&base(), Uuid::nil(), 1).unwrap();
    assert_eq!(
        byte_after(&store, 2),
        Some(2),
        "it can be viewed before anything else happens"
    );
    put(&store, 8192, 4096, 9);
    apply(&store);
    store.write_copy(0, &[7; 4096]).unwrap();
    expect_honest(&store);
    assert_eq!(byte_after(&store, 2), Some(2));
    store.shut_down().unwrap();
    drop(store);
    let store = disks.open();
    store.begin_copy(&base(), Uuid::nil(), 1).unwrap();
    store.write_copy(0, &[8; 4096]).unwrap();
    assert_eq!(byte_after(&store, 2), Some(2), "after a clean restart, too");
}

#[test]
fn the_mark_of_a_copy_that_never_began_does_not_come_to_count() {
    let mut disks = Disks::new(Role::Replica, RING);
    let store = replica(&disks);
    put_and_apply(&store, 1);
    store.checkpoint().unwrap();
    let journal = disks.journal.crash(&mut Random::new(1), 100);
    store.begin_copy(&base(), Uuid::nil(), 1).unwrap();
    drop(store);
    disks.journal = Arc::new(journal);
    // The journal grows beyond where that mark stands before anything is applied.
    let store = disks.open();
    for fill in 2..42 {
        put(&store, 0, 4096, fill);
    }
    drop(store);
    let store = disks.open();
    apply(&store);
    expect_honest(&store);
    assert_eq!(
        (byte_after(&store, 1), byte_after(&store, 41)),
        (Some(1), Some(41))
    );
}

#[test]
fn journal_and_image_that_were_put_back_have_no_future() {
    let mut disks = Disks::new(Role::Volume, RING);
    let store = disks.open();
    put_and_apply(&store, 1);
    put_and_apply(&store, 2);
    store.shut_down().unwrap();
    drop(store);
    let whole = |disk: &crate::test_disk::TestDisk| Arc::new(disk.crash(&mut Random::new(1), 100));
    let (journal, image) = (whole(&disks.journal), whole(&disks.image));
    let store = disks.open();
    for fill in 3..9 {
        put_and_apply(&store, fill);
    }
    store.shut_down().unwrap();
    drop(store);
    (disks.journal, disks.image) = (journal, image);
    for fill in [3, 4] {
        let store = disks.open();
        apply(&store);
        assert_eq!(byte_after(&store, 8), None);
        assert_eq!(byte_after(&store, 1), Some(1));
        put(&store, 0, 4096, fill);
        put(&store, 8192, 4096, 77);
        apply(&store);
        assert_eq!(byte_after(&store, 1), Some(1));
    }
}

#[test]
fn a_later_copy_that_is_put_back_after_an_earlier_one_is_not_taken_for_what_came_of_that() {
    let mut disks = Disks::new(Role::Replica, RING);
    let store = replica(&disks);
    put_and_apply(&store, 1);
    store.shut_down().unwrap();
    drop(store);
    let whole = |disk: &crate::test_disk::TestDisk| Arc::new(disk.crash(&mut Random::new(1), 100));
    let earlier = (whole(&disks.journal), whole(&disks.image));
    let copy = |disks: &Disks, id: u32, blocks: u64| {
        let store = disks.open();
        store.begin_copy(&base(), Uuid::nil(), id).unwrap();
        for block in 0..blocks {
            store.write_copy(block * 4096, &[8; 4096]).unwrap();
        }
        store.shut_down().unwrap();
    };
    copy(&disks, 1, 3);
    let later = (whole(&disks.journal), whole(&disks.image));
    (disks.journal, disks.image) = earlier;
    // This copy begins at the same position as the one before, and does not get so far.
    copy(&disks, 2, 1);
    (disks.journal, disks.image) = later;
    let store = disks.open();
    apply(&store);
    for moment in store.history().unwrap().newest(None, usize::MAX) {
        let mut found = [9; 3 * 4096];
        let view = store.view(&moment).unwrap();
        view.read(0, &mut found).unwrap();
        assert!(
            found[4096..].iter().all(|byte| *byte == 0),
            "a view of {moment:?} shows what came later"
        );
    }
}

#[test]
fn a_record_beyond_the_volume_is_an_error_and_no_panic() {
    let disks = Disks::new(Role::Volume, RING);
    let store = disks.open();
    put_and_apply(&store, 1);
    put(&store, VOLUME_BYTES + 4096, 4096, 2);
    assert!(store.drain().is_err());
    assert_eq!(byte_after(&store, 1), Some(1));
}

#[test]
fn what_changed_since_a_moment_that_is_gone_is_not_told() {
    let disks = Disks::new(Role::Volume, 256 << 10);
    let store = disks.open();
    put_and_apply(&store, 1);
    let history = store.history().unwrap();
    let first = history.at_record(1).unwrap();
    put(&store, 128 << 10, 4096, 9);
    apply(&store);
    let now = |history: &History| history.newest(None, 1)[0];
    assert_eq!(history.changed(&first, &now(history)).unwrap().len(), 1);
    for fill in 0..90 {
        put_and_apply(&store, fill);
        store.checkpoint().unwrap();
    }
    assert!(store.view(&first).is_none() && history.changed(&first, &now(history)).is_none());
}

#[test]
fn its_status_can_be_asked_while_it_fails() {
    for _ in 0..200 {
        let disks = Disks::new(Role::Volume, 256 << 10);
        let store = disks.open();
        let history = store.history().unwrap().clone();
        let other = history.clone();
        let asking = std::thread::spawn(move || while other.state().failure.is_none() {});
        history.fail(&StorageError::refused("ring", "is broken"));
        asking.join().unwrap();
    }
}

#[test]
fn moments_of_one_time_are_told_apart() {
    let disks = Disks::new(Role::Volume, RING);
    let store = disks.open();
    let history = store.history().unwrap();
    // A clock that went back: times are held where they were.
    for record in 1..=3 {
        let point = ChainPoint {
            record,
            address: record * 4096,
            sealed_at_us: 5_000_000 - record,
            ..ChainPoint::default()
        };
        history.mark(Mark { point, settled: true }).unwrap();
    }
    history.commit().unwrap();
    history.reveal();
    let first = history.at_record(1).unwrap();
    let until = history.newest(Some(&first), 10);
    assert_eq!(until.iter().map(|moment| moment.record).collect::<Vec<_>>(), [1]);
    let times: Vec<u64> = history
        .newest(None, 3)
        .iter()
        .map(|moment| moment.time_us)
        .collect();
    assert_eq!(times, [4_999_999; 3]);
}

/// The ring is a file like any other: whatever it holds is refused or read, and a new one is made.
#[test]
fn a_ring_of_something_else_is_refused_and_made_anew() {
    let disks = Disks::new(Role::Volume, RING);
    let store = disks.open();
    put_and_apply(&store, 1);
    store.shut_down().unwrap();
    drop(store);
    disks.ring.plant(0, &[0xab; 64 << 10]);
    let store = disks.open_without();
    let ring: Arc<dyn Device> = disks.ring.clone();
    let refused = History::open(ring, &store.superblock(), &store.points()).unwrap_err();
    assert!(refused.is_lost_content(), "{refused}");
}

/// What is damaged at the very end cannot be told from what never was durable, but only since positions were recorded last.
#[test]
fn damage_before_the_last_checkpoint_is_found() {
    let disks = Disks::new(Role::Volume, RING);
    let store = disks.open();
    put_and_apply(&store, 1);
    put_and_apply(&store, 2);
    store.checkpoint().unwrap();
    drop(store);
    let ring = disks.ring.bytes();
    let last = (0..ring.len() / 4096)
        .rev()
        .find(|block| ring[block * 4096..].starts_with(b"FARCHUNK"));
    disks.ring.plant(last.unwrap() * 4096 + 20, &[0xff]);
    let store = disks.open_without();
    let opened: Arc<dyn Device> = disks.ring.clone();
    let refused = History::open(opened, &store.superblock(), &store.points()).unwrap_err();
    assert!(refused.is_lost_content(), "{refused}");
}
