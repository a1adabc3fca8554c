//! Remotes that are let go while something else happens to them.

use super::*;
use std::cell::RefCell;
use std::io::IoSlice;
use std::ops::Range;
use std::sync::mpsc::sync_channel;

type Hook = Box<dyn FnMut(usize)>;

thread_local! {
    /// What a thread of a test does before it reads so many bytes of a journal.
    static BEFORE_READS: RefCell<Option<Hook>> = const { RefCell::new(None) };
}

fn before_reads(hook: impl FnMut(usize) + 'static) {
    BEFORE_READS.with(|hooks| *hooks.borrow_mut() = Some(Box::new(hook)));
}

/// A disk on which threads meet.
#[derive(Debug)]
struct Hooked(TestDisk);

impl Device for Hooked {
    fn name(&self) -> &str {
        self.0.name()
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<(), StorageError> {
        BEFORE_READS.with(|hook| {
            if let Some(hook) = hook.borrow_mut().as_mut() {
                hook(buffer.len());
            }
        });
        self.0.read_at(buffer, offset)
    }

    fn write_at(&self, buffers: &mut [IoSlice<'_>], offset: u64) -> Result<(), StorageError> {
        self.0.write_at(buffers, offset)
    }

    fn zero_at(&self, offset: u64, length: u64, allocate: bool) -> Result<(), StorageError> {
        self.0.zero_at(offset, length, allocate)
    }

    fn make_room(&self, volume_bytes: u64) -> Result<bool, StorageError> {
        self.0.make_room(volume_bytes)
    }

    fn write_back(&self, range: Range<u64>) -> Result<(), StorageError> {
        self.0.write_back(range)
    }

    fn sync(&self) -> Result<(), StorageError> {
        self.0.sync()
    }
}

const SEGMENT: u32 = 64 << 10;

fn parameters() -> StoreParameters {
    StoreParameters {
        role: Role::Volume,
        name: "disk0".into(),
        volume: Uuid::from_u128(7),
        journal: Uuid::from_u128(8),
        volume_bytes: VOLUME_BYTES,
        journal_bytes: (64 << 10) + 8 * u64::from(SEGMENT),
        segment_bytes: Some(SEGMENT),
        source: Uuid::nil(),
    }
}

fn marked(store: &Store) -> usize {
    (0..24)
        .filter(|block| store.copy_extent("far", block * 4096).1)
        .count()
}

#[test]
fn a_remote_that_is_let_go_by_two_at_once_misses_nothing() {
    let disk = TestDisk::new(parameters().journal_bytes);
    Store::format(&disk, &parameters(), 1).unwrap();
    let image: Arc<dyn Device> = Arc::new(TestDisk::new(VOLUME_BYTES));
    let map: Arc<dyn Device> = Arc::new(TestDisk::new(1 << 20));
    let devices = StoreDevices {
        journal: Arc::new(Hooked(disk)),
        image,
        maps: Vec::new(),
    };
    let store = Arc::new(Store::open(devices.clone(), Arc::new(SystemClock::new())).unwrap());
    store.add_consumer("far", map.clone()).unwrap();
    let base = store.begin_consumer_copy("far", true).unwrap().0;
    store.acknowledge("far", base, true).unwrap();
    for block in 0..24 {
        store.append(&mut VecDeque::from([change(block, 9)])).unwrap();
        store.sync().unwrap();
    }
    let ((go, told_to_go), (there, told_there)) = (sync_channel::<()>(1), sync_channel::<()>(1));
    let (end, told_to_end) = sync_channel::<()>(1);
    let second = {
        let store = store.clone();
        std::thread::spawn(move || {
            told_to_go.recv().unwrap();
            let mut once = Some(there);
            before_reads(move |_| {
                if let Some(there) = once.take() {
                    let _ = there.send(());
                    let _ = told_to_end.recv();
                }
            });
            store.let_go("far").unwrap();
        })
    };
    let first = {
        let store = store.clone();
        std::thread::spawn(move || {
            let mut looks = 0;
            before_reads(move |bytes| {
                looks += u32::from(bytes == 4096);
                if bytes == 4096 && looks == 10 {
                    go.send(()).unwrap();
                    // It gets there only if nothing holds it up.
                    let _ = told_there.recv_timeout(Duration::from_millis(300));
                }
            });
            store.cut_loose(u64::MAX, None).unwrap();
            store.checkpoint().unwrap();
        })
    };
    first.join().unwrap();
    let now = marked(&store);
    // Killed before the second is through.
    let with_map = StoreDevices {
        maps: vec![map],
        ..devices
    };
    let after = Store::open(with_map, Arc::new(SystemClock::new())).unwrap();
    assert_eq!(after.consumer("far").unwrap().state, ConsumerState::NeedsCopy);
    let later = marked(&after);
    end.send(()).ok();
    second.join().unwrap();
    assert_eq!((now, later), (24, 24), "blocks marked of 24 that were written");
}

#[test]
fn a_map_does_not_lose_marks_while_the_disk_says_that_it_belongs_to_a_copy() {
    let mut world = World::volume();
    world.store.add_consumer("far", world.map.clone()).unwrap();
    let (base, id) = world.store.begin_consumer_copy("far", true).unwrap();
    world.store.acknowledge("far", base, true).unwrap();
    world.write(1, 1).unwrap();
    world.store.sync().unwrap();
    // Killed after the map was written, before the superblock was.
    world.journal.fail_write.store(1, Ordering::SeqCst);
    world.store.let_go("far").unwrap_err();
    world.journal.fail_write.store(0, Ordering::SeqCst);
    world.open_again().unwrap();
    let view = world.store.consumer("far").unwrap();
    assert_eq!((view.state, view.copy_id), (ConsumerState::Copying, id));
    assert!(
        world.store.copy_extent("far", 20 * 4096).1,
        "the copy goes on and leaves this out"
    );
}
