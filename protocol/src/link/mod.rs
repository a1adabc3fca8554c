//! The byte format of a link between two units: frames and messages.
//!
//! The specification with all tables and rules is `docs/link-protocol.md`; a test keeps its numbers in step
//! with the constants here. All integers are big-endian.

pub mod limits;
mod error;
mod frame;
mod shared;
mod hello;
mod refuse;
mod message;
mod verify;
mod confirm;
mod pair;
mod compression;
mod assembler;
#[cfg(test)]
mod tests;

pub use assembler::Assembler;
pub use compression::Compression;
pub use confirm::{Confirm, Held, Signature, chunk_digest};
pub use error::LinkError;
pub use frame::{FrameHeader, FrameKind, seal};
pub use hello::{Hello, Welcome};
pub use message::{Ack, BeginCopy, CopyData, CopyEnd, CopyHoles, CopySkip, Heartbeat, Message};
pub use pair::{Pair, Paired};
pub use refuse::{Refusal, RefuseCode};
pub use shared::{name_is_valid, same_place};
pub use verify::{Verified, Verify, digest_bytes, digests};
