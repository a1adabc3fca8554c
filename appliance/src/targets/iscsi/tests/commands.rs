//! Commands of the disk, as an initiator sees them.

use super::harness::{Server, cdb10};
use std::sync::atomic::Ordering::SeqCst;

fn cdb16(opcode: u8, flags: u8, lba: u64, length: u32) -> Vec<u8> {
    let mut cdb = vec![opcode, flags];
    cdb.extend_from_slice(&lba.to_be_bytes());
    cdb.extend_from_slice(&length.to_be_bytes());
    cdb.extend_from_slice(&[0, 0]);
    cdb
}

#[tokio::test]
async fn the_disk_says_what_it_is() {
    let server = Server::start().await;
    let mut initiator = server.initiator().await;
    let (data, reply) = initiator.ask(&[0x12, 0, 0, 0, 96, 0], 96).await;
    assert_eq!(reply.status(), 0);
    assert_eq!(&data[8..32], b"FARSIDE Volume          ");
    let (pages, _) = initiator.ask(&[0x12, 1, 0, 0, 255, 0], 255).await;
    for page in &pages[4..] {
        let (data, reply) = initiator.ask(&[0x12, 1, *page, 1, 0, 0], 256).await;
        assert_eq!((reply.status(), data[1]), (0, *page));
        assert_eq!(
            usize::from(u16::from_be_bytes([data[2], data[3]])),
            data.len() - 4,
            "{page:#x}"
        );
    }
    let (data, _) = initiator.ask(&cdb16(0x9e, 0x10, 0, 32), 32).await;
    assert_eq!(data[..12], [0, 0, 0, 0, 0, 0, 0x3f, 0xff, 0, 0, 2, 0]);
    let (luns, _) = initiator.ask(&[0xa0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0], 256).await;
    assert_eq!(luns, [0, 0, 0, 8, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0]);
}

#[tokio::test]
async fn numbers_without_a_unit_are_told_apart_from_broken_ones() {
    let server = Server::start().await;
    let mut initiator = server.initiator().await;
    initiator
        .command_to(0, &[0x12, 0, 0, 0, 96, 0], (96, 0), &[])
        .await;
    let reply = initiator.reply().await;
    assert_eq!((reply.status(), reply.data[0]), (0, 0x7f));
    initiator.command_to(5, &[0; 6], (0, 0), &[]).await;
    assert_eq!(initiator.reply().await.sense(), (5, 0x2500));
    initiator
        .command_to(0, &[0xa0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0], (256, 0), &[])
        .await;
    assert_eq!(initiator.reply().await.data.len(), 16);
}

#[tokio::test]
async fn refusals_say_why_and_change_nothing() {
    let server = Server::start().await;
    let mut initiator = server.initiator().await;
    let last = u32::try_from(super::harness::DISK_BYTES / 512).unwrap();
    for (cdb, sense) in [
        (vec![0xff, 0, 0, 0, 0, 0], (5, 0x2000)),
        (cdb10(0x28, 0, last, 1), (5, 0x2100)),
        (cdb10(0x28, 0x20, 0, 1), (5, 0x2400)),
        (cdb10(0x41, 0, 0, 0), (5, 0x2400)),
        (vec![0x12, 1, 0x77, 0, 255, 0], (5, 0x2400)),
        (vec![0x1a, 0, 0xff, 0, 255, 0], (5, 0x3900)),
    ] {
        let (_, reply) = initiator.ask(&cdb, 512).await;
        assert_eq!(reply.sense(), sense, "{cdb:02x?}");
    }
    server.disk.read_only.store(true, SeqCst);
    assert_eq!(initiator.write(0, &[1; 512]).await.sense(), (7, 0x2700));
    assert_eq!(server.disk.updates.load(SeqCst), 0);
}

#[tokio::test]
async fn what_is_written_is_read_by_every_length_of_command() {
    let server = Server::start().await;
    let mut initiator = server.initiator().await;
    let data: Vec<u8> = (0..1024_u32).map(|byte| (byte % 251) as u8).collect();
    assert_eq!(initiator.write(8, &data).await.status(), 0);
    assert_eq!(server.disk.content(4096..5120), data);
    for cdb in [
        vec![0x08, 0, 0, 8, 2, 0],
        cdb10(0x28, 0, 8, 2),
        vec![0xa8, 0, 0, 0, 0, 8, 0, 0, 0, 2, 0, 0],
        cdb16(0x88, 0, 8, 2),
    ] {
        let (found, reply) = initiator.ask(&cdb, 1024).await;
        assert_eq!((reply.status(), &found), (0, &data), "{cdb:02x?}");
    }
    // From the disk itself, which is asked beside the connection.
    server.disk.cold_from.store(0, SeqCst);
    server.disk.cold_permits.add_permits(1);
    let (found, _) = initiator.ask(&cdb10(0x28, 0, 8, 2), 1024).await;
    assert_eq!(found, data);
}

