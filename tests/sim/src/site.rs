//! A volume of the world: its disks, what really happened to it, and old copies of it.

use crate::checks::chunks::Chunks;
use crate::checks::full_copies::Copies;
use crate::checks::tail::DurableTail;
use crate::disk::SimDisk;
use crate::history::History;
use crate::platter::Platter;
use crate::taps::{ImageTap, JournalTap};
use crate::world::World;
use farside::link::StatusCell;
use farside::volume::Volume;
use farside_protocol::journal::{BLOCK_MAP_HEADER_BYTES, BlockMapHeader, ChainPoint, Role, Superblock};
use farside_storage::{BlockMap, Clock, Device, Store, StoreDevices, StoreParameters, load_superblock};
use farside_tests::random::Random;
use parking_lot::Mutex;
use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::sync::Arc;
use tokio::sync::watch;
use tokio::time::Instant;
use uuid::Uuid;

/// A volume's disks and what is known of it, whichever process serves it.
#[derive(Debug)]
pub struct Site {
    /// Its name.
    pub name: String,
    /// Its identity.
    pub uuid: Uuid,
    /// The most it can grow to: that is how large the disk of its mirror is.
    pub capacity: u64,
    /// The size that its operator wants.
    pub wanted: Cell<u64>,
    /// Maps for a larger volume that have not got their place yet.
    pub new_maps: RefCell<BTreeMap<String, Arc<Platter>>>,
    /// Tells its links to stop.
    pub stop: RefCell<Option<watch::Sender<bool>>>,
    /// Held by each of its links.
    pub links_running: Rc<()>,
    /// Its journal's disk.
    pub journal: Arc<Platter>,
    /// Its mirror's disk.
    pub image: Arc<Platter>,
    /// The disks of its dirty-block maps, by remote.
    pub maps: RefCell<BTreeMap<String, Arc<Platter>>>,
    /// What really happened to it.
    pub history: Arc<Mutex<History>>,
    /// What is known of its chunks.
    pub chunks: Arc<Mutex<Chunks>>,
    /// What its superblocks and those of its replicas say of copies.
    pub copies: Arc<Mutex<Copies>>,
    /// Remotes that are configured.
    pub remotes: RefCell<Vec<String>>,
    /// The highest record each remote was believed to hold.
    pub confirmed: RefCell<BTreeMap<String, u64>>,
    /// Bits of its journal that were flipped: it may end in an error, never in wrong content.
    pub flips: Cell<u32>,
    /// It came up without records that had been durable, because their chunks were damaged: its mirror may hold more
    /// than its journal knows, and remotes another branch of its history.
    pub lost_its_end: Cell<bool>,
    /// Old copies of its disks, and its history at that time.
    pub backups: RefCell<Vec<Backup>>,
    /// Replicas ahead of the old copy that was put back: nothing of them may be lost.
    pub left_ahead: RefCell<BTreeMap<String, LeftAhead>>,
    /// Its histories until it went back in time, each time: the network may still hold chunks of them for replicas.
    pub branches_left: RefCell<Vec<History>>,
    /// A disk of it met a fault: it may be degraded until the unit is started again.
    pub faulty: Cell<bool>,
    /// The volume, while it is in service.
    pub volume: RefCell<Option<Arc<Volume>>>,
    /// Why it is not, if opening it failed.
    pub broken: RefCell<Option<String>>,
    /// Where its links stand.
    pub links: RefCell<BTreeMap<String, Arc<StatusCell>>>,
    /// Those whose backlogs are merged.
    pub merging: RefCell<BTreeSet<String>>,
    /// What its links said last.
    pub refusals: RefCell<BTreeMap<String, String>>,
    /// Since when hosts wait for an answer.
    pub waiting: RefCell<BTreeMap<u64, Instant>>,
    /// What its superblocks say durably of its tail.
    pub(crate) tail: Arc<DurableTail>,
}

