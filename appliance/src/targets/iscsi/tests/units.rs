//! Several logical units in one session, and units that change their address.

use super::harness::{DISK_BYTES, Initiator, NO_TAG, Server, TARGET, cdb10, header, put};
use crate::targets::ScsiAddress;
use crate::targets::iscsi::Policy;
use crate::targets::nbd::tests::memory::MemoryDisk;
use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;
use tokio::io::AsyncWriteExt;

/// Unit 1 is the server's disk, and unit 2 the other.
async fn two_units(first: Arc<MemoryDisk>) -> (Server, Arc<MemoryDisk>) {
    let server = Server::with(Policy::default(), first).await;
    let second = MemoryDisk::new(DISK_BYTES);
    *second.scsi.lock() = Some(ScsiAddress {
        target: TARGET.to_owned(),
        lun: 2,
    });
    let mut disks = server.exports.0.lock();
    disks.insert("disk1".to_owned(), Arc::clone(&second));
    drop(disks);
    (server, second)
}

/// A session that has been told that both units are new to it.
async fn log_in(server: &Server, keys: &[&str]) -> Initiator {
    let mut initiator = Initiator::log_in(server.address, 1, keys).await;
    initiator.command_to(2, &[0; 6], (0, 0), &[]).await;
    assert_eq!(initiator.reply().await.sense(), (6, 0x2900));
    initiator
}

fn write(initiator: &mut Initiator, lun: u8, lba: u32, data: &[u8]) -> Vec<u8> {
    initiator.tag += 1;
    let mut command = header(0x01, 0xa1, lun, initiator.tag);
    command[6..8].copy_from_slice(&u16::try_from(data.len()).unwrap().to_be_bytes());
    put(&mut command, 20, 512);
    put(&mut command, 24, initiator.command_number);
    command[32..42].copy_from_slice(&cdb10(0x2a, 0, lba, 1));
    initiator.command_number += 1;
    [&command[..], data].concat()
}

#[tokio::test]
async fn writes_of_one_receive_reach_each_their_own_unit() {
    let (server, second) = two_units(MemoryDisk::new(DISK_BYTES)).await;
    let mut initiator = log_in(&server, &[]).await;
    let mut sent = Vec::new();
    for (lun, lba, byte) in [(1, 0, 1), (2, 0, 2), (1, 8, 3), (2, 8, 4), (2, 16, 5)] {
        sent.extend(write(&mut initiator, lun, lba, &[byte; 512]));
    }
    initiator.stream.write_all(&sent).await.unwrap();
    for _ in 0..5 {
        assert_eq!(initiator.reply().await.status(), 0);
    }
    let found = |disk: &MemoryDisk| [0, 8, 16].map(|lba| disk.content(lba * 512..lba * 512 + 1)[0]);
    assert_eq!((found(&server.disk), found(&second)), ([1, 3, 0], [2, 4, 5]));
}

#[tokio::test]
async fn data_completes_its_own_unit_s_command_among_those_of_another() {
    let (server, second) = two_units(MemoryDisk::new(DISK_BYTES)).await;
    let mut initiator = log_in(&server, &[]).await;
    let asking = write(&mut initiator, 2, 0, &[]);
    initiator.stream.write_all(&asking).await.unwrap();
    let ask = initiator.reply().await;
    assert_eq!(ask.opcode(), 0x31);
    let mut sent = write(&mut initiator, 1, 0, &[1; 512]);
    let mut data = header(0x05, 0x80, 2, ask.word(16));
    data[6..8].copy_from_slice(&512_u16.to_be_bytes());
    put(&mut data, 20, ask.word(20));
    sent.extend_from_slice(&data);
    sent.extend_from_slice(&[2; 512]);
    sent.extend(write(&mut initiator, 1, 8, &[3; 512]));
    initiator.stream.write_all(&sent).await.unwrap();
    for _ in 0..3 {
        assert_eq!(initiator.reply().await.status(), 0);
    }
    assert_eq!(server.disk.content(0..1), [1]);
    assert_eq!(server.disk.content(4096..4097), [3]);
    assert_eq!(
        (second.content(0..1), second.content(4096..4097)),
        (vec![2], vec![0])
    );
}

