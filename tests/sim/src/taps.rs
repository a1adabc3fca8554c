//! Whoever watches the disks: a volume's journal tells its history, everything else is held against that.

use crate::checks::chunks::Chunks;
use crate::checks::full_copies::Copies;
use crate::checks::tail::DurableTail;
use crate::history::History;
use crate::local::Site;
use crate::platter::{Platter, Tap};
use crate::remote::Home;
use crate::stats::{Stats, happened};
use farside_protocol::journal::limits::{BLOCK_BYTES, RING_OFFSET};
use farside_protocol::journal::{Merged, Place, What};
use parking_lot::Mutex;
use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};

/// Watches a volume's journal.
#[derive(Debug)]
pub struct JournalTap {
    history: Arc<Mutex<History>>,
    chunks: Arc<Mutex<Chunks>>,
    copies: Arc<Mutex<Copies>>,
    platter: Weak<Platter>,
    stats: Arc<Stats>,
    tail: Arc<DurableTail>,
}

impl JournalTap {
    /// Feeds the history of this volume.
    #[must_use]
    pub fn new(site: &Site, stats: &Arc<Stats>) -> Arc<Self> {
        Arc::new(Self {
            history: site.history.clone(),
            chunks: site.chunks.clone(),
            copies: site.copies.clone(),
            platter: Arc::downgrade(&site.journal),
            stats: stats.clone(),
            tail: site.tail.clone(),
        })
    }
}

/// The chunk that was written here, if it is one.
#[must_use]
pub fn chunk_in(offset: u64, bytes: &[u8]) -> Option<(What<'_>, &[u8])> {
    if offset < RING_OFFSET || bytes.len() < BLOCK_BYTES {
        return None;
    }
    let what = What::decode(&bytes[..BLOCK_BYTES]).ok()?;
    let data = bytes.get(BLOCK_BYTES..BLOCK_BYTES + what.data_bytes as usize)?;
    Some((what, data))
}

impl JournalTap {
    fn journaled(&self, offset: u64, what: &What<'_>, data: &[u8]) {
        self.chunks.lock().journaled(what);
        self.stats.trace("history", || {
            let (header, last) = (&what.header, what.last_record());
            let (epoch, sequence, first) = (header.epoch, header.sequence, header.first_record);
            format!("chunk {epoch}/{sequence}, records {first}..={last}, journaled at {offset}")
        });
        self.history.lock().journaled(offset, what, data);
    }
}

impl Tap for JournalTap {
    fn wrote(&self, offset: u64, bytes: &[u8]) {
        if self.platter.upgrade().is_none_or(|platter| platter.was_damaged()) {
            self.copies.lock().forgive();
        }
        self.copies.lock().volume_wrote(offset, bytes);
        // Recovery writes several chunks at once.
        let (mut offset, mut bytes) = (offset, bytes);
        while !bytes.is_empty() {
            let chunk = chunk_in(offset, bytes);
            let what = chunk.as_ref().map(|(what, _)| what);
            let length = what.map_or(bytes.len() as u64, What::stored_bytes);
            let (piece, rest) =
                bytes.split_at(usize::try_from(length).unwrap_or(bytes.len()).min(bytes.len()));
            self.tail.wrote(offset, piece, what);
            if let Some((what, data)) = chunk {
                self.journaled(offset, &what, data);
            }
            (offset, bytes) = (offset + length, rest);
        }
    }

    /// Hosts that say what is there already repeat what a chunk of an earlier lap, or one that was lost, left in this place:
    /// then the first half of a chunk is all of it.
    fn left(&self, offset: u64, found: &[u8]) {
        if let Some((what, data)) = chunk_in(offset, found)
            && what.data_is_intact(data)
            && Place::decode(found).is_ok()
        {
            self.journaled(offset, &what, data);
        }
    }

    fn zeroed(&self, _: u64, _: u64) {}

    fn synced(&self, platter: &Platter) {
        self.tail.synced(platter);
        let mut history = self.history.lock();
        history.synced(|range| platter.is_durable(range));
        let durable = history.durable();
        self.stats
            .trace("history", || format!("durable up to record {durable}"));
    }
}

