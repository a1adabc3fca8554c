//! Where a path has its files, and the stores in them.

use anyhow::Result;
use farside_protocol::journal::Role;
use farside_storage::{
    Clock, OpenMode, Store, StoreFiles, StoreParameters, SystemClock, create_files, open_files,
};
use std::path::Path;
use std::sync::Arc;
use tempfile::TempDir;
use uuid::Uuid;

/// Size of the volume.
pub(crate) const VOLUME_BYTES: u64 = 64 << 20;
/// Large enough for all that a path writes: no path waits for room.
const JOURNAL_BYTES: u64 = 64 << 20;
/// Segments as a large journal has them.
const SEGMENT_BYTES: u32 = 4 << 20;
/// The volume of every path.
pub(crate) const VOLUME: Uuid = Uuid::from_u128(0xd15c);
/// Its name.
pub(crate) const NAME: &str = "disk0";
/// The unit it belongs to.
pub(crate) const UNIT: Uuid = Uuid::from_u128(0x10ca1);

/// A directory that goes away with it.
#[derive(Debug)]
pub(crate) struct Place {
    directory: TempDir,
    clock: Arc<dyn Clock>,
}

impl Place {
    /// A new one.
    pub(crate) fn new() -> Result<Self> {
        let directory = tempfile::Builder::new().prefix("farside-cost-").tempdir()?;
        let clock = Arc::new(SystemClock::new());
        Ok(Self { directory, clock })
    }

    /// Where it is.
    pub(crate) fn path(&self) -> &Path {
        self.directory.path()
    }

    /// The files of a store.
    pub(crate) fn files(&self, role: Role) -> StoreFiles {
        let own = self.path().join(format!("{role:?}"));
        StoreFiles {
            journal: own.join("journal"),
            image: own.join("image"),
            maps: own,
        }
    }

    /// A new store, open.
    pub(crate) fn create(&self, role: Role) -> Result<Store> {
        let parameters = StoreParameters {
            role,
            name: NAME.to_owned(),
            volume: VOLUME,
            journal: Uuid::from_u128(VOLUME.as_u128() + 1 + u128::from(role == Role::Replica)),
            volume_bytes: VOLUME_BYTES,
            journal_bytes: JOURNAL_BYTES,
            segment_bytes: Some(SEGMENT_BYTES),
            source: if role == Role::Replica { UNIT } else { Uuid::nil() },
        };
        create_files(
            &self.files(role),
            &parameters,
            OpenMode::Careful,
            self.clock.wall_us(),
        )?;
        self.open(role)
    }

    /// An existing one.
    pub(crate) fn open(&self, role: Role) -> Result<Store> {
        let set = open_files(&self.files(role))?;
        Ok(Store::open(set.devices, self.clock.clone())?)
    }
}
