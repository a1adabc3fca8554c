//! Initiators that say nothing, or take nothing, on a clock that the test has in its hand.

use super::harness::{DISK_BYTES, Initiator, NO_TAG, header, put};
use crate::targets::iscsi::{Policy, Portals, Setup, serve};
use crate::targets::nbd::tests::memory::{MemoryDisk, MemoryExports};
use crate::targets::{Counters, Listener, Settings};
use parking_lot::Mutex;
use std::io;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, DuplexStream, duplex};
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

/// One connection, and never another.
struct Once(Mutex<Option<DuplexStream>>);

impl Listener for Once {
    type Stream = DuplexStream;

    async fn accept(&self) -> io::Result<(DuplexStream, String)> {
        let stream = self.0.lock().take();
        match stream {
            Some(stream) => Ok((stream, "one".to_owned())),
            None => std::future::pending().await,
        }
    }
}

/// A session over a stream that holds so many bytes each way.
async fn session(held_bytes: usize) -> (Initiator<DuplexStream>, tempfile::TempDir) {
    let exports = Arc::new(MemoryExports::default());
    let disk = MemoryDisk::new(DISK_BYTES);
    exports.0.lock().insert("disk0".to_owned(), disk);
    let directory = tempfile::tempdir().unwrap();
    let portals = Portals::new(Setup {
        exports,
        counters: Arc::new(Counters::default()),
        settings: Settings::default(),
        policy: Policy::default(),
        listening: Vec::new(),
        reservations: directory.path().join("reservations"),
    });
    let (here, there) = duplex(held_bytes);
    let listener = Once(Mutex::new(Some(there)));
    tokio::spawn(serve(listener, portals, CancellationToken::new()));
    let mut initiator = Initiator::over(here);
    initiator.begin(1, &[]).await;
    initiator.take_attention().await;
    (initiator, directory)
}

#[tokio::test(start_paused = true)]
async fn an_initiator_that_is_silent_is_asked_and_then_let_go() {
    let (mut initiator, _directory) = session(1 << 16).await;
    for _ in 0..2 {
        let begun = Instant::now();
        let question = initiator.next().await.expect("a question");
        assert_eq!((question.opcode(), question.word(16)), (0x20, NO_TAG));
        assert_eq!(begun.elapsed().as_secs(), 60);
        let mut answer = header(0x40, 0x80, 0, NO_TAG);
        put(&mut answer, 20, question.word(20));
        put(&mut answer, 24, initiator.command_number);
        initiator.send(answer, &[]).await;
    }
    assert!(initiator.next().await.is_some(), "the third question");
    let begun = Instant::now();
    assert!(initiator.next().await.is_none());
    assert_eq!(begun.elapsed().as_secs(), 30);
}

#[tokio::test(start_paused = true)]
async fn one_that_logs_out_and_takes_no_answer_is_let_go_too() {
    let (mut initiator, _directory) = session(512).await;
    for tag in 0..20 {
        let mut ping = header(0x40, 0x80, 0, 0x500 + tag);
        put(&mut ping, 20, NO_TAG);
        put(&mut ping, 24, initiator.command_number);
        initiator.send(ping, &[7; 100]).await;
    }
    let mut logout = header(0x46, 0x80, 0, 0x99);
    put(&mut logout, 24, initiator.command_number);
    initiator.send(logout, &[]).await;
    sleep(Duration::from_secs(200)).await;
    let mut rest = Vec::new();
    initiator.stream.read_to_end(&mut rest).await.unwrap();
    assert!(rest.len() <= 512, "{} bytes were kept for it", rest.len());
}
