//! The promises of a keeper to its owner.

use super::*;
use crate::clock::SystemClock;
use crate::device::Device;
use crate::store::{Change, StoreDevices};
use crate::test_disk::TestDisk;
use crate::test_store::parameters;
use farside_protocol::journal::RecordKind;
use std::collections::VecDeque;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

const INTERVAL: Duration = Duration::from_millis(40);

const VOLUME_BYTES: u64 = 1 << 20;
const JOURNAL_BYTES: u64 = 2 << 20;
const SOON: Duration = Duration::from_secs(20);

fn store() -> Arc<Store> {
    let parameters = parameters(VOLUME_BYTES, JOURNAL_BYTES);
    let journal = Arc::new(TestDisk::new(JOURNAL_BYTES));
    Store::format(journal.as_ref() as &dyn Device, &parameters, 1).unwrap();
    let devices = StoreDevices {
        journal,
        image: Arc::new(TestDisk::new(VOLUME_BYTES)),
        maps: Vec::new(),
    };
    Arc::new(Store::open(devices, Arc::new(SystemClock::new())).unwrap())
}

fn append(store: &Store) {
    let change = Change {
        offset: 0,
        length: 4096,
        kind: RecordKind::Write,
        data: vec![1; 4096].into(),
        arrived_us: 0,
    };
    store.append(&mut VecDeque::from([change])).unwrap();
}

fn eventually(reached: impl Fn() -> bool) {
    let step = Duration::from_millis(2);
    let mut waited = Duration::ZERO;
    while !reached() {
        assert!(waited < SOON, "it does not happen");
        std::thread::sleep(step);
        waited += step;
    }
}

/// Owns the keeper; lets go of it when it hears of the first event.
#[derive(Debug, Default)]
struct Owner {
    keeper: OnceLock<Keeper>,
}

#[derive(Debug, Default)]
struct LetGo {
    owner: Mutex<Option<Arc<Owner>>>,
    gone: AtomicUsize,
}

impl StoreObserver for LetGo {
    fn observe(&self, _event: StoreEvent) {
        let owner = self.owner.lock().take();
        if owner.is_some() {
            drop(owner);
            self.gone.fetch_add(1, Ordering::Release);
        }
    }
}

#[test]
fn an_owner_may_go_in_the_middle_of_an_event() {
    let store = store();
    let (owner, observer) = (Arc::new(Owner::default()), Arc::new(LetGo::default()));
    let keeper = Keeper::start(store.clone(), observer.clone(), INTERVAL).unwrap();
    owner.keeper.set(keeper).unwrap();
    *observer.owner.lock() = Some(owner.clone());
    append(&store);
    // The sync comes a while after, when the observer's reference is the last.
    owner.keeper.get().unwrap().appended();
    drop(owner);
    eventually(|| observer.gone.load(Ordering::Acquire) == 1);
    eventually(|| Arc::strong_count(&store) == 1);
}

#[derive(Debug, Default)]
struct Count(Mutex<Vec<StoreEvent>>);

impl StoreObserver for Count {
    fn observe(&self, event: StoreEvent) {
        self.0.lock().push(event);
    }
}

#[test]
fn asking_again_while_nothing_moves_tells_nothing() {
    let (store, count) = (store(), Arc::new(Count::default()));
    let keeper = Keeper::start(store.clone(), count.clone(), INTERVAL).unwrap();
    append(&store);
    keeper.flush();
    eventually(|| store.points().applied == store.points().journaled);
    eventually(|| count.0.lock().contains(&StoreEvent::Image));
    assert!(count.0.lock().contains(&StoreEvent::Durable));
    let before = count.0.lock().len();
    for _ in 0..50 {
        keeper.flush();
        keeper.relieve();
        std::thread::sleep(Duration::from_millis(1));
    }
    assert_eq!(count.0.lock().len(), before);
    append(&store);
    keeper.flush();
    eventually(|| count.0.lock().len() > before);
}

#[test]
fn a_flush_asked_for_during_a_sync_is_served_by_the_next() {
    let (store, count) = (store(), Arc::new(Count::default()));
    let keeper = Keeper::start(store.clone(), count, INTERVAL).unwrap();
    for _ in 0..200 {
        append(&store);
        keeper.appended();
        keeper.flush();
        append(&store);
        keeper.appended();
        keeper.flush();
        let journaled = store.points().journaled;
        eventually(|| store.points().durable.record >= journaled.record);
        store.drain().unwrap();
    }
}

#[test]
fn a_flush_on_the_thread_that_asks_is_durable_when_it_returns_and_told_like_any_other() {
    let (store, count) = (store(), Arc::new(Count::default()));
    let (keeper, mut sync, mut image) = Keeper::apart(store.clone(), count.clone(), INTERVAL);
    assert!(sync.step() && image.step());
    assert!(!image.has_work());
    append(&store);
    keeper.flush_here();
    assert_eq!(store.points().durable, store.points().journaled);
    assert_eq!(*count.0.lock(), [StoreEvent::Durable]);
    assert!(image.has_work(), "it is to be brought into the image");
    keeper.flush_here();
    assert_eq!(count.0.lock().len(), 1, "nothing moved");
}

#[test]
fn a_flush_after_the_end_is_no_failure_of_the_store() {
    let (store, count) = (store(), Arc::new(Count::default()));
    let (keeper, _sync, _image) = Keeper::apart(store.clone(), count.clone(), INTERVAL);
    append(&store);
    store.shut_down().unwrap();
    keeper.flush_here();
    assert_eq!(store.failure(), None);
    assert!(count.0.lock().is_empty());
}

#[test]
fn a_flush_on_the_thread_that_asks_goes_on_beside_the_keepers_own() {
    let (store, count) = (store(), Arc::new(Count::default()));
    let keeper = Keeper::start(store.clone(), count, Duration::from_micros(50)).unwrap();
    for _ in 0..500 {
        append(&store);
        keeper.appended();
        keeper.flush_here();
        let journaled = store.points().journaled;
        // Whoever it was: it is done, or asked for.
        keeper.flush();
        eventually(|| store.points().durable.record >= journaled.record);
        store.drain().unwrap();
        store.checkpoint().unwrap(); // Or the ring fills up, on a fast machine.
    }
    assert_eq!(store.failure(), None);
}

#[test]
fn what_is_journaled_becomes_durable_and_applied_though_nobody_asks() {
    let store = store();
    let keeper = Keeper::start(store.clone(), Arc::new(Count::default()), INTERVAL).unwrap();
    for pause in [0, 1, 10, 45, 60, 90, 130] {
        append(&store);
        keeper.appended();
        append(&store);
        keeper.appended();
        eventually(|| store.points().applied == store.points().journaled);
        std::thread::sleep(Duration::from_millis(pause));
    }
}

/// Panics at the first event, once.
#[derive(Debug, Default)]
struct Faulty(AtomicUsize);

impl StoreObserver for Faulty {
    fn observe(&self, _event: StoreEvent) {
        assert!(self.0.fetch_add(1, Ordering::AcqRel) > 0, "as the test wants it");
    }
}

#[test]
fn a_thread_that_ends_by_mistake_is_a_failure_that_is_told() {
    let (store, faulty) = (store(), Arc::new(Faulty::default()));
    let keeper = Keeper::start(store.clone(), faulty.clone(), INTERVAL).unwrap();
    append(&store);
    keeper.flush();
    eventually(|| store.failure().is_some());
    eventually(|| faulty.0.load(Ordering::Acquire) > 1);
}
