//! Clients that hang up, stay silent, send rubbish or come by the thousand: nothing leaks and nobody else suffers.

use super::harness::{DISK_BYTES, FLUSH, FUA, READ, Server, WRITE, go, option, request, write};
use super::memory::MemoryDisk;
use crate::targets::Settings;
use crate::targets::nbd::{Service, serve};
use socket2::SockRef;
use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_util::sync::CancellationToken;

fn open_files() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_that_hang_up_with_requests_in_flight_leave_nothing_behind() {
    let (server, disk) = Server::new().await;
    disk.manual_sync.store(true, SeqCst);
    disk.cold_from.store(4096, SeqCst);
    let mut witness = server.attached().await;
    for round in 0..60u16 {
        let mut client = server.attached().await;
        client.send(&write(FUA, 1, 0, &[1; 9000])).await;
        client.send(&request(READ, 0, 2, (8192, 4096))).await;
        client.send(&request(FLUSH, 0, 3, (0, 0))).await;
        client.send(&request(WRITE, 0, 4, (0, 100_000))).await;
        client.send(&vec![7; usize::from(round) * 100]).await;
        if round % 2 == 0 {
            SockRef::from(&client.stream)
                .set_linger(Some(Duration::ZERO))
                .unwrap();
        }
        drop(client);
        assert_eq!(witness.write(0, 4000, b"alive").await, 0);
    }
    disk.manual_sync.store(false, SeqCst);
    disk.sync();
    disk.cold_permits.add_permits(1000);
    drop(witness);
    server.until_idle().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_hundred_silent_and_half_spoken_clients_hold_up_nobody() {
    let (server, _disk) = Server::new().await;
    let mut silent = Vec::new();
    for number in 0..200 {
        let mut client = if number % 2 == 0 {
            server.connect().await
        } else {
            server.attached().await
        };
        client.send(&write(0, 1, 0, &[1; 64])[..number % 60]).await;
        silent.push(client);
    }
    let mut client = server.attached().await;
    assert_eq!(client.write(FUA, 0, b"served").await, 0);
    assert_eq!(client.read(0, 6).await, b"served");
    drop((silent, client));
    server.until_idle().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn thousands_of_connections_come_and_go_without_leaking_a_file() {
    let (server, _disk) = Server::new().await;
    drop(server.attached().await);
    server.until_idle().await;
    for round in 0..3000 {
        match round % 3 {
            0 => drop(server.connect().await),
            1 => drop(server.greeted().await),
            _ => drop(server.attached().await),
        }
    }
    server.until_idle().await;
    // Other tests of this process open files too, but not thousands.
    assert!(open_files() < 1500, "{} files are open", open_files());
    assert!(server.counters.accepted() >= 3000);
    assert_eq!(server.attached().await.write(0, 0, b"x").await, 0);
}

#[tokio::test]
async fn connections_over_the_limit_are_closed_and_the_others_served() {
    let disk = MemoryDisk::new(DISK_BYTES);
    let server = Server::with(
        &disk,
        Settings {
            connections: 2,
            ..Settings::default()
        },
    )
    .await;
    let (mut first, second) = (server.attached().await, server.attached().await);
    assert_eq!(server.counters.attached("disk0"), 2);
    server.connect().await.expect_closed().await;
    assert_eq!(server.counters.refused(), 1);
    assert_eq!(first.write(0, 0, b"x").await, 0);
    drop((first, second));
    server.until_idle().await;
    assert_eq!(server.attached().await.write(0, 0, b"x").await, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mutated_streams_end_their_own_connection_at_most() {
    let (server, _disk) = Server::new().await;
    let greeting = [0, 0, 0, 3];
    let valid = [
        &greeting[..],
        &option(8, &[]),
        &option(7, &go("disk0", &[3])),
        &write(FUA, 1, 77, &[3; 600]),
        &request(READ, 0, 2, (0, 700)),
        &request(FLUSH, 0, 3, (0, 0)),
    ]
    .concat();
    let mut witness = server.attached().await;
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    for _ in 0..500 {
        let mut bytes = valid.clone();
        for _ in 0..=state % 3 {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            let at = usize::try_from(state % bytes.len() as u64).unwrap();
            bytes[at] = state.to_be_bytes()[3];
        }
        let mut client = server.connect().await;
        // The server may end the connection while we send.
        let _ = client.stream.write_all(&bytes).await;
        let _ = client.stream.shutdown().await;
        let mut answer = Vec::new();
        let read = client.stream.read_to_end(&mut answer);
        let _ = tokio::time::timeout(Duration::from_secs(20), read)
            .await
            .expect("the connection ends");
    }
    assert_eq!(witness.write(0, 0, b"alive").await, 0);
    drop(witness);
    server.until_idle().await;
}

#[tokio::test]
async fn half_closed_client_still_gets_its_replies() {
    let (server, disk) = Server::new().await;
    disk.manual_sync.store(true, SeqCst);
    let mut client = server.attached().await;
    client.send(&write(FUA, 1, 0, b"x")).await;
    client.stream.shutdown().await.unwrap();
    client.expect_silence().await;
    disk.sync();
    assert_eq!(client.reply().await, (0, 1));
    client.expect_closed().await;
}

#[tokio::test]
async fn unix_socket_is_served_like_tcp() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("nbd.sock");
    let exports = Arc::new(super::memory::MemoryExports::default());
    exports
        .0
        .lock()
        .insert("disk0".to_owned(), MemoryDisk::new(DISK_BYTES));
    let listener = tokio::net::UnixListener::bind(&path).unwrap();
    let shutdown = CancellationToken::new();
    let task = tokio::spawn(serve(listener, Service::new(exports), shutdown.clone()));
    let mut stream = tokio::net::UnixStream::connect(&path).await.unwrap();
    let sent = [
        &[0, 0, 0, 3],
        &option(1, b"disk0")[..],
        &write(0, 5, 0, b"abc"),
        &request(READ, 0, 6, (0, 3)),
    ];
    stream.write_all(&sent.concat()).await.unwrap();
    let mut answer = vec![0; 18 + 10 + 16 + 16 + 3];
    stream.read_exact(&mut answer).await.unwrap();
    assert!(answer.starts_with(b"NBDMAGIC"));
    shutdown.cancel();
    drop(stream);
    task.await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn client_that_never_reads_its_replies_is_not_read_for_ever() {
    let (server, disk) = Server::new().await;
    let mut client = server.attached().await;
    let all: Vec<u8> = (0..8000)
        .flat_map(|cookie| request(READ, 0, cookie, (0, 65536)))
        .collect();
    client.send(&all).await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    // The sockets between us hold some megabytes; half a gigabyte was asked for.
    let taken = disk.reads.load(SeqCst);
    assert!(
        taken < 1000,
        "{taken} reads were carried out for a client that takes no replies"
    );
    for cookie in 0..2000 {
        assert_eq!(client.reply().await, (0, cookie));
        client.take(65536).await;
    }
    drop(client);
    server.until_idle().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn client_that_never_stops_sending_does_not_hold_up_the_shutdown() {
    let (server, _disk) = Server::new().await;
    let mut client = server.attached().await;
    let pump = tokio::spawn(async move {
        let batch: Vec<u8> = (0..64)
            .flat_map(|cookie| write(0, cookie, 0, &[1; 512]))
            .collect();
        let (mut reader, mut writer) = client.stream.split();
        let send = async { while writer.write_all(&batch).await.is_ok() {} };
        let receive = async {
            let mut replies = vec![0; 65536];
            while reader.read(&mut replies).await.is_ok_and(|bytes| bytes > 0) {}
        };
        tokio::join!(send, receive);
    });
    tokio::time::sleep(Duration::from_millis(50)).await;
    server.shutdown.cancel();
    tokio::time::timeout(Duration::from_secs(5), server.task)
        .await
        .expect("ends before the drain limit")
        .unwrap();
    assert_eq!(server.counters.open(), 0);
    pump.await.unwrap();
}
