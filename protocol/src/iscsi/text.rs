//! Text of logins and text requests: `key=value` pairs, each ended by a zero byte (section 6.1).

use bytes::BufMut;

/// Longest key (section 6.1).
const KEY_BYTES: usize = 63;
/// Longest value (section 6.1), unless a key says otherwise; none does here.
const VALUE_BYTES: usize = 8192;

/// Text that is no list of pairs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct MalformedText(pub &'static str);

/// The pairs of a text in their order.
#[derive(Debug, Clone, Copy)]
pub struct Pairs<'a> {
    rest: &'a [u8],
}

impl<'a> Pairs<'a> {
    /// Reads from the start of `text`.
    #[must_use]
    pub fn new(text: &'a [u8]) -> Self {
        Self { rest: text }
    }

    fn pair(&mut self) -> Result<Option<(&'a str, &'a str)>, MalformedText> {
        // Some initiators fill the text up with zero bytes.
        while let Some((0, rest)) = self.rest.split_first() {
            self.rest = rest;
        }
        if self.rest.is_empty() {
            return Ok(None);
        }
        let end = self.rest.iter().position(|byte| *byte == 0);
        let (pair, rest) = self.rest.split_at(end.unwrap_or(self.rest.len()));
        self.rest = rest;
        let pair = std::str::from_utf8(pair).map_err(|_| MalformedText("the text is not UTF-8"))?;
        let (key, value) = pair
            .split_once('=')
            .ok_or(MalformedText("there is text that is no key=value pair"))?;
        if key.is_empty() || key.len() > KEY_BYTES {
            return Err(MalformedText("a key has no or more than 63 bytes"));
        }
        if value.len() > VALUE_BYTES {
            return Err(MalformedText("a value has more than 8192 bytes"));
        }
        Ok(Some((key, value)))
    }
}

impl<'a> Iterator for Pairs<'a> {
    type Item = Result<(&'a str, &'a str), MalformedText>;

    fn next(&mut self) -> Option<Self::Item> {
        let pair = self.pair();
        if pair.is_err() {
            self.rest = &[];
        }
        pair.transpose()
    }
}

/// Appends a pair.
pub fn put_pair(out: &mut impl BufMut, key: &str, value: &str) {
    out.put_slice(key.as_bytes());
    out.put_u8(b'=');
    out.put_slice(value.as_bytes());
    out.put_u8(0);
}
