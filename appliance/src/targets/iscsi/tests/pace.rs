//! A host that has one command under way at a time: its session syncs the journal itself, before it is asked if it can.

use super::harness::{Initiator, Server, cdb10};
use crate::targets::iscsi::Policy;
use crate::targets::limits::LONE_REQUESTS;
use crate::targets::nbd::tests::memory::MemoryDisk;
use std::sync::atomic::Ordering::SeqCst;
use tokio::net::TcpStream;

const DATA: [u8; 512] = [7; 512];
/// Forces the write to the medium.
const FUA: u8 = 8;

async fn write(initiator: &mut Initiator<TcpStream>) {
    assert_eq!(initiator.write(0, &DATA).await.status(), 0);
}

async fn flush(initiator: &mut Initiator<TcpStream>) {
    assert_eq!(initiator.ask(&cdb10(0x35, 0, 0, 0), 0).await.1.status(), 0);
}

#[tokio::test]
async fn only_a_host_that_asks_for_one_thing_at_a_time_has_its_flushes_carried_out_by_its_session() {
    let disk = MemoryDisk::with_held_updates(1 << 20);
    let server = Server::with(Policy::default(), disk).await;
    let done = || server.disk.flushes_here.load(SeqCst);
    let permits = &server.disk.update_permits;
    permits.add_permits(LONE_REQUESTS as usize + 1);
    let mut initiator = server.initiator().await;
    for _ in 0..LONE_REQUESTS {
        assert_eq!(done(), 0, "it is not known yet");
        write(&mut initiator).await;
    }
    flush(&mut initiator).await;
    initiator.command(&cdb10(0x2a, FUA, 0, 1), (0, 512), &DATA).await;
    assert_eq!(initiator.reply().await.status(), 0);
    assert_eq!(done(), 2);
    // Two at a time: both are sent before either is answered.
    initiator.command(&cdb10(0x2a, 0, 0, 1), (0, 512), &DATA).await;
    initiator.command(&cdb10(0x35, 0, 0, 0), (0, 0), &[]).await;
    assert!(initiator.is_quiet().await);
    permits.add_permits(100);
    for _ in 0..2 {
        assert_eq!(initiator.reply().await.status(), 0);
    }
    flush(&mut initiator).await;
    assert_eq!(done(), 2, "it may send more meanwhile");
}

#[tokio::test]
async fn a_host_that_flushes_after_each_change_finds_the_sync_begun_when_it_asks() {
    let server = Server::start().await;
    let done = || server.disk.flushes_here.load(SeqCst);
    let mut initiator = server.initiator().await;
    for _ in 0..LONE_REQUESTS {
        write(&mut initiator).await;
        flush(&mut initiator).await;
    }
    let asked = done();
    write(&mut initiator).await;
    while done() == asked {
        tokio::task::yield_now().await;
    }
    flush(&mut initiator).await;
    // Two changes without a flush between them: it has changed its mind.
    write(&mut initiator).await;
    write(&mut initiator).await;
    let asked = done();
    for _ in 0..4 {
        write(&mut initiator).await;
    }
    assert_eq!(done(), asked);
}
