//! Media of the world: what was written stays in a volatile cache until it is synced, and a power loss keeps any
//! version of any unsynced sector.
//!
//! A sync that fails forgets which sectors it should have written, as operating systems do: a later one that
//! succeeds does not bring them back. Which of them it wrote before it failed, nobody knows.

pub use crate::faults::Fault;
use crate::faults::{Lost, Planned};
use crate::stats::happened;
use farside_tests::random::Random;
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::fmt::Debug;
use std::sync::Arc;

/// What a device writes whole or not at all.
pub(crate) const SECTOR: usize = 512;
pub(crate) const PAGE: usize = 4096;
/// Versions of an unsynced sector that a power loss chooses from.
const VERSIONS: usize = 4;

/// Sees what reaches a disk, from inside the call.
pub trait Tap: Debug + Send + Sync {
    /// These bytes stand at `offset` now, in the cache.
    fn wrote(&self, offset: u64, bytes: &[u8]);
    /// A write failed or was cut short after its first page, and this stands there now: what was written of it, and what was
    /// there before.
    fn left(&self, _offset: u64, _found: &[u8]) {}
    /// This range reads as zeroes now.
    fn zeroed(&self, offset: u64, length: u64);
    /// A sync succeeded.
    fn synced(&self, platter: &Platter);
}

type Sector = [u8; SECTOR];

/// A sector whose newest content is not durable; that one is what reads give.
#[derive(Debug, Clone)]
struct Unsynced {
    durable: Box<Sector>,
    /// When the newest content was written, in versions of the medium.
    stamp: u64,
    /// What stood there in between, and since when; oldest first.
    older: Vec<(u64, Sector)>,
}

#[derive(Debug, Default)]
pub(crate) struct Content {
    pub(crate) pages: Vec<Option<Box<[u8; PAGE]>>>,
    unsynced: BTreeMap<usize, Unsynced>,
    /// What is durable of sectors that a failed sync gave up: reads give something else, no sync writes it.
    given_up: BTreeMap<usize, Sector>,
    faults: Vec<Planned>,
    /// Rises with every change.
    pub(crate) version: u64,
    /// A bit of it was flipped.
    was_damaged: bool,
    /// The sectors of a page survive together, in versions that stood there together.
    whole_pages: bool,
}

/// The medium itself.
#[derive(Debug)]
pub struct Platter {
    pub(crate) name: String,
    pub(crate) bytes: u64,
    pub(crate) content: Mutex<Content>,
    tap: Mutex<Option<Arc<dyn Tap>>>,
}

impl Content {
    pub(crate) fn read(&self, offset: usize, buffer: &mut [u8]) {
        let mut at = offset;
        for part in split(buffer, offset) {
            let (page, inside) = (at / PAGE, at % PAGE);
            match self.pages.get(page).and_then(Option::as_ref) {
                Some(page) => part.copy_from_slice(&page[inside..inside + part.len()]),
                None => part.fill(0),
            }
            at += part.len();
        }
    }

    fn sector(&self, sector: usize) -> Sector {
        let mut bytes = [0; SECTOR];
        self.read(sector * SECTOR, &mut bytes);
        bytes
    }

    fn put(&mut self, offset: usize, bytes: &[u8]) {
        let mut at = offset;
        let mut rest = bytes;
        while !rest.is_empty() {
            let (page, inside) = (at / PAGE, at % PAGE);
            let length = rest.len().min(PAGE - inside);
            let page = self.pages[page].get_or_insert_with(|| Box::new([0; PAGE]));
            page[inside..inside + length].copy_from_slice(&rest[..length]);
            rest = &rest[length..];
            at += length;
        }
    }

    /// Writes into the cache.
    pub(crate) fn write(&mut self, offset: usize, bytes: &[u8]) {
        if bytes.is_empty() {
            return;
        }
        self.version += 1;
        let stamp = self.version;
        for sector in offset / SECTOR..(offset + bytes.len()).div_ceil(SECTOR) {
            let before = self.sector(sector);
            if let Some(unsynced) = self.unsynced.get_mut(&sector) {
                if unsynced.older.len() == VERSIONS {
                    unsynced.older.remove(0);
                }
                unsynced.older.push((unsynced.stamp, before));
                unsynced.stamp = stamp;
            } else {
                let durable = Box::new(self.given_up.remove(&sector).unwrap_or(before));
                self.unsynced.insert(sector, Unsynced::new(durable, stamp));
            }
        }
        if self.whole_pages {
            self.take_up_again(offset / PAGE..(offset + bytes.len()).div_ceil(PAGE), stamp);
        }
        self.put(offset, bytes);
    }

    /// Whoever writes whole pages also writes the sectors that were given up in them.
    fn take_up_again(&mut self, pages: std::ops::Range<usize>, stamp: u64) {
        let sectors = pages.start * PAGE / SECTOR..pages.end * PAGE / SECTOR;
        let given_up: Vec<_> = self.given_up.range(sectors).map(|(sector, _)| *sector).collect();
        for sector in given_up {
            if let Some(durable) = self.given_up.remove(&sector) {
                self.unsynced
                    .insert(sector, Unsynced::new(Box::new(durable), stamp));
            }
        }
    }

