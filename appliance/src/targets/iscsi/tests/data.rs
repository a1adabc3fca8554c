//! Phases of data: in one piece, unasked for, asked for; too much, too little, out of order, damaged.

use super::harness::{Initiator, NO_TAG, Server, cdb10, header, put};
use crate::targets::iscsi::receiver::wire_digest;
use std::sync::atomic::Ordering::SeqCst;

const KEYS: [&str; 3] = ["InitialR2T=No", "ImmediateData=Yes", "FirstBurstLength=1024"];

/// Asks for data in bursts of this, so that a write of any length is asked for in parts.
async fn in_bursts(server: &Server) -> Initiator {
    Initiator::log_in(server.address, 1, &["MaxBurstLength=1024", "ImmediateData=No"]).await
}

#[tokio::test]
async fn data_is_asked_for_part_by_part() {
    let server = Server::start().await;
    let mut initiator = in_bursts(&server).await;
    let data: Vec<u8> = (0..2560_u32).map(|byte| (byte % 249) as u8).collect();
    let tag = initiator.command(&cdb10(0x2a, 0, 0, 5), (0, 2560), &[]).await;
    for (number, (offset, length)) in [(0, 1024), (1024, 1024), (2048, 512)].into_iter().enumerate() {
        let ask = initiator.reply().await;
        assert_eq!((ask.opcode(), ask.word(36) as usize), (0x31, number));
        assert_eq!((ask.word(40), ask.word(44)), (offset, length));
        let transfer = ask.word(20);
        let (from, half) = (offset as usize, length as usize / 2);
        initiator
            .data_out((tag, transfer), 0, offset, &data[from..from + half], false)
            .await;
        let rest = &data[from + half..from + 2 * half];
        initiator
            .data_out((tag, transfer), 1, offset + length / 2, rest, true)
            .await;
    }
    assert_eq!(initiator.reply().await.status(), 0);
    assert_eq!(server.disk.content(0..2560), data);
}

#[tokio::test]
async fn unasked_data_follows_the_command_up_to_its_limit() {
    let server = Server::start().await;
    let mut initiator = Initiator::log_in(server.address, 1, &KEYS).await;
    // 512 with the command, 512 behind it, the rest when asked.
    initiator.tag += 1;
    let tag = initiator.tag;
    let mut command = header(0x01, 0x20, 1, tag);
    put(&mut command, 20, 2048);
    put(&mut command, 24, initiator.command_number);
    command[32..42].copy_from_slice(&cdb10(0x2a, 0, 0, 4));
    initiator.command_number += 1;
    initiator.send(command, &[1; 512]).await;
    initiator.data_out((tag, NO_TAG), 0, 512, &[2; 512], true).await;
    let ask = initiator.reply().await;
    assert_eq!((ask.opcode(), ask.word(40), ask.word(44)), (0x31, 1024, 1024));
    initiator
        .data_out((tag, ask.word(20)), 0, 1024, &[3; 1024], true)
        .await;
    assert_eq!(initiator.reply().await.status(), 0);
    assert_eq!(
        server.disk.content(0..2048),
        [vec![1; 512], vec![2; 512], vec![3; 1024]].concat()
    );
}

#[tokio::test]
async fn too_much_at_once_is_an_error_of_the_command_alone() {
    let server = Server::start().await;
    let mut initiator = Initiator::log_in(server.address, 1, &KEYS).await;
    let reply = initiator.write(0, &[1; 1536]).await;
    assert_eq!(reply.sense(), (0xb, 0x0c0c));
    assert_eq!(initiator.write(0, &[1; 1024]).await.status(), 0);
    assert_eq!(server.disk.content(1024..1536), [0; 512]);
}

#[tokio::test]
async fn data_out_of_order_fails_its_command_and_writes_nothing() {
    let server = Server::start().await;
    // Number and offset of two halves.
    for halves in [
        [(0, 0), (0, 512)],
        [(1, 0), (2, 512)],
        [(0, 512), (1, 0)],
        [(0, 0), (1, 0)],
    ] {
        let mut initiator = in_bursts(&server).await;
        let tag = initiator.command(&cdb10(0x2a, 0, 0, 2), (0, 1024), &[]).await;
        let ask = initiator.reply().await;
        for (index, (number, offset)) in halves.into_iter().enumerate() {
            initiator
                .data_out((tag, ask.word(20)), number, offset, &[5; 512], index == 1)
                .await;
        }
        assert_eq!(initiator.reply().await.sense(), (0xb, 0x0c0d), "{halves:?}");
        initiator.log_out().await;
    }
    assert_eq!(server.disk.content(0..1024), [0; 1024]);
}

