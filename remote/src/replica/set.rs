//! The replicas of a unit: a directory each, opened at the start or made by the first greeting of a sender.
//!
//! Whose replica it is, is checked against its own superblock before anything is written.

pub mod aside;
mod fit;
mod places;
mod restoring;

pub use aside::{AsideError, AsideReplica, SeedPlace};

use super::{Past, Replica};
use crate::sink::Replicas;
use aside::notes::{ADOPTED, SEED};
use aside::shelf::Directory;
use aside::{Aside, Shelf, found, taken_up};
use farside_protocol::journal::Role;
use farside_protocol::journal::limits::{MIN_SEGMENTS, RING_OFFSET};
use farside_protocol::link::{Hello, Refusal, RefuseCode};
use farside_storage::{
    Clock, FileDevice, OpenMode, StorageError, Store, StoreFiles, StoreParameters, SystemWorkers,
    create_files, open_files,
};
use fit::{check, check_geometry, grow};
use parking_lot::Mutex;
use places::{image_in, lead_to};
use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use uuid::Uuid;

/// Where replicas are kept and which are accepted.
#[derive(Debug, Clone)]
pub struct ReplicaSetConfig {
    /// Name of this unit, for what senders are told.
    pub unit_name: String,
    /// Directory with one directory for each replica.
    pub directory: PathBuf,
    /// Bytes for the journal of a new replica.
    pub journal_bytes: u64,
    /// Bytes for the history of a new replica; 0 for none, also of those that are there.
    pub history_bytes: u64,
    /// Names that are accepted; all if absent.
    pub accept: Option<Vec<String>>,
}

/// A replica that could not be opened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FailedReplica {
    /// Its name.
    pub name: String,
    /// What is wrong and what to do.
    pub problem: String,
}

#[derive(Debug, Clone)]
enum Slot {
    Starting,
    Open(Arc<Replica>),
    Failed(String),
    /// And the size of its image, as it was then.
    Aside(Aside, u64),
}

/// All replicas of a unit.
#[derive(Debug)]
pub struct ReplicaSet {
    config: ReplicaSetConfig,
    clock: Arc<dyn Clock>,
    /// A slot that is [`Slot::Starting`] belongs to whoever put it there: a replica is opened or made once, and
    /// nobody waits for it.
    slots: Mutex<BTreeMap<String, Slot>>,
    /// Images that are to lie elsewhere, by the name of their replica.
    images: Mutex<BTreeMap<String, PathBuf>>,
    /// Replicas that could not be opened because their images were not there.
    absent: Mutex<BTreeSet<String>>,
    stopping: AtomicBool,
}

const IMAGE: &str = "replica.img";

fn files_in(directory: &Path, name: &str) -> StoreFiles {
    let own = directory.join(name);
    StoreFiles {
        journal: own.join("journal"),
        image: image_in(&own),
        maps: own,
    }
}

/// Size of an image; 0 if nobody can tell.
fn image_bytes(image: &Path) -> u64 {
    let opened = File::open(image)
        .ok()
        .and_then(|file| FileDevice::new(file, image).ok());
    opened.and_then(|device| device.size_bytes().ok()).unwrap_or(0)
}

/// The slot of a directory whose replica is set aside.
fn slot_of(directory: &Path) -> Option<Slot> {
    let shelf = Directory::new(directory);
    shelf.tidy_up();
    let found = found(&shelf)?;
    let aside = |aside| Slot::Aside(aside, image_bytes(&image_in(directory)));
    Some(found.map_or_else(Slot::Failed, aside))
}

impl ReplicaSet {
    /// Finds the replicas in the directory; none is in service before [`open_all`](Self::open_all).
    ///
    /// # Errors
    /// The operating system's, when the directory cannot be made or read.
    pub fn find_in_directory(config: ReplicaSetConfig, clock: Arc<dyn Clock>) -> std::io::Result<Self> {
        std::fs::create_dir_all(&config.directory)?;
        let mut slots = BTreeMap::new();
        for entry in std::fs::read_dir(&config.directory)? {
            let name = entry?.file_name().to_string_lossy().into_owned();
            if let Some(slot) = slot_of(&config.directory.join(&name)) {
                slots.insert(name, slot);
            } else if files_in(&config.directory, &name).journal.exists() {
                slots.insert(name, Slot::Starting);
            }
        }
        Ok(Self {
            config,
            clock,
            slots: Mutex::new(slots),
            images: Mutex::default(),
            absent: Mutex::default(),
            stopping: AtomicBool::new(false),
        })
    }

