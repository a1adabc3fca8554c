//! The local unit and the `farside` binary: targets, volumes, link sender, composition, command line.
//!
//! Modules stand in the order in which a write passes them; what is not on its way follows.

pub mod targets;
pub mod volume;
pub mod link;
pub mod pairing;
pub mod past;
pub mod unit;
pub mod tls;
pub mod config;
pub mod inspect;
pub mod cli;
