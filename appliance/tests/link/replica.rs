//! A replica in memory: journals, syncs, applies and loses power like a real one.

use crate::volume::{Volume, apply_chunk};
use farside_protocol::journal::{ChainPoint, CopyState, Record, What};
use farside_protocol::link::{Hello, Refusal, RefuseCode};
use farside_remote::{Replicas, Sink, SinkError, SinkState};
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard};
use tokio::sync::watch;

#[derive(Debug, Clone)]
struct Entry {
    records: Vec<Record>,
    data: Vec<u8>,
    after: ChainPoint,
}

#[derive(Debug, Clone)]
struct Synced {
    image: Vec<u8>,
    applied: ChainPoint,
    copied: u64,
}

#[derive(Debug)]
pub(crate) struct Inner {
    pub(crate) copy: CopyState,
    copy_id: u32,
    pub(crate) received: ChainPoint,
    appended: ChainPoint,
    journal: VecDeque<Entry>,
    pub(crate) applied: ChainPoint,
    pub(crate) image: Vec<u8>,
    copied: u64,
    synced: Synced,
    consistent_from: Option<u64>,
    told_from: u64,
    /// Up to here a replay writes what the image held before, so it is no state of the volume until there.
    recovering_to: u64,
    pub(crate) begun: u64,
    /// Chunks since the last copy was begun, and where that was.
    pub(crate) appends: u64,
    pub(crate) base: ChainPoint,
}

#[derive(Debug)]
pub(crate) struct Replica {
    inner: Mutex<Inner>,
    changed: watch::Sender<u64>,
    /// Everything becomes durable and applied at once.
    automatic: bool,
}

impl Replica {
    pub(crate) fn new(bytes: usize, automatic: bool) -> Self {
        // Junk, which a copy has to overwrite even where the volume has holes.
        let image = vec![0xEE; bytes];
        let none = ChainPoint::default();
        let inner = Inner {
            copy: CopyState::Empty,
            copy_id: 0,
            received: none,
            appended: none,
            journal: VecDeque::new(),
            applied: none,
            synced: Synced {
                image: image.clone(),
                applied: none,
                copied: 0,
            },
            image,
            copied: 0,
            consistent_from: None,
            told_from: 0,
            recovering_to: 0,
            begun: 0,
            appends: 0,
            base: none,
        };
        Self {
            inner: Mutex::new(inner),
            changed: watch::Sender::new(0),
            automatic,
        }
    }

    pub(crate) fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap()
    }

    fn act(&self, change: impl FnOnce(&mut Inner)) {
        let mut inner = self.inner();
        change(&mut inner);
        if self.automatic {
            inner.received = inner.appended;
            while inner.apply_one() {}
            inner.checkpoint();
        }
        drop(inner);
        self.changed.send_modify(|count| *count += 1);
    }

    pub(crate) fn state_copy(&self) -> CopyState {
        self.inner().copy
    }

    /// The copy's end was told, but the replica is not complete yet.
    pub(crate) fn end_is_open(&self) -> bool {
        let inner = self.inner();
        inner.copy == CopyState::Copying && inner.consistent_from.is_some()
    }

    pub(crate) fn sync_journal(&self) {
        self.act(|inner| inner.received = inner.appended);
    }

    pub(crate) fn apply(&self) {
        self.act(|inner| {
            inner.apply_one();
        });
    }

    pub(crate) fn checkpoint(&self) {
        self.act(Inner::checkpoint);
    }

    /// What was not durable is gone; with power lost the image is that of the last checkpoint.
    pub(crate) fn crash(&self, power: bool) {
        let mut inner = self.inner();
        let received = inner.received;
        inner
            .journal
            .retain(|entry| entry.after.sequence <= received.sequence);
        inner.recovering_to = if power {
            0
        } else {
            inner.applied.record.max(inner.recovering_to)
        };
        inner.appended = inner.received;
        inner.applied = inner.synced.applied;
        inner.copied = inner.synced.copied;
        inner.consistent_from = None;
        if power {
            inner.image = inner.synced.image.clone();
        }
    }

    /// Panics when the replica is not a state the volume had, as far as it claims to be one.
    pub(crate) fn check(&self, volume: &Volume) {
        let (inner, state) = (self.inner(), volume.state());
        assert!(
            inner.received.record <= state.points.durable.record,
            "more than the volume could lose"
        );
        if inner.copy != CopyState::Complete {
            return;
        }
        // After its own recovery: everything received is applied to what is there.
        let (mut image, mut record) = (inner.image.clone(), inner.applied.record);
        let state_after = |record: u64, image: &[u8]| {
            let expected = state.history[record as usize];
            assert_eq!(crc32c::crc32c(image), expected, "not the state after {record}");
        };
        let after_applied = |entry: &&Entry| entry.after.sequence > inner.applied.sequence;
        for entry in inner.journal.iter().filter(after_applied) {
            if record >= inner.recovering_to {
                state_after(record, &image);
            }
            apply_chunk(&mut image, &entry.records, &entry.data);
            record = entry.after.record;
        }
        state_after(record, &image);
    }
}

