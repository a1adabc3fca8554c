//! The target probed with raw bytes over real sockets, in front of a disk in memory.

use crate::targets;

mod harness;
pub(in crate::targets) mod memory;
mod negotiation;
mod requests;
mod block_status;
mod extended;
mod tls;
mod ordering;
mod hardship;
