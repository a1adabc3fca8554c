//! Drives the store of a replica as a link would, and notes what each call promises.

use crate::disk::index;
use crate::history::{History, VOLUME_BYTES};
use crate::machine::{Event, Machine};
use crate::recorder::{Recorder, Tape};
use crate::replica_run::ReplicaRun;
use crate::subsets::Effort;
use crate::volume::{Volume, open};
use farside_protocol::journal::{ChainPoint, CopyState, What};
use farside_storage::{AppendError, Store};
use std::sync::Arc;
use uuid::Uuid;

/// Bytes of journal read at once from the volume.
const READ_BYTES: usize = 64 << 10;

/// A chunk as its volume sealed it.
struct Sealed {
    what: Vec<u8>,
    data: Vec<u8>,
}

/// The volume that a replica follows: what it held after each record, and all its chunks.
pub(crate) struct Source {
    pub(crate) history: History,
    chunks: Vec<Sealed>,
}

/// What a replica may be after a crash.
#[derive(Clone, Debug)]
pub(crate) struct Stage {
    /// How far its copy is.
    pub(crate) state: CopyState,
    /// The record it has at least, after loss of power and after the death of the process.
    pub(crate) durable: u64,
    pub(crate) journaled: u64,
    /// Bytes of the copy that are durable.
    pub(crate) copied: u64,
}

/// A replica in use.
pub(crate) struct Replica {
    pub(crate) recorder: Recorder,
    pub(crate) store: Store,
    source: Arc<Source>,
    stages: Vec<Stage>,
    promises: Vec<Vec<Stage>>,
}

impl Stage {
    /// Of a replica that was just made.
    pub(crate) fn empty() -> Self {
        Self {
            state: CopyState::Empty,
            durable: 0,
            journaled: 0,
            copied: 0,
        }
    }
}

impl Source {
    /// Everything a volume journaled; its ring must still hold it.
    pub(crate) fn new(mut volume: Volume) -> Self {
        volume.sync();
        let limit = volume.store.points().durable;
        let (mut point, mut buffer, mut chunks) = (ChainPoint::default(), Vec::new(), Vec::new());
        while point.record < limit.record {
            let spans = volume.store.read_chunks(&point, &limit, READ_BYTES, &mut buffer);
            for span in spans.expect("the ring of a source is large") {
                chunks.push(Sealed {
                    what: buffer[span.what.clone()].to_vec(),
                    data: buffer[span.data.clone()].to_vec(),
                });
                point = span.after;
            }
        }
        Self {
            history: volume.history,
            chunks,
        }
    }

    /// The newest chunk.
    pub(crate) fn last(&self) -> u64 {
        self.chunks.len() as u64
    }

    /// The point after a chunk; 0 is the beginning.
    pub(crate) fn point(&self, sequence: u64) -> ChainPoint {
        self.history.chunk(sequence).unwrap_or_default()
    }
}

impl Replica {
    /// Opens what a machine holds, which may be at one of these stages.
    pub(crate) fn resume(machine: Machine, source: &Arc<Source>, stages: Vec<Stage>) -> Self {
        let recorder = Recorder::new(machine);
        let store = open(&recorder).expect("it was opened before");
        let mut replica = Self {
            recorder,
            store,
            source: source.clone(),
            promises: vec![stages.clone()],
            stages,
        };
        replica.opened();
        replica
    }

    /// What was recorded, and what checks it.
    pub(crate) fn finish_run(self, nested: Effort) -> (Tape, ReplicaRun) {
        let run = ReplicaRun {
            source: self.source,
            promises: self.promises,
            nested,
        };
        (self.recorder.tape(), run)
    }

    fn note(&mut self) {
        self.recorder.event(Event::Promise(self.promises.len()));
        self.promises.push(self.stages.clone());
    }

    fn opened(&mut self) {
        let (copy, head) = (self.store.copy_progress(), self.store.points().durable.record);
        self.stages = vec![Stage {
            state: copy.state,
            durable: head,
            journaled: head,
            copied: copy.durable,
        }];
        self.note();
    }

    fn newest(&mut self) -> &mut Stage {
        self.stages.last_mut().expect("there is always one")
    }