impl Inner {
    fn apply_one(&mut self) -> bool {
        let (applied, received) = (self.applied.sequence, self.received.sequence);
        let next = self
            .journal
            .iter()
            .find(|entry| entry.after.sequence > applied && entry.after.sequence <= received);
        let Some(entry) = next.cloned() else {
            return false;
        };
        apply_chunk(&mut self.image, &entry.records, &entry.data);
        self.applied = entry.after;
        true
    }

    fn checkpoint(&mut self) {
        self.synced = Synced {
            image: self.image.clone(),
            applied: self.applied,
            copied: self.copied,
        };
        let done = self.applied.sequence;
        self.journal.retain(|entry| entry.after.sequence > done);
        if self.copy == CopyState::Copying
            && self.copied == self.image.len() as u64
            && self
                .consistent_from
                .is_some_and(|from| from <= self.applied.record)
        {
            self.copy = CopyState::Complete;
        }
    }
}

impl Replica {
    /// A byte of the image changes by itself; where.
    pub(crate) fn rot(&self, seed: u64) -> u64 {
        let mut inner = self.inner();
        let at = usize::try_from(seed).unwrap() * 1_601 % inner.image.len();
        inner.image[at] ^= 1;
        at as u64
    }
}

impl Sink for Replica {
    fn state(&self) -> SinkState {
        let inner = self.inner();
        SinkState {
            history_bytes: 0,
            batch_bytes: 0,
            synced: inner.appended,
            unconfirmed_bytes: 0,
            copy: inner.copy,
            copy_id: inner.copy_id,
            received: inner.received,
            applied: inner.applied.record,
            copy_offset: inner.synced.copied,
            consistent_from: inner.told_from,
        }
    }

