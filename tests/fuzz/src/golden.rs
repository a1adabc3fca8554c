//! The golden bytes of the formats, as the tests of `protocol/` keep them: seeds that cannot go stale.

#[expect(
    clippy::unwrap_used,
    reason = "the file belongs to the tests of the protocol crate"
)]
#[path = "../../../protocol/src/journal/tests/golden.rs"]
mod journal;

pub(crate) fn superblock() -> Vec<u8> {
    journal::bytes(journal::SUPERBLOCK)
}

pub(crate) fn what() -> Vec<u8> {
    journal::bytes(journal::WHAT)
}

/// The same as the last chunk of a merged batch; its checksum is still to be made right.
pub(crate) fn merged() -> Vec<u8> {
    let what = what();
    let (fixed, table) = what.split_at(96);
    let mut merged = [fixed, &journal::bytes(journal::MERGED), table].concat();
    let length = u16::try_from(merged.len()).unwrap_or(0).to_be_bytes();
    merged[8..12].copy_from_slice(&[0, 2, length[0], length[1]]);
    merged
}

pub(crate) fn place() -> Vec<u8> {
    journal::bytes(journal::PLACE)
}

pub(crate) fn block_map() -> Vec<u8> {
    journal::bytes(journal::BLOCK_MAP)
}

/// A frame of every kind, with its body.
pub(crate) fn frames() -> Vec<Vec<u8>> {
    let text = include_str!("../../../protocol/src/link/golden.txt");
    let hex = text.lines().filter_map(|line| line.split_whitespace().nth(1));
    hex.map(bytes).collect()
}

/// A status as JSON.
pub(crate) fn status() -> &'static str {
    include_str!("../../../protocol/tests/golden/status.json")
}

fn bytes(hex: &str) -> Vec<u8> {
    let pairs = (0..hex.len() / 2).filter_map(|at| hex.get(at * 2..at * 2 + 2));
    pairs
        .map(|pair| u8::from_str_radix(pair, 16).expect("golden bytes are hexadecimal"))
        .collect()
}
