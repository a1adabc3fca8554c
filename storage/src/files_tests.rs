//! Real files: what is not ours, not whole or not the right one is refused by name, with a remedy, and left as it is.

use crate::StorageError;
use crate::clock::SystemClock;
use crate::files::{FileSet, OpenMode, StoreFiles, create_files, image_mark, is_journal, open_files};
use crate::map_files::open_map;
use crate::store::{Store, StoreParameters};
use farside_protocol::journal::Role;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use uuid::Uuid;

const VOLUME_BYTES: u64 = 1 << 20;
const JOURNAL_BYTES: u64 = 2 << 20;

struct World {
    directory: tempfile::TempDir,
    files: StoreFiles,
}

fn parameters(volume: u128) -> StoreParameters {
    StoreParameters {
        role: Role::Volume,
        name: "disk0".to_owned(),
        volume: Uuid::from_u128(volume),
        journal: Uuid::new_v4(),
        volume_bytes: VOLUME_BYTES,
        journal_bytes: JOURNAL_BYTES,
        segment_bytes: None,
        source: Uuid::nil(),
    }
}

impl World {
    fn empty() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name);
        let files = StoreFiles {
            journal: path("disk/journal"),
            image: path("disk/mirror.img"),
            maps: path("disk"),
        };
        Self { directory, files }
    }

    fn new() -> Self {
        let world = Self::empty();
        create_files(&world.files, &parameters(7), OpenMode::Careful, 1).unwrap();
        world
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Opens and closes the store once, as a start and a kill do.
    fn start(&self) {
        let FileSet { devices, mark, .. } = open_files(&self.files).unwrap();
        Store::open(devices, Arc::new(SystemClock::new())).unwrap();
        mark.settle().unwrap();
    }

    /// The refusal, which must name the file and say both things.
    fn refusal(&self, path: &Path, words: &[&str]) {
        let before = std::fs::read(path).unwrap();
        let refused = open_files(&self.files).unwrap_err().to_string();
        says(&refused, path, words);
        assert_eq!(std::fs::read(path).unwrap(), before, "a refused file was changed");
    }
}

fn says(refused: &str, path: &Path, words: &[&str]) {
    assert!(refused.contains(&path.display().to_string()), "{refused}");
    for word in words {
        assert!(refused.contains(word), "no '{word}' in: {refused}");
    }
}

fn patch(path: &Path, offset: u64, bytes: &[u8]) {
    let file = std::fs::OpenOptions::new().write(true).open(path).unwrap();
    file.write_all_at(bytes, offset).unwrap();
}

#[test]
fn a_new_store_opens_and_says_whose_image_it_has() {
    let world = World::new();
    assert!(is_journal(&world.files.journal).unwrap());
    assert!(!is_journal(&world.files.image).unwrap());
    world.start();
    world.start();
    let mark = image_mark(&world.files.image).unwrap().unwrap();
    assert_eq!(mark, format!("{}/mirror/2", Uuid::from_u128(7)));
}

#[test]
fn somebody_elses_data_is_not_overwritten_without_force() {
    for foreign in ["disk/journal", "disk/mirror.img"] {
        let world = World::empty();
        std::fs::create_dir(world.path("disk")).unwrap();
        let path = world.path(foreign);
        std::fs::write(&path, "my thesis").unwrap();
        let refused = create_files(&world.files, &parameters(7), OpenMode::Careful, 1).unwrap_err();
        says(&refused.to_string(), &path, &["not empty", "--force"]);
        assert_eq!(std::fs::read(&path).unwrap(), b"my thesis");
        assert_eq!(
            std::fs::read_dir(world.path("disk")).unwrap().count(),
            1,
            "something was left"
        );
        create_files(&world.files, &parameters(7), OpenMode::Force, 1).unwrap();
        world.start();
    }
}

#[test]
fn a_store_that_is_there_is_not_made_again() {
    let world = World::new();
    let refused = create_files(&world.files, &parameters(8), OpenMode::Careful, 1).unwrap_err();
    says(&refused.to_string(), &world.files.journal, &["not empty"]);
    world.start();
}

#[test]
fn files_in_use_are_refused_even_by_force() {
    let world = World::new();
    let used = open_files(&world.files).unwrap();
    let refused = open_files(&world.files).unwrap_err().to_string();
    says(
        &refused,
        &world.files.journal,
        &["in use by another", "stop that one first"],
    );
    let force = |files: &StoreFiles| {
        create_files(files, &parameters(8), OpenMode::Force, 1)
            .unwrap_err()
            .to_string()
    };
    says(&force(&world.files), &world.files.image, &["in use by another"]);
    // The journal of a running volume, named for another image.
    let other = StoreFiles {
        image: world.path("other.img"),
        ..world.files.clone()
    };
    says(&force(&other), &world.files.journal, &["in use by another"]);
    assert!(!other.image.exists(), "something was left");
    drop(used);
    world.start();
}

