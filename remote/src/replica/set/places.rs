//! Where images lie: in the directory of their replica, or where the configuration says. A symbolic link in the directory then
//! says where that was when the replica was made, so that a replica is never opened with another's disk because a setting changed.

use super::ReplicaSet;
use farside_protocol::journal::Role;
use farside_storage::{StorageError, StoreFiles, check_unused, sync_directory};
use std::collections::BTreeMap;
use std::io;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

/// Name of an image, or of the link to it, that is being filled.
pub(super) const NEW_IMAGE: &str = "replica.img.new";

/// What a link in a directory names; the link itself, if it is none.
pub(super) fn followed(directory: &Path, file: &str) -> PathBuf {
    let path = directory.join(file);
    match std::fs::read_link(&path) {
        Ok(target) => directory.join(target),
        Err(_) => path,
    }
}

fn is_one_place(one: &Path, other: &Path) -> bool {
    let real = |path: &Path| path.canonicalize().unwrap_or_else(|_| path.to_owned());
    one == other || real(one) == real(other)
}

/// What somebody keeps elsewhere is not cut to the size of a volume.
pub(super) fn refuse_cut(files: &StoreFiles, volume_bytes: u64) -> Result<(), StorageError> {
    let found = std::fs::metadata(&files.image);
    let is_own = files.image.parent() == Some(&files.maps);
    let Some(bytes) = found
        .ok()
        .filter(|found| !is_own && found.is_file() && found.len() > volume_bytes)
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

/// A link that was laid, and goes again unless it is kept.
#[derive(Debug)]
pub(super) struct Laid {
    link: PathBuf,
    is_new: bool,
}

impl Laid {
    pub(super) fn keep(mut self) {
        self.is_new = false;
    }
}

impl Drop for Laid {
    fn drop(&mut self) {
        if self.is_new {
            let _ = std::fs::remove_file(&self.link);
            let _ = self.link.parent().map(std::fs::remove_dir);
        }
    }
}

impl ReplicaSet {
    /// Where images of replicas that are made from now on are to lie; of names that are not among them in their own directories.
    pub fn place_images(&self, images: BTreeMap<String, PathBuf>) {
        *self.images.lock() = images;
    }

    pub(super) fn wanted_place(&self, name: &str) -> Option<PathBuf> {
        self.images.lock().get(name).cloned()
    }

    /// What is to be known if the image of a replica lies elsewhere than is wanted: it stays there.
    #[must_use]
    pub fn misplaced(&self, name: &str, image: &Path) -> Option<String> {
        let wanted = self.wanted_place(name)?;
        (!is_one_place(&wanted, image)).then(|| {
            format!(
                "its image was made at {} and is used there, not at {}; say so in [[replica]], or, to have it there, move the \
                 directory {} away, restart the unit, and it gets a full copy",
                image.display(),
                wanted.display(),
                self.config.directory.join(name).display()
            )
        })
    }

    /// Before a replica is made: the link to where its image is to lie, if that is elsewhere.
    pub(super) fn lay_link(&self, name: &str, file: &str) -> Result<Option<Laid>, StorageError> {
        let Some(place) = self.wanted_place(name) else {
            return Ok(None);
        };
        let directory = self.config.directory.join(name);
        let link = directory.join(file);
        let failed = |error: io::Error| StorageError::Refused {
            name: link.display().to_string(),
            problem: format!("cannot lead to {}: {error}", place.display()),
        };
        let is_new = match std::fs::symlink_metadata(&link) {
            Ok(found) if !found.is_symlink() => {
                let problem = format!(
                    "is there, and [[replica]] says that the image lies at {}; move it away, or take the setting out",
                    place.display()
                );
                let name = link.display().to_string();
                return Err(StorageError::Refused { name, problem });
            }
            Ok(_) if followed(&directory, file) == place => false,
            // Of an attempt at another place, which did not come to a replica.
            Ok(_) => std::fs::remove_file(&link).map(|()| true).map_err(failed)?,
            Err(_) => true,
        };
        if is_new {
            let laid = std::fs::create_dir_all(&directory).and_then(|()| symlink(&place, &link));
            laid.map_err(failed)?;
        }
        let laid = Laid { link, is_new };
        sync_directory(&directory)?;
        Ok(Some(laid))
    }

    /// Where content for a replica that is still to come is put. What an import that was interrupted had begun to write there
    /// may be written over.
    pub(super) fn seed_place(&self, name: &str) -> Result<PathBuf, StorageError> {
        let directory = self.config.directory.join(name);
        if let Some(laid) = self.lay_link(name, NEW_IMAGE)? {
            if laid.is_new {
                check_unused(&followed(&directory, NEW_IMAGE), Role::Replica)?;
            }
            laid.keep();
        }
        Ok(directory.join(NEW_IMAGE))
    }
}
