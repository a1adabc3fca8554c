//! The receive buffer of a connection: requests are decoded in it and payloads split from it without copying.
//!
//! A write longer than a receive gets a buffer of exactly its size and is received straight into its place.

use crate::targets::limits::{LARGE_WRITE_BYTES, RECEIVE_BYTES, RECEIVE_MIN_BYTES, RETAINED_BYTES};
use bytes::{Buf, BufMut, Bytes, BytesMut};
use farside_protocol::nbd::{Errno, MessageStyle, ProtocolError, ReplyTo, Request};
use std::io;
use std::pin::pin;
use std::task::{Context, Poll};
use tokio::io::{AsyncRead, AsyncReadExt};

/// Received bytes that are not consumed yet.
#[derive(Debug)]
pub(super) struct Receiver {
    buffer: BytesMut,
    style: MessageStyle,
    /// Bytes of a refused payload still to throw away, and the reply that is due then.
    skipping: Option<Skipping>,
    /// Bytes the request at the front still lacks, as far as known.
    missing_bytes: usize,
    /// The buffer was enlarged for a write and is to be given back.
    enlarged: bool,
}

#[derive(Debug)]
struct Skipping {
    left_bytes: usize,
    to: ReplyTo,
    errno: Errno,
}

impl Receiver {
    pub(super) fn new(received: BytesMut, style: MessageStyle) -> Self {
        Self {
            buffer: received,
            style,
            skipping: None,
            missing_bytes: 0,
            enlarged: false,
        }
    }

    /// The request at the front, if its header is complete.
    pub(super) fn peek(&self) -> Result<Option<Request>, ProtocolError> {
        Request::decode(&self.buffer, self.style)
    }

    /// Consumes the header at the front.
    pub(super) fn consume_header(&mut self) {
        self.buffer.advance(self.style.request_bytes());
    }

    /// Consumes the header at the front and its payload; `None`, and nothing consumed, until all is there.
    pub(super) fn take_payload(&mut self, payload_bytes: usize) -> Option<Bytes> {
        let total_bytes = self.style.request_bytes() + payload_bytes;
        if self.buffer.len() < total_bytes {
            self.missing_bytes = total_bytes - self.buffer.len();
            return None;
        }
        self.missing_bytes = 0;
        self.consume_header();
        Some(self.buffer.split_to(payload_bytes).freeze())
    }

    /// Consumes the header at the front and throws its payload away as it arrives. The reply is due only after
    /// the payload: a client need not expect it while it is still sending.
    pub(super) fn skip_payload(&mut self, payload_bytes: usize, to: ReplyTo, errno: Errno) {
        self.missing_bytes = 0;
        self.consume_header();
        self.skipping = Some(Skipping {
            left_bytes: payload_bytes,
            to,
            errno,
        });
    }

    /// Throws away what may be thrown away. `Some` when a refused payload has been skipped whole.
    pub(super) fn skipped(&mut self) -> Option<(ReplyTo, Errno)> {
        let skipping = self.skipping.as_mut()?;
        let bytes = skipping.left_bytes.min(self.buffer.len());
        self.buffer.advance(bytes);
        skipping.left_bytes -= bytes;
        if skipping.left_bytes > 0 {
            return None;
        }
        self.skipping.take().map(|done| (done.to, done.errno))
    }

    /// Whether a refused payload is still arriving.
    pub(super) fn is_skipping(&self) -> bool {
        self.skipping.is_some()
    }

    /// Receives once. `Ok(0)` is the end of the stream.
    pub(super) fn poll_receive<S: AsyncRead + Unpin>(
        &mut self,
        stream: &mut S,
        context: &mut Context<'_>,
    ) -> Poll<io::Result<usize>> {
        let room_bytes = self.make_room();
        let mut room = (&mut self.buffer).limit(room_bytes);
        pin!(stream.read_buf(&mut room)).poll(context)
    }

    /// Makes room for the next receive and says how much of it to use.
    fn make_room(&mut self) -> usize {
        if self.missing_bytes + self.buffer.len() > LARGE_WRITE_BYTES {
            let wanted = self.missing_bytes + self.style.request_bytes();
            self.enlarged |= wanted + self.buffer.len() > RETAINED_BYTES;
            self.buffer.reserve(wanted);
            return wanted;
        }
        if self.enlarged {
            self.enlarged = false;
            let mut smaller = BytesMut::with_capacity(RECEIVE_BYTES);
            smaller.extend_from_slice(&self.buffer);
            self.buffer = smaller;
        }
        let wanted = RECEIVE_BYTES - self.buffer.len();
        if !self.buffer.try_reclaim(wanted) && self.room() < RECEIVE_MIN_BYTES.max(self.missing_bytes) {
            self.buffer.reserve(wanted);
        }
        self.room()
    }

    fn room(&self) -> usize {
        self.buffer.capacity() - self.buffer.len()
    }
}
