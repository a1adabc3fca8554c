//! Replicas that are set aside: handed over to another host, or content laid down for one that is still to come.
//!
//! Both are files beside the image. `detached`: the journal stays, nobody sends, and the image is what it was unless somebody
//! changed it. `seed`: there is an image and no journal; the first greeting makes one, and the copy it needs compares before
//! it sends.

use super::{IMAGE, ReplicaSet, Slot, files_in};
use crate::replica::Replica;
use farside_protocol::journal::CopyState;
use farside_storage::{
    FileDevice, StorageError, read_small_file, remove_file_durably, replace_file, sync_directory,
};
use std::fs::{File, OpenOptions};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

const DETACHED: &str = "detached";
const SEED: &str = "seed";
/// First lines of the two files.
const DETACHED_HEADING: &str = "farside detached 1";
const SEED_HEADING: &str = "farside seed 1";
/// What a replica that is made anew has no use for.
const LEFT_OVERS: [&str; 3] = ["journal", "history", "bookmarks"];
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

/// What a file system knows of a file that is left alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stamp {
    bytes: u64,
    modified_ns: i128,
    changed_ns: i128,
}

/// How a replica was left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Left {
    record: u64,
    time_us: u64,
    /// Of a block device nobody can say whether it was written.
    image: Option<Stamp>,
}

/// Why a replica is set aside.
#[derive(Debug, Clone, Copy)]
pub(super) enum Aside {
    Detached(Left),
    Seeded,
}

/// A replica that is set aside.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AsideReplica {
    /// Its name.
    pub name: String,
    /// Its image.
    pub image: PathBuf,
    /// The record it was detached after and when that was sealed, in microseconds since 1970; `None` for a seed that waits for
    /// its volume.
    pub detached_after: Option<(u64, u64)>,
}

/// What of a directory is set aside; a change of that which was interrupted is finished.
pub(super) fn found(directory: &Path) -> Option<Slot> {
    match read_left(directory) {
        Ok(Some(left)) => return Some(Slot::Aside(Aside::Detached(left))),
        Ok(None) => {}
        Err(problem) => return Some(Slot::Failed(problem)),
    }
    if !is_seeded(directory) || !directory.join(IMAGE).exists() {
        return None;
    }
    Some(match clear(directory) {
        Ok(()) => Slot::Aside(Aside::Seeded),
        Err(error) => Slot::Failed(error.to_string()),
    })
}

pub(super) fn is_seeded(directory: &Path) -> bool {
    directory.join(SEED).exists()
}

/// The content has a journal now.
pub(super) fn taken_up(directory: &Path) -> Result<(), StorageError> {
    remove_file_durably(&directory.join(SEED))
}

/// No journal, and nothing that relies on one.
fn clear(directory: &Path) -> Result<(), StorageError> {
    for name in LEFT_OVERS {
        remove_file_durably(&directory.join(name))?;
    }
    Ok(())
}

fn lay_down(directory: &Path) -> Result<(), StorageError> {
    let text = format!("{SEED_HEADING}\n");
    replace_file(&directory.join(SEED), text.as_bytes())
}

fn read_left(directory: &Path) -> Result<Option<Left>, String> {
    let path = directory.join(DETACHED);
    let Some(bytes) = read_small_file(&path).map_err(|error| error.to_string())? else {
        return Ok(None);
    };
    let parsed = std::str::from_utf8(&bytes).ok().and_then(Left::parse);
    parsed.map(Some).ok_or_else(|| {
        format!(
            "{} does not say how the replica was left; put the right file back, or move the replica's directory away: it \
             then gets a full copy",
            path.display()
        )
    })
}

impl Left {
    fn parse(text: &str) -> Option<Self> {
        let mut lines = text.lines();
        lines.next().filter(|line| *line == DETACHED_HEADING)?;
        let mut fields = lines.next()?.split(' ');
        let left = Self {
            record: fields.next()?.parse().ok()?,
            time_us: fields.next()?.parse().ok()?,
            image: None,
        };
        let Some(bytes) = fields.next() else {
            return Some(left);
        };
        let image = Stamp {
            bytes: bytes.parse().ok()?,
            modified_ns: fields.next()?.parse().ok()?,
            changed_ns: fields.next()?.parse().ok()?,
        };
        fields.next().is_none().then_some(Self {
            image: Some(image),
            ..left
        })
    }

    fn text(&self) -> String {
        let image = self.image.map_or_else(String::new, |image| {
            format!(" {} {} {}", image.bytes, image.modified_ns, image.changed_ns)
        });
        format!("{DETACHED_HEADING}\n{} {}{image}\n", self.record, self.time_us)
    }
}

/// What the file system says of an image now; `None` for a block device.
fn stamp(image: &Path) -> Result<Option<Stamp>, std::io::Error> {
    let found = std::fs::metadata(image)?;
    if !found.is_file() {
        return Ok(None);
    }
    let nanos = |seconds: i64, nanos: i64| i128::from(seconds) * 1_000_000_000 + i128::from(nanos);
    Ok(Some(Stamp {
        bytes: found.len(),
        modified_ns: nanos(found.mtime(), found.mtime_nsec()),
        changed_ns: nanos(found.ctime(), found.ctime_nsec()),
    }))
}

