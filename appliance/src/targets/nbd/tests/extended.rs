//! Extended headers: other messages, the same disk.

use super::harness::{
    BLOCK_STATUS, Client, DF, DISC, DISK_BYTES, FLUSH, FUA, PAYLOAD_LEN, READ, Server, TRIM, WRITE, ZEROES,
    be32, be64, contexts, extended_request, go, option,
};

const ACK: u32 = 1;
const EXTENDED_REQUIRED: u32 = (1 << 31) + 10;
const EINVAL: u32 = 22;
const ENOSPC: u32 = 28;
const EOVERFLOW: u32 = 75;
const STATUS_PAYLOAD_FLAG: u16 = 1 << 12;
const END: u64 = DISK_BYTES as u64;

async fn attached(server: &Server) -> Client {
    let selected = contexts("disk0", &["base:allocation"]);
    let (client, flags) = server.attached_with(&[(11, &[]), (10, &selected)]).await;
    assert_eq!(flags & STATUS_PAYLOAD_FLAG, STATUS_PAYLOAD_FLAG);
    client
}

fn write(cookie: u64, offset: u64, data: &[u8]) -> Vec<u8> {
    let range = (offset, data.len() as u64);
    [
        extended_request(WRITE, PAYLOAD_LEN | FUA, cookie, range),
        data.to_vec(),
    ]
    .concat()
}

/// The error of a reply, 0 if it is done.
async fn outcome(client: &mut Client, cookie: u64, offset: u64) -> u32 {
    let (kind, replied, at, payload) = client.extended().await;
    assert_eq!((replied, at), (cookie, offset));
    match kind {
        0 => 0,
        0x8001 => be32(&payload),
        other => panic!("a chunk of type {other}"),
    }
}

#[tokio::test]
async fn extended_headers_include_structured_replies_and_exclude_going_back() {
    let (server, _disk) = Server::new().await;
    let mut client = server.greeted().await;
    for (code, reply) in [(11, ACK), (8, EXTENDED_REQUIRED), (11, ACK)] {
        client.send(&option(code, &[])).await;
        assert_eq!(client.option_reply().await.1, reply, "option {code}");
    }
    client.send(&option(7, &go("disk0", &[]))).await;
    let info = client.info_until_ack(7).await;
    let flags = u16::from_be_bytes(info[0][10..12].try_into().unwrap());
    assert_eq!(flags & STATUS_PAYLOAD_FLAG, 0, "no context was selected");
    client.send(&extended_request(FLUSH, 0, 1, (0, 0))).await;
    assert_eq!(outcome(&mut client, 1, 0).await, 0);

    let mut client = server.greeted().await;
    client.send(&option(11, &[])).await;
    client.option_reply().await;
    client.send(&option(1, b"disk0")).await;
    client.expect_closed().await;
}

#[tokio::test]
async fn every_command_is_answered_with_an_extended_reply() {
    let (server, disk) = Server::new().await;
    let mut client = attached(&server).await;
    client.send(&write(1, 4096, b"hello")).await;
    assert_eq!(outcome(&mut client, 1, 4096).await, 0);
    for (command, flags, range) in [
        (FLUSH, 0, (0, 0)),
        (TRIM, 0, (8192, 4096)),
        (ZEROES, FUA, (5, 1)),
        (5, 0, (0, END)),
        (READ, 0, (9, 0)),
    ] {
        client.send(&extended_request(command, flags, 2, range)).await;
        assert_eq!(outcome(&mut client, 2, range.0).await, 0, "command {command}");
    }
    client.send(&extended_request(READ, DF, 3, (4096, 5))).await;
    let (kind, cookie, offset, payload) = client.extended().await;
    assert_eq!((kind, cookie, offset), (1, 3, 4096));
    assert_eq!(payload, [&4096_u64.to_be_bytes()[..], b"hello"].concat());
    assert_eq!(disk.content(4096..4101), b"hello");
    client.send(&extended_request(READ, 0, 4, (0, END + 1))).await;
    assert_eq!(outcome(&mut client, 4, 0).await, EINVAL);
    client
        .send(&extended_request(BLOCK_STATUS, 0, 5, (4096, END - 4096)))
        .await;
    let (kind, _, _, payload) = client.extended().await;
    assert_eq!((kind, be32(&payload[4..])), (6, 2));
    assert_eq!((be64(&payload[8..]), be64(&payload[16..])), (4096, 0));
    assert_eq!((be64(&payload[24..]), be64(&payload[32..])), (END - 8192, 3));
    client.send(&extended_request(DISC, 0, 6, (0, 0))).await;
    client.expect_closed().await;
}

