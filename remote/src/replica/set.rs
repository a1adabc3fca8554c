//! The replicas of a unit: a directory each, opened at the start or made by the first greeting of a sender.
//!
//! Whose replica it is, is checked against its own superblock before anything is written.

use super::Replica;
use crate::sink::Replicas;
use farside_protocol::journal::limits::{BLOCK_BYTES_U64, MAX_CHUNK_DATA_BYTES, MIN_SEGMENTS, RING_OFFSET};
use farside_protocol::journal::{Role, Superblock};
use farside_protocol::link::{Hello, Refusal, RefuseCode};
use farside_storage::{
    Clock, OpenMode, StorageError, Store, StoreFiles, StoreParameters, create_files, open_files,
};
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use uuid::Uuid;

/// Where replicas are kept and which are accepted.
#[derive(Debug, Clone)]
pub struct ReplicaSetConfig {
    /// Directory with one directory for each replica.
    pub directory: PathBuf,
    /// Bytes for the journal of a new replica.
    pub journal_bytes: u64,
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
}

/// All replicas of a unit.
#[derive(Debug)]
pub struct ReplicaSet {
    config: ReplicaSetConfig,
    clock: Arc<dyn Clock>,
    slots: Mutex<BTreeMap<String, Slot>>,
    /// Held while one replica is made, so that two greetings do not make it twice.
    making: Mutex<()>,
}

fn files_in(directory: &Path, name: &str) -> StoreFiles {
    let own = directory.join(name);
    StoreFiles {
        journal: own.join("journal"),
        image: own.join("replica.img"),
        maps: own,
    }
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
            if files_in(&config.directory, &name).journal.exists() {
                slots.insert(name, Slot::Starting);
            }
        }
        Ok(Self {
            config,
            clock,
            slots: Mutex::new(slots),
            making: Mutex::new(()),
        })
    }

    /// Opens and recovers every replica that was found; one that cannot be opened is kept with the reason. Blocks.
    pub fn open_all(&self) {
        let names: Vec<String> = self.slots.lock().keys().cloned().collect();
        for name in names {
            let opened = open_replica(&files_in(&self.config.directory, &name), &self.clock);
            let slot = opened.map_or_else(
                |error| {
                    tracing::error!(replica = name, "replica not in service: {error}");
                    Slot::Failed(error.to_string())
                },
                Slot::Open,
            );
            self.slots.lock().insert(name, slot);
        }
    }

    /// The replicas in service, by name.
    #[must_use]
    pub fn replicas(&self) -> Vec<Arc<Replica>> {
        let open = |slot: &Slot| match slot {
            Slot::Open(replica) => Some(replica.clone()),
            Slot::Starting | Slot::Failed(_) => None,
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
            Slot::Starting | Slot::Open(_) => None,
            Slot::Failed(problem) => Some(FailedReplica {
                name: name.clone(),
                problem: problem.clone(),
            }),
        };
        self.slots.lock().iter().filter_map(failed).collect()
    }

    /// Shuts all replicas down. Blocks.
    pub fn shut_down(&self) {
        for replica in self.replicas() {
            if let Err(error) = replica.shut_down() {
                tracing::error!(replica = %replica.store().name(), "not shut down cleanly: {error}");
            }
        }
        self.slots.lock().clear();
    }

    fn find(&self, hello: &Hello) -> Option<Result<Arc<Replica>, Refusal>> {
        let name = &hello.volume_name;
        let slot = self.slots.lock().get(name).cloned()?;
        Some(match slot {
            Slot::Starting => {
                let text = format!("replica {name} is being recovered; the link comes up when it is ready");
                Err(Refusal::new(RefuseCode::Busy, 0, &text))
            }
            Slot::Open(replica) => check(&replica.store.superblock(), hello).map(|()| replica),
            Slot::Failed(problem) => {
                let text = format!("replica {name} is not in service: {problem}");
                Err(Refusal::new(RefuseCode::Degraded, 0, &text))
            }
        })
    }

    fn find_or_make(&self, hello: &Hello) -> Result<Arc<Replica>, Refusal> {
        let _making = self.making.lock();
        if let Some(found) = self.find(hello) {
            return found;
        }
        let name = &hello.volume_name;
        if self
            .config
            .accept
            .as_ref()
            .is_some_and(|accepted| !accepted.contains(name))
        {
            let text =
                format!("volume {name} is not among those this unit accepts; add it to link.accept there");
            return Err(Refusal::new(RefuseCode::NotAccepted, 0, &text));
        }
        let replica = self.make(hello).map_err(|error| {
            let text = format!("replica {name} cannot be made: {error}");
            tracing::error!(replica = name, "{text}");
            Refusal::new(RefuseCode::Degraded, 0, &text)
        })?;
        self.slots
            .lock()
            .insert(name.clone(), Slot::Open(replica.clone()));
        Ok(replica)
    }

    fn make(&self, hello: &Hello) -> Result<Arc<Replica>, StorageError> {
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
        tracing::info!(replica = %hello.volume_name, source = %hello.unit_name, bytes = hello.volume_bytes,
            "first greeting of a volume: making its replica");
        create_files(&files, &parameters, OpenMode::Careful, self.clock.wall_us())?;
        open_replica(&files, &self.clock)
    }
}

