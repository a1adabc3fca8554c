//! The promises of the journal format: its bytes never change, damage is seen, no input panics.

mod golden;
mod values;
mod identity;
mod damage;
mod random;
mod document;
