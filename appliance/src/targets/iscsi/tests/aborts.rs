//! What an abort, a reset or the end of a session promises: what it is about changes nothing after its answer.

use super::harness::{DISK_BYTES, Initiator, NO_TAG, Server, cdb10, header, put};
use crate::targets::iscsi::Policy;
use crate::targets::nbd::tests::memory::MemoryDisk;
use std::sync::atomic::Ordering::SeqCst;

const ABORT_TASK: u8 = 1;
const ABORT_TASK_SET: u8 = 2;
const RESET: u8 = 5;

/// Portals in front of a disk whose updates wait for permits.
async fn held() -> Server {
    Server::with(Policy::default(), MemoryDisk::with_held_updates(DISK_BYTES)).await
}

/// Sends a write of one block.
async fn begin_write(initiator: &mut Initiator, lba: u32) -> u32 {
    initiator
        .command(&cdb10(0x2a, 0, lba, 1), (0, 512), &[7; 512])
        .await
}

fn is_written(server: &Server, lba: usize) -> bool {
    server.disk.content(lba * 512..lba * 512 + 1) == [7]
}

#[tokio::test]
async fn a_change_that_a_reset_aborts_is_made_before_its_answer_or_never() {
    let server = held().await;
    let mut one = server.initiator().await;
    let mut two = Initiator::log_in(server.address, 2, &[]).await;
    let mut three = Initiator::log_in(server.address, 3, &[]).await;
    let mut four = Initiator::log_in(server.address, 4, &[]).await;
    begin_write(&mut one, 0).await;
    assert!(one.is_quiet().await);
    // Behind the one that is under way.
    begin_write(&mut one, 8).await;
    two.begin_manage(RESET, 1, (NO_TAG, 0)).await;
    assert!(two.is_quiet().await, "a change is under way");
    // This one came after the first reset; it is told of that, and waits for it the second time.
    begin_write(&mut three, 16).await;
    assert_eq!(three.reply().await.sense(), (6, 0x2903));
    begin_write(&mut three, 16).await;
    assert!(three.is_quiet().await);
    four.begin_manage(RESET, 1, (NO_TAG, 0)).await;
    assert!(four.is_quiet().await);
    server.disk.update_permits.add_permits(1);
    assert_eq!((two.managed().await, four.managed().await), (0, 0));
    server.disk.update_permits.add_permits(100);
    assert!(one.is_quiet().await && three.is_quiet().await, "none is answered");
    assert!(is_written(&server, 0));
    assert!(!is_written(&server, 8) && !is_written(&server, 16));
    for initiator in [&mut one, &mut three] {
        let (_, reply) = initiator.ask(&[0; 6], 0).await;
        assert_eq!(reply.sense(), (6, 0x2903));
        begin_write(initiator, 24).await;
        assert_eq!(initiator.reply().await.status(), 0);
    }
}

#[tokio::test]
async fn who_is_preempted_with_its_tasks_writes_no_more_once_that_is_answered() {
    let server = held().await;
    let mut old = server.initiator().await;
    let mut new = Initiator::log_in(server.address, 2, &[]).await;
    for (initiator, key) in [(&mut old, 1), (&mut new, 2)] {
        initiator.reserve_out((0, 0), 0, key).await;
        assert_eq!(initiator.reply().await.status(), 0, "register");
    }
    old.reserve_out((1, 5), 1, 0).await;
    assert_eq!(old.reply().await.status(), 0, "reserve, for registrants only");
    begin_write(&mut old, 0).await;
    assert!(old.is_quiet().await);
    begin_write(&mut old, 8).await;
    assert!(old.is_quiet().await);
    new.reserve_out((5, 5), 2, 1).await;
    assert!(new.is_quiet().await, "a change of the old one is under way");
    server.disk.update_permits.add_permits(1);
    assert_eq!(new.reply().await.status(), 0, "preempt and abort");
    assert!(is_written(&server, 0));
    server.disk.update_permits.add_permits(100);
    assert!(old.is_quiet().await);
    assert!(!is_written(&server, 8));
    let (_, told) = old.ask(&[0; 6], 0).await;
    assert_eq!(told.sense(), (6, 0x2a05), "registrations preempted");
    begin_write(&mut old, 8).await;
    assert_eq!(old.reply().await.status(), 0x18);
}

