//! Metadata contexts: which ones a client asks for, section "Metadata querying". There is one, `base:allocation`.

use super::constants::{MAX_STRING_BYTES, option_code};
use super::negotiation::{MalformedOption, OptionReply, put_reply_header};
use bytes::BufMut;

/// The only context, section "`base:allocation` metadata context".
pub const BASE_ALLOCATION: &str = "base:allocation";
/// All of the namespace; only to list what there is.
const BASE_WILDCARD: &str = "base:";

/// Data of `NBD_OPT_LIST_META_CONTEXT` and `NBD_OPT_SET_META_CONTEXT`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MetaContextRequest<'a> {
    /// Which export; empty for the default one.
    pub name: &'a str,
    /// Whether [`BASE_ALLOCATION`] is asked for. To list, also by a wildcard, or by no query at all.
    pub allocation: bool,
}

impl<'a> MetaContextRequest<'a> {
    /// Reads the data of the option with this `code`.
    ///
    /// # Errors
    /// [`MalformedOption`] when it contradicts itself.
    pub(super) fn decode(code: u32, data: &'a [u8]) -> Result<Self, MalformedOption> {
        let lists = code == option_code::LIST_META_CONTEXT;
        let (name, rest) = string(data)?;
        let (mut queries, mut rest) = number(rest)?;
        let mut allocation = lists && queries == 0;
        while queries > 0 {
            let (query, behind) = string(rest)?;
            if !query.contains(':') {
                return Err(MalformedOption("a query of a metadata context has no namespace"));
            }
            allocation |= query == BASE_ALLOCATION || (lists && query == BASE_WILDCARD);
            (queries, rest) = (queries.saturating_sub(1), behind);
        }
        if !rest.is_empty() {
            return Err(MalformedOption("there is more data than the queries take"));
        }
        Ok(Self { name, allocation })
    }
}

fn number(data: &[u8]) -> Result<(u32, &[u8]), MalformedOption> {
    let (number, rest) = data
        .split_first_chunk::<4>()
        .ok_or(MalformedOption("option data ends too early"))?;
    Ok((u32::from_be_bytes(*number), rest))
}

/// A length, and a string of that length.
pub(super) fn string(data: &[u8]) -> Result<(&str, &[u8]), MalformedOption> {
    const SHORT: MalformedOption = MalformedOption("option data ends too early");
    let (length, rest) = number(data)?;
    let length = usize::try_from(length).map_err(|_| SHORT)?;
    let (text, rest) = rest.split_at_checked(length).ok_or(SHORT)?;
    if text.len() > MAX_STRING_BYTES {
        return Err(MalformedOption("a string is longer than 4096 bytes"));
    }
    let text = std::str::from_utf8(text).map_err(|_| MalformedOption("a string is not UTF-8"))?;
    Ok((text, rest))
}

/// Appends one context of the answer to the option `code`.
pub fn put_meta_context(out: &mut impl BufMut, code: u32, id: u32, name: &str) {
    put_reply_header(out, code, OptionReply::MetaContext, name.len().saturating_add(4));
    out.put_u32(id);
    out.put_slice(name.as_bytes());
}
