//! Remotes: what the journal keeps for each, and what becomes of one that falls too far behind.

use super::Store;
use super::state::Consumer;
use crate::block_map::BlockMap;
use crate::device::Device;
use crate::error::StorageError;
use crate::journal::{ChunkSpan, ReadError};
use crate::limits::TRAIL_READ_BYTES;
use farside_protocol::journal::limits::{BLOCK_BYTES, MAX_CONSUMERS};
use farside_protocol::journal::{ChainPoint, ConsumerState, CopyState, MAX_TRAIL_POINTS, RecordKind, What};
use std::sync::Arc;

/// What a store says about one of its consumers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConsumerView {
    /// What it may expect.
    pub state: ConsumerState,
    /// Up to where it confirmed.
    pub acked: ChainPoint,
    /// Names the copy under way, through its interruptions; 0 if there is none.
    pub copy_id: u32,
    /// Bytes that changed since it was cut loose.
    pub dirty_bytes: u64,
}

impl Store {
    /// What is known about a consumer.
    #[must_use]
    pub fn consumer(&self, name: &str) -> Option<ConsumerView> {
        let state = self.state.lock();
        let consumer = state.consumers.iter().find(|consumer| consumer.name == name)?;
        let dirty = if consumer.is_held() {
            0
        } else {
            consumer.map.marked_bytes()
        };
        Some(ConsumerView {
            state: consumer.state,
            acked: consumer.acked,
            copy_id: consumer.copy_id,
            dirty_bytes: dirty,
        })
    }

    /// Adds a consumer that needs a copy, with the device that holds its dirty-block map.
    ///
    /// # Errors
    /// [`StorageError`]; also when there are too many.
    pub fn add_consumer(&self, name: &str, map: Arc<dyn Device>) -> Result<(), StorageError> {
        let known = self.state.lock().consumers.len();
        if known >= MAX_CONSUMERS || self.consumer(name).is_some() {
            let text =
                format!("has {known} remotes; {name} is one of them, or one more than {MAX_CONSUMERS}");
            return Err(StorageError::refused(self.name(), text));
        }
        let mut map = BlockMap::open(map, self.journal.volume, self.volume_bytes())?;
        map.mark(0, self.volume_bytes());
        let consumer = Consumer {
            name: name.to_owned(),
            state: ConsumerState::NeedsCopy,
            acked: ChainPoint::default(),
            copy_id: 0,
            leaving: false,
            map,
        };
        self.state.lock().consumers.push(consumer);
        self.checkpoint()
    }

    /// Forgets a consumer; the tail no longer waits for it.
    ///
    /// # Errors
    /// [`StorageError`].
    pub fn remove_consumer(&self, name: &str) -> Result<(), StorageError> {
        self.state
            .lock()
            .consumers
            .retain(|consumer| consumer.name != name);
        self.checkpoint()
    }

    /// Begins or restarts the copy for a consumer: from now on everything after a position that the image has reached is kept
    /// for it. Returns that position, the base of the copy, and the id of the copy. It consists of what the map marks:
    /// with `all` that is everything.
    ///
    /// # Errors
    /// [`StorageError`]; also for an unknown consumer.
    pub fn begin_consumer_copy(&self, name: &str, all: bool) -> Result<(ChainPoint, u32), StorageError> {
        let marked = self.mark_since_copy(name)?;
        let (base, id, before) = {
            let mut state = self.state.lock();
            let applied = state.points.applied;
            if state.is_reset || state.copy.state != CopyState::Complete {
                let text = "is being copied itself; the link tries again";
                return Err(StorageError::refused(&self.name, text));
            }
            let consumer = find(&mut state.consumers, name, self.name())?;
            if consumer.state == ConsumerState::Copying && marked.is_none() {
                let text = "another copy for this remote was begun at the same time; the link tries again";
                return Err(StorageError::refused(&self.name, text));
            }
            // Unless it was cut loose meanwhile: then its map marks everything up to now.
            let base = marked
                .filter(|marked| consumer.state == ConsumerState::Copying && marked.address < applied.address)
                .unwrap_or(applied);
            let new_id = self.new_copy_id(&base);
            // What the map of one that follows marks is of an earlier time.
            if all || consumer.state == ConsumerState::Attached {
                consumer.map.mark(0, self.volume_bytes());
            }
            // It stays the same as long as marks are only added.
            if consumer.copy_id == 0 {
                consumer.copy_id = new_id;
            }
            let id = consumer.copy_id;
            let before = (consumer.state, consumer.acked);
            (consumer.state, consumer.acked) = (ConsumerState::Copying, base);
            consumer.leaving = false;
            (base, id, before)
        };
        self.checkpoint().inspect_err(|_| {
            // What is not recorded was not begun: the next start would know nothing of what it brought there.
            let mut state = self.state.lock();
            if let Ok(consumer) = find(&mut state.consumers, name, &self.name) {
                (consumer.state, consumer.acked) = before;
            }
        })?;
        Ok((base, id))
    }

