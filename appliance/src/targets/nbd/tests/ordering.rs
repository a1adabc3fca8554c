//! Many requests at a time: batches, replies out of order, and what durability waits for.

use super::harness::{DISK_BYTES, FLUSH, FUA, QUIET, READ, Server, request, write};
use super::memory::MemoryDisk;
use crate::targets::Settings;
use crate::targets::limits::LONE_REQUESTS;
use std::collections::BTreeSet;
use std::sync::atomic::Ordering::SeqCst;
use std::time::Duration;

#[tokio::test]
async fn thousand_pipelined_writes_are_all_answered_in_few_batches() {
    let (server, disk) = Server::new().await;
    let mut client = server.attached().await;
    let all: Vec<u8> = (0..1000u64)
        .flat_map(|cookie| write(0, cookie, cookie * 8, &cookie.to_be_bytes()))
        .collect();
    client.send(&all).await;
    for cookie in 0..1000 {
        assert_eq!(client.reply().await, (0, cookie));
    }
    let wanted: Vec<u8> = (0..1000u64).flat_map(u64::to_be_bytes).collect();
    assert_eq!(disk.content(0..8000), wanted);
    assert_eq!(disk.updates.load(SeqCst), 1000);
    assert!(
        disk.batches.load(SeqCst) < 100,
        "{} batches",
        disk.batches.load(SeqCst)
    );
}

#[tokio::test]
async fn writes_of_one_batch_take_effect_in_their_order() {
    let (server, _disk) = Server::new().await;
    let mut client = server.attached().await;
    client
        .send(
            &(0..100u8)
                .flat_map(|value| write(0, u64::from(value), 7, &[value; 9]))
                .collect::<Vec<_>>(),
        )
        .await;
    for cookie in 0..100 {
        assert_eq!(client.reply().await, (0, cookie));
    }
    assert_eq!(client.read(7, 9).await, [99; 9]);
}

#[tokio::test]
async fn requests_sent_byte_by_byte_are_understood() {
    let (server, disk) = Server::new().await;
    let mut client = server.attached().await;
    client.stream.set_nodelay(true).unwrap();
    for byte in [write(0, 1, 5, b"abc"), request(READ, 0, 2, (4, 5))].concat() {
        client.send(&[byte]).await;
        tokio::task::yield_now().await;
    }
    assert_eq!(client.reply().await, (0, 1));
    assert_eq!(client.reply().await, (0, 2));
    assert_eq!(client.take(5).await, b"\0abc\0");
    assert_eq!(disk.content(4..9), b"\0abc\0");
}

#[tokio::test]
async fn client_that_reads_late_gets_every_reply() {
    let (server, _disk) = Server::new().await;
    let mut client = server.attached().await;
    let all: Vec<u8> = (0..400)
        .flat_map(|cookie| request(READ, 0, cookie, (0, 65536)))
        .collect();
    client.send(&all).await;
    tokio::time::sleep(QUIET).await;
    for cookie in 0..400 {
        assert_eq!(client.reply().await, (0, cookie));
        client.take(65536).await;
    }
}

#[tokio::test]
async fn cold_read_holds_up_nobody() {
    let (server, disk) = Server::new().await;
    disk.cold_from.store(4096, SeqCst);
    let mut client = server.attached().await;
    client.send(&request(READ, 0, 1, (8192, 10))).await;
    client.send(&request(READ, 0, 2, (0, 10))).await;
    client.send(&write(0, 3, 0, b"w")).await;
    assert_eq!(client.reply().await, (0, 2));
    client.take(10).await;
    assert_eq!(client.reply().await, (0, 3));
    client.expect_silence().await;
}

#[tokio::test]
async fn many_cold_reads_are_all_answered_whatever_their_order() {
    let (server, disk) = Server::new().await;
    disk.cold_from.store(0, SeqCst);
    let mut client = server.attached().await;
    let all: Vec<u8> = (0..500)
        .flat_map(|cookie| request(READ, 0, cookie, (cookie * 512, 512)))
        .collect();
    client.send(&all).await;
    tokio::time::sleep(QUIET).await;
    disk.cold_permits.add_permits(500);
    let mut seen = BTreeSet::new();
    for _ in 0..500 {
        let (error, cookie) = client.reply().await;
        assert_eq!(error, 0);
        client.take(512).await;
        assert!(seen.insert(cookie), "{cookie} answered twice");
    }
    disk.cold_permits.add_permits(1);
    assert_eq!(client.read(0, 1).await, [0]);
}

#[tokio::test]
async fn plain_write_is_answered_before_it_is_durable_and_flush_and_fua_are_not() {
    let (server, disk) = Server::new().await;
    disk.manual_sync.store(true, SeqCst);
    let mut client = server.attached().await;
    assert_eq!(client.write(0, 0, b"a").await, 0);
    client.send(&request(FLUSH, 0, 1, (0, 0))).await;
    client.send(&write(FUA, 2, 1, b"b")).await;
    assert_eq!(client.write(0, 2, b"c").await, 0);
    client.expect_silence().await;
    disk.sync();
    assert_eq!(client.reply().await, (0, 1));
    assert_eq!(client.reply().await, (0, 2));
    client.send(&request(FLUSH, 0, 3, (0, 0))).await;
    assert_eq!(client.reply().await, (0, 3));
}

#[tokio::test]
async fn flush_covers_writes_of_other_connections() {
    let (server, disk) = Server::new().await;
    disk.manual_sync.store(true, SeqCst);
    let (mut writer, mut flusher) = (server.attached().await, server.attached().await);
    assert_eq!(flusher.ask(FLUSH, 0, 0, 0).await, 0);
    assert_eq!(writer.write(0, 0, b"a").await, 0);
    flusher.send(&request(FLUSH, 0, 1, (0, 0))).await;
    flusher.expect_silence().await;
    disk.sync();
    assert_eq!(flusher.reply().await, (0, 1));
}

