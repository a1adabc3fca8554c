//! A small store with a past that the input decides: writes, syncs, drains, checkpoints, remotes, kills and restarts.
//!
//! All states the volume ever had are kept, one for each chunk, so that what comes back after damage can be compared.

use crate::draw::Draw;
use crate::memory::{Counter, Memory};
use bytes::Bytes;
use farside_protocol::journal::limits::RING_OFFSET;
use farside_protocol::journal::{ChainPoint, RecordKind, Role};
use farside_storage::{AppendError, BlockMap, Change, Device, Store, StoreDevices, StoreParameters};
use std::collections::VecDeque;
use std::sync::Arc;
use uuid::Uuid;

pub(crate) const VOLUME_BYTES: u64 = 16 << 10;
pub(crate) const SEGMENT_BYTES: u32 = 16 << 10;
pub(crate) const VOLUME: Uuid = Uuid::from_u128(3);
const SECTOR_BYTES: usize = 512;
/// Most steps of a past.
const MOST_STEPS: usize = 48;
/// How often room is made for one append before it is given up.
const MOST_ATTEMPTS: usize = 4;
const REMOTES: [&str; 2] = ["far", "farther"];

/// The *what* part of a chunk, its data, and the point after it.
pub(crate) type Chunk = (Vec<u8>, Vec<u8>, ChainPoint);

/// A store, its devices and what it held.
pub(crate) struct History {
    pub(crate) journal: Arc<Memory>,
    pub(crate) image: Arc<Memory>,
    maps: Vec<Arc<Memory>>,
    store: Option<Store>,
    content: Vec<u8>,
    states: Vec<Vec<u8>>,
    /// The last record that was ever in the image, as of the last death of the process.
    pub(crate) applied: u64,
}

pub(crate) fn read(store: &Store) -> Result<Vec<u8>, farside_storage::StorageError> {
    let mut content = vec![0; usize::try_from(VOLUME_BYTES).unwrap_or(0)];
    store.read(0, &mut content).map(|()| content)
}

impl History {
    /// The past that `draw` decides, up to its end or to a step of a kind that ends it.
    pub(crate) fn of(draw: &mut Draw<'_>) -> Self {
        let segments = 4 + draw.below(5);
        let journal_bytes = RING_OFFSET + segments * u64::from(SEGMENT_BYTES);
        let journal = Memory::new(vec![0; usize::try_from(journal_bytes).unwrap_or(0)]);
        let content = vec![0; usize::try_from(VOLUME_BYTES).unwrap_or(0)];
        let parameters = StoreParameters {
            role: Role::Volume,
            name: "disk0".to_owned(),
            volume: VOLUME,
            journal: Uuid::from_u128(4),
            volume_bytes: VOLUME_BYTES,
            journal_bytes,
            segment_bytes: Some(SEGMENT_BYTES),
            source: Uuid::nil(),
        };
        Store::format(journal.as_ref(), &parameters, 1).expect("memory does not fail");
        let mut history = Self {
            journal,
            image: Memory::new(content.clone()),
            maps: Vec::new(),
            store: None,
            applied: 0,
            states: vec![content.clone()],
            content,
        };
        history.start();
        let steps = usize::from(draw.u8()) % MOST_STEPS;
        for _ in 0..steps {
            history.step(draw);
        }
        history
    }

    /// The devices as they are now.
    pub(crate) fn devices(&self) -> StoreDevices {
        let maps = self.maps.iter().map(|map| Arc::clone(map) as Arc<dyn Device>);
        StoreDevices {
            journal: self.journal.clone(),
            image: self.image.clone(),
            maps: maps.collect(),
        }
    }

    /// The first of the maps, if there is one.
    pub(crate) fn map(&self) -> Option<&Arc<Memory>> {
        self.maps.first()
    }

    /// What a link would send: the chunks from the image's point on, and that point with the image.
    pub(crate) fn link(&mut self) -> (Vec<Chunk>, (ChainPoint, Vec<u8>)) {
        let store = self.store();
        store.sync().expect("memory does not fail");
        let points = store.points();
        let (mut from, mut chunks, mut buffer) = (points.applied, Vec::new(), Vec::new());
        while from.record < points.durable.record {
            let spans = store
                .read_chunks(&from, &points.durable, 1 << 20, &mut buffer)
                .expect("nothing was damaged");
            for span in spans {
                chunks.push((buffer[span.what].to_vec(), buffer[span.data].to_vec(), span.after));
                from = span.after;
            }
        }
        (chunks, (points.applied, self.image.bytes()))
    }

    /// Whether a store that recovered its journal up to `head` may hold `content`: a state that the volume once had, as
    /// a whole. Damage to the very last durable chunks cannot be told from a torn write; if the image, which was at
    /// `applied`, had taken up such a chunk already, then each sector is one that the volume once had there.
    pub(crate) fn allows(&self, content: &[u8], head: u64, applied: u64) -> bool {
        if head >= applied {
            return self.states.iter().any(|state| state == content);
        }
        let mut sectors = content.chunks(SECTOR_BYTES).enumerate();
        sectors.all(|(number, sector)| {
            let at = number * SECTOR_BYTES;
            let mut states = self.states.iter();
            states.any(|state| state[at..at + SECTOR_BYTES] == *sector)
        })
    }

    /// The process dies: nothing more is written.
    pub(crate) fn kill(&mut self) {
        if let Some(store) = self.store.take() {
            self.applied = self.applied.max(store.points().applied.record);
        }
    }

    fn start(&mut self) {
        let store = Store::open(self.devices(), Arc::new(Counter::default())).expect("nothing was damaged");
        assert_eq!(
            read(&store).expect("nothing was damaged"),
            self.content,
            "the volume comes back whole"
        );
        self.store = Some(store);
    }

