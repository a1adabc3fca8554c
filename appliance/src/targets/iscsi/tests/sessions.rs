//! Sessions beside each other: numbers and windows, reinstatement, resets, reservations, the end of the unit.

use super::harness::{Initiator, NO_TAG, Server, cdb10, header, put};
use std::sync::atomic::Ordering::SeqCst;

/// PERSISTENT RESERVE OUT and its status.
async fn reserve_out(initiator: &mut Initiator, action: u8, kind: u8, key: u64, action_key: u64) -> u8 {
    initiator.reserve_out((action, kind), key, action_key).await;
    initiator.reply().await.status()
}

#[tokio::test]
async fn numbers_outside_the_window_are_ignored_and_gaps_are_waited_for() {
    let server = Server::start().await;
    let mut initiator = server.initiator().await;
    let expected = initiator.command_number;
    for wrong in [expected.wrapping_sub(1), expected + 4000] {
        initiator.command_number = wrong;
        initiator.command(&[0; 6], (0, 0), &[]).await;
        assert!(initiator.is_quiet().await, "{wrong}");
    }
    initiator.command_number = expected + 1;
    let later = initiator.command(&[0; 6], (0, 0), &[]).await;
    assert!(initiator.is_quiet().await, "the one before it has not come");
    initiator.command_number = expected;
    let first = initiator.command(&[0; 6], (0, 0), &[]).await;
    assert_eq!(initiator.reply().await.word(16), first);
    assert_eq!(initiator.reply().await.word(16), later);
}

#[tokio::test]
async fn the_window_closes_by_what_is_under_way_and_never_goes_back() {
    let server = Server::start().await;
    server.disk.manual_sync.store(true, SeqCst);
    let mut initiator = server.initiator().await;
    initiator.write(0, &[1; 512]).await;
    for _ in 0..10 {
        initiator.command(&cdb10(0x35, 0, 0, 0), (0, 0), &[]).await;
    }
    let mut ping = header(0x40, 0x80, 0, 0x500);
    put(&mut ping, 20, NO_TAG);
    put(&mut ping, 24, initiator.command_number);
    initiator.send(ping, b"are you there").await;
    let pong = initiator.reply().await;
    assert_eq!((pong.opcode(), &pong.data[..]), (0x20, &b"are you there"[..]));
    let room = pong.word(32).wrapping_sub(pong.word(28)) + 1;
    assert_eq!(room, 128 - 10);
    for _ in 0..room {
        initiator.command(&cdb10(0x35, 0, 0, 0), (0, 0), &[]).await;
    }
    let one_too_many = initiator.command(&cdb10(0x35, 0, 0, 0), (0, 0), &[]).await;
    assert!(initiator.is_quiet().await);
    server.disk.sync();
    let mut last = pong.word(32);
    for _ in 0..128 {
        let reply = initiator.reply().await;
        assert!(
            reply.word(32).wrapping_sub(last) < 1 << 31,
            "the window went back"
        );
        assert_ne!(reply.word(16), one_too_many);
        last = reply.word(32);
    }
    assert!(
        initiator.is_quiet().await,
        "what is outside the window is ignored"
    );
}

#[tokio::test]
async fn a_new_session_of_the_same_port_takes_the_place_of_the_old_one() {
    let server = Server::start().await;
    let mut old = server.initiator().await;
    let mut other = Initiator::log_in(server.address, 2, &[]).await;
    let mut new = Initiator::log_in(server.address, 1, &[]).await;
    assert!(old.is_closed().await);
    assert_eq!(new.write(0, &[1; 512]).await.status(), 0);
    assert_eq!(
        other.write(8, &[1; 512]).await.status(),
        0,
        "another port is not concerned"
    );
}

#[tokio::test]
async fn a_reset_is_told_to_everybody_and_ends_what_is_under_way() {
    let server = Server::start().await;
    let mut one = server.initiator().await;
    let mut other = Initiator::log_in(server.address, 2, &["ImmediateData=No"]).await;
    // It waits for data that is not going to come.
    other.command(&cdb10(0x2a, 0, 0, 1), (0, 512), &[]).await;
    assert_eq!(other.reply().await.opcode(), 0x31);
    assert_eq!(one.manage(5, 1, NO_TAG).await, 0, "logical unit reset");
    for initiator in [&mut one, &mut other] {
        let (_, reply) = initiator.ask(&[0; 6], 0).await;
        assert_eq!(reply.sense(), (6, 0x2903));
        let (_, reply) = initiator.ask(&[0; 6], 0).await;
        assert_eq!(reply.status(), 0);
    }
    assert_eq!(one.manage(5, 9, NO_TAG).await, 2, "there is no such unit");
    assert_eq!(one.manage(1, 1, 0x1234).await, 1, "there is no such task");
    assert_eq!(one.manage(99, 1, NO_TAG).await, 5, "there is no such function");
    assert_eq!(one.manage(7, 1, NO_TAG).await, 0, "cold reset");
    assert!(one.is_closed().await && other.is_closed().await);
    assert_eq!(server.initiator().await.write(0, &[1; 512]).await.status(), 0);
}

