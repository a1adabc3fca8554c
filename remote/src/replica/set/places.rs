//! Where images lie: in the directory of their replica, or where the configuration says. A symbolic link in the directory then
//! says where that was when the replica was made, so that a replica is never opened with another's disk because a setting changed.

use super::{IMAGE, ReplicaSet};
use farside_protocol::journal::Role;
use farside_storage::{StorageError, StoreFiles, check_unused, sync_directory};
use std::collections::BTreeMap;
use std::io;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

/// Name of an image, or of the link to it, that is still to get its name.
pub(super) const NEW_IMAGE: &str = "replica.img.new";

/// The image of the replica in this directory; the link to it is followed once.
pub(super) fn image_in(directory: &Path) -> PathBuf {
    let path = directory.join(IMAGE);
    match std::fs::read_link(&path) {
        Ok(target) => directory.join(target),
        Err(_) => path,
    }
}

/// Makes the directory's link lead to `place`, durably; whatever it led to before is left alone.
pub(super) fn lead_to(directory: &Path, place: &Path) -> Result<(), StorageError> {
    let (new, link) = (directory.join(NEW_IMAGE), directory.join(IMAGE));
    let laid = std::fs::create_dir_all(directory)
        .and_then(|()| match std::fs::remove_file(&new) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => symlink(place, &new),
        })
        .and_then(|()| std::fs::rename(&new, &link));
    laid.map_err(|error| StorageError::Refused {
        name: link.display().to_string(),
        problem: format!("cannot lead to {}: {error}", place.display()),
    })?;
    sync_directory(directory)
}

/// What somebody else keeps is not cut to the size of a volume.
pub(super) fn refuse_cut(files: &StoreFiles, volume_bytes: u64) -> Result<(), StorageError> {
    let found = std::fs::metadata(&files.image).ok();
    let Some(bytes) = found
        .filter(|found| found.is_file() && found.len() > volume_bytes)
        .map(|found| found.len())
    else {
        return Ok(());
    };
    Err(StorageError::Refused {
        name: files.image.display().to_string(),
        problem: format!(
            "has {bytes} bytes, its volume {volume_bytes}: the rest would be cut off; let the volume grow, or cut the file"
        ),
    })
}

impl ReplicaSet {
    /// Where images of replicas that are made from now on are to lie; of names that are not among them in their own directories.
    pub fn place_images(&self, images: BTreeMap<String, PathBuf>) {
        *self.images.lock() = images;
    }

    pub(super) fn wanted_place(&self, name: &str) -> Option<PathBuf> {
        self.images.lock().get(name).cloned()
    }

    /// What is to be known if the image of a replica lies elsewhere than is wanted: it stays there. Looks at nothing but the
    /// paths: what is wanted may be a disk that does not answer.
    #[must_use]
    pub fn misplaced(&self, name: &str, image: &Path) -> Option<String> {
        let wanted = self.wanted_place(name).filter(|wanted| wanted != image)?;
        Some(format!(
            "its image was made at {} and is used there, not at {}; say so in [[replica]], or, to have it there, stop the unit, \
             move the directory {} away and start it again: it gets a full copy",
            image.display(),
            wanted.display(),
            self.config.directory.join(name).display()
        ))
    }

    /// A place that is wanted for a new image, if it can be had.
    pub(super) fn free_place(&self, name: &str) -> Result<Option<PathBuf>, StorageError> {
        let Some(place) = self.wanted_place(name) else {
            return Ok(None);
        };
        let parent = place.parent().unwrap_or(Path::new("/"));
        if !parent.is_dir() {
            return Err(StorageError::Refused {
                name: parent.display().to_string(),
                problem: format!(
                    "is no directory, and the image of replica {name} is to lie there; mount it, or make it"
                ),
            });
        }
        let own = self.config.directory.join(name).join(IMAGE);
        if own.is_file() && !own.is_symlink() {
            return Err(StorageError::Refused {
                name: own.display().to_string(),
                problem: format!(
                    "is there, and [[replica]] says that the image lies at {}; move it away, or take the setting out",
                    place.display()
                ),
            });
        }
        check_unused(&place, Role::Replica)?;
        Ok(Some(place))
    }
}
