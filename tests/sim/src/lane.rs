//! One direction of a connection: what is on its way, and what is going to happen to it.

use crate::stats::happened;
use farside_protocol::link::limits::HEADER_BYTES;
use farside_protocol::link::{FrameHeader, FrameKind};
use farside_tests::random::Random;
use std::collections::VecDeque;
use std::task::Waker;
use tokio::time::Instant;

/// Chunks that may be repeated: the last ones.
const REPEATED_CHUNKS: usize = 4;

/// One direction.
#[derive(Debug, Default)]
pub(crate) struct Lane {
    pub(crate) pieces: VecDeque<(Instant, Vec<u8>)>,
    pub(crate) bytes: usize,
    /// Everything that is written vanishes.
    pub(crate) swallows: bool,
    /// The writer closed it.
    pub(crate) ended: bool,
    /// It breaks off once what is on its way has arrived.
    pub(crate) breaks_off: bool,
    /// Neither end can use it any more.
    pub(crate) reset: bool,
    /// What is read is not what was written.
    pub(crate) altered: bool,
    pub(crate) corrupt_next: bool,
    pub(crate) double_next: bool,
    pub(crate) drop_next: bool,
    pub(crate) repeat_next: bool,
    pub(crate) miss_next: bool,
    /// Bytes still to come of a chunk that gets lost.
    pub(crate) missing: usize,
    /// A chunk got lost. No real connection loses bytes and lives: in the end it breaks.
    pub(crate) missed: bool,
    /// What is written is not the protocol of the link.
    pub(crate) is_foreign: bool,
    /// The frame of the link that is being written, and the last ones that carried a chunk.
    pub(crate) frame: Vec<u8>,
    pub(crate) chunks: VecDeque<Vec<u8>>,
    pub(crate) reader: Option<Waker>,
    pub(crate) writer: Option<Waker>,
}

/// Bytes of the frame whose header stands here, if it carries a chunk.
fn chunk_bytes(bytes: &[u8]) -> Option<usize> {
    let header = FrameHeader::decode(bytes.first_chunk()?).ok()?;
    let length = HEADER_BYTES + header.head_bytes + header.body_bytes as usize;
    (header.kind == FrameKind::Chunk).then_some(length)
}

impl Lane {
    /// How many of these bytes get lost, because they belong to a chunk that does.
    pub(crate) fn lost_of(&mut self, bytes: &[u8]) -> usize {
        if self.miss_next
            && self.frame.is_empty()
            && let Some(length) = chunk_bytes(bytes)
        {
            happened("chunks missed");
            (self.miss_next, self.missing) = (false, length);
        }
        let lost = self.missing.min(bytes.len());
        self.missing -= lost;
        self.missed |= lost > 0;
        lost
    }

    /// Takes note of bytes written; at the end of a frame, the chunk that is to be repeated.
    pub(crate) fn follow(&mut self, bytes: &[u8], random: &mut Random) -> Option<Vec<u8>> {
        if self.is_foreign {
            return None;
        }
        self.frame.extend_from_slice(bytes);
        while let Some(header) = self.frame.first_chunk().map(FrameHeader::decode) {
            let Ok(header) = header else {
                (self.is_foreign, self.frame) = (true, Vec::new());
                return None;
            };
            let length = HEADER_BYTES + header.head_bytes + header.body_bytes as usize;
            if self.frame.len() < length {
                return None;
            }
            let frame: Vec<u8> = self.frame.drain(..length).collect();
            if header.kind == FrameKind::Chunk {
                self.chunks.truncate(REPEATED_CHUNKS - 1);
                self.chunks.push_front(frame);
            }
        }
        let at = usize::try_from(random.below(REPEATED_CHUNKS as u64)).unwrap_or(0);
        let chunk = self
            .chunks
            .get(at)
            .filter(|_| self.repeat_next && self.frame.is_empty());
        self.repeat_next &= chunk.is_none();
        chunk.cloned()
    }

    pub(crate) fn wake(&mut self) {
        for waker in [self.reader.take(), self.writer.take()].into_iter().flatten() {
            waker.wake();
        }
    }
}