    /// Begins a copy whose chunks follow this one.
    pub(crate) fn begin(&mut self, sequence: u64) {
        let base = self.source.point(sequence);
        self.stages.push(Stage {
            state: CopyState::Copying,
            durable: base.record,
            journaled: base.record,
            copied: 0,
        });
        self.note();
        self.store
            .begin_copy(&base, Uuid::from_u128(9), 1)
            .expect("nothing fails here");
        self.stages.drain(..self.stages.len() - 1);
        self.note();
    }

    /// Copies on to an offset, from the image as it was after a chunk that is not older than what was shipped.
    pub(crate) fn copy(&mut self, to: u64, sequence: u64) {
        let held = self.source.history.state(self.source.point(sequence).record);
        let mut at = self.store.copy_progress().written;
        while at < to {
            let length = (to - at).min(20 << 10);
            let mut data = vec![0; index(length)];
            held.read(index(at), &mut data);
            let done = if data == vec![0; data.len()] {
                self.store.zero_copy(at, length)
            } else {
                self.store.write_copy(at, &data)
            };
            done.expect("it follows what was copied");
            at += length;
        }
    }

    /// Everything was copied, from images up to this chunk.
    pub(crate) fn end(&mut self, sequence: u64) {
        self.store
            .end_copy(self.source.point(sequence).record)
            .expect("all was copied");
        let complete = Stage {
            state: CopyState::Complete,
            ..self.newest().clone()
        };
        self.stages.push(complete);
        self.note();
    }

    /// Brings the chunks that follow, up to this one.
    pub(crate) fn ship(&mut self, to: u64) {
        let source = self.source.clone();
        while self.store.points().journaled.sequence < to {
            let next = &source.chunks[index(self.store.points().journaled.sequence)];
            let what = What::decode(&next.what).expect("it was sealed by a store");
            match self.store.append_sealed(&what, &next.data) {
                Ok(appended) => {
                    for stage in &mut self.stages {
                        stage.journaled = appended.point.record;
                    }
                    self.note();
                }
                Err(AppendError::Full | AppendError::NotDurable) => {
                    self.sync();
                    self.drain();
                    self.relieve();
                }
                Err(error) => panic!("append: {error}"),
            }
        }
    }

    /// Makes the journal durable: what a link confirms.
    pub(crate) fn sync(&mut self) {
        let durable = self.store.sync().expect("nothing fails here").record;
        for stage in &mut self.stages {
            stage.durable = durable;
        }
        self.note();
    }

    /// Brings the image up to what is durable.
    pub(crate) fn drain(&mut self) {
        while self.store.drain().expect("nothing fails here") {}
    }

    /// Records positions and the progress of a copy.
    pub(crate) fn checkpoint(&mut self) {
        self.store.checkpoint().expect("nothing fails here");
        self.recorded();
    }

    /// Makes room.
    pub(crate) fn relieve(&mut self) {
        let generation = self.store.superblock().generation;
        self.store.relieve().expect("nothing fails here");
        if self.store.superblock().generation != generation {
            self.recorded();
        }
    }

    fn recorded(&mut self) {
        let copy = self.store.copy_progress();
        // A copy that has ended becomes complete at this checkpoint or at a later one.
        if copy.state != CopyState::Copying {
            self.stages.retain(|stage| stage.state == copy.state);
        }
        for stage in &mut self.stages {
            stage.copied = copy.durable;
        }
        self.note();
    }

    /// A new session: the copy goes on from what of it is durable.
    pub(crate) fn rewind(&mut self) {
        self.store.rewind_copy();
    }

    /// Ends, cleanly or not, and starts again.
    pub(crate) fn reopen(&mut self, cleanly: bool) {
        if cleanly {
            self.store.shut_down().expect("nothing fails here");
            let head = self.store.points().journaled.record;
            for stage in &mut self.stages {
                stage.durable = head;
            }
            self.recorded();
        }
        self.store = open(&self.recorder).expect("nothing was lost");
        assert_eq!(
            self.store.opened().clean,
            cleanly,
            "a clean end is known, an unclean one too"
        );
        self.opened();
    }

    /// Whatever the state: copies what is missing, ships the rest, and is complete then.
    pub(crate) fn catch_up(&mut self) {
        let last = self.source.last();
        if self.store.copy_progress().state == CopyState::Empty {
            self.begin(0);
        }
        if self.store.copy_progress().state == CopyState::Copying {
            self.rewind();
            self.copy(VOLUME_BYTES, last);
            self.end(last);
        }
        self.ship(last);
        self.sync();
        self.drain();
        self.checkpoint();
    }
}
