//! Reading and writing big-endian fields one after another, with every length checked.
//!
//! Reading past the end is an error of the input; writing past the end is a mistake of ours and asserted.

use uuid::Uuid;

/// The input ends before the field does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the data ends too early")]
pub struct Truncated;

/// Takes fields from the front of a slice.
#[derive(Debug, Clone, Copy)]
pub struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    /// Reads from the start of `bytes`.
    #[must_use]
    pub fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    /// The bytes not taken yet.
    #[must_use]
    pub fn rest(&self) -> &'a [u8] {
        self.rest
    }

    /// The next `count` bytes.
    ///
    /// # Errors
    /// [`Truncated`] when fewer are left.
    pub fn bytes(&mut self, count: usize) -> Result<&'a [u8], Truncated> {
        let (head, rest) = self.rest.split_at_checked(count).ok_or(Truncated)?;
        self.rest = rest;
        Ok(head)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Truncated> {
        let (head, rest) = self.rest.split_first_chunk::<N>().ok_or(Truncated)?;
        self.rest = rest;
        Ok(*head)
    }

    /// The next byte.
    ///
    /// # Errors
    /// [`Truncated`] when none is left.
    pub fn u8(&mut self) -> Result<u8, Truncated> {
        Ok(u8::from_be_bytes(self.array()?))
    }

    /// The next two bytes.
    ///
    /// # Errors
    /// [`Truncated`] when fewer are left.
    pub fn u16(&mut self) -> Result<u16, Truncated> {
        Ok(u16::from_be_bytes(self.array()?))
    }

    /// The next four bytes.
    ///
    /// # Errors
    /// [`Truncated`] when fewer are left.
    pub fn u32(&mut self) -> Result<u32, Truncated> {
        Ok(u32::from_be_bytes(self.array()?))
    }

    /// The next eight bytes.
    ///
    /// # Errors
    /// [`Truncated`] when fewer are left.
    pub fn u64(&mut self) -> Result<u64, Truncated> {
        Ok(u64::from_be_bytes(self.array()?))
    }

    /// The next sixteen bytes as an identity.
    ///
    /// # Errors
    /// [`Truncated`] when fewer are left.
    pub fn uuid(&mut self) -> Result<Uuid, Truncated> {
        Ok(Uuid::from_bytes(self.array()?))
    }

    /// A text of at most 255 bytes after its length in one byte. `None` inside means it is not UTF-8.
    ///
    /// # Errors
    /// [`Truncated`] when fewer bytes are left than announced.
    pub fn short_text(&mut self) -> Result<Option<&'a str>, Truncated> {
        let count = usize::from(self.u8()?);
        Ok(std::str::from_utf8(self.bytes(count)?).ok())
    }
}

/// Puts fields into a buffer whose size our own constants decide.
#[derive(Debug)]
pub struct Writer<'a> {
    rest: &'a mut [u8],
}

impl<'a> Writer<'a> {
    /// Writes from the start of `buffer`.
    #[must_use]
    pub fn new(buffer: &'a mut [u8]) -> Self {
        Self { rest: buffer }
    }

    /// Puts `bytes` as they are.
    ///
    /// # Panics
    /// When the buffer is too small, which would be a mistake in this crate.
    pub fn bytes(&mut self, bytes: &[u8]) -> &mut Self {
        let rest = std::mem::take(&mut self.rest);
        let (head, rest) = rest
            .split_at_mut_checked(bytes.len())
            .expect("encode buffers are sized by the format's constants");
        head.copy_from_slice(bytes);
        self.rest = rest;
        self
    }

    /// Puts one byte.
    pub fn u8(&mut self, value: u8) -> &mut Self {
        self.bytes(&value.to_be_bytes())
    }

    /// Puts two bytes.
    pub fn u16(&mut self, value: u16) -> &mut Self {
        self.bytes(&value.to_be_bytes())
    }

    /// Puts four bytes.
    pub fn u32(&mut self, value: u32) -> &mut Self {
        self.bytes(&value.to_be_bytes())
    }

    /// Puts eight bytes.
    pub fn u64(&mut self, value: u64) -> &mut Self {
        self.bytes(&value.to_be_bytes())
    }

    /// Puts an identity.
    pub fn uuid(&mut self, value: Uuid) -> &mut Self {
        self.bytes(value.as_bytes())
    }

    /// Puts `count` zero bytes.
    pub fn zeroes(&mut self, count: usize) -> &mut Self {
        for _ in 0..count {
            self.u8(0);
        }
        self
    }
}
