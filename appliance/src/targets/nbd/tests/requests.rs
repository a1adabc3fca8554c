//! Single requests: what they do, and the error each wrong one gets while the connection lives on.

use super::harness::{
    CACHE, DF, DISC, DISK_BYTES, FAST_ZERO, FLUSH, FUA, NO_HOLE, QUIET, READ, Server, TRIM, WRITE, ZEROES,
    request, write,
};
use crate::targets::DiskError;
use std::sync::atomic::Ordering::SeqCst;

const EPERM: u32 = 1;
const EIO: u32 = 5;
const EINVAL: u32 = 22;
const ENOSPC: u32 = 28;
const EOVERFLOW: u32 = 75;
const ESHUTDOWN: u32 = 108;
const END: u64 = DISK_BYTES as u64;

fn pattern(length: usize, seed: u8) -> Vec<u8> {
    (0..length)
        .map(|at| u8::try_from(at % 251).unwrap() ^ seed)
        .collect()
}

#[tokio::test]
async fn unaligned_and_odd_sized_requests_change_exactly_their_bytes() {
    let (server, disk) = Server::new().await;
    let mut client = server.attached().await;
    let mut model = vec![0u8; 300_000];
    for (step, (offset, length)) in [
        (0usize, 300_000usize),
        (1, 1),
        (511, 513),
        (4095, 2),
        (70_001, 131_073),
        (299_999, 1),
    ]
    .into_iter()
    .enumerate()
    {
        let data = pattern(length, u8::try_from(step).unwrap());
        assert_eq!(client.write(0, offset as u64, &data).await, 0);
        model[offset..offset + length].copy_from_slice(&data);
    }
    assert_eq!(client.ask(TRIM, 0, 777, 1001).await, 0);
    assert_eq!(client.ask(ZEROES, FUA, 5003, 3).await, 0);
    assert_eq!(client.ask(ZEROES, NO_HOLE, 6001, 4097).await, 0);
    assert_eq!(client.ask(ZEROES, FAST_ZERO, 9001, 7).await, 0);
    for (start, length) in [(777, 1001), (5003, 3), (6001, 4097), (9001, 7)] {
        model[start..start + length].fill(0);
    }
    assert_eq!(disk.content(0..300_000), model);
    assert_eq!(client.read(3, 299_000).await, model[3..299_003]);
    assert_eq!(client.read(299_999, 1).await, model[299_999..]);
}

#[tokio::test]
async fn ranges_outside_the_disk_get_their_error_and_the_connection_lives() {
    let (server, disk) = Server::new().await;
    let mut client = server.attached().await;
    for (offset, length) in [
        (END - 1, 2),
        (END, 1),
        (u64::MAX, 1),
        (u64::MAX - 1, 2),
        (0, u32::MAX),
        (END + 1, 0),
    ] {
        for (command, error) in [(READ, EINVAL), (TRIM, EINVAL), (CACHE, EINVAL), (ZEROES, ENOSPC)] {
            assert_eq!(
                client.ask(command, 0, offset, length).await,
                error,
                "{command} {offset} {length}"
            );
        }
    }
    for offset in [END - 1, END, u64::MAX, u64::MAX - 1] {
        assert_eq!(client.write(0, offset, b"ab").await, ENOSPC);
    }
    assert_eq!(client.write(0, END - 2, b"ab").await, 0);
    assert_eq!(client.read(END - 2, 2).await, b"ab");
    assert_eq!(disk.updates.load(SeqCst), 1);
}

#[tokio::test]
async fn requests_of_zero_length_succeed_without_effect() {
    let (server, disk) = Server::new().await;
    let mut client = server.attached().await;
    for command in [READ, TRIM, ZEROES, CACHE] {
        assert_eq!(client.ask(command, 0, END, 0).await, 0);
    }
    assert_eq!(client.write(FUA, 5, b"").await, 0);
    assert_eq!(client.write(0, END + 1, b"").await, ENOSPC);
    assert_eq!(disk.batches.load(SeqCst), 0);
    let mut client = server.attached_structured().await;
    client.send(&request(READ, 0, 3, (0, 0))).await;
    assert_eq!(client.chunk().await, (0, 3, vec![]));
}

