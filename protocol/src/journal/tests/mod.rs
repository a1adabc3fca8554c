//! The promises of the journal format: its bytes never change, damage is seen, no input panics.
#![allow(
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    reason = "a test stops at the first thing that is not as it should be"
)]

mod golden;
mod values;
mod identity;
mod damage;
mod random;
mod document;
