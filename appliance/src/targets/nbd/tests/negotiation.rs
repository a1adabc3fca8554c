//! The handshake.

use super::harness::{DF, DISK_BYTES, FLUSH, READ, Server, go, option, request};
use super::memory::MemoryDisk;
use crate::targets::Settings;
use std::sync::atomic::Ordering::SeqCst;
use std::time::Duration;

const UNSUPPORTED: u32 = (1 << 31) + 1;
const INVALID: u32 = (1 << 31) + 3;
const UNKNOWN: u32 = (1 << 31) + 6;
const TOO_BIG: u32 = (1 << 31) + 9;
const FLAGS: u16 = 0x0d6d;
const DF_FLAG: u16 = 0x80;

fn export_info(flags: u16) -> Vec<u8> {
    [
        &[0, 0],
        (DISK_BYTES as u64).to_be_bytes().as_slice(),
        &flags.to_be_bytes(),
    ]
    .concat()
}

#[tokio::test]
async fn export_name_is_padded_unless_both_agreed() {
    let (server, _disk) = Server::new().await;
    for (client_flags, padding) in [(1u8, 124), (3, 0)] {
        for name in ["disk0", ""] {
            let mut client = server.connect().await;
            client.take(18).await;
            client.send(&[0, 0, 0, client_flags]).await;
            client.send(&option(1, name.as_bytes())).await;
            let reply = client.take(10 + padding).await;
            assert_eq!(reply[..10], export_info(FLAGS)[2..]);
            assert!(reply[10..].iter().all(|byte| *byte == 0));
            assert_eq!(client.ask(FLUSH, 0, 0, 0).await, 0);
        }
    }
    let mut client = server.greeted().await;
    client.send(&option(1, b"nope")).await;
    client.expect_closed().await;
}

#[tokio::test]
async fn info_and_go_describe_what_is_asked() {
    let (server, _disk) = Server::new().await;
    let mut client = server.greeted().await;
    client.send(&option(6, &go("", &[3, 1, 2, 99]))).await;
    let info = client.info_until_ack(6).await;
    let sizes = [
        &[0, 3, 0, 0, 0, 1, 0, 0, 0x10, 0],
        &(64u32 << 20).to_be_bytes()[..],
    ]
    .concat();
    let wanted = [
        export_info(FLAGS),
        b"\0\x01disk0".to_vec(),
        b"\0\x02memory disk disk0".to_vec(),
        sizes,
    ];
    assert_eq!(info, wanted);
    client.send(&option(6, &go("nope", &[]))).await;
    assert_eq!(client.option_reply().await.1, UNKNOWN);
    client.send(&option(7, &go("nope", &[]))).await;
    assert_eq!(client.option_reply().await.1, UNKNOWN);
    client.send(&option(7, &go("disk0", &[]))).await;
    assert_eq!(client.info_until_ack(7).await, [export_info(FLAGS)]);
    assert_eq!(client.ask(FLUSH, 0, 0, 0).await, 0);
}

#[tokio::test]
async fn unfragmented_reads_are_offered_only_with_structured_replies() {
    let (server, _disk) = Server::new().await;
    let mut client = server.greeted().await;
    client.send(&option(8, &[])).await;
    assert_eq!(client.option_reply().await.1, 1);
    client.send(&option(7, &go("", &[]))).await;
    assert_eq!(client.info_until_ack(7).await, [export_info(FLAGS | DF_FLAG)]);
    client.send(&request(READ, DF, 5, (0, 512))).await;
    assert_eq!(client.chunk().await.0, 1);
}

#[tokio::test]
async fn read_only_disk_says_so() {
    let (server, disk) = Server::new().await;
    disk.read_only.store(true, SeqCst);
    let mut client = server.greeted().await;
    client.send(&option(7, &go("", &[]))).await;
    assert_eq!(client.info_until_ack(7).await, [export_info(FLAGS | 2)]);
}

#[tokio::test]
async fn list_names_every_export_and_follows_changes() {
    let (server, _disk) = Server::new().await;
    server
        .exports
        .0
        .lock()
        .insert("disk1".to_owned(), MemoryDisk::new(1));
    let mut client = server.greeted().await;
    client.send(&option(3, &[])).await;
    assert_eq!(client.option_reply().await, (3, 2, b"\0\0\0\x05disk0".to_vec()));
    assert_eq!(client.option_reply().await, (3, 2, b"\0\0\0\x05disk1".to_vec()));
    assert_eq!(client.option_reply().await, (3, 1, vec![]));
    server.exports.0.lock().clear();
    client.send(&option(3, &[])).await;
    assert_eq!(client.option_reply().await, (3, 1, vec![]));
    client.send(&option(7, &go("", &[]))).await;
    assert_eq!(client.option_reply().await.1, UNKNOWN);
}

