//! Golden bytes of every message, and decoders against bytes nobody should send.
#![allow(
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    reason = "tests index what they built"
)]

mod messages;
mod negotiation;
mod random;

/// Joins the commented pieces of a golden message.
fn join(fields: &[&[u8]]) -> Vec<u8> {
    fields.concat()
}

fn encoded(put: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut out = Vec::new();
    put(&mut out);
    out
}
