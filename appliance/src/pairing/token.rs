//! What an invitation is carried by: a line of 60 letters and digits, for a terminal or a telephone.
//!
//! | bytes | what |
//! | --- | --- |
//! | 1 | 1, the version |
//! | 16 | the beginning of the fingerprint of the inviting unit's key |
//! | 16 | the secret |
//! | 4 | crc32c of what stands before, against mistyping |
//!
//! In base 32 (RFC 4648) without padding, capital letters or not.

use super::error::PairingError;
use super::fingerprint::Fingerprint;
use data_encoding::{BASE32_NOPAD, BASE32_NOPAD_NOCASE};
use farside_protocol::link::limits::PAIR_SECRET_BYTES;
use std::fmt;
use std::str::FromStr;

const VERSION: u8 = 1;
/// So much of a fingerprint that no other key can be found that begins with it.
const KEY_BYTES: usize = 16;
const CHECKED_BYTES: usize = 1 + KEY_BYTES + PAIR_SECRET_BYTES;
const SUM_BYTES: usize = 4;

/// An invitation as it is handed over. Whoever has it can pair a unit with the one that invites.
#[derive(Clone, PartialEq, Eq)]
pub struct Token {
    key: [u8; KEY_BYTES],
    secret: [u8; PAIR_SECRET_BYTES],
}

impl fmt::Debug for Token {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        // A secret belongs in no log.
        to.write_str("Token")
    }
}

impl Token {
    /// An invitation by the unit with this key.
    #[must_use]
    pub fn new(key: Fingerprint, secret: [u8; PAIR_SECRET_BYTES]) -> Self {
        let mut start = [0; KEY_BYTES];
        start
            .iter_mut()
            .zip(key.bytes())
            .for_each(|(to, from)| *to = *from);
        Self { key: start, secret }
    }

    /// Whether it is an invitation by the unit with this key.
    #[must_use]
    pub fn is_by(&self, key: Fingerprint) -> bool {
        key.bytes().starts_with(&self.key)
    }

    /// What nobody else knows.
    #[must_use]
    pub fn secret(&self) -> [u8; PAIR_SECRET_BYTES] {
        self.secret
    }
}

impl fmt::Display for Token {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut bytes = vec![VERSION];
        bytes.extend_from_slice(&self.key);
        bytes.extend_from_slice(&self.secret);
        let sum = crc32c::crc32c(&bytes);
        bytes.extend_from_slice(&sum.to_be_bytes());
        to.write_str(&BASE32_NOPAD.encode(&bytes).to_ascii_lowercase())
    }
}

impl FromStr for Token {
    type Err = PairingError;

    fn from_str(text: &str) -> Result<Self, PairingError> {
        let wrong = PairingError::Token(
            "this is no invitation: it has 60 letters and digits, as 'farside pair invite' printed them; copy it again",
        );
        let Ok(bytes) = BASE32_NOPAD_NOCASE.decode(text.trim().as_bytes()) else {
            return Err(wrong);
        };
        let Some((checked, sum)) = bytes.split_at_checked(CHECKED_BYTES) else {
            return Err(wrong);
        };
        if sum.len() != SUM_BYTES || sum != crc32c::crc32c(checked).to_be_bytes() {
            return Err(wrong);
        }
        let Some((&VERSION, rest)) = checked.split_first() else {
            return Err(PairingError::Token(
                "this invitation is of a newer version of Farside; update this unit first",
            ));
        };
        let (key, secret) = rest.split_at(KEY_BYTES);
        match (key.try_into(), secret.try_into()) {
            (Ok(key), Ok(secret)) => Ok(Self { key, secret }),
            _ => Err(wrong),
        }
    }
}
