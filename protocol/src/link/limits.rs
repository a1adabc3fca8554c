//! Sizes and version numbers of the link. Both ends and the documentation derive theirs from these.

use crate::journal::limits::{MAX_CHUNK_DATA_BYTES, MAX_WHAT_BYTES, NAME_BYTES, WHAT_HEADER_BYTES};

/// First four bytes of every frame: `FSLK`.
pub const MAGIC: u32 = 0x4653_4C4B;
/// Bytes of a frame before its head. Never changes between versions.
pub const HEADER_BYTES: usize = 20;
/// The frame checksum covers the header up to here, and then the head.
pub const CHECKED_HEADER_BYTES: usize = 16;
/// Longest head of any frame.
pub const MAX_HEAD_BYTES: usize = 8 << 10;
/// Longest body of any frame: the data of the largest chunk.
pub const MAX_BODY_BYTES: u32 = MAX_CHUNK_DATA_BYTES;
/// Version number that handshake frames carry for ever.
pub const HANDSHAKE_VERSION: u8 = 0;
/// Lowest version of the stream this program speaks.
pub const LOWEST_VERSION: u16 = 2;
/// Highest version of the stream this program speaks.
pub const HIGHEST_VERSION: u16 = 2;
/// The stream is compressed with Zstandard.
pub const FEATURE_ZSTD: u64 = 1;
/// The stream is compressed with LZ4.
pub const FEATURE_LZ4: u64 = 2;
/// Ranges of an image are compared before they are copied; answered by a receiver whose image may hold something of use.
pub const FEATURE_COMPARE: u64 = 4;
/// What of the records in a backlog is overwritten by later ones may be left out, in batches that count as a whole.
pub const FEATURE_MERGE: u64 = 8;
/// What the receiver holds is compared with what was sent before it counts: confirmed mode.
pub const FEATURE_CONFIRM: u64 = 16;
/// Largest merged batch, and the most that may wait to be confirmed, in bytes of their chunks, as a power of two.
pub const MAX_BATCH_LOG2: u32 = 30;
/// Largest window of a Zstandard stream, as a power of two: what a receiver has to hold for it.
pub const ZSTD_WINDOW_LOG: u32 = 20;

/// A name: its length in one byte, then the field.
pub const NAME_FIELD_BYTES: usize = 1 + NAME_BYTES;
/// A chain point without its address, which means something in one journal only.
pub const POINT_BYTES: usize = 40;
/// Head of `Hello`.
pub const HELLO_BYTES: usize = 264;
/// Head of `Welcome`.
pub const WELCOME_BYTES: usize = 136;
/// Head of `Refuse` before its text.
pub const REFUSE_FIXED_BYTES: usize = 16;
/// Longest text of `Refuse`.
pub const MAX_REFUSE_TEXT_BYTES: usize = 512;
/// The secret of an invitation.
pub const PAIR_SECRET_BYTES: usize = 16;
/// Head of `Pair`.
pub const PAIR_BYTES: usize = 72;
/// Head of `Paired`.
pub const PAIRED_BYTES: usize = 56;
/// Head of `BeginCopy`.
pub const BEGIN_COPY_BYTES: usize = 56;
/// Head of `CopyData`.
pub const COPY_DATA_BYTES: usize = 16;
/// Head of `CopyHoles`.
pub const COPY_HOLES_BYTES: usize = 16;
/// Head of `CopySkip`.
pub const COPY_SKIP_BYTES: usize = 16;
/// Head of `CopyEnd`.
pub const COPY_END_BYTES: usize = 16;
/// Head of `Verify`.
pub const VERIFY_BYTES: usize = 24;
/// Longest range compared at once.
pub const MAX_VERIFY_BYTES: usize = 1 << 20;
/// What one digest of `Verify` stands for.
pub const VERIFY_BLOCK_BYTES: usize = 4096;
/// One digest in the body of `Verify`.
pub const DIGEST_BYTES: usize = 16;
/// Head of `Verified`.
pub const VERIFIED_BYTES: usize = 24 + MAX_VERIFY_BYTES / VERIFY_BLOCK_BYTES / 8;
/// Head of `Ack`.
pub const ACK_BYTES: usize = 64;
/// What a signature has.
pub const SIGNATURE_BYTES: usize = 32;
/// Head of `Held`.
pub const HELD_BYTES: usize = POINT_BYTES + SIGNATURE_BYTES;
/// Head of `Confirm`.
pub const CONFIRM_BYTES: usize = POINT_BYTES;
/// Head of `Heartbeat`.
pub const HEARTBEAT_BYTES: usize = 24;
/// Shortest head of `Chunk`: a *what* part without records (which is refused later).
pub const MIN_CHUNK_HEAD_BYTES: usize = WHAT_HEADER_BYTES;
/// Longest head of `Chunk`.
pub const MAX_CHUNK_HEAD_BYTES: usize = MAX_WHAT_BYTES;

/// Either end closes a connection on which no byte arrived for so long.
pub const SILENCE_LIMIT_MS: u64 = 8_000;
/// Either end sends something at least so often.
pub const HEARTBEAT_INTERVAL_MS: u64 = 1_000;
/// The handshake has to be finished within this.
pub const HELLO_TIMEOUT_MS: u64 = 10_000;
/// A frame that began has to be complete within this, so that a trickle cannot hold a session.
pub const FRAME_TIMEOUT_MS: u64 = 120_000;

const _: () = assert!(HELLO_BYTES == 80 + 2 * POINT_BYTES + 3 * NAME_FIELD_BYTES + 5);
const _: () = assert!(WELCOME_BYTES == 32 + POINT_BYTES + 24 + NAME_FIELD_BYTES + 7);
const _: () = assert!(ACK_BYTES == POINT_BYTES + 24);
const _: () = assert!(MAX_VERIFY_BYTES / VERIFY_BLOCK_BYTES * DIGEST_BYTES <= MAX_BODY_BYTES as usize);
const _: () = assert!(MAX_CHUNK_HEAD_BYTES <= MAX_HEAD_BYTES);
const _: () = assert!(REFUSE_FIXED_BYTES + MAX_REFUSE_TEXT_BYTES <= MAX_HEAD_BYTES);
const _: () = assert!(HEARTBEAT_INTERVAL_MS * 4 < SILENCE_LIMIT_MS);