#[tokio::test]
async fn unsupported_and_malformed_options_leave_the_negotiation_usable() {
    let (server, _disk) = Server::new().await;
    let mut client = server.greeted().await;
    for code in [4, 5, 12, 12345, u32::MAX] {
        let data: &[u8] = if code == 5 { &[] } else { b"whatever" };
        client.send(&option(code, data)).await;
        let (replied, kind, _) = client.option_reply().await;
        assert_eq!((replied, kind), (code, UNSUPPORTED));
    }
    let malformed = [
        (3, vec![1]),
        (5, vec![1]),
        (8, vec![1]),
        (9, vec![0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0]),
        (10, b"\0\0\0\0\0\0\0\x01\0\0\0\x04base".to_vec()),
        (11, vec![1]),
        (7, vec![0, 0, 0, 9, b'x']),
        (6, vec![]),
    ];
    for (code, data) in malformed {
        client.send(&option(code, &data)).await;
        assert_eq!(client.option_reply().await.1, INVALID, "option {code}");
    }
    client.send(&option(77, &vec![0; 300_000])).await;
    assert_eq!(client.option_reply().await.1, TOO_BIG);
    client.send(&option(7, &go("disk0", &[]))).await;
    client.info_until_ack(7).await;
}

#[tokio::test]
async fn abort_is_acknowledged_and_closes() {
    let (server, _disk) = Server::new().await;
    let mut client = server.greeted().await;
    client.send(&option(2, &[])).await;
    assert_eq!(client.option_reply().await, (2, 1, vec![]));
    client.expect_closed().await;
}

#[tokio::test]
async fn absurd_option_length_is_not_waited_for() {
    let (server, _disk) = Server::new().await;
    for code in [1u32, 7, 99] {
        let mut client = server.greeted().await;
        client
            .send(&[b"IHAVEOPT".as_slice(), &code.to_be_bytes(), &[0xff; 4]].concat())
            .await;
        client.expect_closed().await;
    }
}

#[tokio::test]
async fn wrong_magic_and_unknown_client_flags_close() {
    let (server, _disk) = Server::new().await;
    let mut client = server.greeted().await;
    client.send(b"GET / HTTP/1.1\r\n\r\n").await;
    client.expect_closed().await;
    let mut client = server.connect().await;
    client.take(18).await;
    client.send(&[0, 0, 0, 8]).await;
    client.expect_closed().await;
}

#[tokio::test]
async fn number_of_options_is_bounded() {
    let (server, _disk) = Server::new().await;
    let mut client = server.greeted().await;
    for _ in 0..1024 {
        client.send(&option(99, &[])).await;
        assert_eq!(client.option_reply().await.1, UNSUPPORTED);
    }
    client.expect_closed().await;
}

#[tokio::test]
async fn silence_in_negotiation_is_ended_and_silence_in_transmission_is_not() {
    let disk = MemoryDisk::new(DISK_BYTES);
    let settings = Settings {
        negotiation: Duration::from_millis(150),
        ..Settings::default()
    };
    let server = Server::with(&disk, settings).await;
    let mut attached = server.attached().await;
    let mut silent = server.greeted().await;
    silent.expect_closed().await;
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert_eq!(attached.ask(FLUSH, 0, 0, 0).await, 0);
}

#[tokio::test]
async fn everything_in_one_send_byte_by_byte_or_at_once_is_understood() {
    let (server, _disk) = Server::new().await;
    let flags = [0, 0, 0, 3];
    let all = [
        &flags[..],
        &option(8, &[]),
        &option(7, &go("disk0", &[])),
        &request(FLUSH, 0, 9, (0, 0)),
    ]
    .concat();
    for piece in [1, all.len()] {
        let mut client = server.connect().await;
        client.stream.set_nodelay(true).unwrap();
        client.take(18).await;
        for part in all.chunks(piece) {
            client.send(part).await;
            tokio::task::yield_now().await;
        }
        assert_eq!(client.option_reply().await.1, 1);
        client.info_until_ack(7).await;
        assert_eq!(client.reply().await, (0, 9));
    }
}
