//! Which operation comes next: sizes from 1 byte to 64 KiB, aligned and odd, with a crowded place where they overlap.

use super::history::Kind;
use crate::random::Random;

/// What the writer writes.
#[derive(Debug, Clone)]
pub struct Shape {
    /// First byte of the range in use.
    pub start: u64,
    /// Size of the range in use, in bytes; at least 1 MiB.
    pub span_bytes: u64,
    /// The largest operation in bytes.
    pub largest_bytes: u32,
    /// Percentage of operations that keep no alignment but this.
    pub odd_percent: u64,
    /// See `odd_percent`.
    pub odd_bytes: u64,
    /// Percentage that zero or trim.
    pub zero_percent: u64,
    /// Percentage of writes with FUA.
    pub fua_percent: u64,
    /// One flush after so many operations of a connection, on average; 0 is never.
    pub flush_every: u64,
}

impl Shape {
    /// The usual mix over a whole disk.
    #[must_use]
    pub fn whole(size_bytes: u64) -> Self {
        Self {
            start: 0,
            span_bytes: size_bytes,
            largest_bytes: 64 * 1024,
            odd_percent: 12,
            odd_bytes: 1,
            zero_percent: 6,
            fua_percent: 2,
            flush_every: 64,
        }
    }

    /// The same on whole sectors of 512 bytes.
    #[must_use]
    pub fn sectors(size_bytes: u64) -> Self {
        Self {
            odd_bytes: 512,
            ..Self::whole(size_bytes)
        }
    }

    /// Only whole 4 KiB blocks.
    #[must_use]
    pub fn blocks(size_bytes: u64) -> Self {
        Self {
            odd_percent: 0,
            ..Self::whole(size_bytes)
        }
    }

    /// The next operation: what, where, how long, with FUA.
    pub(crate) fn next(&self, random: &mut Random) -> (Kind, u64, u32, bool) {
        let kind = match random.below(200) {
            low if low < self.zero_percent => Kind::Trim,
            low if low < 2 * self.zero_percent => Kind::Zero,
            _ => Kind::Write,
        };
        let odd = random.chance(self.odd_percent);
        let unit: u64 = match () {
            () if odd => self.odd_bytes,
            () if self.odd_percent > 0 && random.chance(25) => 512,
            () => 4096,
        };
        let length = self.length(random, unit);
        // Half of everything goes to a sixteenth of the range, so that operations overlap all the time.
        let span = if random.chance(50) {
            (self.span_bytes / 16).max(length)
        } else {
            self.span_bytes
        };
        let offset = random.below((span - length) / unit + 1) * unit;
        let fua = random.chance(self.fua_percent);
        (
            kind,
            self.start + offset,
            u32::try_from(length).unwrap_or(self.largest_bytes),
            fua,
        )
    }

    /// Mostly small, now and then large; always a multiple of `unit`.
    fn length(&self, random: &mut Random, unit: u64) -> u64 {
        let largest = if random.chance(75) { 16 * 1024 } else { 64 * 1024 };
        let largest = largest.min(u64::from(self.largest_bytes)).max(unit);
        random.between(1, largest / unit) * unit
    }

    /// Whether a flush is due now.
    pub(crate) fn flush_due(&self, random: &mut Random) -> bool {
        self.flush_every > 0 && random.below(self.flush_every) == 0
    }
}
