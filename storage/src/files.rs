//! Stores on real paths: creation that never touches somebody's data, exclusive locks, and what belongs together.

use crate::device::{Device, FileDevice, Kind};
use crate::error::{Operation, StorageError};
use crate::image_mark::{OpeningImage, mark_new, mark_opening};
use crate::journal::load_superblock_for_use;
use crate::limits::{
    FILL_JOURNAL_BYTES, LOCK_ATTEMPTS, LOCK_PAUSE, MAX_JOURNAL_BYTES, MAX_VOLUME_BYTES, MIN_JOURNAL_BYTES,
};
use crate::made_directories::MadeDirectories;
use crate::map_files::open_map;
use crate::small_file::sync_directory;
use crate::store::{Store, StoreDevices, StoreParameters};
use farside_protocol::journal::limits::{BLOCK_BYTES, RING_OFFSET};
use farside_protocol::journal::{Role, Superblock};
use rustix::fs::FallocateFlags;
use std::fs::{File, OpenOptions, TryLockError};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Bytes looked at in each place of a block device, all of which must be zero for it to count as empty.
const PROBE_BYTES: u64 = 1 << 20;
/// Places looked at, evenly spread over the device, the first and the last MiB among them.
const PROBES: u64 = 1024;

/// Paths of one store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoreFiles {
    /// The journal: a file, or a block device.
    pub journal: PathBuf,
    /// The image: a file, or a block device.
    pub image: PathBuf,
    /// Directory of the dirty-block maps.
    pub maps: PathBuf,
}

/// Whether a journal of any version is at `path`.
///
/// # Errors
/// [`StorageError::Io`].
pub fn is_journal(path: &Path) -> Result<bool, StorageError> {
    let mut block = [0; BLOCK_BYTES];
    let device = open_device(path, false)?;
    if device.size_bytes()? < RING_OFFSET {
        return Ok(false);
    }
    device.read_at(&mut block, 0)?;
    Ok(Superblock::claimed_version(&block).is_some())
}

/// Whether creation may overwrite what is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OpenMode {
    /// Refuse anything that is not empty.
    Careful,
    /// Refuse a journal that is not empty, and keep what the image holds: a copy finds out what of it is of use.
    Adopt,
    /// The operator has said to overwrite.
    Force,
}

/// The open, locked files of one store.
#[derive(Debug)]
pub struct FileSet {
    /// The devices, ready for [`Store::open`].
    pub devices: StoreDevices,
    /// The image's mark, to be settled once the store is open.
    pub mark: OpeningImage,
    /// The superblock as found.
    pub superblock: Superblock,
    /// Block devices or files, for status.
    pub image_kind: Kind,
}

/// Creates journal and image for a new store.
///
/// # Errors
/// [`StorageError`] that names the file and the remedy; what this call created is removed again.
pub fn create_files(
    files: &StoreFiles,
    parameters: &StoreParameters,
    mode: OpenMode,
    now_us: u64,
) -> Result<(), StorageError> {
    check_sizes(files, parameters)?;
    for path in [&files.journal, &files.image] {
        refuse_absent_device(path)?;
    }
    if mode == OpenMode::Adopt && !files.image.exists() {
        return Err(not_opened(&files.image, std::io::ErrorKind::NotFound.into()));
    }
    let mut made_directories = MadeDirectories::default();
    for path in [&files.journal, &files.image] {
        made_directories.make_parent(path)?;
    }
    refuse_used(&files.journal, parameters.role, mode)?;
    if mode != OpenMode::Adopt {
        refuse_used(&files.image, parameters.role, mode)?;
    }
    let image_is_new = !files.image.exists();
    let image = FileDevice::new(create_file(&files.image)?, &files.image)?;
    lock(&image)?;
    // Whoever makes the same two files at the same time holds this lock meanwhile, and may be ready by now.
    if refuse_used(&files.journal, parameters.role, mode).is_err() {
        let text = "is in use: it was made just now by somebody else; try again";
        return Err(StorageError::refused(
            &files.journal.display().to_string(),
            text.to_owned(),
        ));
    }
    let made = fill_image(&image, &files.image, parameters, mode)
        .and_then(|()| create_journal(&files.journal, parameters, now_us));
    if made.is_ok() {
        made_directories.keep();
    } else if image_is_new {
        let _ = std::fs::remove_file(&files.image);
    }
    made
}

/// The image with its size, mark and name, durable before there is a journal that needs it.
fn fill_image(
    image: &FileDevice,
    path: &Path,
    parameters: &StoreParameters,
    mode: OpenMode,
) -> Result<(), StorageError> {
    resize_image(image, parameters.volume_bytes, mode)?;
    mark_new(image, parameters.volume, parameters.role)?;
    image.sync_with_attributes()?;
    sync_directory(path.parent().unwrap_or(Path::new(".")))
}

