//! What a link sender needs of a volume.

use farside_protocol::journal::{ChainPoint, ConsumerState};
use std::future::Future;
use std::ops::Range;
use tokio::sync::watch;
use uuid::Uuid;

/// Who and what is sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// This unit.
    pub unit: Uuid,
    /// Its name.
    pub unit_name: String,
    /// The volume.
    pub volume: Uuid,
    /// Its name.
    pub volume_name: String,
    /// Its size.
    pub volume_bytes: u64,
    /// Segment size of its journal.
    pub segment_bytes: u32,
    /// Its present epoch.
    pub epoch: u64,
}

/// Where a volume stands. `tail <= image <= durable <= journaled`, and each only rises.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Points {
    /// Chunks after it are in the journal.
    pub tail: ChainPoint,
    /// Every record up to it is in the image. (Parts of later durable ones may be.)
    pub image: ChainPoint,
    /// Chunks up to it are durable.
    pub durable: ChainPoint,
    /// Chunks up to it are written.
    pub journaled: ChainPoint,
}

/// Which chunks to read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WantedChunks {
    /// The first one follows this point.
    pub from: ChainPoint,
    /// The last one is not after this point.
    pub up_to: ChainPoint,
    /// Stop before more than these, but not before the first, and at [`BATCH_CHUNKS`](super::limits::BATCH_CHUNKS).
    pub max_bytes: u64,
    /// Say of each whether it changes anything in this range.
    pub watched: Option<Range<u64>>,
    /// The size of the volume that the remote was told of.
    pub volume_bytes: u64,
    /// A merged batch that lies in the journal was begun, and goes on; if not, the most that one may take.
    pub batch: Option<u64>,
    /// They may be those of a merged batch. One that was begun is given to its end.
    pub merge: Option<MergeLimits>,
}

/// How long a merged batch may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MergeLimits {
    /// Bytes of its chunks.
    pub bytes: u64,
    /// Chunks of the journal that it stands for.
    pub chunks: u64,
}

/// What a chunk is in a merged batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum InBatch {
    /// It is one of the journal's.
    #[default]
    No,
    /// More of the batch follows.
    More,
    /// The last of it.
    Last,
}

/// One chunk in a buffer filled by [`Source::read_chunks`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChunkSpan {
    /// Where its *what* part lies in the buffer.
    pub what: Range<usize>,
    /// Where its payload lies in the buffer, without padding.
    pub data: Range<usize>,
    /// The point after it.
    pub after: ChainPoint,
    /// Blocks of 4 KiB its records change.
    pub blocks: u64,
    /// Whether one of its records changes the range that was to be watched.
    pub touches: bool,
    /// What it is in a merged batch.
    pub batch: InBatch,
    /// Nothing in it is of a later record.
    pub reaches: u64,
}

/// A range of the volume to be compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ComparedPiece {
    /// First byte.
    pub offset: u64,
    /// Number of bytes, at most [`VERIFY_PIECE_BYTES`](super::limits::VERIFY_PIECE_BYTES).
    pub length: u32,
    /// Nothing may be written while it is read: it was, the last time.
    pub still: bool,
}

impl ComparedPiece {
    /// The bytes it is about.
    #[must_use]
    pub fn range(&self) -> Range<u64> {
        self.offset..self.offset.saturating_add(u64::from(self.length))
    }
}

/// What the volume holds in a range.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Digests {
    /// It was read when this record, and every one before it, was journaled.
    pub after: u64,
    /// Nothing later than this was journaled when it had been read.
    pub until: ChainPoint,
    /// A digest of each block.
    pub digests: Vec<u8>,
}

/// A piece of the image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Extent {
    /// These bytes are in the buffer.
    Data {
        /// First byte.
        offset: u64,
        /// Number of bytes, at most what was asked for.
        length: u32,
    },
    /// This range reads as zeroes; it may be longer than what was asked for.
    Hole {
        /// First byte.
        offset: u64,
        /// Number of bytes, not 0.
        length: u64,
    },
    /// This range is no part of the copy: the remote has it as it is.
    Same {
        /// First byte.
        offset: u64,
        /// Number of bytes, not 0.
        length: u64,
    },
    /// The image ends here.
    End,
}

