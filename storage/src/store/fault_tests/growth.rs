//! A volume that becomes larger, and power that fails at each sync of it.

use super::*;

const LARGER: u64 = 1 << 20;

/// A volume whose image has room, and a remote that was let go after it had everything.
fn world() -> World {
    let mut world = World::volume();
    world.image = FaultDisk::new(Arc::new(TestDisk::new(LARGER)));
    world.open_again().unwrap();
    world.store.add_consumer("far", world.map.clone()).unwrap();
    world.store.begin_consumer_copy("far", true).unwrap();
    world.write(1, 1).unwrap();
    let durable = world.store.sync().unwrap();
    world.store.acknowledge("far", durable, true).unwrap();
    world.store.checkpoint().unwrap();
    world.write(20, 2).unwrap();
    world.store.sync().unwrap();
    while world.store.drain().unwrap() {}
    let below = world.store.points().durable.address;
    assert_eq!(world.store.cut_loose(below, None).unwrap(), ["far"]);
    world.store.checkpoint().unwrap();
    assert_eq!(dirty(&world.store), BLOCK);
    world
}

const BLOCK: u64 = 4 << 10;

fn dirty(store: &Store) -> u64 {
    store.consumer("far").unwrap().dirty_bytes
}

fn new_map() -> Arc<FaultDisk> {
    FaultDisk::new(Arc::new(TestDisk::new(1 << 20)))
}

fn maps(map: &Arc<FaultDisk>) -> [(String, Arc<dyn Device>); 1] {
    [("far".to_owned(), map.clone() as Arc<dyn Device>)]
}

#[test]
fn a_larger_volume_keeps_what_it_has_and_takes_more() {
    let mut world = world();
    let map = new_map();
    let out = world.write(LARGER / 4096 - 1, 9);
    assert!(out.is_ok(), "the store leaves bounds to its callers");
    let refused = world.store.sync().and_then(|_| world.store.drain()).unwrap_err();
    assert!(
        refused.to_string().contains("volume of 262144 bytes"),
        "{refused}"
    );

    world = self::world();
    world.store.grow(LARGER, &maps(&map)).unwrap();
    assert_eq!(world.store.volume_bytes(), LARGER);
    assert_eq!(dirty(&world.store), BLOCK, "what it misses is what it missed");
    world.write(LARGER / 4096 - 1, 3).unwrap();
    world.store.sync().unwrap();
    while world.store.drain().unwrap() {}
    world.store.checkpoint().unwrap();
    world.map = map;
    world.lose_power(0);
    world.open_again().unwrap();
    assert_eq!(world.store.volume_bytes(), LARGER);
    assert_eq!((world.block(1), world.block(20)), (1, 2));
    assert_eq!(world.block(LARGER / 4096 - 1), 3);
    assert_eq!(dirty(&world.store), 2 * BLOCK);
}

#[test]
fn power_that_fails_during_a_growth_leaves_one_size_or_the_other_and_everything_else() {
    for keep in [0, 50, 100] {
        let world = world();
        let map = new_map();
        let disks = [&world.journal, &world.image, &world.map, &map].map(Arc::clone);
        let after_crash = Arc::new(Mutex::new(Vec::new()));
        for disk in [&world.journal, &map] {
            let (disks, after_crash) = (disks.clone(), Arc::clone(&after_crash));
            disk.on_sync(move |number| {
                let crash =
                    |disk: &Arc<FaultDisk>| Arc::new(disk.inner().crash(&mut Random::new(number + 1), keep));
                after_crash.lock().push(disks.each_ref().map(crash));
            });
        }
        world.store.grow(LARGER, &maps(&map)).unwrap();
        let found = std::mem::take(&mut *after_crash.lock());
        assert_eq!(found.len(), 3, "a map and two superblocks");
        let mut sizes = Vec::new();
        for [journal, image, old_map, new_map] in found {
            // The new map is in its place only when all is over; what an unclean start finds there may be either.
            for map in [old_map, new_map] {
                let [journal, image, map] = [&journal, &image, &map]
                    .map(|disk| FaultDisk::new(Arc::new(disk.crash(&mut Random::new(1), 0))));
                let store = open(&journal, &image, &map).unwrap();
                assert!(
                    dirty(&store) >= BLOCK,
                    "a block that the remote misses is forgotten"
                );
                sizes.push(store.volume_bytes());
                let mut buffer = [0; 4096];
                store.read(20 * 4096, &mut buffer).unwrap();
                assert_eq!(buffer, [2; 4096]);
            }
        }
        assert!(sizes.is_sorted() && sizes.last() == Some(&LARGER), "{sizes:?}");
    }
}