fn check_sizes(files: &StoreFiles, parameters: &StoreParameters) -> Result<(), StorageError> {
    let (journal, image) = (
        files.journal.display().to_string(),
        files.image.display().to_string(),
    );
    if !(MIN_JOURNAL_BYTES..=MAX_JOURNAL_BYTES).contains(&parameters.journal_bytes) {
        let text = format!(
            "a journal of {} bytes; use {MIN_JOURNAL_BYTES} to {MAX_JOURNAL_BYTES}",
            parameters.journal_bytes
        );
        return Err(StorageError::refused(&journal, text));
    }
    if parameters.volume_bytes == 0 || parameters.volume_bytes > MAX_VOLUME_BYTES {
        let text = format!(
            "a volume of {} bytes; use 512 to {MAX_VOLUME_BYTES}",
            parameters.volume_bytes
        );
        return Err(StorageError::refused(&image, text));
    }
    Ok(())
}

fn refuse_used(path: &Path, role: Role, mode: OpenMode) -> Result<(), StorageError> {
    if mode == OpenMode::Force {
        return Ok(());
    }
    check_unused(path, role)
}

/// Refuses a path whose content might be somebody's.
///
/// # Errors
/// [`StorageError`] that says what to do for a volume, or a replica.
pub fn check_unused(path: &Path, role: Role) -> Result<(), StorageError> {
    refuse_absent_device(path)?;
    if !path.exists() {
        return Ok(());
    }
    refuse_content(&open_device(path, false)?, role)
}

/// Opens a place for content that is to lie there: one that is free and holds nothing, emptied and locked.
///
/// # Errors
/// [`StorageError`] that says what to do; nothing is made then.
pub fn take_unused(path: &Path, role: Role) -> Result<FileDevice, StorageError> {
    check_unused(path, role)?;
    let device = FileDevice::new(create_file(path)?, path)?;
    lock(&device)?;
    // Whoever had the lock may have put something there.
    refuse_content(&device, role)?;
    if device.kind() == Kind::File {
        let emptied = device.file().set_len(0);
        emptied.map_err(|error| StorageError::io(Operation::Allocate, device.name(), 0, error))?;
    }
    Ok(device)
}

/// Whether an image that is there is free: not mounted, and no other unit has it.
///
/// # Errors
/// [`StorageError`] that says what to do.
pub fn check_free(path: &Path) -> Result<(), StorageError> {
    lock(&open_device(path, true)?)
}

/// A file that is made below `/dev` is one in memory, and in the way when the device comes.
fn refuse_absent_device(path: &Path) -> Result<(), StorageError> {
    let real = std::fs::read_link(path).unwrap_or_else(|_| path.to_owned());
    let is_below = [path, &real]
        .iter()
        .any(|path| path.starts_with("/dev") && !path.starts_with("/dev/shm"));
    if is_below && !path.exists() {
        let text = "is not there; attach or activate the device";
        return Err(StorageError::lost(&path.display().to_string(), text));
    }
    Ok(())
}

fn refuse_content(device: &FileDevice, role: Role) -> Result<(), StorageError> {
    let size = device.size_bytes()?;
    let empty = match device.kind() {
        // A file without any data is what a creation that was cut short leaves behind.
        Kind::File => is_unused(device, 0, size)?,
        Kind::BlockDevice => looks_empty(device, size)?,
    };
    if empty {
        return Ok(());
    }
    let text = match role {
        Role::Volume => "exists and is not empty; give another path, or --force to overwrite what it holds",
        Role::Replica | Role::History => {
            "exists and is not empty, but its journal is not there; put that back, or move the directory of the replica \
             away: it then gets a full copy. An image elsewhere has to be zeroes, or 'farside replica adopt' takes what it holds \
             for a beginning"
        }
    };
    Err(StorageError::refused(device.name(), text))
}

/// Whether a device looks empty: up to 1 GiB it is read whole.
fn looks_empty(device: &FileDevice, size: u64) -> Result<bool, StorageError> {
    let step = (size / PROBES).max(PROBE_BYTES);
    let mut at = 0;
    while at < size {
        if !is_zero(device, at, size)? {
            return Ok(false);
        }
        at += step;
    }
    is_zero(device, size.saturating_sub(PROBE_BYTES), size)
}

fn is_zero(device: &FileDevice, from: u64, end: u64) -> Result<bool, StorageError> {
    let mut buffer = vec![0; usize::try_from((end - from).min(PROBE_BYTES)).unwrap_or(0)];
    device.read_at(&mut buffer, from)?;
    Ok(buffer.iter().all(|byte| *byte == 0))
}