    /// Marks what was changed since a copy was begun that begins anew, and was not confirmed. Up to where.
    fn mark_since_copy(&self, name: &str) -> Result<Option<ChainPoint>, StorageError> {
        let (from, to) = {
            let mut state = self.state.lock();
            let to = state.points.journaled;
            let consumer = find(&mut state.consumers, name, self.name())?;
            if consumer.state != ConsumerState::Copying {
                return Ok(None);
            }
            (consumer.acked, to)
        };
        self.mark_missed(name, from, to).map(Some)
    }

    /// Told apart from the ids of earlier copies, and from those of other volumes, as far as 32 bits can.
    fn new_copy_id(&self, base: &ChainPoint) -> u32 {
        let now = self.clock.wall_us().to_be_bytes();
        crc32c::crc32c_append(base.checksum, &now).max(1)
    }

    /// What of a range that begins at `offset` a copy for this consumer consists of: where it ends, and whether it is copied or
    /// left as it is.
    #[must_use]
    pub fn copy_extent(&self, name: &str, offset: u64) -> (u64, bool) {
        let end = self.volume_bytes();
        let state = self.state.lock();
        let consumer = state.consumers.iter().find(|consumer| consumer.name == name);
        consumer.map_or((end, true), |consumer| {
            let (until, marked) = consumer.map.run(offset);
            (until.min(end), marked)
        })
    }

    /// Bytes that a copy for this consumer consists of, from an offset on.
    #[must_use]
    pub fn copy_bytes(&self, name: &str, from: u64) -> u64 {
        let state = self.state.lock();
        let consumer = state.consumers.iter().find(|consumer| consumer.name == name);
        consumer.map_or(0, |consumer| consumer.map.marked_from(from, self.volume_bytes()))
    }

    /// The consumer holds everything up to `acked`; `complete` ends its copy.
    ///
    /// # Errors
    /// [`StorageError`] for an unknown consumer. A consumer that was cut loose meanwhile stays so.
    pub fn acknowledge(&self, name: &str, acked: ChainPoint, complete: bool) -> Result<(), StorageError> {
        let mut state = self.state.lock();
        let durable = state.points.durable;
        let consumer = find(&mut state.consumers, name, self.name())?;
        if !consumer.is_held() {
            return Ok(());
        }
        if acked.record > durable.record {
            return Err(StorageError::refused(
                name,
                "confirmed records that were never sent to it",
            ));
        }
        if acked.address > consumer.acked.address {
            consumer.acked = acked;
            if consumer.state == ConsumerState::Copying {
                // It has heard of the copy: what it held before is gone.
                consumer.map.forget_trail();
            }
        }
        if complete && consumer.state == ConsumerState::Copying {
            consumer.state = ConsumerState::Attached;
            consumer.copy_id = 0;
            // Its marks stay until it is cut loose: as long as the disk still says that it is being copied, they count.
            consumer.map.forget_trail();
        }
        Ok(())
    }

    /// Whether records are kept for any consumer.
    pub(super) fn acked_by_any(&self) -> bool {
        self.state.lock().holders().next().is_some()
    }

    /// Lowest record that every consumer with kept records has confirmed; the durable one without any.
    #[must_use]
    pub fn acked(&self) -> u64 {
        let state = self.state.lock();
        state
            .holders()
            .map(|consumer| consumer.acked.record)
            .min()
            .unwrap_or(state.points.durable.record)
    }

    /// Counts blocks that went to remotes and that they confirmed.
    pub fn count_link(&self, sent_blocks: u64, received_blocks: u64) {
        let mut state = self.state.lock();
        state.counters.sent_blocks += sent_blocks;
        state.counters.received_blocks += received_blocks;
    }

