//! The sending end of a link: one connection per volume and remote, dialled from here.
//!
//! States a user sees: connecting, copying, streaming, waiting (to dial again), refused, needs copy. What a
//! session does is decided in `core.rs`, what to do about the replica found in `decide.rs`; neither knows
//! sockets or clocks. `session.rs` runs one connection, `sender.rs` dials again and again.

pub mod limits;
pub mod source;
pub mod decide;
mod error;
pub mod events;
pub mod core;
mod comparing;
mod copying;
mod pace;
mod windows;
mod verifying;
mod verification;
pub mod backoff;
mod status;
mod outlet;
mod stream;
mod view;
mod session;
mod sender;

pub use error::CloseReason;
pub use sender::{Sender, SenderConfig};
pub use session::{SessionSetup, run_session};
pub use source::{
    ChunkSpan, ComparedPiece, Digests, Extent, Identity, InBatch, Located, MergeLimits, Points, Source,
    SourceError,
};
pub use status::{Compressed, CopyProgress, LinkState, LinkStatus, StatusCell};
pub use verification::{Verification, VerifyProgress, VerifyState};
pub use windows::SendWindows;