impl ReplicaSet {
    /// Those that are set aside.
    #[must_use]
    pub fn aside(&self) -> Vec<AsideReplica> {
        let slots = self.slots.lock();
        let aside = slots.iter().filter_map(|(name, slot)| {
            let Slot::Aside(aside) = slot else { return None };
            Some(AsideReplica {
                name: name.clone(),
                image: files_in(&self.config.directory, name).image,
                detached_after: match aside {
                    Aside::Detached(left) => Some((left.record, left.time_us)),
                    Aside::Seeded => None,
                },
            })
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
        let image = replica.files().image.clone();
        let left = close(name, replica);
        let (slot, done) = match left {
            Ok(left) => (Slot::Aside(Aside::Detached(left)), Ok((left.record, image))),
            Err(error) => (Slot::Failed(error.to_string()), Err(error)),
        };
        self.slots.lock().insert(name.to_owned(), slot);
        done
    }

    /// A replica that may be detached; nobody else is given it any more.
    fn claim_open(&self, name: &str) -> Result<Arc<Replica>, AsideError> {
        let unfit = |text: &str| Err(AsideError::Unfit(name.to_owned(), text.to_owned()));
        let mut slots = self.slots.lock();
        let replica = match slots.get(name) {
            None => return Err(AsideError::None(name.to_owned())),
            Some(Slot::Open(replica)) => replica.clone(),
            Some(Slot::Aside(Aside::Detached(_))) => return unfit("is detached already"),
            Some(Slot::Aside(Aside::Seeded)) => {
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
        let left = {
            let mut slots = self.slots.lock();
            let left = match slots.get(name) {
                None => return Err(AsideError::None(name.to_owned())),
                Some(Slot::Aside(Aside::Detached(left))) => *left,
                Some(_) => {
                    let text = "is not detached".to_owned();
                    return Err(AsideError::Unfit(name.to_owned(), text));
                }
            };
            slots.insert(name.to_owned(), Slot::Starting);
            left
        };
        let (slot, done) = match self.take_back(name, &left) {
            Ok(None) => (Slot::Aside(Aside::Seeded), Ok(true)),
            Ok(Some(replica)) => {
                self.settle_slot(name.to_owned(), Ok(replica));
                return Ok(false);
            }
            Err(error) => (Slot::Aside(Aside::Detached(left)), Err(error)),
        };
        self.slots.lock().insert(name.to_owned(), slot);
        done
    }

    fn take_back(&self, name: &str, left: &Left) -> Result<Option<Arc<Replica>>, AsideError> {
        let files = files_in(&self.config.directory, name);
        let storage = |error| AsideError::Storage(name.to_owned(), error);
        let is_same = left.image.is_some() && stamp(&files.image).ok().flatten() == left.image;
        if is_same {
            let replica = self.open_replica(&files).map_err(storage)?;
            // Not before: one that cannot be opened stays as it is.
            remove_file_durably(&files.maps.join(DETACHED)).map_err(storage)?;
            return Ok(Some(replica));
        }
        if !files.image.exists() {
            let text = format!(
                "its image {} is not there; mount or put back what held it, or move the replica's directory away: it then \
                 gets a full copy",
                files.image.display()
            );
            return Err(AsideError::Unfit(name.to_owned(), text));
        }
        lay_down(&files.maps).map_err(storage)?;
        remove_file_durably(&files.maps.join(DETACHED)).map_err(storage)?;
        clear(&files.maps).map_err(storage)?;
        Ok(None)
    }

    /// Begins to lay down what a volume's replica may hold already, before its first greeting. Blocks.
    ///
    /// # Errors
    /// [`AsideError`], also when there is a replica or an image already.
    pub fn seed(self: &Arc<Self>, name: &str) -> Result<SeedPlace, AsideError> {
        let directory = self.config.directory.join(name);
        let unfit = |text: String| AsideError::Unfit(name.to_owned(), text);
        {
            let mut slots = self.slots.lock();
            if slots.contains_key(name) {
                let text = format!(
                    "is here already, in {}: its volume sends what it lacks, nothing has to be seeded",
                    directory.display()
                );
                return Err(unfit(text));
            }
            let image = directory.join(IMAGE);
            if image.exists() {
                return Err(unfit(format!("{} exists; move it away", image.display())));
            }
            slots.insert(name.to_owned(), Slot::Starting);
        }
        let mut place = SeedPlace {
            set: Arc::clone(self),
            name: name.to_owned(),
            path: directory.join(format!("{IMAGE}.new")),
            file: None,
            done: false,
        };
        let made = std::fs::create_dir_all(&directory).and_then(|()| {
            let mut options = OpenOptions::new();
            options.read(true).write(true).create(true).truncate(true);
            options.mode(0o600).open(&place.path)
        });
        let made = made.map_err(|error| unfit(format!("{}: {error}", place.path.display())))?;
        place.file = Some(made);
        Ok(place)
    }
}

/// Brings everything received into the image, ends every use of it, and notes how it is left.
fn close(name: &str, replica: Arc<Replica>) -> Result<Left, AsideError> {
    let storage = |error| AsideError::Storage(name.to_owned(), error);
    replica.shut_down().map_err(storage)?;
    // Sessions and views of it end by themselves now.
    for _ in 0..LET_GO_TRIES {
        if Arc::strong_count(&replica) == 1 {
            break;
        }
        std::thread::sleep(LET_GO_PAUSE);
    }
    let (applied, files) = (replica.store().points().applied, replica.files().clone());
    drop(replica);
    let image = stamp(&files.image)
        .map_err(|error| AsideError::Unfit(name.to_owned(), format!("{}: {error}", files.image.display())))?;
    let left = Left {
        record: applied.record,
        time_us: applied.sealed_at_us,
        image,
    };
    replace_file(&files.maps.join(DETACHED), left.text().as_bytes()).map_err(storage)?;
    Ok(left)
}

/// Where a seed is put. Dropped before [`keep`](Self::keep), nothing of it stays.
#[derive(Debug)]
pub struct SeedPlace {
    set: Arc<ReplicaSet>,
    name: String,
    path: PathBuf,
    file: Option<File>,
    done: bool,
}

impl SeedPlace {
    /// The file to be filled, from its beginning.
    ///
    /// # Panics
    /// Never: it is there until the place is dropped.
    #[must_use]
    pub fn file(&self) -> &File {
        self.file
            .as_ref()
            .expect("it is there until the place is dropped")
    }

    /// The content is all there and waits for its volume. Blocks.
    ///
    /// # Errors
    /// [`AsideError`]; nothing of it stays.
    pub fn keep(mut self) -> Result<(), AsideError> {
        let name = self.name.clone();
        let storage = |error| AsideError::Storage(name.clone(), error);
        let failed = |error: std::io::Error| {
            AsideError::Unfit(name.clone(), format!("{}: {error}", self.path.display()))
        };
        let directory = self.set.config.directory.join(&self.name);
        let device =
            FileDevice::new(self.file().try_clone().map_err(failed)?, &self.path).map_err(storage)?;
        device.sync_with_attributes().map_err(storage)?;
        // The word first: an image without it would be taken for somebody's.
        lay_down(&directory).map_err(storage)?;
        std::fs::rename(&self.path, directory.join(IMAGE)).map_err(failed)?;
        self.done = true;
        sync_directory(&directory).map_err(storage)
    }
}

impl Drop for SeedPlace {
    fn drop(&mut self) {
        let mut slots = self.set.slots.lock();
        if self.done {
            slots.insert(self.name.clone(), Slot::Aside(Aside::Seeded));
            return;
        }
        let directory = self.set.config.directory.join(&self.name);
        let _ = std::fs::remove_file(&self.path);
        let _ = std::fs::remove_file(directory.join(SEED));
        let _ = std::fs::remove_dir(&directory);
        slots.remove(&self.name);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn how_a_replica_was_left_is_read_as_it_was_written_and_nothing_else_is() {
        let left = Left {
            record: 17,
            time_us: 5,
            image: Some(Stamp {
                bytes: 1 << 20,
                modified_ns: -3,
                changed_ns: i128::MAX,
            }),
        };
        let device = Left { image: None, ..left };
        for left in [left, device] {
            assert_eq!(Left::parse(&left.text()), Some(left));
        }
        for text in [
            "",
            "farside detached 1\n",
            "farside detached 2\n1 2\n",
            "farside detached 1\n1\n",
            "farside detached 1\n1 2 3\n",
            "farside detached 1\n1 2 3 4 5 6\n",
            "farside detached 1\n1 -2\n",
        ] {
            assert_eq!(Left::parse(text), None, "{text:?}");
        }
    }

    #[test]
    fn what_was_interrupted_is_finished_or_was_never_begun() {
        let place = tempfile::tempdir().unwrap();
        let path = |name: &str| place.path().join(name);
        let put = |name: &str| std::fs::write(path(name), "x").unwrap();
        assert!(found(place.path()).is_none());
        // An import that did not come to its image.
        lay_down(place.path()).unwrap();
        put("replica.img.new");
        assert!(found(place.path()).is_none());
        // One that did; and a replica taken back whose journal was still to be removed.
        for name in [IMAGE, "journal", "history", "bookmarks"] {
            put(name);
        }
        assert!(matches!(found(place.path()), Some(Slot::Aside(Aside::Seeded))));
        assert!(path(IMAGE).exists() && !path("journal").exists() && !path("history").exists());
        // Taken back only as far as the word for a seed: still detached.
        put("journal");
        let left = Left {
            record: 1,
            time_us: 2,
            image: None,
        };
        std::fs::write(path(DETACHED), left.text()).unwrap();
        assert!(matches!(
            found(place.path()),
            Some(Slot::Aside(Aside::Detached(_)))
        ));
        assert!(path("journal").exists());
        std::fs::write(path(DETACHED), "?").unwrap();
        assert!(matches!(found(place.path()), Some(Slot::Failed(_))));
    }
}
