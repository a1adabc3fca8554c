//! Confirmed mode: what lies in the receiver's journal is compared with what was sent before it counts there.
//!
//! Both ends keep a running signature of the chunks of a connection. The receiver tells its own, of what it read back from its
//! journal; the sender, which knows what it should be, confirms or refuses.

use super::error::LinkError;
use super::limits::{CONFIRM_BYTES, HELD_BYTES, SIGNATURE_BYTES};
use super::shared::{put_point, take_point};
use crate::fields::{Reader, Writer};
use crate::journal::ChainPoint;

/// What the receiver holds of this connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Held {
    /// The newest chunk that was read back.
    pub point: ChainPoint,
    /// Of all chunks of the connection up to it.
    pub signature: Signature,
}

/// Up to here the receiver holds what was sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Confirm {
    /// A point that the receiver named.
    pub point: ChainPoint,
}

/// A running digest of chunks in their order; at the beginning of a connection all zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Signature([u8; SIGNATURE_BYTES]);

/// The BLAKE3 of a chunk's *what* part and data.
#[must_use]
pub fn chunk_digest(what: &[u8], data: &[u8]) -> [u8; SIGNATURE_BYTES] {
    *blake3::Hasher::new()
        .update(what)
        .update(data)
        .finalize()
        .as_bytes()
}

impl Signature {
    /// Goes on with the next chunk: the BLAKE3 of the signature before it and its digest.
    pub fn take(&mut self, chunk: &[u8; SIGNATURE_BYTES]) {
        self.0 = *blake3::Hasher::new()
            .update(&self.0)
            .update(chunk)
            .finalize()
            .as_bytes();
    }
}

impl Held {
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut head = vec![0; HELD_BYTES];
        let mut to = Writer::new(&mut head);
        put_point(&mut to, &self.point);
        to.bytes(&self.signature.0);
        head
    }

    pub(super) fn decode(head: &[u8]) -> Result<Self, LinkError> {
        let mut from = Reader::new(head);
        let point = take_point(&mut from)?;
        let mut signature = Signature::default();
        signature.0.copy_from_slice(from.bytes(SIGNATURE_BYTES)?);
        Ok(Self { point, signature })
    }
}

impl Confirm {
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut head = vec![0; CONFIRM_BYTES];
        put_point(&mut Writer::new(&mut head), &self.point);
        head
    }

    pub(super) fn decode(head: &[u8]) -> Result<Self, LinkError> {
        let point = take_point(&mut Reader::new(head))?;
        Ok(Self { point })
    }
}
