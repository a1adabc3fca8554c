//! Creating and opening a store: superblock, recovery, the overlay rebuilt from what the image lacks.

use super::append::Appender;
use super::drain::Drain;
use super::state::{Consumer, CopyProgress, Counters, Points, State};
use super::{Snapshot, Store};
use crate::block_map::BlockMap;
use crate::clock::Clock;
use crate::device::Device;
use crate::error::StorageError;
use crate::journal::{Journal, load_superblock, recover, store_superblock};
use crate::limits::{DEFAULT_SEGMENT_BYTES, MAX_WINDOW_BYTES};
use crate::overlay::Overlay;
use farside_protocol::journal::limits::{MAX_REACHED, MIN_SEGMENT_BYTES, RING_OFFSET};
use farside_protocol::journal::{ChainPoint, ConsumerState, CopyState, Role, Superblock, Totals};
use parking_lot::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::sync::{Arc, OnceLock};
use uuid::Uuid;

/// What decides a new store.
#[derive(Debug, Clone)]
pub struct StoreParameters {
    /// Volume or replica.
    pub role: Role,
    /// Name of the volume.
    pub name: String,
    /// Its identity.
    pub volume: Uuid,
    /// Identity of the new journal.
    pub journal: Uuid,
    /// Its size.
    pub volume_bytes: u64,
    /// Bytes for the whole journal; rounded down to whole segments.
    pub journal_bytes: u64,
    /// Bytes of a segment; `None` chooses by the journal's size.
    pub segment_bytes: Option<u32>,
    /// Unit that feeds a replica; nil for a volume.
    pub source: Uuid,
}

impl StoreParameters {
    /// The first superblock: geometry decided, nothing journaled.
    #[must_use]
    pub fn superblock(&self, now_us: u64) -> Superblock {
        let ring = self.journal_bytes.saturating_sub(RING_OFFSET);
        let segment_bytes = self.segment_bytes.unwrap_or_else(|| {
            let sixteenth = u32::try_from(ring / 16)
                .unwrap_or(u32::MAX)
                .max(MIN_SEGMENT_BYTES);
            (1 << sixteenth.ilog2()).min(DEFAULT_SEGMENT_BYTES)
        });
        let segment_count = u32::try_from(ring / u64::from(segment_bytes)).unwrap_or(u32::MAX);
        Superblock {
            role: self.role,
            clean: true,
            generation: 0,
            journal: self.journal,
            volume: self.volume,
            volume_bytes: self.volume_bytes,
            segment_bytes,
            segment_count,
            window_segments: window_segments(segment_bytes, segment_count),
            created_at_us: now_us,
            epoch: 1,
            starts: 0,
            remembers: false,
            confirms: false,
            history_line: 0,
            head: ChainPoint::default(),
            tail: ChainPoint::default(),
            mirrored: ChainPoint::default(),
            copy: if self.role == Role::Volume {
                CopyState::Complete
            } else {
                CopyState::Empty
            },
            copy_id: 0,
            copy_offset: 0,
            consistent_from: 0,
            name: self.name.clone(),
            source: self.source,
            totals: Totals::default(),
            consumers: Vec::new(),
        }
    }
}

/// Segments of a ring that may be non-durable at once.
pub(crate) fn window_segments(segment_bytes: u32, segment_count: u32) -> u32 {
    let window = u32::try_from(MAX_WINDOW_BYTES / u64::from(segment_bytes)).unwrap_or(u32::MAX);
    window.min(segment_count / 4).max(1)
}

/// The devices of a store.
#[derive(Debug, Clone)]
pub struct StoreDevices {
    /// The journal.
    pub journal: Arc<dyn Device>,
    /// The image: block N of the volume at block N.
    pub image: Arc<dyn Device>,
    /// The dirty-block maps of the consumers, in the superblock's order.
    pub maps: Vec<Arc<dyn Device>>,
}

