//! Blocking file I/O behind one narrow door: devices, the clock, the journal ring, images, the overlay.
//!
//! Never here: sockets. A store's steps run on the thread that calls them, which is how the simulator drives the
//! same code; threads come from one door, [`Workers`], like time and disks from theirs. Modules stand in the order
//! in which a write passes them.

pub mod limits;
mod error;
mod clock;
mod device;
mod small_file;
mod overlay;
mod journal;
mod block_map;
mod history;
mod store;
mod image_mark;
mod made_directories;
mod files;
mod map_files;
mod grow;
mod resize;
mod keeper;
mod workers;
#[cfg(test)]
mod files_tests;
#[cfg(test)]
mod resize_tests;
#[cfg(test)]
mod grow_tests;
#[cfg(test)]
mod test_store;
#[cfg(test)]
mod test_disk;
#[cfg(test)]
mod test_faults;

pub use block_map::BlockMap;
pub use clock::{Clock, SystemClock};
pub use device::{Device, Extent, FileDevice, Kind as DeviceKind};
pub use error::{Operation, StorageError};
pub use files::{
    FileSet, OpenMode, StoreFiles, check_free, check_unused, create_files, image_mark, is_journal,
    open_files, take_unused,
};
pub use grow::{Growth, grow_store, prepare_growth};
pub use history::{History, HistoryState, Mark, Moment, Pin, View, format_history, keep_history};
pub use image_mark::OpeningImage;
pub use journal::{
    ChunkSpan, Layout, ReadError, Recovered, RingSurvey, Scan, ScannedChunk, load_superblock, recover,
    scan_all,
};
pub use keeper::{ImageSteps, Keeper, StoreEvent, StoreObserver, SyncSteps};
pub use map_files::{open_map, remove_map, remove_maps};
pub use overlay::{Overlay, Piece, Source};
pub use resize::{Resized, resize_journal};
pub use small_file::{read_small_file, remove_file_durably, replace_file, sync_directory};
pub use store::{
    Allocation, AppendError, Appended, Change, Consumer, ConsumerView, CopyProgress, Counters, MergePlan,
    MergedBatch, Points, ReadBack, ReadOutcome, Relief, Snapshot, Store, StoreDevices, StoreParameters,
    Stretch, UnderWay,
};
pub use workers::{SystemWorkers, Work, Workers, done_elsewhere};
