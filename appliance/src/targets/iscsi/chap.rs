//! CHAP as iSCSI uses it (RFC 7143, section 12.1.3; RFC 1994; algorithms of the IANA registry "PPP Authentication Algorithms").

use super::limits::{CHALLENGE_BYTES, MOST_CHALLENGE_BYTES};
use md5::Md5;
use sha2::{Digest, Sha256};
use std::fmt;

/// Who may log in, and who this is.
#[derive(Clone, PartialEq, Eq)]
pub struct Account {
    /// What the initiator calls itself.
    pub user: String,
    /// What it knows.
    pub secret: Vec<u8>,
    /// What this target calls itself, and knows, if initiators ask.
    pub own: Option<(String, Vec<u8>)>,
}

impl fmt::Debug for Account {
    /// Without the secrets.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let own = self.own.as_ref().map(|(name, _)| name);
        write!(formatter, "Account {{ user: {:?}, own: {own:?} }}", self.user)
    }
}

/// Algorithms, the better one first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Algorithm {
    Sha256,
    Md5,
}

impl Algorithm {
    /// The first of the initiator's that is known.
    pub(super) fn choose(list: &str) -> Option<Self> {
        list.split(',').find_map(|one| match one {
            "5" => Some(Self::Md5),
            "7" => Some(Self::Sha256),
            _ => None,
        })
    }

    pub(super) fn code(self) -> &'static str {
        match self {
            Self::Md5 => "5",
            Self::Sha256 => "7",
        }
    }

    /// What somebody who knows the secret answers to a challenge.
    pub(super) fn response(self, identifier: u8, secret: &[u8], challenge: &[u8]) -> Vec<u8> {
        fn digest<D: Digest>(parts: [&[u8]; 3]) -> Vec<u8> {
            let mut digest = D::new();
            parts.iter().for_each(|part| digest.update(part));
            digest.finalize().to_vec()
        }
        let parts = [&[identifier], secret, challenge];
        match self {
            Self::Md5 => digest::<Md5>(parts),
            Self::Sha256 => digest::<Sha256>(parts),
        }
    }
}

/// A challenge that was sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Challenge {
    pub(super) algorithm: Algorithm,
    pub(super) identifier: u8,
    pub(super) bytes: Vec<u8>,
}

impl Challenge {
    /// One that nobody ever saw; `None` if the system has no randomness.
    pub(super) fn new(algorithm: Algorithm) -> Option<Self> {
        let mut bytes = vec![0; CHALLENGE_BYTES + 1];
        getrandom::fill(&mut bytes).ok()?;
        let identifier = bytes.pop()?;
        Some(Self {
            algorithm,
            identifier,
            bytes,
        })
    }

    /// Whether this is the answer of somebody who knows the secret. How long it takes does not tell how much is right.
    pub(super) fn is_answered(&self, secret: &[u8], response: &[u8]) -> bool {
        let expected = self.algorithm.response(self.identifier, secret, &self.bytes);
        let differs = expected
            .iter()
            .zip(response)
            .fold(0, |seen, (one, other)| seen | (one ^ other));
        expected.len() == response.len() && differs == 0
    }
}

/// Bytes as text has them.
pub(super) fn to_hex(bytes: &[u8]) -> String {
    let digits = bytes.iter().map(|byte| format!("{byte:02x}"));
    format!("0x{}", digits.collect::<String>())
}

/// Bytes of a value in hexadecimal or base64 (section 6.1); `None` if it is neither, or too long.
pub(super) fn from_text(value: &str) -> Option<Vec<u8>> {
    let (kind, digits) = value.split_at_checked(2)?;
    match kind {
        "0x" | "0X" => from_hex(digits),
        "0b" | "0B" => from_base64(digits),
        _ => None,
    }
    .filter(|bytes| !bytes.is_empty() && bytes.len() <= MOST_CHALLENGE_BYTES)
}

fn from_hex(digits: &str) -> Option<Vec<u8>> {
    let digit = |byte: u8| {
        char::from(byte)
            .to_digit(16)
            .and_then(|value| u8::try_from(value).ok())
    };
    // An odd number of digits begins with half a byte.
    let mut bytes = Vec::new();
    let (first, rest) = digits.as_bytes().split_at(digits.len() % 2);
    if let [half] = first {
        bytes.push(digit(*half)?);
    }
    for pair in rest.as_chunks::<2>().0 {
        let [high, low] = *pair;
        bytes.push((digit(high)? << 4) | digit(low)?);
    }
    Some(bytes)
}

fn from_base64(digits: &str) -> Option<Vec<u8>> {
    let digits = digits.trim_end_matches('=');
    let (mut bytes, mut bits, mut held) = (Vec::new(), 0_u32, 0_u32);
    for byte in digits.bytes() {
        let value = match byte {
            b'A'..=b'Z' => byte - b'A',
            b'a'..=b'z' => byte - b'a' + 26,
            b'0'..=b'9' => byte - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            _ => return None,
        };
        held = (held << 6) | u32::from(value);
        bits += 6;
        if bits >= 8 {
            bits -= 8;
            bytes.push(u8::try_from((held >> bits) & 0xff).ok()?);
            held &= (1 << bits) - 1;
        }
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn responses_are_those_of_the_algorithms() {
        // Computed with Python: hashlib.md5(b"\x07" + b"secretsecret12" + bytes(range(16))).hexdigest(), and sha256.
        let challenge: Vec<u8> = (0..16).collect();
        let response = |algorithm: Algorithm| to_hex(&algorithm.response(7, b"secretsecret12", &challenge));
        assert_eq!(response(Algorithm::Md5), "0xd2ad9b553183668fa064205c85779b04");
        assert_eq!(
            response(Algorithm::Sha256),
            "0xa0a042f9422600a942224f51b622b57b4212324375e7726dcff1d877044e09cd"
        );
    }

    #[test]
    fn only_the_whole_answer_counts() {
        let challenge = Challenge::new(Algorithm::Sha256).unwrap();
        let right = Algorithm::Sha256.response(challenge.identifier, b"twelve bytes", &challenge.bytes);
        assert!(challenge.is_answered(b"twelve bytes", &right));
        assert!(!challenge.is_answered(b"twelve bytez", &right));
        assert!(!challenge.is_answered(b"twelve bytes", &right[..31]));
        assert!(!challenge.is_answered(b"twelve bytes", &[]));
        assert_ne!(challenge, Challenge::new(Algorithm::Sha256).unwrap());
    }

    #[test]
    fn bytes_are_read_in_both_ways_of_writing_them() {
        assert_eq!(from_text("0x00fF10"), Some(vec![0, 255, 16]));
        assert_eq!(from_text("0xfff"), Some(vec![15, 255]));
        assert_eq!(from_text("0bAP8Q"), Some(vec![0, 255, 16]));
        assert_eq!(from_text("0bAP8="), Some(vec![0, 255]));
        for wrong in ["", "0", "0x", "0b", "0xg0", "0b*", "00ff", "öx00"] {
            assert_eq!(from_text(wrong), None, "{wrong}");
        }
        assert_eq!(from_text(&format!("0x{}", "00".repeat(1025))), None);
    }
}
