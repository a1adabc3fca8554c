//! What is told about holes: metadata contexts, the block status, and reads of which zeroes are left out.

use super::harness::{
    BLOCK_STATUS, Client, DF, DISK_BYTES, FUA, READ, REQ_ONE, Server, WRITE, be32, be64, contexts, option,
    request,
};
use crate::targets::DiskError;
use std::sync::atomic::Ordering::SeqCst;

const INVALID: u32 = (1 << 31) + 3;
const UNKNOWN: u32 = (1 << 31) + 6;
const EIO: u32 = 5;
const EINVAL: u32 = 22;
const BASE: &[u8] = b"base:allocation";

async fn attached(server: &Server) -> Client {
    let selected = contexts("disk0", &["base:allocation"]);
    server.attached_with(&[(8, &[]), (10, &selected)]).await.0
}

/// The extents of an answer: length and flags.
async fn status(client: &mut Client, flags: u16, range: (u64, u32)) -> Vec<(u32, u32)> {
    client.send(&request(BLOCK_STATUS, flags, 9, range)).await;
    let (kind, cookie, payload) = client.chunk().await;
    assert_eq!((kind, cookie), (5, 9));
    let (id, extents) = payload.split_at(4);
    assert_ne!(be32(id), 0);
    assert_eq!(extents.len() % 8, 0);
    let extents = extents.as_chunks::<8>().0;
    extents
        .iter()
        .map(|extent| (be32(extent), be32(&extent[4..])))
        .collect()
}

async fn error(client: &mut Client, flags: u16, range: (u64, u32)) -> u32 {
    client.send(&request(BLOCK_STATUS, flags, 9, range)).await;
    let (kind, cookie, payload) = client.chunk().await;
    assert_eq!((kind, cookie), (0x8001, 9));
    be32(&payload)
}

#[tokio::test]
async fn contexts_are_listed_and_selected_by_name() {
    let (server, _disk) = Server::new().await;
    let mut client = server.greeted().await;
    let one_context = |code: u32, id: u32| (code, 4, [&id.to_be_bytes(), BASE].concat());
    client.send(&option(9, &contexts("disk0", &[]))).await;
    assert_eq!(client.option_reply().await, one_context(9, 0));
    assert_eq!(client.option_reply().await, (9, 1, vec![]));
    client.send(&option(9, &contexts("", &["x:", "base:"]))).await;
    assert_eq!(client.option_reply().await, one_context(9, 0));
    assert_eq!(client.option_reply().await, (9, 1, vec![]));
    client.send(&option(9, &contexts("disk0", &["x:y"]))).await;
    assert_eq!(client.option_reply().await, (9, 1, vec![]));
    client.send(&option(9, &contexts("nope", &[]))).await;
    assert_eq!(client.option_reply().await.1, UNKNOWN);
    let select = option(10, &contexts("disk0", &["base:allocation", "base:allocation"]));
    client.send(&select).await;
    assert_eq!(
        client.option_reply().await.1,
        INVALID,
        "structured replies come first"
    );
    client.send(&option(8, &[])).await;
    assert_eq!(client.option_reply().await.1, 1);
    client.send(&select).await;
    assert_eq!(client.option_reply().await, one_context(10, 1));
    assert_eq!(client.option_reply().await, (10, 1, vec![]));
}

#[tokio::test]
async fn only_who_selected_a_context_of_this_export_may_ask() {
    let (server, _disk) = Server::new().await;
    let of_another = contexts("disk1", &["base:allocation"]);
    let (ours, none) = (contexts("", &["base:allocation"]), contexts("disk0", &[]));
    server
        .exports
        .0
        .lock()
        .insert("disk1".to_owned(), super::memory::MemoryDisk::new(4096));
    let refused: [&[(u32, &[u8])]; 3] = [
        &[(8, &[])],
        &[(8, &[]), (10, &of_another)],
        &[(8, &[]), (10, &ours), (10, &none)],
    ];
    for options in refused {
        let (mut client, _) = server.attached_with(options).await;
        assert_eq!(error(&mut client, 0, (0, 4096)).await, EINVAL, "{options:?}");
    }
    let (mut client, _) = server.attached_with(&[(8, &[]), (10, &ours)]).await;
    assert_eq!(status(&mut client, 0, (0, 4096)).await, [(4096, 3)]);
}

