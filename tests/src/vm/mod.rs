//! Virtual machines: some run units, on disks that lose their power, and some are hosts with a kernel of their own.
//!
//! An emulated processor is enough: a machine starts in some seconds on any x86-64 host, without privileges. It boots
//! a kernel of its own and a small archive (`tests/vm/`); everything else is commands that
//! the test sends to the agent inside.

mod kit;
mod agent;
mod machine;
mod guest;
mod station;
mod pair;

pub use guest::Guest;
pub use kit::Kit;
pub use machine::{FileSystem, Machine};
pub use pair::{Cut, PowerPair};
pub use station::Station;
