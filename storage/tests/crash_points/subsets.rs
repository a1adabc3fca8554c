//! Which subsets of the units that are not durable are tried: all of them while that is few, else a fixed sample.

use crate::machine::{JOURNAL, Machine};

/// How thorough an enumeration is.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Effort {
    /// Up to so many units every subset is tried.
    pub(crate) exhaustive_units: usize,
    /// Beyond that: whether each single one missing, each single one kept and each prefix are tried.
    pub(crate) structured: bool,
    /// Beyond that: so many random ones.
    pub(crate) random: u64,
    /// One state in so many is checked at all.
    pub(crate) one_in: u64,
    /// One state in so many is followed through its recovery, crash by crash; 0 for none.
    pub(crate) deep_every: u64,
}

/// Small, repeatable random numbers (xorshift).
pub(crate) struct Random(u64);

impl Random {
    /// Begins with a seed.
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    /// A number below `bound`.
    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) % bound
    }
}

impl Effort {
    /// The subsets for a machine; `seed` decides the random ones. May hold the same one twice.
    pub(crate) fn subsets(&self, machine: &Machine, seed: u64) -> Vec<Vec<bool>> {
        let count = machine.pending();
        if count <= self.exhaustive_units {
            return (0..1_u64 << count)
                .map(|bits| (0..count).map(|unit| bits >> unit & 1 == 1).collect())
                .collect();
        }
        let mut subsets = vec![vec![false; count], vec![true; count]];
        // All of the journal and none of the rest, the other way round, and the last call torn both ways.
        let journal: Vec<bool> = machine
            .pending_devices()
            .map(|device| device == JOURNAL)
            .collect();
        subsets.push(journal.iter().map(|kept| !kept).collect());
        subsets.push(journal);
        subsets.push((0..count).map(|unit| unit + 1 < count).collect());
        subsets.push((0..count).map(|unit| unit + 1 == count).collect());
        if self.structured {
            for one in 0..count {
                subsets.push((0..count).map(|unit| unit != one).collect());
                subsets.push((0..count).map(|unit| unit == one).collect());
                subsets.push((0..count).map(|unit| unit < one).collect());
            }
        }
        let mut random = Random::new(seed);
        for _ in 0..self.random {
            let keep: Vec<u64> = (0..machine.disks()).map(|_| 5 + 30 * random.below(4)).collect();
            let devices = machine.pending_devices();
            subsets.push(devices.map(|device| random.below(100) < keep[device]).collect());
        }
        subsets
    }
}

/// A subset as text, four units to a digit.
pub(crate) fn to_text(kept: &[bool]) -> String {
    let digit = |units: &[bool]| {
        let value = units
            .iter()
            .enumerate()
            .map(|(bit, kept)| u32::from(*kept) << bit)
            .sum();
        char::from_digit(value, 16).unwrap_or('?')
    };
    if kept.is_empty() {
        "0".to_owned()
    } else {
        kept.chunks(4).map(digit).collect()
    }
}

/// The subset of `count` units that a text stands for.
pub(crate) fn from_text(text: &str, count: usize) -> Vec<bool> {
    let digits: Vec<u32> = text
        .chars()
        .map(|digit| digit.to_digit(16).unwrap_or(0))
        .collect();
    (0..count)
        .map(|unit| {
            digits
                .get(unit / 4)
                .is_some_and(|digit| digit >> (unit % 4) & 1 == 1)
        })
        .collect()
}