#[tokio::test]
async fn what_differs_from_the_expected_length_is_told() {
    let server = Server::start().await;
    let mut initiator = server.initiator().await;
    // Overflow of a read, underflow of a read; the same of a write, of which what was sent is written.
    let (data, reply) = initiator.ask(&cdb10(0x28, 0, 0, 2), 512).await;
    assert_eq!((data.len(), reply.header[1] & 6, reply.word(44)), (512, 4, 512));
    let (data, reply) = initiator.ask(&cdb10(0x28, 0, 0, 1), 1024).await;
    assert_eq!((data.len(), reply.header[1] & 6, reply.word(44)), (512, 2, 512));
    initiator
        .command(&cdb10(0x2a, 0, 0, 2), (0, 200), &[1; 200])
        .await;
    let reply = initiator.reply().await;
    assert_eq!((reply.status(), reply.header[1] & 6, reply.word(44)), (0, 4, 824));
    assert_eq!(server.disk.content(0..201), [vec![1; 200], vec![0]].concat());
    initiator
        .command(&cdb10(0x2a, 0, 8, 1), (0, 1024), &[2; 1024])
        .await;
    let reply = initiator.reply().await;
    assert_eq!((reply.status(), reply.header[1] & 6, reply.word(44)), (0, 2, 512));
    assert_eq!(
        server.disk.content(4096..5120),
        [vec![2; 512], vec![0; 512]].concat()
    );
}

#[tokio::test]
async fn long_reads_come_in_segments_and_bursts() {
    let server = Server::start().await;
    let keys = ["MaxRecvDataSegmentLength=1000", "MaxBurstLength=2048"];
    let mut initiator = Initiator::log_in(server.address, 1, &keys).await;
    let data: Vec<u8> = (0..5120_u32).map(|byte| (byte % 247) as u8).collect();
    initiator.write(0, &data[..1024]).await;
    initiator.write(2, &data[1024..2048]).await;
    initiator.write(4, &data[2048..3072]).await;
    initiator.write(6, &data[3072..4096]).await;
    initiator.write(8, &data[4096..]).await;
    initiator.command(&cdb10(0x28, 0, 0, 10), (5120, 0), &[]).await;
    let (mut found, mut number) = (Vec::new(), 0);
    loop {
        let piece = initiator.reply().await;
        assert_eq!((piece.opcode(), piece.word(36)), (0x25, number));
        assert!(piece.data.len() <= 1000);
        found.extend_from_slice(&piece.data);
        number += 1;
        let (ends_burst, is_last) = (piece.header[1] & 0x80 != 0, piece.header[1] & 1 != 0);
        assert_eq!(ends_burst, found.len() % 2048 == 0 || is_last);
        if is_last {
            break;
        }
    }
    assert_eq!(found, data);
}

#[tokio::test]
async fn digests_are_made_and_checked() {
    let server = Server::start().await;
    let keys = ["HeaderDigest=CRC32C", "DataDigest=CRC32C"];
    let mut initiator = Initiator::log_in(server.address, 1, &keys).await;
    // Lengths that fill no word, too.
    initiator
        .command(&cdb10(0x2a, 0, 0, 1), (0, 201), &[4; 201])
        .await;
    assert_eq!(initiator.reply().await.status(), 0);
    let (data, _) = initiator.ask(&cdb10(0x28, 0, 0, 1), 203).await;
    assert_eq!(data[200..], [4, 0, 0]);

    // Damaged data is rejected, and its command fails; the session goes on.
    initiator.tag += 1;
    let mut command = header(0x01, 0xa1, 1, initiator.tag);
    put(&mut command, 20, 512);
    put(&mut command, 24, initiator.command_number);
    command[5..8].copy_from_slice(&[0, 2, 0]);
    command[32..42].copy_from_slice(&cdb10(0x2a, 0, 0, 1));
    initiator.command_number += 1;
    let mut message = command.to_vec();
    message.extend(wire_digest(crc32c::crc32c(&command)));
    message.extend_from_slice(&[6; 512]);
    message.extend([1, 2, 3, 4]);
    tokio::io::AsyncWriteExt::write_all(&mut initiator.stream, &message)
        .await
        .unwrap();
    let rejected = initiator.reply().await;
    assert_eq!(
        (rejected.opcode(), rejected.header[2], &rejected.data[..]),
        (0x3f, 2, &command[..])
    );
    assert_eq!(initiator.reply().await.sense(), (0xb, 0x4705));
    assert_eq!(server.disk.content(0..1), [4]);
    assert_eq!(initiator.write(0, &[7; 512]).await.status(), 0);

    // With a damaged header nothing that follows can be trusted.
    tokio::io::AsyncWriteExt::write_all(&mut initiator.stream, &[0; 52])
        .await
        .unwrap();
    assert!(initiator.is_closed().await);
}

