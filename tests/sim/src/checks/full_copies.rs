//! Nothing is copied anew that need not be, and nobody is let go who does not hold up the journal.
//!
//! Both cost only time, so that no image ever shows them; the superblocks do. Those of a volume say what its journal
//! keeps for each remote, those of a replica how far its copy is.

use crate::stats::happened;
use farside_protocol::journal::limits::SUPERBLOCK_OFFSETS;
use farside_protocol::journal::{ConsumerState, CopyState, Place, Superblock, What, stored_bytes};
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Of the ring, in percent, that the slowest remote holds when it is let go though no write waits.
const HIGH_WATER_PERCENT: u64 = 90;

/// What the superblocks of a volume and its replicas say, shared by whoever watches their disks.
#[derive(Debug, Default)]
pub struct Copies {
    /// Up to where each remote confirmed, and what it may expect, as the volume last recorded it.
    consumers: BTreeMap<String, (ConsumerState, u64)>,
    /// Bytes of the ring, and the end of the newest chunk.
    ring_bytes: u64,
    head: u64,
    replicas: BTreeMap<String, Followed>,
    /// The volume's disks were damaged or exchanged: its remotes are not to be judged by it.
    anything_goes: bool,
}

/// What is known of a replica.
#[derive(Debug, Default)]
struct Followed {
    /// How far its copy is, as it last recorded it.
    copy: Option<(CopyState, u64)>,
    /// A copy is due: it was let go, is new, or does not hold any more what it had.
    due: bool,
    /// It recorded the beginning of a copy that is not durable yet.
    begins: bool,
    /// Connections so far; the one in which its copy began; the last one that was seen to go on.
    links: u64,
    begun_in: u64,
    counted: u64,
}

/// The superblock that was written here, if it is one.
fn superblock_in(offset: u64, bytes: &[u8]) -> Option<Superblock> {
    let is_there = SUPERBLOCK_OFFSETS.contains(&offset);
    is_there.then(|| Superblock::decode(bytes).ok()).flatten()
}

impl Copies {
    /// Knows nothing yet.
    #[must_use]
    pub fn new() -> Arc<Mutex<Self>> {
        Arc::default()
    }

    /// Nothing is asked of this volume any more.
    pub fn forgive(&mut self) {
        self.anything_goes = true;
    }

    /// A remote has to get a copy, whatever the volume believes.
    pub fn is_due(&mut self, remote: &str) {
        self.replica(remote).due = true;
    }

    /// A link connects.
    pub fn connected(&mut self, remote: &str) {
        self.replica(remote).links += 1;
    }

    fn replica(&mut self, remote: &str) -> &mut Followed {
        self.replicas.entry(remote.to_owned()).or_default()
    }

    /// The volume starts with this superblock: what was written after it is gone.
    pub fn volume_starts(&mut self, superblock: &Superblock) {
        self.head = superblock.head.address;
        self.ring_bytes = u64::from(superblock.segment_bytes) * u64::from(superblock.segment_count);
        self.consumers = recorded(superblock);
    }

    /// Something was written to the volume's journal.
    ///
    /// # Panics
    /// When a remote was let go that did not hold up the journal.
    pub fn volume_wrote(&mut self, offset: u64, bytes: &[u8]) {
        if let Some(superblock) = superblock_in(offset, bytes) {
            self.volume_recorded(&superblock);
        } else if let (Ok(what), Ok(place)) = (What::decode(bytes), Place::decode(bytes)) {
            let laps = |address| address / self.ring_bytes.max(1);
            if laps(place.address) > laps(self.head) && self.head > 0 {
                happened("laps of a ring");
            }
            self.head = self.head.max(place.address + stored_bytes(what.data_bytes));
        }
    }

