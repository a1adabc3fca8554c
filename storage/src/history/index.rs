//! Where before-images lie: a table per segment of the ring, in memory, and the moments between them.
//!
//! Everything in the ring has a serial number that rises by one. What the image was at a moment is, for each byte, the
//! first before-image after that moment's serial, or what the image holds now if there is none. Costs 24 bytes per
//! before-image and 32 per moment, of which the ring holds a bounded number. No I/O here.

use crate::limits::HISTORY_GRANULE_BYTES as GRANULE;
use farside_protocol::journal::ChainPoint;
use std::collections::{BTreeMap, VecDeque};
use std::ops::Range;

/// A state of the image that the ring can give back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Moment {
    /// The state after this record.
    pub record: u64,
    /// When that record was sealed, in microseconds since 1970.
    pub time_us: u64,
    /// Its place among everything in the ring.
    pub(super) serial: u64,
    /// Whether the volume ever had this state; not so in the middle of a copy.
    pub(super) settled: bool,
}

impl Moment {
    /// Its place among everything that was ever in the ring: the name that stays.
    #[must_use]
    pub fn serial(&self) -> u64 {
        self.serial
    }
}

/// `place` of a before-image that is all zeroes and has no bytes.
pub(super) const ZEROES: u32 = u32::MAX;
/// Longer ranges of zeroes are kept in a list of their own, instead of once for each granule.
const LONG_BYTES: u32 = 2 << 20;

const _: () = assert!(LONG_BYTES as u64 == 16 * GRANULE);

/// One before-image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) offset: u64,
    pub(super) length: u32,
    /// Counted from the first of its segment.
    pub(super) serial: u32,
    /// Its bytes, counted from the start of its segment.
    pub(super) place: u32,
    pub(super) checksum: u32,
}

const _: () = assert!(size_of::<Entry>() == 24);

impl Entry {
    fn key(&self) -> (u64, u32) {
        (self.offset / GRANULE, self.serial)
    }

    fn range(&self) -> Range<u64> {
        self.offset..self.offset + u64::from(self.length)
    }
}

/// One segment of the ring.
#[derive(Debug)]
pub(super) struct Segment {
    /// Counted over all laps.
    pub(super) number: u64,
    /// The point before its first chunk.
    pub(super) before: ChainPoint,
    /// Serial of the first thing in it.
    pub(super) first_serial: u64,
    /// In order, once nothing more is added.
    sealed: Vec<Entry>,
    open: BTreeMap<(u64, u32), Vec<Entry>>,
    long: Vec<Entry>,
    items: usize,
}

impl Segment {
    fn seal(&mut self) {
        self.sealed = std::mem::take(&mut self.open).into_values().flatten().collect();
        self.long.shrink_to_fit();
    }

    /// What may matter for a granule from a serial on, oldest first.
    fn entries(&self, granule: u64, from: u32) -> impl Iterator<Item = &Entry> {
        let first = self.sealed.partition_point(|entry| entry.key() < (granule, from));
        let sealed = self.sealed.iter().skip(first);
        let sealed = sealed.take_while(move |entry| entry.offset / GRANULE == granule);
        let open = self.open.range((granule, from)..(granule + 1, 0));
        sealed.chain(open.flat_map(|(_, entries)| entries))
    }
}

/// What is to be taken from the ring for a part of a read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Hit {
    pub(super) segment: u64,
    pub(super) entry: Entry,
    /// The bytes of the volume for which it counts.
    pub(super) wanted: Range<u64>,
}

/// All tables.
#[derive(Debug, Default)]
pub(super) struct Index {
    pub(super) segments: VecDeque<Segment>,
    moments: VecDeque<Moment>,
    items: usize,
    pins: BTreeMap<u64, u64>,
    next_pin: u64,
    /// Moments up to this serial can be viewed: the image has been brought there.
    pub(super) visible: u64,
}

impl Index {
    /// Before-images and moments held.
    pub(super) fn items(&self) -> usize {
        self.items + self.moments.len()
    }

    /// Items of the segment that is being filled.
    pub(super) fn open_items(&self) -> usize {
        self.segments.back().map_or(0, |segment| segment.items)
    }

    /// Something is about to be added to this segment.
    pub(super) fn begin_segment(&mut self, number: u64, before: ChainPoint, first_serial: u64) {
        if self.segments.back().is_some_and(|last| last.number == number) {
            return;
        }
        if let Some(last) = self.segments.back_mut() {
            last.seal();
        }
        self.segments.push_back(Segment {
            number,
            before,
            first_serial,
            sealed: Vec::new(),
            open: BTreeMap::new(),
            long: Vec::new(),
            items: 0,
        });
    }

