//! The receiving end of links: listens, admits one sender per replica, verifies what arrives, answers with
//! positions.
//!
//! States of a session: hello awaited, replica settled, welcomed, receiving, ended (by a refusal, silence,
//! a take-over or the peer). One task reads (`reader.rs`), another answers (`replier.rs`), both decide by
//! `core.rs` and `pacing.rs`, which know neither sockets nor clocks.

pub mod agreement;
pub mod refusals;
pub mod core;
pub mod pacing;
mod greeting;
mod life;
mod confirming;
mod copy_log;
mod admission;
mod inflow;
mod stream;
mod reader;
mod replier;
mod session;
mod door;
mod listener;
#[cfg(test)]
mod tests;

pub use door::{Answer, Door, Notice, PairedUnit, PlainDoor, Visitor};
pub use listener::{Receiver, ReceiverConfig, ReplicaLink};
pub use session::SessionError;
