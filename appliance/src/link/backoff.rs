//! How long to wait before dialling again: doubling, with jitter, from 200 ms to 5 s.

use super::limits::{BACKOFF_FIRST_MS, BACKOFF_LAST_MS, BACKOFF_REFUSED_MS};

/// What a session was good for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Gain {
    /// Nothing.
    Nothing,
    /// The journal overflowed: whatever was copied is copied again.
    Lost,
    /// The remote confirmed something new, or the session lasted.
    Something,
    /// A copy became complete, or the remote followed and confirmed something new.
    Followed,
}

/// Counts what failed in a row.
#[derive(Debug, Default)]
pub struct Backoff {
    failures: u32,
    /// The journal overflowed, and the remote has not followed since.
    overflowed: bool,
}

impl Backoff {
    /// Takes note of a session: one that made progress lets the pauses begin anew. Parts of copies that overflows
    /// cut short are no progress; copying them again and again would take the disk from the host for nothing.
    pub fn session(&mut self, gain: Gain) {
        self.overflowed = match gain {
            Gain::Lost => true,
            Gain::Followed => false,
            Gain::Nothing | Gain::Something => self.overflowed,
        };
        let good = matches!(gain, Gain::Something | Gain::Followed);
        if good && !self.overflowed {
            self.failures = 0;
        }
    }

    /// Pause after an attempt that failed; `random` spreads it over the upper half, so that many links do
    /// not dial in step.
    pub fn next_ms(&mut self, random: u32) -> u64 {
        let full = BACKOFF_FIRST_MS
            .checked_shl(self.failures.min(16))
            .map_or(BACKOFF_LAST_MS, |pause| pause.min(BACKOFF_LAST_MS));
        self.failures = self.failures.saturating_add(1);
        jittered(full, random)
    }

    /// Pause after a refusal that somebody has to do something about.
    #[must_use]
    pub fn refused_ms(random: u32) -> u64 {
        jittered(BACKOFF_REFUSED_MS, random)
    }
}

fn jittered(full_ms: u64, random: u32) -> u64 {
    let half = full_ms / 2;
    half + ((half * u64::from(random)) >> 32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_the_limit_and_start_over_after_progress() {
        let mut backoff = Backoff::default();
        let pauses: Vec<u64> = (0..8).map(|_| backoff.next_ms(u32::MAX)).collect();
        let expected = [199, 399, 799, 1599, 3199, 4999, 4999, 4999];
        assert_eq!(pauses, expected);
        backoff.session(Gain::Nothing);
        assert_eq!(backoff.next_ms(u32::MAX), 4999);
        backoff.session(Gain::Something);
        assert_eq!(backoff.next_ms(0), BACKOFF_FIRST_MS / 2);
        assert!((5_000..10_000).contains(&Backoff::refused_ms(1 << 31)));
    }

    #[test]
    fn after_an_overflow_pauses_start_over_only_when_the_remote_followed() {
        let mut backoff = Backoff::default();
        let mut pause_after = |gain| {
            backoff.session(gain);
            backoff.next_ms(u32::MAX)
        };
        assert_eq!([pause_after(Gain::Lost), pause_after(Gain::Lost)], [199, 399]);
        assert_eq!(
            pause_after(Gain::Something),
            799,
            "a part of a copy is no progress"
        );
        assert_eq!(pause_after(Gain::Followed), 199);
        assert_eq!(pause_after(Gain::Something), 199);
    }
}