    /// Adds a before-image to the newest segment. One with bytes lies within one granule.
    pub(super) fn add(&mut self, entry: Entry) {
        let Some(segment) = self.segments.back_mut() else {
            return;
        };
        if entry.length > LONG_BYTES {
            self.items += 1;
            segment.items += 1;
            segment.long.push(entry);
            return;
        }
        // Short ranges of zeroes may touch several granules, and are found from each.
        let mut rest = entry;
        loop {
            let end = rest.range().end;
            let cut = end.min((rest.offset / GRANULE + 1) * GRANULE);
            let part = Entry {
                length: u32::try_from(cut - rest.offset).unwrap_or(u32::MAX),
                ..rest
            };
            segment.open.entry(part.key()).or_default().push(part);
            self.items += 1;
            segment.items += 1;
            if cut == end {
                return;
            }
            rest.length -= part.length;
            rest.offset = cut;
        }
    }

    pub(super) fn add_moment(&mut self, moment: Moment) {
        self.moments.push_back(moment);
        if let Some(segment) = self.segments.back_mut() {
            segment.items += 1;
        }
    }

    /// Forgets the oldest segment, and what needed it. The point before what is left.
    pub(super) fn drop_oldest(&mut self) -> Option<ChainPoint> {
        let gone = self.segments.pop_front()?;
        let next = self.segments.front();
        let first = next.map_or(u64::MAX, |segment| segment.first_serial);
        let moments = self.moments.len();
        while self
            .moments
            .pop_front_if(|moment| moment.serial < first)
            .is_some()
        {}
        self.items -= gone.items - (moments - self.moments.len()).min(gone.items);
        self.pins.retain(|_, serial| *serial >= first);
        next.map(|segment| segment.before)
    }

    /// Whether somebody needs what the oldest segment holds.
    pub(super) fn oldest_is_pinned(&self) -> bool {
        let next = self
            .segments
            .get(1)
            .map_or(u64::MAX, |segment| segment.first_serial);
        self.pins.values().any(|serial| *serial < next)
    }

    /// Forgets everything.
    pub(super) fn clear(&mut self) {
        self.segments.clear();
        self.moments.clear();
        self.items = 0;
        self.pins.clear();
    }

    /// The moment with this serial.
    pub(super) fn known(&self, serial: u64) -> Option<Moment> {
        let at = self
            .moments
            .binary_search_by_key(&serial, |known| known.serial)
            .ok()?;
        self.moments.get(at).copied().filter(|moment| moment.settled)
    }

    /// Keeps what a moment needs for as long as the ring can. `None`: it is gone already.
    pub(super) fn pin(&mut self, moment: &Moment) -> Option<u64> {
        self.known(moment.serial)?;
        self.next_pin += 1;
        self.pins.insert(self.next_pin, moment.serial);
        Some(self.next_pin)
    }

    pub(super) fn unpin(&mut self, pin: u64) {
        self.pins.remove(&pin);
    }

    pub(super) fn is_pinned(&self, pin: u64) -> bool {
        self.pins.contains_key(&pin)
    }

    /// Moments that the volume had and the image has been brought to, oldest first.
    pub(super) fn moments(&self) -> impl DoubleEndedIterator<Item = &Moment> {
        let is_one = |moment: &&Moment| moment.settled && moment.serial <= self.visible;
        self.moments.iter().filter(is_one)
    }

    /// These moments never came to pass.
    pub(super) fn void(&mut self, serials: &[u64]) {
        for serial in serials {
            if let Ok(at) = self.moments.binary_search_by_key(serial, |known| known.serial)
                && let Some(moment) = self.moments.get_mut(at)
            {
                moment.settled = false;
            }
        }
    }

    /// Whether there is a moment that the volume had.
    pub(super) fn has_settled(&self) -> bool {
        self.moments.iter().any(|moment| moment.settled)
    }

    /// What to take from the ring so that `range` reads as it was at `after`; the rest is in the image.
    pub(super) fn find(&self, range: Range<u64>, after: u64) -> Vec<Hit> {
        let mut hits = Vec::new();
        let mut missing = vec![range.clone()];
        let first = self
            .segments
            .partition_point(|segment| segment.first_serial <= after)
            .saturating_sub(1);
        for segment in self.segments.range(first.min(self.segments.len())..) {
            let from = u32::try_from((after + 1).saturating_sub(segment.first_serial)).unwrap_or(u32::MAX);
            let mut found: Vec<&Entry> = Vec::new();
            let granules = range.start / GRANULE..=(range.end.max(1) - 1) / GRANULE;
            for granule in granules {
                let mut left = missing.clone();
                left = take(&mut left, &(granule * GRANULE..(granule + 1) * GRANULE));
                for entry in segment.entries(granule, from) {
                    if left.is_empty() {
                        break;
                    }
                    if take(&mut left, &entry.range()).is_empty() {
                        continue;
                    }
                    found.push(entry);
                }
            }
            let long = segment.long.iter().filter(|entry| entry.serial >= from);
            found.extend(long);
            found.sort_by_key(|entry| entry.serial);
            for entry in found {
                for wanted in take(&mut missing, &entry.range()) {
                    hits.push(Hit {
                        segment: segment.number,
                        entry: *entry,
                        wanted,
                    });
                }
            }
            if missing.is_empty() {
                break;
            }
        }
        hits
    }

