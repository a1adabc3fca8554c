//! What a sending session is told and what it wants done: the vocabulary of `core.rs`.

use super::error::CloseReason;
use super::source::{ChunkSpan, ComparedPiece, Digests, Extent, Located, Points, SourceError, WantedChunks};
use farside_protocol::journal::{ChainPoint, ConsumerState};
use farside_protocol::link::limits::SIGNATURE_BYTES;
use farside_protocol::link::{Ack, Compression, Held, Hello, Message, Refusal, Verified, Verify, Welcome};
use std::ops::Range;

/// What a chunk was when it was sent, for its signature.
pub type ChunkDigest = [u8; SIGNATURE_BYTES];

/// What happened.
#[derive(Debug)]
pub enum Input {
    /// The connection stands.
    Connected(Box<Hello>),
    /// The remote answered the hello.
    Welcome(Box<Welcome>),
    /// The remote tells its positions.
    Ack(Ack),
    /// The remote tells what lies in its journal.
    Held(Held),
    /// The remote refuses.
    Refuse(Refusal),
    /// The volume's points or the consumer's state changed.
    Changed(Points, ConsumerState),
    /// [`Effect::Locate`] is done. The points were read after it.
    Located(Located, Points, (ConsumerState, ChainPoint)),
    /// [`Effect::StartCopy`] is done.
    CopyStarted((ChainPoint, u32), Points),
    /// [`Effect::ReadChunks`] is done; the chunks wait to be sent. With a digest of each, if they are to be confirmed.
    ChunksRead(Vec<ChunkSpan>, Vec<ChunkDigest>),
    /// [`Effect::CompareImage`] is done: the extent and digests of its data. The points were read after it.
    ImageDigested(Extent, Vec<u8>, Points),
    /// [`Effect::ReadImage`] is done; the extent waits to be sent. The points were read after it.
    ExtentRead(Extent, Points),
    /// This range is to be compared; asked for only while none is in hand.
    Verify(ComparedPiece),
    /// [`Effect::Digest`] is done.
    Digested(Option<Digests>),
    /// The remote compared a range.
    Verified(Verified),
    /// One of the six failed.
    Failed(SourceError),
    /// [`Effect::Send`] is done.
    Written,
    /// Time passed.
    Tick,
}

/// What is sent.
#[derive(Debug)]
pub enum Outgoing {
    /// This message, without a body.
    Message(Message<'static>),
    /// The chunks that were read last.
    Chunks,
    /// The extent that was read last.
    Extent(Extent),
    /// A question and the digests it is about.
    Verify(Verify, Vec<u8>),
    /// A heartbeat with these records, and the time of sending.
    Heartbeat {
        /// Last durable record.
        durable: u64,
        /// Last journaled record.
        journaled: u64,
    },
}

/// What has to be done. At most one `Send` and one reading effect are under way at a time.
#[derive(Debug)]
pub enum Effect {
    /// Write this, then say [`Input::Written`].
    Send(Outgoing),
    /// Find the volume's point at this record.
    Locate(u64),
    /// Register the start of a copy, of everything or of what changed.
    StartCopy {
        /// Of everything.
        all: bool,
    },
    /// Read chunks from the journal.
    ReadChunks(WantedChunks),
    /// Read the extent of the image that begins here.
    ReadImage {
        /// First byte.
        offset: u64,
        /// Most bytes of data.
        max_bytes: u32,
    },
    /// Read the extent of the image that begins here, to compare it.
    CompareImage {
        /// First byte.
        offset: u64,
    },
    /// Read a range of the volume.
    Digest(ComparedPiece),
    /// What came of a range to be compared.
    Judged(Verdict),
    /// The remote has everything up to the point.
    SetConsumer(ConsumerState, ChainPoint),
    /// End the session; say the refusal first, if there is one.
    Close(CloseReason, Option<Refusal>),
}

/// What came of a range to be compared.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// It was written while it was read: nothing can be said.
    Changed,
    /// Both sides were compared as they are after a record.
    Compared {
        /// The record.
        record: u64,
        /// Parts that differ, in order.
        differing: Vec<Range<u64>>,
    },
}

/// Where the session is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Stage {
    /// Not connected yet, or the hello was sent.
    Greeting,
    /// The point the remote named is being looked for, or a copy is being registered.
    Preparing,
    /// A copy, with chunks in between.
    Copying,
    /// Chunks only.
    Streaming,
    /// Over.
    Closed,
}

/// Bounds and identity of a session.
#[derive(Debug, Clone, Copy)]
pub struct SessionLimits {
    /// Most bytes sent and not confirmed, give or take one chunk.
    pub window_bytes: u64,
    /// Most bytes sent in a second, in the mean.
    pub bytes_per_second: Option<u64>,
    /// What was offered.
    pub compression: Compression,
    /// Whether backlogs may be merged, if the remote can do that.
    pub merge: bool,
    /// Whether what the remote holds has to be compared with what was sent before it counts.
    pub confirm: bool,
    /// Segment size of the journal: no chunk takes more.
    pub segment_bytes: u32,
    /// Size of the volume.
    pub volume_bytes: u64,
    /// The volume's epoch.
    pub epoch: u64,
}

/// What the status shows of a session.
#[derive(Debug, Clone, Default)]
pub struct Progress {
    /// Last chunk sent.
    pub sent: ChainPoint,
    /// Last chunk the remote holds durably.
    pub received: ChainPoint,
    /// Last record in the remote's image.
    pub applied: u64,
    /// Up to where the image is copied, when a copy is under way.
    pub copied_bytes: Option<u64>,
    /// Bytes of the copy that were done over this connection: sent, or found to be the same.
    pub copied_now: u64,
    /// Bytes of those that the remote was found to hold already.
    pub same_bytes: u64,
    /// Bytes put on the wire.
    pub sent_bytes: u64,
    /// Blocks of 4 KiB sent in chunks.
    pub sent_blocks: u64,
    /// When the remote last said where it stands.
    pub last_ack_ms: Option<u64>,
    /// Why a copy was begun.
    pub copy_reason: Option<&'static str>,
    /// It is one of what changed only.
    pub resync: bool,
    /// Whether the remote confirmed something new over this link connection.
    pub advanced: bool,
    /// Whether the replica is complete.
    pub complete: bool,
}