fn open_replica(files: &StoreFiles, clock: &Arc<dyn Clock>) -> Result<Arc<Replica>, StorageError> {
    let set = open_files(files)?;
    let name = files.journal.display().to_string();
    if set.superblock.role != Role::Replica {
        let problem =
            "is the journal of a volume, not of a replica; move it out of the replicas directory".to_owned();
        return Err(StorageError::Refused { name, problem });
    }
    let source = set.superblock.source;
    let store = Store::open(set.devices, clock.clone())?;
    let started = Replica::start(store, files.clone(), source);
    started.map_err(|source| StorageError::Io {
        operation: farside_storage::Operation::Open,
        name,
        offset: 0,
        source,
    })
}

/// Whether the sender may send to this replica.
fn check(superblock: &Superblock, hello: &Hello) -> Result<(), Refusal> {
    let name = &hello.volume_name;
    let refuse = |code, text: String| Err(Refusal::new(code, 0, &text));
    if superblock.volume != hello.volume {
        let text = format!(
            "replica {name} belongs to volume {}, not to {}; rename the volume, or remove the replica here first",
            superblock.volume, hello.volume
        );
        return refuse(RefuseCode::ForeignVolume, text);
    }
    if superblock.source != hello.unit {
        let text = format!(
            "replica {name} is fed by unit {}, not by {} ({}); remove the replica here first if the change is meant",
            superblock.source, hello.unit_name, hello.unit
        );
        return refuse(RefuseCode::ForeignVolume, text);
    }
    if superblock.volume_bytes != hello.volume_bytes {
        let text = format!(
            "replica {name} has {} bytes, the volume {}; remove the replica here to have it made anew",
            superblock.volume_bytes, hello.volume_bytes
        );
        return refuse(RefuseCode::SizeDiffers, text);
    }
    let largest = u64::from(hello.segment_bytes).min(u64::from(MAX_CHUNK_DATA_BYTES) + BLOCK_BYTES_U64);
    if u64::from(superblock.segment_bytes) < largest {
        let text = format!(
            "replica {name} keeps chunks of up to {} bytes, the volume's may have {largest}; remove the replica here to \
             have it made anew",
            superblock.segment_bytes
        );
        return refuse(RefuseCode::SegmentTooLarge, text);
    }
    Ok(())
}

impl Replicas for Arc<ReplicaSet> {
    type Sink = Replica;

    async fn open_or_create(&self, hello: &Hello) -> Result<Arc<Replica>, Refusal> {
        let (set, hello) = (self.clone(), hello.clone());
        let found = tokio::task::spawn_blocking(move || set.find_or_make(&hello)).await;
        found.unwrap_or_else(|_| {
            Err(Refusal::new(
                RefuseCode::ShuttingDown,
                0,
                "the unit is shutting down",
            ))
        })
    }
}
