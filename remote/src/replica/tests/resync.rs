//! Ranges that a copy leaves as they are, and ranges that are compared.

use super::*;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_received_before_a_resync_is_in_what_the_resync_leaves_as_it_is() {
    // A copy that begins right after chunks came finds some of them not yet in the image, often enough in so many rounds.
    let world = World::new();
    world.write(0, 1, 4096);
    let replica = world.open().await;
    let mut at = world.copy(&replica).await;
    until(&replica, |state| state.copy == CopyState::Complete).await;
    for round in 0..20_u8 {
        world.write(u64::from(round) * 8192, round + 2, 8192);
        at = world.send(&replica, at).await.unwrap();
        // Nothing of it is marked: the remote had confirmed it.
        soon(replica.begin_copy(at, 2)).await.unwrap();
        assert_eq!(replica.state().copy_id, 2);
        soon(replica.skip_copy(0, BYTES / 2)).await.unwrap();
        soon(replica.skip_copy(BYTES / 2, BYTES / 2)).await.unwrap();
        soon(replica.end_copy(at.record)).await.unwrap();
        until(&replica, |state| state.copy == CopyState::Complete).await;
        assert!(world.image() == world.expected(), "round {round}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_range_that_is_compared_holds_everything_that_was_received() {
    let world = World::new();
    let replica = world.open().await;
    let mut at = world.copy(&replica).await;
    until(&replica, |state| state.copy == CopyState::Complete).await;
    for round in 0..20_u8 {
        world.write(4096, round, 8192);
        at = world.send(&replica, at).await.unwrap();
        let found = soon(replica.read(0, 65536, false)).await.unwrap().unwrap();
        assert!(found == world.expected()[..65536], "round {round}");
    }
    // From the image itself: what rotted there is seen.
    let file = std::fs::OpenOptions::new()
        .write(true)
        .open(world.directory.path().join("replicas/disk0/replica.img"))
        .unwrap();
    std::os::unix::fs::FileExt::write_all_at(&file, &[0xee], 50_000).unwrap();
    let found = soon(replica.read(0, 65536, false)).await.unwrap().unwrap();
    assert_eq!(found[50_000], 0xee);
}
