//! Target: a stream of frames, as a socket delivers it.
//!
//! Promises: what an assembler makes of a stream does not depend on the pieces in which it arrives; after the first
//! error nothing more is taken; it never holds more than one frame.

use crate::allocation::measured;
use crate::draw::Draw;
use crate::golden;
use crate::link_frame::{SLACK_BYTES, repair};
use farside_protocol::link::Assembler;
use farside_protocol::link::limits::{MAX_BODY_BYTES, MAX_HEAD_BYTES};

/// Longest frame of a stream that is put together here, in bytes.
const MOST_FRAME_BYTES: usize = 2048;

pub(crate) fn run(input: &[u8]) -> bool {
    let (stream, splits) = stream(input);
    let mut whole = Assembler::default();
    let (at_once, held) = measured(|| receive(&mut whole, &stream, std::iter::repeat(usize::MAX)));
    let texts: usize = at_once.iter().map(|text| text.capacity() * 2).sum();
    let most = MAX_HEAD_BYTES + MAX_BODY_BYTES as usize + SLACK_BYTES + texts + at_once.len() * 128;
    assert!(held <= most, "{held} bytes for a stream of {}", stream.len());
    let in_pieces = receive(&mut Assembler::default(), &stream, splits.iter().copied().cycle());
    assert_eq!(at_once, in_pieces);
    let by_byte = receive(&mut Assembler::default(), &stream, std::iter::repeat(1));
    assert_eq!(at_once, by_byte);
    at_once.first().is_some_and(|first| !first.starts_with("error"))
}

/// Frames that the input names, some put right, some as they are; and the sizes of the pieces.
fn stream(input: &[u8]) -> (Vec<u8>, Vec<usize>) {
    let mut draw = Draw::new(input);
    let pieces = 1 + usize::from(draw.u8() % 7);
    let splits = draw.bytes(pieces).iter().map(|size| usize::from(*size).max(1));
    let splits: Vec<usize> = splits.chain([1]).collect();
    let mut stream = Vec::new();
    while !draw.is_empty() {
        let (repairs, length) = (draw.u8(), usize::from(draw.u16()) % MOST_FRAME_BYTES);
        let mut frame = draw.bytes(length).to_vec();
        if repairs & 1 != 0 {
            repair(&mut frame, repairs | 2);
        }
        stream.extend_from_slice(&frame);
    }
    (stream, splits)
}

/// What becomes of a stream that arrives in pieces of these sizes: its messages, and the error that ends it.
fn receive(assembler: &mut Assembler, stream: &[u8], pieces: impl Iterator<Item = usize>) -> Vec<String> {
    let (mut rest, mut seen) = (stream, Vec::new());
    for piece in pieces {
        if rest.is_empty() {
            break;
        }
        let space = assembler.space();
        assert!(!space.is_empty(), "there is space until a frame is complete");
        let count = space.len().min(rest.len()).min(piece);
        space[..count].copy_from_slice(&rest[..count]);
        rest = &rest[count..];
        let complete = match assembler.advance(count) {
            Ok(complete) => complete,
            Err(error) => {
                seen.push(format!("error {error} with {} bytes left", rest.len()));
                return seen;
            }
        };
        if complete {
            let shown = match assembler.message() {
                Ok((message, body)) => format!("{message:?} {:08x}", crc32c::crc32c(body)),
                Err(error) => format!("error {error} in a whole frame"),
            };
            seen.push(shown);
            assembler.clear();
            assert!(assembler.is_between_frames());
        }
    }
    seen
}

pub(crate) fn seeds() -> Vec<Vec<u8>> {
    let framed = |repairs: u8, frame: &[u8]| {
        let length = u16::try_from(frame.len()).unwrap_or(0).to_be_bytes();
        [&[repairs], length.as_slice(), frame].concat()
    };
    let frames = golden::frames();
    let single = frames
        .iter()
        .map(|frame| [&[0, 3], framed(15, frame).as_slice()].concat());
    let all: Vec<u8> = frames.iter().flat_map(|frame| framed(0, frame)).collect();
    single
        .chain([[&[3, 7, 19, 200, 21], all.as_slice()].concat()])
        .collect()
}
