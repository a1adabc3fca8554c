//! Target: the login phase of iSCSI, which anybody reaches who reaches the port: stages, keys, CHAP.
//!
//! Promises: no panic; each request is answered by one login response that belongs to it, with text that is a list of pairs, says
//! nothing that was not asked for, and is no longer than an initiator takes; a refusal is the last word; nobody gets into the full
//! feature phase but who named itself and a target and, where an account is configured, answered the challenge of this very login
//! rightly; a right answer to an initiator's challenge goes only to one that proved itself, and never for the target's own
//! challenge; memory is bounded; what was agreed on holds in the message after the login.

use crate::draw::Draw;
use crate::iscsi_guest::{Guest, MOST_REQUESTS, Stage, policy};
use crate::iscsi_wire::{Terms, converse};
use std::collections::VecDeque;

/// Receive buffers, the text of a login, what waits to be sent, and the runtime.
const MOST_BYTES: usize = 4 << 20;

pub(crate) fn run(input: &[u8]) -> bool {
    let mut draw = Draw::new(input);
    let kind = draw.u8();
    let pace = (usize::from(draw.u8()) * 64 + 16, usize::from(draw.u8()) * 64 + 16);
    let mut steps = VecDeque::new();
    while !draw.is_empty() && steps.len() < MOST_REQUESTS {
        let length = draw.u8();
        steps.push_back(draw.bytes(usize::from(length)).to_vec());
    }
    let policy = policy(kind);
    let first = match kind & 16 {
        0 => Stage::Security,
        _ => Stage::Operational,
    };
    let guest = Guest::new(steps, first, policy.clone());
    let terms = Terms {
        pace,
        policy,
        most_bytes: MOST_BYTES,
    };
    let directory = tempfile::tempdir().expect("a directory for temporary files");
    let guest = converse(guest, terms, directory.path());
    assert!(guest.has_all(), "an incomplete message");
    assert!(
        !guest.has_logged_out || guest.stage == Stage::Over,
        "a session is served to its end"
    );
    guest.has_logged_out
}

pub(crate) fn seeds() -> Vec<Vec<u8>> {
    const OPEN: u8 = 0;
    const ACCOUNT: u8 = 1;
    const MUTUAL: u8 = 3;
    const LISTED: u8 = 4;
    const FROM_OPERATIONAL: u8 = 16;
    let steps = |steps: &[&[u8]]| {
        let one = |step: &&[u8]| [&[u8::try_from(step.len()).expect("short")], *step].concat();
        steps.iter().flat_map(one).collect::<Vec<u8>>()
    };
    // how, [what of CHAP], number of keys, key, value.
    let digests = [0x0a_u8, 2, 10, 14, 11, 15];
    let chap = |list: u8, answer: u8| steps(&[&[0x28, 0], &[0x40, list, 0], &[0x62, answer, 0]]);
    [
        (OPEN, steps(&[&digests])),
        (OPEN, steps(&[&[0x09, 1, 4, 5], &[2, 2, 14, 20, 15, 20]])),
        (OPEN, steps(&[&[0x1a, 0]])),
        (OPEN, steps(&[&[0x0c, 2, 23, 19, 3, 1], &[2, 16]])),
        (FROM_OPERATIONAL, steps(&[&digests])),
        (FROM_OPERATIONAL | LISTED, steps(&[&digests])),
        (ACCOUNT, chap(0, 0)),
        (ACCOUNT, chap(1, 0)),
        (MUTUAL, chap(2, 4)),
        (MUTUAL | LISTED, chap(1, 4)),
    ]
    .into_iter()
    .map(|(kind, steps)| [&[kind, 255, 255], steps.as_slice()].concat())
    .collect()
}
