//! Stores for tests: what they are made of, and chunks that go into their journals when there is room.

use crate::clock::SystemClock;
use crate::files::{OpenMode, StoreFiles, create_files, open_files};
use crate::store::{AppendError, Store, StoreParameters};
use farside_protocol::journal::Role;
use std::path::Path;
use std::sync::Arc;
use uuid::Uuid;

/// A volume of these sizes.
pub(crate) fn parameters(volume_bytes: u64, journal_bytes: u64) -> StoreParameters {
    StoreParameters {
        role: Role::Volume,
        name: "disk0".to_owned(),
        volume: Uuid::from_u128(7),
        journal: Uuid::from_u128(8),
        volume_bytes,
        journal_bytes,
        segment_bytes: None,
        source: Uuid::nil(),
    }
}

/// The files of one in a directory, made.
pub(crate) fn files_in(directory: &Path, parameters: &StoreParameters) -> StoreFiles {
    let files = StoreFiles {
        journal: directory.join("journal"),
        image: directory.join("mirror.img"),
        maps: directory.join("."),
    };
    create_files(&files, parameters, OpenMode::Careful, 1).unwrap();
    files
}

/// Opens what [`files_in`] made.
pub(crate) fn open_in(files: &StoreFiles) -> Store {
    let set = open_files(files).unwrap();
    let store = Store::open(set.devices, Arc::new(SystemClock::new())).unwrap();
    set.mark.settle().unwrap();
    store
}

/// Tries to append until there is room, making it as the threads around a store would.
pub(crate) fn when_there_is_room<T>(store: &Store, mut append: impl FnMut() -> Result<T, AppendError>) -> T {
    loop {
        match append() {
            Ok(appended) => return appended,
            Err(AppendError::NotDurable) => drop(store.sync().unwrap()),
            Err(AppendError::Full) => {
                store.sync().unwrap();
                store.drain().unwrap();
                store.relieve().unwrap();
            }
            Err(error) => panic!("{error}"),
        }
    }
}
