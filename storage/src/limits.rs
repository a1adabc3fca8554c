//! Limits of the storage layer, each with the reason for its size.

use farside_protocol::journal::limits as journal;
use std::time::Duration;

/// Non-durable bytes of journal at which a sync begins without waiting.
pub const EAGER_SYNC_BYTES: u64 = 16 << 20;
/// How often it is looked whether there are so many while nobody asks for a sync.
pub const SYNC_LOOK_INTERVAL: Duration = Duration::from_millis(5);
/// How long the image consumer waits for more before it writes a small batch.
pub const DRAIN_INTERVAL: Duration = Duration::from_millis(20);
/// Durable bytes of journal at which the image consumer does not wait for more.
pub const EAGER_DRAIN_BYTES: u64 = 4 << 20;
/// How often positions are recorded while something changes.
pub const CHECKPOINT_INTERVAL: Duration = Duration::from_secs(10);
/// The same while a copy is being received, whose progress it makes durable.
pub const COPY_CHECKPOINT_INTERVAL: Duration = Duration::from_millis(500);
/// Copied bytes that are not durable yet at which a checkpoint does not wait: half of a sender's window, so that
/// it always has something to send.
pub const EAGER_COPY_BYTES: u64 = 8 << 20;
/// How long a part of the image may take on its way to the disk while hosts flush: what a flush waits behind it.
pub const PART_TIME: Duration = Duration::from_micros(250);
/// Smallest such part.
pub const PART_MIN_BYTES: u64 = 64 << 10;
/// Largest such part.
pub const PART_MAX_BYTES: u64 = 4 << 20;
/// How long the image goes to the disk in parts at most.
pub const PARTS_TIME: Duration = Duration::from_secs(2);
/// How long after the last flush hosts do not flush any more.
pub const FLUSHES_STOPPED: Duration = Duration::from_millis(50);
/// Bytes of journal that one step of the image consumer reads, merges and writes.
pub const DRAIN_BATCH_BYTES: usize = 8 << 20;
/// Overlay pieces (pending ranges of the image) at which host writes wait for the image: about 40 MB of memory.
pub const MAX_PENDING_PIECES: usize = 1_000_000;
/// Use of the ring, in percent, from which a consumer that holds the tail is cut loose.
pub const HIGH_WATER_PERCENT: u64 = 90;
/// What a checkpoint could free, in percent of the ring, from which it is due.
pub const CHECKPOINT_PERCENT: u64 = 25;
/// Largest non-durable span of a journal in bytes; bounds the scan after a crash.
pub const MAX_WINDOW_BYTES: u64 = 128 << 20;
/// Reads of the image are validated in pieces of this size, so that a long read need not start over.
pub const READ_PIECE_BYTES: usize = 256 << 10;
/// How often an optimistic read is tried before it waits for the image consumer.
pub const READ_ATTEMPTS: usize = 3;
/// Ranges that wait for the image of which one question about the allocation takes notice.
pub const ALLOCATION_PIECES: usize = 4096;
/// Blocks in one dirty-block map: the granularity grows with the volume instead of the memory.
pub const BLOCK_MAP_BITS: u64 = 1 << 24;
/// Bytes of a block device that are zeroed at a time when it gets a larger volume.
pub const ZERO_STEP_BYTES: u64 = 16 << 20;
/// Bytes of journal that a remote has to be behind for its backlog to be looked at for merging; in small rings an eighth of them.
pub const MERGE_LEAST_BYTES: u64 = 1 << 20;
/// Ranges of one merged batch, at most: some 10 MB of memory while it is on its way.
pub const MERGE_PIECES: usize = 1 << 17;
/// Finest granularity of a dirty-block map.
pub const BLOCK_MAP_MIN_BYTES: u64 = 4 << 10;
/// Segments of a new journal are at most this large.
pub const DEFAULT_SEGMENT_BYTES: u32 = 4 << 20;
/// Smallest journal.
pub const MIN_JOURNAL_BYTES: u64 = 1 << 20;
/// Largest journal.
pub const MAX_JOURNAL_BYTES: u64 = journal::MAX_RING_BYTES;
/// A new journal up to this size is filled with zeroes; a larger one would take too long to make.
pub const FILL_JOURNAL_BYTES: u64 = 1 << 30;
/// How often the lock of a file is tried before the file counts as in use.
pub const LOCK_ATTEMPTS: u32 = 10;
/// Pause between two attempts.
pub const LOCK_PAUSE: Duration = Duration::from_millis(50);
/// Bytes of journal read at once when the trail of a consumer is collected.
pub const TRAIL_READ_BYTES: usize = 4 << 20;
/// Before-images are found by the part of the volume they lie in; none with bytes crosses the end of one.
pub const HISTORY_GRANULE_BYTES: u64 = 128 << 10;
/// Bytes of a history's ring for each before-image or moment it may hold: what it costs in memory is bounded by its size.
pub const HISTORY_ITEM_BYTES: u64 = 2048;
/// The same for small rings.
pub const MIN_HISTORY_ITEMS: usize = 16 << 10;
/// Smallest history.
pub const MIN_HISTORY_BYTES: u64 = 4 << 20;
/// Old content is read and compared in pieces of this size.
pub const BEFORE_PIECE_BYTES: usize = 128 << 10;
/// Bytes of journal written once more at a time after an unclean end.
pub const REWRITE_BYTES: usize = 4 << 20;
/// Largest volume.
pub const MAX_VOLUME_BYTES: u64 = journal::MAX_VOLUME_BYTES;
/// Zeroes written at once where a device cannot zero by itself.
pub const ZERO_BUFFER_BYTES: usize = 1 << 20;
/// Largest small file that is read whole.
pub const SMALL_FILE_BYTES: u64 = 1 << 20;