    /// Opens and recovers every replica that was found; one that cannot be opened is kept with the reason. Blocks.
    pub fn open_all(self: &Arc<Self>) {
        for name in self.starting() {
            if self.stopping.load(Ordering::Acquire) {
                return;
            }
            self.open_one(name);
        }
    }

    /// Opens one whose slot is the caller's.
    fn open_one(self: &Arc<Self>, name: String) {
        if self.is_restoring(&name) {
            self.go_on_restoring(name);
            return;
        }
        let files = files_in(&self.config.directory, &name);
        self.absent.lock().remove(&name);
        let opened = self.open_replica(&files);
        let opened = opened.map_err(|error| self.with_remedy(&name, &error));
        if let Err(problem) = &opened {
            tracing::error!(replica = name, "replica not in service: {problem}");
            if !files.image.exists() {
                self.absent.lock().insert(name.clone());
            }
        }
        self.settle_slot(name, opened);
    }

    /// Tries once more to open what could not be opened: what was in the way may be gone. Blocks.
    pub fn open_failed(self: &Arc<Self>) {
        let mut failed = Vec::new();
        for (name, slot) in self.slots.lock().iter_mut() {
            if matches!(slot, Slot::Failed(_)) {
                *slot = Slot::Starting;
                failed.push(name.clone());
            }
        }
        for name in failed {
            if let Some(slot) = slot_of(&self.config.directory.join(&name)) {
                self.slots.lock().insert(name, slot);
            } else if files_in(&self.config.directory, &name).journal.exists() {
                self.open_one(name);
            } else {
                // It was moved away.
                self.slots.lock().remove(&name);
            }
        }
    }

    /// What is wrong with a replica, and what to do if its files cannot be had back.
    fn with_remedy(&self, name: &str, error: &StorageError) -> String {
        if !error.is_lost_content() {
            return error.to_string();
        }
        format!(
            "{error}, then reload the unit (SIGHUP); if it is lost, move the directory {} away and reload: the replica gets a \
             full copy",
            self.config.directory.join(name).display()
        )
    }

    /// Ends the opening of a replica. One that comes after the shutdown is shut down at once.
    fn settle_slot(&self, name: String, opened: Result<Arc<Replica>, String>) {
        let late = {
            let mut slots = self.slots.lock();
            if self.stopping.load(Ordering::Acquire) {
                opened.ok()
            } else {
                slots.insert(name, opened.map_or_else(Slot::Failed, Slot::Open));
                None
            }
        };
        if let Some(replica) = late {
            shut_down_one(&replica);
        }
    }

    /// The replicas in service, by name.
    #[must_use]
    pub fn replicas(&self) -> Vec<Arc<Replica>> {
        let open = |slot: &Slot| match slot {
            Slot::Open(replica) => Some(replica.clone()),
            Slot::Starting | Slot::Failed(_) | Slot::Aside(..) => None,
        };
        self.slots.lock().values().filter_map(open).collect()
    }

    /// The names of those that are being opened.
    #[must_use]
    pub fn starting(&self) -> Vec<String> {
        let slots = self.slots.lock();
        let starting = slots.iter().filter(|(_, slot)| matches!(slot, Slot::Starting));
        starting.map(|(name, _)| name.clone()).collect()
    }

    /// Those that could not be opened.
    #[must_use]
    pub fn failed(&self) -> Vec<FailedReplica> {
        let failed = |(name, slot): (&String, &Slot)| match slot {
            Slot::Starting | Slot::Open(_) | Slot::Aside(..) => None,
            Slot::Failed(problem) => Some(FailedReplica {
                name: name.clone(),
                problem: problem.clone(),
            }),
        };
        self.slots.lock().iter().filter_map(failed).collect()
    }

