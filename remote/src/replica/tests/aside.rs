//! What can come between: deaths, full disks, other senders, disks that are not there.

use super::*;

/// A file beside the replicas' directories is no replica.
#[tokio::test]
async fn a_stray_file_in_the_replicas_directory_is_no_replica() {
    let place = TempDir::new().unwrap();
    std::fs::create_dir_all(place.path().join("replicas")).unwrap();
    std::fs::write(place.path().join("replicas/README.txt"), "x").unwrap();
    let set = set_in(place.path(), None);
    assert!(set.failed().is_empty(), "{:?}", set.failed());
}

/// What is taken back with a changed disk stays the replica of its volume and its sender.
#[tokio::test(flavor = "multi_thread")]
async fn a_changed_disk_that_is_taken_back_is_still_nobody_elses() {
    let world = World::new();
    drop(complete(&world).await);
    let (set, image) = (
        world.set.clone(),
        world.directory.path().join("replicas/disk0/replica.img"),
    );
    let changed = tokio::task::spawn_blocking(move || {
        set.detach("disk0").unwrap();
        let file = std::fs::OpenOptions::new().write(true).open(image).unwrap();
        std::os::unix::fs::FileExt::write_all_at(&file, &[9; 4096], 8192).unwrap();
        drop(file);
        set.attach("disk0").unwrap()
    })
    .await
    .unwrap();
    assert!(changed);
    // Another volume of another unit, which happens to have the same name. Before it was detached: ForeignVolume.
    let mut hello = world.hello();
    hello.volume = Uuid::from_u128(99);
    hello.unit = Uuid::from_u128(98);
    hello.unit_name = "stranger".to_owned();
    hello.volume_bytes = BYTES / 2;
    let found = soon(world.set.open_or_create(&hello)).await;
    let length = std::fs::metadata(world.directory.path().join("replicas/disk0/replica.img"))
        .unwrap()
        .len();
    assert!(
        found.is_err(),
        "the stranger has the image now, cut to {length} of {BYTES} bytes"
    );
}

/// A seed whose disk is not mounted when its volume greets waits for it.
#[tokio::test(flavor = "multi_thread")]
async fn a_seed_on_a_disk_that_is_not_mounted_yet_is_waited_for() {
    let world = World::new();
    drop(complete(&world).await);
    let directory = world.directory.path().join("replicas/disk0");
    let disk = world.directory.path().join("mnt");
    std::fs::create_dir(&disk).unwrap();
    let set = world.set.clone();
    {
        let (directory, disk) = (directory.clone(), disk.clone());
        tokio::task::spawn_blocking(move || {
            set.detach("disk0").unwrap();
            // Carried away on another disk, and back.
            let image = directory.join("replica.img");
            std::fs::copy(&image, disk.join("carried.img")).unwrap();
            std::fs::remove_file(&image).unwrap();
            std::os::unix::fs::symlink(disk.join("carried.img"), &image).unwrap();
            assert!(set.attach("disk0").unwrap());
        })
        .await
        .unwrap();
    }
    // The unit starts before the disk is mounted.
    std::fs::rename(disk.join("carried.img"), disk.join("not-mounted")).unwrap();
    let world = world.restarted();
    let found = soon(world.set.open_or_create(&world.hello())).await;
    assert!(
        found.is_err(),
        "a new empty image was made below the mount point: {}",
        disk.join("carried.img").exists()
    );
}

/// An import that the death of the unit interrupted leaves nothing.
#[tokio::test(flavor = "multi_thread")]
async fn an_import_that_was_interrupted_by_death_leaves_no_file_for_ever() {
    let world = World::new();
    let set = world.set.clone();
    tokio::task::spawn_blocking(move || {
        let place = set.seed("disk0", 1).unwrap();
        place.file().set_len(BYTES).unwrap();
        std::os::unix::fs::FileExt::write_all_at(place.file(), &[7; 65536], 0).unwrap();
        // Died here: nothing is dropped.
        std::mem::forget(place);
    })
    .await
    .unwrap();
    let world = world.restarted();
    let replica = world.open().await;
    world.copy(&replica).await;
    until(&replica, |state| state.copy == CopyState::Complete).await;
    drop(replica);
    let world = world.restarted();
    let left = world.directory.path().join("replicas/disk0/replica.img.new");
    assert!(!left.exists(), "{} stays", left.display());
}

/// A copy that begins while a replica is being detached is not handed over as a state of the volume.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_replica_that_a_copy_is_begun_on_is_not_handed_over() {
    for round in 0..25_u32 {
        let world = World::new();
        let replica = complete(&world).await;
        let base = world.volume.points().applied;
        let set = world.set.clone();
        let begin = tokio::spawn(async move {
            for _ in 0..round % 60 {
                tokio::task::yield_now().await;
            }
            let begun = replica.begin_copy(base, 2 + round).await;
            (begun, replica.store().copy_progress().state)
        });
        let detached = tokio::task::spawn_blocking(move || set.detach("disk0").map_err(|e| e.to_string()))
            .await
            .unwrap();
        let begun = begin.await.unwrap();
        if detached.is_ok() {
            assert!(
                begun.1 != CopyState::Copying,
                "round {round}: detached {detached:?}, although its copy had begun: {begun:?}"
            );
        }
    }
}

/// A disk that is full when a replica is detached.
#[tokio::test(flavor = "multi_thread")]
async fn a_detach_that_cannot_be_noted_leaves_the_replica_in_service() {
    let world = World::new();
    drop(complete(&world).await);
    let directory = world.directory.path().join("replicas/disk0");
    // Nothing can be put there.
    std::fs::create_dir(directory.join("detached.new")).unwrap();
    let set = world.set.clone();
    let said = tokio::task::spawn_blocking(move || set.detach("disk0").map_err(|e| e.to_string()))
        .await
        .unwrap();
    assert!(said.is_err());
    std::fs::remove_dir(directory.join("detached.new")).unwrap();
    assert!(
        world.set.failed().is_empty(),
        "{said:?}\n{:?}",
        world.set.failed()
    );
}
