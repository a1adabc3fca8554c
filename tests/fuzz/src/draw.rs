//! Takes decisions from the front of a fuzzer's input; an input that is used up decides 0 for ever.
//!
//! The same input always gives the same decisions, and a change of one byte changes few of them.

/// The rest of an input.
#[derive(Debug, Clone)]
pub struct Draw<'a> {
    rest: &'a [u8],
}

impl<'a> Draw<'a> {
    /// Decisions from `input`.
    #[must_use]
    pub fn new(input: &'a [u8]) -> Self {
        Self { rest: input }
    }

    /// Whether nothing is left to decide with.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    /// The bytes not used yet.
    #[must_use]
    pub fn rest(&self) -> &'a [u8] {
        self.rest
    }

    /// The next `count` bytes, fewer at the end.
    pub fn bytes(&mut self, count: usize) -> &'a [u8] {
        let (head, rest) = self.rest.split_at(count.min(self.rest.len()));
        self.rest = rest;
        head
    }

    fn array<const N: usize>(&mut self) -> [u8; N] {
        let mut array = [0; N];
        let taken = self.bytes(N);
        array[..taken.len()].copy_from_slice(taken);
        array
    }

    /// One byte.
    pub fn u8(&mut self) -> u8 {
        u8::from_be_bytes(self.array())
    }

    /// Two bytes.
    pub fn u16(&mut self) -> u16 {
        u16::from_be_bytes(self.array())
    }

    /// Four bytes.
    pub fn u32(&mut self) -> u32 {
        u32::from_be_bytes(self.array())
    }

    /// Eight bytes.
    pub fn u64(&mut self) -> u64 {
        u64::from_be_bytes(self.array())
    }

    /// A number below `limit`, which is not 0, from one byte.
    pub fn below(&mut self, limit: u64) -> u64 {
        u64::from(self.u8()) % limit
    }

    /// A number that is often small, often near `about`, and sometimes anything.
    pub fn near(&mut self, about: u64) -> u64 {
        let how = self.u8();
        let step = u64::from(how >> 3);
        match how & 7 {
            0..=2 => about.wrapping_add(step),
            3 => about.wrapping_sub(step),
            4 => step,
            5 => u64::MAX - step,
            6 => 1 << (step * 2),
            _ => self.u64(),
        }
    }
}
