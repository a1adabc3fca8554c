//! The promises of both shells over real sockets.

use crate::random::Random;
use crate::replica::OneReplica;
use crate::volume::{VOLUME_BYTES, Volume};
use farside::link::{LinkState, LinkStatus, Sender, SenderConfig, Source};
use farside_protocol::journal::CopyState;
use farside_protocol::link::limits::{HIGHEST_VERSION, LOWEST_VERSION};
use farside_protocol::link::{Assembler, Hello, Message, RefuseCode};
use farside_remote::{PlainDoor, Receiver, ReceiverConfig};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};
use uuid::Uuid;

/// The sender's process; another one is another start of the unit, or a copy of it.
const INSTANCE: Uuid = Uuid::from_u128(1);

pub(crate) struct Remote {
    receiver: Arc<Receiver<OneReplica>>,
    replicas: Arc<OneReplica>,
    pub(crate) address: SocketAddr,
    task: JoinHandle<()>,
}

pub(crate) fn receiver(replicas: &Arc<OneReplica>) -> Receiver<OneReplica> {
    let config = ReceiverConfig {
        unit: Uuid::from_u128(0xB),
        unit_name: "remote".into(),
    };
    Receiver::new(Arc::clone(replicas), config)
}

fn run(receiver: &Arc<Receiver<OneReplica>>, listener: TcpListener) -> JoinHandle<()> {
    let (running, door) = (
        Arc::clone(receiver),
        PlainDoor {
            beyond_loopback: false,
        },
    );
    tokio::spawn(async move { running.run(listener, Arc::new(door)).await })
}

pub(crate) async fn remote() -> Remote {
    let replicas = Arc::new(OneReplica::new(VOLUME_BYTES as usize));
    let receiver = Arc::new(receiver(&replicas));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let task = run(&receiver, listener);
    Remote {
        receiver,
        replicas,
        address,
        task,
    }
}

impl Remote {
    pub(crate) async fn stop(self) {
        self.receiver.shut_down();
        timeout(Duration::from_secs(10), self.task)
            .await
            .unwrap()
            .unwrap();
        assert_eq!(self.receiver.links(), []);
    }
}

pub(crate) fn sender(volume: &Arc<Volume>, address: SocketAddr) -> Sender {
    let config = SenderConfig::new("far", &address.to_string(), INSTANCE);
    Sender::spawn(Arc::clone(volume), config)
}

pub(crate) fn written(volume: &Volume, random: &mut Random, chunks: u64) {
    for _ in 0..chunks {
        volume.write(random);
    }
    volume.settle();
}

pub(crate) async fn until(sender: &Sender, what: &str, reached: impl Fn(&LinkStatus) -> bool) -> LinkStatus {
    for _ in 0..3000 {
        let status = sender.status();
        if reached(&status) {
            return status;
        }
        sleep(Duration::from_millis(10)).await;
    }
    panic!("{what}: {:?}", sender.status());
}

pub(crate) async fn until_equal(sender: &Sender, volume: &Volume, remote: &Remote) {
    let record = volume.points().journaled.record;
    let status = until(sender, "all applied", |status| {
        status.state == LinkState::Streaming && status.applied_record == record
    })
    .await;
    assert_eq!((status.sent_record, status.received_record), (record, record));
    assert_eq!(
        status.consistent_up_to_us,
        Some(volume.points().durable.sealed_at_us)
    );
    assert_eq!(remote.replicas.sink.inner().image, volume.state().content);
    remote.replicas.sink.check(volume);
}

/// Forwards to `target`, and cuts the newest connection after each random number of bytes, `cuts` times.
pub(crate) async fn cutting_proxy(target: SocketAddr, cuts: u64) -> (SocketAddr, Arc<AtomicU64>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let done = Arc::new(AtomicU64::new(0));
    let count = Arc::clone(&done);
    tokio::spawn(async move {
        let mut random = Random::new(77);
        loop {
            let (near, _) = listener.accept().await.unwrap();
            let Ok(far) = TcpStream::connect(target).await else {
                continue;
            };
            let left = if count.load(Ordering::Relaxed) < cuts {
                random.below(40_000)
            } else {
                u64::MAX
            };
            forward(near, far, left).await;
            count.fetch_add(1, Ordering::Relaxed);
        }
    });
    (address, done)
}

