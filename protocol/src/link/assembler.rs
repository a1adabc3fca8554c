//! Puts frames together from whatever pieces a socket delivers.
//!
//! Guarantees: never holds more than one frame; a body is made room for only after header and head fitted
//! their checksum, so garbage costs at most one head. Never here: reading.

use super::error::LinkError;
use super::frame::FrameHeader;
use super::limits::HEADER_BYTES;
use super::message::Message;

#[derive(Debug, Clone, Copy)]
enum Stage {
    Header,
    Head(FrameHeader),
    Body(FrameHeader),
    Complete(FrameHeader),
}

/// One frame being received. Fill [`space`](Self::space), report with [`advance`](Self::advance).
#[derive(Debug)]
pub struct Assembler {
    stage: Stage,
    header: [u8; HEADER_BYTES],
    head: Vec<u8>,
    /// Only grows; its first `body_bytes` count.
    body: Vec<u8>,
    filled: usize,
}

impl Default for Assembler {
    fn default() -> Self {
        Self {
            stage: Stage::Header,
            header: [0; HEADER_BYTES],
            head: Vec::new(),
            body: Vec::new(),
            filled: 0,
        }
    }
}

impl Assembler {
    /// Where the next bytes go; empty only when the frame is complete.
    pub fn space(&mut self) -> &mut [u8] {
        let part = match self.stage {
            Stage::Header => self.header.as_mut_slice(),
            Stage::Head(_) => self.head.as_mut_slice(),
            Stage::Body(header) => self.body.get_mut(..body_length(&header)).unwrap_or_default(),
            Stage::Complete(_) => &mut [],
        };
        part.get_mut(self.filled..).unwrap_or_default()
    }

    /// Whether nothing of the next frame has arrived.
    #[must_use]
    pub fn is_between_frames(&self) -> bool {
        matches!(self.stage, Stage::Header) && self.filled == 0
    }

    /// Takes note of `count` bytes put into [`space`](Self::space). True when the frame is complete.
    ///
    /// # Errors
    /// [`LinkError`] when the bytes are no frame; the stream is of no use after that.
    pub fn advance(&mut self, count: usize) -> Result<bool, LinkError> {
        self.filled = self.filled.saturating_add(count);
        while self.space().is_empty() {
            match self.stage {
                Stage::Header => {
                    let header = FrameHeader::decode(&self.header)?;
                    self.head.resize(header.head_bytes, 0);
                    self.enter(Stage::Head(header));
                }
                Stage::Head(header) => {
                    header.verify(&self.head)?;
                    let wanted = body_length(&header);
                    if self.body.len() < wanted {
                        self.body.resize(wanted, 0);
                    }
                    self.enter(Stage::Body(header));
                }
                Stage::Body(header) => self.enter(Stage::Complete(header)),
                Stage::Complete(_) => return Ok(true),
            }
        }
        Ok(false)
    }

    fn enter(&mut self, stage: Stage) {
        self.stage = stage;
        self.filled = 0;
    }

    /// The message of a complete frame, with its body checked.
    ///
    /// # Errors
    /// [`LinkError`] when it is not complete, malformed, or its body is damaged.
    pub fn message(&self) -> Result<(Message<'_>, &[u8]), LinkError> {
        let Stage::Complete(header) = self.stage else {
            return Err(LinkError::Field("incomplete frame"));
        };
        let message = Message::decode(&header, &self.head)?;
        let body = self.body.get(..body_length(&header)).unwrap_or(&[]);
        message.check_body(body)?;
        Ok((message, body))
    }

    /// Forgets the frame, to receive the next.
    pub fn clear(&mut self) {
        self.enter(Stage::Header);
    }
}

fn body_length(header: &FrameHeader) -> usize {
    usize::try_from(header.body_bytes).unwrap_or(usize::MAX)
}