    /// Whether what was just read for a consumer may be sent to it. Once it is being let go it may not: what it can
    /// have received is written down at that time.
    #[must_use]
    pub fn may_send_to(&self, name: &str) -> bool {
        let state = self.state.lock();
        let consumer = state.consumers.iter().find(|consumer| consumer.name == name);
        consumer.is_some_and(Consumer::follows)
    }

    /// Chunks after `from`, up to `limit`, as many whole ones as `max_bytes` hold.
    ///
    /// # Errors
    /// [`ReadError::Behind`] when the ring has moved past `from`; [`ReadError::Storage`].
    pub fn read_chunks(
        &self,
        from: &ChainPoint,
        limit: &ChainPoint,
        max_bytes: usize,
        buffer: &mut Vec<u8>,
    ) -> Result<Vec<ChunkSpan>, ReadError> {
        if from.address >= limit.address {
            return Ok(Vec::new());
        }
        let spans = self.journal.read_run(from, limit.address, max_bytes, buffer)?;
        let tail = self.state.lock().points.tail;
        match (spans.is_empty(), from.address < tail.address) {
            (_, true) => Err(ReadError::Behind(from.record)),
            (false, false) => Ok(spans),
            (true, false) => {
                let offset = self.journal.layout.file_offset(from.address);
                let text = format!(
                    "chunk {} was durable and is no longer readable",
                    from.sequence + 1
                );
                Err(StorageError::damaged(self.name(), offset, text).into())
            }
        }
    }

    /// What a journal takes for the merged batch that begins after a point, with what is trimmed and zeroed in it.
    ///
    /// # Errors
    /// [`StorageError`].
    pub fn batch_size(&self, from: &ChainPoint) -> Result<u64, StorageError> {
        let mut block = Box::new([0; BLOCK_BYTES]);
        let (mut at, mut bytes) = (*from, 0_u64);
        while let Some((_, what, after)) =
            self.journal
                .next_chunk(&at, self.points().durable.address, &mut block)?
        {
            let erased = what.records().filter(|record| record.payload_bytes() == 0);
            let erased: u64 = erased.map(|record| u64::from(record.length)).sum();
            bytes = bytes.saturating_add(what.stored_bytes()).saturating_add(erased);
            if !what.has_more() {
                break;
            }
            at = after;
        }
        Ok(bytes)
    }

    /// The point just after the chunk whose last record is `record`; `None` if the journal no longer has it.
    ///
    /// # Errors
    /// [`StorageError`].
    pub fn locate(&self, record: u64) -> Result<Option<ChainPoint>, StorageError> {
        loop {
            let points = self.points();
            let found = self.journal.locate(record, &points.tail, &points.durable)?;
            // The search began at a tail that may have been passed and overwritten meanwhile: what it did not find may be
            // there all the same, behind the tail of now.
            let tail = self.points().tail;
            if found.is_some() || tail.address == points.tail.address || record < tail.record {
                return Ok(found);
            }
        }
    }

    /// Keeps no records for a consumer any more, from now on: what it misses goes to its map.
    ///
    /// # Errors
    /// [`StorageError`].
    pub fn let_go(&self, name: &str) -> Result<(), StorageError> {
        self.cut_loose(u64::MAX, Some(name))?;
        self.checkpoint()
    }

