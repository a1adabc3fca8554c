//! The NBD target: serves every [`Disk`](super::Disk) that an [`Exports`](super::Exports) names, over TCP or unix sockets.
//!
//! One task per connection. A connection negotiates (`negotiation`, decided by `options`) and then repeats:
//! receive once, decode every complete request, answer cached reads in place, journal all changes of the receive as
//! one batch, send all replies at once. Flushes wait in a list of journal positions, reads that need the disk
//! wait in tasks; neither holds up the requests behind them, but for the flush of a host that sends none.
//!
//! Guarantees: a flush or FUA reply is sent only after the journal is durable up to it, whichever connection
//! wrote; no input of a client panics, reaches another client, or makes a connection hold more memory than
//! `limits` says. Never here: what a disk does with its updates, access control.

mod limits;
mod server;
mod options;
mod negotiation;
mod validate;
mod receiver;
mod cold;
mod connection;

pub use server::{Security, Service, serve};

#[cfg(test)]
pub(in crate::targets) mod tests;
