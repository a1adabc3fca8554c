//! The promises of replicas to the link, on real files, fed from a real journal.

use super::*;
use crate::sink::Replicas;
use bytes::Bytes;
use farside_protocol::journal::{CopyState, RecordKind, Role};
use farside_protocol::link::{Hello, RefuseCode};
use farside_storage::{Change, OpenMode, StoreParameters, SystemClock, create_files, open_files};
use std::collections::VecDeque;
use std::path::Path;
use std::time::Duration;
use tempfile::TempDir;
use tokio::time::timeout;
use uuid::Uuid;

mod aside;
mod greetings;
mod places;
mod resync;

const BYTES: u64 = 1 << 20;
const SEGMENT: u32 = 64 << 10;
const SOON: Duration = Duration::from_secs(20);

/// A volume whose journal is sent, and a unit that keeps its replica.
struct World {
    directory: TempDir,
    volume: Arc<Store>,
    set: Arc<ReplicaSet>,
}

fn set_in(directory: &Path, accept: Option<&[&str]>) -> Arc<ReplicaSet> {
    let config = ReplicaSetConfig {
        unit_name: "far-unit".to_owned(),
        directory: directory.join("replicas"),
        history_bytes: 8 << 20,
        journal_bytes: 2 << 20,
        accept: accept.map(|names| names.iter().map(|name| (*name).to_owned()).collect()),
    };
    let set = Arc::new(ReplicaSet::find_in_directory(config, Arc::new(SystemClock::new())).unwrap());
    set.open_all();
    set
}

fn volume_in(directory: &Path) -> Arc<Store> {
    let files = StoreFiles {
        journal: directory.join("volume.journal"),
        image: directory.join("volume.img"),
        maps: directory.to_owned(),
    };
    let parameters = StoreParameters {
        role: Role::Volume,
        name: "disk0".to_owned(),
        volume: Uuid::from_u128(7),
        journal: Uuid::from_u128(8),
        volume_bytes: BYTES,
        journal_bytes: 8 << 20,
        segment_bytes: Some(SEGMENT),
        source: Uuid::nil(),
    };
    create_files(&files, &parameters, OpenMode::Careful, 1).unwrap();
    let store = Store::open(open_files(&files).unwrap().devices, Arc::new(SystemClock::new()));
    Arc::new(store.unwrap())
}

impl World {
    fn new() -> Self {
        let directory = TempDir::new().unwrap();
        Self {
            volume: volume_in(directory.path()),
            set: set_in(directory.path(), None),
            directory,
        }
    }

    fn hello(&self) -> Hello {
        Hello {
            version_min: 1,
            version_max: 2,
            segment_bytes: SEGMENT,
            features: 0,
            unit: Uuid::from_u128(1),
            instance: Uuid::from_u128(2),
            volume: Uuid::from_u128(7),
            volume_bytes: BYTES,
            epoch: 1,
            head: ChainPoint::default(),
            tail: ChainPoint::default(),
            unit_name: "here".to_owned(),
            volume_name: "disk0".to_owned(),
            remote_name: "there".to_owned(),
        }
    }

    async fn open(&self) -> Arc<Replica> {
        soon(self.set.open_or_create(&self.hello())).await.unwrap()
    }

    async fn refused(&self, change: impl FnOnce(&mut Hello)) -> (RefuseCode, String) {
        let mut hello = self.hello();
        change(&mut hello);
        let refusal = soon(self.set.open_or_create(&hello)).await.unwrap_err();
        (refusal.code, refusal.text().to_owned())
    }

    fn write(&self, offset: u64, fill: u8, length: usize) {
        let change = Change {
            offset,
            length: u32::try_from(length).unwrap(),
            kind: RecordKind::Write,
            data: Bytes::from(vec![fill; length]),
            arrived_us: 0,
        };
        let mut pending = VecDeque::from([change]);
        while !pending.is_empty() {
            self.volume.append(&mut pending).unwrap();
        }
        self.volume.sync().unwrap();
    }

    /// Sends what the volume holds after `from`.
    async fn send(&self, replica: &Replica, from: ChainPoint) -> Result<ChainPoint, SinkError> {
        let (mut at, end, mut buffer) = (from, self.volume.points().durable, Vec::new());
        while at.record < end.record {
            for span in self.volume.read_chunks(&at, &end, 1 << 20, &mut buffer).unwrap() {
                let sent = replica.append(&buffer[span.what], &buffer[span.data]);
                soon(sent).await?;
                at = span.after;
            }
        }
        Ok(at)
    }

