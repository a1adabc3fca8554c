//! A machine's disks between two syncs: what is durable, what the page cache holds, and what of it may survive.
//!
//! Every write is kept as units, each a run of sectors that the enumeration takes or leaves together: the sectors
//! of a chunk that hold its two parts and the ends of its payload are units of their own. Any subset of the units,
//! laid over the durable content in the order of writing, is a state that a loss of power may leave; every version
//! of a sector that was ever pending can so be the one that survives.

use crate::disk::{Disk, PAGE_BYTES, Page, index};
use farside_protocol::journal::limits::RING_OFFSET;
use std::fmt;
use std::ops::Range;
use std::sync::Arc;

/// The journal among a machine's disks.
pub(crate) const JOURNAL: usize = 0;
/// The image.
pub(crate) const IMAGE: usize = 1;
/// The first dirty-block map; the others follow.
pub(crate) const MAPS: usize = 2;

/// One call to a device, or a promise made.
#[derive(Clone)]
pub(crate) enum Event {
    /// Bytes written at an offset.
    Write(usize, u64, Arc<[u8]>),
    /// A range zeroed.
    Zero(usize, u64, u64),
    /// A device made durable.
    Sync(usize),
    /// From here on the promise with this number holds.
    Promise(usize),
}

impl fmt::Debug for Event {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = |device: &usize| match *device {
            JOURNAL => "journal".to_owned(),
            IMAGE => "image".to_owned(),
            map => format!("map {}", map - MAPS),
        };
        match self {
            Self::Write(device, offset, data) => {
                write!(
                    formatter,
                    "write {}+{} of the {}",
                    offset,
                    data.len(),
                    name(device)
                )
            }
            Self::Zero(device, offset, length) => {
                write!(formatter, "zero {offset}+{length} of the {}", name(device))
            }
            Self::Sync(device) => write!(formatter, "sync of the {}", name(device)),
            Self::Promise(_) => formatter.write_str("return of a call"),
        }
    }
}

/// A run of sectors of one write, with their content when it was written.
#[derive(Clone)]
struct Unit {
    device: usize,
    sectors: Range<usize>,
    pages: Arc<[Arc<Page>]>,
    first_page: usize,
    serial: u64,
}

/// The disks of one machine at one moment.
#[derive(Clone)]
pub(crate) struct Machine {
    sector_bytes: usize,
    durable: Vec<Disk>,
    current: Vec<Disk>,
    pending: Vec<Unit>,
    /// Per disk the number of its last sync, which names its durable content.
    synced: Vec<u64>,
    serial: u64,
}

impl Machine {
    /// Disks of zeroes, durably.
    pub(crate) fn new(sizes: &[u64]) -> Self {
        let disks: Vec<Disk> = sizes.iter().map(|bytes| Disk::new(*bytes)).collect();
        Self {
            sector_bytes: 512,
            durable: disks.clone(),
            current: disks,
            pending: Vec::new(),
            synced: vec![0; sizes.len()],
            serial: 0,
        }
    }

    /// The same with sectors of another size; only while nothing is pending.
    pub(crate) fn with_sectors(&self, sector_bytes: usize) -> Self {
        assert!(
            self.pending.is_empty(),
            "sectors are decided before the first write"
        );
        Self {
            sector_bytes,
            ..self.clone()
        }
    }

    /// What a disk holds, durable or not.
    pub(crate) fn current(&self, device: usize) -> &Disk {
        &self.current[device]
    }

    /// What a disk holds durably.
    pub(crate) fn durable(&self, device: usize) -> &Disk {
        &self.durable[device]
    }

    /// Number of disks.
    pub(crate) fn disks(&self) -> usize {
        self.current.len()
    }

    /// Number of units that are not durable.
    pub(crate) fn pending(&self) -> usize {
        self.pending.len()
    }

    /// The disk of each unit that is not durable, in the order of writing.
    pub(crate) fn pending_devices(&self) -> impl Iterator<Item = usize> {
        self.pending.iter().map(|unit| unit.device)
    }

    /// Lets one event happen.
    pub(crate) fn apply(&mut self, event: &Event) {
        match event {
            Event::Write(device, offset, data) => {
                self.current[*device].write(index(*offset), data);
                self.add_units(*device, *offset, data.len() as u64, what_bytes(data));
            }
            Event::Zero(device, offset, length) => {
                self.current[*device].zero(index(*offset), index(*length));
                self.add_units(*device, *offset, *length, 0);
            }
            Event::Sync(device) => {
                self.serial += 1;
                self.synced[*device] = self.serial;
                self.durable[*device] = self.current[*device].clone();
                self.pending.retain(|unit| unit.device != *device);
            }
            Event::Promise(_) => {}
        }
    }