    /// Cuts loose all consumers confirmed up to an address below `below`, or one of them: what they miss goes to their maps.
    /// Returns the names of those that were.
    pub(super) fn cut_loose(&self, below: u64, only: Option<&str>) -> Result<Vec<String>, StorageError> {
        // One at a time: the second would clear what the first has marked.
        let _one = self.cutting.lock();
        // A map that the disk calls that of a copy under way must not lose marks there.
        let ended = {
            let written = self.written_superblock.lock();
            let state = self.state.lock();
            state.consumers.iter().any(|consumer| {
                consumer.state == ConsumerState::Attached
                    && written
                        .consumers
                        .iter()
                        .any(|slot| slot.name == consumer.name && slot.state != ConsumerState::Attached)
            })
        };
        if ended {
            self.checkpoint()?;
        }
        // From here on nothing more is read for them, so that the trail has an end.
        let (behind, sent): (Vec<(String, ConsumerState, ChainPoint)>, ChainPoint) = {
            let mut state = self.state.lock();
            let sent = state.points.durable;
            let holders = state.consumers.iter_mut().filter(|consumer| consumer.is_held());
            let meant = |consumer: &Consumer| only.is_none_or(|only| consumer.name == only);
            let behind = holders.filter(|consumer| meant(consumer) && consumer.acked.address < below);
            let behind = behind.map(|consumer| {
                consumer.leaving = true;
                if consumer.state == ConsumerState::Attached {
                    consumer.map.clear();
                }
                (consumer.name.clone(), consumer.state, consumer.acked)
            });
            (behind.collect(), sent)
        };
        let mut cut = Vec::new();
        for (name, was, acked) in &behind {
            let trail = self.trail_between(*acked, sent)?;
            // The long walk first, while the host goes on; then the little that came meanwhile, with appends held.
            let walked = self.mark_missed(name, *acked, self.points().journaled)?;
            let _appender = self.appender.lock();
            let journaled = self.points().journaled;
            let reached = self.mark_missed(name, walked, journaled)?;
            let mut state = self.state.lock();
            // Removed meanwhile: nothing holds the tail for it any more. Or a copy was begun for it: it follows again from
            // there, and what it is sent since then is not in this trail.
            let found = find(&mut state.consumers, name, self.name()).ok();
            let Some(consumer) = found.filter(|consumer| consumer.leaving) else {
                continue;
            };
            // It confirmed enough during the walk: it no longer holds up the journal, and goes on as before.
            if consumer.acked.address >= below {
                consumer.leaving = false;
                continue;
            }
            // A copy that ended meanwhile, perhaps another than the one that was under way.
            if *was != consumer.state || reached.address != journaled.address {
                consumer.map.mark(0, self.volume_bytes());
            }
            // Also in the middle of a copy: its end may have reached the remote before it was confirmed here.
            consumer.map.set_trail(trail, *was == ConsumerState::Copying);
            consumer.state = ConsumerState::NeedsCopy;
            consumer.leaving = false;
            cut.push(name.clone());
        }
        Ok(cut)
    }

    /// The ends of the chunks after a confirmed point: what of them reached the consumer is known to it alone.
    fn trail_between(&self, acked: ChainPoint, limit: ChainPoint) -> Result<Vec<ChainPoint>, StorageError> {
        let (mut trail, mut buffer, mut from) = (vec![acked], Vec::new(), acked);
        while trail.len() < MAX_TRAIL_POINTS {
            let spans = self
                .journal
                .read_run(&from, limit.address, TRAIL_READ_BYTES, &mut buffer)?;
            if spans.is_empty() {
                break;
            }
            // In the middle of a batch nobody stands.
            from = spans.last().map_or(from, |span| span.after);
            trail.extend(
                spans
                    .into_iter()
                    .filter(|span| !span.has_more)
                    .map(|span| span.after),
            );
        }
        trail.truncate(MAX_TRAIL_POINTS);
        Ok(trail)
    }

    /// Our point at `record`, if it is one that this consumer can have been sent before it was cut loose.
    #[must_use]
    pub fn trail_point(&self, name: &str, record: u64) -> Option<ChainPoint> {
        let state = self.state.lock();
        let consumer = state.consumers.iter().find(|consumer| consumer.name == name)?;
        let confirmed = Some(consumer.acked).filter(|acked| acked.record == record);
        confirmed.or_else(|| consumer.map.trail_point(record))
    }

    /// Marks what the records between two points change; returns the point reached.
    pub(super) fn mark_missed(
        &self,
        name: &str,
        from: ChainPoint,
        to: ChainPoint,
    ) -> Result<ChainPoint, StorageError> {
        self.journal.walk(from, to.address, |_, what| {
            let mut state = self.state.lock();
            let consumer = state.consumers.iter_mut().find(|consumer| consumer.name == name);
            if let Some(consumer) = consumer {
                mark_all(consumer, what);
            }
        })
    }
}

fn mark_all(consumer: &mut Consumer, what: &What<'_>) {
    for record in what
        .records()
        .filter(|record| !matches!(record.kind, RecordKind::Mark(_)))
    {
        consumer.map.mark(record.offset, record.end());
    }
}

fn find<'a>(
    consumers: &'a mut [Consumer],
    name: &str,
    store: &str,
) -> Result<&'a mut Consumer, StorageError> {
    let found = consumers.iter_mut().find(|consumer| consumer.name == name);
    found.ok_or_else(|| StorageError::refused(store, format!("has no remote named {name}")))
}