#[tokio::test]
async fn ranges_beyond_32_bits_are_understood() {
    let (server, disk) = Server::new().await;
    let mut client = attached(&server).await;
    for (command, error) in [
        (TRIM, EINVAL),
        (ZEROES, ENOSPC),
        (READ, EINVAL),
        (BLOCK_STATUS, EINVAL),
    ] {
        for range in [(0, (1 << 32) + 4096), (4096, u64::MAX), (u64::MAX, u64::MAX)] {
            client.send(&extended_request(command, 0, 1, range)).await;
            assert_eq!(
                outcome(&mut client, 1, range.0).await,
                error,
                "{command} {range:?}"
            );
        }
    }
    assert_eq!(disk.batches.load(std::sync::atomic::Ordering::SeqCst), 0);
    let large = super::memory::MemoryDisk::new(65 << 20);
    let server = Server::with(&large, crate::targets::Settings::default()).await;
    let mut client = attached(&server).await;
    client
        .send(&extended_request(READ, 0, 2, (0, (64 << 20) + 1)))
        .await;
    assert_eq!(outcome(&mut client, 2, 0).await, EOVERFLOW);
}

#[tokio::test]
async fn a_payload_is_taken_whether_it_is_wanted_or_not() {
    let (server, disk) = Server::new().await;
    let mut client = attached(&server).await;
    // A write that says it has none; the next message is a request.
    client.send(&extended_request(WRITE, 0, 1, (0, 512))).await;
    assert_eq!(outcome(&mut client, 1, 0).await, EINVAL);
    for (command, flags) in [(READ, 0), (TRIM, 0), (FLUSH, 0), (77, 0), (WRITE, DF)] {
        let unwanted = extended_request(command, flags | PAYLOAD_LEN, 2, (0, 1000));
        client.send(&unwanted).await;
        client.send(&[0x21; 999]).await;
        client.expect_silence().await;
        client.send(&[0x21]).await;
        assert_eq!(outcome(&mut client, 2, 0).await, EINVAL, "command {command}");
    }
    assert_eq!(disk.batches.load(std::sync::atomic::Ordering::SeqCst), 0);
    client
        .send(&extended_request(READ, PAYLOAD_LEN, 3, (0, 1 << 40)))
        .await;
    client.expect_closed().await;
}

#[tokio::test]
async fn a_query_may_name_the_contexts_it_is_about() {
    let (server, _disk) = Server::new().await;
    let mut client = attached(&server).await;
    let query = |length: u64, ids: &[u32]| {
        let ids: Vec<u8> = ids.iter().flat_map(|id| id.to_be_bytes()).collect();
        let payload = [&length.to_be_bytes(), &ids[..]].concat();
        let header = extended_request(BLOCK_STATUS, PAYLOAD_LEN, 1, (4096, payload.len() as u64));
        [header, payload].concat()
    };
    client.send(&query(8192, &[1])).await;
    let (kind, _, _, payload) = client.extended().await;
    assert_eq!((kind, be64(&payload[8..])), (6, 8192));
    client.send(&query(8192, &[])).await;
    assert_eq!(outcome(&mut client, 1, 4096).await, 0);
    for wrong in [
        query(8192, &[2]),
        query(8192, &[1, 1]),
        query(END, &[1]),
        query(0, &[1]),
    ] {
        client.send(&wrong).await;
        assert_eq!(outcome(&mut client, 1, 4096).await, EINVAL);
    }
    let short = extended_request(BLOCK_STATUS, PAYLOAD_LEN, 1, (4096, 7));
    client.send(&[&short[..], &[0; 7]].concat()).await;
    assert_eq!(outcome(&mut client, 1, 4096).await, EINVAL);
}