#[tokio::test]
async fn forced_and_synchronised_means_durable() {
    let server = Server::start().await;
    server.disk.manual_sync.store(true, SeqCst);
    let mut initiator = server.initiator().await;
    assert_eq!(
        initiator.write(0, &[1; 512]).await.status(),
        0,
        "a plain write waits for nothing"
    );
    for cdb in [cdb10(0x35, 0, 0, 0), cdb10(0x2a, 8, 0, 1), cdb10(0x2e, 2, 0, 1)] {
        let data = vec![2; if cdb[0] == 0x35 { 0 } else { 512 }];
        initiator
            .command(&cdb, (0, u32::try_from(data.len()).unwrap()), &data)
            .await;
        assert!(initiator.is_quiet().await, "{cdb:02x?} was answered too early");
        server.disk.sync();
        assert_eq!(initiator.reply().await.status(), 0);
    }
    // Without its cache every write is.
    let select = [&[0, 0, 0, 0, 8, 18, 0][..], &[0; 17]].concat();
    initiator
        .command(&[0x15, 0x10, 0, 0, 24, 0], (0, 24), &select)
        .await;
    assert_eq!(initiator.reply().await.status(), 0);
    initiator
        .command(&cdb10(0x2a, 0, 0, 1), (0, 512), &[3; 512])
        .await;
    assert!(initiator.is_quiet().await);
    server.disk.sync();
    assert_eq!(initiator.reply().await.status(), 0);
}

#[tokio::test]
async fn comparing_commands_change_all_or_nothing() {
    let server = Server::start().await;
    let mut initiator = server.initiator().await;
    initiator.write(0, &[b'A'; 512]).await;
    let compare = |old: u8, new: u8| [[old; 512], [new; 512]].concat();
    initiator
        .command(&cdb16(0x89, 0, 0, 1), (0, 1024), &compare(b'B', b'C'))
        .await;
    assert_eq!(initiator.reply().await.sense(), (0xe, 0x1d00));
    assert_eq!(server.disk.content(0..512), [b'A'; 512]);
    initiator
        .command(&cdb16(0x89, 0, 0, 1), (0, 1024), &compare(b'A', b'C'))
        .await;
    assert_eq!(initiator.reply().await.status(), 0);
    assert_eq!(server.disk.content(0..512), [b'C'; 512]);
    initiator
        .command(&cdb16(0x8b, 0, 0, 1), (0, 512), &[0x80; 512])
        .await;
    assert_eq!(initiator.reply().await.status(), 0);
    assert_eq!(server.disk.content(0..512), [b'C' | 0x80; 512]);
    initiator
        .command(&cdb10(0x2f, 2, 0, 1), (0, 512), &[b'C'; 512])
        .await;
    assert_eq!(initiator.reply().await.sense(), (0xe, 0x1d00));
}

#[tokio::test]
async fn unmapped_blocks_read_as_zeroes_and_are_told() {
    let server = Server::start().await;
    let mut initiator = server.initiator().await;
    initiator.write(0, &[7; 16384]).await;
    let mut list = vec![0, 22, 0, 16, 0, 0, 0, 0];
    list.extend_from_slice(&8_u64.to_be_bytes());
    list.extend_from_slice(&8_u32.to_be_bytes());
    list.extend_from_slice(&[0; 4]);
    initiator
        .command(&[0x42, 0, 0, 0, 0, 0, 0, 0, 24, 0], (0, 24), &list)
        .await;
    assert_eq!(initiator.reply().await.status(), 0);
    let (data, _) = initiator.ask(&cdb10(0x28, 0, 8, 8), 4096).await;
    assert_eq!(data, [0; 4096]);
    let (status, _) = initiator.ask(&cdb16(0x9e, 0x12, 0, 56), 56).await;
    let states: Vec<(u32, u8)> = status[8..]
        .chunks(16)
        .map(|extent| (u32::from_be_bytes(extent[8..12].try_into().unwrap()), extent[12]))
        .collect();
    assert_eq!(states[..2], [(8, 0), (8, 1)]);
    // A block that is repeated, and one of zeroes that may be given back.
    initiator
        .command(&cdb10(0x41, 0, 0, 4), (0, 512), &[9; 512])
        .await;
    assert_eq!(initiator.reply().await.status(), 0);
    assert_eq!(server.disk.content(0..2048), [9; 2048]);
    initiator
        .command(&cdb10(0x41, 8, 0, 4), (0, 512), &[0; 512])
        .await;
    assert_eq!(initiator.reply().await.status(), 0);
    assert_eq!(server.disk.content(0..2048), [0; 2048]);
}

#[tokio::test]
async fn errors_of_the_disk_are_errors_of_the_medium() {
    let server = Server::start().await;
    let mut initiator = server.initiator().await;
    use crate::targets::DiskError;
    for (error, sense) in [(DiskError::Io, (3, 0x0c00)), (DiskError::NoSpace, (7, 0x2707))] {
        *server.disk.fail.lock() = Some(error);
        assert_eq!(initiator.write(0, &[1; 512]).await.sense(), sense);
    }
    *server.disk.fail.lock() = Some(DiskError::Io);
    let (_, reply) = initiator.ask(&cdb10(0x28, 0, 0, 1), 512).await;
    assert_eq!(reply.sense(), (3, 0x1100));
    *server.disk.fail.lock() = None;
    *server.disk.fail_durable.lock() = Some(DiskError::Io);
    let (_, reply) = initiator.ask(&cdb10(0x35, 0, 0, 0), 0).await;
    assert_eq!(reply.sense(), (3, 0x0c00));
}
