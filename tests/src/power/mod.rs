//! A disk that loses its power: what was written and not flushed is lost, kept or torn, as a seed decides.
//!
//! The disk is served as an NBD export to a virtual machine. It keeps the one promise that disks make: what a flush
//! that was answered covers stays. About everything else it is as hostile as a disk may be.

mod disk;
mod fate;
mod server;
mod switch;

pub use disk::{PowerDisk, Survived};
pub use fate::Fate;
pub use server::DiskServer;
pub use switch::Switch;

/// The smallest unit of a disk, in bytes: whole or not at all on every disk.
pub const SECTOR_BYTES: usize = 512;

#[cfg(test)]
mod tests;
