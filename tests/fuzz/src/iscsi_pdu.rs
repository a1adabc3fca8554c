//! Messages of iSCSI as an initiator writes and reads them, with the digests where they belong: for the fuzz targets' initiators.

use crc32c::crc32c;

pub(crate) const HEADER_BYTES: usize = 48;
/// The tag that means none.
pub(crate) const NO_TAG: u32 = u32::MAX;

pub(crate) type Header = [u8; HEADER_BYTES];

/// Which parts are followed by a digest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Digests {
    pub(crate) header: bool,
    pub(crate) data: bool,
}

pub(crate) fn put_word(header: &mut Header, at: usize, word: u32) {
    header[at..at + 4].copy_from_slice(&word.to_be_bytes());
}

pub(crate) fn word(bytes: &[u8], at: usize) -> u32 {
    u32::from_be_bytes(*bytes[at..].first_chunk().expect("inside the header"))
}

/// The low byte of a digest comes first (RFC 7143, section 13.1).
fn wire_digest(bytes: &[u8]) -> [u8; 4] {
    crc32c(bytes).swap_bytes().to_be_bytes()
}

/// Whether one number is not before the other.
pub(crate) fn is_onward(from: u32, to: u32) -> bool {
    to.wrapping_sub(from) < 1 << 31
}

/// Appends a message; its length is put into the header.
pub(crate) fn put_message(out: &mut Vec<u8>, mut header: Header, data: &[u8], digests: Digests) {
    let length = u32::try_from(data.len()).expect("short").to_be_bytes();
    header[5..8].copy_from_slice(&length[1..]);
    out.extend_from_slice(&header);
    if digests.header {
        out.extend(wire_digest(&header));
    }
    let mut padded = data.to_vec();
    padded.resize(data.len().next_multiple_of(4), 0);
    out.extend_from_slice(&padded);
    if digests.data && !padded.is_empty() {
        out.extend(wire_digest(&padded));
    }
}

/// Takes the first message, once it is whole.
///
/// # Panics
/// When it is not well-formed, or has more than `most` bytes of data.
pub(crate) fn take_message(
    incoming: &mut Vec<u8>,
    digests: Digests,
    most: usize,
) -> Option<(Header, Vec<u8>)> {
    let header: Header = *incoming.first_chunk()?;
    let digest_bytes = |used: bool| if used { 4 } else { 0 };
    assert_eq!(header[4], 0, "additional headers");
    let length = (word(&header, 4) & 0x00ff_ffff) as usize;
    let padded = length.next_multiple_of(4);
    let data_at = HEADER_BYTES + digest_bytes(digests.header);
    let total = data_at + padded + digest_bytes(digests.data && padded > 0);
    assert!(length <= most, "{length} bytes in a segment");
    if incoming.len() < total {
        return None;
    }
    let rest = incoming.split_off(total);
    let message = std::mem::replace(incoming, rest);
    let is_digest = |digest: &[u8], of: &[u8]| digest.is_empty() || wire_digest(of) == digest;
    assert!(
        is_digest(&message[HEADER_BYTES..data_at], &header),
        "header digest"
    );
    let data = &message[data_at..data_at + padded];
    assert!(is_digest(&message[data_at + padded..], data), "data digest");
    assert!(data[length..].iter().all(|byte| *byte == 0), "padding is zeroes");
    Some((header, data[..length].to_vec()))
}

/// The next piece of what is to be sent.
pub(crate) fn take_piece(outgoing: &mut Vec<u8>, most: usize) -> Vec<u8> {
    let rest = outgoing.split_off(most.min(outgoing.len()));
    std::mem::replace(outgoing, rest)
}