    /// Shuts all replicas down, also those that are being opened now, as soon as they are. Blocks.
    pub fn shut_down(&self) {
        let slots = {
            let mut slots = self.slots.lock();
            self.stopping.store(true, Ordering::Release);
            std::mem::take(&mut *slots)
        };
        for slot in slots.into_values() {
            if let Slot::Open(replica) = slot {
                shut_down_one(&replica);
            }
        }
    }

    /// Opens one whose image was not there and is now, so that its volume finds it.
    fn open_returned(self: &Arc<Self>, name: &str) {
        let is_back =
            self.absent.lock().contains(name) && files_in(&self.config.directory, name).image.exists();
        if !is_back {
            return;
        }
        {
            let mut slots = self.slots.lock();
            if !matches!(slots.get(name), Some(Slot::Failed(_))) {
                return;
            }
            slots.insert(name.to_owned(), Slot::Starting);
        }
        tracing::info!(replica = name, "its image is there again");
        self.open_one(name.to_owned());
    }

    fn find(self: &Arc<Self>, hello: &Hello) -> Option<Result<Arc<Replica>, Refusal>> {
        let name = &hello.volume_name;
        self.open_returned(name);
        let mut slots = self.slots.lock();
        let Some(slot) = slots.get(name).cloned() else {
            // Whoever is told that there is none makes it.
            slots.insert(name.clone(), Slot::Starting);
            return None;
        };
        if let Slot::Aside(Aside::Seeded(owner), _) = &slot {
            if owner.is_none_or(|owner| owner.admits(hello)) {
                slots.insert(name.clone(), Slot::Starting);
                return None;
            }
            let text = format!(
                "what is kept for replica {name} is another volume's, or another unit's, or larger; rename the volume, or, {}",
                self.way_out(name)
            );
            return Some(Err(Refusal::new(RefuseCode::ForeignVolume, 0, &text)));
        }
        drop(slots);
        Some(match slot {
            Slot::Starting => {
                let text =
                    format!("replica {name} is being made or recovered; the link comes up when it is ready");
                Err(Refusal::new(RefuseCode::Busy, 0, &text))
            }
            Slot::Open(replica) => check(&replica, hello, &self.way_out(name))
                .and_then(|()| grow(&replica, hello))
                .map(|()| replica),
            Slot::Failed(problem) => {
                let text = format!("replica {name} is not in service: {problem}");
                Err(Refusal::new(RefuseCode::Degraded, 0, &text))
            }
            Slot::Aside(..) => {
                let text = format!(
                    "replica {name} is detached: unit {} has handed its disk over; 'farside replica attach' there takes \
                     it back",
                    self.config.unit_name
                );
                Err(Refusal::new(RefuseCode::NotAccepted, 0, &text))
            }
        })
    }

    /// What to do to give a replica up; read on another unit, so it names this one.
    fn way_out(&self, name: &str) -> String {
        let directory = self.config.directory.join(name);
        format!(
            "on unit {}: stop it, move the directory {} away, start it again",
            self.config.unit_name,
            directory.display()
        )
    }

    fn find_or_make(self: &Arc<Self>, hello: &Hello) -> Result<Arc<Replica>, Refusal> {
        let name = &hello.volume_name;
        if self.stopping.load(Ordering::Acquire) {
            return Err(shutting_down());
        }
        self.check_accepted(name)?;
        check_geometry(hello)?;
        if let Some(found) = self.find(hello) {
            return found;
        }
        // Also should this panic, the next greeting must be free to try again.
        let mut claim = Claim {
            set: self,
            name,
            made: false,
        };
        let seeded = Directory::new(&self.config.directory.join(name)).has(SEED);
        let replica = self.make(hello, seeded).map_err(|error| {
            let text = format!("replica {name} cannot be made: {error}");
            tracing::error!(replica = name.as_str(), "{text}");
            Refusal::new(RefuseCode::Degraded, 0, &text)
        })?;
        claim.made = true;
        self.settle_slot(name.clone(), Ok(replica.clone()));
        Ok(replica)
    }