async fn forward(near: TcpStream, far: TcpStream, left: u64) {
    let ((mut from_near, mut to_near), (from_far, mut to_far)) = (near.into_split(), far.into_split());
    let mut from_far = from_far;
    let mut forth = left;
    let there = async {
        let mut buffer = vec![0; 1500];
        while forth > 0 {
            let most = buffer.len().min(usize::try_from(forth).unwrap_or(usize::MAX));
            let Ok(count) = from_near.read(&mut buffer[..most]).await else {
                break;
            };
            if count == 0 || to_far.write_all(&buffer[..count]).await.is_err() {
                break;
            }
            forth -= count as u64;
        }
    };
    let back = async {
        let _ = tokio::io::copy(&mut from_far, &mut to_near).await;
    };
    tokio::select! { () = there => {} () = back => {} }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn twenty_cuts_under_load_lose_and_repeat_nothing() {
    let (remote, volume) = (remote().await, Arc::new(Volume::new()));
    let mut random = Random::new(8);
    written(&volume, &mut random, 30);
    let (proxy, cuts) = cutting_proxy(remote.address, 20).await;
    let sender = sender(&volume, proxy);
    let mut rounds = 0;
    while cuts.load(Ordering::Relaxed) < 20 {
        written(&volume, &mut random, 1);
        sleep(Duration::from_millis(20)).await;
        rounds += 1;
        assert!(rounds < 3000, "20 cuts never happened: {:?}", sender.status());
    }
    until_equal(&sender, &volume, &remote).await;
    {
        let inner = remote.replicas.sink.inner();
        assert!(inner.begun <= volume.state().copies_started);
        let chunks = volume.points().journaled.sequence;
        assert_eq!(inner.appends, chunks - inner.base.sequence, "each chunk once");
    }
    assert!(sender.status().connections > 20);
    sender.stop().await;
    remote.stop().await;
}

#[tokio::test]
async fn a_remote_that_comes_back_goes_on_where_it_was_and_both_sides_say_who_they_are() {
    let (mut remote, volume) = (remote().await, Arc::new(Volume::new()));
    let mut random = Random::new(3);
    written(&volume, &mut random, 10);
    let sender = sender(&volume, remote.address);
    until_equal(&sender, &volume, &remote).await;
    let links = remote.receiver.links();
    assert_eq!(
        (links[0].replica.as_str(), links[0].source_name.as_str()),
        ("disk0", "local")
    );
    assert_eq!(sender.status().peer_name.as_deref(), Some("remote"));
    remote.receiver.shut_down();
    (&mut remote.task).await.unwrap();
    until(&sender, "waiting", |status| status.state == LinkState::Waiting).await;
    written(&volume, &mut random, 10);
    let listener = TcpListener::bind(remote.address).await.unwrap();
    let again = Arc::new(receiver(&remote.replicas));
    let task = run(&again, listener);
    remote = Remote {
        receiver: again,
        task,
        ..remote
    };
    until_equal(&sender, &volume, &remote).await;
    {
        let inner = remote.replicas.sink.inner();
        assert_eq!((inner.begun, inner.appends), (1, 10));
    }
    sender.stop().await;
    remote.stop().await;
}

#[tokio::test]
async fn a_second_sender_is_refused_by_name() {
    let (remote, volume) = (remote().await, Arc::new(Volume::new()));
    written(&volume, &mut Random::new(3), 5);
    let first = sender(&volume, remote.address);
    until_equal(&first, &volume, &remote).await;
    let mut other = Volume::new();
    other.identity.unit = Uuid::from_u128(0xC);
    other.identity.unit_name = "intruder".into();
    let second = sender(&Arc::new(other), remote.address);
    let status = until(&second, "refused", |status| status.state == LinkState::Refused).await;
    assert!(
        status.detail.contains("'local'") && status.detail.contains("127.0.0.1:"),
        "{status:?}"
    );
    assert_eq!(first.status().state, LinkState::Streaming);
    second.stop().await;
    first.stop().await;
    let replicas = Arc::clone(&remote.replicas);
    remote.stop().await;
    assert_eq!(replicas.sink.inner().begun, 1);
}

pub(crate) fn hello(volume: &Volume) -> Hello {
    let (identity, points) = (volume.identity(), volume.points());
    Hello {
        version_min: LOWEST_VERSION,
        version_max: HIGHEST_VERSION,
        segment_bytes: identity.segment_bytes,
        features: 0,
        unit: identity.unit,
        instance: INSTANCE,
        volume: identity.volume,
        volume_bytes: identity.volume_bytes,
        epoch: identity.epoch,
        head: points.durable,
        tail: points.tail,
        unit_name: identity.unit_name,
        volume_name: identity.volume_name,
        remote_name: "far".into(),
    }
}

/// Reads frames until the wanted one; `None` at the end of the stream.
pub(crate) async fn next_frame<R: tokio::io::AsyncRead + Unpin>(from: &mut R, frame: &mut Assembler) -> bool {
    frame.clear();
    loop {
        let Ok(count @ 1..) = from.read(frame.space()).await else {
            return false;
        };
        if frame.advance(count).unwrap() {
            return true;
        }
    }
}

#[tokio::test]
async fn a_newer_connection_of_the_same_process_takes_over() {
    let (remote, volume) = (remote().await, Arc::new(Volume::new()));
    written(&volume, &mut Random::new(3), 5);
    let mut old = TcpStream::connect(remote.address).await.unwrap();
    old.write_all(&Message::Hello(Box::new(hello(&volume))).to_frame())
        .await
        .unwrap();
    let mut frame = Assembler::default();
    assert!(next_frame(&mut old, &mut frame).await);
    assert!(matches!(frame.message(), Ok((Message::Welcome(_), _))));
    let sender = sender(&volume, remote.address);
    until_equal(&sender, &volume, &remote).await;
    let mut told = false;
    while next_frame(&mut old, &mut frame).await {
        if let Ok((Message::Refuse(refusal), _)) = frame.message() {
            assert_eq!(refusal.code, RefuseCode::SecondSender);
            told = true;
        }
    }
    assert!(told, "the old connection is told why");
    assert_eq!(remote.receiver.links().len(), 1);
    sender.stop().await;
    remote.stop().await;
}

#[tokio::test]
async fn a_running_copy_of_the_same_unit_is_refused_while_the_first_one_lives() {
    let (remote, volume) = (remote().await, Arc::new(Volume::new()));
    let mut random = Random::new(3);
    written(&volume, &mut random, 5);
    let first = sender(&volume, remote.address);
    until_equal(&first, &volume, &remote).await;
    let copy = Volume::new();
    written(&copy, &mut random, 9);
    let config = SenderConfig::new("far", &remote.address.to_string(), Uuid::from_u128(2));
    let second = Sender::spawn(Arc::new(copy), config);
    let status = until(&second, "refused", |status| status.state == LinkState::Refused).await;
    for named in ["'local'", "127.0.0.1:", "another running copy"] {
        assert!(status.detail.contains(named), "{status:?}");
    }
    written(&volume, &mut random, 5);
    until_equal(&first, &volume, &remote).await;
    assert_eq!(first.status().connections, 1, "nothing was taken from it");
    second.stop().await;
    first.stop().await;
    remote.stop().await;
}

#[tokio::test]
async fn a_unit_started_again_takes_over_from_its_silent_connection() {
    let (remote, volume) = (remote().await, Arc::new(Volume::new()));
    written(&volume, &mut Random::new(3), 5);
    let mut old = TcpStream::connect(remote.address).await.unwrap();
    let earlier = Hello {
        instance: Uuid::from_u128(2),
        ..hello(&volume)
    };
    let frame = Message::Hello(Box::new(earlier)).to_frame();
    old.write_all(&frame).await.unwrap();
    let mut frame = Assembler::default();
    assert!(next_frame(&mut old, &mut frame).await);
    // Its process is gone, but nobody said so to the receiver.
    sleep(Duration::from_millis(3_100)).await;
    let sender = sender(&volume, remote.address);
    until_equal(&sender, &volume, &remote).await;
    assert_eq!(sender.status().connections, 1, "it was let in at once");
    sender.stop().await;
    remote.stop().await;
}

#[tokio::test]
async fn garbage_and_half_frames_disturb_nobody() {
    let (remote, volume) = (remote().await, Arc::new(Volume::new()));
    let mut random = Random::new(3);
    written(&volume, &mut random, 5);
    let sender = sender(&volume, remote.address);
    let greeting = Message::Hello(Box::new(hello(&volume))).to_frame();
    for round in 0..200 {
        let mut socket = TcpStream::connect(remote.address).await.unwrap();
        let mut bytes: Vec<u8> = match round % 4 {
            0 => b"GET / HTTP/1.1\r\n\r\n".to_vec(),
            1 => (0..300).map(|_| random.next() as u8).collect(),
            2 => greeting[..random.below(greeting.len() as u64) as usize].to_vec(),
            _ => greeting.clone(),
        };
        if round % 4 == 3 {
            let at = random.below(bytes.len() as u64) as usize;
            bytes[at] ^= 0x40;
        }
        let _ = socket.write_all(&bytes).await;
        if random.one_in(2) {
            let mut answer = Vec::new();
            let _ = timeout(Duration::from_millis(20), socket.read_to_end(&mut answer)).await;
        }
    }
    written(&volume, &mut random, 5);
    until_equal(&sender, &volume, &remote).await;
    assert_eq!(remote.replicas.sink.state_copy(), CopyState::Complete);
    sender.stop().await;
    remote.stop().await;
}

#[tokio::test]
async fn two_hundred_silent_connections_do_not_keep_a_sender_out() {
    let (remote, volume) = (remote().await, Arc::new(Volume::new()));
    let mut random = Random::new(3);
    written(&volume, &mut random, 5);
    let early = sender(&volume, remote.address);
    until_equal(&early, &volume, &remote).await;
    let mut silent = Vec::new();
    for _ in 0..200 {
        silent.push(TcpStream::connect(remote.address).await.unwrap());
    }
    let mut oldest = silent.swap_remove(0);
    let mut frame = Assembler::default();
    let told = timeout(Duration::from_secs(5), next_frame(&mut oldest, &mut frame)).await;
    assert!(told.unwrap(), "the oldest has to go");
    assert!(matches!(frame.message(), Ok((Message::Refuse(refusal), _)) if refusal.code == RefuseCode::Busy));
    early.stop().await;
    let sender = sender(&volume, remote.address);
    written(&volume, &mut random, 5);
    until_equal(&sender, &volume, &remote).await;
    assert_eq!(sender.status().connections, 1, "the first attempt succeeds");
    drop(silent);
    sender.stop().await;
    remote.stop().await;
}

#[tokio::test]
async fn copies_that_overflow_again_and_again_are_begun_ever_less_often_and_say_what_to_do() {
    let (remote, volume) = (remote().await, Arc::new(Volume::new()));
    written(&volume, &mut Random::new(3), 20);
    volume.state().too_small = true;
    let sender = sender(&volume, remote.address);
    let told = "too small for this write rate and link; make a larger one or lower the load";
    let end = tokio::time::Instant::now() + Duration::from_secs(3);
    let mut confirmed = 0;
    while tokio::time::Instant::now() < end {
        let status = until(&sender, "a pause", |status| status.state == LinkState::NeedsCopy).await;
        assert!(
            status.connections == 0 || status.detail.contains(told),
            "{status:?}"
        );
        confirmed = confirmed.max(status.copy.map_or(0, |copy| copy.done_bytes));
        sleep(Duration::from_millis(5)).await;
    }
    assert!(confirmed > 0, "each had copied something");
    let connections = sender.status().connections;
    assert!((2..=7).contains(&connections), "{connections} in three seconds");
    volume.state().too_small = false;
    until_equal(&sender, &volume, &remote).await;
    sender.stop().await;
    remote.stop().await;
}

#[tokio::test]
async fn positions_are_in_order_from_the_start_of_a_sender_on() {
    let (remote, volume) = (remote().await, Arc::new(Volume::new()));
    let mut random = Random::new(3);
    written(&volume, &mut random, 20);
    let first = sender(&volume, remote.address);
    until_equal(&first, &volume, &remote).await;
    first.stop().await;
    let confirmed = volume.consumer("far").1.record;
    written(&volume, &mut random, 20);
    let again = sender(&volume, remote.address);
    let mut status = again.status();
    assert_eq!(
        (status.sent_record, status.received_record),
        (confirmed, confirmed)
    );
    let record = volume.points().journaled.record;
    let end = tokio::time::Instant::now() + Duration::from_secs(20);
    while status.applied_record < record && tokio::time::Instant::now() < end {
        let (sent, received, applied) = (status.sent_record, status.received_record, status.applied_record);
        assert!(sent >= received && received >= applied, "{status:?}");
        tokio::task::yield_now().await;
        status = again.status();
    }
    until_equal(&again, &volume, &remote).await;
    again.stop().await;
    remote.stop().await;
}

#[tokio::test]
async fn another_machine_is_not_dialled_without_trust() {
    let volume = Arc::new(Volume::new());
    let sender = sender(&volume, "192.0.2.1:10900".parse().unwrap());
    let status = until(&sender, "says so", |status| {
        status.detail.contains("which is another machine")
    })
    .await;
    assert_eq!((status.state, status.connections), (LinkState::NeedsCopy, 0));
    sender.stop().await;
}
