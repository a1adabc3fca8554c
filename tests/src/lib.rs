//! Helpers for the tests that run the real binary: processes, clients, faults, and the pattern that proves order.
//!
//! A test is a `promise`: it gets a world (directory, seed, processes) that is torn down whatever happens, and a
//! failure prints what an operator would ask for: logs, status, and the command that runs it again.
//! Nothing here knows how Farside works inside; it uses the command line, the sockets and the files.

pub mod limits;
pub mod clock;
pub mod random;
pub mod skip;
pub mod world;
pub mod process;
pub mod tools;
pub mod binary;
pub mod ports;
pub mod status;
pub mod units;
pub mod proxy;
pub mod cable;
pub mod client;
pub mod nbd;
pub mod iscsi;
pub mod pattern;
pub mod images;
pub mod mounts;
pub mod fio;
pub mod power;
pub mod vm;

pub use client::BlockClient;
pub use clock::{soak, wait_until};
pub use random::Random;
pub use skip::Skipped;
pub use world::{World, promise};