pub(crate) fn open_device(path: &Path, write: bool) -> Result<FileDevice, StorageError> {
    // Before it is opened: that would wait for whoever writes to a pipe.
    let kind = std::fs::metadata(path).map(|found| found.file_type());
    if kind.is_ok_and(|kind| !kind.is_file() && !kind.is_block_device()) {
        let text = "is neither a regular file nor a block device";
        return Err(StorageError::refused(&path.display().to_string(), text));
    }
    let mut options = OpenOptions::new();
    options.read(true).write(write);
    let opened = if write {
        open_alone(path, &mut options)
    } else {
        options.open(path)
    };
    FileDevice::new(opened.map_err(|error| not_opened(path, error))?, path)
}

pub(crate) fn create_file(path: &Path) -> Result<File, StorageError> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false);
    open_alone(path, options.mode(0o600)).map_err(|error| match error.kind() {
        std::io::ErrorKind::ResourceBusy => not_opened(path, error),
        _ => StorageError::io(Operation::Open, &path.display().to_string(), 0, error),
    })
}

fn not_opened(path: &Path, error: std::io::Error) -> StorageError {
    let name = path.display().to_string();
    match error.kind() {
        std::io::ErrorKind::NotFound => {
            StorageError::lost(&name, "is not there; mount or put back what held it")
        }
        std::io::ErrorKind::ResourceBusy => {
            let text = "is in use: it is mounted, or part of another device, or another Farside unit has it; 'lsblk' shows \
                        the first two";
            StorageError::refused(&name, text)
        }
        _ => StorageError::io(Operation::Open, &name, 0, error),
    }
}

/// Opens what is to be written; a block device only if the system does nothing else with it: Linux refuses `O_EXCL` for one
/// that is mounted, or part of something (open(2)).
fn open_alone(path: &Path, options: &mut OpenOptions) -> std::io::Result<File> {
    if std::fs::metadata(path).is_ok_and(|found| found.file_type().is_block_device()) {
        options.create(false).custom_flags(libc::O_EXCL);
    }
    let mut attempts = 1;
    loop {
        match options.open(path) {
            // A unit that was just killed may still be on its way out.
            Err(error) if error.kind() == std::io::ErrorKind::ResourceBusy && attempts < LOCK_ATTEMPTS => {
                attempts += 1;
                std::thread::sleep(LOCK_PAUSE);
            }
            opened => return opened,
        }
    }
}

fn resize_image(device: &FileDevice, bytes: u64, mode: OpenMode) -> Result<(), StorageError> {
    let name = device.name().to_owned();
    let resize = |bytes| {
        device
            .file()
            .set_len(bytes)
            .map_err(|error| StorageError::io(Operation::Allocate, &name, bytes, error))
    };
    match device.kind() {
        Kind::File => {
            if mode == OpenMode::Force {
                resize(0)?;
            }
            resize(bytes)?;
        }
        Kind::BlockDevice => device.check_holds(bytes)?,
    }
    Ok(())
}

/// A journal file appears under its name only when it is complete.
fn create_journal(path: &Path, parameters: &StoreParameters, now_us: u64) -> Result<(), StorageError> {
    // An existing one stays locked until it is replaced: it may be in use, whatever the operator said.
    let existing = if path.exists() {
        let device = open_device(path, true)?;
        lock(&device)?;
        Some(device)
    } else {
        None
    };
    if let Some(device) = existing
        .as_ref()
        .filter(|device| device.kind() == Kind::BlockDevice)
    {
        device.check_holds(parameters.superblock(now_us).journal_bytes())?;
        return Store::format(device, parameters, now_us);
    }
    let mut new = path.as_os_str().to_owned();
    new.push(".new");
    let new = PathBuf::from(new);
    let made = fill_journal(&new, parameters, now_us).and_then(|()| {
        let renamed = std::fs::rename(&new, path);
        renamed.map_err(|error| StorageError::io(Operation::Open, &path.display().to_string(), 0, error))?;
        sync_directory(path.parent().unwrap_or(Path::new(".")))
    });
    if made.is_err() {
        let _ = std::fs::remove_file(&new);
    }
    made
}

/// Reserves space now, so that a full disk shows here and not under a host's write.
pub(crate) fn reserve(device: &FileDevice, bytes: u64) -> Result<(), StorageError> {
    let failed = |error| StorageError::io(Operation::Allocate, device.name(), bytes, error);
    match rustix::fs::fallocate(device.file(), FallocateFlags::empty(), 0, bytes) {
        Ok(()) => Ok(()),
        Err(rustix::io::Errno::OPNOTSUPP) => device.file().set_len(bytes).map_err(failed),
        Err(error) => Err(failed(error.into())),
    }
}

