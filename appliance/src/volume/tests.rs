//! The promises of a volume to its hosts, on disks that fail or stand still when told to.

mod disk;
mod unchanged;

use super::*;
use crate::targets::{Disk, DiskError, Update};
use disk::{FaultDisk, World};
use farside_protocol::journal::{ConsumerState, What};
use farside_storage::BlockMap;
use std::time::Duration;
use tokio::task::JoinSet;
use tokio::time::timeout;

/// Long enough for anything that is going to happen at all.
const SOON: Duration = Duration::from_secs(20);
/// Something still waits after this long: it is not going to happen by itself.
const WHILE: Duration = Duration::from_millis(150);

fn write(offset: u64, fill: u8, length: usize) -> Vec<Update> {
    let data = vec![fill; length].into();
    vec![Update::Write { offset, data }]
}

async fn soon<T>(what: impl Future<Output = T>) -> T {
    timeout(SOON, what).await.expect("it happens")
}

async fn is_waiting<T>(what: impl Future<Output = T>) -> bool {
    timeout(WHILE, what).await.is_err()
}

async fn read_all(volume: &Arc<Volume>, offset: u64, length: u32) -> Vec<u8> {
    soon(volume.read(offset, length, Vec::new())).await.unwrap()
}

/// The volume as its journal tells it.
fn replayed(volume: &Volume) -> Vec<u8> {
    let (store, mut image, mut buffer) = (volume.store(), vec![0; disk::VOLUME_BYTES], Vec::new());
    let (mut at, end) = (store.points().tail, store.points().journaled);
    assert_eq!(at.record, 0, "the whole history is still in the journal");
    while at.record < end.record {
        for span in store.read_chunks(&at, &end, 1 << 20, &mut buffer).unwrap() {
            let mut data = span.data.start;
            for record in What::decode(&buffer[span.what]).unwrap().records() {
                let (from, length) = (usize::try_from(record.offset).unwrap(), record.length as usize);
                image[from..from + length].copy_from_slice(&buffer[data..data + length]);
                data += length;
            }
            at = span.after;
        }
    }
    image
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn acknowledged_writes_are_read_back_in_the_order_of_the_journal() {
    let world = World::new(64 << 20);
    let volume = world.volume();
    // Holds the tail, so that the history stays in the journal.
    attach(&volume);
    let mut tasks = JoinSet::new();
    for task in 0..24_u8 {
        let volume = volume.clone();
        tasks.spawn(async move {
            let mut last = 0;
            for round in 0..40_u64 {
                let own = disk::OWN_BYTES * (u64::from(task) + 1);
                let mut batch = write(own + round * 8, task + 1, 8);
                // All fight for the first 4 KiB, at every alignment.
                batch.extend(write(round * 37 + u64::from(task) * 5, task + 1, 700));
                let position = volume.update(&mut batch).await.unwrap();
                assert!(batch.is_empty() && position > last, "positions rise");
                assert!(volume.journaled() >= position);
                last = position;
                assert_eq!(read_all(&volume, own + round * 8, 8).await, [task + 1; 8]);
            }
        });
    }
    while let Some(done) = soon(tasks.join_next()).await {
        done.unwrap();
    }
    let expected = replayed(&volume);
    let length = u32::try_from(expected.len()).unwrap();
    assert!(
        read_all(&volume, 0, length).await == expected,
        "reads and journal differ"
    );
    assert_eq!(volume.journaled(), 24 * 40 * 2, "one record for each write");
    soon(volume.durable(volume.journaled())).await.unwrap();
    volume.shut_down().unwrap();
    assert!(
        world.image.bytes() == expected,
        "the mirror is not what the journal says"
    );
}

#[tokio::test]
async fn nothing_is_journaled_for_an_empty_change_and_any_alignment_is_kept() {
    let world = World::new(8 << 20);
    let volume = world.volume();
    assert_eq!(volume.update(&mut vec![]).await, Ok(0));
    assert_eq!(volume.update(&mut write(9, 1, 0)).await, Ok(0));
    assert_eq!(volume.update(&mut write(4095, 7, 4098)).await, Ok(1));
    let mut rest = vec![
        Update::Trim {
            offset: 5000,
            length: 3,
        },
        Update::Trim {
            offset: 6000,
            length: 0,
        },
        Update::Zero {
            offset: 7001,
            length: 5,
            allocate: true,
        },
    ];
    assert_eq!(volume.update(&mut rest).await, Ok(3));
    let mut expected = [&[0; 4095][..], &[7; 4098], &[0; 2]].concat();
    expected[5000..5003].fill(0);
    expected[7001..7006].fill(0);
    let length = u32::try_from(expected.len()).unwrap();
    assert_eq!(read_all(&volume, 0, length).await, expected);
    let mut cached = vec![0; length as usize];
    assert_eq!(volume.read_cached(0, &mut cached), Ok(true));
    assert_eq!(cached, expected);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_flush_waits_for_the_disk_and_covers_the_writes_of_other_connections() {
    let world = World::new(8 << 20);
    let volume = world.volume();
    soon(volume.durable(0)).await.unwrap();
    world.journal.syncs.close();
    let other = volume.clone();
    tokio::spawn(async move { other.update(&mut write(0, 1, 4096)).await })
        .await
        .unwrap()
        .unwrap();
    let position = volume.journaled();
    assert_eq!(position, 1);
    assert!(is_waiting(volume.durable(position)).await, "not durable yet");
    // The sync under way began before this write: it takes another one.
    let later = volume.update(&mut write(0, 2, 4096)).await.unwrap();
    let flushes: Vec<_> = [position, later, later]
        .map(|position| {
            let volume = volume.clone();
            tokio::spawn(async move { volume.durable(position).await })
        })
        .into();
    world.journal.syncs.open();
    for flush in flushes {
        assert_eq!(soon(flush).await.unwrap(), Ok(()));
    }
    assert!(volume.store().points().durable.record >= later);
}

/// Fills the journal until a write waits for room; returns the waiting writes.
async fn fill(volume: &Arc<Volume>) -> JoinSet<Result<Position, DiskError>> {
    let mut waiting = JoinSet::new();
    for round in 0.. {
        let volume = volume.clone();
        waiting.spawn(async move { volume.update(&mut write(round % 8 * 65536, 3, 65536)).await });
        if is_waiting(waiting.join_next()).await {
            break;
        }
    }
    for round in 0..8_u64 {
        let volume = volume.clone();
        waiting.spawn(async move { volume.update(&mut write(round * 512, 4, 512)).await });
    }
    tokio::time::sleep(WHILE).await;
    waiting
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn connections_that_go_away_while_they_lead_or_wait_stop_nobody() {
    let world = World::new(1 << 20);
    let volume = world.volume();
    for _ in 0..3 {
        world.image.writes.close();
        let mut waiting = fill(&volume).await;
        let survivor = {
            let volume = volume.clone();
            tokio::spawn(async move { volume.update(&mut write(0, 5, 512)).await })
        };
        waiting.abort_all();
        while waiting.join_next().await.is_some() {}
        world.image.writes.open();
        let position = soon(survivor).await.unwrap().unwrap();
        assert_eq!(read_all(&volume, 0, 512).await, [5; 512]);
        soon(volume.durable(position)).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn whoever_waits_for_room_is_answered_when_the_volume_stops() {
    let world = World::new(1 << 20);
    let volume = world.volume();
    world.image.writes.close();
    let mut waiting = fill(&volume).await;
    volume.begin_stop();
    while let Some(answer) = soon(waiting.join_next()).await {
        assert!(matches!(answer.unwrap(), Ok(_) | Err(DiskError::ShuttingDown)));
    }
    assert_eq!(
        volume.update(&mut write(0, 1, 1)).await,
        Err(DiskError::ShuttingDown)
    );
    assert_eq!(volume.read_cached(0, &mut [0]), Err(DiskError::ShuttingDown));
    assert!(volume.closing().is_cancelled(), "idle hosts are told, too");
    world.image.writes.open();
    volume.shut_down().unwrap();
    let beyond = volume.journaled() + 1;
    assert_eq!(
        soon(volume.durable(beyond)).await,
        Err(DiskError::ShuttingDown),
        "nothing becomes durable any more"
    );
    assert_eq!(soon(volume.durable(volume.journaled())).await, Ok(()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn waiting_for_room_keeps_no_thread_busy() {
    let world = World::new(1 << 20);
    let volume = world.volume();
    world.journal.syncs.close();
    // More than may be non-durable at once: what comes next waits for the sync that stands still.
    let waiting = fill(&volume).await;
    let mut changed = volume.changed();
    let before = *changed.borrow_and_update();
    tokio::time::sleep(WHILE).await;
    let events = changed.borrow().wrapping_sub(before);
    assert!(events < 5, "{events} wake-ups while nothing moved");
    world.journal.syncs.open();
    let answers = soon(waiting.join_all()).await;
    assert!(answers.into_iter().all(|answer| answer.is_ok()));
}

fn attach(volume: &Volume) {
    let header = BlockMap::header_for(volume.opened_as().volume, disk::VOLUME_BYTES as u64);
    let map = FaultDisk::new(BlockMap::file_bytes(&header));
    volume.store().add_consumer("away", map).unwrap();
    let base = volume.store().begin_consumer_copy("away", true).unwrap().0;
    volume.store().acknowledge("away", base, true).unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_full_journal_lets_go_of_a_remote_that_is_away_and_the_host_goes_on() {
    let world = World::new(1 << 20);
    let volume = world.volume();
    attach(&volume);
    for round in 0..64_u64 {
        let fill = u8::try_from(round).unwrap();
        soon(volume.update(&mut write(round % 8 * 65536, fill, 65536)))
            .await
            .unwrap();
    }
    let view = volume.store().consumer("away").unwrap();
    assert_eq!(view.state, ConsumerState::NeedsCopy);
    assert!(view.dirty_bytes > 0 && volume.store().failure().is_none());
    for place in 0..8_u8 {
        let read = read_all(&volume, u64::from(place) * 65536, 65536).await;
        assert!(read.iter().all(|byte| *byte == 56 + place));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_slow_remote_does_not_hold_up_the_host() {
    let world = World::new(1 << 20);
    let volume = world.volume();
    attach(&volume);
    let confirming = {
        let volume = volume.clone();
        tokio::spawn(async move {
            loop {
                let durable = volume.store().points().durable;
                tokio::time::sleep(Duration::from_millis(10)).await;
                volume.store().acknowledge("away", durable, false).unwrap();
                volume.remote_moved();
            }
        })
    };
    for round in 0..128_u64 {
        soon(volume.update(&mut write(round % 8 * 65536, 1, 65536)))
            .await
            .unwrap();
    }
    confirming.abort();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn after_a_failed_sync_no_flush_is_acknowledged_and_reads_go_on() {
    let world = World::new(8 << 20);
    let volume = world.volume();
    let position = volume.update(&mut write(0, 1, 4096)).await.unwrap();
    soon(volume.durable(position)).await.unwrap();
    world.journal.syncs.fail();
    let position = volume.update(&mut write(0, 2, 4096)).await.unwrap();
    assert_eq!(soon(volume.durable(position)).await, Err(DiskError::Io));
    world.journal.syncs.open();
    for position in [0, 1, position] {
        assert_eq!(soon(volume.durable(position)).await, Err(DiskError::Io));
    }
    assert_eq!(volume.update(&mut write(0, 3, 4096)).await, Err(DiskError::Io));
    assert_eq!(read_all(&volume, 0, 4096).await, [2; 4096]);
    assert!(volume.store().failure().is_some());
    volume.shut_down().unwrap_err();
    assert_eq!(soon(volume.durable(position)).await, Err(DiskError::Io));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_disk_that_fails_answers_whoever_waits_for_room() {
    for (failing, closed) in [
        ("image write", true),
        ("journal sync", false),
        ("journal write", false),
    ] {
        let world = World::new(1 << 20);
        let volume = world.volume();
        let gate = if closed {
            &world.image.writes
        } else {
            &world.journal.syncs
        };
        gate.close();
        let mut waiting = fill(&volume).await;
        match failing {
            "image write" => world.image.writes.fail(),
            "journal sync" => world.journal.syncs.fail(),
            _ => {
                world.journal.writes.fail();
                world.journal.syncs.open();
            }
        }
        let mut failed = 0;
        while let Some(answer) = soon(waiting.join_next()).await {
            failed += usize::from(answer.unwrap() == Err(DiskError::Io));
        }
        assert!(failed > 0, "{failing}: those who waited are told");
        assert!(
            volume.store().failure().is_some(),
            "{failing}: the volume says so"
        );
        let answer = soon(volume.durable(volume.journaled())).await;
        assert_eq!(answer, Err(DiskError::Io), "{failing}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_journal_that_cannot_be_read_back_degrades_the_volume_instead_of_standing_still() {
    let world = World::new(1 << 20);
    let volume = world.volume();
    world.journal.reads.fail();
    let mut outcome = Ok(0);
    for round in 0..64_u64 {
        outcome = soon(volume.update(&mut write(round % 8 * 65536, 1, 65536))).await;
        if outcome.is_err() {
            break;
        }
    }
    assert_eq!(outcome, Err(DiskError::Io));
    assert!(volume.store().failure().is_some());
}
