//! The directory of a replica: the image, and the small files that say that it is set aside. It is changed as the product
//! changes its own, by a process that may die in the middle.

use crate::disk::SimDisk;
use crate::platter::{Platter, index};
use crate::process::Process;
use crate::remote::Homes;
use crate::schedule;
use crate::stats::happened;
use farside_remote::aside::{Image, Owner, Shelf, Stamp};
use farside_storage::{Operation, StorageError, load_superblock};
use farside_tests::random::Random;
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use uuid::Uuid;

const JOURNAL: &str = "journal";
const EIO: i32 = 5;

/// The files of a replica, whichever process has them.
#[derive(Debug)]
pub struct Directory {
    /// Name of the volume.
    volume: String,
    homes: Homes,
    files: Mutex<Files>,
}

#[derive(Debug, Default)]
struct Files {
    /// The small files, as a process sees them, and as they come back after a loss of power.
    shown: BTreeMap<String, Vec<u8>>,
    durable: BTreeMap<String, Vec<u8>>,
    image: Option<Arc<Platter>>,
    /// How often the image was opened, which changes its times.
    opened: u64,
    /// Changes of the image whose times were lost with power.
    hidden: u64,
    /// When the machine was started.
    boot: u128,
    /// The image as it was when it was handed over, while nobody changed it.
    handed_over: Option<HandedOver>,
}

/// What is known of an image that was handed over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HandedOver {
    /// Its changes until then.
    version: u64,
    /// Somebody changed it.
    pub was_changed: bool,
    /// The machine lost its power since: nobody knows whether somebody changed it.
    pub lost_power: bool,
}

impl Directory {
    /// An empty one.
    #[must_use]
    pub fn new(volume: &str, homes: &Homes) -> Arc<Self> {
        Arc::new(Self {
            volume: volume.to_owned(),
            homes: homes.clone(),
            files: Mutex::default(),
        })
    }

    /// As a process has it.
    #[must_use]
    pub fn held_by(self: &Arc<Self>, process: &Arc<Process>) -> Held {
        Held {
            directory: self.clone(),
            process: process.clone(),
        }
    }

    /// Its image, if there is one.
    #[must_use]
    pub fn image(&self) -> Option<Arc<Platter>> {
        self.files.lock().image.clone()
    }

    /// Nothing of it is left but, perhaps, an image.
    pub fn lay_down(&self, image: Option<Arc<Platter>>) {
        let boot = self.files.lock().boot;
        *self.files.lock() = Files {
            image,
            boot,
            ..Files::default()
        };
    }

    /// Somebody who has all the time he needs puts a small file there.
    pub fn says(&self, file: &str, text: &[u8]) {
        let mut files = self.files.lock();
        put(&mut files.shown, file, Some(text));
        files.durable = files.shown.clone();
    }

    /// The image is opened by its unit.
    pub fn opens(&self) {
        self.files.lock().opened += 1;
    }

    /// The image is handed over as it is now.
    pub fn hands_over(&self) {
        let mut files = self.files.lock();
        let version = files.image.as_ref().map_or(0, |image| image.version());
        files.handed_over = Some(HandedOver {
            version,
            was_changed: false,
            lost_power: false,
        });
    }

    /// What is known of the image since it was handed over, until it is taken back.
    #[must_use]
    pub fn handed_over(&self) -> Option<HandedOver> {
        self.files.lock().handed_over
    }

    /// It is taken back: nobody else changes it any more.
    pub fn takes_back(&self) {
        self.files.lock().handed_over = None;
    }

    /// Whoever has the image writes to it.
    pub fn is_changed_by_a_stranger(&self, offset: u64, bytes: &[u8]) {
        let mut files = self.files.lock();
        if let Some(image) = &files.image {
            image.scribble(offset, bytes);
        }
        if let Some(handed_over) = &mut files.handed_over {
            handed_over.was_changed = true;
        }
    }

