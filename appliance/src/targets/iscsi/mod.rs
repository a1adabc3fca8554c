//! The iSCSI target (RFC 7143): serves every [`Disk`](super::Disk) that an [`Exports`](super::Exports) names as a logical unit.
//!
//! A login (`login`, `chap`) makes a session of one connection; error recovery level 0. Commands are received (`receiver`,
//! `transfer`), decided by `scsi`, journaled in batches as those of the NBD target, and answered (`sender`). What is not a
//! command is in `manage`.
//!
//! Guarantees: commands are taken in the order of their numbers, inside the window; a status of a flush or of a forced write is
//! sent only after the journal is durable up to it; no input of an initiator panics, reaches another session but as the
//! standards say, or makes a session hold more memory than `limits` says. Never here: what SCSI commands do, what a disk does.

mod limits;
mod fault;
mod chap;
mod parameters;
mod login;
mod sessions;
mod directory;
mod portals;
mod receiver;
mod sender;
mod transfer;
mod task;
mod progress;
mod queue;
mod lane;
mod pace;
mod connection;
mod commands;
mod functions;
mod manage;
mod server;

pub use chap::Account;
pub use login::Policy;
pub use portals::{Portals, Setup};
pub use server::serve;

#[cfg(test)]
mod tests;
