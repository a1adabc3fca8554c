//! A volume in memory: a journal of real chunks, an image that follows it, and the oracle of every state the
//! volume ever had.

use crate::random::Random;
use farside::link::source::WantedChunks;
use farside::link::{
    ChunkSpan, ComparedPiece, Digests, Extent, Identity, InBatch, Located, Points, SourceError,
};
use farside_protocol::journal::{
    ChainPoint, ChunkHeader, ConsumerState, Record, RecordKind, encode_what, stored_bytes,
};
use farside_protocol::link::digests;
use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard};
use tokio::sync::watch;
use uuid::Uuid;

mod source;

pub(crate) const VOLUME_BYTES: u64 = 96 << 10;
const SIZE: usize = 96 << 10;
const BLOCK: usize = 8192;
const BLOCKS: usize = SIZE / BLOCK;

#[derive(Debug, Clone)]
pub(crate) struct Chunk {
    pub(crate) what: Vec<u8>,
    pub(crate) data: Vec<u8>,
    pub(crate) records: Vec<Record>,
    pub(crate) after: ChainPoint,
}

#[derive(Debug)]
pub(crate) struct State {
    pub(crate) chunks: Vec<Chunk>,
    pub(crate) points: Points,
    pub(crate) image: Vec<u8>,
    checkpoint: (Vec<u8>, ChainPoint),
    /// What the host would read.
    pub(crate) content: Vec<u8>,
    /// Checksum of the content after each record; index 0 is the empty volume.
    pub(crate) history: Vec<u32>,
    pub(crate) consumers: HashMap<String, (ConsumerState, ChainPoint)>,
    pub(crate) epoch: u64,
    pub(crate) copies_started: u64,
    /// Ends of the chunks that a remote may hold although it was let go.
    trail: Vec<ChainPoint>,
    /// Copies never get beyond the middle: the journal overflows before.
    pub(crate) too_small: bool,
    /// Blocks that changed since the remote was let go.
    dirty: [bool; BLOCKS],
    copy_id: u32,
}

#[derive(Debug)]
pub(crate) struct Volume {
    pub(crate) identity: Identity,
    state: Mutex<State>,
    changed: watch::Sender<u64>,
}

pub(crate) fn apply_record(image: &mut [u8], record: &Record, payload: &[u8]) {
    let range = usize::try_from(record.offset).unwrap()..usize::try_from(record.end()).unwrap();
    match record.kind {
        RecordKind::Write => image[range].copy_from_slice(payload),
        RecordKind::Trim | RecordKind::Zero { .. } => image[range].fill(0),
        RecordKind::Mark(_) => {}
    }
}

pub(crate) fn apply_chunk(image: &mut [u8], records: &[Record], data: &[u8]) {
    let mut rest = data;
    for record in records {
        let (payload, after) = rest.split_at(record.payload_bytes() as usize);
        apply_record(image, record, payload);
        rest = after;
    }
}

impl Volume {
    pub(crate) fn new() -> Self {
        let identity = Identity {
            unit: Uuid::from_u128(0xA),
            unit_name: "local".into(),
            volume: Uuid::from_u128(0xD15C),
            volume_name: "disk0".into(),
            volume_bytes: VOLUME_BYTES,
            segment_bytes: 4 << 20,
            epoch: 1,
        };
        let zeroes = vec![0; SIZE];
        let state = State {
            chunks: Vec::new(),
            points: Points::default(),
            image: zeroes.clone(),
            checkpoint: (zeroes.clone(), ChainPoint::default()),
            history: vec![crc32c::crc32c(&zeroes)],
            content: zeroes,
            consumers: HashMap::new(),
            epoch: 1,
            copies_started: 0,
            trail: Vec::new(),
            too_small: false,
            dirty: [false; BLOCKS],
            copy_id: 0,
        };
        Self {
            identity,
            state: Mutex::new(state),
            changed: watch::Sender::new(0),
        }
    }

    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    pub(crate) fn notify(&self) {
        self.changed.send_modify(|count| *count += 1);
    }

