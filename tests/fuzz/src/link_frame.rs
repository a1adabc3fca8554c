//! Target: one frame of the link, its header, head and body.
//!
//! Promises: no panic; a message that is accepted encodes to the bytes it came from (a refusal, whose text is cleaned,
//! to bytes that mean the same); a frame whose head does not fit its checksum costs no more memory than a head; none
//! costs more than a head and a body.

use crate::allocation::measured;
use crate::draw::Draw;
use crate::{golden, seal};
use farside_protocol::link::limits::{HEADER_BYTES, MAX_BODY_BYTES, MAX_HEAD_BYTES};
use farside_protocol::link::{Assembler, FrameKind, LinkError, Message};

/// Decoded names, texts and points beside the buffers of an assembler, and rounding by the allocator.
pub(crate) const SLACK_BYTES: usize = 8 << 10;

pub(crate) fn run(input: &[u8]) -> bool {
    let mut draw = Draw::new(input);
    let repairs = draw.u8();
    let mut frame = draw.rest().to_vec();
    if repairs & 1 != 0 {
        repair(&mut frame, repairs);
    }
    accept(&frame)
}

/// Puts lengths and checksums of a frame right. `how`: 2 the length of the body, 4 the table of a chunk, 8 the head.
pub(crate) fn repair(frame: &mut [u8], how: u8) {
    let Some(header) = frame.first_chunk::<HEADER_BYTES>() else {
        return;
    };
    let kind = FrameKind::ALL.into_iter().find(|kind| kind.code() == header[4]);
    let named = u32::from_be_bytes([header[8], header[9], header[10], header[11]]) as usize;
    let Some(kind) = kind else { return };
    let room = frame.len() - HEADER_BYTES;
    let most = room.min(*kind.head_bytes().end());
    if most < *kind.head_bytes().start() {
        return;
    }
    let head = if kind == FrameKind::Chunk {
        let records = frame.get(HEADER_BYTES + 12..HEADER_BYTES + 14);
        let records = records.map_or(0, |field| usize::from(u16::from_be_bytes([field[0], field[1]])));
        96 + records.clamp(1, 161) * 24
    } else {
        named
    };
    let head = head.clamp(*kind.head_bytes().start(), most);
    let body = u32::try_from(room - head).unwrap_or(0);
    put(frame, 8, u32::try_from(head).unwrap_or(0));
    if how & 2 != 0 {
        put(frame, 12, body);
    }
    let (head_part, body_part) = frame[HEADER_BYTES..].split_at_mut(head);
    match kind {
        FrameKind::Chunk => {
            if how & 4 != 0 {
                seal::table(head_part, body_part);
            }
            seal::what(head_part);
        }
        FrameKind::CopyData if how & 8 != 0 => {
            put(head_part, 8, body);
            put(head_part, 12, crc32c::crc32c(body_part));
        }
        FrameKind::Refuse if how & 8 != 0 => {
            let text = u16::try_from(head - 16).unwrap_or(0);
            head_part[2..4].copy_from_slice(&text.to_be_bytes());
        }
        _ => {}
    }
    seal::frame(frame, HEADER_BYTES + head);
}

fn put(bytes: &mut [u8], at: usize, value: u32) {
    bytes[at..at + 4].copy_from_slice(&value.to_be_bytes());
}

/// Puts the bytes into an assembler until a frame is complete; how many it took.
fn assemble(assembler: &mut Assembler, mut bytes: &[u8]) -> Result<Option<usize>, LinkError> {
    let before = bytes.len();
    while !bytes.is_empty() {
        let space = assembler.space();
        let count = space.len().min(bytes.len());
        space[..count].copy_from_slice(&bytes[..count]);
        bytes = &bytes[count..];
        if assembler.advance(count)? {
            return Ok(Some(before - bytes.len()));
        }
    }
    Ok(None)
}

fn accept(frame: &[u8]) -> bool {
    let mut assembler = Assembler::default();
    let (complete, held) = measured(|| assemble(&mut assembler, frame));
    let head_only = matches!(complete, Err(LinkError::Checksum)) || frame.len() <= HEADER_BYTES;
    let body = if head_only { 0 } else { MAX_BODY_BYTES as usize };
    assert!(
        held <= MAX_HEAD_BYTES + body + SLACK_BYTES,
        "{held} bytes for {complete:?}"
    );
    let Ok(Some(taken)) = complete else { return false };
    let (message, held) = measured(|| assembler.message());
    assert!(held <= SLACK_BYTES, "{held} bytes for a message");
    let Ok((message, body)) = message else {
        return false;
    };
    check(&message, body, &frame[..taken]);
    true
}

fn check(message: &Message<'_>, body: &[u8], came: &[u8]) {
    let again = [message.to_frame().as_slice(), body].concat();
    if !matches!(message, Message::Refuse(_)) {
        assert_eq!(again, came, "{message:?} encodes to other bytes");
        return;
    }
    let mut assembler = Assembler::default();
    assert_eq!(assemble(&mut assembler, &again), Ok(Some(again.len())));
    let (second, _) = assembler.message().expect("what we encode is accepted");
    assert_eq!(format!("{message:?}"), format!("{second:?}"));
    assert_eq!(
        second.to_frame(),
        again,
        "a refusal that was cleaned once stays as it is"
    );
}

pub(crate) fn seeds() -> Vec<Vec<u8>> {
    let frames = golden::frames();
    let as_they_are = frames.iter().map(|frame| [&[0], frame.as_slice()].concat());
    let repaired = frames.iter().map(|frame| [&[15], frame.as_slice()].concat());
    as_they_are.chain(repaired).collect()
}