#[tokio::test]
async fn a_unit_that_waits_holds_no_other_up() {
    let (server, second) = two_units(MemoryDisk::with_held_updates(DISK_BYTES)).await;
    let mut initiator = log_in(&server, &[]).await;
    let mut sent = write(&mut initiator, 1, 0, &[1; 512]);
    sent.extend(write(&mut initiator, 1, 8, &[1; 512]));
    sent.extend(write(&mut initiator, 2, 0, &[2; 512]));
    initiator.stream.write_all(&sent).await.unwrap();
    assert_eq!(initiator.reply().await.word(16), initiator.tag);
    assert_eq!(second.content(0..1), [2]);
    assert_eq!(
        initiator.manage(5, 2, NO_TAG).await,
        0,
        "reset of the second unit"
    );
    server.disk.update_permits.add_permits(100);
    for tag in [initiator.tag - 2, initiator.tag - 1] {
        let reply = initiator.reply().await;
        assert_eq!((reply.word(16), reply.status()), (tag, 0));
    }
}

#[tokio::test]
async fn a_volume_that_gets_another_address_keeps_its_reservations() {
    let server = Server::start().await;
    let mut old = server.initiator().await;
    old.reserve_out((0, 0), 0, 7).await;
    assert_eq!(old.reply().await.status(), 0);
    *server.disk.scsi.lock() = Some(ScsiAddress {
        target: TARGET.to_owned(),
        lun: 5,
    });
    let mut new = Initiator::log_in_only(server.address, 2, &[]).await;
    let (_, none) = new.ask(&[0; 6], 0).await;
    assert_eq!(none.sense(), (5, 0x2500), "there is no unit 1 any more");
    // Both sessions see one unit.
    old.reserve_out((1, 1), 7, 0).await;
    assert_eq!(old.reply().await.status(), 0, "reserve, write exclusive");
    new.command_to(5, &[0; 6], (0, 0), &[]).await;
    assert_eq!(new.reply().await.sense(), (6, 0x2900));
    new.command_to(5, &cdb10(0x2a, 0, 0, 1), (0, 512), &[1; 512])
        .await;
    assert_eq!(new.reply().await.status(), 0x18);
    // The name of the unit is that of its address.
    new.command_to(5, &[0x12, 1, 0x83, 1, 0, 0], (256, 0), &[]).await;
    let page = new.reply().await.data;
    let name = b"farside:disk0,L,0x0005000000000000";
    assert!(page.windows(name.len()).any(|part| part == name), "{page:?}");
}

#[tokio::test]
async fn unasked_data_waits_with_its_command_for_the_number_before() {
    let server = Server::start().await;
    let mut initiator = Initiator::log_in(server.address, 1, &["InitialR2T=No"]).await;
    let number = initiator.command_number;
    initiator.command_number += 1;
    initiator.tag += 1;
    let tag = initiator.tag;
    let mut command = header(0x01, 0x21, 1, tag);
    put(&mut command, 20, 512);
    put(&mut command, 24, initiator.command_number);
    command[32..42].copy_from_slice(&cdb10(0x2a, 0, 0, 1));
    initiator.send(command, &[9; 256]).await;
    initiator.data_out((tag, NO_TAG), 0, 256, &[9; 256], true).await;
    assert!(initiator.is_quiet().await, "a number is missing");
    initiator.command_number = number;
    let first = initiator.command(&[0; 6], (0, 0), &[]).await;
    for expected in [first, tag] {
        let reply = initiator.reply().await;
        assert_eq!((reply.word(16), reply.status()), (expected, 0));
    }
    assert_eq!(server.disk.content(511..513), [9, 0]);
}

/// A change of unit 1 in the journal, another behind it, and what becomes of the latter when `other` resets the unit.
async fn expect_reset_to_reach(server: &Server, one: &mut Initiator, (other, lun): (&mut Initiator, u8)) {
    for lba in [0, 8] {
        one.command(&cdb10(0x2a, 0, lba, 1), (0, 512), &[7; 512]).await;
        assert!(one.is_quiet().await);
    }
    other.begin_manage(5, lun, (NO_TAG, 0)).await;
    assert!(other.is_quiet().await);
    server.disk.update_permits.add_permits(1);
    assert_eq!(other.managed().await, 0);
    server.disk.update_permits.add_permits(100);
    assert!(one.is_quiet().await);
    assert_eq!(server.disk.content(0..1), [7]);
    assert_eq!(server.disk.content(4096..4097), [0]);
}