/// Watches an image: whatever is written there must be durable in the journal of the volume first.
#[derive(Debug)]
pub struct ImageTap {
    history: Arc<Mutex<History>>,
    /// Of a replica: whether it left the volume's branch.
    is_off_branch: Option<Arc<AtomicBool>>,
}

impl ImageTap {
    /// Checks against this history.
    #[must_use]
    pub fn new(history: &Arc<Mutex<History>>, is_off_branch: Option<&Arc<AtomicBool>>) -> Arc<Self> {
        Arc::new(Self {
            history: history.clone(),
            is_off_branch: is_off_branch.cloned(),
        })
    }
}

impl Tap for ImageTap {
    fn wrote(&self, offset: u64, bytes: &[u8]) {
        let history = self.history.lock();
        let (offset, durable) = (usize::try_from(offset).unwrap_or(usize::MAX), history.durable());
        let is_off = |flag: &Arc<AtomicBool>| flag.load(Ordering::Relaxed) || history.lost_its_end;
        if self.is_off_branch.as_ref().is_some_and(is_off) {
            return;
        }
        let is_replica = self.is_off_branch.is_some();
        // A copy may read an image between two writes of one batch; what that batch holds follows as chunks.
        let in_the_middle = |at| match is_replica {
            true => history.explains_each(1, offset, bytes, (0, durable)),
            false => Err(at),
        };
        let explained = |from| history.explains(offset, bytes, from, durable);
        // Records of the last batches; failing that, copied ranges of any age.
        if let Err(at) = explained(durable.saturating_sub(64))
            .or_else(|_| explained(0))
            .or_else(in_the_middle)
        {
            panic!(
                "{} byte {at} got content that no state of the volume up to the durable record {durable} has",
                if is_replica { "a replica" } else { "the mirror" }
            );
        }
    }

    fn zeroed(&self, offset: u64, length: u64) {
        self.wrote(offset, &vec![0; usize::try_from(length).unwrap_or(0)]);
    }

    fn synced(&self, _: &Platter) {}
}

/// Watches the journal of a replica: it takes the volume's chunks, in order, and only durable ones.
#[derive(Debug)]
pub struct ReplicaTap {
    history: Arc<Mutex<History>>,
    copies: Arc<Mutex<Copies>>,
    platter: Weak<Platter>,
    remote: String,
    is_off_branch: Arc<AtomicBool>,
    /// Chunks it took before, by epoch, sequence and checksum: recovery writes some of them once more.
    taken: Mutex<BTreeSet<(u64, u64, u32)>>,
    tail: Arc<DurableTail>,
}

impl ReplicaTap {
    /// Checks against this history.
    #[must_use]
    pub fn new(home: &Arc<Home>, copies: &Arc<Mutex<Copies>>, remote: &str) -> Arc<Self> {
        Arc::new(Self {
            history: home.history.clone(),
            copies: copies.clone(),
            platter: Arc::downgrade(&home.journal),
            remote: remote.to_owned(),
            is_off_branch: home.is_off_branch.clone(),
            taken: Mutex::default(),
            tail: home.tail.clone(),
        })
    }
}

impl Tap for ReplicaTap {
    fn wrote(&self, offset: u64, bytes: &[u8]) {
        if self.platter.upgrade().is_none_or(|platter| platter.was_damaged()) {
            self.copies.lock().is_due(&self.remote);
        }
        self.copies.lock().replica_wrote(&self.remote, offset, bytes);
        let chunk = chunk_in(offset, bytes);
        self.tail
            .wrote(offset, bytes, chunk.as_ref().map(|(what, _)| what));
        if let Some((what, data)) = chunk {
            // One it took before may have been damaged in its own journal, and is written anew as it lies there.
            let key = (what.header.epoch, what.header.sequence, what.checksum);
            if self.taken.lock().insert(key) {
                assert!(what.data_is_intact(data), "a replica journaled a damaged chunk");
                if let Some(Merged::End(_)) = what.merged() {
                    happened("merged batches received");
                }
                if !self.history.lock().check_received(&what) {
                    self.is_off_branch.store(true, Ordering::Relaxed);
                }
            }
        }
    }

    fn zeroed(&self, _: u64, _: u64) {}

    fn synced(&self, platter: &Platter) {
        self.copies.lock().replica_synced(&self.remote);
        self.tail.synced(platter);
    }
}