    /// Copies the volume's image whole, and says from where the replica is consistent.
    async fn copy(&self, replica: &Replica) -> ChainPoint {
        while self.volume.drain().unwrap() {}
        let base = self.volume.points().applied;
        soon(replica.begin_copy(base, 1)).await.unwrap();
        self.copy_from(replica, 0).await;
        soon(replica.end_copy(base.record)).await.unwrap();
        base
    }

    async fn copy_from(&self, replica: &Replica, mut offset: u64) {
        let mut piece = vec![0; 128 << 10];
        while offset < BYTES {
            self.volume.image().read_at(&mut piece, offset).unwrap();
            soon(replica.write_copy(offset, &piece)).await.unwrap();
            offset += piece.len() as u64;
        }
    }

    fn restarted(self) -> Self {
        let Self {
            directory,
            volume,
            set,
        } = self;
        drop(set);
        Self {
            set: set_in(directory.path(), None),
            volume,
            directory,
        }
    }

    /// The unit goes without a word; its threads end after the step they are in.
    async fn died(mut self, store: &std::sync::Weak<Store>) -> Self {
        let none = self.directory.path().join("none");
        self.set = set_in(&none, None);
        while store.strong_count() > 0 {
            soon(tokio::time::sleep(Duration::from_millis(5))).await;
        }
        self.restarted()
    }

    fn image(&self) -> Vec<u8> {
        std::fs::read(self.directory.path().join("replicas/disk0/replica.img")).unwrap()
    }

    fn expected(&self) -> Vec<u8> {
        let mut bytes = vec![0; usize::try_from(BYTES).unwrap()];
        self.volume.read(0, &mut bytes).unwrap();
        bytes
    }
}

/// The replica of the volume, with all there is so far.
async fn complete(world: &World) -> Arc<Replica> {
    let replica = world.open().await;
    world.write(0, 7, 65536);
    world.copy(&replica).await;
    until(&replica, |state| state.copy == CopyState::Complete).await;
    replica
}

async fn soon<T>(what: impl Future<Output = T>) -> T {
    timeout(SOON, what).await.expect("it happens")
}

