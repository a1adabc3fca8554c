//! The local unit and the `farside` binary: targets, volumes, link sender, composition, command line.
//!
//! Modules stand in the order in which a write passes them.

pub mod targets;
pub mod unit;
pub mod config;
pub mod inspect;
pub mod cli;