    /// Journals one chunk of one to four random changes; never durable by itself.
    pub(crate) fn write(&self, random: &mut Random) {
        let (mut records, mut data) = (Vec::new(), Vec::new());
        for _ in 0..=random.below(4) {
            let length = 1 + random.below(6000) as u32;
            let offset = random.below(VOLUME_BYTES - u64::from(length));
            let kind = match random.below(6) {
                0 => RecordKind::Trim,
                1 => RecordKind::Zero { allocate: true },
                _ => RecordKind::Write,
            };
            let mut record = Record {
                offset,
                length,
                checksum: 0,
                age_us: 0,
                kind,
            };
            if kind == RecordKind::Write {
                let payload: Vec<u8> = (0..length).map(|_| random.next() as u8).collect();
                record.checksum = crc32c::crc32c(&payload);
                data.extend_from_slice(&payload);
            }
            records.push(record);
        }
        let mut state = self.state();
        state.append(self.identity.volume, records, data);
    }

    /// All that is journaled becomes durable.
    pub(crate) fn sync(&self) {
        let mut state = self.state();
        state.points.durable = state.points.journaled;
        drop(state);
        self.notify();
    }

    /// The mirror applies the next durable chunk wholly, or a part of one or the next without saying so.
    pub(crate) fn mirror(&self, random: &mut Random) {
        let mut state = self.state();
        let (image, durable) = (state.points.image, state.points.durable);
        let ready: Vec<Chunk> = state
            .chunks
            .iter()
            .filter(|chunk| chunk.after.sequence > image.sequence && chunk.after.sequence <= durable.sequence)
            .take(3)
            .cloned()
            .collect();
        let Some(first) = ready.first() else {
            return;
        };
        if random.one_in(3) {
            // A batch under way: later chunks may reach the image before earlier ones.
            let ahead = &ready[random.below(ready.len() as u64) as usize];
            apply_chunk(&mut state.image, &ahead.records, &ahead.data);
            return;
        }
        apply_chunk(&mut state.image, &first.records, &first.data);
        state.points.image = first.after;
        if random.one_in(4) {
            // What was written ahead is written again in order, so a checkpoint may hold parts of it as well.
            state.checkpoint = (state.image.clone(), state.points.image);
        }
        state.trim();
        drop(state);
        self.notify();
    }

    pub(crate) fn settle(&self) {
        self.sync();
        let mut state = self.state();
        let from = state.points.image.sequence;
        let rest: Vec<Chunk> = state
            .chunks
            .iter()
            .filter(|chunk| chunk.after.sequence > from)
            .cloned()
            .collect();
        for chunk in rest {
            apply_chunk(&mut state.image, &chunk.records, &chunk.data);
        }
        state.points.image = state.points.durable;
        assert_eq!(state.image, state.content, "the fake volume is at fault");
        drop(state);
        self.notify();
    }

    /// Power is lost: what was not durable is gone, the image is that of the last checkpoint, a new epoch
    /// begins.
    pub(crate) fn crash(&self) {
        let mut state = self.state();
        let durable = state.points.durable;
        state
            .chunks
            .retain(|chunk| chunk.after.sequence <= durable.sequence);
        state.points.journaled = durable;
        (state.image, state.points.image) = state.checkpoint.clone();
        state.history.truncate(durable.record as usize + 1);
        let mut content = state.image.clone();
        let from = state.points.image.sequence;
        for chunk in state.chunks.iter().filter(|chunk| chunk.after.sequence > from) {
            apply_chunk(&mut content, &chunk.records, &chunk.data);
        }
        state.content = content;
        state.epoch += 1;
        drop(state);
        self.notify();
    }

