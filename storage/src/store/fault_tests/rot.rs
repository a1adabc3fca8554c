//! Chunks rot that the image has, and only a remote still needs.

use super::*;

/// Whichever it is: the volume opens, now and after each end in good order, and goes on.
#[test]
fn what_the_image_has_may_rot_in_the_journal() {
    const CHUNKS: u64 = 12;
    for rotten in 0..CHUNKS {
        let world = World::new(Role::Volume, 16 << 10);
        world.store.add_consumer("far", world.map.clone()).unwrap();
        let base = world.store.begin_consumer_copy("far", true).unwrap().0;
        world.store.acknowledge("far", base, true).unwrap();
        for block in 0..CHUNKS {
            world.write(block, u8::try_from(block).unwrap() + 1).unwrap();
            world.store.sync().unwrap();
        }
        while world.store.drain().unwrap() {}
        world.store.checkpoint().unwrap();
        let points = world.store.points();
        assert_eq!((points.tail.record, points.mirrored.record), (0, CHUNKS));

        // Two blocks each, two of them in a segment.
        let payload = (64 << 10) + usize::try_from(rotten).unwrap() * 8192 + 4096 + 100;
        world.journal.inner().flip(payload);
        for start in 0..4_u8 {
            let store = open(&world.journal, &world.image, &world.map)
                .unwrap_or_else(|error| panic!("chunk {rotten} rotten, start {start}: {error}"));
            let mut found = [0];
            store.read(rotten * 4096 + 5, &mut found).unwrap();
            assert_eq!(u64::from(found[0]), rotten + 1);
            store.append(&mut VecDeque::from([change(20, start)])).unwrap();
            store.shut_down().unwrap();
        }
    }
}