    fn check_accepted(&self, name: &String) -> Result<(), Refusal> {
        let accept = &self.config.accept;
        if accept.as_ref().is_none_or(|accepted| accepted.contains(name)) {
            return Ok(());
        }
        let text = format!("volume {name} is not among those this unit accepts; add it to link.accept there");
        Err(Refusal::new(RefuseCode::NotAccepted, 0, &text))
    }

    fn make(&self, hello: &Hello, seeded: bool) -> Result<Arc<Replica>, StorageError> {
        let directory = self.config.directory.join(&hello.volume_name);
        if seeded {
            self.check_adopted(&hello.volume_name)?;
        } else if let Some(place) = self.free_place(&hello.volume_name)? {
            lead_to(&directory, &place)?;
        }
        let files = files_in(&self.config.directory, &hello.volume_name);
        let smallest = u64::from(hello.segment_bytes) * u64::from(MIN_SEGMENTS) * 2 + RING_OFFSET;
        let parameters = StoreParameters {
            role: Role::Replica,
            name: hello.volume_name.clone(),
            volume: hello.volume,
            journal: Uuid::new_v4(),
            volume_bytes: hello.volume_bytes,
            journal_bytes: self.config.journal_bytes.max(smallest),
            segment_bytes: Some(hello.segment_bytes),
            source: hello.unit,
        };
        tracing::info!(replica = %hello.volume_name, source = %hello.unit_name, bytes = hello.volume_bytes, seeded,
            "first greeting of a volume: making its replica");
        let mode = if seeded {
            if Directory::new(&directory).has(ADOPTED) {
                places::refuse_cut(&files, hello.volume_bytes)?;
            }
            OpenMode::Adopt
        } else {
            OpenMode::Careful
        };
        create_files(&files, &parameters, mode, self.clock.wall_us())?;
        if seeded {
            let shelf = Directory::new(&files.maps);
            taken_up(&shelf)?;
            shelf.remove(ADOPTED)?;
        }
        self.open_replica(&files)
    }

    fn open_replica(&self, files: &StoreFiles) -> Result<Arc<Replica>, StorageError> {
        let set = open_files(files)?;
        let name = files.journal.display().to_string();
        if set.superblock.role != Role::Replica {
            let problem =
                "is the journal of a volume, not of a replica; move it out of the replicas directory"
                    .to_owned();
            return Err(StorageError::Refused { name, problem });
        }
        let store = Store::open(set.devices, self.clock.clone())?;
        set.mark.settle()?;
        let past = Past::open(&store, &files.maps, self.config.history_bytes);
        let started = Replica::start((store, past), files.clone(), Arc::new(SystemWorkers));
        started.map_err(|source| StorageError::Io {
            operation: farside_storage::Operation::Open,
            name,
            offset: 0,
            source,
        })
    }
}

/// The right to make a replica; given back if that comes to nothing.
struct Claim<'a> {
    set: &'a ReplicaSet,
    name: &'a str,
    made: bool,
}

impl Drop for Claim<'_> {
    fn drop(&mut self) {
        if !self.made {
            let found = slot_of(&self.set.config.directory.join(self.name));
            let mut slots = self.set.slots.lock();
            match found {
                Some(slot) => slots.insert(self.name.to_owned(), slot),
                None => slots.remove(self.name),
            };
        }
    }
}

fn shut_down_one(replica: &Replica) {
    if let Err(error) = replica.shut_down() {
        tracing::error!(replica = %replica.store().name(), "not shut down cleanly: {error}");
    }
}

fn shutting_down() -> Refusal {
    Refusal::new(RefuseCode::ShuttingDown, 0, "the unit is shutting down")
}

impl Replicas for Arc<ReplicaSet> {
    type Sink = Replica;

    async fn open_or_create(&self, hello: &Hello) -> Result<Arc<Replica>, Refusal> {
        let (set, hello) = (self.clone(), hello.clone());
        let found = tokio::task::spawn_blocking(move || set.find_or_make(&hello)).await;
        found.unwrap_or_else(|_| Err(shutting_down()))
    }
}
