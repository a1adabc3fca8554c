//! Target: the journal of a replica that was damaged or forged, at any point of its first copy or after it.
//!
//! Promises. Whatever the bytes: no panic, no endless search. With damage that no checksum covers up: a replica that
//! opens and calls itself complete, and brings everything it holds into its image, is a state its volume once had; a
//! chunk is taken only if it continues the last; a replica that is shut down opens again, clean, as it was.

use crate::draw::Draw;
use crate::history::{History, SEGMENT_BYTES, VOLUME, VOLUME_BYTES, seed, steps};
use crate::journal_file::{Damage, tamper};
use crate::memory::{Counter, Memory};
use farside_protocol::journal::limits::RING_OFFSET;
use farside_protocol::journal::{ChainPoint, CopyState, RecordKind, Role, What};
use farside_storage::{AppendError, Store, StoreDevices, StoreParameters};
use std::sync::Arc;
use uuid::Uuid;

const SEGMENTS: u64 = 5;
/// Most steps of a replica's life before it is damaged.
const MOST_STEPS: usize = 64;
const SOURCE: Uuid = Uuid::from_u128(8);

/// A chunk of the volume, as it travels.
struct Sent {
    what: Vec<u8>,
    data: Vec<u8>,
    after: ChainPoint,
}

impl Sent {
    /// The image with this chunk in it.
    fn applied_to(&self, mut image: Vec<u8>) -> Vec<u8> {
        let what = What::decode(&self.what).expect("the volume sealed it");
        let mut data = self.data.as_slice();
        for record in what.records() {
            let from = usize::try_from(record.offset).unwrap_or(usize::MAX);
            let part = &mut image[from..from + record.length as usize];
            if record.kind == RecordKind::Write {
                let (payload, rest) = data.split_at(part.len());
                part.copy_from_slice(payload);
                data = rest;
            } else {
                part.fill(0);
            }
        }
        image
    }
}

struct Replica {
    journal: Arc<Memory>,
    image: Arc<Memory>,
    store: Option<Store>,
    /// The last record that was ever in the image, as of the last death of the process.
    applied: u64,
    /// Of the volume: its chunks, and its image before the first and after each, with the record it stands for.
    chunks: Vec<Sent>,
    images: Vec<(u64, Vec<u8>)>,
    base: ChainPoint,
    /// The volume's image as it is copied now holds so many chunks, and so all that were sent.
    moment: usize,
}

pub(crate) fn run(input: &[u8]) -> bool {
    let mut draw = Draw::new(input);
    let mut history = History::of(&mut draw);
    let mut replica = Replica::of(&mut history);
    let steps = usize::from(draw.u8()) % MOST_STEPS;
    for _ in 0..steps {
        replica.step(&mut draw);
    }
    replica.kill();
    let damage = tamper(&mut draw, &replica.journal);
    let Ok(store) = replica.open() else {
        assert!(damage != Damage::None, "an undamaged replica opens");
        return false;
    };
    replica.check(&store, damage, &history);
    replica.finish(store, damage);
    true
}

impl Replica {
    /// An empty replica of a volume with this past.
    fn of(history: &mut History) -> Self {
        let journal_bytes = RING_OFFSET + SEGMENTS * u64::from(SEGMENT_BYTES);
        let journal = Memory::new(vec![0; usize::try_from(journal_bytes).unwrap_or(0)]);
        let parameters = StoreParameters {
            role: Role::Replica,
            name: "disk0".to_owned(),
            volume: VOLUME,
            journal: Uuid::from_u128(5),
            volume_bytes: VOLUME_BYTES,
            journal_bytes,
            segment_bytes: Some(SEGMENT_BYTES),
            source: SOURCE,
        };
        Store::format(journal.as_ref(), &parameters, 1).expect("memory does not fail");
        let (chunks, (base, image)) = history.link();
        let sent = |(what, data, after)| Sent { what, data, after };
        let chunks: Vec<Sent> = chunks.into_iter().map(sent).collect();
        let mut images = vec![(base.record, image)];
        for chunk in &chunks {
            let before = images.last().map_or(Vec::new(), |(_, image)| image.clone());
            images.push((chunk.after.record, chunk.applied_to(before)));
        }
        let mut replica = Self {
            journal,
            image: Memory::new(vec![0; usize::try_from(VOLUME_BYTES).unwrap_or(0)]),
            store: None,
            applied: 0,
            chunks,
            images,
            base,
            moment: 0,
        };
        replica.start();
        replica
    }

    fn open(&self) -> Result<Store, farside_storage::StorageError> {
        let devices = StoreDevices {
            journal: self.journal.clone(),
            image: self.image.clone(),
            maps: Vec::new(),
        };
        Store::open(devices, Arc::new(Counter::default()))
    }

    fn start(&mut self) {
        self.store = Some(self.open().expect("nothing was damaged"));
    }

    fn kill(&mut self) {
        if let Some(store) = self.store.take() {
            self.applied = self.applied.max(store.points().applied.record);
        }
    }

    fn store(&self) -> &Store {
        self.store.as_ref().expect("started at the end of every step")
    }

