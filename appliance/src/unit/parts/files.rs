//! The files of a volume: where they are, opened or made, and taken back when making them came to nothing.

use super::error::PartError;
use crate::config::VolumeConfig;
use farside_protocol::journal::{Role, Superblock};
use farside_storage::{
    Clock, FileDevice, OpenMode, Resized, StorageError, Store, StoreFiles, StoreParameters, create_files,
    open_files, resize_journal,
};
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use uuid::Uuid;

/// Removes what a creation that failed afterwards has made. Never a device, and never what somebody else has opened
/// since: both files are locked until they are gone. A mirror that was adopted was not made.
pub(super) fn discard(files: &StoreFiles, mode: OpenMode) {
    let mut locked = Vec::new();
    let image = (mode != OpenMode::Adopt).then_some(&files.image);
    for path in [&files.journal].into_iter().chain(image) {
        let Ok(file) = std::fs::File::open(path) else {
            continue;
        };
        if file.metadata().is_ok_and(|found| found.is_file()) {
            if file.try_lock().is_err() {
                return;
            }
            locked.push((file, path));
        }
    }
    for (_file, path) in &locked {
        if let Err(error) = std::fs::remove_file(path) {
            tracing::warn!(
                "{} is of no use and could not be removed: {error}",
                path.display()
            );
        }
    }
}

/// The files of a volume as configured. The maps lie beside the mirror or the journal, whichever is a file, else in
/// the unit's own directory.
pub(crate) fn files_of(config: &VolumeConfig, data_dir: &Path) -> StoreFiles {
    let beside = |path: &Path| {
        let parent = path.parent().filter(|_| !path.starts_with("/dev"));
        parent.map(Path::to_owned)
    };
    StoreFiles {
        journal: config.journal.clone(),
        image: config.mirror.clone(),
        maps: beside(&config.mirror)
            .or_else(|| beside(&config.journal))
            .unwrap_or_else(|| data_dir.to_owned()),
    }
}

/// What else decides how a volume is opened.
#[derive(Debug, Clone)]
pub(super) struct Opening {
    /// The unit has made the volume before.
    pub(super) made_before: bool,
    /// What becomes of what its files hold, if it is made.
    pub(super) mode: OpenMode,
    /// Below it, directories that are missing are made.
    pub(super) volumes_dir: PathBuf,
}

/// Opens the files of a volume, or makes them if it is new, which the flag says. Blocks.
pub(super) fn open_or_create(
    files: &StoreFiles,
    config: &VolumeConfig,
    opening: &Opening,
    clock: &Arc<dyn Clock>,
) -> Result<(Store, bool), PartError> {
    let is_ours = journal_is_ours(&files.journal);
    let (made_before, mode) = (opening.made_before, opening.mode);
    if is_ours && mode == OpenMode::Adopt {
        return Err(PartError::conflict(format!(
            "{} is the journal of a volume; without --adopt it is taken up with its mirror, or name another with --journal-path",
            files.journal.display()
        )));
    }
    if !is_ours && made_before && mode == OpenMode::Careful {
        return Err(PartError::conflict(format!(
            "{} {}, but volume {} was made before; mount or put back what held it; {}",
            files.journal.display(),
            absence(&files.journal),
            config.name,
            way_back(config)
        )));
    }
    let made = !is_ours || mode == OpenMode::Force;
    if made {
        refuse_missing_directory(files, &opening.volumes_dir)?;
        if mode == OpenMode::Adopt {
            refuse_cut(&files.image, config.size_bytes)?;
        }
        let parameters = StoreParameters {
            role: Role::Volume,
            name: config.name.clone(),
            volume: Uuid::new_v4(),
            journal: Uuid::new_v4(),
            volume_bytes: config.size_bytes,
            journal_bytes: config.journal_size_bytes,
            segment_bytes: None,
            source: Uuid::nil(),
        };
        create_files(files, &parameters, mode, clock.wall_us())?;
        tracing::info!(volume = config.name, bytes = config.size_bytes, "volume made");
    }
    let opened = open_existing(files, config, clock);
    if made && opened.is_err() {
        discard(files, mode);
    }
    let store = opened.map_err(|error| {
        if !error.is_lost_content() {
            return error.into();
        }
        let way = if made_before {
            way_back(config)
        } else {
            "or give another path, or --force, which formats mirror and journal: what they hold is gone"
                .to_owned()
        };
        PartError::conflict(format!("{error}; {way}"))
    })?;
    Ok((store, made))
}

/// Size of what is to be adopted.
pub(crate) fn size_to_adopt(mirror: &Path) -> Result<u64, PartError> {
    let refuse = |why: String| PartError::conflict(format!("{} cannot be adopted: {why}", mirror.display()));
    let kind = std::fs::metadata(mirror).map_err(|error| refuse(error.to_string()))?;
    if !kind.is_file() && !kind.file_type().is_block_device() {
        return Err(refuse("it is neither a file nor a block device".to_owned()));
    }
    let opened = std::fs::File::open(mirror).map_err(|error| refuse(error.to_string()))?;
    Ok(FileDevice::new(opened, mirror)?.size_bytes()?)
}

