//! What a host attaches to. Each target speaks one block protocol and serves any [`Disk`].
//!
//! What all targets need is here: finding disks ([`Exports`]), accepting connections, collecting the changes of one receive
//! into a batch, owing replies until the journal is durable, sending.

mod limits;
mod disk;
mod exports;
mod counters;
mod listener;
mod accept;
mod batch;
mod deferred;
mod lone;
mod output;
mod scsi;
pub mod iscsi;
pub mod nbd;

use counters::AttachGuard;

pub use counters::Counters;
pub use disk::{Disk, DiskError, DiskGeometry, InCommon, Position, Update};
pub use exports::{Export, Exports, ScsiAddress};
pub use limits::Settings;
pub use listener::{Listener, Stream};