async fn held() -> Server {
    Server::with(Policy::default(), MemoryDisk::with_held_updates(DISK_BYTES)).await
}

#[tokio::test]
async fn a_reset_reaches_a_session_that_uses_an_old_address_and_the_new_one() {
    let server = held().await;
    let mut one = server.initiator().await;
    let mut two = Initiator::log_in(server.address, 2, &[]).await;
    *server.disk.scsi.lock() = Some(ScsiAddress {
        target: TARGET.to_owned(),
        lun: 5,
    });
    one.command_to(5, &[0; 6], (0, 0), &[]).await;
    assert_eq!(one.reply().await.sense(), (6, 0x2900));
    expect_reset_to_reach(&server, &mut one, (&mut two, 5)).await;
}

#[tokio::test]
async fn both_forms_of_a_number_are_one_unit() {
    let server = held().await;
    let mut one = server.initiator().await;
    let mut two = Initiator::log_in(server.address, 2, &[]).await;
    let mut flat = header(0x01, 0x81, 1, 0x4444);
    flat[8] = 0x40;
    put(&mut flat, 24, one.command_number);
    one.command_number += 1;
    one.send(flat, &[]).await;
    assert_eq!(one.reply().await.status(), 0, "it is not new to the session");
    expect_reset_to_reach(&server, &mut one, (&mut two, 1)).await;
}

#[tokio::test]
async fn a_disk_that_goes_away_answers_what_it_has_and_leaves_the_others_alone() {
    let (server, _) = two_units(MemoryDisk::with_held_updates(DISK_BYTES)).await;
    server.disk.manual_sync.store(true, SeqCst);
    let mut initiator = log_in(&server, &[]).await;
    // Forced: it has to be durable.
    let forced = initiator
        .command(&cdb10(0x2a, 8, 0, 1), (0, 512), &[7; 512])
        .await;
    assert!(initiator.is_quiet().await);
    // More than one batch takes.
    let ranges = vec![[0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0, 0]; 256].concat();
    let length = u16::try_from(ranges.len()).unwrap();
    let mut unmap = vec![0; 8];
    unmap[..2].copy_from_slice(&(length + 6).to_be_bytes());
    unmap[2..4].copy_from_slice(&length.to_be_bytes());
    unmap.extend_from_slice(&ranges);
    for _ in 0..5 {
        let [high, low] = (length + 8).to_be_bytes();
        let cdb = [0x42, 0, 0, 0, 0, 0, 0, high, low, 0];
        initiator.command(&cdb, (0, u32::from(length) + 8), &unmap).await;
    }
    initiator
        .command_to(2, &[0x12, 0, 0, 0, 36, 0], (36, 0), &[])
        .await;
    assert_eq!(
        initiator.reply().await.opcode(),
        0x25,
        "the other unit answers meanwhile"
    );
    server.disk.closing.cancel();
    for _ in 0..5 {
        assert_eq!(initiator.reply().await.status(), 8, "busy");
    }
    server.disk.update_permits.add_permits(1);
    assert!(initiator.is_quiet().await, "it is not durable");
    server.disk.sync();
    let reply = initiator.reply().await;
    assert_eq!((reply.word(16), reply.status()), (forced, 0));
    let (_, none) = initiator.ask(&[0; 6], 0).await;
    assert_eq!(none.sense(), (5, 0x2500));
    assert_eq!(initiator.log_out().await.opcode(), 0x26);
}

#[tokio::test]
async fn a_comparison_that_was_made_is_not_called_undone_because_the_disk_goes() {
    let server = Server::start().await;
    server.disk.manual_sync.store(true, SeqCst);
    let mut initiator = server.initiator().await;
    let mut compare = [0; 16];
    (compare[0], compare[1], compare[13]) = (0x89, 8, 1);
    let data = [[0; 512], [7; 512]].concat();
    let tag = initiator.command(&compare, (0, 1024), &data).await;
    assert!(initiator.is_quiet().await);
    server.disk.closing.cancel();
    assert!(initiator.is_quiet().await);
    server.disk.sync();
    let reply = initiator.reply().await;
    assert_eq!((reply.word(16), reply.status()), (tag, 0));
    assert_eq!(server.disk.content(0..1), [7]);
}
