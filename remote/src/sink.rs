//! What a receiver needs of a replica, and of the place where replicas are kept.
//!
//! The receiver verifies everything before it calls; a sink may rely on chunks being the next of their
//! chain, inside the volume and intact. The sink's own threads sync and apply; nobody asks it to.

use farside_protocol::journal::{ChainPoint, CopyState};
use farside_protocol::link::limits::SIGNATURE_BYTES;
use farside_protocol::link::{Hello, Refusal};
use farside_storage::ReadBack;
use std::future::Future;
use std::sync::Arc;
use tokio::sync::watch;

/// Where a replica stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SinkState {
    /// Empty, being copied, or complete.
    pub copy: CopyState,
    /// Newest chunk that is durable in the replica's journal, or the base of the copy.
    pub received: ChainPoint,
    /// Last record in the image; never above `received.record`.
    pub applied: u64,
    /// Names the copy that was begun last, as the sender did.
    pub copy_id: u32,
    /// Bytes of the image that are copied durably.
    pub copy_offset: u64,
    /// The replica is consistent once this record is applied.
    pub consistent_from: u64,
    /// What its history can keep of what is overwritten; 0 if it keeps none.
    pub history_bytes: u64,
    /// Largest merged batch that its journal takes, in bytes of its chunks; 0 for none.
    pub batch_bytes: u64,
    /// Newest chunk that is synced in the journal, confirmed or not.
    pub synced: ChainPoint,
    /// How much its journal takes that has yet to be confirmed, in bytes of chunks; 0: nothing can be confirmed.
    pub unconfirmed_bytes: u64,
}

/// Why a sink could not do what it was told. Either is final for the session.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SinkError {
    /// A write or sync failed or the disk is full; the text names the file and the remedy.
    #[error("{0}")]
    Degraded(String),
    /// The unit is shutting down.
    #[error("the receiving unit is shutting down; the link comes back with it")]
    ShuttingDown,
}

/// One replica. At most one session calls it at a time, one call after the other. A future that was
/// started is always awaited to its end.
pub trait Sink: Send + Sync + 'static {
    /// The state now. Never waits for a disk.
    fn state(&self) -> SinkState;

    /// Fires whenever [`state`](Self::state) or [`is_closing`](Self::is_closing) would give something new.
    fn changed(&self) -> watch::Receiver<u64>;

    /// Whether it goes out of service: the session has to end.
    fn is_closing(&self) -> bool {
        false
    }

    /// Gives up what was not confirmed, and resolves when all that was appended is durable, so that `received` is the last thing appended, and
    /// all copied data that is not below `copy_offset` may be copied again. Called once per session, first.
    fn settle(&self) -> impl Future<Output = Result<SinkState, SinkError>> + Send;

    /// Whether what is synced from now on counts as received only when it is confirmed. Called once per session, after
    /// [`settle`](Self::settle).
    fn set_confirms(&self, _confirms: bool) -> impl Future<Output = Result<(), SinkError>> + Send {
        std::future::ready(Ok(()))
    }

    /// Digests of the chunks as they lie in the journal after a point of its own, up to where it is synced or a part of that. `None`: they
    /// cannot be read, or are not what was appended.
    fn read_back(
        &self,
        _after: ChainPoint,
    ) -> impl Future<Output = Result<Option<ReadBack<[u8; SIGNATURE_BYTES]>>, SinkError>> + Send {
        std::future::ready(Ok(None))
    }

    /// The sender has found everything right up to a point that was read back: it counts as received, durably.
    fn confirm(&self, _point: ChainPoint) -> impl Future<Output = Result<(), SinkError>> + Send {
        std::future::ready(Ok(()))
    }

    /// Whether the image may hold something already that a copy need not send.
    fn has_content(&self) -> impl Future<Output = Result<bool, SinkError>> + Send;

    /// Durably begins a copy: state `Copying`, nothing copied, the journal continues `base`
    /// (its address means nothing here), `applied` is the base's record. What was appended before is in the image, so that
    /// ranges can be skipped.
    fn begin_copy(
        &self,
        base: ChainPoint,
        copy_id: u32,
    ) -> impl Future<Output = Result<(), SinkError>> + Send;

    /// Journals the next chunk. It counts as received once the sink's own sync made it durable. Waits while
    /// the journal is full.
    fn append(&self, what: &[u8], data: &[u8]) -> impl Future<Output = Result<(), SinkError>> + Send;

    /// Writes copied bytes straight into the image. Offsets are contiguous from `copy_offset`.
    fn write_copy(&self, offset: u64, data: &[u8]) -> impl Future<Output = Result<(), SinkError>> + Send;

    /// Makes a range of the image read as zeroes. Offsets as for [`write_copy`](Self::write_copy).
    fn zero_copy(&self, offset: u64, length: u64) -> impl Future<Output = Result<(), SinkError>> + Send;

    /// Leaves a range of the image as it is: it counts as copied. Offsets as for [`write_copy`](Self::write_copy).
    fn skip_copy(&self, offset: u64, length: u64) -> impl Future<Output = Result<(), SinkError>> + Send;

    /// The whole image was copied. The sink marks itself `Complete`, durably, once all copied data is durable
    /// and `consistent_from` is applied. Called again, the later record counts.
    ///
    /// A later [`write_copy`](Self::write_copy) or [`zero_copy`](Self::zero_copy) takes the end back: ranges that
    /// are copied again after a cut are newer than what an earlier end vouched for. If the end is kept on disk,
    /// it is taken back there not later than `copy_offset` moves over such a range.
    fn end_copy(&self, consistent_from: u64) -> impl Future<Output = Result<(), SinkError>> + Send;

    /// What a range inside the volume holds after everything that was appended: waits until that is in the image, unless it is to
    /// be read as it lies there now. `None`: it cannot be read, which the log says.
    fn read(
        &self,
        offset: u64,
        length: u32,
        as_it_lies: bool,
    ) -> impl Future<Output = Result<Option<Vec<u8>>, SinkError>> + Send;
}

/// The replicas of a unit.
pub trait Replicas: Send + Sync + 'static {
    /// A replica.
    type Sink: Sink;

    /// The replica named `hello.volume_name`, made if there is none. Checks, before anything is written,
    /// that it belongs to this volume and unit and has this size, that its segments are large enough for
    /// `hello.segment_bytes`, and that the configuration accepts it. The name is safe as a file name.
    fn open_or_create(&self, hello: &Hello) -> impl Future<Output = Result<Arc<Self::Sink>, Refusal>> + Send;
}