#[tokio::test]
async fn data_is_taken_while_later_commands_wait() {
    let server = Server::start().await;
    let mut initiator = in_bursts(&server).await;
    let write = initiator.command(&cdb10(0x2a, 0, 0, 1), (0, 512), &[]).await;
    let ask = initiator.reply().await;
    // An ordered command waits for the write, whose data comes behind it.
    initiator.tag += 1;
    let mut ordered = header(0x01, 0x82, 1, initiator.tag);
    put(&mut ordered, 24, initiator.command_number);
    initiator.command_number += 1;
    initiator.send(ordered, &[]).await;
    let last = initiator.command(&[0; 6], (0, 0), &[]).await;
    assert!(initiator.is_quiet().await);
    initiator
        .data_out((write, ask.word(20)), 0, 0, &[1; 512], true)
        .await;
    let mut order = Vec::new();
    for _ in 0..3 {
        let reply = initiator.reply().await;
        assert_eq!(reply.status(), 0);
        order.push(reply.word(16));
    }
    assert_eq!(order, [write, last - 1, last]);
}

#[tokio::test]
async fn many_long_writes_ask_for_their_data_one_after_the_other() {
    let server = Server::start().await;
    let mut initiator = Initiator::log_in(server.address, 1, &["ImmediateData=No"]).await;
    // Five of 4 MiB: more than may be asked for at the same time.
    let (blocks, bytes) = (8192, 4 << 20);
    for _ in 0..5 {
        initiator
            .command(&cdb10(0x2a, 0, 0, blocks), (0, bytes), &[])
            .await;
    }
    let mut asked = std::collections::BTreeSet::new();
    let mut asks = Vec::new();
    for _ in 0..4 {
        let ask = initiator.reply().await;
        assert_eq!(ask.opcode(), 0x31);
        asked.insert(ask.word(16));
        asks.push(ask);
    }
    assert_eq!(asked.len(), 4);
    assert!(initiator.is_quiet().await, "the fifth waits");
    let mut done = 0;
    while done < 5 {
        let next = if asks.is_empty() {
            initiator.reply().await
        } else {
            asks.remove(0)
        };
        if next.opcode() == 0x21 {
            assert_eq!(next.status(), 0);
            done += 1;
            continue;
        }
        let (offset, length) = (next.word(40), next.word(44) as usize);
        let data = vec![0x42; length];
        for (number, piece) in data.chunks(256 << 10).enumerate() {
            let at = number * (256 << 10);
            let tags = (next.word(16), next.word(20));
            let last = at + piece.len() == length;
            let (number, at) = (
                u32::try_from(number).unwrap(),
                offset + u32::try_from(at).unwrap(),
            );
            initiator.data_out(tags, number, at, piece, last).await;
        }
    }
    assert_eq!(server.disk.content(0..1), [0x42]);
}

#[tokio::test]
async fn commands_of_one_receive_are_all_answered_however_long_their_answers() {
    let server = Server::start().await;
    let keys = ["MaxRecvDataSegmentLength=262144"];
    let mut initiator = Initiator::log_in(server.address, 1, &keys).await;
    let mut sent = Vec::new();
    for tag in 100..112_u32 {
        let mut command = header(0x01, 0xc1, 1, tag);
        put(&mut command, 20, 128 << 10);
        put(&mut command, 24, initiator.command_number);
        command[32..42].copy_from_slice(&cdb10(0x28, 0, 0, 256));
        initiator.command_number += 1;
        sent.extend_from_slice(&command);
    }
    tokio::io::AsyncWriteExt::write_all(&mut initiator.stream, &sent)
        .await
        .unwrap();
    for tag in 100..112 {
        let reply = initiator.reply().await;
        assert_eq!(
            (reply.opcode(), reply.word(16), reply.data.len()),
            (0x25, tag, 128 << 10)
        );
    }
}

#[tokio::test]
async fn a_length_that_no_command_has_is_refused_before_its_data() {
    let server = Server::start().await;
    let mut initiator = server.initiator().await;
    let register = [0x5f, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0];
    initiator.command(&register, (0, u32::MAX), &[0; 1000]).await;
    assert_eq!(initiator.reply().await.sense(), (5, 0x1a00));
    assert_eq!(initiator.write(0, &[1; 512]).await.status(), 0);
}

#[tokio::test]
async fn reads_wait_until_what_was_read_before_is_sent() {
    let server = Server::start().await;
    server.disk.cold_from.store(0, SeqCst);
    let mut initiator = Initiator::log_in(server.address, 1, &["MaxRecvDataSegmentLength=262144"]).await;
    let (blocks, bytes) = (8192, 4 << 20);
    for _ in 0..20 {
        initiator
            .command(&cdb10(0x28, 0, 0, blocks), (bytes, 0), &[])
            .await;
    }
    assert!(initiator.is_quiet().await, "all are there");
    server.disk.cold_permits.add_permits(20);
    tokio::time::sleep(std::time::Duration::from_millis(300)).await;
    let begun = 20 - server.disk.cold_permits.available_permits();
    assert!(
        (4..=8).contains(&begun),
        "nobody takes what {begun} reads brought"
    );
    for _ in 0..20 {
        let mut taken = 0;
        while taken < bytes {
            taken += u32::try_from(initiator.reply().await.data.len()).unwrap();
        }
    }
}
