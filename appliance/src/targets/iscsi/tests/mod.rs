//! The target probed with raw messages over real sockets, in front of disks in memory.

mod harness;
mod login;
mod commands;
mod data;
mod sessions;
mod hardship;
mod aborts;
mod units;
mod silence;
mod pace;