#[tokio::test]
async fn unknown_commands_and_flags_are_invalid() {
    let (server, disk) = Server::new().await;
    let mut client = server.attached().await;
    for command in [7, 8, 1000, 0xffff] {
        assert_eq!(client.ask(command, 0, 0, 512).await, EINVAL);
    }
    let wrong = [
        (READ, DF),
        (READ, NO_HOLE),
        (TRIM, NO_HOLE),
        (TRIM, FAST_ZERO),
        (FLUSH, 8),
        (CACHE, 1 << 15),
    ];
    for (command, flags) in wrong {
        let length = if command == FLUSH { 0 } else { 512 };
        assert_eq!(
            client.ask(command, flags, 0, length).await,
            EINVAL,
            "{command} {flags}"
        );
    }
    assert_eq!(client.write(NO_HOLE, 0, &[1; 512]).await, EINVAL);
    assert_eq!(client.ask(FLUSH, 0, 0, 1).await, EINVAL);
    assert_eq!(client.ask(FLUSH, FUA, 0, 0).await, 0);
    assert_eq!(client.ask(CACHE, FUA, 0, 512).await, 0);
    assert_eq!(client.ask(READ, FUA, 0, 1).await, 0);
    assert_eq!(client.take(1).await, [0]);
    assert_eq!(disk.batches.load(SeqCst), 0);
}

#[tokio::test]
async fn read_only_disk_refuses_changes_and_serves_reads() {
    let (server, disk) = Server::new().await;
    disk.read_only.store(true, SeqCst);
    let mut client = server.attached().await;
    assert_eq!(client.write(0, 0, &[1; 100_000]).await, EPERM);
    assert_eq!(client.ask(TRIM, 0, 0, 1).await, EPERM);
    assert_eq!(client.ask(ZEROES, 0, 0, 1).await, EPERM);
    assert_eq!(client.ask(FLUSH, 0, 0, 0).await, 0);
    assert_eq!(client.read(0, 2).await, [0, 0]);
}

#[tokio::test]
async fn oversized_write_is_skipped_and_an_absurd_one_ends_the_connection() {
    let (server, disk) = Server::new().await;
    let mut client = server.attached().await;
    let length = (64u32 << 20) + 1;
    client.send(&request(WRITE, 0, 5, (0, length))).await;
    client.send(&vec![0x25; length as usize - 1]).await;
    client.expect_silence().await;
    client.send(&[0]).await;
    assert_eq!(client.reply().await, (EINVAL, 5));
    assert_eq!(client.ask(READ, 0, 0, length).await, EINVAL);
    assert_eq!(client.ask(FLUSH, 0, 0, 0).await, 0);
    client.send(&request(WRITE, 0, 6, (0, (256 << 20) + 1))).await;
    client.expect_closed().await;
    assert_eq!(disk.batches.load(SeqCst), 0);
}

#[tokio::test]
async fn largest_write_and_read_are_accepted() {
    let disk = super::memory::MemoryDisk::new(65 << 20);
    let server = Server::with(&disk, crate::targets::Settings::default()).await;
    let mut client = server.attached().await;
    let data = pattern(64 << 20, 9);
    assert_eq!(client.write(FUA, 512, &data).await, 0);
    assert!(client.read(512, 64 << 20).await == data);
    assert_eq!(client.write(0, 0, b"small again").await, 0);
    assert_eq!(client.read(0, 11).await, b"small again");
}