/// What is known of a point that a remote named.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Located {
    /// Our point at that record, if a chunk ends there, also of the trail kept of a remote that was let go.
    pub point: Option<ChainPoint>,
    /// Our point at that record, if the map of the remote's dirty blocks marks everything that was changed after it.
    pub marked_since: Option<ChainPoint>,
    /// Names the copy under way, through its interruptions; 0 if there is none.
    pub copy_id: u32,
}

/// Why a volume could not give what was asked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SourceError {
    /// The journal no longer holds it: the remote fell too far behind.
    #[error("the journal no longer holds what the remote needs next")]
    Behind,
    /// A merged batch that lies in the journal comes next, takes so much, and may not be begun now.
    #[error("a merged batch of {0} bytes comes next")]
    LongBatch(u64),
    /// Reading failed; the text names file, place and remedy.
    #[error("{0}")]
    Storage(String),
}

/// A volume, as its link senders see it. Futures may be dropped at any time.
pub trait Source: Send + Sync + 'static {
    /// Who and what is sent. The epoch is the present one.
    fn identity(&self) -> Identity;

    /// Where the volume stands.
    fn points(&self) -> Points;

    /// Why nothing may be sent for now: what it holds is no state of the volume.
    fn held(&self) -> Option<String> {
        None
    }

    /// The unit's clock in microseconds since 1970.
    fn now_us(&self) -> u64;

    /// What the remote of this name may expect of the journal, and what it confirmed. A name that was never
    /// heard of is `NeedsCopy`.
    fn consumer(&self, remote: &str) -> (ConsumerState, ChainPoint);

    /// The remote has everything up to `acked`; the tail may follow. `state` is `Copying` or `Attached`. Must
    /// do nothing to a consumer that needs a copy: only [`start_copy`](Self::start_copy) ends that state. The
    /// change becomes durable at the volume's next checkpoint.
    fn set_consumer(&self, remote: &str, state: ConsumerState, acked: ChainPoint);

    /// Registers the remote as `Copying` at a point that `image` has reached, durably, so that the tail is held there,
    /// and resolves to that point and the id of the copy. It must be durable in the journal. With `all`, everything is
    /// copied, else what was changed since the remote was last known to be a state of the volume.
    fn start_copy(
        &self,
        remote: &str,
        all: bool,
    ) -> impl Future<Output = Result<(ChainPoint, u32), SourceError>> + Send;

    /// What is known of the point after the chunk whose last record is `record`, or of the tail itself if that is it.
    fn locate(&self, record: u64) -> impl Future<Output = Result<Located, SourceError>> + Send;

    /// Reads chunks into `buffer`, whose content is of no use before. Their *what* parts were verified.
    fn read_chunks(
        &self,
        wanted: &WantedChunks,
        buffer: &mut Vec<u8>,
    ) -> impl Future<Output = Result<Vec<ChunkSpan>, SourceError>> + Send;

    /// The extent of the copy under way that begins at `offset`; data are put into `buffer` (where nothing of use was before), at most
    /// `max_bytes`.
    fn read_image(
        &self,
        offset: u64,
        max_bytes: u32,
        buffer: &mut Vec<u8>,
    ) -> impl Future<Output = Result<Extent, SourceError>> + Send;

    /// Bytes of the copy under way that lie at `from` or after it.
    fn copy_bytes(&self, from: u64) -> u64;

    /// Digests of what hosts would read in a range of the volume. `None`: writes could not be made to wait just now.
    fn digests(
        &self,
        piece: ComparedPiece,
    ) -> impl Future<Output = Result<Option<Digests>, SourceError>> + Send;

    /// Fires whenever `points` advance or a consumer was cut loose.
    fn changed(&self) -> watch::Receiver<u64>;
}