#[tokio::test]
async fn the_block_status_tells_data_from_holes() {
    let (server, disk) = Server::new().await;
    let mut client = attached(&server).await;
    let end = u32::try_from(DISK_BYTES).unwrap();
    assert_eq!(status(&mut client, 0, (0, end)).await, [(end, 3)]);
    assert_eq!(client.write(0, 8192, &[1; 4096]).await, 0);
    assert_eq!(client.write(0, 65536, &[1; 1]).await, 0);
    let wanted = [(8192, 3), (4096, 0), (53248, 3), (4096, 0), (end - 69632, 3)];
    assert_eq!(status(&mut client, 0, (0, end)).await, wanted);
    assert_eq!(status(&mut client, FUA, (0, end)).await, wanted);
    assert_eq!(status(&mut client, 0, (8191, 3)).await, [(1, 3), (2, 0)]);
    assert_eq!(status(&mut client, REQ_ONE, (8192, 65536)).await, [(4096, 0)]);
    assert_eq!(status(&mut client, REQ_ONE, (8193, 7)).await, [(7, 0)]);
    for range in [(0, 0), (0, end + 1), (u64::from(end), 1), (u64::MAX, 2)] {
        assert_eq!(error(&mut client, 0, range).await, EINVAL, "{range:?}");
    }
    assert_eq!(error(&mut client, DF, (0, 1)).await, EINVAL);
    *disk.fail.lock() = Some(DiskError::Io);
    assert_eq!(error(&mut client, 0, (0, 1)).await, EIO);
    *disk.fail.lock() = None;
    assert_eq!(status(&mut client, 0, (0, 1)).await, [(1, 3)]);
}

#[tokio::test]
async fn more_extents_than_an_answer_holds_are_asked_for_again() {
    let (server, _disk) = Server::new().await;
    let mut client = attached(&server).await;
    // Every other block of 4 KiB of the 8 MiB: more than one answer may hold is not reached, so a part is looked at.
    for block in 0..512_u64 {
        assert_eq!(client.write(0, block * 8192, &[1; 4096]).await, 0);
    }
    let extents = status(&mut client, 0, (0, 4 << 20)).await;
    assert_eq!(extents.len(), 1024);
    assert!(extents.chunks(2).all(|pair| *pair == [(4096, 0), (4096, 3)]));
}

#[tokio::test]
async fn zeroes_are_left_out_of_a_long_cold_read_that_may_be_fragmented() {
    let (server, disk) = Server::new().await;
    let mut client = attached(&server).await;
    assert_eq!(client.write(0, 65536, &[7; 4096]).await, 0);
    assert_eq!(client.write(0, 131_072, &[8; 65536]).await, 0);
    disk.cold_from.store(0, SeqCst);
    disk.cold_permits.add_permits(2);
    client.send(&request(READ, 0, 3, (4096, 192_512))).await;
    let mut told = vec![None; 192_512];
    let mut kinds = Vec::new();
    loop {
        let (last, (kind, cookie, payload)) = client.piece().await;
        assert_eq!(cookie, 3);
        kinds.push(kind);
        let start = usize::try_from(be64(&payload) - 4096).unwrap();
        let data = match kind {
            1 => payload[8..].to_vec(),
            2 => vec![0; be32(&payload[8..]) as usize],
            other => panic!("a chunk of type {other}"),
        };
        for (place, byte) in told[start..start + data.len()].iter_mut().zip(data) {
            assert!(place.replace(byte).is_none(), "told twice");
        }
        if last {
            break;
        }
    }
    assert_eq!(kinds, [2, 1, 2, 1]);
    let told: Vec<u8> = told.into_iter().map(Option::unwrap).collect();
    assert!(told == disk.content(4096..196_608));

    // In one piece if it has to be, or if it is short.
    disk.cold_permits.add_permits(2);
    for (flags, length) in [(DF, 192_512), (0, 65_535)] {
        client.send(&request(READ, flags, 4, (4096, length))).await;
        let (kind, _, payload) = client.chunk().await;
        assert_eq!((kind, payload.len()), (1, length as usize + 8));
    }
    // And all zeroes are one hole.
    client.send(&request(READ, 0, 5, (1 << 20, 1 << 20))).await;
    let (kind, _, payload) = client.chunk().await;
    assert_eq!((kind, be64(&payload), be32(&payload[8..])), (2, 1 << 20, 1 << 20));
}

#[tokio::test]
async fn a_fragmented_read_that_fails_has_no_data() {
    let (server, disk) = Server::new().await;
    let mut client = attached(&server).await;
    assert_eq!(client.write(0, 65536, &[7; 4096]).await, 0);
    disk.cold_from.store(0, SeqCst);
    client.send(&request(READ, 0, 3, (0, 131_072))).await;
    client.expect_silence().await;
    *disk.fail.lock() = Some(DiskError::Io);
    disk.cold_permits.add_permits(1);
    let (kind, _, payload) = client.chunk().await;
    assert_eq!((kind, be32(&payload)), (0x8001, EIO));
    *disk.fail.lock() = None;
    client.send(&request(WRITE, 0, 4, (0, 0))).await;
    assert_eq!(client.reply().await, (0, 4));
}