#[tokio::test]
async fn structured_reads_carry_offset_and_data_and_errors_a_sentence() {
    let (server, disk) = Server::new().await;
    let mut client = server.attached_structured().await;
    assert_eq!(client.write(0, 1000, b"hello").await, 0);
    client.send(&request(READ, DF, 3, (1000, 5))).await;
    assert_eq!(
        client.chunk().await,
        (1, 3, [&1000u64.to_be_bytes()[..], b"hello"].concat())
    );
    disk.cold_from.store(0, SeqCst);
    disk.cold_permits.add_permits(1);
    client.send(&request(READ, 0, 4, (1000, 5))).await;
    assert_eq!(
        client.chunk().await,
        (1, 4, [&1000u64.to_be_bytes()[..], b"hello"].concat())
    );
    let wrong = [((END, 1), EINVAL), ((0, u32::MAX), EINVAL)];
    for (range, error) in wrong {
        client.send(&request(READ, 0, 5, range)).await;
        let (kind, cookie, payload) = client.chunk().await;
        assert_eq!((kind, cookie), (0x8001, 5));
        assert_eq!(payload[..4], error.to_be_bytes());
        assert_eq!(
            usize::from(u16::from_be_bytes([payload[4], payload[5]])),
            payload.len() - 6
        );
    }
}

#[tokio::test]
async fn too_long_a_structured_read_is_an_overflow() {
    let disk = super::memory::MemoryDisk::new(65 << 20);
    let server = Server::with(&disk, crate::targets::Settings::default()).await;
    let mut client = server.attached_structured().await;
    client.send(&request(READ, DF, 5, (0, (64 << 20) + 1))).await;
    let (kind, _, payload) = client.chunk().await;
    assert_eq!((kind, &payload[..4]), (0x8001, &EOVERFLOW.to_be_bytes()[..]));
}

#[tokio::test]
async fn failing_disk_answers_every_request_of_the_batch_and_the_connection_lives() {
    let (server, disk) = Server::new().await;
    let mut client = server.attached().await;
    for (error, errno) in [
        (DiskError::Io, EIO),
        (DiskError::NoSpace, ENOSPC),
        (DiskError::ReadOnly, EPERM),
    ] {
        *disk.fail.lock() = Some(error);
        let batch: Vec<u8> = (0..10)
            .flat_map(|cookie| write(FUA * (cookie % 2), u64::from(cookie), 0, b"x"))
            .collect();
        client.send(&batch).await;
        for cookie in 0..10 {
            assert_eq!(client.reply().await, (errno, cookie));
        }
        assert_eq!(client.ask(READ, 0, 0, 1).await, errno);
        *disk.fail.lock() = None;
        assert_eq!(client.read(0, 1).await, [0]);
    }
    *disk.fail_durable.lock() = Some(DiskError::Io);
    assert_eq!(client.ask(FLUSH, 0, 0, 0).await, EIO);
    assert_eq!(client.write(FUA, 0, b"y").await, EIO);
    assert_eq!(client.write(0, 0, b"y").await, 0);
}

#[tokio::test]
async fn removed_disk_answers_shutdown_and_closes() {
    let (server, disk) = Server::new().await;
    let mut client = server.attached().await;
    *disk.fail.lock() = Some(DiskError::ShuttingDown);
    client
        .send(
            &[
                write(0, 1, 0, b"x"),
                write(0, 2, 0, b"x"),
                request(READ, 0, 3, (0, 1)),
            ]
            .concat(),
        )
        .await;
    let mut answered = [client.reply().await, client.reply().await, client.reply().await];
    answered.sort_unstable();
    assert_eq!(answered, [(ESHUTDOWN, 1), (ESHUTDOWN, 2), (ESHUTDOWN, 3)]);
    client.expect_closed().await;
    drop(client);
    server.until_idle().await;
}

#[tokio::test]
async fn disconnect_finishes_what_is_outstanding_first() {
    let (server, disk) = Server::new().await;
    disk.manual_sync.store(true, SeqCst);
    let mut client = server.attached().await;
    client
        .send(&[write(FUA, 1, 0, b"x"), request(DISC, 0, 0, (0, 0))].concat())
        .await;
    tokio::time::sleep(QUIET).await;
    disk.sync();
    assert_eq!(client.reply().await, (0, 1));
    client.expect_closed().await;
}

#[tokio::test]
async fn wrong_request_magic_ends_the_connection() {
    let (server, _disk) = Server::new().await;
    let mut client = server.attached().await;
    let mut bytes = request(READ, 0, 1, (0, 1));
    bytes[0] ^= 1;
    client.send(&bytes).await;
    client.expect_closed().await;
}
