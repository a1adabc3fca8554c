//! A compressed stream: the same link, with fewer bytes, whatever happens to it.

use crate::random::Random;
use crate::replica::OneReplica;
use crate::shells::{cutting_proxy, hello, next_frame, receiver, remote, until, until_equal, written};
use crate::volume::{VOLUME_BYTES, Volume};
use async_compression::Level;
use async_compression::tokio::write::ZstdEncoder;
use async_compression::zstd::CParameter;
use farside::link::{Sender, SenderConfig};
use farside_protocol::link::{Assembler, Compression, Heartbeat, Message};
use farside_remote::SessionError;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, duplex, split};
use tokio::time::{Instant, sleep};
use uuid::Uuid;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_cuts_of_a_compressed_stream_lose_and_repeat_nothing() {
    for compression in [Compression::Lz4, Compression::Zstd] {
        let (remote, volume) = (remote().await, Arc::new(Volume::new()));
        let mut random = Random::new(8);
        written(&volume, &mut random, 30);
        let (proxy, cuts) = cutting_proxy(remote.address, 10).await;
        let config = SenderConfig {
            compression,
            ..SenderConfig::new("far", &proxy.to_string(), Uuid::from_u128(1))
        };
        let sender = Sender::spawn(Arc::clone(&volume), config);
        let mut rounds = 0;
        while cuts.load(Ordering::Relaxed) < 10 {
            written(&volume, &mut random, 1);
            sleep(Duration::from_millis(20)).await;
            rounds += 1;
            assert!(rounds < 3000, "10 cuts never happened: {:?}", sender.status());
        }
        until_equal(&sender, &volume, &remote).await;
        written(&volume, &mut random, 5);
        until_equal(&sender, &volume, &remote).await;
        let status = until(&sender, "compressed", |status| status.compressed.is_some()).await;
        let compressed = status.compressed.unwrap();
        assert_eq!(compressed.algorithm, compression);
        assert!(compressed.before > 0 && compressed.after > 0, "{compressed:?}");
        sender.stop().await;
        remote.stop().await;
    }
}

/// Greets a receiver that then waits for what is compressed with Zstandard.
async fn greet<S: AsyncRead + AsyncWrite + Unpin>(near: &mut S) {
    let mut hello = hello(&Volume::new());
    hello.features = Compression::Zstd.feature() | Compression::Lz4.feature() | 1 << 60;
    near.write_all(&Message::Hello(Box::new(hello)).to_frame())
        .await
        .unwrap();
    let mut frame = Assembler::default();
    assert!(next_frame(near, &mut frame).await);
    let (Message::Welcome(welcome), _) = frame.message().unwrap() else {
        panic!("no welcome");
    };
    assert_eq!(
        welcome.features,
        Compression::Zstd.feature(),
        "one of those it knows"
    );
}

fn encoder(window_log: u32) -> ZstdEncoder<Vec<u8>> {
    let params = [CParameter::window_log(window_log)];
    ZstdEncoder::with_quality_and_params(Vec::new(), Level::Default, &params)
}

fn beat() -> Vec<u8> {
    let beat = Heartbeat {
        durable: 0,
        journaled: 0,
        time_us: 0,
    };
    Message::Heartbeat(beat).to_frame()
}

#[tokio::test(start_paused = true)]
async fn bytes_that_do_not_suffice_for_a_decoder_break_the_silence_all_the_same() {
    let replicas = Arc::new(OneReplica::new(VOLUME_BYTES as usize));
    let receiver = receiver(&replicas);
    let (mut near, far) = duplex(64 << 10);
    let mut encoder = encoder(20);
    for _ in 0..50 {
        encoder.write_all(&beat()).await.unwrap();
    }
    encoder.flush().await.unwrap();
    let bytes = encoder.into_inner();
    let (last, first) = bytes.split_last().unwrap();
    assert!(first.len() > 10);
    let slow = async {
        greet(&mut near).await;
        for byte in &first[..10] {
            sleep(Duration::from_secs(7)).await;
            near.write_all(&[*byte]).await.unwrap();
        }
        near.write_all(&first[10..]).await.unwrap();
        near.write_all(&[*last]).await.unwrap();
        let said = Instant::now();
        std::future::pending::<()>().await;
        drop(near);
        said
    };
    let (read, write) = split(far);
    let start = Instant::now();
    let error = tokio::select! {
        error = receiver.serve("127.0.0.1:9".parse().unwrap(), read, write) => error,
        _ = slow => unreachable!(),
    };
    assert!(matches!(error, SessionError::Silence), "{error}");
    let lasted = start.elapsed();
    assert!(
        lasted > Duration::from_secs(70) && lasted < Duration::from_secs(90),
        "{lasted:?}"
    );
}

#[tokio::test]
async fn a_stream_that_would_take_more_memory_than_agreed_is_refused() {
    let replicas = Arc::new(OneReplica::new(VOLUME_BYTES as usize));
    for (window, fits) in [(20, true), (21, false), (27, false)] {
        let receiver = receiver(&replicas);
        let (mut near, far) = duplex(64 << 10);
        let mut encoder = encoder(window);
        encoder.write_all(&beat()).await.unwrap();
        encoder.flush().await.unwrap();
        let peer = async {
            greet(&mut near).await;
            near.write_all(encoder.get_ref()).await.unwrap();
            sleep(Duration::from_millis(200)).await;
            // The writing side only: what is answered is of no interest.
            near.shutdown().await.unwrap();
            std::future::pending::<()>().await;
        };
        let (read, write) = split(far);
        let error = tokio::select! {
            error = receiver.serve("127.0.0.1:9".parse().unwrap(), read, write) => error,
            () = peer => unreachable!(),
        };
        assert_eq!(matches!(error, SessionError::Closed), fits, "{window}: {error}");
    }
}

#[tokio::test]
async fn damage_to_a_compressed_stream_ends_the_connection_and_nothing_else() {
    let replicas = Arc::new(OneReplica::new(VOLUME_BYTES as usize));
    let mut encoder = encoder(20);
    for _ in 0..3 {
        encoder.write_all(&beat()).await.unwrap();
    }
    encoder.flush().await.unwrap();
    let whole = encoder.into_inner();
    let mut ended_early = 0;
    for at in 0..whole.len() {
        let receiver = receiver(&replicas);
        let (mut near, far) = duplex(64 << 10);
        let mut damaged = whole.clone();
        damaged[at] ^= 0x41;
        let peer = async {
            greet(&mut near).await;
            let _ = near.write_all(&damaged).await;
            let _ = near.shutdown().await;
            std::future::pending::<()>().await;
        };
        let (read, write) = split(far);
        let serve = receiver.serve("127.0.0.1:9".parse().unwrap(), read, write);
        // Some bytes say how much room is needed at most, and change nothing.
        let error = tokio::select! {
            ended = tokio::time::timeout(Duration::from_secs(5), serve) => ended.unwrap(),
            () = peer => unreachable!(),
        };
        ended_early += u32::from(!matches!(error, SessionError::Closed));
        assert_eq!(receiver.links(), []);
        assert_eq!(replicas.sink.inner().appends, 0);
    }
    assert!(ended_early > 10, "{ended_early} of {}", whole.len());
}
