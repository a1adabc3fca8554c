//! A replica's disks and what is known of it, whichever process serves it.

use crate::checks::senders::Confirmed;
use crate::checks::tail::DurableTail;
use crate::disk::SimDisk;
use crate::history::History;
use crate::platter::Platter;
use farside_storage::StoreDevices;
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64};

/// The replicas of a remote that have a journal, by volume.
pub type Homes = Arc<Mutex<BTreeMap<String, Arc<Home>>>>;

/// A replica's disks.
#[derive(Debug)]
pub struct Home {
    /// Name of the volume.
    pub name: String,
    /// What of it was confirmed.
    pub confirmed: Arc<Mutex<Confirmed>>,
    /// Its journal's disk.
    pub journal: Arc<Platter>,
    /// Its image's disk.
    pub image: Arc<Platter>,
    /// The disk of what its image held before. Its faults are no excuse for the replica.
    pub past: Arc<Platter>,
    /// That disk met a fault or damage.
    pub past_is_ill: AtomicBool,
    /// Damage: what is lost of the end of the ring cannot be told from what never was durable.
    pub past_is_damaged: AtomicBool,
    /// What really happened to the volume.
    pub history: Arc<Mutex<History>>,
    /// Its files were damaged or exchanged.
    pub hurt: AtomicBool,
    /// It was exchanged for an old copy: the volume believes that it holds more.
    pub went_back: AtomicBool,
    /// It holds what its volume, having gone back in time, does not know any more.
    pub is_off_branch: Arc<AtomicBool>,
    /// A disk of it met a fault.
    pub faulty: AtomicBool,
    /// The highest record it was seen to be complete with, after a recovery.
    pub reached: AtomicU64,
    /// What its superblocks say durably of its tail.
    pub tail: Arc<DurableTail>,
}

impl Home {
    /// One whose journal is still to be formatted.
    #[must_use]
    pub fn new(
        (name, history): (&str, &Arc<Mutex<History>>),
        journal: Arc<Platter>,
        image: Arc<Platter>,
        past: Arc<Platter>,
    ) -> Arc<Self> {
        Arc::new(Self {
            name: name.to_owned(),
            confirmed: Arc::default(),
            journal,
            image,
            past,
            past_is_ill: AtomicBool::new(false),
            past_is_damaged: AtomicBool::new(false),
            history: history.clone(),
            hurt: AtomicBool::new(false),
            went_back: AtomicBool::new(false),
            is_off_branch: Arc::default(),
            faulty: AtomicBool::new(false),
            reached: AtomicU64::new(0),
            tail: Arc::default(),
        })
    }

    /// Its devices, as `open` gives them.
    #[must_use]
    pub fn devices(&self, open: impl Fn(&Arc<Platter>) -> Arc<SimDisk>) -> StoreDevices {
        StoreDevices {
            journal: open(&self.journal),
            image: open(&self.image),
            maps: Vec::new(),
        }
    }

    /// Nothing is wrong with its disks any more.
    pub fn heal(&self) {
        let disks = self.platters();
        disks
            .iter()
            .chain([&self.past])
            .for_each(|platter| platter.heal());
    }

    /// The disks that the replica depends on.
    #[must_use]
    pub fn platters(&self) -> [Arc<Platter>; 2] {
        [self.journal.clone(), self.image.clone()]
    }
}