#[test]
fn a_truncated_journal_is_refused_at_every_length() {
    for length in [0, 100, 4096, (64 << 10) - 1, 64 << 10, JOURNAL_BYTES / 2] {
        let world = World::new();
        let journal = std::fs::OpenOptions::new()
            .write(true)
            .open(&world.files.journal)
            .unwrap();
        journal.set_len(length).unwrap();
        world.refusal(&world.files.journal, &["restore it"]);
    }
}

#[test]
fn garbage_in_place_of_a_journal_is_refused() {
    let world = World::new();
    std::fs::write(&world.files.journal, vec![0xa5; 2 << 20]).unwrap();
    world.refusal(&world.files.journal, &["not a Farside journal"]);
}

#[test]
fn a_journal_without_a_readable_superblock_is_damaged_and_not_foreign() {
    let world = World::new();
    patch(&world.files.journal, 0, &[0; 4096]);
    patch(&world.files.journal, (32 << 10) + 100, &[0xff; 16]);
    world.refusal(&world.files.journal, &["both copies", "restore the file"]);
}

#[test]
fn a_newer_journal_is_refused_by_its_version() {
    let world = World::new();
    for offset in [8, (32 << 10) + 8] {
        patch(&world.files.journal, offset, &[0, 9]);
    }
    world.refusal(&world.files.journal, &["format version 9", "newer farside"]);
}

#[test]
fn an_image_of_another_size_is_refused() {
    for bytes in [0, VOLUME_BYTES - 1, VOLUME_BYTES + 1] {
        let world = World::new();
        let image = std::fs::OpenOptions::new()
            .write(true)
            .open(&world.files.image)
            .unwrap();
        image.set_len(bytes).unwrap();
        if bytes > 0 {
            image.write_all_at(&[1], bytes - 1).unwrap();
        }
        world.refusal(
            &world.files.image,
            &["not the image of this volume", "put the right file back"],
        );
    }
}

#[test]
fn a_missing_file_is_named() {
    for name in ["journal", "mirror.img"] {
        let world = World::new();
        let path = world.path("disk").join(name);
        std::fs::remove_file(&path).unwrap();
        let refused = open_files(&world.files).unwrap_err().to_string();
        says(&refused, &path, &["is not there", "put back"]);
        assert!(!path.exists());
    }
}

/// Copies with extended attributes, as a backup tool does.
fn copy(from: &Path, to: &Path) {
    let copied = Command::new("cp")
        .arg("--preserve=all")
        .args([from, to])
        .status()
        .unwrap();
    assert!(copied.success());
}

#[test]
fn an_older_image_an_older_journal_and_a_foreign_image_are_refused() {
    let world = World::new();
    world.start();
    let (journal, image) = (world.path("old-journal"), world.path("old-image"));
    copy(&world.files.journal, &journal);
    copy(&world.files.image, &image);
    // One start is enough to tell an older copy.
    world.start();
    let newest = world.path("new-image");
    copy(&world.files.image, &newest);
    copy(&image, &world.files.image);
    world.refusal(
        &world.files.image,
        &["older copy of the image", "Put the right file back", "setfattr"],
    );
    copy(&newest, &world.files.image);
    let kept = world.path("new-journal");
    copy(&world.files.journal, &kept);
    copy(&journal, &world.files.journal);
    world.refusal(
        &world.files.image,
        &["belongs to a newer journal", "Put the right file back"],
    );
    copy(&kept, &world.files.journal);
    world.start();
    // Without attributes, as `cp` without options leaves it; then another volume's.
    let bare = world.path("bare-image");
    std::fs::copy(&world.files.image, &bare).unwrap();
    std::fs::rename(&bare, &world.files.image).unwrap();
    world.refusal(&world.files.image, &["not marked as the mirror", "setfattr"]);
    let other = World::new();
    create_files(&world.files, &parameters(9), OpenMode::Force, 1).unwrap();
    copy(&other.files.image, &world.files.image);
    world.refusal(&world.files.image, &["is the mirror of another volume"]);
}

#[test]
fn sizes_out_of_limits_are_refused_before_anything_is_made() {
    let cases = [
        (0, JOURNAL_BYTES),
        (u64::MAX, JOURNAL_BYTES),
        (VOLUME_BYTES, 4096),
        (VOLUME_BYTES, u64::MAX),
    ];
    for (volume_bytes, journal_bytes) in cases {
        let world = World::empty();
        let parameters = StoreParameters {
            volume_bytes,
            journal_bytes,
            ..parameters(7)
        };
        let refused = create_files(&world.files, &parameters, OpenMode::Careful, 1).unwrap_err();
        says(&refused.to_string(), &world.path("disk"), &["use "]);
        assert_eq!(std::fs::read_dir(world.directory.path()).unwrap().count(), 0);
    }
}