/// An old copy of a volume's disks.
#[derive(Debug)]
pub struct Backup {
    journal: Arc<Platter>,
    image: Arc<Platter>,
    maps: BTreeMap<String, Arc<Platter>>,
    history: History,
    remotes: Vec<String>,
}

/// What a remote held when its volume went back in time.
#[derive(Debug)]
pub struct LeftAhead {
    /// Its last chunk.
    pub point: ChainPoint,
    /// The volume after that.
    pub state: Vec<u8>,
}

impl Site {
    /// Makes a volume: formats its journal.
    ///
    /// # Panics
    /// When that fails.
    #[must_use]
    pub fn make(world: &World, number: u128) -> Rc<Self> {
        let mut random = world.random.borrow_mut();
        let name = format!("v{number}");
        let whole_pages = random.chance(30);
        let volume_bytes = 4096 * random.between(8, 32);
        let capacity = volume_bytes + 4096 * random.below(24);
        let segment_bytes: u32 = *random.pick(&[16 << 10, 16 << 10, 32 << 10]);
        let journal_bytes = (64 << 10) + u64::from(segment_bytes) * *random.pick(&[4, 4, 4, 5, 6, 8, 12, 48]);
        let leaves_out = random.chance(25);
        drop(random);
        let site = Self {
            uuid: Uuid::from_u128(0xd15c_0000 + number),
            capacity,
            wanted: Cell::new(volume_bytes),
            new_maps: RefCell::default(),
            stop: RefCell::default(),
            links_running: Rc::default(),
            journal: Platter::new(&format!("{name}/journal"), journal_bytes, whole_pages),
            image: Platter::new(&format!("{name}/mirror"), capacity, whole_pages),
            maps: RefCell::default(),
            history: Arc::new(Mutex::new(History::new(capacity))),
            chunks: Arc::default(),
            copies: Copies::new(),
            remotes: RefCell::default(),
            confirmed: RefCell::default(),
            flips: Cell::new(0),
            lost_its_end: Cell::new(false),
            backups: RefCell::default(),
            left_ahead: RefCell::default(),
            branches_left: RefCell::default(),
            faulty: Cell::new(false),
            volume: RefCell::default(),
            broken: RefCell::default(),
            links: RefCell::default(),
            merging: RefCell::default(),
            refusals: RefCell::default(),
            waiting: RefCell::default(),
            tail: Arc::default(),
            name,
        };
        site.history.lock().leaves_out = leaves_out;
        let parameters = StoreParameters {
            role: Role::Volume,
            name: site.name.clone(),
            volume: site.uuid,
            journal: Uuid::from_u128(0x10c0_0000 + number),
            volume_bytes,
            journal_bytes,
            segment_bytes: Some(segment_bytes),
            source: Uuid::nil(),
        };
        let disk = SimDisk::quietly(&site.journal);
        Store::format(&*disk, &parameters, world.local_clock.wall_us()).expect("a healthy disk is formatted");
        site.journal.watch(JournalTap::new(&site, &world.stats));
        site.image.watch(ImageTap::new(&site.history, None));
        Rc::new(site)
    }

    /// The size of the volume, as far as it is in service.
    #[must_use]
    pub fn volume_bytes(&self) -> u64 {
        let volume = self.volume.borrow();
        volume
            .as_ref()
            .map_or(self.wanted.get(), |volume| volume.store().volume_bytes())
    }

    pub(crate) fn map(&self, remote: &str) -> Arc<Platter> {
        let mut maps = self.maps.borrow_mut();
        let map = maps
            .entry(remote.to_owned())
            .or_insert_with(|| self.new_map(remote));
        map.clone()
    }

    /// An empty map.
    pub(crate) fn new_map(&self, remote: &str) -> Arc<Platter> {
        let bytes = BlockMap::file_bytes(&BlockMap::header_for(self.uuid, self.capacity));
        let name = format!("{}/{remote}.map", self.name);
        Platter::new(&name, bytes, self.journal.has_whole_pages())
    }

