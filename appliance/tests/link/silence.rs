//! Peers that are there but say nothing: noticed in time on both sides. Time is the runtime's, paused.

use crate::random::Random;
use crate::replica::OneReplica;
use crate::shells::{hello, next_frame, receiver};
use crate::volume::{VOLUME_BYTES, Volume};
use farside::link::backoff::Gain;
use farside::link::{CloseReason, SessionSetup, StatusCell, run_session};
use farside_protocol::journal::{ChainPoint, CopyState};
use farside_protocol::link::{Assembler, Message, Refusal, RefuseCode, Welcome};
use farside_remote::SessionError;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncWrite, AsyncWriteExt, duplex, split};
use tokio::sync::watch;
use tokio::time::{Instant, sleep};
use uuid::Uuid;

const LIMIT: Duration = Duration::from_secs(10);

fn setup() -> SessionSetup<Volume> {
    let volume = Arc::new(Volume::new());
    let mut random = Random::new(4);
    for _ in 0..40 {
        volume.write(&mut random);
    }
    volume.settle();
    SessionSetup {
        source: volume,
        remote_name: "far".into(),
        instance: Uuid::from_u128(1),
        window_bytes: 1 << 20,
        bytes_per_second: None,
        compression: farside_protocol::link::Compression::None,
        merge: false,
        confirm: false,
        windows: None,
        status: Arc::new(StatusCell::default()),
        verification: Arc::default(),
    }
}

#[tokio::test(start_paused = true)]
async fn a_remote_that_never_answers_is_given_up_within_ten_seconds() {
    let (near, _far) = duplex(64 << 10);
    let (_stop, told) = watch::channel(false);
    let start = Instant::now();
    let (reason, gain) = run_session(&setup(), split(near), told).await;
    assert!(matches!(reason, CloseReason::Silence), "{reason:?}");
    assert_eq!(gain, Gain::Nothing, "dialling slows down");
    assert!(start.elapsed() <= LIMIT, "{:?}", start.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_remote_that_stops_reading_and_answering_is_given_up_within_ten_seconds() {
    let (near, mut far) = duplex(4 << 10);
    let (_stop, told) = watch::channel(false);
    let setup = setup();
    let peer = async {
        let mut frame = Assembler::default();
        assert!(next_frame(&mut far, &mut frame).await);
        let welcome = Welcome {
            history_mib: 0,
            batch_log2: 0,
            unconfirmed_log2: 0,
            copy_id: 0,
            version: 2,
            copy: CopyState::Empty,
            features: 0,
            unit: Uuid::from_u128(2),
            received: ChainPoint::default(),
            applied: 0,
            copy_offset: 0,
            consistent_from: 0,
            unit_name: "remote".into(),
        };
        far.write_all(&Message::Welcome(Box::new(welcome)).to_frame())
            .await
            .unwrap();
        // From here on the buffer of 4 KiB fills and the sender's write is stuck.
        sleep(Duration::from_secs(60)).await;
        panic!("the sender is still there");
    };
    let start = Instant::now();
    let reason = tokio::select! {
        (reason, _) = run_session(&setup, split(near), told) => reason,
        () = peer => unreachable!(),
    };
    assert!(matches!(reason, CloseReason::Silence), "{reason:?}");
    assert!(start.elapsed() <= LIMIT, "{:?}", start.elapsed());
    assert!(setup.source.state().copies_started == 1);
}

#[tokio::test(start_paused = true)]
async fn a_sender_that_says_nothing_is_given_up_within_ten_seconds() {
    let replicas = Arc::new(OneReplica::new(VOLUME_BYTES as usize));
    let receiver = receiver(&replicas);
    let address = "127.0.0.1:9".parse().unwrap();
    let greeting = Message::Hello(Box::new(hello(&Volume::new()))).to_frame();
    for (bytes, greeted) in [(0, false), (25, false), (greeting.len(), true)] {
        let (mut near, far) = duplex(16 << 10);
        near.write_all(&greeting[..bytes]).await.unwrap();
        let start = Instant::now();
        let (read, write) = split(far);
        let error = receiver.serve(address, read, write).await;
        let silent = matches!(error, SessionError::Silence | SessionError::NoHello);
        assert!(
            silent && start.elapsed() <= LIMIT,
            "{bytes}: {error} after {:?}",
            start.elapsed()
        );
        let mut frame = Assembler::default();
        let answered = next_frame(&mut near, &mut frame).await;
        assert_eq!(answered, greeted);
        assert_eq!(receiver.links(), [], "the replica is free again");
    }
}

#[tokio::test(start_paused = true)]
async fn a_sender_that_reads_no_answers_is_given_up_within_twenty_seconds() {
    let replicas = Arc::new(OneReplica::new(VOLUME_BYTES as usize));
    let receiver = receiver(&replicas);
    // Room for the welcome and little more: answers are stuck although heartbeats arrive.
    let (near, far) = duplex(256);
    let (_unread, mut near) = split(near);
    let greeting = Message::Hello(Box::new(hello(&Volume::new()))).to_frame();
    let beats = async {
        near.write_all(&greeting).await.unwrap();
        loop {
            let beat = farside_protocol::link::Heartbeat {
                durable: 0,
                journaled: 0,
                time_us: 0,
            };
            let _ = near.write_all(&Message::Heartbeat(beat).to_frame()).await;
            sleep(Duration::from_secs(1)).await;
        }
    };
    let (read, write) = split(far);
    let start = Instant::now();
    let error = tokio::select! {
        error = receiver.serve("127.0.0.1:9".parse().unwrap(), read, write) => error,
        () = beats => unreachable!(),
    };
    assert!(matches!(error, SessionError::Silence), "{error}");
    assert!(start.elapsed() <= 2 * LIMIT, "{:?}", start.elapsed());
}

/// The writing half of a socket whose peer closes after it was welcomed.
#[derive(Default)]
struct ClosedAfterWelcome {
    welcomed: bool,
}

impl AsyncWrite for ClosedAfterWelcome {
    fn poll_write(mut self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        if self.welcomed {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        self.welcomed = true;
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

#[tokio::test(start_paused = true)]
async fn a_connection_that_was_closed_is_not_called_silent_and_last_words_are_heard() {
    let replicas = Arc::new(OneReplica::new(VOLUME_BYTES as usize));
    let receiver = receiver(&replicas);
    let address = "127.0.0.1:9".parse().unwrap();
    let greeting = Message::Hello(Box::new(hello(&Volume::new()))).to_frame();
    let farewell = Refusal::new(RefuseCode::ShuttingDown, 0, "stopped");
    let farewell = Message::Refuse(farewell).to_frame();
    for (last, closes, expected) in [
        (farewell.as_slice(), true, "stopped"),
        (&[], true, "closed by the sender"),
        (&[], false, "connection lost: broken pipe"),
    ] {
        let (mut near, far) = duplex(16 << 10);
        near.write_all(&greeting).await.unwrap();
        let peer = async {
            // The acknowledgement fails before the reader comes to what was said last.
            sleep(Duration::from_millis(300)).await;
            near.write_all(last).await.unwrap();
            if closes {
                drop(near);
            } else {
                sleep(LIMIT).await;
            }
        };
        let (serving, start) = (
            receiver.serve(address, far, ClosedAfterWelcome::default()),
            Instant::now(),
        );
        tokio::pin!(serving);
        let error = tokio::select! {
            error = &mut serving => error,
            () = peer => serving.await,
        };
        assert!(error.to_string().ends_with(expected), "{expected}: {error}");
        assert!(start.elapsed() < Duration::from_secs(2), "{:?}", start.elapsed());
    }
}
