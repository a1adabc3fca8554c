//! The newest superblock rots, and the ring has overwritten what the older one still calls needed.

use super::*;

/// Chunks of one block, of which sixteen fill the ring, with a checkpoint after each fourteen; then the newest
/// superblock rots. What the volume holds, too.
fn left_with_the_older_superblock(random: &mut Random) -> (World, Vec<u8>) {
    let world = World::new(Role::Volume, 16 << 10);
    let mut expected = vec![0; usize::try_from(VOLUME_BYTES).unwrap()];
    for step in 0..14 * random.below(6) + random.below(16) {
        let block = random.below(VOLUME_BYTES / 4096);
        let fill = u8::try_from(step % 255).unwrap() + 1;
        world.write(block, fill).unwrap();
        expected[usize::try_from(block).unwrap() * 4096..][..4096].fill(fill);
        world.store.sync().unwrap();
        while world.store.drain().unwrap() {}
        if step % 14 == 13 {
            world.store.checkpoint().unwrap();
        }
    }
    rot_newest_superblock(&world);
    (world, expected)
}

fn rot_newest_superblock(world: &World) {
    let newest = world.store.superblock().generation;
    for slot in [0_u64, 32 << 10] {
        let mut block = vec![0; 4096];
        world.journal.read_at(&mut block, slot).unwrap();
        let found = farside_protocol::journal::Superblock::decode(&block).unwrap();
        if found.generation == newest {
            world.journal.inner().flip(usize::try_from(slot).unwrap() + 40);
        }
    }
}

#[test]
fn an_old_superblock_never_passes_for_the_newest_once_the_ring_went_on() {
    let mut refused = 0;
    for seed in 1..=40_u64 {
        let (world, expected) = left_with_the_older_superblock(&mut Random::new(seed));
        let Ok(store) = open(&world.journal, &world.image, &world.map) else {
            refused += 1;
            continue;
        };
        let mut found = vec![0; expected.len()];
        store.read(0, &mut found).unwrap();
        assert!(found == expected, "seed {seed}: opened with an old state");
    }
    assert!(refused > 5, "the case came up {refused} times");
}

/// With a remote that held the tail as far back as it could, the chunks that betray the older superblock stand beyond
/// the end of the ring as that one knows it.
#[test]
fn nor_when_the_chunk_after_its_head_rots_as_well() {
    let world = World::new(Role::Volume, 16 << 10);
    world.store.add_consumer("far", world.map.clone()).unwrap();
    let base = world.store.begin_consumer_copy("far", true).unwrap().0;
    world.store.acknowledge("far", base, true).unwrap();
    // Each fills a segment but for its last block.
    let write = |fill| {
        let two = Change {
            length: 8192,
            data: Bytes::from(vec![fill; 8192]),
            ..change(0, fill)
        };
        world.store.append(&mut VecDeque::from([two])).unwrap();
        world.store.sync().unwrap();
    };
    (1..=8).for_each(write);
    while world.store.drain().unwrap() {}
    world.store.checkpoint().unwrap();
    let older = world.store.superblock();
    assert_eq!((older.tail.record, older.mirrored.record), (0, 8));
    assert_eq!(world.store.relieve().unwrap(), ["far"], "the ring is full");
    let newest = world.store.superblock();
    assert_eq!((newest.generation, newest.tail.record), (older.generation + 1, 8));
    (9..=10).for_each(write);
    rot_newest_superblock(&world);
    let payload_of_the_ninth = (64 << 10) + 4096 + 100;
    world.journal.inner().flip(payload_of_the_ninth);
    let refused = open(&world.journal, &world.image, &world.map).err();
    let refused = refused.expect("chunk 10 says that 9 was durable").to_string();
    assert!(refused.contains("breaks off after record 8"), "{refused}");
}

/// What is durable by now is said by the next chunk only, which may stand anywhere within the window.
#[test]
fn nor_when_only_a_chunk_inside_a_later_segment_betrays_it() {
    let world = World::new(Role::Volume, 16 << 10);
    world.write(0, 1).unwrap();
    world.store.sync().unwrap();
    while world.store.drain().unwrap() {}
    world.store.checkpoint().unwrap();
    // Five chunks that all say that the first is durable: to the middle of the third segment.
    (2..=5).for_each(|fill| _ = world.write(0, fill).unwrap());
    world.store.sync().unwrap();
    while world.store.drain().unwrap() {}
    world.store.checkpoint().unwrap();
    world.write(0, 6).unwrap();
    rot_newest_superblock(&world);
    let payload_of_the_second = (64 << 10) + 8192 + 4096 + 100;
    world.journal.inner().flip(payload_of_the_second);
    let refused = open(&world.journal, &world.image, &world.map).err();
    let refused = refused.expect("chunk 6 says that 5 was durable").to_string();
    assert!(refused.contains("breaks off after record 1"), "{refused}");
}