    /// The ranges of which something was overwritten between two serials, in order, neighbours joined.
    pub(super) fn changed(&self, after: u64, before: u64) -> Vec<Range<u64>> {
        let mut ranges: Vec<Range<u64>> = Vec::new();
        for segment in &self.segments {
            let open = segment.open.values().flatten();
            let all = segment.sealed.iter().chain(open).chain(&segment.long);
            let between = all.filter(|entry| {
                let serial = segment.first_serial + u64::from(entry.serial);
                serial > after && serial < before
            });
            ranges.extend(between.map(Entry::range));
        }
        ranges.sort_by_key(|range| range.start);
        ranges.dedup_by(|next, kept| {
            let joins = next.start <= kept.end;
            if joins {
                kept.end = kept.end.max(next.end);
            }
            joins
        });
        ranges
    }
}

/// Takes `range` out of the ordered ranges in `left`; what was taken.
fn take(left: &mut Vec<Range<u64>>, range: &Range<u64>) -> Vec<Range<u64>> {
    let mut taken = Vec::new();
    if left
        .iter()
        .all(|have| have.end <= range.start || have.start >= range.end)
    {
        return taken;
    }
    let mut rest = Vec::with_capacity(left.len() + 1);
    for have in left.drain(..) {
        let (start, end) = (have.start.max(range.start), have.end.min(range.end));
        if start >= end {
            rest.push(have);
            continue;
        }
        taken.push(start..end);
        rest.extend(
            [have.start..start, end..have.end]
                .into_iter()
                .filter(|part| !part.is_empty()),
        );
    }
    *left = rest;
    taken
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_disk::Random;

    fn entry(offset: u64, length: u32, serial: u32) -> Entry {
        Entry {
            offset,
            length,
            serial,
            place: ZEROES,
            checksum: 0,
        }
    }

    #[test]
    fn a_range_is_taken_once() {
        let mut left = vec![0..10, 20..30];
        assert_eq!(take(&mut left, &(5..25)), [5..10, 20..25]);
        assert_eq!(left, [0..5, 25..30]);
        assert_eq!(take(&mut left, &(5..25)), []);
        assert_eq!(take(&mut left, &(0..40)), [0..5, 25..30]);
        assert!(left.is_empty());
    }

    /// For each byte the first before-image after the moment counts: against a list that is searched from its start.
    #[test]
    fn the_first_before_image_after_a_moment_counts() {
        for seed in 1..60 {
            let mut random = Random::new(seed);
            let (mut index, mut all) = (Index::default(), Vec::new());
            let mut first = 1;
            for number in 0..5 {
                index.begin_segment(number, ChainPoint::default(), first);
                for serial in 0..20 {
                    let offset = random.below(40) * 4096;
                    let length = match random.below(8) {
                        0 => 4 << 20,
                        1 => 300 << 10,
                        _ => u32::try_from(4096 * (1 + random.below(8))).unwrap(),
                    };
                    index.add(entry(offset, length, serial));
                    all.push((first + u64::from(serial), offset..offset + u64::from(length)));
                }
                first += 20;
            }
            for after in [0, 7, 20, 55, 99, 100] {
                let range = 4096 * random.below(20)..4096 * (21 + random.below(60));
                let hits = index.find(range.clone(), after);
                for at in range.step_by(2048) {
                    let expected = all
                        .iter()
                        .find(|(serial, held)| *serial > after && held.contains(&at));
                    let hit = hits.iter().find(|hit| hit.wanted.contains(&at));
                    let found = hit.map(|hit| hit.segment * 20 + 1 + u64::from(hit.entry.serial));
                    assert_eq!(found, expected.map(|(serial, _)| *serial), "seed {seed} at {at}");
                }
            }
        }
    }

    #[test]
    fn what_is_dropped_takes_its_moments_and_pins_along() {
        let mut index = Index::default();
        let moment = |serial| Moment {
            record: serial,
            time_us: 0,
            serial,
            settled: true,
        };
        for number in 0..3 {
            index.begin_segment(number, ChainPoint::default(), number * 10);
            index.add_moment(moment(number * 10));
            index.add(entry(0, 4096, 1));
        }
        assert_eq!(index.items(), 6);
        index.visible = 20;
        let (old, new) = (index.pin(&moment(0)).unwrap(), index.pin(&moment(20)).unwrap());
        assert!(index.oldest_is_pinned());
        index.drop_oldest();
        assert!(!index.is_pinned(old) && index.is_pinned(new) && !index.oldest_is_pinned());
        assert!(index.pin(&moment(0)).is_none());
        assert_eq!((index.moments().count(), index.items()), (2, 4));
        index.drop_oldest();
        assert!(index.oldest_is_pinned());
        assert_eq!(index.changed(0, u64::MAX).first(), Some(&(0..4096)));
        assert_eq!(index.changed(0, 21), []);
    }
}