#[tokio::test]
async fn commands_whose_turn_has_not_come_can_be_aborted() {
    let server = Server::start().await;
    let mut initiator = Initiator::log_in(server.address, 1, &["ImmediateData=No"]).await;
    let write = initiator.command(&cdb10(0x2a, 0, 0, 1), (0, 512), &[]).await;
    let ask = initiator.reply().await;
    // Ordered: it waits for the write.
    initiator.tag += 1;
    let ordered = initiator.tag;
    let mut command = header(0x01, 0x82, 1, ordered);
    put(&mut command, 24, initiator.command_number);
    initiator.command_number += 1;
    initiator.send(command, &[]).await;
    // This one waits for a number between.
    initiator.command_number += 1;
    let ahead = initiator.command(&[0; 6], (0, 0), &[]).await;
    let last = initiator.command(&[0; 6], (0, 0), &[]).await;
    assert_eq!(initiator.manage(ABORT_TASK, 1, ordered).await, 0);
    assert_eq!(initiator.manage(ABORT_TASK, 1, ahead).await, 0);
    let number = initiator.command_number;
    initiator
        .begin_manage(ABORT_TASK, 1, (0x5555, number.wrapping_sub(30)))
        .await;
    assert_eq!(initiator.managed().await, 1, "long answered, if it ever was");
    initiator
        .data_out((write, ask.word(20)), 0, 0, &[1; 512], true)
        .await;
    assert_eq!(initiator.reply().await.word(16), write);
    assert!(initiator.is_quiet().await, "a number is missing");
    // What was lost on its way counts as received.
    initiator
        .begin_manage(ABORT_TASK, 1, (0x5555, number.wrapping_sub(3)))
        .await;
    assert_eq!(initiator.managed().await, 0);
    assert_eq!(
        initiator.reply().await.word(16),
        last,
        "the two others were aborted"
    );
    assert_eq!(initiator.write(0, &[]).await.status(), 0);
}

#[tokio::test]
async fn a_set_of_tasks_is_aborted_with_those_whose_turn_has_not_come_and_no_younger_ones() {
    let server = Server::start().await;
    server.disk.manual_sync.store(true, SeqCst);
    let mut initiator = server.initiator().await;
    begin_write(&mut initiator, 0).await;
    assert_eq!(initiator.reply().await.status(), 0);
    let flush = initiator.command(&cdb10(0x35, 0, 0, 0), (0, 0), &[]).await;
    initiator.tag += 1;
    let mut ordered = header(0x01, 0xa2, 1, initiator.tag);
    put(&mut ordered, 20, 512);
    put(&mut ordered, 24, initiator.command_number);
    ordered[32..42].copy_from_slice(&cdb10(0x2a, 0, 8, 1));
    initiator.command_number += 1;
    initiator.send(ordered, &[7; 512]).await;
    assert_eq!(initiator.manage(ABORT_TASK_SET, 1, NO_TAG).await, 0);
    // The tags are free.
    initiator.tag = flush - 1;
    for lba in [16, 24] {
        let tag = begin_write(&mut initiator, lba).await;
        let reply = initiator.reply().await;
        assert_eq!((reply.word(16), reply.status()), (tag, 0));
    }
    assert!(!is_written(&server, 8) && is_written(&server, 16));
}

#[tokio::test]
async fn what_only_reads_holds_no_reset_up_and_ends_with_it() {
    let server = Server::start().await;
    server.disk.cold_from.store(0, SeqCst);
    let mut one = server.initiator().await;
    let mut two = Initiator::log_in(server.address, 2, &[]).await;
    let verify = one.command(&cdb10(0x2f, 0, 0, 8), (0, 0), &[]).await;
    one.command(&cdb10(0x28, 0, 0, 8), (4096, 0), &[]).await;
    assert!(one.is_quiet().await);
    assert_eq!(two.manage(RESET, 1, NO_TAG).await, 0);
    begin_write(&mut two, 0).await;
    assert_eq!(two.reply().await.sense(), (6, 0x2903));
    begin_write(&mut two, 0).await;
    assert_eq!(two.reply().await.status(), 0);
    assert!(one.is_quiet().await);
    // The tags are free.
    one.tag = verify - 1;
    let (_, reply) = one.ask(&[0; 6], 0).await;
    assert_eq!(reply.sense(), (6, 0x2903));
    let (_, reply) = one.ask(&[0; 6], 0).await;
    assert_eq!(reply.status(), 0);
}