    fn store(&self) -> &Store {
        self.store.as_ref().expect("started at the end of every step")
    }

    fn step(&mut self, draw: &mut Draw<'_>) {
        match draw.u8() % 16 {
            0..=5 => self.write(draw),
            6 | 7 => drop(self.store().sync().expect("memory does not fail")),
            8 | 9 => drop(self.store().drain().expect("memory does not fail")),
            10 => self.store().checkpoint().expect("memory does not fail"),
            11 => {
                self.kill();
                self.start();
            }
            12 => {
                self.store().shut_down().expect("memory does not fail");
                self.start();
                assert!(self.store().opened().clean, "a clean shutdown is found to be one");
            }
            13 => self.remote(draw),
            14 => drop(self.store().relieve().expect("memory does not fail")),
            _ => {
                let name = REMOTES[usize::from(draw.u8() & 1)];
                let (points, complete) = (self.store().points(), draw.u8() & 1 == 0);
                let _unknown = self.store().acknowledge(name, points.durable, complete);
            }
        }
    }

    fn remote(&mut self, draw: &mut Draw<'_>) {
        let name = REMOTES[usize::from(draw.u8() & 1)];
        if self.store().consumer(name).is_some() {
            self.store().begin_consumer_copy(name, true).expect("it is known");
            return;
        }
        let bytes = BlockMap::file_bytes(&BlockMap::header_for(VOLUME, VOLUME_BYTES));
        let map = Memory::new(vec![0; usize::try_from(bytes).unwrap_or(0)]);
        self.maps.push(map.clone());
        self.store()
            .add_consumer(name, map)
            .expect("there is room for two");
    }

    fn write(&mut self, draw: &mut Draw<'_>) {
        let mut pending = VecDeque::new();
        for _ in 0..=draw.u8() % 3 {
            pending.push_back(change(draw));
        }
        for _ in 0..MOST_ATTEMPTS {
            while !pending.is_empty() && self.append(&mut pending) {}
            if pending.is_empty() {
                return;
            }
            let store = self.store();
            store.sync().expect("memory does not fail");
            while store.drain().expect("memory does not fail") {}
            store.relieve().expect("memory does not fail");
        }
    }

    /// One chunk; the state after it is one the volume had.
    fn append(&mut self, pending: &mut VecDeque<Change>) -> bool {
        let before: Vec<Change> = pending.iter().cloned().collect();
        match self.store().append(pending) {
            Ok(_) => {
                for change in &before[..before.len() - pending.len()] {
                    let from = usize::try_from(change.offset).unwrap_or(usize::MAX);
                    let range = from..from + change.length as usize;
                    if change.kind == RecordKind::Write {
                        self.content[range].copy_from_slice(&change.data);
                    } else {
                        self.content[range].fill(0);
                    }
                }
                self.states.push(self.content.clone());
                true
            }
            Err(AppendError::Full | AppendError::NotDurable | AppendError::Pending) => false,
            Err(error) => panic!("memory does not fail: {error}"),
        }
    }
}

/// A change that fits a chunk of the smallest segment.
fn change(draw: &mut Draw<'_>) -> Change {
    let (offset, length, fill) = (draw.below(32) * 512, (1 + draw.below(16)) * 512, draw.u8());
    let length = u32::try_from(length.min(VOLUME_BYTES - offset)).unwrap_or(512);
    let kind = match draw.u8() % 8 {
        0 => RecordKind::Trim,
        1 => RecordKind::Zero { allocate: true },
        _ => RecordKind::Write,
    };
    let data = if kind == RecordKind::Write {
        Bytes::from(vec![fill; length as usize])
    } else {
        Bytes::new()
    };
    Change {
        offset,
        length,
        kind,
        data,
        arrived_us: 7,
    }
}

/// Steps as the input of a target: how many, then each.
pub(crate) fn steps(steps: &[&[u8]]) -> Vec<u8> {
    let count = u8::try_from(steps.len()).expect("seeds are short");
    [&[count], steps.concat().as_slice()].concat()
}

/// A past with everything in it, for seeds.
pub(crate) fn seed() -> Vec<u8> {
    // One change: its first sector, its length, what it is filled with, a write. Then two, the second a trim.
    let write = |sector: u8, fill: u8| [0, 0, sector, 7, fill, 1];
    let trim: &[u8] = &[1, 1, 0, 3, 0xB2, 1, 9, 5, 0, 0];
    let (sync, drain, checkpoint, kill, shut_down, relieve) = ([6], [8], [10], [11], [12], [14]);
    let (first, second, acknowledge) = ([13, 0], [13, 1], [15, 0, 0]);
    let past: Vec<Vec<u8>> = [
        vec![
            first.to_vec(),
            first.to_vec(),
            second.to_vec(),
            write(0, 0xA1).to_vec(),
        ],
        vec![
            write(8, 0xA2).to_vec(),
            trim.to_vec(),
            sync.to_vec(),
            drain.to_vec(),
            acknowledge.to_vec(),
        ],
        vec![
            write(16, 0xA3).to_vec(),
            checkpoint.to_vec(),
            shut_down.to_vec(),
            write(3, 0xA4).to_vec(),
        ],
        vec![
            kill.to_vec(),
            write(24, 0xA5).to_vec(),
            sync.to_vec(),
            write(5, 0xA6).to_vec(),
            relieve.to_vec(),
        ],
        vec![
            write(1, 0xA7).to_vec(),
            sync.to_vec(),
            write(2, 0xA8).to_vec(),
            write(12, 0xA9).to_vec(),
        ],
    ]
    .concat();
    let past: Vec<&[u8]> = past.iter().map(Vec::as_slice).collect();
    [&[0], steps(&past).as_slice()].concat()
}