fn refuse_cut(mirror: &Path, volume_bytes: u64) -> Result<(), PartError> {
    let bytes = size_to_adopt(mirror)?;
    let is_file = std::fs::metadata(mirror).is_ok_and(|found| found.is_file());
    if bytes <= volume_bytes || !is_file {
        return Ok(());
    }
    Err(PartError::conflict(format!(
        "{} has {bytes} bytes, more than the volume's {volume_bytes}; give a size of at least so many",
        mirror.display()
    )))
}

/// How to get a volume back whose files are lost.
fn way_back(config: &VolumeConfig) -> String {
    let (first, last) = if config.remotes.is_empty() {
        ("", "what they hold is gone")
    } else {
        (
            "keep a copy of the remote's replica.img, ",
            "then write that copy into it and remove the replica",
        )
    };
    format!(
        "if it is lost, {first}remove volume {} and create it again with --force, which formats mirror and journal: {last}",
        config.name
    )
}

/// In what way there is no journal.
fn absence(journal: &Path) -> &'static str {
    match std::fs::metadata(journal) {
        Ok(found) if found.is_file() => "is empty",
        Ok(_) => "holds no journal any more",
        Err(_) => "is gone",
    }
}

/// Directories elsewhere are not made: one that is missing is a mistake, or a disk that is not mounted.
fn refuse_missing_directory(files: &StoreFiles, volumes_dir: &Path) -> Result<(), PartError> {
    for path in [&files.image, &files.journal] {
        let directory = path.parent().unwrap_or(Path::new("/"));
        if !path.starts_with(volumes_dir) && !directory.is_dir() {
            return Err(PartError::conflict(format!(
                "{}: there is no directory {}; make it, or mount what it is on, or correct the path",
                path.display(),
                directory.display()
            )));
        }
    }
    Ok(())
}

fn open_existing(
    files: &StoreFiles,
    config: &VolumeConfig,
    clock: &Arc<dyn Clock>,
) -> Result<Store, StorageError> {
    let resized = resize_journal(&files.journal, &config.name, config.journal_size_bytes)?;
    let set = open_files(files)?;
    check_superblock(&set.superblock, files, config)?;
    let store = Store::open(set.devices, clock.clone())?;
    set.mark.settle()?;
    tell_size(config, &resized);
    Ok(store)
}

/// A journal that has to keep its size is no reason not to start.
fn tell_size(config: &VolumeConfig, resized: &Resized) {
    let (volume, bytes) = (&config.name, config.journal_size_bytes);
    match resized {
        Resized::Done => tracing::info!(volume, bytes, "the journal has its new size"),
        Resized::AsItWas => {}
        Resized::Refused(error) => {
            tracing::error!(
                volume,
                bytes,
                "the journal could not be given the size that is configured: {error}"
            );
        }
    }
}

/// Whether a journal is there to be opened: any file that is not empty, so that one that cannot be read is
/// reported rather than replaced.
fn journal_is_ours(path: &Path) -> bool {
    use std::os::unix::fs::FileTypeExt;
    match std::fs::metadata(path) {
        Ok(found) if found.file_type().is_block_device() => farside_storage::is_journal(path).unwrap_or(true),
        Ok(found) => found.len() > 0,
        Err(_) => false,
    }
}

fn check_superblock(
    superblock: &Superblock,
    files: &StoreFiles,
    config: &VolumeConfig,
) -> Result<(), StorageError> {
    let name = files.journal.display().to_string();
    let refuse = |problem: String| {
        Err(StorageError::Refused {
            name: name.clone(),
            problem,
        })
    };
    if superblock.role != Role::Volume || superblock.name != config.name {
        let what = if superblock.role == Role::Volume {
            "volume"
        } else {
            "replica"
        };
        return refuse(format!(
            "is the journal of {what} {}, not of volume {}; correct volume.journal in the configuration",
            superblock.name, config.name
        ));
    }
    if superblock.volume_bytes > config.size_bytes {
        return refuse(format!(
            "belongs to a volume of {} bytes, the configuration says {}; set the size back: a volume cannot become smaller",
            superblock.volume_bytes, config.size_bytes
        ));
    }
    Ok(())
}

pub(super) fn report_start(store: &Store) {
    let (opened, points) = (store.opened(), store.points());
    let replay = points.journaled.record.saturating_sub(points.applied.record);
    if opened.clean {
        tracing::info!(volume = %store.name(), epoch = opened.epoch, "clean start");
    } else {
        tracing::warn!(volume = %store.name(), epoch = opened.epoch, records_to_replay = replay,
            "the last shutdown was not clean: recovered from the journal, a new epoch begins");
    }
}