    /// The first parts of an event: what a process that is killed in the middle of the call may have done of it.
    pub(crate) fn parts(&self, event: &Event) -> Vec<Event> {
        let (device, offset, length) = match event {
            Event::Write(device, offset, data) => (*device, *offset, data.len() as u64),
            Event::Zero(device, offset, length) => (*device, *offset, *length),
            Event::Sync(_) | Event::Promise(_) => return Vec::new(),
        };
        let what = if let Event::Write(_, _, data) = event {
            what_bytes(data)
        } else {
            0
        };
        let runs = self.runs(device, offset, length, what);
        let ends = runs.iter().map(|run| (run.end * self.sector_bytes) as u64);
        let inside = ends.filter(|end| *end < offset + length);
        inside
            .map(|end| match event {
                Event::Write(_, _, data) => Event::Write(device, offset, data[..index(end - offset)].into()),
                _ => Event::Zero(device, offset, end - offset),
            })
            .collect()
    }

    /// The state after a loss of power in which only the marked units survive.
    pub(crate) fn lose_power(&self, kept: &[bool]) -> Self {
        let mut disks = self.durable.clone();
        for unit in self.kept(kept) {
            for sector in unit.sectors.clone() {
                let page = sector * self.sector_bytes / PAGE_BYTES - unit.first_page;
                disks[unit.device].patch(sector, self.sector_bytes, &unit.pages[page]);
            }
        }
        Self {
            durable: disks.clone(),
            current: disks,
            pending: Vec::new(),
            synced: vec![0; self.synced.len()],
            serial: 0,
            sector_bytes: self.sector_bytes,
        }
    }

    /// A number for that state: equal only for subsets that leave the same content.
    pub(crate) fn key(&self, kept: &[bool]) -> u64 {
        let mut newest = std::collections::BTreeMap::new();
        for unit in self.kept(kept) {
            for sector in unit.sectors.clone() {
                newest.insert((unit.device, sector), unit.serial);
            }
        }
        let start = self.synced.iter().fold(1, |key, serial| mix(key, *serial));
        newest.iter().fold(start, |key, ((device, sector), serial)| {
            mix(mix(key, (*device as u64) << 32 | *sector as u64), *serial)
        })
    }

    fn kept<'a>(&'a self, kept: &'a [bool]) -> impl Iterator<Item = &'a Unit> {
        self.pending
            .iter()
            .zip(kept)
            .filter(|(_, kept)| **kept)
            .map(|(unit, _)| unit)
    }

    fn add_units(&mut self, device: usize, offset: u64, length: u64, what: usize) {
        for sectors in self.runs(device, offset, length, what) {
            let first_page = sectors.start * self.sector_bytes / PAGE_BYTES;
            let end_page = (sectors.end * self.sector_bytes).div_ceil(PAGE_BYTES);
            let pages = (first_page..end_page).map(|page| self.current[device].page(page).clone());
            self.serial += 1;
            self.pending.push(Unit {
                device,
                sectors,
                pages: pages.collect(),
                first_page,
                serial: self.serial,
            });
        }
    }

    /// Cuts the sectors of one call into the runs that survive together.
    fn runs(&self, device: usize, offset: u64, length: u64, what: usize) -> Vec<Range<usize>> {
        let (from, to) = (index(offset), index(offset + length));
        let (first, end) = (from / self.sector_bytes, to.div_ceil(self.sector_bytes));
        let block = PAGE_BYTES / self.sector_bytes;
        let mut cuts = vec![1, end - first - 1];
        if device == JOURNAL && block > 1 {
            // Of a meta-data block: the what part, the where part in the last sector; then the payload.
            cuts.extend([block - 1, block, block + 1]);
            if offset >= RING_OFFSET && what <= self.sector_bytes {
                cuts.remove(0);
            }
        }
        cuts.retain(|cut| *cut > 0 && *cut < end - first);
        cuts.sort_unstable();
        cuts.dedup();
        let starts = std::iter::once(first).chain(cuts.iter().map(|cut| first + cut));
        let ends = cuts.iter().map(|cut| first + cut).chain([end]);
        starts.zip(ends).map(|(start, end)| start..end).collect()
    }
}

/// Length of the *what* part of a chunk, 0 for anything else.
fn what_bytes(data: &[u8]) -> usize {
    match data.get(..12) {
        Some(start) if start.starts_with(b"FARCHUNK") => usize::from(start[10]) << 8 | usize::from(start[11]),
        _ => 0,
    }
}

/// Mixes a number into a key.
pub(crate) fn mix(key: u64, number: u64) -> u64 {
    let mixed = (key ^ number.wrapping_mul(0x9e37_79b9_7f4a_7c15)).wrapping_mul(0xff51_afd7_ed55_8ccd);
    mixed ^ (mixed >> 29)
}
