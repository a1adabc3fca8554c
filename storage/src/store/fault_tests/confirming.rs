//! A replica in confirmed mode: what was not confirmed never was, whatever the disk does.

use super::*;
use crate::store::ReadBack;
use farside_protocol::journal::{ChainPoint, What};
use std::sync::atomic::AtomicBool;
use std::sync::mpsc::sync_channel;

/// A volume with so many writes, one chunk each, and a replica in confirmed mode that has nothing yet.
fn pair(writes: u8) -> (World, World) {
    let (volume, replica) = (World::volume(), World::new(Role::Replica, 64 << 10));
    for number in 1..=writes {
        volume.write(u64::from(number % 8), number).unwrap();
        volume.store.sync().unwrap();
    }
    replica.store.set_confirms(true).unwrap();
    (volume, replica)
}

/// Sends what the volume has after a point, up to a record, and syncs it.
fn send(volume: &World, replica: &World, from: ChainPoint, up_to: u64) {
    let (mut at, end, mut buffer) = (from, volume.store.points().durable, Vec::new());
    at.address = volume.store.locate(from.record).unwrap().unwrap().address;
    'all: while at.record < end.record {
        for span in volume.store.read_chunks(&at, &end, 1 << 20, &mut buffer).unwrap() {
            if span.after.record > up_to {
                break 'all;
            }
            let what = What::decode(&buffer[span.what]).unwrap();
            replica.store.append_sealed(&what, &buffer[span.data]).unwrap();
            at = span.after;
        }
    }
    replica.store.sync().unwrap();
}

fn read_back(world: &World) -> Option<ReadBack<Vec<u8>>> {
    let from = world.store.points().durable;
    world.store.read_back(&from, |what, data| [what, data].concat())
}

fn image(world: &World) -> Vec<u8> {
    while world.store.drain().unwrap() {}
    let mut bytes = vec![0; usize::try_from(VOLUME_BYTES).unwrap()];
    world.image.inner().read_at(&mut bytes, 0).unwrap();
    bytes
}

/// The first byte of each of the eight blocks that are written.
fn blocks(image: &[u8]) -> Vec<u8> {
    (0..8).map(|block| image[block * 4096]).collect()
}

fn expected(record: u8) -> Vec<u8> {
    let mut blocks = vec![0; 8];
    for number in 1..=record {
        blocks[usize::from(number % 8)] = number;
    }
    blocks
}

#[test]
fn what_is_synced_counts_and_is_applied_only_when_it_is_confirmed() {
    let (volume, replica) = pair(9);
    send(&volume, &replica, ChainPoint::default(), 6);
    let points = replica.store.points();
    assert_eq!((points.durable.record, points.synced.record), (0, 6));
    assert_eq!(blocks(&image(&replica)), expected(0));
    let read = read_back(&replica).unwrap();
    assert_eq!((read.point.record, read.chunks.len()), (6, 6));
    let third = replica
        .store
        .journal
        .locate(3, &ChainPoint::default(), &points.synced);
    replica.store.confirm(&third.unwrap().unwrap()).unwrap();
    assert_eq!(blocks(&image(&replica)), expected(3));
    // No point but one that waits can be confirmed.
    let beyond = ChainPoint {
        address: read.point.address + 4096,
        ..read.point
    };
    for wrong in [ChainPoint::default(), beyond] {
        replica.store.confirm(&wrong).unwrap_err();
    }
    assert!(replica.store.failure().is_none());
    replica.store.confirm(&read.point).unwrap();
    assert_eq!(blocks(&image(&replica)), expected(6));
    // What waits at the end is given up, and the end is a clean one.
    send(&volume, &replica, read.point, 9);
    replica.store.shut_down().unwrap();
    let mut replica = replica;
    replica.open_again().unwrap();
    assert!(replica.store.opened().clean);
    assert_eq!(replica.store.points().journaled.record, 6);
    // Without confirming everything counts again, and again after the next start.
    replica.store.set_confirms(false).unwrap();
    send(&volume, &replica, replica.store.points().durable, 9);
    assert_eq!(replica.store.points().durable.record, 9);
    replica.lose_power(100);
    replica.open_again().unwrap();
    assert_eq!(replica.store.points().durable.record, 9);
    assert_eq!(blocks(&image(&replica)), expected(9));
}

#[test]
fn after_a_loss_of_power_exactly_what_was_confirmed_is_there() {
    for seed in 0..120 {
        let (volume, mut replica) = pair(30);
        let mut random = Random::new(seed);
        let mut confirmed = 0;
        for _ in 0..4 {
            let head = replica.store.points().durable;
            let up_to = (confirmed + 1 + random.below(6)).min(30);
            send(&volume, &replica, head, up_to);
            let read = read_back(&replica).unwrap();
            let point = head.record + 1 + random.below(read.point.record - head.record);
            let points = replica.store.points();
            let point = replica.store.journal.locate(point, &points.tail, &points.synced);
            if random.below(3) > 0 {
                replica.store.confirm(&point.unwrap().unwrap()).unwrap();
                confirmed = replica.store.points().durable.record;
            }
            if random.below(2) == 0 {
                while replica.store.drain().unwrap() {}
                replica.store.checkpoint().unwrap();
            }
            match random.below(3) {
                0 => {
                    replica.lose_power(random.below(101));
                    replica.open_again().unwrap();
                }
                _ => replica.store.give_up_unconfirmed().unwrap(),
            }
            let points = replica.store.points();
            assert_eq!(
                (points.durable.record, points.journaled.record),
                (confirmed, confirmed),
                "seed {seed}"
            );
            let record = u8::try_from(confirmed).unwrap();
            assert_eq!(blocks(&image(&replica)), expected(record), "seed {seed}");
        }
        while confirmed < 30 {
            confirmed = (confirmed + 6).min(30);
            send(&volume, &replica, replica.store.points().durable, confirmed);
            replica
                .store
                .confirm(&read_back(&replica).unwrap().point)
                .unwrap();
        }
        assert_eq!(blocks(&image(&replica)), expected(30), "seed {seed}");
    }
}