#[tokio::test]
async fn batch_that_waits_for_the_journal_does_not_hold_back_an_earlier_flush() {
    let disk = MemoryDisk::with_held_updates(DISK_BYTES);
    disk.manual_sync.store(true, SeqCst);
    disk.update_permits.add_permits(1);
    let server = Server::with(&disk, Settings::default()).await;
    let mut client = server.attached().await;
    assert_eq!(client.write(0, 0, b"a").await, 0);
    client.send(&request(FLUSH, 0, 1, (0, 0))).await;
    client.expect_silence().await;
    client.send(&write(0, 2, 0, b"b")).await;
    client.expect_silence().await;
    disk.sync();
    assert_eq!(client.reply().await, (0, 1));
    client.expect_silence().await;
    disk.update_permits.add_permits(1);
    assert_eq!(client.reply().await, (0, 2));
}

#[tokio::test]
async fn shutdown_answers_what_was_received_and_returns() {
    let (server, disk) = Server::new().await;
    disk.manual_sync.store(true, SeqCst);
    let (mut busy, mut idle) = (server.attached().await, server.attached().await);
    let mut negotiating = server.greeted().await;
    busy.send(&write(FUA, 1, 0, b"a")).await;
    busy.expect_silence().await;
    server.shutdown.cancel();
    idle.expect_closed().await;
    negotiating.expect_closed().await;
    busy.expect_silence().await;
    disk.sync();
    assert_eq!(busy.reply().await, (0, 1));
    busy.expect_closed().await;
    drop((busy, idle));
    server.task.await.unwrap();
    assert!(tokio::net::TcpStream::connect(server.address).await.is_err());
}

#[tokio::test]
async fn shutdown_does_not_wait_for_ever() {
    let disk = MemoryDisk::new(DISK_BYTES);
    disk.manual_sync.store(true, SeqCst);
    let settings = Settings {
        drain: Duration::from_millis(100),
        ..Settings::default()
    };
    let server = Server::with(&disk, settings).await;
    let mut client = server.attached().await;
    client.send(&write(FUA, 1, 0, b"a")).await;
    client.expect_silence().await;
    server.shutdown.cancel();
    server.task.await.unwrap();
    client.expect_closed().await;
    assert_eq!(server.counters.open(), 0);
}

#[tokio::test]
async fn only_a_host_that_asks_for_one_thing_at_a_time_has_its_flushes_carried_out_by_its_connection() {
    let (server, disk) = Server::new().await;
    let mut client = server.attached().await;
    for _ in 0..LONE_REQUESTS {
        assert_eq!(disk.flushes_here.load(SeqCst), 0, "it is not known yet");
        assert_eq!(client.write(0, 0, b"one at a time").await, 0);
    }
    assert_eq!(client.ask(FLUSH, 0, 0, 0).await, 0);
    assert_eq!(client.write(FUA, 0, b"one at a time").await, 0);
    assert_eq!(disk.flushes_here.load(SeqCst), 2);
    let two = [write(0, 1, 0, b"two at a time"), request(FLUSH, 0, 2, (0, 0))].concat();
    client.send(&two).await;
    assert_eq!(client.reply().await, (0, 1));
    assert_eq!(client.reply().await, (0, 2));
    assert_eq!(client.ask(FLUSH, 0, 0, 0).await, 0);
    assert_eq!(disk.flushes_here.load(SeqCst), 2, "it may send more meanwhile");
}

#[tokio::test]
async fn a_host_that_flushes_after_each_change_finds_the_sync_begun_when_it_asks() {
    let (server, disk) = Server::new().await;
    let mut client = server.attached().await;
    for _ in 0..LONE_REQUESTS {
        assert_eq!(client.write(0, 0, b"and a flush").await, 0);
        assert_eq!(client.ask(FLUSH, 0, 0, 0).await, 0);
    }
    let asked = disk.flushes_here.load(SeqCst);
    assert_eq!(client.write(0, 0, b"and a flush").await, 0);
    while disk.flushes_here.load(SeqCst) == asked {
        tokio::task::yield_now().await;
    }
    assert_eq!(client.ask(FLUSH, 0, 0, 0).await, 0);
    assert_eq!(client.write(0, 0, b"and a flush").await, 0);
    // Two changes without one between them: it has changed its mind.
    assert_eq!(client.write(0, 0, b"and no flush").await, 0);
    let asked = disk.flushes_here.load(SeqCst);
    for _ in 0..4 {
        assert_eq!(client.write(0, 0, b"and no flush").await, 0);
    }
    assert_eq!(disk.flushes_here.load(SeqCst), asked);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn shutdown_does_not_wait_for_a_connection_that_a_disk_holds() {
    let disk = MemoryDisk::new(DISK_BYTES);
    let settings = Settings {
        drain: Duration::from_millis(100),
        ..Settings::default()
    };
    let server = Server::with(&disk, settings).await;
    let mut client = server.attached().await;
    for _ in 0..LONE_REQUESTS {
        assert_eq!(client.write(0, 0, b"one at a time").await, 0);
    }
    disk.flush_here_ms.store(8_000, SeqCst);
    client.send(&request(FLUSH, 0, 1, (0, 0))).await;
    while disk.flushes_here.load(SeqCst) == 0 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    server.shutdown.cancel();
    let ended = tokio::time::timeout(Duration::from_secs(5), server.task).await;
    assert!(ended.is_ok(), "it does not wait for the disk");
}