async fn until(replica: &Replica, reached: impl Fn(&SinkState) -> bool) -> SinkState {
    let mut changed = replica.changed();
    let waiting = async {
        loop {
            let state = replica.state();
            if reached(&state) {
                return state;
            }
            changed.changed().await.unwrap();
        }
    };
    soon(waiting).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_is_complete_only_when_all_is_copied_durably_and_the_named_record_is_applied() {
    let world = World::new();
    world.write(5, 1, 70_000);
    let replica = world.open().await;
    assert_eq!(replica.state().copy, CopyState::Empty);
    while world.volume.drain().unwrap() {}
    let base = world.volume.points().applied;
    replica.begin_copy(base, 1).await.unwrap();
    let state = replica.state();
    assert_eq!((state.copy, state.applied), (CopyState::Copying, base.record));
    replica.end_copy(base.record).await.unwrap_err();
    world.copy_from(&replica, 0).await;
    world.write(40_000, 2, 4096);
    let head = world.volume.points().durable;
    replica.end_copy(head.record).await.unwrap();
    // Everything is copied and durable, but the record is not there yet.
    let state = until(&replica, |state| state.copy_offset == BYTES).await;
    assert_eq!(state.copy, CopyState::Copying);
    world.send(&replica, base).await.unwrap();
    let state = until(&replica, |state| state.copy == CopyState::Complete).await;
    assert_eq!((state.received.record, state.applied), (head.record, head.record));
    assert!(world.image() == world.expected(), "the replica differs");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_range_copied_again_takes_back_the_end_of_the_copy() {
    let world = World::new();
    world.write(0, 1, 4096);
    let replica = world.open().await;
    while world.volume.drain().unwrap() {}
    let base = world.volume.points().applied;
    replica.begin_copy(base, 1).await.unwrap();
    world.copy_from(&replica, 0).await;
    // Named, and not reached: the session is cut, and the copy goes on from what is durable.
    replica.end_copy(base.record + 1).await.unwrap();
    let again = replica.settle().await.unwrap().copy_offset;
    if again < BYTES {
        world.copy_from(&replica, again).await;
        assert_eq!(
            replica.state().consistent_from,
            0,
            "what was named no longer counts"
        );
    }
    world.write(0, 2, 4096);
    world.send(&replica, base).await.unwrap();
    replica
        .end_copy(world.volume.points().durable.record)
        .await
        .unwrap();
    until(&replica, |state| state.copy == CopyState::Complete).await;
    assert!(world.image() == world.expected());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_copy_over_a_complete_replica_starts_from_nothing() {
    let world = World::new();
    world.write(0, 1, 4096);
    let replica = world.open().await;
    world.copy(&replica).await;
    until(&replica, |state| state.copy == CopyState::Complete).await;
    world.write(0, 2, 4096);
    let base = world.copy(&replica).await;
    let state = until(&replica, |state| state.copy == CopyState::Complete).await;
    assert_eq!(state.received.record, base.record);
    world.write(8192, 3, 512);
    world.send(&replica, base).await.unwrap();
    let head = world.volume.points().durable.record;
    until(&replica, |state| state.applied == head).await;
    assert!(world.image() == world.expected());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gap_is_not_taken_and_more_than_the_journal_holds_is() {
    let world = World::new();
    let replica = world.open().await;
    let base = world.copy(&replica).await;
    world.write(0, 1, 4096);
    let skipped = world.volume.points().durable;
    world.write(4096, 1, 4096);
    let gap = world.send(&replica, skipped).await.unwrap_err();
    assert!(gap.to_string().contains("does not follow"), "{gap}");
    // Three times the journal's size: appending waits for the replica's own threads only.
    let mut at = world.send(&replica, base).await.unwrap();
    for round in 0..100_u64 {
        let fill = u8::try_from(round + 1).unwrap();
        world.write(round % 15 * 65536 + 7, fill, 65_000);
        at = world.send(&replica, at).await.unwrap();
        while world.volume.drain().unwrap() {}
        world.volume.checkpoint().unwrap();
    }
    until(&replica, |state| state.applied == at.record).await;
    assert!(world.image() == world.expected());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_received_is_there_after_the_unit_died() {
    let mut world = World::new();
    let replica = world.open().await;
    let base = world.copy(&replica).await;
    until(&replica, |state| state.copy == CopyState::Complete).await;
    world.write(100, 9, 50_000);
    let at = world.send(&replica, base).await.unwrap();
    let state = replica.settle().await.unwrap();
    assert_eq!(state.received.record, at.record);
    // Not shut down: the same as death, as long as nothing is written on the way out.
    let store = Arc::downgrade(replica.store());
    drop(replica);
    world = world.died(&store).await;
    let replica = world.open().await;
    let state = replica.settle().await.unwrap();
    assert_eq!(
        (state.received.record, state.copy),
        (at.record, CopyState::Complete)
    );
    until(&replica, |state| state.applied == at.record).await;
    assert!(world.image() == world.expected());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_the_shutdown_nothing_is_taken_and_nothing_is_open() {
    let world = World::new();
    let replica = world.open().await;
    let base = world.copy(&replica).await;
    world.write(0, 1, 512);
    world.set.shut_down();
    let refused = world.send(&replica, base).await.unwrap_err();
    assert_eq!(refused, SinkError::ShuttingDown);
    assert_eq!(soon(replica.settle()).await, Err(SinkError::ShuttingDown));
    assert_eq!(
        soon(replica.write_copy(0, &[1])).await,
        Err(SinkError::ShuttingDown)
    );
    assert_eq!(world.refused(|_| {}).await.0, RefuseCode::ShuttingDown);
    drop(replica);
    let world = world.restarted();
    assert!(world.open().await.store().opened().clean);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_its_own_sender_feeds_a_replica() {
    let world = World::new();
    world.open().await;
    let (code, text) = world.refused(|hello| hello.volume = Uuid::from_u128(70)).await;
    assert!(
        code == RefuseCode::ForeignVolume && text.contains("belongs to volume"),
        "{text}"
    );
    let (code, text) = world.refused(|hello| hello.unit = Uuid::from_u128(10)).await;
    assert!(
        code == RefuseCode::ForeignVolume && text.contains("fed by unit"),
        "{text}"
    );
    let (code, _) = world.refused(|hello| hello.volume_bytes /= 2).await;
    assert_eq!(code, RefuseCode::SizeDiffers);
    let (code, _) = world.refused(|hello| hello.segment_bytes *= 2).await;
    assert_eq!(code, RefuseCode::SegmentTooLarge);
    // Smaller chunks than the replica could hold are no reason.
    let mut smaller = world.hello();
    smaller.segment_bytes /= 2;
    soon(world.set.open_or_create(&smaller)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_grows_with_its_volume_and_keeps_that() {
    let mut world = World::new();
    let replica = world.open().await;
    let (old, image) = (replica.store().volume_bytes(), replica.files().image.clone());
    let mut larger = world.hello();
    larger.volume_bytes = old * 4;
    let same = soon(world.set.open_or_create(&larger)).await.unwrap();
    assert!(Arc::ptr_eq(&same, &replica), "it stays in service");
    assert_eq!(replica.store().volume_bytes(), old * 4);
    let length = std::fs::metadata(&image).unwrap().len();
    assert_eq!(length, old * 4);
    drop((same, replica));
    world = world.restarted();
    let found = soon(world.set.open_or_create(&larger)).await.unwrap();
    assert_eq!(found.store().volume_bytes(), old * 4);
    assert_eq!(
        world.refused(|_| {}).await.0,
        RefuseCode::SizeDiffers,
        "no way back"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refusal_says_on_which_unit_which_directory_is_in_the_way() {
    let world = World::new();
    world.open().await;
    let changes: [fn(&mut Hello); 4] = [
        |hello| hello.volume = Uuid::from_u128(70),
        |hello| hello.unit = Uuid::from_u128(10),
        |hello| hello.volume_bytes /= 2,
        |hello| hello.segment_bytes *= 2,
    ];
    let directory = world.directory.path().join("replicas").join("disk0");
    let remedy = format!(
        "on unit far-unit: stop it, move the directory {} away",
        directory.display()
    );
    for change in changes {
        let (_, text) = world.refused(change).await;
        assert!(text.contains(&remedy) && !text.contains("replica here"), "{text}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_sender_says_of_itself_never_decides_more_than_the_format_allows() {
    let world = World::new();
    for segment_bytes in [0, 1, 4096, 100_000, 1 << 31, u32::MAX] {
        let (code, text) = world.refused(|hello| hello.segment_bytes = segment_bytes).await;
        assert_eq!(code, RefuseCode::Protocol, "{segment_bytes}: {text}");
    }
    for volume_bytes in [u64::MAX, 1 << 60] {
        let (code, _) = world.refused(|hello| hello.volume_bytes = volume_bytes).await;
        assert_eq!(code, RefuseCode::Degraded);
    }
    assert!(world.set.starting().is_empty() && world.set.failed().is_empty());
    world.open().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_volume_that_is_not_accepted_is_refused_also_when_its_replica_is_there() {
    let mut world = World::new();
    world.open().await;
    world = world.restarted();
    world.set.shut_down();
    world.set = set_in(world.directory.path(), Some(&["other"]));
    assert_eq!(world.refused(|_| {}).await.0, RefuseCode::NotAccepted);
    let (code, _) = world
        .refused(|hello| hello.volume_name = "third".to_owned())
        .await;
    assert_eq!(code, RefuseCode::NotAccepted);
    assert!(!world.directory.path().join("replicas/third").exists());
    let mut accepted = world.hello();
    accepted.volume_name = "other".to_owned();
    soon(world.set.open_or_create(&accepted)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_that_was_half_made_is_made_by_the_next_greeting_but_data_is_never_overwritten() {
    let world = World::new();
    let own = world.directory.path().join("replicas/disk0");
    std::fs::create_dir_all(&own).unwrap();
    // What a crash leaves: the image without data, the journal not yet under its name.
    std::fs::File::create(own.join("replica.img"))
        .unwrap()
        .set_len(BYTES)
        .unwrap();
    std::fs::write(own.join("journal.new"), b"half").unwrap();
    let replica = world.open().await;
    assert_eq!(replica.state().copy, CopyState::Empty);
    let other = world.directory.path().join("replicas/other");
    std::fs::create_dir_all(&other).unwrap();
    std::fs::write(other.join("replica.img"), b"somebody's").unwrap();
    let (code, text) = world
        .refused(|hello| hello.volume_name = "other".to_owned())
        .await;
    assert!(
        code == RefuseCode::Degraded && text.contains("not empty"),
        "{text}"
    );
    assert_eq!(std::fs::read(other.join("replica.img")).unwrap(), b"somebody's");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_that_cannot_be_opened_is_listed_with_the_reason_and_stays_as_it_is() {
    let world = World::new();
    world.open().await;
    world.set.shut_down();
    let journal = world.directory.path().join("replicas/disk0/journal");
    let mut bytes = std::fs::read(&journal).unwrap();
    bytes[..64 << 10].fill(0x55);
    std::fs::write(&journal, &bytes).unwrap();
    let world = world.restarted();
    let failed = world.set.failed();
    assert_eq!(failed.len(), 1);
    let (code, text) = world.refused(|_| {}).await;
    assert!(
        code == RefuseCode::Degraded && text.contains(&failed[0].problem),
        "{text}"
    );
    assert!(std::fs::read(&journal).unwrap() == bytes, "nothing was written");
}
