//! Writes that change nothing are left out, and the disk is the same as with them.

use super::*;

/// A volume that leaves out what is there already; its whole history stays in the journal.
fn volume(world: &World) -> Arc<Volume> {
    let volume = world.volume();
    attach(&volume);
    volume.set_skip_unchanged(true);
    volume
}

/// Bytes in the journal because of an update.
async fn journaled_by(volume: &Volume, batch: &mut Vec<Update>) -> u64 {
    let before = volume.store().points().journaled.blocks;
    soon(volume.update(batch)).await.unwrap();
    (volume.store().points().journaled.blocks - before) * 4096
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_blocks_that_differ_are_journaled() {
    let world = World::new(64 << 20);
    let volume = volume(&world);
    // A new disk is zero.
    assert_eq!(journaled_by(&volume, &mut write(0, 0, 65536)).await, 0);
    assert_eq!(journaled_by(&volume, &mut write(0, 1, 65536)).await, 65536);
    assert_eq!(journaled_by(&volume, &mut write(0, 1, 65536)).await, 0);
    assert_eq!(volume.activity().unchanged_bytes, 2 * 65536);
    // Two blocks of sixteen, apart from each other; and a write that begins and ends within blocks.
    let mut data = vec![1; 65536];
    (data[5 * 4096], data[9 * 4096 + 7]) = (2, 2);
    let update = |offset, data: &[u8]| {
        let data = Bytes::copy_from_slice(data);
        vec![Update::Write { offset, data }]
    };
    assert_eq!(journaled_by(&volume, &mut update(0, &data)).await, 2 * 4096);
    assert_eq!(
        journaled_by(&volume, &mut update(100, &data[100..60000])).await,
        0
    );
    data[50000] = 3;
    assert_eq!(
        journaled_by(&volume, &mut update(100, &data[100..60000])).await,
        4096
    );
    assert_eq!(read_all(&volume, 0, 65536).await, data);
    // What is meant to be written again is.
    let before = volume.journaled();
    volume
        .modify(0, 4096, |found| Some(Bytes::copy_from_slice(found)))
        .await
        .unwrap();
    assert_eq!(volume.journaled(), before + 1);
    volume.set_skip_unchanged(false);
    assert_eq!(journaled_by(&volume, &mut update(0, &data)).await, 65536);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_written_in_one_batch_counts_in_its_order() {
    let world = World::new(64 << 20);
    let volume = volume(&world);
    // There and back again: the second is what was there before the first.
    let mut batch = [write(0, 7, 4096), write(0, 0, 4096)].concat();
    soon(volume.update(&mut batch)).await.unwrap();
    assert_eq!(read_all(&volume, 0, 4096).await, [0; 4096]);
    let mut random = 1_u64;
    let mut next = |below: u64| {
        random = random
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (random >> 33) % below
    };
    let mut model = vec![0; disk::VOLUME_BYTES];
    for _ in 0..300 {
        let mut batch = Vec::new();
        for _ in 0..=next(6) {
            let offset = next(64) * 512;
            let length = 512 * (1 + next(40));
            let range = usize::try_from(offset).unwrap()..usize::try_from(offset + length).unwrap();
            if next(8) == 0 {
                batch.push(Update::Trim { offset, length });
                model[range].fill(0);
            } else {
                let fill = u8::try_from(next(2)).unwrap();
                batch.extend(write(offset, fill, range.len()));
                model[range].fill(fill);
            }
        }
        soon(volume.update(&mut batch)).await.unwrap();
        assert_eq!(read_all(&volume, 0, 65536).await, model[..65536]);
    }
    assert!(volume.activity().unchanged_bytes > 1 << 20);
    volume.shut_down().unwrap();
    assert_eq!(world.image.bytes(), model);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_write_that_changes_nothing_is_refused_when_the_disk_has_failed() {
    let world = World::new(8 << 20);
    let volume = volume(&world);
    let position = volume.update(&mut write(0, 1, 4096)).await.unwrap();
    // It is durable no sooner than what it is the same as.
    assert_eq!(volume.update(&mut write(0, 1, 4096)).await, Ok(position));
    world.journal.syncs.fail();
    assert_eq!(soon(volume.durable(position)).await, Err(DiskError::Io));
    assert_eq!(volume.update(&mut write(0, 1, 4096)).await, Err(DiskError::Io));
    volume.shut_down().unwrap_err();
}