    fn changed(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    async fn settle(&self) -> Result<SinkState, SinkError> {
        self.act(|inner| {
            inner.received = inner.appended;
            inner.copied = inner.synced.copied;
        });
        Ok(self.state())
    }

    async fn begin_copy(&self, base: ChainPoint, copy_id: u32) -> Result<(), SinkError> {
        self.act(|inner| {
            // What is left as it is has to be there.
            let done = inner.applied.sequence;
            let rest: Vec<Entry> = inner.journal.drain(..).collect();
            for entry in rest.iter().filter(|entry| entry.after.sequence > done) {
                apply_chunk(&mut inner.image, &entry.records, &entry.data);
            }
            inner.copy_id = copy_id;
            (inner.received, inner.appended, inner.applied) = (base, base, base);
            inner.journal.clear();
            inner.copy = CopyState::Copying;
            inner.copied = 0;
            inner.consistent_from = None;
            inner.begun += 1;
            inner.appends = 0;
            inner.base = base;
            inner.checkpoint();
        });
        Ok(())
    }

    async fn append(&self, what: &[u8], data: &[u8]) -> Result<(), SinkError> {
        let what = What::decode(what).map_err(|error| SinkError::Degraded(error.to_string()))?;
        self.act(|inner| {
            assert_eq!(
                what.header.sequence,
                inner.appended.sequence + 1,
                "not the next chunk"
            );
            assert_eq!(
                what.header.previous_checksum, inner.appended.checksum,
                "another chain"
            );
            inner.appended = ChainPoint {
                address: 0,
                sequence: what.header.sequence,
                record: what.last_record(),
                epoch: what.header.epoch,
                sealed_at_us: what.header.sealed_at_us,
                checksum: what.checksum,
                ..ChainPoint::default()
            };
            inner.appends += 1;
            let (records, data, after) = (what.records().collect(), data.to_vec(), inner.appended);
            inner.journal.push_back(Entry { records, data, after });
        });
        Ok(())
    }

    async fn write_copy(&self, offset: u64, data: &[u8]) -> Result<(), SinkError> {
        self.act(|inner| {
            assert_eq!(offset, inner.copied);
            // An end told before was about other bytes.
            inner.consistent_from = None;
            let from = offset as usize;
            inner.image[from..from + data.len()].copy_from_slice(data);
            inner.copied += data.len() as u64;
        });
        Ok(())
    }

    async fn zero_copy(&self, offset: u64, length: u64) -> Result<(), SinkError> {
        let zeroes = vec![0; length as usize];
        self.write_copy(offset, &zeroes).await
    }

    async fn skip_copy(&self, offset: u64, length: u64) -> Result<(), SinkError> {
        self.act(|inner| {
            assert_eq!(offset, inner.copied);
            inner.consistent_from = None;
            inner.copied += length;
        });
        Ok(())
    }

    async fn has_content(&self) -> Result<bool, SinkError> {
        // Its junk is of no use; where steps are counted, a comparison ahead would be in the way.
        Ok(!self.automatic)
    }

    async fn read(&self, offset: u64, length: u32, as_it_lies: bool) -> Result<Option<Vec<u8>>, SinkError> {
        let from = usize::try_from(offset).unwrap();
        let mut data = Vec::new();
        self.act(|inner| {
            let mut image = inner.image.clone();
            let done = inner.applied.sequence;
            let ahead = |entry: &&Entry| !as_it_lies && entry.after.sequence > done;
            for entry in inner.journal.iter().filter(ahead) {
                apply_chunk(&mut image, &entry.records, &entry.data);
            }
            data.extend_from_slice(&image[from..from + length as usize]);
        });
        Ok(Some(data))
    }

    async fn end_copy(&self, consistent_from: u64) -> Result<(), SinkError> {
        self.act(|inner| {
            inner.consistent_from = Some(consistent_from);
            inner.told_from = consistent_from;
        });
        Ok(())
    }
}

/// One replica, for one volume.
#[derive(Debug)]
pub(crate) struct OneReplica {
    pub(crate) sink: Arc<Replica>,
    pub(crate) owner: Mutex<Option<uuid::Uuid>>,
}

impl OneReplica {
    pub(crate) fn new(bytes: usize) -> Self {
        Self {
            sink: Arc::new(Replica::new(bytes, true)),
            owner: Mutex::new(None),
        }
    }
}

impl Replicas for OneReplica {
    type Sink = Replica;

    async fn open_or_create(&self, hello: &Hello) -> Result<Arc<Replica>, Refusal> {
        let mut owner = self.owner.lock().unwrap();
        if *owner.get_or_insert(hello.unit) != hello.unit {
            let text = "the replica belongs to another unit; remove it first";
            return Err(Refusal::new(RefuseCode::ForeignVolume, 0, text));
        }
        Ok(Arc::clone(&self.sink))
    }
}
