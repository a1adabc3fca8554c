//! Invitations that were given out: each for one unit, and for ten minutes. They do not survive the process.

use super::fingerprint::Fingerprint;
use farside_protocol::link::limits::PAIR_SECRET_BYTES;
use sha2::{Digest, Sha256};
use std::time::Duration;
use tokio::time::Instant;
use uuid::Uuid;

/// How long an invitation is good for.
pub(super) const LIFETIME: Duration = Duration::from_secs(600);
/// So many at once; one more, and the oldest ends.
const MOST: usize = 16;

#[derive(Debug)]
struct Invitation {
    /// SHA-256 of the secret: the time a comparison takes tells nothing about the secret.
    digest: [u8; 32],
    ends: Instant,
    /// Who accepted it: that unit may come again, because it may not have heard the answer.
    accepted_by: Option<(Uuid, Fingerprint)>,
}

/// All of them, oldest first.
#[derive(Debug, Default)]
pub(super) struct Invitations(Vec<Invitation>);

impl Invitations {
    pub(super) fn add(&mut self, secret: [u8; PAIR_SECRET_BYTES], now: Instant) {
        self.0.retain(|invitation| invitation.ends > now);
        if self.0.len() >= MOST {
            self.0.remove(0);
        }
        self.0.push(Invitation {
            digest: Sha256::digest(secret).into(),
            ends: now + LIFETIME,
            accepted_by: None,
        });
    }

    /// Whether the unit with this key is invited by this secret; nobody else is from then on.
    pub(super) fn accept(
        &mut self,
        secret: [u8; PAIR_SECRET_BYTES],
        by: (Uuid, Fingerprint),
        now: Instant,
    ) -> bool {
        let digest: [u8; 32] = Sha256::digest(secret).into();
        let mut open = self.0.iter_mut().filter(|invitation| invitation.ends > now);
        let Some(invitation) = open.find(|invitation| invitation.digest == digest) else {
            return false;
        };
        *invitation.accepted_by.get_or_insert(by) == by
    }

    /// The unit is not wanted any more: what it accepted is of no use to it either.
    pub(super) fn revoke(&mut self, unit: Uuid) {
        self.0
            .retain(|invitation| invitation.accepted_by.is_none_or(|(by, _)| by != unit));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_invitation_is_for_one_unit_and_for_ten_minutes() {
        let by = |number, key: &[u8]| (Uuid::from_u128(number), Fingerprint::of_key(key));
        let (one, other) = (by(1, b"one"), by(2, b"other"));
        let now = Instant::now();
        let mut all = Invitations::default();
        all.add([1; 16], now);
        assert!(!all.accept([2; 16], one, now));
        assert!(all.accept([1; 16], one, now));
        assert!(all.accept([1; 16], one, now), "the answer may have been lost");
        assert!(!all.accept([1; 16], other, now), "it was used");
        assert!(
            !all.accept([1; 16], by(3, b"one"), now),
            "the same key, as another unit"
        );
        all.add([2; 16], now);
        assert!(all.accept([2; 16], other, now));
        all.revoke(other.0);
        assert!(!all.accept([2; 16], other, now));
        assert!(all.accept([1; 16], one, now));
        let late = now + LIFETIME;
        assert!(!all.accept([1; 16], one, late));
        all.add([3; 16], now);
        for number in 4..4 + u8::try_from(MOST).unwrap() {
            all.add([number; 16], now);
        }
        assert!(!all.accept([3; 16], one, now), "too many were given out since");
        assert!(all.accept([4; 16], one, now));
    }
}