    /// The machine loses power: of what was changed and not made durable anything may be left, and so it is with times.
    pub fn lose_power(&self, random: &mut Random) {
        let mut files = self.files.lock();
        files.boot += 1;
        if files.shown != files.durable {
            happened("small files that a loss of power may take back");
        }
        let all: Vec<_> = files.shown.keys().chain(files.durable.keys()).cloned().collect();
        for name in all {
            let survivor = if random.chance(50) {
                files.durable.get(&name).cloned()
            } else {
                files.shown.get(&name).cloned()
            };
            match survivor {
                Some(text) => files.shown.insert(name, text),
                None => files.shown.remove(&name),
            };
        }
        files.durable = files.shown.clone();
        let forgets = random.chance(50);
        let version = files.image.as_ref().map_or(0, |image| image.version());
        if let Some(handed_over) = &mut files.handed_over {
            handed_over.lost_power = true;
            let since = version - handed_over.version;
            files.hidden = if forgets { since } else { files.hidden };
        }
        // What a replica in service depends on loses power with it.
        if !self.homes.lock().contains_key(&self.volume)
            && let Some(image) = &files.image
        {
            image.lose_power(random);
        }
    }
}

/// A process's hold on the directory of a replica.
#[derive(Debug)]
pub struct Held {
    directory: Arc<Directory>,
    process: Arc<Process>,
}

impl Held {
    fn failed(&self, file: &str) -> StorageError {
        StorageError::Io {
            operation: Operation::Write,
            name: self.name_of(file),
            offset: 0,
            source: io::Error::from_raw_os_error(EIO),
        }
    }

    /// A call begins: others may go first, and the process may die in it, which a number tells.
    fn enter(&self, file: &str) -> Result<Option<u64>, StorageError> {
        schedule::at_device();
        if self.process.is_dead() {
            return Err(self.failed(file));
        }
        Ok(self.process.call(true))
    }

    /// Changes a file, durably unless the process dies in it.
    fn change(&self, file: &str, content: Option<&[u8]>) -> Result<(), StorageError> {
        let ends = self.enter(file)?;
        let mut files = self.directory.files.lock();
        let (is_done, is_durable) = ends.map_or((true, true), |number| {
            [(false, false), (true, false), (true, true)][index(number % 3)]
        });
        if is_done && file == JOURNAL {
            self.directory.homes.lock().remove(&self.directory.volume);
        } else if is_done {
            put(&mut files.shown, file, content);
        }
        if is_durable {
            files.durable = files.shown.clone();
        }
        if ends.is_none() {
            Ok(())
        } else {
            Err(self.failed(file))
        }
    }
}

fn put(files: &mut BTreeMap<String, Vec<u8>>, file: &str, content: Option<&[u8]>) {
    match content {
        Some(content) => files.insert(file.to_owned(), content.to_vec()),
        None => files.remove(file),
    };
}

impl Shelf for Held {
    fn name_of(&self, file: &str) -> String {
        format!("{}/{}/{file}", self.process.name(), self.directory.volume)
    }

    fn has(&self, file: &str) -> bool {
        if file == JOURNAL {
            return self.directory.homes.lock().contains_key(&self.directory.volume);
        }
        self.directory.files.lock().shown.contains_key(file)
    }

    fn read(&self, file: &str) -> Result<Option<Vec<u8>>, StorageError> {
        Ok(self.directory.files.lock().shown.get(file).cloned())
    }

    fn replace(&self, file: &str, content: &[u8]) -> Result<(), StorageError> {
        self.change(file, Some(content))
    }

    fn remove(&self, file: &str) -> Result<(), StorageError> {
        if !self.has(file) {
            return Ok(());
        }
        self.change(file, None)
    }

    fn settle(&self) -> Result<(), StorageError> {
        if self.enter("")?.is_some() {
            return Err(self.failed(""));
        }
        let mut files = self.directory.files.lock();
        files.durable = files.shown.clone();
        Ok(())
    }

    fn image(&self) -> Image {
        if self.directory.files.lock().image.is_some() {
            Image::There
        } else {
            Image::Missing
        }
    }

    fn stamp(&self) -> Result<Option<Stamp>, StorageError> {
        let files = self.directory.files.lock();
        let image = files.image.as_ref().ok_or_else(|| self.failed("replica.img"))?;
        Ok(Some(Stamp {
            modified_ns: i128::from(image.version() - files.hidden),
            changed_ns: i128::from(files.opened),
            boot: Uuid::from_u128(files.boot),
        }))
    }

    fn owner(&self) -> Result<Owner, StorageError> {
        let home = self.directory.homes.lock().get(&self.directory.volume).cloned();
        let home = home.ok_or_else(|| self.failed(JOURNAL))?;
        let superblock = load_superblock(&*SimDisk::open(&home.journal, &self.process))?;
        Ok(Owner {
            volume: superblock.volume,
            unit: superblock.source,
            bytes: superblock.volume_bytes,
        })
    }
}