    /// The journal is full: every remote is cut loose.
    pub(crate) fn overflow(&self) {
        let mut state = self.state();
        let confirmed = state.consumers.values().map(|(_, acked)| *acked);
        let mut trail: Vec<ChainPoint> = confirmed
            .chain(state.chunks.iter().map(|chunk| chunk.after))
            .collect();
        let held: Vec<(ConsumerState, ChainPoint)> = state.consumers.values().copied().collect();
        for (was, acked) in held {
            match was {
                ConsumerState::NeedsCopy => return,
                ConsumerState::Copying => {
                    // It may never have heard of the copy.
                    let mut older = std::mem::take(&mut state.trail);
                    older.append(&mut trail);
                    trail = older;
                }
                ConsumerState::Attached => {}
            }
            state.mark_after(acked);
        }
        state.trail = trail;
        for consumer in state.consumers.values_mut() {
            consumer.0 = ConsumerState::NeedsCopy;
        }
        state.trim();
        drop(state);
        self.notify();
    }
}

impl State {
    /// Marks what the chunks after a point change.
    fn mark_after(&mut self, acked: ChainPoint) {
        let after = self
            .chunks
            .iter()
            .filter(|chunk| chunk.after.sequence > acked.sequence);
        let changed: Vec<Record> = after.flat_map(|chunk| chunk.records.clone()).collect();
        changed.iter().for_each(|record| self.mark(record));
    }

    fn mark(&mut self, record: &Record) {
        let (from, end) = (record.offset as usize, record.end() as usize);
        for block in from / BLOCK..end.div_ceil(BLOCK) {
            self.dirty[block] = true;
        }
    }

    fn append(&mut self, volume: Uuid, records: Vec<Record>, data: Vec<u8>) {
        let before = self.points.journaled;
        let header = ChunkHeader {
            volume,
            epoch: self.epoch,
            sequence: before.sequence + 1,
            first_record: before.record + 1,
            sealed_at_us: before.sealed_at_us + 1000,
            previous_checksum: before.checksum,
            blocks_before: 0,
            bytes_before: 0,
        };
        let mut block = vec![0; 4096];
        let (length, checksum) = encode_what(&mut block, &header, &records);
        block.truncate(length);
        let mut rest = data.as_slice();
        for record in &records {
            let (payload, after) = rest.split_at(record.payload_bytes() as usize);
            apply_record(&mut self.content, record, payload);
            self.history.push(crc32c::crc32c(&self.content));
            rest = after;
        }
        if self
            .consumers
            .values()
            .any(|(state, _)| *state == ConsumerState::NeedsCopy)
        {
            records.iter().for_each(|record| self.mark(record));
        }
        let after = ChainPoint {
            address: before.address + stored_bytes(data.len() as u32),
            sequence: header.sequence,
            record: before.record + records.len() as u64,
            epoch: header.epoch,
            sealed_at_us: header.sealed_at_us,
            checksum,
            ..ChainPoint::default()
        };
        let what = block;
        self.chunks.push(Chunk {
            what,
            data,
            records,
            after,
        });
        self.points.journaled = after;
    }

    fn trim(&mut self) {
        let held = |(state, acked): &(ConsumerState, ChainPoint)| {
            (*state != ConsumerState::NeedsCopy).then_some(*acked)
        };
        let mut tail = self.checkpoint.1;
        for acked in self.consumers.values().filter_map(held) {
            if acked.sequence < tail.sequence {
                tail = acked;
            }
        }
        if tail.sequence > self.points.tail.sequence {
            self.points.tail = tail;
            self.chunks.retain(|chunk| chunk.after.sequence > tail.sequence);
        }
    }
}

