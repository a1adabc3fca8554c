//! Several logical units in one session, and units that change their address.

use super::harness::{DISK_BYTES, Initiator, Server, TARGET, cdb10, header, put};
use crate::targets::ScsiAddress;
use crate::targets::iscsi::Policy;
use crate::targets::nbd::tests::memory::MemoryDisk;
use std::sync::Arc;
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
        initiator.manage(5, 2, super::harness::NO_TAG).await,
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
    initiator
        .data_out((tag, super::harness::NO_TAG), 0, 256, &[9; 256], true)
        .await;
    assert!(initiator.is_quiet().await, "a number is missing");
    initiator.command_number = number;
    let first = initiator.command(&[0; 6], (0, 0), &[]).await;
    for expected in [first, tag] {
        let reply = initiator.reply().await;
        assert_eq!((reply.word(16), reply.status()), (expected, 0));
    }
    assert_eq!(server.disk.content(511..513), [9, 0]);
}