#[tokio::test]
async fn a_session_answers_while_its_changes_wait_for_the_journal() {
    let server = held().await;
    let mut initiator = server.initiator().await;
    let write = begin_write(&mut initiator, 0).await;
    let mut ping = header(0x40, 0x80, 0, 0x500);
    put(&mut ping, 20, NO_TAG);
    put(&mut ping, 24, initiator.command_number);
    initiator.send(ping, b"are you there").await;
    assert_eq!(initiator.reply().await.data, b"are you there");
    let (_, reply) = initiator.ask(&[0; 6], 0).await;
    assert_eq!(reply.status(), 0);
    server.disk.update_permits.add_permits(1);
    assert_eq!(initiator.reply().await.word(16), write);
}

#[tokio::test]
async fn the_next_session_of_a_port_begins_when_the_changes_of_the_last_are_over() {
    let server = held().await;
    let mut old = server.initiator().await;
    begin_write(&mut old, 0).await;
    assert!(old.is_quiet().await);
    begin_write(&mut old, 8).await;
    let address = server.address;
    let mut new = tokio::spawn(async move { Initiator::log_in(address, 1, &[]).await });
    let waits = tokio::time::timeout(std::time::Duration::from_millis(200), &mut new).await;
    assert!(waits.is_err(), "a change of the old session is under way");
    server.disk.update_permits.add_permits(100);
    let mut new = new.await.unwrap();
    assert!(is_written(&server, 0) && !is_written(&server, 8));
    begin_write(&mut new, 8).await;
    assert_eq!(new.reply().await.status(), 0);
}

#[tokio::test]
async fn a_reset_reaches_commands_of_others_whose_turn_has_not_come() {
    let server = held().await;
    let mut one = server.initiator().await;
    let mut two = Initiator::log_in(server.address, 2, &[]).await;
    begin_write(&mut one, 0).await;
    assert!(one.is_quiet().await);
    for (attribute, lba) in [(0xa2, 8), (0xa1, 16)] {
        one.tag += 1;
        let mut command = header(0x01, attribute, 1, one.tag);
        put(&mut command, 20, 512);
        put(&mut command, 24, one.command_number);
        command[32..42].copy_from_slice(&cdb10(0x2a, 0, lba, 1));
        one.command_number += 1;
        one.send(command, &[7; 512]).await;
    }
    assert!(one.is_quiet().await, "they come after the first");
    two.begin_manage(RESET, 1, (NO_TAG, 0)).await;
    assert!(two.is_quiet().await);
    server.disk.update_permits.add_permits(100);
    assert_eq!(two.managed().await, 0);
    assert!(one.is_quiet().await);
    assert!(is_written(&server, 0) && !is_written(&server, 8) && !is_written(&server, 16));
    let (_, reply) = one.ask(&[0; 6], 0).await;
    assert_eq!(reply.sense(), (6, 0x2903));
}

#[tokio::test]
async fn a_reset_does_not_wait_until_what_it_aborts_is_durable() {
    let server = held().await;
    server.disk.manual_sync.store(true, SeqCst);
    let mut initiator = server.initiator().await;
    initiator
        .command(&cdb10(0x2a, 8, 0, 1), (0, 512), &[7; 512])
        .await;
    assert!(initiator.is_quiet().await);
    initiator.begin_manage(RESET, 1, (NO_TAG, 0)).await;
    assert!(initiator.is_quiet().await);
    server.disk.update_permits.add_permits(1);
    assert_eq!(initiator.managed().await, 0);
}