#[tokio::test]
async fn an_aborted_task_is_not_answered() {
    let server = Server::start().await;
    let mut initiator = Initiator::log_in(server.address, 1, &["ImmediateData=No"]).await;
    let waits = initiator.command(&cdb10(0x2a, 0, 0, 1), (0, 512), &[]).await;
    let ask = initiator.reply().await;
    assert_eq!(initiator.manage(1, 1, waits).await, 0);
    // Data that was on its way is nobody's.
    initiator
        .data_out((waits, ask.word(20)), 0, 0, &[1; 512], true)
        .await;
    server.disk.manual_sync.store(true, SeqCst);
    let kept = cdb10(0x41, 0, 8, 1);
    let (_, refused) = initiator.ask(&kept, 0).await;
    assert_eq!(refused.sense(), (5, 0x2400), "its block was not sent");
    let zeroes = [0x93, 0x01, 0, 0, 0, 0, 0, 0, 0, 8, 0, 0, 0, 1, 0, 0];
    let (_, reply) = initiator.ask(&zeroes, 0).await;
    assert_eq!(reply.status(), 0);
    let syncs = initiator.command(&cdb10(0x35, 0, 0, 0), (0, 0), &[]).await;
    let mut abort = header(0x42, 0x81, 1, 0x77);
    put(&mut abort, 20, syncs);
    put(&mut abort, 24, initiator.command_number);
    initiator.send(abort, &[]).await;
    assert!(initiator.is_quiet().await, "the task is still under way");
    server.disk.sync();
    let answer = initiator.reply().await;
    assert_eq!(
        (answer.opcode(), answer.header[2], answer.word(16)),
        (0x22, 0, 0x77)
    );
    server.disk.manual_sync.store(false, SeqCst);
    assert_eq!(server.disk.content(0..1), [0]);
    let (_, reply) = initiator.ask(&[0; 6], 0).await;
    assert_eq!(reply.status(), 0);
}

#[tokio::test]
async fn reservations_hold_against_others_and_outlive_the_portals() {
    let server = Server::start().await;
    let mut holder = server.initiator().await;
    assert_eq!(reserve_out(&mut holder, 0, 0, 0, 7).await, 0, "register");
    assert_eq!(
        reserve_out(&mut holder, 1, 1, 7, 0).await,
        0,
        "reserve, write exclusive"
    );
    let mut other = Initiator::log_in(server.address, 2, &[]).await;
    assert_eq!(other.write(0, &[1; 512]).await.status(), 0x18);
    let (_, reply) = other.ask(&cdb10(0x28, 0, 0, 1), 512).await;
    assert_eq!(reply.status(), 0, "it may read");

    let kept = std::fs::read_dir(server.directory.path().join("reservations")).unwrap();
    assert_eq!(kept.count(), 1);
    let portals = crate::targets::iscsi::Portals::new(crate::targets::iscsi::Setup {
        exports: std::sync::Arc::clone(&server.exports),
        counters: std::sync::Arc::default(),
        settings: crate::targets::Settings::default(),
        policy: crate::targets::iscsi::Policy::default(),
        listening: Vec::new(),
        reservations: server.directory.path().join("reservations"),
    });
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(crate::targets::iscsi::serve(
        listener,
        portals,
        server.shutdown.clone(),
    ));
    let mut other = Initiator::log_in(address, 2, &[]).await;
    assert_eq!(other.write(0, &[1; 512]).await.status(), 0x18);
    let mut holder = Initiator::log_in(address, 1, &[]).await;
    assert_eq!(holder.write(0, &[1; 512]).await.status(), 0);
    let (keys, _) = holder.ask(&[0x5e, 0, 0, 0, 0, 0, 0, 0, 16, 0], 16).await;
    assert_eq!(keys[4..], [0, 0, 0, 8, 0, 0, 0, 0, 0, 0, 0, 7]);
}

#[tokio::test]
async fn a_unit_that_ends_asks_to_log_out_and_answers_what_it_has() {
    let server = Server::start().await;
    let mut initiator = server.initiator().await;
    server.shutdown.cancel();
    let message = initiator.reply().await;
    assert_eq!((message.opcode(), message.header[36]), (0x32, 1));
    assert_eq!(initiator.write(0, &[1; 512]).await.status(), 0);
    let reply = initiator.log_out().await;
    assert_eq!((reply.opcode(), reply.header[2]), (0x26, 0));
    assert!(initiator.is_closed().await);
    server.task.await.unwrap();
}

#[tokio::test]
async fn what_a_session_reserved_is_free_when_its_logout_is_answered() {
    let server = Server::start().await;
    let mut other = Initiator::log_in(server.address, 2, &[]).await;
    for _ in 0..20 {
        let mut holder = Initiator::log_in(server.address, 1, &[]).await;
        let (_, reply) = holder.ask(&[0x16, 0, 0, 0, 0, 0], 0).await;
        assert_eq!(reply.status(), 0, "reserve");
        let (_, reply) = other.ask(&[0x16, 0, 0, 0, 0, 0], 0).await;
        assert_eq!(reply.status(), 0x18);
        assert_eq!(holder.log_out().await.opcode(), 0x26);
        let (_, reply) = other.ask(&[0x16, 0, 0, 0, 0, 0], 0).await;
        assert_eq!(reply.status(), 0, "it is free");
        let (_, reply) = other.ask(&[0x17, 0, 0, 0, 0, 0], 0).await;
        assert_eq!(reply.status(), 0, "release");
    }
}