impl Store {
    /// Writes the two superblocks of a new store.
    ///
    /// # Errors
    /// [`StorageError`].
    pub fn format(
        journal: &dyn Device,
        parameters: &StoreParameters,
        now_us: u64,
    ) -> Result<(), StorageError> {
        let mut superblock = parameters.superblock(now_us);
        for _ in 0..2 {
            superblock.generation += 1;
            store_superblock(journal, &superblock)?;
        }
        journal.sync()
    }

    /// Opens a store for use: finds the head, rebuilds the overlay, and marks the superblock as in use. After an
    /// unclean end a new epoch begins.
    ///
    /// # Errors
    /// [`StorageError`] that names the file, the place and the remedy.
    pub fn open(devices: StoreDevices, clock: Arc<dyn Clock>) -> Result<Self, StorageError> {
        let mut superblock = load_superblock(devices.journal.as_ref())?;
        let found = superblock.clone();
        let recovered = recover(devices.journal.as_ref(), &superblock)?;
        let clean = recovered.clean;
        if !clean {
            superblock.epoch = superblock.epoch.max(recovered.head.epoch) + 1;
        }
        superblock.starts += 1;
        superblock.clean = false;
        let known_durable = std::mem::replace(&mut superblock.head, recovered.head);
        refuse_impossible_positions(devices.journal.name(), &superblock)?;
        let journal = Journal::new(devices.journal, &superblock);
        let state = opening_state(&superblock, &recovered.head, devices.maps)?;
        let store = Self {
            name: superblock.name.clone(),
            journal,
            image: devices.image,
            clock,
            appender: Mutex::new(Appender::new(recovered.head, superblock.epoch)),
            drain: Mutex::new(Drain::new(superblock.volume_bytes)),
            sync_gate: Mutex::new(()),
            cutting: Mutex::new(()),
            journal_sync: Mutex::new(()),
            image_sync: Mutex::new(()),
            state: Mutex::new(state),
            flushes_wanted: AtomicU64::new(0),
            image_generation: AtomicU64::new(0),
            tail_address: AtomicU64::new(superblock.tail.address),
            failure: Mutex::new(None),
            failed: AtomicBool::new(false),
            closed: AtomicBool::new(false),
            growth_given_up: AtomicBool::new(false),
            history: OnceLock::new(),
            volume_bytes: AtomicU64::new(superblock.volume_bytes),
            opened: Snapshot {
                clean,
                epoch: superblock.epoch,
                recovered,
            },
            created_at_us: superblock.created_at_us,
            remembers: AtomicBool::new(superblock.remembers),
            written_superblock: Mutex::new(superblock.clone()),
            superblock: Mutex::new(superblock),
        };
        store.journal.erase_successors(&recovered.head)?;
        // What was read may be in the page cache only, also after a sync: one that failed is not repeated for what it
        // should have written. The superblock has to be durable before the other copy of it is written, or a power
        // loss in between would take both; the chunks before the superblock names them, or the journal would end
        // before the head that the superblock promises.
        store.guard(store_superblock(store.journal.device.as_ref(), &found))?;
        if !clean {
            store.journal.rewrite(&known_durable, &recovered.head)?;
        }
        store.sync_journal()?;
        store.persist(|_| {})?;
        store.take_up_pending()?;
        store.mark_missed_by_consumers()?;
        Ok(store)
    }

    /// Puts everything the image may lack into the overlay.
    fn take_up_pending(&self) -> Result<(), StorageError> {
        let (from, head) = {
            let state = self.state.lock();
            (state.points.applied, state.points.durable)
        };
        let mut state = self.state.lock();
        let reached = self.journal.walk(from, head.address, |address, what| {
            let after = crate::journal::point_after(what, address);
            state.take_up(what, address, after);
        })?;
        (state.points.synced, state.points.journaled) = (head, head);
        state.counters = Counters::default();
        if reached != head {
            let offset = self.journal.layout.file_offset(reached.address);
            return Err(StorageError::damaged(
                self.journal.device.name(),
                offset,
                format!(
                    "chunk {} that the image still needs is unreadable",
                    reached.sequence + 1
                ),
            ));
        }
        Ok(())
    }

