//! Replicas that are set aside: handed over to another host, or content laid down for one that is still to come.
//!
//! Both are files beside the image. `detached`: the journal stays, nobody sends, and the image is what it was unless somebody
//! changed it. `seed`: there is an image and no journal; the first greeting makes one, and the copy it needs compares before
//! it sends.

pub(super) mod notes;
pub(super) mod shelf;

pub use notes::{Aside, Left, Owner, found, taken_up};
pub use shelf::{Image, Shelf, Stamp};

use super::places::{NEW_IMAGE, image_in, lead_to};
use super::{IMAGE, ReplicaSet, Slot, files_in, image_bytes};
use crate::replica::Replica;
use farside_protocol::journal::{ChainPoint, CopyState, Role};
use farside_storage::{
    DeviceKind, FileDevice, StorageError, check_free, remove_file_durably, sync_directory, take_unused,
};
use notes::{ADOPTED, DETACHED, SEED, clear, lay_down};
use shelf::Directory;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// How long those who still use a replica may take to let go of it.
const LET_GO_TRIES: u32 = 1_000;
const LET_GO_PAUSE: Duration = Duration::from_millis(10);

/// Why a replica could not be set aside, or taken back.
#[derive(Debug, thiserror::Error)]
pub enum AsideError {
    /// There is none of this name.
    #[error("there is no replica of '{0}' here; see 'farside status'")]
    None(String),
    /// It is in no state for it; the text says what to do.
    #[error("replica {0}: {1}")]
    Unfit(String, String),
    /// A file could not be read or written.
    #[error("replica {0}: {1}")]
    Storage(String, #[source] StorageError),
}

/// A replica that is set aside.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AsideReplica {
    /// Its name.
    pub name: String,
    /// Its image.
    pub image: PathBuf,
    /// Size of that, as far as it is known.
    pub bytes: u64,
    /// The record it was detached after and when that was sealed, in microseconds since 1970; `None` for a seed that waits for
    /// its volume.
    pub detached_after: Option<(u64, u64)>,
}

impl ReplicaSet {
    /// Those that are set aside.
    #[must_use]
    pub fn aside(&self) -> Vec<AsideReplica> {
        let slots = self.slots.lock();
        let aside = slots.iter().filter_map(|(name, slot)| {
            let Slot::Aside(aside, bytes) = slot else {
                return None;
            };
            let (bytes, detached_after) = match aside {
                Aside::Detached(left) => (left.bytes, Some((left.record, left.time_us))),
                Aside::Seeded(owner) => (owner.map_or(*bytes, |owner| owner.bytes), None),
            };
            Some((name.clone(), bytes, detached_after))
        });
        let aside: Vec<_> = aside.collect();
        drop(slots);
        let aside = aside
            .into_iter()
            .map(|(name, bytes, detached_after)| AsideReplica {
                image: image_in(&self.config.directory.join(&name)),
                name,
                bytes,
                detached_after,
            });
        aside.collect()
    }

    /// Takes a replica out of service, so that its image is a disk like any other. Blocks. Tells the record it is the volume
    /// after, and where the image is.
    ///
    /// # Errors
    /// [`AsideError`]; unless a disk failed it is in service as before.
    pub fn detach(&self, name: &str) -> Result<(u64, PathBuf), AsideError> {
        let replica = self.claim_open(name)?;
        let files = replica.files().clone();
        match close(name, replica) {
            Ok(left) => {
                let slot = Slot::Aside(Aside::Detached(left), left.bytes);
                self.slots.lock().insert(name.to_owned(), slot);
                Ok((left.record, files.image))
            }
            Err(error) => {
                let again = self.open_replica(&files);
                self.settle_slot(name.to_owned(), again.map_err(|error| error.to_string()));
                Err(error)
            }
        }
    }

    /// A replica that may be detached; nobody else is given it any more.
    pub(super) fn claim_open(&self, name: &str) -> Result<Arc<Replica>, AsideError> {
        let unfit = |text: &str| Err(AsideError::Unfit(name.to_owned(), text.to_owned()));
        let mut slots = self.slots.lock();
        let replica = match slots.get(name) {
            None => return Err(AsideError::None(name.to_owned())),
            Some(Slot::Open(replica)) => replica.clone(),
            Some(Slot::Aside(Aside::Detached(_), _)) => return unfit("is detached already"),
            Some(Slot::Aside(Aside::Seeded(_), _)) => {
                return unfit("is a seed that waits for its volume, and no state of it");
            }
            Some(Slot::Starting) => return unfit("is being made, recovered or detached; try again"),
            Some(Slot::Failed(problem)) => return unfit(&format!("is not in service: {problem}")),
        };
        if let Some(problem) = replica.store().failure() {
            return unfit(&format!("is degraded: {problem}"));
        }
        if replica.store().copy_progress().state != CopyState::Complete {
            return unfit(
                "is no state of the volume until its copy is complete; wait for that, see 'farside status'",
            );
        }
        slots.insert(name.to_owned(), Slot::Starting);
        Ok(replica)
    }

