//! Both ends of a link against each other: the two cores in a deterministic loop, and the two shells over
//! real sockets, with a volume and a replica that live in memory.
#![allow(
    clippy::unwrap_used,
    clippy::cast_possible_truncation,
    reason = "a test program: volumes are a few KiB, and what fails is meant to panic"
)]

mod random;
mod volume;
mod replica;
mod world;
mod cores;
mod shells;
mod silence;
mod compression;
mod copy_log;