    /// A map is only synced at checkpoints; what the journal still holds may be missing in it.
    fn mark_missed_by_consumers(&self) -> Result<(), StorageError> {
        let points = self.points();
        let loose: Vec<String> = {
            let state = self.state.lock();
            state
                .consumers
                .iter()
                .filter(|consumer| !consumer.is_held())
                .map(|c| c.name.clone())
                .collect()
        };
        for name in loose {
            self.mark_missed(&name, points.tail, points.journaled)?;
        }
        // What a copy had written further than is known, and is found to be there already when it goes on.
        let mut state = self.state.lock();
        if state.copy.state == CopyState::Copying {
            let from = state.copy.durable;
            for consumer in &mut state.consumers {
                consumer.map.mark(from, self.volume_bytes());
            }
        }
        Ok(())
    }
}

/// Positions only rise. One that no journal can have reached is damage or forgery, and the next would be one that the
/// format does not have.
fn refuse_impossible_positions(name: &str, superblock: &Superblock) -> Result<(), StorageError> {
    let head = &superblock.head;
    let numbers = [
        superblock.epoch,
        superblock.starts,
        superblock.generation,
        head.address,
        head.sequence,
        head.record,
        head.epoch,
    ];
    let known = [superblock.tail, superblock.mirrored, *head];
    let in_order = |acked: &ChainPoint| {
        known
            .iter()
            .all(|point| acked.address.cmp(&point.address) == acked.record.cmp(&point.record))
    };
    let holders = superblock
        .consumers
        .iter()
        .filter(|slot| slot.state != ConsumerState::NeedsCopy);
    if numbers.iter().all(|number| *number <= MAX_REACHED) && holders.map(|slot| &slot.acked).all(in_order) {
        return Ok(());
    }
    let text = "the journal names positions that no journal can have reached; restore the file";
    Err(StorageError::damaged(name, 0, text))
}