#[test]
fn what_the_disk_made_of_a_chunk_is_seen_before_it_counts_and_it_can_be_sent_again() {
    let (volume, replica) = pair(5);
    send(&volume, &replica, ChainPoint::default(), 5);
    let right = read_back(&replica).unwrap();
    let (first, second) = (64 << 10, (64 << 10) + 8192);
    // A payload: it is read, and is another one.
    replica.journal.inner().flip(first + 4096 + 100);
    assert_ne!(read_back(&replica).unwrap(), right);
    // A meta-data block, and a disk that does not read: nothing is.
    replica.journal.inner().flip(second + 8);
    assert!(read_back(&replica).is_none());
    replica.journal.fail_read.store(1, Ordering::SeqCst);
    assert!(read_back(&replica).is_none());
    assert!(replica.store.failure().is_none(), "nothing is lost that counted");
    replica.store.give_up_unconfirmed().unwrap();
    assert_eq!(replica.store.points().journaled.record, 0);
    send(&volume, &replica, ChainPoint::default(), 5);
    assert_eq!(read_back(&replica).unwrap().chunks, right.chunks);
    replica
        .store
        .confirm(&read_back(&replica).unwrap().point)
        .unwrap();
    assert_eq!(blocks(&image(&replica)), expected(5));
}

#[test]
fn what_is_being_confirmed_when_the_replica_is_shut_down_counts_or_does_not() {
    let (volume, mut replica) = pair(9);
    send(&volume, &replica, ChainPoint::default(), 3);
    replica
        .store
        .confirm(&read_back(&replica).unwrap().point)
        .unwrap();
    send(&volume, &replica, replica.store.points().durable, 6);
    let point = read_back(&replica).unwrap().point;
    let (reached, seen) = sync_channel(1);
    let first = AtomicBool::new(true);
    // The sync of the superblock that notes the confirmation takes a while, as disks do.
    replica.journal.on_sync(move |_| {
        if first.swap(false, Ordering::SeqCst) {
            reached.send(()).unwrap();
            std::thread::sleep(Duration::from_millis(200));
        }
    });
    std::thread::scope(|scope| {
        let confirm = scope.spawn(|| replica.store.confirm(&point));
        seen.recv().unwrap();
        replica.store.shut_down().unwrap();
        confirm.join().unwrap().unwrap();
    });
    replica.open_again().unwrap();
    assert_eq!(replica.store.points().durable.record, 6);
    assert_eq!(blocks(&image(&replica)), expected(6));
}

/// A replica that is complete, and a third unit that it is sent on to; all of it is in the image.
fn relay(volume: &World) -> World {
    let replica = World::new(Role::Replica, 64 << 10);
    replica
        .store
        .begin_copy(&ChainPoint::default(), Uuid::nil(), 1)
        .unwrap();
    replica.store.zero_copy(0, VOLUME_BYTES).unwrap();
    replica.store.end_copy(0).unwrap();
    send(volume, &replica, ChainPoint::default(), 5);
    image(&replica);
    replica.store.checkpoint().unwrap();
    replica.store.add_consumer("third", replica.map.clone()).unwrap();
    replica
}

#[test]
fn no_copy_is_begun_of_a_replica_that_is_about_to_be_copied_itself() {
    let (volume, _) = pair(9);
    // What it had already, of a volume that was let go while nobody wrote, and something later.
    for record in [5, 8] {
        let mut replica = relay(&volume);
        replica.store.begin_consumer_copy("third", true).unwrap();
        let (reached, seen) = sync_channel(1);
        let first = AtomicBool::new(true);
        replica.image.on_sync(move |_| {
            if first.swap(false, Ordering::SeqCst) {
                reached.send(()).unwrap();
                std::thread::sleep(Duration::from_millis(200));
            }
        });
        let mut base = volume.store.locate(record).unwrap().unwrap();
        base.address = 0;
        std::thread::scope(|scope| {
            let reset = scope.spawn(|| replica.store.begin_copy(&base, Uuid::nil(), 2).unwrap());
            seen.recv().unwrap();
            let refused = replica.store.begin_consumer_copy("third", false).unwrap_err();
            assert!(
                refused.to_string().contains("is being copied itself"),
                "{refused}"
            );
            reset.join().unwrap();
        });
        replica.store.begin_consumer_copy("third", false).unwrap_err();
        assert_eq!(
            replica.store.consumer("third").unwrap().state,
            ConsumerState::NeedsCopy
        );
        replica.store.zero_copy(0, VOLUME_BYTES).unwrap();
        replica.store.end_copy(record).unwrap();
        replica.store.shut_down().unwrap();
        replica.open_again().unwrap();
        replica.store.begin_consumer_copy("third", false).unwrap();
    }
}
