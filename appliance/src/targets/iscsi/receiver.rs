//! The receive buffer of a connection: messages are cut out of it without copying.

use super::fault::Fault;
use super::limits::{LOGIN_SEGMENT_BYTES, SEGMENT_BYTES};
use crate::targets::limits::RECEIVE_BYTES;
use bytes::{Buf, Bytes, BytesMut};
use crc32c::crc32c;
use farside_protocol::iscsi::{DIGEST_BYTES, HEADER_BYTES, Header, Request};
use std::io;
use std::pin::pin;
use std::task::{Context, Poll};
use tokio::io::{AsyncRead, AsyncReadExt};

/// One message.
#[derive(Debug)]
pub(super) struct Pdu {
    /// As it arrived: a rejection repeats it.
    pub(super) header: [u8; HEADER_BYTES],
    /// What it says.
    pub(super) request: Request,
    /// Its data, without what fills the last word.
    pub(super) data: Bytes,
    /// The data has the digest that was sent with it.
    pub(super) intact: bool,
}

/// Received bytes that are not consumed yet.
#[derive(Debug)]
pub(super) struct Receiver {
    buffer: BytesMut,
    header_digest: bool,
    data_digest: bool,
    /// Longest data segment taken.
    segment_bytes: usize,
    /// Bytes the message at the front has, as far as known.
    wanted: usize,
}

impl Receiver {
    /// As every connection begins.
    pub(super) fn new() -> Self {
        Self {
            buffer: BytesMut::with_capacity(RECEIVE_BYTES),
            header_digest: false,
            data_digest: false,
            segment_bytes: LOGIN_SEGMENT_BYTES as usize,
            wanted: 0,
        }
    }

    /// As it was negotiated.
    pub(super) fn agree(&mut self, header_digest: bool, data_digest: bool) {
        (self.header_digest, self.data_digest) = (header_digest, data_digest);
        self.segment_bytes = SEGMENT_BYTES as usize;
    }

    /// The message at the front, when all of it is there.
    ///
    /// # Errors
    /// [`Fault`] when nothing that follows can be understood: section 7.7 has the connection end.
    pub(super) fn take(&mut self) -> Result<Option<Pdu>, Fault> {
        let Some(header) = self.buffer.first_chunk::<HEADER_BYTES>() else {
            self.wanted = HEADER_BYTES;
            return Ok(None);
        };
        let (header, lengths) = (*header, Header::decode(header));
        if lengths.data_bytes > self.segment_bytes {
            return Err(Fault::SegmentTooLong(lengths.data_bytes));
        }
        let digest_bytes = |used: bool| if used { DIGEST_BYTES } else { 0 };
        let headers = HEADER_BYTES + lengths.additional_bytes;
        let data_at = headers + digest_bytes(self.header_digest);
        let padded = lengths.padded_data_bytes();
        let has_digest = self.data_digest && padded > 0;
        let total = data_at + padded + digest_bytes(has_digest);
        // A header that is damaged must not decide how long it is waited for.
        if self.header_digest {
            if self.buffer.len() < data_at {
                self.wanted = data_at;
                return Ok(None);
            }
            if !ends_with_digest(&self.buffer[..data_at]) {
                return Err(Fault::HeaderDigest);
            }
        }
        if self.buffer.len() < total {
            self.wanted = total;
            return Ok(None);
        }
        self.wanted = 0;
        let intact = !has_digest || ends_with_digest(&self.buffer[data_at..total]);
        self.buffer.advance(data_at);
        let mut data = self.buffer.split_to(total - data_at).freeze();
        data.truncate(lengths.data_bytes);
        Ok(Some(Pdu {
            header,
            request: Request::decode(&header),
            data,
            intact,
        }))
    }

    /// Receives once. `Ok(0)` is the end of the stream.
    pub(super) fn poll_receive<S: AsyncRead + Unpin>(
        &mut self,
        stream: &mut S,
        context: &mut Context<'_>,
    ) -> Poll<io::Result<usize>> {
        let missing = self.wanted.saturating_sub(self.buffer.len());
        let room = self.buffer.capacity() - self.buffer.len();
        if room < missing.max(HEADER_BYTES * 8) {
            self.buffer.reserve(missing.max(RECEIVE_BYTES));
        }
        pin!(stream.read_buf(&mut self.buffer)).poll(context)
    }

    /// Waits until a message is there; `None` is the end of the stream.
    pub(super) async fn next<S: AsyncRead + Unpin>(&mut self, stream: &mut S) -> Result<Option<Pdu>, Fault> {
        loop {
            if let Some(pdu) = self.take()? {
                return Ok(Some(pdu));
            }
            if std::future::poll_fn(|context| self.poll_receive(stream, context)).await? == 0 {
                return Ok(None);
            }
        }
    }
}

/// Whether the last four bytes are the digest of the others. Digests go out with the low byte first (RFC 7143, section 13.1).
fn ends_with_digest(bytes: &[u8]) -> bool {
    bytes
        .split_last_chunk::<DIGEST_BYTES>()
        .is_some_and(|(content, digest)| wire_digest(crc32c(content)) == *digest)
}

/// A digest as it goes over the wire.
#[allow(
    clippy::little_endian_bytes,
    reason = "the one place where the protocol has the low byte first"
)]
pub(super) fn wire_digest(digest: u32) -> [u8; DIGEST_BYTES] {
    digest.to_le_bytes()
}
