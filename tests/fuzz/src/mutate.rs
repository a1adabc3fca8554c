//! Repeatable mutations of inputs, for the smoke test: what a fuzzer does, without its guidance.

/// Random numbers from a seed (splitmix64).
#[derive(Debug, Clone)]
pub struct Random(u64);

impl Random {
    /// The sequence of this seed.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next number.
    pub fn next_u64(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    /// A number below `limit`, which is not 0.
    pub fn below(&mut self, limit: usize) -> usize {
        usize::try_from(self.next_u64() >> 1).unwrap_or(0) % limit
    }

    /// The low byte of the next number.
    pub fn byte(&mut self) -> u8 {
        self.next_u64().to_be_bytes()[7]
    }
}

/// Longest input a mutation makes.
const MOST_BYTES: usize = 16 << 10;
/// Most changes of one mutation.
const MOST_CHANGES: usize = 6;

/// A changed copy of one of `seeds`, which are not empty.
#[must_use]
pub fn mutation(seeds: &[Vec<u8>], random: &mut Random) -> Vec<u8> {
    let mut input = seeds[random.below(seeds.len())].clone();
    for _ in 0..=random.below(MOST_CHANGES) {
        change(&mut input, seeds, random);
    }
    input.truncate(MOST_BYTES);
    input
}

fn change(input: &mut Vec<u8>, seeds: &[Vec<u8>], random: &mut Random) {
    if input.is_empty() {
        input.push(random.byte());
        return;
    }
    let at = random.below(input.len());
    match random.below(9) {
        0 | 1 => input[at] ^= 1 << random.below(8),
        2 => input[at] = random.byte(),
        3 => input[at] = [0, 1, 0x7f, 0x80, 0xff][random.below(5)],
        4 => input.truncate(at),
        5 => {
            let end = (at + 1 + random.below(16)).min(input.len());
            input.drain(at..end);
        }
        6 => {
            let new = random.next_u64().to_be_bytes();
            let count = 1 + random.below(new.len());
            input.splice(at..at, new[..count].iter().copied());
        }
        7 => {
            let end = (at + 1 + random.below(64)).min(input.len());
            let part = input[at..end].to_vec();
            let to = random.below(input.len());
            input.splice(to..to, part);
        }
        _ => {
            let other = &seeds[random.below(seeds.len())];
            let from = random.below(other.len().max(1)).min(other.len());
            input.truncate(at);
            input.extend_from_slice(&other[from..]);
        }
    }
}