fn opening_state(
    superblock: &Superblock,
    head: &ChainPoint,
    maps: Vec<Arc<dyn Device>>,
) -> Result<State, StorageError> {
    let mut consumers = Vec::new();
    for (slot, map) in superblock.consumers.iter().zip(maps) {
        let mut map = BlockMap::open(map, superblock.volume, superblock.volume_bytes)?;
        // A consumer without a copy starts over; one in the middle of it goes on.
        let lost = slot.state != ConsumerState::NeedsCopy && slot.acked.record < superblock.tail.record;
        if lost {
            map.mark(0, superblock.volume_bytes);
        }
        let state = if lost {
            ConsumerState::NeedsCopy
        } else {
            slot.state
        };
        consumers.push(Consumer {
            copy_id: slot.copy_id,
            name: slot.name.clone(),
            state,
            acked: slot.acked,
            leaving: false,
            map,
        });
    }
    let applied = superblock.mirrored;
    Ok(State {
        points: Points {
            tail: superblock.tail,
            mirrored: applied,
            applied,
            durable: *head,
            synced: *head,
            journaled: *head,
        },
        is_reset: false,
        confirms: superblock.confirms,
        overlay: Overlay::new(),
        damaged: Vec::new(),
        keeps_overlay: superblock.role == Role::Volume,
        consumers,
        copy: CopyProgress {
            id: superblock.copy_id,
            state: superblock.copy,
            written: superblock.copy_offset,
            durable: superblock.copy_offset,
            consistent_from: superblock.consistent_from,
        },
        counters: Counters::default(),
        totals: superblock.totals,
        space_wanted: false,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::SystemClock;
    use crate::test_disk::{Random, TestDisk};
    use crate::test_faults::FaultDisk;
    use farside_protocol::journal::ConsumerSlot;
    use farside_protocol::journal::limits::MAX_POSITION;
    use farside_protocol::journal::limits::SUPERBLOCK_OFFSETS;
    use std::sync::atomic::Ordering;

    fn parameters() -> StoreParameters {
        StoreParameters {
            role: Role::Volume,
            name: "disk".to_owned(),
            volume: Uuid::from_u128(1),
            journal: Uuid::from_u128(2),
            volume_bytes: 1 << 20,
            journal_bytes: 2 << 20,
            segment_bytes: None,
            source: Uuid::nil(),
        }
    }

    /// A sync fails at a start, the process dies, and the next start loses power while it writes its own superblock.
    #[test]
    fn a_superblock_that_is_in_the_cache_only_is_made_durable_before_the_other_copy_is_written() {
        let disk = |bytes| FaultDisk::new(Arc::new(TestDisk::new(bytes)));
        let (journal, image) = (disk(2 << 20), disk(1 << 20));
        let open = || {
            let devices = StoreDevices {
                journal: journal.clone(),
                image: image.clone(),
                maps: Vec::new(),
            };
            Store::open(devices, Arc::new(SystemClock::new()))
        };
        Store::format(journal.as_ref(), &parameters(), 1).unwrap();
        drop(open().unwrap());
        let newest = load_superblock(journal.as_ref()).unwrap().generation;
        let place =
            |generation: u64| usize::try_from(SUPERBLOCK_OFFSETS[usize::from(generation % 2 == 1)]).unwrap();
        journal.inner().tear_below(place(newest) + 100);
        journal.fail_sync.store(2, Ordering::SeqCst);
        open().unwrap_err();
        journal.inner().tear_below(place(newest + 1) + 100);
        let after = journal.inner().crash(&mut Random::new(1), 0);
        *journal.inner.lock() = Some(Arc::new(after));
        let store = open().expect("one copy of the superblock is whole");
        assert!(store.superblock().generation > newest);
    }

    #[test]
    fn a_remote_whose_position_contradicts_the_journals_is_refused_if_it_holds_the_tail() {
        let mut superblock = parameters().superblock(1);
        let point = |address, record| ChainPoint {
            address,
            record,
            ..ChainPoint::default()
        };
        superblock.mirrored = point(24576, 4);
        superblock.head = point(32768, 6);
        let mut judge = |state, acked| {
            let name = "far".to_owned();
            superblock.consumers = vec![ConsumerSlot {
                name,
                state,
                acked,
                copy_id: 0,
            }];
            refuse_impossible_positions("journal", &superblock).is_ok()
        };
        for holds in [ConsumerState::Attached, ConsumerState::Copying] {
            assert!(judge(holds, point(0, 0)) && judge(holds, point(28672, 5)));
            assert!(judge(holds, point(40960, 9)), "the journal lost its end");
            assert!(!judge(holds, point(0, 161)) && !judge(holds, point(24576, 5)));
        }
        assert!(judge(ConsumerState::NeedsCopy, point(0, 161)));
    }

    #[test]
    fn a_journal_at_the_end_of_all_numbers_is_refused_and_one_far_from_it_is_not() {
        let fresh = parameters().superblock(1);
        assert!(refuse_impossible_positions("journal", &fresh).is_ok());
        for change in [
            |found: &mut Superblock| found.epoch = MAX_POSITION,
            |found: &mut Superblock| found.starts = MAX_POSITION,
            |found: &mut Superblock| found.head.sequence = MAX_POSITION,
            |found: &mut Superblock| found.head.record = MAX_POSITION,
            |found: &mut Superblock| found.head.epoch = MAX_POSITION,
            |found: &mut Superblock| found.head.address = MAX_POSITION,
        ] {
            let mut far = fresh.clone();
            change(&mut far);
            assert!(refuse_impossible_positions("journal", &far).is_err());
        }
    }
}
