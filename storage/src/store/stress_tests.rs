//! All steps of a store at once, from many threads: a reader never sees a torn sector, nor anything older than what
//! was acknowledged before it began.

use super::*;
use crate::clock::SystemClock;
use crate::test_disk::{Random, TestDisk};
use bytes::Bytes;
use farside_protocol::journal::{RecordKind, Role};
use std::collections::VecDeque;
use std::time::Duration;
use uuid::Uuid;

const SECTOR: usize = 512;
const SECTORS: usize = 256;
const SEGMENT_BYTES: u32 = 32 << 10;

struct World {
    store: Store,
    /// Version of each sector that was acknowledged, and that may already show.
    acknowledged: Vec<AtomicU64>,
    begun: Vec<AtomicU64>,
    /// Set first, for the writers; the steps that make room for them go on until `stop`.
    written: AtomicBool,
    stop: AtomicBool,
    reads: AtomicU64,
}

fn world() -> World {
    let journal_bytes = (64 << 10) + 8 * u64::from(SEGMENT_BYTES);
    let parameters = StoreParameters {
        role: Role::Volume,
        name: "disk0".to_owned(),
        volume: Uuid::from_u128(7),
        journal: Uuid::from_u128(8),
        volume_bytes: (SECTOR * SECTORS) as u64,
        journal_bytes,
        segment_bytes: Some(SEGMENT_BYTES),
        source: Uuid::nil(),
    };
    let journal = Arc::new(TestDisk::new(journal_bytes));
    Store::format(journal.as_ref(), &parameters, 1).unwrap();
    let devices = StoreDevices {
        journal,
        image: Arc::new(TestDisk::new(parameters.volume_bytes)),
        maps: Vec::new(),
    };
    World {
        store: Store::open(devices, Arc::new(SystemClock::new())).unwrap(),
        acknowledged: (0..SECTORS).map(|_| AtomicU64::new(0)).collect(),
        begun: (0..SECTORS).map(|_| AtomicU64::new(0)).collect(),
        written: AtomicBool::new(false),
        stop: AtomicBool::new(false),
        reads: AtomicU64::new(0),
    }
}

impl World {
    fn running(&self) -> bool {
        !self.stop.load(Ordering::SeqCst)
    }

    /// Writes ranges of the sectors that are its own (one writer per sector keeps the oracle simple).
    fn write(&self, own: std::ops::Range<usize>, mut random: Random) {
        let mut version = 0;
        while !self.written.load(Ordering::SeqCst) {
            version += 1;
            let first = own.start + usize::try_from(random.below(own.len() as u64)).unwrap();
            let count = usize::try_from(random.below(9)).unwrap() + 1;
            let sectors = first..(first + count).min(own.end);
            let mut data = Vec::new();
            for sector in sectors.clone() {
                self.begun[sector].store(version, Ordering::SeqCst);
                let cell = [(sector as u64).to_be_bytes(), u64::to_be_bytes(version)].concat();
                data.extend(cell.iter().cycle().take(SECTOR));
            }
            let change = Change {
                offset: (first * SECTOR) as u64,
                length: u32::try_from(data.len()).unwrap(),
                kind: RecordKind::Write,
                data: Bytes::from(data),
                arrived_us: 0,
            };
            let mut pending = VecDeque::from([change]);
            while !pending.is_empty() {
                if let Err(error) = self.store.append(&mut pending) {
                    assert!(!matches!(error, AppendError::Storage(_)), "{error}");
                    assert!(self.running(), "nobody makes room");
                    std::thread::yield_now();
                }
            }
            for sector in sectors {
                self.acknowledged[sector].store(version, Ordering::SeqCst);
            }
        }
    }

    fn read(&self, mut random: Random) {
        while self.running() {
            let first = usize::try_from(random.below(SECTORS as u64)).unwrap();
            let count = usize::try_from(random.below(64)).unwrap() + 1;
            let sectors = first..(first + count).min(SECTORS);
            let least: Vec<u64> = sectors
                .clone()
                .map(|sector| self.acknowledged[sector].load(Ordering::SeqCst))
                .collect();
            let mut buffer = vec![0; sectors.len() * SECTOR];
            let offset = (first * SECTOR) as u64;
            let cached = random.below(2) == 0
                && self.store.read_cached(offset, &mut buffer).unwrap() == ReadOutcome::Done;
            if !cached {
                self.store.read(offset, &mut buffer).unwrap();
            }
            for ((sector, bytes), least) in sectors.zip(buffer.chunks(SECTOR)).zip(least) {
                self.check(sector, bytes, least);
            }
            self.reads.fetch_add(1, Ordering::SeqCst);
        }
    }

    fn check(&self, sector: usize, bytes: &[u8], least: u64) {
        let most = self.begun[sector].load(Ordering::SeqCst);
        assert!(
            bytes.chunks(16).all(|cell| cell == &bytes[..16]),
            "sector {sector} is torn"
        );
        let number = |at: usize| u64::from_be_bytes(bytes[at..at + 8].try_into().unwrap());
        let version = number(8);
        assert!(
            version == 0 || number(0) == sector as u64,
            "sector {sector} shows another"
        );
        assert!(
            (least..=most).contains(&version),
            "sector {sector} shows version {version}, not {least} to {most}"
        );
    }

    fn each(&self, mut step: impl FnMut() -> Result<(), StorageError>) {
        while self.running() {
            if let Err(error) = step() {
                self.stop.store(true, Ordering::SeqCst);
                panic!("{error}");
            }
            std::thread::yield_now();
        }
    }
}

#[test]
fn readers_see_whole_sectors_and_nothing_older_than_acknowledged() {
    let world = world();
    let quarter = SECTORS / 4;
    std::thread::scope(|scope| {
        let writers = [0, 1, 2, 3].map(|n| {
            let world = &world;
            scope.spawn(move || world.write(n * quarter..(n + 1) * quarter, Random::new(n as u64 + 1)))
        });
        for n in 0..3 {
            let world = &world;
            scope.spawn(move || world.read(Random::new(n + 100)));
        }
        scope.spawn(|| world.each(|| world.store.sync().map(drop)));
        scope.spawn(|| world.each(|| world.store.drain().map(drop)));
        scope.spawn(|| world.each(|| world.store.checkpoint()));
        scope.spawn(|| world.each(|| world.store.relieve().map(drop)));
        let seconds = if std::env::var_os("FARSIDE_SOAK").is_some() {
            120
        } else {
            3
        };
        std::thread::sleep(Duration::from_secs(seconds));
        world.written.store(true, Ordering::SeqCst);
        let ends = writers.map(std::thread::ScopedJoinHandle::join);
        world.stop.store(true, Ordering::SeqCst);
        assert!(ends.iter().all(Result::is_ok), "a writer failed");
    });
    let laps = world.store.points().journaled.address / world.store.journal.layout.ring_bytes();
    assert!(
        laps > 0 && world.reads.load(Ordering::SeqCst) > 0,
        "the ring never wrapped"
    );
    world.store.shut_down().unwrap();
    let mut bytes = vec![0; SECTOR * SECTORS];
    world.store.image().read_at(&mut bytes, 0).unwrap();
    for (sector, bytes) in bytes.chunks(SECTOR).enumerate() {
        world.check(sector, bytes, world.acknowledged[sector].load(Ordering::SeqCst));
    }
}