/// A mounted file system that goes away with the test.
struct Mount(PathBuf);

impl Mount {
    fn tmpfs(at: PathBuf, bytes: u64) -> Option<Self> {
        std::fs::create_dir(&at).unwrap();
        let size = format!("size={bytes}");
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &size, "none"])
            .arg(&at)
            .status();
        mounted.is_ok_and(|status| status.success()).then_some(Self(at))
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        Command::new("umount").arg(&self.0).status().ok();
    }
}

#[test]
fn a_journal_too_large_for_the_disk_is_refused_and_nothing_is_left() {
    let world = World::empty();
    let Some(_mount) = Mount::tmpfs(world.path("disk"), JOURNAL_BYTES / 2) else {
        println!("skipped: no tmpfs can be mounted here");
        return;
    };
    let refused = create_files(&world.files, &parameters(7), OpenMode::Careful, 1).unwrap_err();
    assert!(refused.is_no_space(), "{refused}");
    says(
        &refused.to_string(),
        &world.path("disk"),
        &["journal", "No space left"],
    );
    assert_eq!(
        std::fs::read_dir(world.path("disk")).unwrap().count(),
        0,
        "something was left"
    );
}

#[test]
fn a_file_that_is_no_map_is_left_alone_and_a_damaged_map_is_made_anew() {
    let world = World::new();
    let superblock = open_files(&world.files).unwrap().superblock;
    let path = world.path(&format!("disk/dirty-{}@far.map", superblock.name));
    std::fs::write(&path, "not a map at all").unwrap();
    let refused = open_map(&world.files, "far", &superblock)
        .unwrap_err()
        .to_string();
    says(&refused, &path, &["no dirty-block map", "move it away"]);
    assert_eq!(std::fs::read(&path).unwrap(), b"not a map at all");
    std::fs::remove_file(&path).unwrap();
    open_map(&world.files, "far", &superblock).unwrap();
    patch(&path, 0, b"FARSIDEM damaged beyond its magic");
    open_map(&world.files, "far", &superblock).unwrap();
}

/// A loop device over a file, if this machine gives one.
struct Loop(String);

impl Loop {
    fn over(file: &Path, bytes: u64) -> Option<Self> {
        std::fs::File::create(file).unwrap().set_len(bytes).unwrap();
        let made = Command::new("losetup")
            .args(["--find", "--show"])
            .arg(file)
            .output()
            .ok()?;
        let name = String::from_utf8(made.stdout).unwrap().trim().to_owned();
        made.status.success().then_some(Self(name))
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        Command::new("losetup").args(["--detach", &self.0]).status().ok();
    }
}

#[test]
fn block_devices_serve_as_journal_and_image_if_they_are_empty_and_large_enough() {
    let world = World::empty();
    let (journal, image) = (world.path("journal.disk"), world.path("image.disk"));
    let devices = Loop::over(&journal, JOURNAL_BYTES + 4096).zip(Loop::over(&image, VOLUME_BYTES + 8192));
    let Some((journal, image)) = devices else {
        println!("skipped: no loop devices here");
        return;
    };
    let files = StoreFiles {
        journal: PathBuf::from(&journal.0),
        image: PathBuf::from(&image.0),
        maps: world.path("maps"),
    };
    let create = |volume_bytes, mode| -> Result<(), StorageError> {
        let parameters = StoreParameters {
            volume_bytes,
            ..parameters(7)
        };
        create_files(&files, &parameters, mode, 1)
    };
    let refused = create(VOLUME_BYTES * 2, OpenMode::Careful)
        .unwrap_err()
        .to_string();
    says(
        &refused,
        &files.image,
        &["give a larger device or a smaller size"],
    );
    create(VOLUME_BYTES, OpenMode::Careful).unwrap();
    assert!(files.image.exists() && files.journal.exists());
    let found = open_files(&files).unwrap();
    let refused = open_files(&files).unwrap_err().to_string();
    says(
        &refused,
        &files.journal,
        &["in use", "another Farside unit", "lsblk"],
    );
    let store = Store::open(found.devices, Arc::new(SystemClock::new())).unwrap();
    let mut bytes = [1; 512];
    store.image().read_at(&mut bytes, VOLUME_BYTES - 512).unwrap();
    assert_eq!(bytes, [0; 512]);
    store.shut_down().unwrap();
    drop(store);
    let refused = create(VOLUME_BYTES, OpenMode::Careful).unwrap_err().to_string();
    says(&refused, &files.journal, &["not empty", "--force"]);
}