#[test]
fn what_a_remote_may_have_received_is_known_with_the_new_map_as_with_the_old_one() {
    let mut world = world();
    world.write(21, 3).unwrap();
    world.store.sync().unwrap();
    while world.store.drain().unwrap() {}
    world.store.checkpoint().unwrap();
    let acked = world.store.consumer("far").unwrap().acked.record;
    assert!(
        world.store.locate(acked + 1).unwrap().is_none(),
        "the tail is past it"
    );
    assert!(world.store.trail_point("far", acked + 1).is_some());
    let map = new_map();
    world.store.grow(LARGER, &maps(&map)).unwrap();
    world.map = map;
    world.lose_power(0);
    world.open_again().unwrap();
    assert!(world.store.trail_point("far", acked + 1).is_some());
}

/// A process that is killed between the superblock of a growth and its sync, a start that gives the new map its place, and a
/// loss of power before that start has written anything: the volume is as small as before, beside a map of a larger one.
#[test]
fn what_a_remote_may_have_received_is_known_after_a_growth_that_a_loss_of_power_took_back() {
    let world = world();
    world.write(21, 3).unwrap();
    world.store.sync().unwrap();
    while world.store.drain().unwrap() {}
    world.store.checkpoint().unwrap();
    let acked = world.store.consumer("far").unwrap().acked.record;
    assert!(world.store.trail_point("far", acked + 1).is_some());
    let (before, map) = (world.journal.inner().crash(&mut Random::new(1), 0), new_map());
    world.store.grow(LARGER, &maps(&map)).unwrap();
    let store = open(&FaultDisk::new(Arc::new(before)), &world.image, &map).unwrap();
    assert_eq!(store.volume_bytes(), VOLUME_BYTES);
    assert!(
        dirty(&store) >= BLOCK,
        "a block that the remote misses is forgotten"
    );
    assert!(
        store.trail_point("far", acked + 1).is_some(),
        "a remote that holds this record would be refused for ever"
    );
}

#[test]
fn a_map_that_cannot_be_written_leaves_everything_as_it_was() {
    let mut world = world();
    let map = new_map();
    map.fail_write.store(1, Ordering::SeqCst);
    world.store.grow(LARGER, &maps(&map)).unwrap_err();
    assert!(world.store.failure().is_none(), "hosts notice nothing");
    assert_eq!(world.store.volume_bytes(), VOLUME_BYTES);
    world.write(3, 3).unwrap();
    world.store.sync().unwrap();
    world.store.checkpoint().unwrap();
    world.lose_power(0);
    world.open_again().unwrap();
    assert_eq!(world.store.volume_bytes(), VOLUME_BYTES);
}

#[test]
fn a_sync_that_fails_while_the_image_grows_may_be_about_what_was_written_before() {
    let world = world();
    world.image.fail_sync.store(1, Ordering::SeqCst);
    world.store.make_room(LARGER).unwrap_err();
    assert!(world.store.failure().is_some());
    assert!(world.store.checkpoint().is_err(), "the tail stays where it is");
    assert!(world.store.make_room(LARGER).is_err(), "nothing is tried again");
}

#[test]
fn a_growth_that_is_given_up_is_none() {
    let world = world();
    world.store.give_up_growth();
    let error = world.store.make_room(LARGER).unwrap_err().to_string();
    assert!(error.contains("it grows at the next start"), "{error}");
    assert!(world.store.failure().is_none());
}

#[test]
fn a_superblock_that_cannot_be_written_leaves_the_old_size_in_force() {
    let world = world();
    world.journal.fail_write.store(2, Ordering::SeqCst);
    world.store.grow(LARGER, &maps(&new_map())).unwrap_err();
    assert_eq!(world.store.volume_bytes(), VOLUME_BYTES);
    assert!(
        world.store.failure().is_some(),
        "a failed write of the journal is final"
    );
}