    fn step(&mut self, draw: &mut Draw<'_>) {
        match draw.u8() % 16 {
            0 => self
                .store()
                .begin_copy(&self.base, SOURCE, 1)
                .expect("memory does not fail"),
            1..=4 => self.receive(usize::from(draw.u8()) % 8),
            5..=8 => self.copy(draw),
            9 => drop(self.store().sync().expect("memory does not fail")),
            10 => drop(self.store().drain().expect("memory does not fail")),
            11 => self.store().checkpoint().expect("memory does not fail"),
            12 => {
                self.kill();
                self.start();
            }
            13 => {
                self.store().shut_down().expect("memory does not fail");
                self.start();
            }
            14 => self.store().rewind_copy(),
            _ => drop(self.store().relieve().expect("memory does not fail")),
        }
    }

    /// The next chunk, or another one, which is not taken.
    fn receive(&mut self, which: usize) {
        let store = self.store.as_ref().expect("started at the end of every step");
        let held = store.points().journaled;
        let next = self
            .chunks
            .iter()
            .position(|chunk| chunk.after.sequence > held.sequence);
        let Some(next) = next else { return };
        let at = (next + which.saturating_sub(6)).min(self.chunks.len() - 1);
        let chunk = &self.chunks[at];
        let what = What::decode(&chunk.what).expect("the volume sealed it");
        match store.append_sealed(&what, &chunk.data) {
            Ok(appended) => {
                assert_eq!(what.header.sequence, held.sequence + 1, "a gap was taken");
                assert_eq!(appended.point.checksum, chunk.after.checksum);
                self.moment = self.moment.max(at + 1);
            }
            Err(AppendError::Gap { .. }) => {}
            Err(AppendError::NotDurable | AppendError::Full | AppendError::Pending) => self.make_room(),
            Err(error) => panic!("memory does not fail: {error}"),
        }
    }

    fn make_room(&self) {
        let store = self.store();
        store.sync().expect("memory does not fail");
        while store.drain().expect("memory does not fail") {}
        store.checkpoint().expect("memory does not fail");
    }

    fn copy(&self, draw: &mut Draw<'_>) {
        let (store, progress) = (self.store(), self.store().copy_progress());
        if progress.state != CopyState::Copying {
            return;
        }
        let left = VOLUME_BYTES - progress.written;
        if left == 0 {
            store
                .end_copy(self.images[self.moment].0)
                .expect("everything is copied");
            return;
        }
        let length = left.min((1 + draw.below(8)) * 1024);
        let at = usize::try_from(progress.written).unwrap_or(0);
        let data = &self.images[self.moment].1[at..at + usize::try_from(length).unwrap_or(0)];
        if data.iter().all(|byte| *byte == 0) {
            store
                .zero_copy(progress.written, length)
                .expect("it is what comes next");
        } else {
            store
                .write_copy(progress.written, data)
                .expect("it is what comes next");
        }
    }

    /// Brings what a replica holds into its image and compares that.
    fn check(&self, store: &Store, damage: Damage, history: &History) {
        while store.drain().is_ok_and(|more| more) {}
        let (points, head) = (store.points(), store.opened().recovered.head.record);
        let complete = store.superblock().copy == CopyState::Complete && points.applied == points.durable;
        if complete && damage != Damage::Forged {
            let bytes = self.image.bytes();
            // A group of changes may end one chunk and begin the next: the state in between was one, too.
            let of_a_chunk = self.images.iter().any(|(_, image)| *image == bytes);
            let known = of_a_chunk || history.allows(&bytes, head, self.applied);
            assert!(known, "a complete replica is no state of its volume");
        }
    }

    /// Shuts a replica down and opens it once more.
    fn finish(&self, store: Store, damage: Damage) {
        if store.shut_down().is_err() {
            return;
        }
        let (before, copy) = (store.points(), store.copy_progress().state);
        drop(store);
        let opened = self.open();
        if damage == Damage::Forged {
            return;
        }
        let store = opened.expect("it was shut down cleanly");
        assert!(store.opened().clean, "a clean shutdown is found to be one");
        assert_eq!(store.points().journaled, before.journaled);
        assert_eq!(store.copy_progress().state, copy);
    }
}

pub(crate) fn seeds() -> Vec<Vec<u8>> {
    let (begin, chunk, piece, end): (&[u8], &[u8], &[u8], &[u8]) = (&[0], &[1, 0], &[5, 7], &[5]);
    let (sync, drain, checkpoint, kill): (&[u8], &[u8], &[u8], &[u8]) = (&[9], &[10], &[11], &[12]);
    let life = steps(&[
        begin, piece, chunk, piece, checkpoint, end, chunk, sync, drain, checkpoint, kill, chunk, sync, chunk,
    ]);
    let empty = steps(&[]);
    let with = |life: &[u8], tail: &[u8]| [seed().as_slice(), life, tail].concat();
    vec![
        with(&life, &[]),
        with(&empty, &[]),
        with(&life, &[2, 0, 40, 0, 20, 1, 41, 0, 90, 2]),
        with(&life, &[1, 1, 0, 0, 50, 1]),
    ]
}
