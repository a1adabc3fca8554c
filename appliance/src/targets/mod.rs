//! What a host attaches to. Each target speaks one block protocol and serves any [`Disk`].

mod disk;
pub mod nbd;

pub use disk::{Disk, DiskError, DiskGeometry, Position, Update};