    /// Takes a replica back. Blocks. True: its image was changed, or may have been; it waits for its volume, which sends what
    /// differs.
    ///
    /// # Errors
    /// [`AsideError`]; it is detached as before.
    pub fn attach(&self, name: &str) -> Result<bool, AsideError> {
        let mut left = {
            let mut slots = self.slots.lock();
            let left = match slots.get(name) {
                None => return Err(AsideError::None(name.to_owned())),
                Some(Slot::Aside(Aside::Detached(left), _)) => *left,
                Some(_) => {
                    let text = "is not detached".to_owned();
                    return Err(AsideError::Unfit(name.to_owned(), text));
                }
            };
            slots.insert(name.to_owned(), Slot::Starting);
            left
        };
        let files = files_in(&self.config.directory, name);
        let shelf = Directory::new(&files.maps);
        let free = if files.image.exists() {
            check_free(&files.image)
        } else {
            Ok(())
        };
        let taken = free
            .map_err(|error| AsideError::Storage(name.to_owned(), error))
            .and_then(|()| take_back(name, &shelf, &mut left, || self.open_replica(&files)));
        let (slot, done) = match taken {
            Ok(Taken::Changed(owner)) => (Slot::Aside(Aside::Seeded(Some(owner)), owner.bytes), Ok(true)),
            Ok(Taken::AsItWas(replica)) => {
                self.settle_slot(name.to_owned(), Ok(replica));
                return Ok(false);
            }
            Err(error) => (Slot::Aside(Aside::Detached(left), left.bytes), Err(error)),
        };
        self.slots.lock().insert(name.to_owned(), slot);
        done
    }

    /// Takes what lies where the image is to lie for what a volume's replica may hold already, before its first greeting. Blocks.
    /// Tells where that is.
    ///
    /// # Errors
    /// [`AsideError`], also when there is a replica already.
    pub fn adopt(&self, name: &str) -> Result<PathBuf, AsideError> {
        let directory = self.config.directory.join(name);
        let before = {
            let mut slots = self.slots.lock();
            let is_elsewhere = || self.misplaced(name, &image_in(&directory)).is_some();
            match slots.get(name) {
                None => {}
                // Perhaps the wrong one.
                Some(Slot::Aside(Aside::Seeded(None), _)) if is_elsewhere() => {}
                Some(_) => return Err(unfit_as_it_is_here(name, &directory)),
            }
            slots.insert(name.to_owned(), Slot::Starting)
        };
        let (slot, done) = match self.lay_down_adopted(name, &directory) {
            Ok(image) => {
                let slot = Slot::Aside(Aside::Seeded(None), image_bytes(&image));
                (Some(slot), Ok(image))
            }
            Err(error) => (before, Err(error)),
        };
        let mut slots = self.slots.lock();
        match slot {
            Some(slot) => slots.insert(name.to_owned(), slot),
            None => slots.remove(name),
        };
        done
    }

    fn lay_down_adopted(&self, name: &str, directory: &Path) -> Result<PathBuf, AsideError> {
        let storage = |error| AsideError::Storage(name.to_owned(), error);
        let wanted = self.wanted_place(name);
        let image = wanted.clone().unwrap_or_else(|| image_in(directory));
        if !image.exists() {
            let text = format!("there is no image and no block device at {}", image.display());
            return Err(AsideError::Unfit(name.to_owned(), text));
        }
        check_free(&image).map_err(storage)?;
        let shelf = Directory::new(directory);
        std::fs::create_dir_all(directory).map_err(|error| {
            AsideError::Unfit(name.to_owned(), format!("{}: {error}", directory.display()))
        })?;
        // The words first: without them it would be taken for somebody's, or for an import.
        shelf
            .replace(ADOPTED, b"farside adopted 1\n")
            .and_then(|()| lay_down(&shelf, None))
            .map_err(storage)?;
        if let Some(place) = wanted.filter(|place| *place != image_in(directory)) {
            lead_to(directory, &place).map_err(storage)?;
        }
        Ok(image)
    }