fn fill_journal(path: &Path, parameters: &StoreParameters, now_us: u64) -> Result<(), StorageError> {
    let _ = std::fs::remove_file(path);
    let device = FileDevice::new(create_file(path)?, path)?;
    let bytes = parameters.journal_bytes;
    reserve(&device, bytes)?;
    // The first write into merely reserved space changes the file system's own tables, which every flush of the
    // first lap would then have to wait for. Zeroes written now take that out of the hosts' way.
    if bytes <= FILL_JOURNAL_BYTES {
        device.write_zeroes(0, bytes)?;
    }
    Store::format(&device, parameters, now_us)
}

/// Takes the exclusive lock that keeps a second unit away. A unit that was just killed may still be on its way out.
pub(crate) fn lock(device: &FileDevice) -> Result<(), StorageError> {
    for _ in 0..LOCK_ATTEMPTS {
        match device.file().try_lock() {
            Ok(()) => return Ok(()),
            Err(TryLockError::WouldBlock) => std::thread::sleep(LOCK_PAUSE),
            Err(TryLockError::Error(error)) => {
                return Err(StorageError::io(Operation::Open, device.name(), 0, error));
            }
        }
    }
    let text = "is in use by another Farside unit; stop that one first, or give this one other files";
    Err(StorageError::refused(device.name(), text))
}

/// Opens and locks the files of a store and checks that they belong together.
///
/// # Errors
/// [`StorageError`] that names the file and the remedy; nothing was changed.
pub fn open_files(files: &StoreFiles) -> Result<FileSet, StorageError> {
    let journal = open_device(&files.journal, true)?;
    lock(&journal)?;
    let size = journal.size_bytes()?;
    if size < RING_OFFSET {
        let text = format!("has {size} bytes, too few for a journal; restore it");
        return Err(StorageError::lost(journal.name(), text));
    }
    let superblock = load_superblock_for_use(&journal)?;
    let needed = superblock.journal_bytes();
    if size < needed {
        let text = format!("is truncated: {size} bytes of {needed}; restore it");
        return Err(StorageError::lost(journal.name(), text));
    }
    let image = open_device(&files.image, true)?;
    lock(&image)?;
    let (needed, size) = (superblock.volume_bytes, image.size_bytes()?);
    let fits = match image.kind() {
        Kind::File => size == needed || (size > needed && is_grown(&image, needed, size)?),
        Kind::BlockDevice => size >= needed,
    };
    if !fits {
        let text = format!(
            "has {size} bytes, its journal says {needed}; it is not the image of this volume; put the right file back"
        );
        return Err(StorageError::lost(image.name(), text));
    }
    let image = Arc::new(image);
    let mark = mark_opening(&image, &superblock)?;
    if image.kind() == Kind::File && size > needed {
        take_back_growth(&image, size, needed)?;
    }
    let image_kind = image.kind();
    let maps = superblock
        .consumers
        .iter()
        .map(|slot| open_map(files, &slot.name, &superblock))
        .collect::<Result<_, _>>()?;
    let devices = StoreDevices {
        journal: Arc::new(journal),
        image,
        maps,
    };
    Ok(FileSet {
        devices,
        mark,
        superblock,
        image_kind,
    })
}

/// Whether an image is longer because a growth of its volume was cut short, and not because it is another one.
fn is_grown(image: &FileDevice, needed: u64, size: u64) -> Result<bool, StorageError> {
    let mark = crate::image_mark::read(image)?;
    Ok(mark.is_some_and(|mark| !mark.is_empty()) && is_unused(image, needed, size)?)
}

/// Whether there is nothing but zeroes from `from` on: holes, or what file systems that do not tell holes show for them.
fn is_unused(image: &FileDevice, from: u64, end: u64) -> Result<bool, StorageError> {
    let mut at = from;
    while at < end {
        let extent = image.extent_at(at, end)?;
        let next = if extent.data {
            (at + PROBE_BYTES).min(at + extent.length)
        } else {
            at + extent.length
        };
        if extent.data && !is_zero(image, at, next)? {
            return Ok(false);
        }
        at = next;
    }
    Ok(true)
}

/// What a growth that was cut short leaves is given back.
fn take_back_growth(image: &FileDevice, size: u64, needed: u64) -> Result<(), StorageError> {
    tracing::warn!(
        "{}: a growth to {size} bytes was cut short; it has {needed} again",
        image.name()
    );
    let cut = image.file().set_len(needed);
    cut.map_err(|error| StorageError::io(Operation::Allocate, image.name(), needed, error))
}

/// The mark of an image: the volume it belongs to and the start that last used it. `None` without one.
///
/// # Errors
/// [`StorageError::Io`].
pub fn image_mark(path: &Path) -> Result<Option<String>, StorageError> {
    let mark = crate::image_mark::read(&open_device(path, false)?)?;
    Ok(mark.filter(|mark| !mark.is_empty()))
}