    /// Zeroes in the cache; whole pages become holes unless their space is to be kept.
    pub(crate) fn zero(&mut self, offset: usize, length: usize, allocate: bool) {
        self.write(offset, &vec![0; length]);
        let (first, end) = (offset.div_ceil(PAGE), (offset + length) / PAGE);
        if let Some(pages) = self.pages.get_mut(first..end).filter(|_| !allocate) {
            pages.fill(None);
        }
    }

    /// Everything written up to the version `begun` is durable, but for what a sync that failed gave up.
    pub(crate) fn settle(&mut self, begun: u64, lost: Lost) {
        let mut unsynced = std::mem::take(&mut self.unsynced);
        unsynced.retain(|sector, unsynced| {
            let is_lost = lost.has(*sector, self.whole_pages);
            if unsynced.stamp <= begun {
                if is_lost {
                    self.given_up.insert(*sector, *unsynced.durable);
                }
                return false;
            }
            let synced = unsynced.older.iter().rev().find(|(stamp, _)| *stamp <= begun);
            if let Some((_, bytes)) = synced.filter(|_| !is_lost) {
                *unsynced.durable = *bytes;
            }
            unsynced.older.retain(|(stamp, _)| *stamp > begun);
            true
        });
        self.unsynced = unsynced;
        if self.whole_pages {
            let mut pages = BTreeMap::new();
            for (sector, unsynced) in &self.unsynced {
                let since = pages.entry(sector * SECTOR / PAGE).or_insert(unsynced.stamp);
                *since = unsynced.stamp.min(*since);
            }
            for (page, since) in pages {
                self.take_up_again(page..page + 1, since);
            }
        }
    }

    /// Whether the next call of a kind fails, and how.
    pub(crate) fn fault(&mut self, kinds: &[Fault]) -> Option<Fault> {
        let mut all = self.faults.iter();
        let at = all.position(|planned| kinds.contains(&planned.fault))?;
        let planned = &mut self.faults[at];
        if !planned.is_met() {
            return None;
        }
        let fault = planned.fault;
        if !planned.lasts {
            self.faults.remove(at);
        }
        Some(fault)
    }
}

impl Unsynced {
    fn new(durable: Box<Sector>, stamp: u64) -> Self {
        Self {
            durable,
            stamp,
            older: Vec::new(),
        }
    }

    /// When its versions were written, but for those that nobody remembers.
    fn stamps(&self) -> impl Iterator<Item = u64> {
        let older = self.older.iter().map(|(stamp, _)| *stamp);
        older.chain([self.stamp])
    }

    /// The oldest of which all is known from then on.
    fn known_since(&self) -> u64 {
        let forgets = self.older.len() == VERSIONS;
        self.older
            .first()
            .filter(|_| forgets)
            .map_or(0, |(stamp, _)| *stamp)
    }

    /// What stood there at a time; `None` if it still does.
    fn at(&self, stamp: u64) -> Option<Sector> {
        if self.stamp <= stamp {
            return None;
        }
        let mut older = self.older.iter().rev();
        let then = older.find(|(written, _)| *written <= stamp);
        Some(then.map_or(*self.durable, |(_, bytes)| *bytes))
    }
}

/// A page as it may survive: as it was after one of the writes to it.
fn some_version(page: &[(usize, Unsynced)], random: &mut Random) -> u64 {
    let known_since = page.iter().map(|(_, unsynced)| unsynced.known_since()).max();
    let stamps = page.iter().flat_map(|(_, unsynced)| unsynced.stamps());
    let stamps: Vec<_> = stamps.filter(|stamp| Some(*stamp) >= known_since).collect();
    *random.pick(&stamps)
}

/// The pieces of a buffer that lie on one page each.
fn split(buffer: &mut [u8], offset: usize) -> impl Iterator<Item = &mut [u8]> {
    let first = (PAGE - offset % PAGE).min(buffer.len());
    let (head, rest) = buffer.split_at_mut(first);
    std::iter::once(head).chain(rest.chunks_mut(PAGE))
}

