//! Bounds of what a configuration may say, and its defaults.

use std::ops::RangeInclusive;
use std::time::Duration;

/// Largest configuration file read.
pub const FILE_BYTES: u64 = 1024 * 1024;

/// Longest name of a unit, a volume or a remote.
pub const NAME_BYTES: usize = 32;

/// Smallest piece of a disk a host can address.
pub const SECTOR_BYTES: u64 = 512;

/// Journals are made of whole blocks.
pub const JOURNAL_BLOCK_BYTES: u64 = 4096;

/// Largest volume and largest journal: 1 PiB.
pub const VOLUME_BYTES_MAX: u64 = 1 << 50;

/// Smallest journal: below it not even one segment and its superblocks fit.
pub const JOURNAL_BYTES_MIN: u64 = 1024 * 1024;

/// Smallest history.
pub const HISTORY_BYTES_MIN: u64 = 4 * 1024 * 1024;

/// Journal of a volume or a replica for which none is named.
pub const JOURNAL_SIZE_DEFAULT: &str = "512M";

/// Size of the first volume of `farside up`.
pub const VOLUME_SIZE_DEFAULT: &str = "1G";

/// Link window if none is named.
pub const WINDOW_DEFAULT: &str = "64M";

/// Smallest link window: one chunk has to fit.
pub const WINDOW_BYTES_MIN: u64 = 1024 * 1024;

/// Largest link window; it is memory on both sides.
pub const WINDOW_BYTES_MAX: u64 = 1024 * 1024 * 1024;

/// NBD connections if none are named, and the most that may be.
pub const NBD_CONNECTIONS_DEFAULT: u32 = 1024;
/// The most NBD connections that may be configured.
pub const NBD_CONNECTIONS_MAX: u32 = 65_536;

/// Longest path of a unix socket: `sun_path` without its closing zero (unix(7)).
pub const SOCKET_PATH_BYTES: usize = 107;

/// Smallest rate of a link, in bytes per second.
pub const RATE_BYTES_MIN: u64 = 1 << 10;

/// Shortest time in which a volume is compared with a remote in the background, and longest.
pub const VERIFY_EVERY: RangeInclusive<Duration> =
    Duration::from_secs(10)..=Duration::from_secs(10 * 366 * 86_400);

/// Addresses of one remote besides the first.
pub const OTHER_ADDRESSES_MAX: usize = 7;