#[tokio::test]
async fn data_of_an_aborted_command_is_not_taken_for_that_of_another_with_its_tag() {
    let server = Server::start().await;
    let keys = ["InitialR2T=No", "ImmediateData=No"];
    let mut initiator = Initiator::log_in(server.address, 1, &keys).await;
    let (number, tag) = (initiator.command_number, 77);
    let command = |opcode: u8, number: u32, lba: u32| {
        let mut command = header(opcode, 0x21, 1, tag);
        put(&mut command, 20, 512);
        put(&mut command, 24, number);
        command[32..42].copy_from_slice(&cdb10(0x2a, 0, lba, 1));
        command
    };
    // It waits for a number, and its data with it.
    initiator.send(command(0x01, number + 1, 0), &[]).await;
    initiator.data_out((tag, NO_TAG), 0, 0, &[9; 512], true).await;
    initiator.command_number = number + 2;
    assert_eq!(initiator.manage(ABORT_TASK, 1, tag).await, 0);
    initiator.send(command(0x41, number + 2, 16), &[]).await;
    initiator.data_out((tag, NO_TAG), 0, 0, &[7; 512], true).await;
    let reply = initiator.reply().await;
    assert_eq!((reply.word(16), reply.status()), (tag, 0));
    initiator.command_number = number;
    let last = initiator.command(&[0; 6], (0, 0), &[]).await;
    assert_eq!(initiator.reply().await.word(16), last);
    assert!(initiator.is_quiet().await);
    assert!(is_written(&server, 16) && server.disk.content(0..1) == [0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_end_of_a_session_waits_for_its_reservations() {
    let server = Server::start().await;
    let mut old = server.initiator().await;
    old.reserve_out((0, 0), 0, 1).await;
    assert_eq!(old.reply().await.status(), 0);
    // Whoever writes this waits until somebody reads.
    let file = server.directory.path().join("reservations/disk0.json.new");
    let mkfifo = std::process::Command::new("mkfifo").arg(&file).status();
    assert!(mkfifo.unwrap().success());
    old.reserve_out((1, 1), 1, 0).await;
    assert!(old.is_quiet().await);
    let mut logout = header(0x46, 0x80, 0, 0x99);
    put(&mut logout, 24, old.command_number);
    old.send(logout, &[]).await;
    assert!(old.is_quiet().await, "a reservation is being kept");
    let address = server.address;
    let mut new = tokio::spawn(async move { Initiator::log_in(address, 1, &[]).await });
    let waits = tokio::time::timeout(std::time::Duration::from_millis(200), &mut new).await;
    assert!(waits.is_err());
    let reader = std::thread::spawn(move || std::fs::read(file));
    let mut new = new.await.unwrap();
    let (data, _) = new.ask(&[0x5e, 1, 0, 0, 0, 0, 0, 0, 24, 0], 24).await;
    // A pipe cannot be synchronised, so it was refused: before the new session began, and not after.
    assert_eq!(data[4..8], [0; 4]);
    assert!(!reader.join().unwrap().unwrap().is_empty());
}

#[tokio::test]
async fn nothing_is_taken_after_a_logout() {
    let server = held().await;
    let mut initiator = server.initiator().await;
    begin_write(&mut initiator, 0).await;
    assert!(initiator.is_quiet().await);
    let mut logout = header(0x46, 0x80, 0, 0x99);
    put(&mut logout, 24, initiator.command_number);
    initiator.send(logout, &[]).await;
    initiator.command(&cdb10(0x2a, 0, 8, 1), (0, 512), &[]).await;
    initiator.send(logout, &[]).await;
    assert!(initiator.is_quiet().await, "no data is asked for");
    server.disk.update_permits.add_permits(1);
    assert_eq!(initiator.reply().await.opcode(), 0x26);
    assert!(initiator.next().await.is_none());
}

#[tokio::test]
async fn a_logout_is_answered_when_changes_are_over() {
    let server = held().await;
    let mut initiator = server.initiator().await;
    begin_write(&mut initiator, 0).await;
    assert!(initiator.is_quiet().await);
    begin_write(&mut initiator, 8).await;
    let mut logout = header(0x46, 0x80, 0, 0x99);
    put(&mut logout, 24, initiator.command_number);
    initiator.send(logout, &[]).await;
    assert!(initiator.is_quiet().await);
    server.disk.update_permits.add_permits(100);
    let reply = initiator.reply().await;
    assert_eq!((reply.opcode(), reply.header[2]), (0x26, 0), "{reply:?}");
    assert!(is_written(&server, 0) && !is_written(&server, 8));
    assert!(initiator.is_closed().await);
}