    /// The map in force at a start: one for a larger volume is, if the volume is as large.
    fn map_in_force(&self, remote: &str, superblock: &Superblock) -> Arc<Platter> {
        let header = BlockMap::header_for(superblock.volume, superblock.volume_bytes);
        let new = self.new_maps.borrow().get(remote).cloned();
        let fits = |map: &Arc<Platter>| {
            let mut start = [0; BLOCK_MAP_HEADER_BYTES];
            let read = SimDisk::quietly(map).read_at(&mut start, 0);
            read.is_ok() && BlockMapHeader::decode(&start) == Ok(header)
        };
        new.filter(fits).unwrap_or_else(|| self.map(remote))
    }

    /// A start gives the new maps that are in force their place, and removes the others.
    pub(crate) fn settle_maps(&self) {
        if let Ok(superblock) = load_superblock(&*SimDisk::quietly(&self.journal)) {
            for slot in &superblock.consumers {
                let map = self.map_in_force(&slot.name, &superblock);
                self.maps.borrow_mut().insert(slot.name.clone(), map);
            }
            self.new_maps.borrow_mut().clear();
        }
    }

    /// Keeps a copy of its disks, as they are while nobody uses them.
    pub fn back_up(&self, random: &mut Random) {
        // Whoever copies the files copies the maps of a growth in doubt, too.
        self.settle_maps();
        let maps = self.maps.borrow();
        let backup = Backup {
            journal: self.journal.fork(false, random),
            image: self.image.fork(false, random),
            maps: maps
                .iter()
                .map(|(name, map)| (name.clone(), map.fork(false, random)))
                .collect(),
            history: self.history.lock().clone(),
            remotes: self.remotes.borrow().clone(),
        };
        self.backups.borrow_mut().push(backup);
    }

    /// Puts the copy back that was made last. Which replicas were ahead of it is known by `held`.
    pub fn go_back(&self, held: impl Fn(&str) -> Option<LeftAhead>) {
        let backups = self.backups.borrow();
        let Some(backup) = backups.last() else { return };
        let mut left_ahead = self.left_ahead.borrow_mut();
        for remote in self.remotes.borrow().iter() {
            let ahead = held(remote).filter(|held| held.point.record > backup.history.last());
            if let Some(ahead) = ahead.filter(|_| !left_ahead.contains_key(remote)) {
                left_ahead.insert(remote.clone(), ahead);
            }
        }
        self.journal.restore(&backup.journal);
        self.tail.forget();
        self.image.restore(&backup.image);
        self.new_maps.borrow_mut().clear();
        for (name, map) in &backup.maps {
            self.map(name).restore(map);
        }
        self.remotes.borrow_mut().clone_from(&backup.remotes);
        let mut history = backup.history.clone();
        let mut now = self.history.lock();
        history.went_back_from(&now);
        let left = std::mem::replace(&mut *now, history);
        drop(now);
        self.branches_left.borrow_mut().push(left);
        self.confirmed.borrow_mut().clear();
        self.copies.lock().forgive();
    }

    /// Whether its journal was damaged.
    #[must_use]
    pub fn is_hurt(&self) -> bool {
        self.flips.get() > 0
    }

    /// Every disk of the volume.
    #[must_use]
    pub fn platters(&self) -> Vec<Arc<Platter>> {
        let mut all = vec![self.journal.clone(), self.image.clone()];
        all.extend(self.maps.borrow().values().cloned());
        all.extend(self.new_maps.borrow().values().cloned());
        all
    }

    /// Its devices, as `open` gives them.
    ///
    /// # Errors
    /// When the superblock cannot be read.
    pub fn devices(
        &self,
        open: impl Fn(&Arc<Platter>) -> Arc<SimDisk>,
    ) -> Result<StoreDevices, farside_storage::StorageError> {
        let journal = open(&self.journal);
        let superblock = load_superblock(&*journal)?;
        let maps = superblock
            .consumers
            .iter()
            .map(|slot| open(&self.map_in_force(&slot.name, &superblock)) as Arc<_>);
        Ok(StoreDevices {
            maps: maps.collect(),
            image: open(&self.image),
            journal,
        })
    }
}
