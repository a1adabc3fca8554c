//! The one interface between a target and what it serves.
//!
//! It is made of batches because a target decodes many requests from one receive, and of positions because
//! durability is a position: a flush is "wait until everything journaled so far is durable".

use bytes::Bytes;
use farside_storage::Stretch;
use std::future::Future;
use tokio_util::sync::CancellationToken;

/// The number of the last record included; 0 is the empty history.
pub type Position = u64;

/// Size and limits that a target announces to its hosts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DiskGeometry {
    /// Size of the disk in bytes.
    pub size_bytes: u64,
    /// The block size that is cheapest to write, in bytes (a power of two).
    pub preferred_block_bytes: u32,
    /// Whether writes are refused.
    pub read_only: bool,
}

/// One change a host asks for. Offsets and lengths are in bytes, need no alignment, and have been checked by
/// the target to lie inside the disk.
#[derive(Debug, Clone)]
pub enum Update {
    /// Store these bytes at `offset`.
    Write {
        /// First byte changed.
        offset: u64,
        /// The new content, shared with the receive buffer it arrived in.
        data: Bytes,
    },
    /// The range reads as zeroes afterwards, and its space may be given back.
    Trim {
        /// First byte changed.
        offset: u64,
        /// Number of bytes changed.
        length: u64,
    },
    /// The range reads as zeroes afterwards; with `allocate` its space stays reserved (NBD `NO_HOLE`).
    Zero {
        /// First byte changed.
        offset: u64,
        /// Number of bytes changed.
        length: u64,
        /// Keep the space reserved.
        allocate: bool,
    },
}

/// Why a request could not be carried out, as far as a host can be told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum DiskError {
    /// The disk failed or is degraded (NBD `EIO`).
    #[error("input/output error")]
    Io,
    /// There is no space to keep the write (NBD `ENOSPC`).
    #[error("no space left")]
    NoSpace,
    /// The disk is being shut down or removed (NBD `ESHUTDOWN`).
    #[error("shutting down")]
    ShuttingDown,
    /// Writes are not allowed (NBD `EPERM`).
    #[error("read-only")]
    ReadOnly,
}

/// What those have in common who find a disk under one name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum InCommon {
    /// The disk: there is one.
    Disk,
    /// What it holds: each has a disk of its own, and all are alike.
    Content,
    /// Nothing: what each finds is of the moment at which it looked.
    Nothing,
}

/// A disk as its targets see it. All methods may be called at the same time from many connections.
pub trait Disk: Send + Sync + 'static {
    /// Size and limits. The size may change while a connection is open; a target reads it for every batch.
    fn geometry(&self) -> DiskGeometry;

    /// Journals `batch` in its order and empties it. When this resolves with a position, every update is
    /// visible to reads and survives the death of the process; it is durable once
    /// [`durable`](Self::durable) resolves for that position. On error none of the batch may be acknowledged.
    fn update(&self, batch: &mut Vec<Update>) -> impl Future<Output = Result<Position, DiskError>> + Send;

    /// Fills `into` from `offset` without waiting for a disk. `Ok(false)`: it would have had to wait, and what
    /// `into` holds is of no use; use [`read`](Self::read).
    ///
    /// # Errors
    /// [`DiskError`] when the data cannot be had.
    fn read_cached(&self, offset: u64, into: &mut [u8]) -> Result<bool, DiskError>;

    /// Appends `length` bytes from `offset` to `into`, waiting for the disk on a thread that may wait.
    fn read(
        self: &std::sync::Arc<Self>,
        offset: u64,
        length: u32,
        into: Vec<u8>,
    ) -> impl Future<Output = Result<Vec<u8>, DiskError>> + Send;

    /// Reads a range, at most a few MiB, and journals what `judge` makes of it at its offset; no change of anybody comes
    /// between. `None`: `judge` made nothing of it, and nothing was changed.
    fn modify(
        self: &std::sync::Arc<Self>,
        offset: u64,
        length: u64,
        judge: impl FnOnce(&[u8]) -> Option<Bytes> + Send,
    ) -> impl Future<Output = Result<Option<Position>, DiskError>> + Send;

    /// What is known of the first parts of a range, which is not empty, without reading it: at least one part, at most `most`,
    /// without gaps; they may end before the range does.
    fn allocation(
        self: &std::sync::Arc<Self>,
        offset: u64,
        length: u64,
        most: usize,
    ) -> impl Future<Output = Result<Vec<Stretch>, DiskError>> + Send;

    /// The last record journaled so far: what a flush that arrives now has to cover.
    fn journaled(&self) -> Position;

    /// Makes everything journaled durable on this thread, if the disk sees fit; for a connection that has nothing to
    /// do but to wait for that. Whether it did, [`durable`](Self::durable) tells.
    fn flush_here(&self) {}

    /// Resolves when every record up to `position` is durable. One journal sync serves all who wait.
    fn durable(&self, position: Position) -> impl Future<Output = Result<(), DiskError>> + Send;

    /// What it shares with what others find under its name.
    fn in_common(&self) -> InCommon {
        InCommon::Disk
    }

    /// Cancelled when the disk goes away: connections to it end, also those without requests.
    fn closing(&self) -> CancellationToken {
        CancellationToken::new()
    }
}
