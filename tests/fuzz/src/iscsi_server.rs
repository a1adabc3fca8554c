//! Target: one session with the iSCSI target, over a stream in memory, in arbitrary pieces.
//!
//! Promises: no panic; whatever an initiator sends, what it gets is made of whole, well-formed messages with numbers in order; a
//! command is answered once at most, and exactly once if the initiator keeps to the rules; no data is sent or asked for that
//! does not belong to the command; nothing outside the disk is changed; a session with a small disk holds no more than its
//! limits, and ends.

use crate::draw::Draw;
use crate::iscsi_client::{Client, Stage};
use crate::iscsi_script::Script;
use crate::iscsi_wire::{Terms, converse};
use farside::targets::iscsi::Policy;
use std::path::Path;

/// Receive buffers, commands under way with their data, what waits to be sent, and the runtime.
const MOST_BYTES: usize = 48 << 20;

/// Lets `client` have a session with a target of a small disk; reservations are kept in `directory`.
pub(crate) fn session(client: Client, pace: (usize, usize), directory: &Path) -> Client {
    let terms = Terms {
        pace,
        policy: Policy::default(),
        most_bytes: MOST_BYTES,
    };
    converse(client, terms, directory)
}

pub(crate) fn run(input: &[u8]) -> bool {
    let mut draw = Draw::new(input);
    let pace = (
        usize::from(draw.u8()) * 64 + 256,
        usize::from(draw.u8()) * 64 + 256,
    );
    let client = Client::new(Script::from(&mut draw));
    let directory = tempfile::tempdir().expect("a directory for temporary files");
    let client = session(client, pace, directory.path());
    if client.is_in_order() {
        assert_eq!(
            client.stage,
            Stage::Over,
            "a session in order is served to its end"
        );
        assert!(client.has_all(), "an incomplete message");
    }
    client.is_in_order()
}

pub(crate) fn seeds() -> Vec<Vec<u8>> {
    // Each command: what, place, length, flags, [parameters], manner, fill.
    let commands = [
        [2_u8, 4, 8, 0, 0, 7], // WRITE (10)
        [0, 4, 8, 0, 0, 0],    // READ (10)
        [4, 4, 8, 0, 10, 9],   // WRITE AND VERIFY (10), in pieces
        [8, 0, 0, 0, 0, 0],    // SYNCHRONIZE CACHE (10)
        [10, 4, 8, 0, 0, 0],   // WRITE SAME (10)
        [6, 4, 8, 0, 0, 0],    // VERIFY (10)
        [120, 9, 39, 0, 0, 0], // a command of sixteen bytes
        [122, 9, 39, 0, 11, 3],
        [124, 9, 2, 0, 0x20, 3], // ordered
        [126, 9, 2, 0, 0, 3],
        [128, 9, 2, 0, 0, 3],
        [132, 9, 2, 0, 0, 3],
        [160, 0, 0, 0, 0, 0], // others
        [162, 0, 0, 0, 0, 0],
        [164, 0, 0, 0, 0, 0],
        [166, 0, 0, 0, 0, 0],
        [170, 0, 0, 0, 0, 0],
        [220, 100, 220, 3, 0, 0], // NOP
    ]
    .concat();
    [0_u8, 3, 4, 8, 12, 0x1c, 0x43, 0x88, 0xc4]
        .iter()
        .map(|how| [&[255, 255, *how], commands.as_slice()].concat())
        .chain([[&[3, 1, 8], commands.as_slice()].concat()])
        .chain([[&[255, 200, 0], commands.repeat(12).as_slice()].concat()])
        .collect()
}