impl Volume {
    pub(crate) fn locate_now(&self, record: u64) -> Located {
        let state = self.state();
        let ends = |point: &ChainPoint| point.record == record;
        let in_journal = Some(state.points.tail)
            .filter(ends)
            .or_else(|| state.chunks.iter().map(|chunk| chunk.after).find(ends));
        let confirmed = state.consumers.values().map(|(_, acked)| *acked).find(ends);
        let marked_since = confirmed.or_else(|| state.trail.iter().copied().find(ends));
        Located {
            point: in_journal.or(marked_since),
            marked_since,
            copy_id: state.copy_id,
        }
    }

    pub(crate) fn start_copy_now(&self, remote: &str, all: bool) -> (ChainPoint, u32) {
        let mut state = self.state();
        let base = state.points.image;
        state.copies_started += 1;
        if all {
            state.dirty = [true; BLOCKS];
        }
        if let Some((ConsumerState::Copying, acked)) = state.consumers.get(remote).copied() {
            state.mark_after(acked);
        }
        if state.copy_id == 0 {
            state.copy_id = u32::try_from(state.copies_started).unwrap();
        }
        let copy_id = state.copy_id;
        state
            .consumers
            .insert(remote.into(), (ConsumerState::Copying, base));
        (base, copy_id)
    }

    pub(crate) fn read_chunks_now(
        &self,
        wanted: &WantedChunks,
        buffer: &mut Vec<u8>,
    ) -> Result<Vec<ChunkSpan>, SourceError> {
        let (from, up_to, max_bytes) = (wanted.from, wanted.up_to, wanted.max_bytes);
        let state = self.state();
        if from.sequence < state.points.tail.sequence {
            return Err(SourceError::Behind);
        }
        buffer.clear();
        let mut spans = Vec::new();
        for chunk in state
            .chunks
            .iter()
            .filter(|chunk| chunk.after.sequence > from.sequence)
        {
            let bytes = buffer.len() + chunk.what.len() + chunk.data.len();
            if chunk.after.sequence > up_to.sequence || (!spans.is_empty() && bytes as u64 > max_bytes) {
                break;
            }
            let what = buffer.len()..buffer.len() + chunk.what.len();
            buffer.extend_from_slice(&chunk.what);
            let data = buffer.len()..buffer.len() + chunk.data.len();
            buffer.extend_from_slice(&chunk.data);
            spans.push(ChunkSpan {
                what,
                data,
                after: chunk.after,
                batch: InBatch::No,
                reaches: chunk.after.record,
                blocks: chunk.records.iter().map(Record::blocks).sum(),
                touches: wanted.watched.as_ref().is_some_and(|watched| {
                    let touches =
                        |record: &Record| record.offset < watched.end && record.end() > watched.start;
                    chunk.records.iter().any(touches)
                }),
            });
        }
        Ok(spans)
    }

    pub(crate) fn digests_now(&self, piece: ComparedPiece) -> Digests {
        let (state, range) = (self.state(), piece.range());
        let range = usize::try_from(range.start).unwrap()..usize::try_from(range.end).unwrap();
        Digests {
            after: state.points.journaled.record,
            until: state.points.journaled,
            digests: digests(&state.content[range]),
        }
    }

    pub(crate) fn read_image_now(&self, offset: u64, max_bytes: u32, buffer: &mut Vec<u8>) -> Extent {
        let state = self.state();
        let from = usize::try_from(offset).unwrap();
        buffer.clear();
        let block = from / BLOCK;
        if block < BLOCKS && !state.dirty[block] {
            let length = BLOCK - from % BLOCK;
            return Extent::Same {
                offset,
                length: length as u64,
            };
        }
        // Small pieces, so that a copy of a small volume is many frames.
        let piece = state.image[from..].chunks(4096.min(max_bytes as usize)).next();
        let Some(piece) = piece else {
            return Extent::End;
        };
        let length = piece.len();
        if piece.iter().all(|byte| *byte == 0) {
            return Extent::Hole {
                offset,
                length: length as u64,
            };
        }
        buffer.extend_from_slice(piece);
        Extent::Data {
            offset,
            length: length as u32,
        }
    }
}
