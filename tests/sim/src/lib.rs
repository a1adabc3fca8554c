//! A deterministic world for Farside: one seed decides everything that happens to the real journal, overlay, volume,
//! link and replica.
//!
//! The product's code has no switches for this. The world plugs in where disks ([`farside_storage::Device`]), clocks
//! ([`farside_storage::Clock`]), threads ([`farside_storage::Workers`]) and connections come from, and everything
//! runs on one thread, in simulated time.

pub mod checks;
pub mod faults;
pub mod platter;
pub mod disk;
pub mod history;
pub mod taps;
pub mod host;
pub mod nbd_host;
pub mod site;
pub mod local;
pub mod growth;
mod misfortunes;
mod lane;
pub mod net;
pub mod process;
pub mod home;
pub mod directory;
pub mod remote;
pub mod aside;
pub mod run;
pub mod schedule;
pub mod stats;
pub mod time;
pub mod workers;
pub mod world;
