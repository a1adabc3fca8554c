//! Replies on their way out, sent in bounded pieces.

use super::limits::{COPIED_REPLY_BYTES, SEND_BYTES};
use bytes::{Buf, BytesMut};
use std::collections::VecDeque;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use tokio::io::AsyncWrite;

/// Bytes to send: long replies in their own buffers first, then the shared one.
#[derive(Debug, Default)]
pub(super) struct Output {
    sealed: VecDeque<BytesMut>,
    sealed_bytes: usize,
    open: BytesMut,
}

impl Output {
    pub(super) fn len(&self) -> usize {
        self.sealed_bytes + self.open.len()
    }

    /// Where small replies are appended.
    pub(super) fn open(&mut self) -> &mut BytesMut {
        &mut self.open
    }

    /// Appends a whole reply that has its own buffer.
    pub(super) fn push(&mut self, reply: BytesMut) {
        if reply.len() <= COPIED_REPLY_BYTES {
            self.open.extend_from_slice(&reply);
            return;
        }
        if !self.open.is_empty() {
            let before = self.open.split();
            self.seal(before);
        }
        self.seal(reply);
    }

    fn seal(&mut self, bytes: BytesMut) {
        self.sealed_bytes += bytes.len();
        self.sealed.push_back(bytes);
    }

    /// Sends until everything is sent (`Ready`) or the stream takes no more.
    pub(super) fn poll_send<S: AsyncWrite + Unpin>(
        &mut self,
        stream: &mut S,
        context: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        while self.len() > 0 {
            let sealed = !self.sealed.is_empty();
            let front = self.sealed.front_mut().unwrap_or(&mut self.open);
            let piece = &front[..front.len().min(SEND_BYTES)];
            let sent = ready!(Pin::new(&mut *stream).poll_write(context, piece))?;
            if sent == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            front.advance(sent);
            if sealed {
                self.sealed_bytes -= sent;
                self.sealed.pop_front_if(|front| front.is_empty());
            }
        }
        Poll::Ready(Ok(()))
    }
}
