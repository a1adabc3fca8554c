//! Larger volumes, on real files.

use crate::files::{StoreFiles, open_files};
use crate::grow::{grow_store, prepare_growth};
use crate::map_files::open_map;
use crate::store::Store;
use crate::test_store::{files_in, open_in, parameters};
use std::os::unix::fs::FileExt;

/// No multiple of a file system's block.
const OLD: u64 = (1 << 20) + 512;
const NEW: u64 = 3 << 20;

fn files(directory: &tempfile::TempDir) -> StoreFiles {
    files_in(directory.path(), &parameters(OLD, 2 << 20))
}

#[test]
fn image_map_and_superblock_grow_together_and_stay_so() {
    let directory = tempfile::tempdir().unwrap();
    let files = files(&directory);
    let store = open_in(&files);
    let map = open_map(&files, "far", &store.superblock()).unwrap();
    store.add_consumer("far", map).unwrap();
    let dirty = store.consumer("far").unwrap().dirty_bytes;
    grow_store(&store, &files, NEW).unwrap();
    assert_eq!(std::fs::metadata(&files.image).unwrap().len(), NEW);
    store.shut_down().unwrap();
    drop(store);
    let store = open_in(&files);
    assert_eq!(
        (store.volume_bytes(), store.superblock().volume_bytes),
        (NEW, NEW)
    );
    assert_eq!(
        store.consumer("far").unwrap().dirty_bytes,
        dirty,
        "the map was found"
    );
    let names = std::fs::read_dir(directory.path()).unwrap();
    let mut names: Vec<_> = names.map(|entry| entry.unwrap().file_name()).collect();
    names.sort();
    assert_eq!(names, ["dirty-disk0@far.map", "journal", "mirror.img"]);
    let refused = grow_store(&store, &files, OLD).unwrap_err().to_string();
    assert!(
        refused.contains("mirror.img") && refused.contains("cannot become smaller"),
        "{refused}"
    );
}

/// A volume with a remote that misses one block.
fn with_a_map(files: &StoreFiles) -> Store {
    let store = open_in(files);
    let map = open_map(files, "far", &store.superblock()).unwrap();
    store.add_consumer("far", map).unwrap();
    store
}

#[test]
fn a_map_that_did_not_get_its_name_gets_it_at_the_next_start() {
    let directory = tempfile::tempdir().unwrap();
    let files = files(&directory);
    let store = with_a_map(&files);
    let path = directory.path().join("dirty-disk0@far.map");
    let taken = directory.path().join("taken.map");
    std::fs::rename(&path, &taken).unwrap();
    // No file can be renamed over a directory.
    std::fs::create_dir(&path).unwrap();
    grow_store(&store, &files, NEW).unwrap();
    assert_eq!(store.volume_bytes(), NEW);
    let dirty = store.consumer("far").unwrap().dirty_bytes;
    store.shut_down().unwrap();
    drop(store);
    std::fs::remove_dir(&path).unwrap();
    std::fs::rename(&taken, &path).unwrap();
    let store = open_in(&files);
    assert_eq!(store.consumer("far").unwrap().dirty_bytes, dirty);
    assert!(!directory.path().join("dirty-disk0@far.map.new").exists());
}

#[test]
fn a_map_in_force_that_has_not_got_its_name_outlives_the_next_growth() {
    let directory = tempfile::tempdir().unwrap();
    let files = files(&directory);
    let store = with_a_map(&files);
    let path = directory.path().join("dirty-disk0@far.map");
    std::fs::remove_file(&path).unwrap();
    std::fs::create_dir(&path).unwrap();
    grow_store(&store, &files, NEW).unwrap();
    let unnamed = std::fs::read(directory.path().join("dirty-disk0@far.map.new")).unwrap();
    assert!(
        grow_store(&store, &files, NEW * 2).is_err(),
        "it has no name to give way to"
    );
    assert_eq!(store.volume_bytes(), NEW);
    std::fs::remove_dir(&path).unwrap();
    drop(prepare_growth(&store, &files, NEW * 2).unwrap());
    assert_eq!(std::fs::read(&path).unwrap(), unnamed);
}

#[test]
fn a_new_map_of_a_growth_that_never_was_is_thrown_away() {
    let directory = tempfile::tempdir().unwrap();
    let files = files(&directory);
    let store = with_a_map(&files);
    drop(prepare_growth(&store, &files, NEW).unwrap());
    let left = directory.path().join("dirty-disk0@far.map.new");
    assert!(left.exists());
    drop(store);
    assert_eq!(open_in(&files).volume_bytes(), OLD);
    assert!(!left.exists());
    assert_eq!(std::fs::metadata(&files.image).unwrap().len(), OLD);
}

#[test]
fn a_growth_within_a_bit_of_the_map_keeps_the_map() {
    let directory = tempfile::tempdir().unwrap();
    let files = files(&directory);
    let store = with_a_map(&files);
    let inode = || {
        use std::os::unix::fs::MetadataExt as _;
        std::fs::metadata(directory.path().join("dirty-disk0@far.map"))
            .unwrap()
            .ino()
    };
    let before = inode();
    grow_store(&store, &files, OLD + 512).unwrap();
    assert_eq!(inode(), before);
}

#[test]
fn the_image_that_grows_is_the_one_in_use() {
    let directory = tempfile::tempdir().unwrap();
    let files = files(&directory);
    let store = open_in(&files);
    let moved = directory.path().join("moved.img");
    std::fs::rename(&files.image, &moved).unwrap();
    std::fs::write(&files.image, b"somebody's").unwrap();
    grow_store(&store, &files, NEW).unwrap();
    assert_eq!(std::fs::read(&files.image).unwrap(), b"somebody's");
    assert_eq!(std::fs::metadata(&moved).unwrap().len(), NEW);
    let mut buffer = [1; 512];
    store.read(OLD, &mut buffer).unwrap();
    assert_eq!(buffer, [0; 512]);
}

#[test]
fn maps_that_cannot_be_made_are_an_error_before_anything_is_changed() {
    let directory = tempfile::tempdir().unwrap();
    let files = files(&directory);
    let store = with_a_map(&files);
    let path = directory.path().join("dirty-disk0@far.map.new");
    std::fs::create_dir(&path).unwrap();
    let refused = grow_store(&store, &files, NEW).unwrap_err().to_string();
    assert!(refused.contains("dirty-disk0@far.map.new"), "{refused}");
    assert!(store.failure().is_none());
    assert_eq!(store.volume_bytes(), OLD);
    assert_eq!(std::fs::metadata(&files.image).unwrap().len(), OLD);
}

#[test]
fn an_image_that_grew_alone_is_cut_back_but_only_if_nothing_is_there() {
    let directory = tempfile::tempdir().unwrap();
    let files = files(&directory);
    let image = std::fs::OpenOptions::new()
        .write(true)
        .open(&files.image)
        .unwrap();
    image.set_len(NEW).unwrap();
    assert_eq!(open_in(&files).volume_bytes(), OLD);
    assert_eq!(std::fs::metadata(&files.image).unwrap().len(), OLD);
    for offset in [OLD, NEW - 1] {
        image.set_len(NEW).unwrap();
        image.write_all_at(&[1], offset).unwrap();
        let refused = open_files(&files).unwrap_err().to_string();
        assert!(refused.contains("is not the image of this volume"), "{refused}");
        assert_eq!(
            std::fs::metadata(&files.image).unwrap().len(),
            NEW,
            "nothing is cut off"
        );
        image.set_len(OLD).unwrap();
    }
}
