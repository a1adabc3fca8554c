//! `Pair` and `Paired`: two units get to know each other. Only inside TLS, before any link; both are of the handshake, so
//! their layouts never change.
//!
//! | offset | size | field of `Pair` |
//! | --- | --- | --- |
//! | 0 | 16 | the secret of the invitation |
//! | 16 | 16 | UUID of the unit that was invited |
//! | 32 | 33 | its name |
//! | 65 | 7 | zero |
//!
//! `Paired` has the UUID and name of the inviting unit, and seven zeroes.

use super::error::LinkError;
use super::limits::{PAIR_BYTES, PAIR_SECRET_BYTES, PAIRED_BYTES};
use super::shared::{put_name, take_name, take_zeroes};
use crate::fields::{Reader, Writer};
use std::fmt;
use uuid::Uuid;

/// Said by the unit that has an invitation of the other.
#[derive(Clone, PartialEq, Eq)]
pub struct Pair {
    /// What the invitation says, and nobody else knows.
    pub secret: [u8; PAIR_SECRET_BYTES],
    /// Who was invited.
    pub unit: Uuid,
    /// Its name.
    pub unit_name: String,
}

impl fmt::Debug for Pair {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The secret belongs in no log.
        to.debug_struct("Pair")
            .field("unit", &self.unit)
            .field("unit_name", &self.unit_name)
            .finish_non_exhaustive()
    }
}

impl Pair {
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut head = vec![0; PAIR_BYTES];
        let mut to = Writer::new(&mut head);
        to.bytes(&self.secret).uuid(self.unit);
        put_name(&mut to, &self.unit_name);
        head
    }

    pub(super) fn decode(head: &[u8]) -> Result<Self, LinkError> {
        let mut from = Reader::new(head);
        let mut secret = [0; PAIR_SECRET_BYTES];
        secret.copy_from_slice(from.bytes(PAIR_SECRET_BYTES)?);
        let pair = Self {
            secret,
            unit: from.uuid()?,
            unit_name: take_name(&mut from)?,
        };
        take_zeroes(&mut from, 7)?;
        Ok(pair)
    }
}

/// The answer: the two are paired.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Paired {
    /// Who invited.
    pub unit: Uuid,
    /// Its name.
    pub unit_name: String,
}

impl Paired {
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut head = vec![0; PAIRED_BYTES];
        let mut to = Writer::new(&mut head);
        to.uuid(self.unit);
        put_name(&mut to, &self.unit_name);
        head
    }

    pub(super) fn decode(head: &[u8]) -> Result<Self, LinkError> {
        let mut from = Reader::new(head);
        let paired = Self {
            unit: from.uuid()?,
            unit_name: take_name(&mut from)?,
        };
        take_zeroes(&mut from, 7)?;
        Ok(paired)
    }
}