    /// Whether what was adopted lies where it is wanted, before its volume takes it.
    pub(super) fn check_adopted(&self, name: &str) -> Result<(), StorageError> {
        let directory = self.config.directory.join(name);
        if !Directory::new(&directory).has(ADOPTED) {
            return Ok(());
        }
        let image = image_in(&directory);
        let Some(wanted) = self.wanted_place(name).filter(|wanted| *wanted != image) else {
            return Ok(());
        };
        Err(StorageError::Refused {
            name: image.display().to_string(),
            problem: format!(
                "is what the replica begins with, and [[replica]] says {}; set it right, or 'farside replica adopt {name}' takes what \
                 lies there",
                wanted.display()
            ),
        })
    }

    /// Begins to lay down what a volume's replica may hold already, so many bytes, before its first greeting. Blocks.
    ///
    /// # Errors
    /// [`AsideError`], also when there is a replica or an image already.
    pub fn seed(self: &Arc<Self>, name: &str, bytes: u64) -> Result<SeedPlace, AsideError> {
        let directory = self.config.directory.join(name);
        {
            let mut slots = self.slots.lock();
            if slots.contains_key(name) {
                return Err(unfit_as_it_is_here(name, &directory));
            }
            slots.insert(name.to_owned(), Slot::Starting);
        }
        let mut place = SeedPlace {
            set: Arc::clone(self),
            name: name.to_owned(),
            elsewhere: None,
            device: None,
            done: false,
        };
        let unfit = |text: String| AsideError::Unfit(name.to_owned(), text);
        let storage = |error| AsideError::Storage(name.to_owned(), error);
        place.elsewhere = self.free_place(name).map_err(storage)?;
        let image = directory.join(IMAGE);
        if place.elsewhere.is_none() && (image.exists() || image.is_symlink()) {
            return Err(unfit(format!("{} exists; move it away", image.display())));
        }
        std::fs::create_dir_all(&directory)
            .map_err(|error| unfit(format!("{}: {error}", directory.display())))?;
        let own = directory.join(NEW_IMAGE);
        let device = match &place.elsewhere {
            Some(elsewhere) => take_unused(elsewhere, Role::Replica),
            None => remove_file_durably(&own).and_then(|()| take_unused(&own, Role::Replica)),
        };
        let device = place.device.insert(device.map_err(storage)?);
        if device.kind() == DeviceKind::BlockDevice {
            device.check_holds(bytes).map_err(storage)?;
        }
        Ok(place)
    }
}

fn unfit_as_it_is_here(name: &str, directory: &Path) -> AsideError {
    let text = format!(
        "is here already, in {}: its volume sends what it lacks, nothing has to be seeded",
        directory.display()
    );
    AsideError::Unfit(name.to_owned(), text)
}

/// A replica that was taken back.
#[derive(Debug)]
pub enum Taken<R> {
    /// Its image is what it was: it is in service again.
    AsItWas(R),
    /// Its image was changed, or may have been: it is a seed for its volume.
    Changed(Owner),
}

/// Takes a replica back, by its files; `open` takes it into service. How it is left may change, should that fail.
///
/// # Errors
/// [`AsideError`]; it is detached as before.
pub fn take_back<R>(
    name: &str,
    shelf: &impl Shelf,
    left: &mut Left,
    open: impl FnOnce() -> Result<R, StorageError>,
) -> Result<Taken<R>, AsideError> {
    let storage = |error| AsideError::Storage(name.to_owned(), error);
    let is_same = left.image.is_some() && shelf.stamp().ok().flatten() == left.image;
    if is_same {
        // Of an attempt that did not come further: the journal is of use.
        shelf.remove(SEED).map_err(storage)?;
        // Before the image is opened, which changes its times; from here on it is a replica like others.
        shelf.remove(DETACHED).map_err(storage)?;
        return open().map(Taken::AsItWas).map_err(|error| {
            left.image = shelf.stamp().ok().flatten();
            // Should that fail, too, the next start opens it, or says why it cannot.
            let _ = shelf.replace(DETACHED, left.text().as_bytes());
            storage(error)
        });
    }
    if shelf.image() != Image::There {
        let text = format!(
            "its image {} is not there; mount or put back what held it, or move the replica's directory away: it then \
             gets a full copy",
            shelf.name_of(IMAGE)
        );
        return Err(AsideError::Unfit(name.to_owned(), text));
    }
    let owner = shelf.owner().map_err(storage)?;
    lay_down(shelf, Some(owner)).map_err(storage)?;
    shelf.remove(DETACHED).map_err(storage)?;
    clear(shelf).map_err(storage)?;
    Ok(Taken::Changed(owner))
}