impl Platter {
    /// A medium full of zeroes.
    #[must_use]
    pub fn new(name: &str, bytes: u64, whole_pages: bool) -> Arc<Self> {
        let pages = index(bytes).div_ceil(PAGE);
        Arc::new(Self {
            name: name.to_owned(),
            bytes,
            content: Mutex::new(Content {
                pages: (0..pages).map(|_| None).collect(),
                whole_pages,
                ..Content::default()
            }),
            tap: Mutex::default(),
        })
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Whoever sees what happens here.
    pub fn watch(&self, tap: Arc<dyn Tap>) {
        *self.tap.lock() = Some(tap);
    }

    pub(crate) fn tap(&self) -> Option<Arc<dyn Tap>> {
        self.tap.lock().clone()
    }

    /// Whether it writes pages whole or not at all.
    #[must_use]
    pub fn has_whole_pages(&self) -> bool {
        self.content.lock().whole_pages
    }

    /// A call from now on meets a fault, and some disks stay like that.
    pub fn plan(&self, fault: Fault, calls: u64) {
        self.content.lock().faults.push(Planned::new(fault, calls));
    }

    /// No call meets a fault any more.
    pub fn heal(&self) {
        self.content.lock().faults.clear();
    }

    /// Whether some call from now on meets a fault.
    #[must_use]
    pub fn is_faulty(&self) -> bool {
        !self.content.lock().faults.is_empty()
    }

    /// Loses power: of each unsynced sector any version survives.
    pub fn lose_power(&self, random: &mut Random) {
        let mut content = self.content.lock();
        content.version += 1;
        let unsynced = std::mem::take(&mut content.unsynced);
        // Some power losses keep nearly all, some nearly nothing, some exactly one thing.
        let keep_percent = *random.pick(&[0, 10, 50, 90, 100, 50]);
        let unit = if content.whole_pages { PAGE } else { SECTOR };
        let unsynced: Vec<_> = unsynced.into_iter().collect();
        for unit in unsynced.chunk_by(|one, other| one.0 * SECTOR / unit == other.0 * SECTOR / unit) {
            let keeps = random.below(100) < keep_percent;
            let version = match (keeps, random.below(2)) {
                (false, _) => 0,
                (true, 0) => u64::MAX,
                (true, _) => some_version(unit, random),
            };
            for (sector, lost) in unit {
                let survivor = if keeps {
                    lost.at(version)
                } else {
                    Some(*lost.durable)
                };
                if let Some(survivor) = survivor {
                    content.put(sector * SECTOR, &survivor);
                }
            }
        }
        for (sector, durable) in std::mem::take(&mut content.given_up) {
            content.put(sector * SECTOR, &durable);
        }
    }

    /// Whether nothing of this range can be lost.
    #[must_use]
    pub fn is_durable(&self, range: std::ops::Range<u64>) -> bool {
        let content = self.content.lock();
        let sectors = index(range.start) / SECTOR..index(range.end).div_ceil(SECTOR);
        content.unsynced.range(sectors.clone()).next().is_none()
            && content.given_up.range(sectors).next().is_none()
    }

    /// A copy of what is on it, as it would be after a power loss now.
    #[must_use]
    pub fn fork(&self, power_lost: bool, random: &mut Random) -> Arc<Self> {
        let content = self.content.lock();
        let copy = Arc::new(Self {
            name: format!("a copy of {}", self.name),
            bytes: self.bytes,
            content: Mutex::new(Content {
                pages: content.pages.clone(),
                unsynced: content.unsynced.clone(),
                given_up: content.given_up.clone(),
                whole_pages: content.whole_pages,
                ..Content::default()
            }),
            tap: Mutex::default(),
        });
        drop(content);
        if power_lost {
            copy.lose_power(random);
        }
        copy
    }

    /// Takes over what is on another medium of this size, durably.
    pub fn restore(&self, from: &Self) {
        let pages = from.content.lock().pages.clone();
        let mut content = self.content.lock();
        content.pages = pages;
        content.version += 1;
        content.unsynced.clear();
        content.given_up.clear();
    }

    /// Somebody else writes these bytes, as he writes to any disk: what watches it for the product does not see that.
    pub fn scribble(&self, offset: u64, bytes: &[u8]) {
        self.content.lock().write(index(offset), bytes);
    }

    /// What is beyond becomes a hole, durably.
    pub fn cut(&self, bytes: u64) {
        let mut content = self.content.lock();
        content.zero(index(bytes), index(self.bytes - bytes), false);
        let version = content.version;
        content.settle(version, Lost::Nothing);
    }

    /// Flips a bit in a range of the medium, if anything was ever written there. True if a bit was flipped.
    pub fn flip_bit(&self, random: &mut Random, range: std::ops::Range<u64>) -> bool {
        let mut content = self.content.lock();
        let at = index(random.between(range.start, range.end.saturating_sub(1)));
        let Some(Some(page)) = content.pages.get_mut(at / PAGE) else {
            return false;
        };
        if page.iter().all(|byte| *byte == 0) {
            return false;
        }
        page[at % PAGE] ^= 1 << random.below(8);
        content.was_damaged = true;
        happened("bits flipped");
        true
    }

    /// Whether a bit of it was ever flipped.
    #[must_use]
    pub fn was_damaged(&self) -> bool {
        self.content.lock().was_damaged
    }

    /// A number that rises with every change.
    #[must_use]
    pub fn version(&self) -> u64 {
        self.content.lock().version
    }

    /// What reads give now.
    #[must_use]
    pub fn content(&self) -> Vec<u8> {
        let mut bytes = vec![0; index(self.bytes)];
        self.content.lock().read(0, &mut bytes);
        bytes
    }
}

/// Whether some call to one of these meets a fault.
#[must_use]
pub fn is_any_faulty(platters: &[Arc<Platter>]) -> bool {
    platters.iter().any(|platter| platter.is_faulty())
}

pub(crate) fn index(number: u64) -> usize {
    usize::try_from(number).expect("simulated disks are small")
}
