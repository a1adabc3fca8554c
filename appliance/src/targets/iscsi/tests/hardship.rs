//! Initiators that break the protocol, go silent or send noise: nobody else notices.

use super::harness::{Initiator, Server, cdb10, header, put};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use tokio::io::AsyncWriteExt;

#[tokio::test]
async fn what_belongs_to_no_session_is_rejected_or_ends_the_connection() {
    let server = Server::start().await;
    let mut initiator = server.initiator().await;
    // SNACK, and an opcode that nobody has.
    for (opcode, reason) in [(0x10, 3), (0x1f, 5)] {
        let mut message = header(opcode, 0x80, 1, 0x300);
        put(&mut message, 24, initiator.command_number);
        if opcode != 0x10 {
            initiator.command_number += 1;
        }
        initiator.send(message, &[]).await;
        let reply = initiator.reply().await;
        assert_eq!(
            (reply.opcode(), reply.header[2], &reply.data[..16]),
            (0x3f, reason, &message[..16])
        );
    }
    let mut early = Initiator::connect(server.address).await;
    early.send(header(0x01, 0x80, 1, 1), &[]).await;
    assert!(early.is_closed().await, "a command before the login");
    let mut long = Initiator::connect(server.address).await;
    long.send(header(0x43, 0x87, 0, 1), &[0; 8196]).await;
    assert!(long.is_closed().await, "more than a login's data segment");
    let mut again = header(0x43, 0x87, 0, 1);
    put(&mut again, 24, initiator.command_number);
    initiator.send(again, &[]).await;
    assert!(initiator.is_closed().await, "a login in the middle of a session");
}

#[tokio::test]
async fn a_tag_that_is_in_use_is_rejected() {
    let server = Server::start().await;
    let mut initiator = Initiator::log_in(server.address, 1, &["ImmediateData=No"]).await;
    initiator.command(&cdb10(0x2a, 0, 0, 1), (0, 512), &[]).await;
    assert_eq!(initiator.reply().await.opcode(), 0x31);
    initiator.tag -= 1;
    initiator.command(&[0; 6], (0, 0), &[]).await;
    assert_eq!(initiator.reply().await.opcode(), 0x3f);
}

#[test]
fn no_bytes_disturb_the_others() {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .unwrap();
    let server = runtime.block_on(Server::start());
    let mut runner = TestRunner::new(Config::with_cases(300));
    let message = (
        any::<[u8; 48]>(),
        proptest::collection::vec(any::<u8>(), 0..64),
        0..8_u8,
    );
    let noise = proptest::collection::vec(message, 1..12);
    let outcome = runner.run(&noise, |messages| {
        runtime.block_on(async {
            let mut initiator = Initiator::log_in(server.address, 9, &[]).await;
            for (mut header, data, opcode) in messages {
                // Mostly messages that exist, with numbers that are taken.
                if opcode < 7 {
                    header[0] = opcode | (header[0] & 0x40);
                    put(&mut header, 24, initiator.command_number);
                    initiator.command_number = initiator.command_number.wrapping_add(1);
                    header[4] = 0;
                    header[9] = 1;
                }
                let length = u32::try_from(data.len()).unwrap().to_be_bytes();
                header[5..8].copy_from_slice(&length[1..]);
                let mut padded = data;
                padded.resize(padded.len().next_multiple_of(4), 0);
                let sent = [header.to_vec(), padded].concat();
                if initiator.stream.write_all(&sent).await.is_err() {
                    break;
                }
            }
            drop(initiator);
            let mut other = Initiator::log_in(server.address, 3, &[]).await;
            // A reset or a reservation of that one is told, and passes with it.
            loop {
                let reply = other.write(0, &[1; 512]).await;
                if reply.status() != 2 {
                    break;
                }
            }
        });
        Ok(())
    });
    outcome.unwrap();
    assert!(!server.task.is_finished());
}