/// Notes how a replica is left that nobody uses any more, after this point of its volume.
///
/// # Errors
/// The shelf's; it is a replica like others.
pub fn leave(shelf: &impl Shelf, applied: &ChainPoint, bytes: u64) -> Result<Left, StorageError> {
    let left = Left {
        record: applied.record,
        time_us: applied.sealed_at_us,
        bytes,
        image: shelf.stamp()?,
    };
    shelf.replace(DETACHED, left.text().as_bytes())?;
    Ok(left)
}

/// Brings everything received into the image, ends every use of it, and notes how it is left.
fn close(name: &str, replica: Arc<Replica>) -> Result<Left, AsideError> {
    let storage = |error| AsideError::Storage(name.to_owned(), error);
    end_uses(name, &replica)?;
    let (applied, files) = (replica.store().points().applied, replica.files().clone());
    let bytes = replica.store().volume_bytes();
    drop(replica);
    leave(&Directory::new(&files.maps), &applied, bytes).map_err(storage)
}

/// Brings everything received into the image, and ends every use of it but the caller's.
pub(super) fn end_uses(name: &str, replica: &Arc<Replica>) -> Result<(), AsideError> {
    let storage = |error| AsideError::Storage(name.to_owned(), error);
    replica.shut_down().map_err(storage)?;
    // Sessions and views of it end by themselves now.
    let mut tries = 0;
    while Arc::strong_count(replica) > 1 && tries < LET_GO_TRIES {
        std::thread::sleep(LET_GO_PAUSE);
        tries += 1;
    }
    if tries == LET_GO_TRIES {
        tracing::warn!(
            replica = name,
            "detached, although something still reads it; it cannot be attached until that has ended"
        );
    }
    if replica.store().copy_progress().state != CopyState::Complete {
        let text = "a copy of it has just begun; wait until that is complete";
        return Err(AsideError::Unfit(name.to_owned(), text.to_owned()));
    }
    Ok(())
}

/// Where a seed is put. Dropped before [`keep`](Self::keep), nothing of it stays but what was written to a device.
#[derive(Debug)]
pub struct SeedPlace {
    set: Arc<ReplicaSet>,
    name: String,
    /// Where the image lies, if that is not in the directory of the replica.
    elsewhere: Option<PathBuf>,
    /// Locked.
    device: Option<FileDevice>,
    done: bool,
}

impl SeedPlace {
    /// The file to be filled, from its beginning.
    ///
    /// # Panics
    /// Never: it is there until the place is dropped.
    #[must_use]
    pub fn file(&self) -> &File {
        self.device().file()
    }

    fn device(&self) -> &FileDevice {
        self.device
            .as_ref()
            .expect("it is there until the place is dropped")
    }

    /// The content is all there and waits for its volume. Blocks.
    ///
    /// # Errors
    /// [`AsideError`]; nothing of it stays but what was written to a device.
    pub fn keep(mut self) -> Result<(), AsideError> {
        let name = self.name.clone();
        let storage = |error| AsideError::Storage(name.clone(), error);
        let directory = self.set.config.directory.join(&self.name);
        self.device().sync_with_attributes().map_err(storage)?;
        let parent = self.device().path().parent().unwrap_or(Path::new("/"));
        sync_directory(parent).map_err(storage)?;
        let shelf = Directory::new(&directory);
        // The word first: an image without it would be taken for somebody's.
        shelf
            .remove(ADOPTED)
            .and_then(|()| lay_down(&shelf, None))
            .map_err(storage)?;
        match &self.elsewhere {
            Some(place) => lead_to(&directory, place).map_err(storage)?,
            None => std::fs::rename(directory.join(NEW_IMAGE), directory.join(IMAGE)).map_err(|error| {
                AsideError::Unfit(name.clone(), format!("{}: {error}", directory.display()))
            })?,
        }
        self.done = true;
        sync_directory(&directory).map_err(storage)
    }

    /// Of an import that came to nothing.
    fn take_away(&self) {
        let directory = self.set.config.directory.join(&self.name);
        if let Some(device) = self
            .device
            .as_ref()
            .filter(|device| device.kind() == DeviceKind::File)
        {
            let _ = std::fs::remove_file(device.path());
        }
        let _ = std::fs::remove_file(directory.join(SEED));
        let _ = std::fs::remove_dir(&directory);
    }
}

impl Drop for SeedPlace {
    fn drop(&mut self) {
        let slot = if self.done {
            let bytes = self.device.as_ref().and_then(|device| device.size_bytes().ok());
            Some(Slot::Aside(Aside::Seeded(None), bytes.unwrap_or(0)))
        } else {
            self.take_away();
            None
        };
        // Free before somebody is told that it is there.
        self.device = None;
        let mut slots = self.set.slots.lock();
        match slot {
            Some(slot) => slots.insert(self.name.clone(), slot),
            None => slots.remove(&self.name),
        };
    }
}
