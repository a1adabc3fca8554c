//! Every byte format Farside reads or writes, and nothing else.
//!
//! Guarantees: decoders are total functions on bytes; they never panic and never allocate more than the
//! input justifies; a decoded value is valid by construction. All integers are big-endian.
//! Never here: I/O, async, clocks, threads.
#![forbid(unsafe_code)]
#![cfg_attr(not(test), deny(clippy::indexing_slicing, clippy::arithmetic_side_effects))]

pub mod fields;
pub mod iscsi;
pub mod nbd;
pub mod scsi;
pub mod journal;
pub mod link;
pub mod control;