    fn volume_recorded(&mut self, superblock: &Superblock) {
        self.head = self.head.max(superblock.head.address);
        // A write waits for room when its chunk and the rest of a segment that it skips do not fit any more. Whoever is
        // nearly as far behind as the slowest remote goes with it.
        let nearly = self.ring_bytes * (100 - HIGH_WATER_PERCENT) / 100;
        let spared = nearly.max(2 * u64::from(superblock.segment_bytes));
        let much = (self.ring_bytes * HIGH_WATER_PERCENT / 100).saturating_sub(spared);
        let recorded = recorded(superblock);
        for (name, (state, _)) in &recorded {
            let Some((before, acked)) = self.consumers.get(name).copied() else {
                continue;
            };
            let let_go = match (before, *state) {
                (ConsumerState::NeedsCopy, _) => false,
                (_, ConsumerState::NeedsCopy) => true,
                // It was let go and begins anew before the first was recorded.
                (ConsumerState::Attached, ConsumerState::Copying) => true,
                _ => false,
            };
            let held = self.head.saturating_sub(acked);
            let replica = self.replicas.entry(name.clone()).or_default();
            if !let_go {
                // In the middle of a copy it may have been, and begin anew before anything of that was recorded.
                replica.due |= before == ConsumerState::Copying && held >= much;
                continue;
            }
            happened("remotes let go");
            assert!(
                held >= much || replica.due || self.anything_goes,
                "{}: {name} was let go, {before:?} to {state:?}, which held {held} bytes of a ring of {}; {much} are much",
                superblock.name,
                self.ring_bytes
            );
            replica.due = true;
        }
        self.consumers = recorded;
    }

    /// A replica starts with this superblock.
    pub fn replica_starts(&mut self, remote: &str, superblock: &Superblock) {
        let replica = self.replica(remote);
        replica.copy = Some((superblock.copy, superblock.copy_offset));
        replica.begins = false;
    }

    /// Something was written to a replica's journal.
    ///
    /// # Panics
    /// When a copy was begun anew that nothing called for.
    pub fn replica_wrote(&mut self, remote: &str, offset: u64, bytes: &[u8]) {
        let anything_goes = self.anything_goes;
        let replica = self.replica(remote);
        let Some(superblock) = superblock_in(offset, bytes) else {
            let complete = matches!(replica.copy, Some((CopyState::Complete, _)));
            if complete && replica.counted < replica.links {
                replica.counted = replica.links;
                happened("replicas that went on after a connection was lost");
            }
            return;
        };
        let now = (superblock.copy, superblock.copy_offset);
        let before = replica.copy.replace(now).unwrap_or((CopyState::Empty, 0));
        match (before, now) {
            ((CopyState::Complete, _), (CopyState::Copying, _))
            | ((CopyState::Copying, 1..), (CopyState::Copying, 0)) => {
                assert!(
                    replica.due || anything_goes,
                    "{}: {remote} was {before:?} and is copied anew, which nothing called for",
                    superblock.name
                );
                replica.begin();
            }
            ((CopyState::Empty, _), (CopyState::Copying, _)) => replica.begin(),
            ((CopyState::Copying, _), (CopyState::Complete, _)) => happened("full copies completed"),
            ((CopyState::Copying, from), (CopyState::Copying, to)) => {
                let goes_on = to > from && replica.begun_in < replica.links;
                if goes_on && replica.counted < replica.links {
                    replica.counted = replica.links;
                    happened("full copies that went on after a connection was lost");
                }
            }
            _ => {}
        }
    }

    /// What was written to a replica's journal is durable.
    pub fn replica_synced(&mut self, remote: &str) {
        let is_let_go = |(state, _): &(ConsumerState, u64)| *state == ConsumerState::NeedsCopy;
        let let_go_again = self.consumers.get(remote).is_some_and(is_let_go);
        let replica = self.replica(remote);
        if std::mem::take(&mut replica.begins) {
            // The copy that was due has begun; a loss of power cannot take that back.
            replica.due = let_go_again;
        }
    }
}

impl Followed {
    fn begin(&mut self) {
        happened("full copies begun");
        (self.begins, self.begun_in) = (true, self.links);
    }
}

fn recorded(superblock: &Superblock) -> BTreeMap<String, (ConsumerState, u64)> {
    let slots = superblock.consumers.iter();
    slots
        .map(|slot| (slot.name.clone(), (slot.state, slot.acked.address)))
        .collect()
}
